//! A hundred nodes with four neighbours each.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use atoll_e2e::{
    Turn, eventually,
    mesh::{Mesh, topology, usage},
};

use crate::figure::Figure;

const NODES: usize = 100;
const STARTS: usize = 5;
/// Pairs between which a ping must pass.
const SAMPLE: usize = 20;
/// Until then links cost what they seemed to cost while a hundred programs started at once, and routes follow.
const SETTLE: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(60);
const CASE: &str = "100 nodes, 4 neighbours each";

/// Starts them all at once, several times, then leaves them alone.
pub(super) fn measure(turn: &Turn) -> Result<Vec<Figure>> {
    let mut mesh = Mesh::start(turn, "bscale", NODES, &topology::random_degree_four(NODES, 1))?;
    let mut joined = Vec::new();
    for round in 1..=STARTS {
        mesh.nodes.iter_mut().for_each(|node| node.kill());
        let started = Instant::now();
        for node in &mut mesh.nodes {
            node.restart()?;
        }
        wait_for_all_pairs(&mesh)?;
        joined.push(started.elapsed().as_secs_f64());
        println!("  {CASE}, start {round} of {STARTS}: all pairs after {:.2} s", joined[round - 1]);
    }
    let pids = mesh.nodes.iter().map(|node| node.pid()).collect::<Result<Vec<_>>>()?;
    let started = usage::cpu_seconds_fine(&pids)?;
    thread::sleep(SETTLE);
    let settled = usage::cpu_seconds_fine(&pids)?;
    thread::sleep(IDLE);
    let idle = usage::cpu_seconds_fine(&pids)? - settled;
    let settling = settled - started;
    let memory = pids.iter().map(|pid| usage::memory_mib(*pid)).collect::<Result<Vec<_>>>()?;
    println!("  {CASE}: {idle:.2} CPU-s in 60 s");
    Ok(vec![
        Figure::of(CASE, "start to all pairs reachable", "s", &joined, 50, Some(5.0)),
        Figure::of(CASE, "CPU of all in the 60 s before", "CPU-s", &[settling], 50, None),
        Figure::of(CASE, "CPU of all in 60 idle s", "CPU-s", &[idle], 50, Some(0.6)),
        Figure::of(CASE, "memory of one (Pss)", "MiB", &memory, 50, Some(10.0)),
    ])
}

/// Every daemon has a route to every other, and packets pass between a sample of them.
fn wait_for_all_pairs(mesh: &Mesh) -> Result<()> {
    for node in &mesh.nodes {
        eventually("routes to all nodes", PATIENCE, || Ok((node.routes()? + 1 >= NODES).then_some(())))?;
    }
    let mut random = topology::Random(2);
    for _ in 0..SAMPLE {
        let [from, to] = [random.next_u64(), random.next_u64()].map(|number| &mesh.nodes[number as usize % NODES]);
        ensure!(from.hears(to.address) || from.hears(to.address), "{} does not hear {}", from.address, to.address);
    }
    Ok(())
}
