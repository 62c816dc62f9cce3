//! The area `region`: a whole region on one machine.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use atoll_e2e::{World, eventually, repository};
use serde_json::{Value, json};

use crate::figure::Figure;

const DEPLOYS: usize = 10;
const VM_DEPLOYS: usize = 10;
const FAILOVERS: usize = 5;
const TRANSACTIONS: usize = 50;
const IDLE: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures everything in the area.
pub(crate) fn measure() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let world = World::new("bench")?;
    world.up(&[])?;
    figures.extend(idle(&world)?);
    figures.extend(finality(&world)?);
    let container = deploys(&world, "container", DEPLOYS)?;
    figures.push(Figure::of("deploy to HTTP 200, container", "p50", "s", &container, 50, Some(3.0)));
    figures.push(Figure::of("deploy to HTTP 200, container", "p99", "s", &container, 99, None));
    let vm = deploys(&world, "micro-vm", VM_DEPLOYS)?;
    figures.push(Figure::of("deploy to HTTP 200, micro-VM", "p50", "s", &vm, 50, Some(8.0)));
    figures.push(Figure::of("deploy to HTTP 200, micro-VM", "p99", "s", &vm, 99, None));
    drop(world);
    figures.push(Figure::of("node cut off to HTTP 200", "p50", "s", &failovers()?, 50, Some(15.0)));
    figures.push(Figure::of("build, cold", "wall time", "s", &[cold_build()?], 50, None));
    Ok(figures)
}

/// From the start of `atoll deploy` to the first answer through the gateway. Images are in the node's store after the first.
fn deploys(world: &World, isolation: &str, runs: usize) -> Result<Vec<f64>> {
    let image = repository().join("target/examples/hello").canonicalize().context("the example image is not built")?;
    let mut samples = Vec::new();
    for run in 0..=runs {
        let name = format!("b{run}");
        let file = world.scratch().join("bench.yaml");
        let text = format!(
            "name: {name}\nservices:\n  web:\n    image: oci-layout:{}\n    ports: [\"8080\"]\n    deploy:\n      resources:\n        limits: {{ cpus: \"0.5\", memory: 256M }}\n    x-atoll: {{ isolation: {isolation} }}\n",
            image.display()
        );
        fs::write(&file, text)?;
        let started = Instant::now();
        let mut deploy = world.command(["deploy", "--yes", &file.display().to_string()]).spawn()?;
        eventually("the page", PATIENCE, || {
            let (status, _) = world.get(&format!("{name}.localhost:8088"), "/")?;
            Ok((status == 200).then_some(()))
        })?;
        // The first run unpacks the image: it warms the cache.
        if run > 0 {
            samples.push(started.elapsed().as_secs_f64());
        }
        ensure!(deploy.wait()?.success(), "`atoll deploy` failed");
        world.atoll(["rm", &name, "--yes"])?;
    }
    Ok(samples)
}

/// From a transfer's acceptance to its final receipt.
fn finality(world: &World) -> Result<Vec<Figure>> {
    let mut samples = Vec::new();
    for _ in 0..TRANSACTIONS {
        let status = world.rpc("atoll_status", json!([]))?;
        if let Some(ms) = status["finalityMs"].as_u64() {
            samples.push(ms as f64);
        }
        world.send_coins("0.000001")?;
    }
    Ok(vec![
        Figure::of("proposal to finality", "p50", "ms", &samples, 50, None),
        Figure::of("proposal to finality", "p99", "ms", &samples, 99, None),
    ])
}

/// CPU and memory of all processes of a region without workloads.
fn idle(world: &World) -> Result<Vec<Figure>> {
    thread::sleep(Duration::from_secs(5));
    let before = cpu_seconds(world)?;
    thread::sleep(IDLE);
    let used = cpu_seconds(world)? - before;
    let memory: f64 = world.processes()?.into_iter().map(resident_mib).sum();
    Ok(vec![
        Figure::of(
            "idle region, 1 validator, 1 node",
            "CPU",
            "% of a core",
            &[100.0 * used / IDLE.as_secs_f64()],
            50,
            Some(3.0),
        ),
        Figure::of("idle region, 1 validator, 1 node", "memory", "MiB", &[memory], 50, Some(200.0)),
    ])
}

fn cpu_seconds(world: &World) -> Result<f64> {
    let ticks: f64 = atoll_e2e::command("getconf", ["CLK_TCK"])?.trim().parse()?;
    let mut total = 0.0;
    for pid in world.processes()? {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let fields: Vec<_> = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
        // utime and stime, fields 14 and 15 of proc(5).
        total += fields.iter().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / ticks;
    }
    Ok(total)
}

/// Memory that only this process has, plus its share of what is shared.
fn resident_mib(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or_default() / 1024.0
}

/// From the cut of the node that runs a service to its answer from another node.
fn failovers() -> Result<Vec<f64>> {
    let world = World::new("fail")?;
    world.up(&["--validators", "4", "--nodes", "3"])?;
    let file = repository().join("examples/guestbook/compose.yaml").display().to_string();
    world.atoll(["deploy", "--yes", &file])?;
    let answers = || -> Result<Option<()>> {
        let (status, _) = world.get("guestbook.localhost:8088", "/")?;
        Ok((status == 200).then_some(()))
    };
    eventually("the guestbook", PATIENCE, answers)?;
    let mut samples = Vec::new();
    for _ in 0..FAILOVERS {
        let link = format!("al-{}", runner(&world)?);
        world.inside("ip", ["link", "set", &link, "down"])?;
        let started = Instant::now();
        eventually("the guestbook from another node", PATIENCE, answers)?;
        samples.push(started.elapsed().as_secs_f64());
        world.inside("ip", ["link", "set", &link, "up"])?;
        eventually("three nodes online", PATIENCE, || {
            let nodes: Value = world.atoll_json(&["nodes"])?;
            let online = nodes.as_array().map_or(0, |nodes| nodes.iter().filter(|node| node["online"] == true).count());
            Ok((online == 3).then_some(()))
        })?;
    }
    Ok(samples)
}

fn runner(world: &World) -> Result<String> {
    let status = world.atoll_status()?;
    let nodes = status["nodes"].as_array().context("no nodes")?.clone();
    nodes
        .iter()
        .find(|node| {
            node[1]["workloads"]
                .as_array()
                .is_some_and(|all| all.iter().any(|w| w["service"] == "web" && w["state"] == "running"))
        })
        .and_then(|node| node[0].as_str().map(str::to_owned))
        .context("nobody runs the guestbook")
}

/// The whole program from nothing but downloaded sources.
fn cold_build() -> Result<f64> {
    let target = tempfile::tempdir().context("cannot make a temporary directory")?;
    let started = Instant::now();
    let status = std::process::Command::new("cargo")
        .args(["build", "--release", "--package", "atoll", "--offline", "--target-dir"])
        .arg(target.path())
        .current_dir(repository())
        .status()?;
    ensure!(status.success(), "the cold build failed");
    Ok(started.elapsed().as_secs_f64())
}
