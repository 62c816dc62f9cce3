//! `atoll mesh ping`: ICMPv6 echo (RFC 4443 section 4) through the mesh, as every machine answers it.

use std::{
    io::{self, Read as _},
    net::{Ipv6Addr, SocketAddrV6},
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    super::{
        failure::{OrFail as _, fail},
        output,
    },
    Which,
    show::{address_of, milliseconds},
};

const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;
const HEADER_BYTES: usize = 8;
/// Tells our echoes from those of others.
const COOKIE_BYTES: usize = 16;
/// Most echoes of one run.
const COUNT_MAX: u16 = 10_000;

/// `atoll mesh ping`.
#[derive(Debug, clap::Args)]
pub(crate) struct PingArgs {
    /// An address, or the beginning of a node's id
    #[arg(value_name = "NODE")]
    to: String,
    /// How many echoes are asked for
    #[arg(long, short, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=i64::from(COUNT_MAX)))]
    count: u16,
    /// How long each is waited for, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    timeout_ms: u64,
    #[command(flatten)]
    which: Which,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Outcome {
    address: Ipv6Addr,
    sent: u16,
    received: usize,
    /// Each round trip, in microseconds.
    rtt_us: Vec<u64>,
}

pub(super) fn run(args: &PingArgs, state: Option<&Path>) -> Result<ExitCode> {
    let status = args.which.status(state)?;
    let address = address_of(&status, &args.to)?;
    let socket = open().or_fail(
        || "cannot send ICMPv6 echoes",
        || "run this as root, or let your group: sysctl net.ipv4.ping_group_range",
    )?;
    let cookie: [u8; COOKIE_BYTES] = rand::random();
    let mut outcome = Outcome { address, sent: 0, received: 0, rtt_us: Vec::new() };
    for number in 0..args.count {
        let begun = Instant::now();
        let patience = Duration::from_millis(args.timeout_ms);
        let echo = echo(&socket, address, number, &cookie, patience).or_fail(
            || format!("cannot send to {address}"),
            || "`atoll mesh status` says whether the mesh's interface is up",
        )?;
        outcome.sent += 1;
        if !args.json {
            let said = echo.map_or("no answer".to_owned(), milliseconds);
            output::print(&format!("{address}: {said}\n"))?;
        }
        outcome.rtt_us.extend(echo);
        if number + 1 < args.count {
            thread::sleep(patience.min(Duration::from_secs(1)).saturating_sub(begun.elapsed()));
        }
    }
    outcome.received = outcome.rtt_us.len();
    if args.json {
        output::print_json(&outcome)?;
    } else {
        let mut sorted = outcome.rtt_us.clone();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len() / 2).map(|us| format!(", median {}", milliseconds(*us)));
        output::print(&format!("{} of {} answered{}\n", outcome.received, outcome.sent, median.unwrap_or_default()))?;
    }
    if outcome.received == 0 {
        return Err(fail(
            format!("{address} does not answer"),
            format!("`atoll mesh routes --to {address}` says whether there is a way to it"),
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// A socket for echoes: an ordinary user's, else root's.
fn open() -> io::Result<Socket> {
    let kind = |kind| Socket::new(Domain::IPV6, kind, Some(Protocol::ICMPV6));
    kind(Type::DGRAM).or_else(|_| kind(Type::RAW))
}

/// One echo; its round trip in microseconds, or nothing if it did not come in time.
fn echo(socket: &Socket, to: Ipv6Addr, number: u16, cookie: &[u8], patience: Duration) -> io::Result<Option<u64>> {
    let mut request = vec![ECHO_REQUEST, 0, 0, 0, 0, 0];
    request.extend_from_slice(&number.to_be_bytes());
    request.extend_from_slice(cookie);
    let begun = Instant::now();
    socket.send_to(&request, &SocketAddrV6::new(to, 0, 0, 0).into())?;
    loop {
        let left = patience.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        let mut buffer = [0; HEADER_BYTES + COOKIE_BYTES];
        let mut reader = socket;
        let length = match reader.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let elapsed = begun.elapsed();
        if is_reply(&buffer[..length], &request) {
            return Ok(Some(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)));
        }
    }
}

/// Whether a message answers this request: the same number and cookie. (The identifier is the kernel's.)
fn is_reply(message: &[u8], request: &[u8]) -> bool {
    message.first() == Some(&ECHO_REPLY) && message.get(6..).is_some_and(|rest| rest == &request[6..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers_an_echo_and_patience_ends() {
        let socket = open().expect("root, or a group that may");
        let cookie = [7; COOKIE_BYTES];
        let there = echo(&socket, Ipv6Addr::LOCALHOST, 3, &cookie, Duration::from_secs(5)).expect("sent");
        assert!(there.is_some());
        // Documentation addresses have no machine (RFC 3849); without a route the kernel says so itself.
        let nowhere = "2001:db8::1".parse().expect("an address");
        let gone = echo(&socket, nowhere, 4, &cookie, Duration::from_millis(20));
        assert!(matches!(gone, Ok(None) | Err(_)), "{gone:?}");
    }

    #[test]
    fn only_the_answer_to_the_request_counts() {
        let mut request = vec![ECHO_REQUEST, 0, 0, 0, 0, 0, 0, 9];
        request.extend_from_slice(&[5; COOKIE_BYTES]);
        let mut reply = request.clone();
        assert!(!is_reply(&reply, &request), "that is the request itself");
        reply[0] = ECHO_REPLY;
        assert!(is_reply(&reply, &request));
        reply[7] = 10;
        assert!(!is_reply(&reply, &request));
        assert!(!is_reply(&[], &request));
    }
}
