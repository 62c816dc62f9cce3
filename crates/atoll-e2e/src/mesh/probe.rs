//! What a user of the network sees: throughput, round trips, outages.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::Value;

use super::{Host, Process, topology::Random};
use crate::{eventually, repository};

/// Time between two packets of a [`Prober`].
pub const PROBE_INTERVAL: Duration = Duration::from_millis(10);
/// An answer that takes longer is as good as none.
const PROBE_PATIENCE: Duration = Duration::from_millis(250);
/// So many answers in a row end an outage.
const PROBES_IN_A_ROW: usize = 50;
/// iperf3's own port.
const IPERF_PORT: u16 = 5201;
const ECHO_PORT: u16 = 7;
const TRANSFER_PORT: u16 = 5002;

/// A program of `scripts/require bench`: from target/tools if it was unpacked there, else the system's.
pub fn tool(name: &str) -> PathBuf {
    let places = ["bin", "usr/bin", "usr/sbin"].map(|place| repository().join("target/tools").join(place).join(name));
    places.into_iter().find(|path| path.is_file()).unwrap_or_else(|| name.into())
}

/// Round trips in milliseconds of so many pings; those without an answer are missing.
pub fn ping(host: &Host, target: IpAddr, count: u32, interval: Duration) -> Result<Vec<f64>> {
    let (count, interval) = (count.to_string(), interval.as_secs_f64().to_string());
    let args = ["-n", "-c", &count, "-i", &interval, "-W", "1", &target.to_string()];
    let output = host.program("ping").args(args).output().context("cannot start ping")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let times = text.lines().filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse().ok());
    let times: Vec<f64> = times.collect();
    ensure!(!times.is_empty(), "no ping to {target} was answered: {text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(times)
}

/// What a node must open for the probes, as its configuration names it.
pub fn open() -> [String; 4] {
    [
        format!("tcp/{IPERF_PORT}"),
        format!("udp/{IPERF_PORT}"),
        format!("tcp/{TRANSFER_PORT}"),
        format!("udp/{ECHO_PORT}"),
    ]
}

/// An iperf3 server on this machine, on all of its addresses.
pub fn iperf_server(host: &Host, log: &Path) -> Result<Process> {
    let server = host.start(tool("iperf3"), ["-s"], log)?;
    eventually("the iperf3 server listens", Duration::from_secs(5), || {
        let attempt = host.run(|| Ok(TcpListener::bind((Ipv6Addr::UNSPECIFIED, IPERF_PORT)).is_err()))?;
        Ok(attempt.then_some(()))
    })?;
    Ok(server)
}

/// What iperf3 measured at the receiver.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Traffic {
    /// Of payload.
    pub gbit_per_second: f64,
    /// Payload that arrived.
    pub bytes: f64,
    /// Datagrams that arrived; 0 for TCP.
    pub packets: f64,
}

/// Runs the iperf3 client on this machine for so many seconds. `options` are further options of iperf3.
pub fn iperf(host: &Host, server: IpAddr, seconds: f64, options: &[&str]) -> Result<Traffic> {
    let (server, seconds) = (server.to_string(), seconds.to_string());
    let args = ["-J", "-t", &seconds, "--connect-timeout", "3000", "-c", &server];
    let output = host.program(tool("iperf3")).args(args).args(options).output().context("cannot start iperf3")?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("iperf3 reports no JSON: {}", String::from_utf8_lossy(&output.stderr)))?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3 to {server}: {error}");
    }
    let end = &report["end"];
    let field = |sum: &str, name: &str| end[sum][name].as_f64();
    if let Some(bytes) = field("sum_received", "bytes").filter(|_| end["sum"].is_null()) {
        let bits = field("sum_received", "bits_per_second").context("iperf3 reports no throughput")?;
        return Ok(Traffic { gbit_per_second: bits / 1e9, bytes, packets: 0.0 });
    }
    let sum = |name| field("sum", name).with_context(|| format!("iperf3 reports no {name} of its datagrams"));
    let (sent, arrived) = (sum("packets")?, sum("packets")? - sum("lost_packets")?);
    let share = if sent > 0.0 { arrived / sent } else { 0.0 };
    Ok(Traffic {
        gbit_per_second: share * sum("bits_per_second")? / 1e9,
        bytes: share * sum("bytes")?,
        packets: arrived,
    })
}

/// Sends so many bytes over TCP and compares each with what comes out; answers how long it took.
pub fn transfer(source: &Host, target: &Host, address: Ipv6Addr, bytes: usize) -> Result<Duration> {
    const CHUNK: usize = 64 * 1024;
    let chunk =
        |random: &mut Random| -> Vec<u8> { (0..CHUNK / 8).flat_map(|_| random.next_u64().to_be_bytes()).collect() };
    let listener = target.run(|| Ok(TcpListener::bind((address, TRANSFER_PORT))?))?;
    let receiver = thread::spawn(move || -> Result<usize> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let (mut random, mut buffer, mut total) = (Random(1), vec![0; CHUNK], 0);
        while total < bytes {
            let wanted = CHUNK.min(bytes - total);
            stream.read_exact(&mut buffer[..wanted]).with_context(|| format!("after {total} bytes"))?;
            ensure!(chunk(&mut random)[..wanted] == buffer[..wanted], "wrong bytes after {total}");
            total += wanted;
        }
        stream.write_all(&[1])?;
        Ok(total)
    });
    let started = Instant::now();
    let mut stream = source.run(|| Ok(TcpStream::connect((address, TRANSFER_PORT))?))?;
    let (mut random, mut left) = (Random(1), bytes);
    while left > 0 {
        let length = CHUNK.min(left);
        stream.write_all(&chunk(&mut random)[..length])?;
        left -= length;
    }
    stream.read_exact(&mut [0]).context("the receiver gave up")?;
    let arrived = receiver.join().map_err(|_| anyhow!("the receiver panicked"))??;
    ensure!(arrived == bytes, "{arrived} of {bytes} bytes arrived");
    Ok(started.elapsed())
}

