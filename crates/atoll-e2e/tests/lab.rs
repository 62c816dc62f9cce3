//! A region of four validators and three nodes, each in a namespace of its own.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use atoll_e2e::{World, eventually, repository};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(90);

fn lab(name: &str) -> Result<World> {
    let world = World::new(name)?;
    world.up(&["--validators", "4", "--nodes", "3"])?;
    Ok(world)
}

fn deploy_guestbook(world: &World) -> Result<()> {
    let file = repository().join("examples/guestbook/compose.yaml").display().to_string();
    world.atoll(["deploy", "--yes", &file])?;
    eventually("the guestbook", PATIENCE, || visits(world).map(Some))?;
    Ok(())
}

/// The number that the page shows.
fn visits(world: &World) -> Result<u64> {
    let (status, body) = world.get("guestbook.localhost:8088", "/")?;
    ensure!(status == 200, "status {status}: {body}");
    let number = body.split_once("id=visits>").and_then(|(_, rest)| rest.split_once('<')).context("no number")?.0;
    Ok(number.parse()?)
}

/// The member (`n1`…) that runs the web service, by the nodes' own words.
fn runner(world: &World, service: &str) -> Result<String> {
    let status = world.atoll_status()?;
    for node in status["nodes"].as_array().context("no nodes")? {
        let runs = node[1]["workloads"]
            .as_array()
            .is_some_and(|workloads| workloads.iter().any(|w| w["service"] == service && w["state"] == "running"));
        if runs {
            return Ok(node[0].as_str().context("no name")?.to_owned());
        }
    }
    anyhow::bail!("nobody runs {service}")
}

#[test]
fn a_service_moves_when_its_node_is_cut_off() -> Result<()> {
    let world = lab("cut")?;
    deploy_guestbook(&world)?;
    let first = visits(&world)?;
    ensure!(visits(&world)? == first + 1, "the page does not count");

    let cut = runner(&world, "web")?;
    let link = format!("al-{cut}");
    world.inside("ip", ["link", "set", &link, "down"])?;
    let started = Instant::now();
    eventually("the page from another node", PATIENCE, || visits(&world).map(Some))?;
    eprintln!("answered again {:?} after the cut", started.elapsed());
    let record = world.atoll(["why", "guestbook"])?;
    ensure!(record.contains("no heartbeat"), "the ledger's record does not say why it moved: {record}");

    world.inside("ip", ["link", "set", &link, "up"])?;
    eventually("the returned node stops its stale copy", PATIENCE, || {
        let status = world.atoll_status()?;
        let nodes = status["nodes"].as_array().context("no nodes")?;
        let running: Vec<&Value> = nodes
            .iter()
            .filter_map(|node| node[1]["workloads"].as_array())
            .flatten()
            .filter(|w| w["service"] == "web" && w["state"] == "running")
            .collect();
        Ok((running.len() == 1).then_some(()))
    })?;
    visits(&world)?;
    Ok(())
}

#[test]
fn a_validator_killed_at_random_moments_never_forks_nor_loses_a_transaction() -> Result<()> {
    let world = lab("bft")?;
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut hashes = BTreeSet::new();
    for round in 0..20_u64 {
        let victim = format!("v{}", 1 + round % 4);
        hashes.insert(world.send_coins("0.001")?);
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_millis(seed >> 55));
        world.kill_daemon(&victim, "ledger")?;
        // The request that goes to the killed validator breaks; the next one goes to another.
        let height = eventually("an answer after the kill", PATIENCE, || world.height().map(Some))?;
        eventually("three more blocks after the kill", PATIENCE, || Ok((world.height()? >= height + 3).then_some(())))?;
    }
    for hash in &hashes {
        let receipt = world.rpc("eth_getTransactionReceipt", json!([hash]))?;
        ensure!(receipt["status"] == "0x1", "an acknowledged transaction is lost: {hash}");
    }
    same_chain(&world)
}

/// All validators have the same block at a height that all have.
fn same_chain(world: &World) -> Result<()> {
    let height = world.height()?;
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_getBlockByNumber", "params": [format!("{height:#x}"), false] });
    let mut blocks = BTreeSet::new();
    for validator in 1..=4 {
        let namespace = format!("--net=/run/netns/{}-v{validator}", world.region());
        let hash = eventually("the validator catches up", PATIENCE, || {
            let args = [
                &namespace,
                "curl",
                "-s",
                "-H",
                "Content-Type: application/json",
                "-d",
                &body.to_string(),
                "http://127.0.0.1:8545/",
            ];
            let answer: Value = serde_json::from_str(&atoll_e2e::command("nsenter", args)?)?;
            Ok(answer["result"]["hash"].as_str().map(str::to_owned))
        })?;
        blocks.insert(hash);
    }
    ensure!(blocks.len() == 1, "validators disagree about block {height}: {blocks:?}");
    Ok(())
}
