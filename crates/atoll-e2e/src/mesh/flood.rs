//! More traffic than anybody should send: for bounds of memory.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, UdpSocket},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Host, Lab, Node, topology::Random};

/// UDP payload of the flows.
const PAYLOAD_BYTES: usize = 1200;
/// Port of the stranger's neighbour that does not exist.
const TRAP_PORT: u16 = 9999;

/// Sends to `target` over so many flows, as fast as two threads can; answers how many packets left.
pub fn overload(host: &Host, target: Ipv6Addr, flows: usize, duration: Duration) -> Result<u64> {
    let sockets: Vec<UdpSocket> = host.run(|| {
        let socket = |_| Ok(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?);
        (0..flows).map(socket).collect()
    })?;
    let (sent, end) = (AtomicU64::new(0), Instant::now() + duration);
    let target = SocketAddr::from((target, TRAP_PORT));
    let blast = |sockets: &[UdpSocket]| {
        while Instant::now() < end {
            for socket in sockets {
                // A full queue is what we want.
                if socket.send_to(&[0x55; PAYLOAD_BYTES], target).is_ok() {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    };
    thread::scope(|scope| {
        for half in sockets.chunks(flows.div_ceil(2).max(1)) {
            scope.spawn(move || blast(half));
        }
    });
    Ok(sent.into_inner())
}

/// What daemons of the region say first to somebody new: real handshakes of a stranger who knows the region. The
/// stranger runs on `host`, for a moment each time.
pub fn first_words(lab: &Lab, host: usize, strangers: usize) -> Result<Vec<Vec<u8>>> {
    let trap = lab.host(host).run(|| Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, TRAP_PORT))?))?;
    trap.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut words = Vec::new();
    for _ in 0..strangers {
        let stranger = Node::start(lab, host, &[SocketAddr::from((Ipv4Addr::LOCALHOST, TRAP_PORT))])?;
        let mut buffer = [0; 2048];
        let length = trap.recv(&mut buffer).context("the stranger called nobody")?;
        words.push(buffer[..length].to_vec());
        drop(stranger);
        // What it said twice.
        trap.set_nonblocking(true)?;
        while trap.recv(&mut buffer).is_ok() {}
        trap.set_nonblocking(false)?;
    }
    Ok(words)
}

/// Sends `count` datagrams, each from another forged address, at most `per_second`: by turns one of `words`, the same
/// cut short, and noise of the same length.
pub fn forge(host: &Host, target: SocketAddrV4, words: &[Vec<u8>], count: u32, per_second: u32) -> Result<()> {
    const BURST: u32 = 100;
    let raw = Protocol::from(255); // IPPROTO_RAW: we write the IP header, raw(7).
    let socket = host.run(|| Ok(Socket::new(Domain::IPV4, Type::RAW, Some(raw))?))?;
    socket.set_send_buffer_size(4 << 20)?;
    let (mut random, started) = (Random(7), Instant::now());
    for number in 0..count {
        if number % BURST == 0 {
            let due = started + Duration::from_secs_f64(f64::from(number) / f64::from(per_second));
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let Some(word) = words.get(number as usize / 3 % words.len().max(1)) else { return Ok(()) };
        let payload = match number % 3 {
            0 => word.clone(),
            1 => word[..word.len() / 2].to_vec(),
            _ => word.iter().map(|_| random.next_u64() as u8).collect(),
        };
        // 11.0.0.0/8: nobody in a lab has these.
        let source = SocketAddrV4::new(Ipv4Addr::from(0x0b00_0000 + number), 1024 + (number % 60_000) as u16);
        socket.send_to(&datagram(source, target, &payload), &target.into()).context("cannot send a forged datagram")?;
    }
    Ok(())
}

/// IPv4 and UDP header (RFC 791, RFC 768) and payload. The kernel fills in the IP checksum; UDP over IPv4 needs none.
fn datagram(source: SocketAddrV4, target: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let udp_length = 8 + payload.len() as u16;
    let mut packet = vec![0x45, 0];
    packet.extend((20 + udp_length).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(source.ip().octets());
    packet.extend(target.ip().octets());
    for field in [source.port(), target.port(), udp_length, 0] {
        packet.extend(field.to_be_bytes());
    }
    packet.extend(payload);
    packet
}
