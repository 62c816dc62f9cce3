//! Two nodes with something between them: a path that loses packets, or a relay.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use atoll_e2e::{
    Turn,
    mesh::{Host, Lab, Mesh, probe, topology, usage},
};

use super::{
    pair::segments_offloaded,
    rounds::Rounds,
    systems::{Ends, System, Tunnel},
};
use crate::figure::Figure;

const RUNS: usize = 5;
const SECONDS: f64 = 3.0;

/// 1 % random loss in both directions on a router between the two, datagram by datagram.
pub(super) fn loss(turn: &Turn) -> Result<Vec<Figure>> {
    let lab = Lab::new(turn, "bloss", 3, &topology::line(3))?;
    let (near, far, router) = (lab.wire(0, 1)?, lab.wire(1, 2)?, lab.host(1));
    router.forward()?;
    for (host, wire) in [(0, near), (2, far)] {
        lab.host(host).inside("ip", ["route", "add", "default", "via", &wire.ip(1).to_string()])?;
        lab.host(host).inside("ip", ["-6", "route", "add", "default", "via", &wire.ip6(1).to_string()])?;
    }
    // Else a lost packet would be up to 64 KiB of datagrams at once.
    segments_offloaded(&lab, "1")?;
    let ends = Ends { lab: &lab, source: 0, target: 2, source_ip: near.ip(0), target_ip: far.ip(2) };
    let _server = probe::iperf_server(lab.host(2), &lab.scratch().join("iperf3.log"))?;
    let tunnels = Tunnel::start_all(&ends, &[System::Raw, System::Atoll, System::WireguardGo])?;

    let known = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").unwrap_or_default();
    let control = if known.split_whitespace().any(|name| name == "bbr") { "bbr" } else { "cubic" };
    let case = format!("TCP ({control}), 1 % random loss");
    let rounds = Rounds::of(&case, RUNS, &tunnels, |tunnel| {
        let clear = tunnel.iperf(SECONDS, &["-C", control])?.gbit_per_second;
        begin_loss(router)?;
        let lossy = tunnel.iperf(SECONDS, &["-C", control]);
        ensure!(end_loss(router)? > 0, "the router lost nothing");
        let lossy = lossy?.gbit_per_second;
        Ok([lossy / clear, lossy])
    })?;
    Ok(vec![
        rounds.figure(0, "throughput against no loss", "ratio", Some(0.5)).higher(),
        rounds.figure(1, "throughput", "Gb/s", None).higher(),
    ])
}

fn begin_loss(router: &Host) -> Result<()> {
    let rules = "add table inet loss; add chain inet loss pass { type filter hook forward priority 0; }; add rule inet loss pass numgen random mod 100 < 1 counter drop";
    router.inside("nft", [rules]).map(drop)
}

/// How many packets were lost.
fn end_loss(router: &Host) -> Result<u64> {
    let text = router.inside("nft", ["list table inet loss"])?;
    router.inside("nft", ["delete table inet loss"])?;
    let count = text.split_once("counter packets ").and_then(|(_, rest)| rest.split(' ').next());
    count.and_then(|count| count.parse().ok()).with_context(|| format!("no counter in: {text}"))
}

/// A–B–C, where B passes on what it cannot read.
pub(super) fn relay(turn: &Turn) -> Result<Vec<Figure>> {
    let mesh = Mesh::start(turn, "brelay", 3, &topology::line(3))?;
    mesh.wait_until_joined()?;
    let _server = probe::iperf_server(mesh.lab.host(2), &mesh.lab.scratch().join("iperf3.log"))?;
    let (mut costs, mut speeds) = (Vec::new(), Vec::new());
    for round in 1..=RUNS {
        let relay = [mesh.nodes[1].pid()?];
        let before = usage::cpu_seconds(&relay)?;
        let traffic = probe::iperf(mesh.lab.host(0), mesh.nodes[2].address.into(), SECONDS, &[])?;
        costs.push(1e9 * (usage::cpu_seconds(&relay)? - before) / traffic.bytes);
        speeds.push(traffic.gbit_per_second);
        println!("  relay, round {round} of {RUNS}: {:.3} CPU-s/GB at {:.3} Gb/s", costs[round - 1], speeds[round - 1]);
    }
    Ok(vec![
        Figure::of("TCP over a relay", "CPU of the relay", "CPU-s/GB", &costs, 50, Some(0.45)),
        Figure::of("TCP over a relay", "throughput", "Gb/s", &speeds, 50, None).higher(),
    ])
}