/// Answers every datagram on one machine until dropped.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
}

impl Echo {
    /// On all addresses of this machine.
    pub fn start(host: &Host) -> Result<Self> {
        let socket = host.run(|| Ok(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, ECHO_PORT))?))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    // Without a route back the answer is lost, as it would be further on.
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Ok(Self { stop })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Sends a numbered packet to an [`Echo`] each [`PROBE_INTERVAL`], and notes which are answered.
#[derive(Debug)]
pub struct Prober {
    stop: Arc<AtomicBool>,
    probes: Arc<Mutex<Vec<Probe>>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Clone, Copy)]
struct Probe {
    sent: Instant,
    answered: Option<Instant>,
}

impl Probe {
    /// Whether its answer came in time; nothing while it may still come.
    fn verdict(&self) -> Option<bool> {
        match self.answered {
            Some(at) => Some(at - self.sent <= PROBE_PATIENCE),
            None => (self.sent.elapsed() > PROBE_PATIENCE).then_some(false),
        }
    }
}

impl Prober {
    /// From an address of this machine to a machine that echoes.
    pub fn start(host: &Host, source: Ipv6Addr, target: Ipv6Addr) -> Result<Self> {
        let socket = host.run(|| {
            let socket = UdpSocket::bind((source, 0))?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            Ok(socket)
        })?;
        let (stop, probes) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let receiver = {
            let (socket, stop, probes) = (socket.try_clone()?, Arc::clone(&stop), Arc::clone(&probes));
            thread::spawn(move || receive(&socket, &stop, &probes))
        };
        let sender = {
            let (stop, probes) = (Arc::clone(&stop), Arc::clone(&probes));
            let target = SocketAddr::from((target, ECHO_PORT));
            thread::spawn(move || send(&socket, target, &stop, &probes))
        };
        Ok(Self { stop, probes, threads: vec![receiver, sender] })
    }

    /// Waits until packets pass without loss.
    pub fn wait_until_clear(&self, patience: Duration) -> Result<()> {
        let asked = Instant::now();
        eventually("half a second without loss", patience, || Ok(self.outage_so_far(asked).0.then_some(())))
    }

    /// How long the cut at `cut` is felt: from the first to the last packet that is lost, until so many in a row are
    /// answered. Nothing if that does not happen within `window`.
    pub fn outage(&self, cut: Instant, window: Duration) -> Option<Duration> {
        while cut.elapsed() < window + PROBE_PATIENCE {
            let (is_over, length) = self.outage_so_far(cut);
            if is_over {
                return Some(length);
            }
            thread::sleep(Duration::from_millis(20));
        }
        None
    }

    fn outage_so_far(&self, cut: Instant) -> (bool, Duration) {
        let probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        let start = probes.partition_point(|probe| probe.sent + PROBE_INTERVAL < cut);
        let settled: Vec<_> = probes[start..].iter().map_while(|probe| Some((probe.sent, probe.verdict()?))).collect();
        let lost: Vec<Instant> =
            settled.iter().filter(|(_, is_answered)| !is_answered).map(|(sent, _)| *sent).collect();
        let in_a_row = settled.iter().rev().take_while(|(_, is_answered)| *is_answered).count();
        let length = match (lost.first(), lost.last()) {
            (Some(first), Some(last)) => *last - *first + PROBE_INTERVAL,
            _ => Duration::ZERO,
        };
        (in_a_row >= PROBES_IN_A_ROW, length)
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

fn send(socket: &UdpSocket, target: SocketAddr, stop: &AtomicBool, probes: &Mutex<Vec<Probe>>) {
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let number = {
            let mut probes = probes.lock().unwrap_or_else(PoisonError::into_inner);
            probes.push(Probe { sent: Instant::now(), answered: None });
            probes.len() as u64 - 1
        };
        // No route is as good as a lost packet.
        let _ = socket.send_to(&number.to_be_bytes(), target);
        next += PROBE_INTERVAL;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn receive(socket: &UdpSocket, stop: &AtomicBool, probes: &Mutex<Vec<Probe>>) {
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        let Ok((8, _)) = socket.recv_from(&mut buffer) else { continue };
        let number = buffer[..8].iter().fold(0, |number: usize, byte| number << 8 | usize::from(*byte));
        let mut probes = probes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(probe) = probes.get_mut(number) {
            // The first answer counts, should there be two.
            probe.answered.get_or_insert_with(Instant::now);
        }
    }
}
