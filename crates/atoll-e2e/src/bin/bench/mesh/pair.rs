//! Two nodes over one wire, MTU 1500.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use atoll_e2e::{
    Turn,
    mesh::{Lab, probe, topology, usage},
};

use super::{
    rounds::Rounds,
    systems::{Ends, System, Tunnel},
};
use crate::figure::Figure;

const RUNS: usize = 5;
const TCP_SECONDS: f64 = 3.0;
/// Small datagrams: 20,000 in a second, which all peers can carry on two cores.
const SMALL: [&str; 5] = ["-u", "-l", "100", "-b", "16M"];
const SMALL_SECONDS: f64 = 1.0;
const PINGS: u32 = 500;
const PING_INTERVAL: Duration = Duration::from_millis(5);

/// All cases of two nodes.
pub(super) fn measure(turn: &Turn) -> Result<Vec<Figure>> {
    let lab = Lab::new(turn, "bpair", 2, &topology::line(2))?;
    let wire = lab.wire(0, 1)?;
    let ends = Ends { lab: &lab, source: 0, target: 1, source_ip: wire.ip(0), target_ip: wire.ip(1) };
    let _server = probe::iperf_server(lab.host(1), &lab.scratch().join("iperf3.log"))?;
    let tunnels = Tunnel::start_all(&ends, &System::ALL)?;

    let mut figures = Vec::new();
    let tcp = Rounds::of("TCP, one stream", RUNS, &tunnels, |tunnel| stream(tunnel, TCP_SECONDS))?;
    figures.push(tcp.figure(0, "throughput", "Gb/s", None).higher());
    figures.push(tcp.as_share_of_raw(0).figure(0, "share of the bare wire", "ratio", Some(0.38)).higher());
    figures.push(tcp.figure(1, "CPU of both daemons", "CPU-s/GB", Some(1.3)));
    figures.extend(idle_pings(&tunnels)?);
    figures.push(pings_under_load(&tunnels)?);
    let small = Rounds::of("100-byte UDP, 20,000/s", RUNS, &tunnels, |tunnel| {
        let (traffic, cpu) = tunnel.costs(|| tunnel.iperf(SMALL_SECONDS, &SMALL))?;
        Ok([1e6 * cpu / traffic.packets])
    })?;
    figures.push(small.figure(0, "CPU of both daemons a packet", "µs", Some(9.0)));

    segments_offloaded(&lab, "1")?;
    let plain = Rounds::of("TCP, no segmentation offload", RUNS, &tunnels, |tunnel| stream(tunnel, TCP_SECONDS - 1.0))?;
    figures.push(plain.figure(0, "throughput", "Gb/s", None).higher());
    figures.push(plain.figure(1, "CPU of both daemons", "CPU-s/GB", Some(2.6)));
    Ok(figures)
}

/// Gb/s, and CPU-seconds of the daemons per GB.
fn stream(tunnel: &Tunnel, seconds: f64) -> Result<[f64; 2]> {
    let (traffic, cpu) = tunnel.costs(|| tunnel.iperf(seconds, &[]))?;
    Ok([traffic.gbit_per_second, 1e9 * cpu / traffic.bytes])
}

fn idle_pings(tunnels: &[Tunnel]) -> Result<Vec<Figure>> {
    let rounds = Rounds::of("ping, idle", RUNS, tunnels, |tunnel| {
        let times = probe::ping(&tunnel.source, tunnel.address, PINGS, PING_INTERVAL)?;
        Ok([percentile(&times, 50), percentile(&times, 99)])
    })?;
    // Not above boringtun's in the same run.
    let goal = |index| rounds.median(index, System::Boringtun);
    Ok(vec![rounds.figure(0, "median", "ms", goal(0)), rounds.figure(1, "p99", "ms", goal(1))])
}

fn pings_under_load(tunnels: &[Tunnel]) -> Result<Figure> {
    let rounds = Rounds::of("ping while TCP saturates", RUNS, tunnels, |tunnel| {
        thread::scope(|scope| {
            let load = scope.spawn(|| tunnel.iperf(2.0, &[]));
            thread::sleep(Duration::from_millis(300));
            let times = probe::ping(&tunnel.source, tunnel.address, 300, PING_INTERVAL)?;
            load.join().map_err(|_| anyhow!("the load panicked"))?.context("no load")?;
            Ok([percentile(&times, 99)])
        })
    })?;
    Ok(rounds.figure(0, "p99", "ms", Some(5.0)))
}

fn percentile(samples: &[f64], percentile: usize) -> f64 {
    Figure::of("", "", "", samples, percentile, None).median
}

/// How many segments the wires take at once; 1 is a network card without offload.
pub(super) fn segments_offloaded(lab: &Lab, most: &str) -> Result<()> {
    for wire in lab.wires() {
        for end in [wire.ends().0, wire.ends().1] {
            lab.host(end).inside("ip", ["link", "set", &wire.interface(end), "gso_max_segs", most])?;
        }
    }
    Ok(())
}

impl Tunnel {
    /// Does `work`; answers what it says, and the processor time that the daemons took meanwhile.
    pub(super) fn costs<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
        let before = usage::cpu_seconds(&self.pids)?;
        let done = work()?;
        Ok((done, usage::cpu_seconds(&self.pids)? - before))
    }

    /// iperf3 from source to target.
    pub(super) fn iperf(&self, seconds: f64, options: &[&str]) -> Result<probe::Traffic> {
        probe::iperf(&self.source, self.address, seconds, options)
    }
}
