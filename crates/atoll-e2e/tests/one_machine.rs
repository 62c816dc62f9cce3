//! What a newcomer does on one machine, in a network that has nothing but loopback.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use atoll_e2e::{World, eventually, repository};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

fn deploy_hello(world: &World) -> Result<String> {
    let file = repository().join("examples/hello/compose.yaml");
    world.atoll([file.as_os_str().to_str().context("path is not UTF-8")?].iter().fold(
        vec!["deploy", "--yes"],
        |mut args, file| {
            args.push(file);
            args
        },
    ))
}

fn hello_answers(world: &World) -> Result<Option<()>> {
    let (status, body) = world.get("hello.localhost:8088", "/")?;
    Ok((status == 200 && body.contains("Hello from your own internet")).then_some(()))
}

/// Debian's Chromium shows the page, without any name having been set up. Its picture is kept below `target/`.
fn browser_shows(world: &World, url: &str, words: &[&str]) -> Result<()> {
    let pictures = repository().join("target/screenshots");
    fs::create_dir_all(&pictures)?;
    let name = url.trim_start_matches("http://").replace(['/', ':'], "-");
    let picture = pictures.join(format!("{name}.png"));
    let picture_option = format!("--screenshot={}", picture.display());
    let profile = format!("--user-data-dir={}", world.scratch().join("browser").display());
    let common = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--window-size=1100,1400",
        &profile,
    ];
    let page = world.inside("chromium", common.iter().chain(&["--dump-dom", url]))?;
    for word in words {
        ensure!(page.contains(word), "the browser does not show '{word}' at {url}: {page}");
    }
    world.inside("chromium", common.iter().chain(&[picture_option.as_str(), url]))?;
    ensure!(fs::metadata(&picture)?.len() > 5_000, "the picture of {url} is empty");
    Ok(())
}

#[test]
fn an_app_runs_and_everything_resumes() -> Result<()> {
    let world = World::new("solo")?;
    let printed = world.up(&[])?;
    for word in ["Region", "Currency", "Wallet", "http://localhost:8088/"] {
        ensure!(printed.contains(word), "`atoll up` does not print {word}: {printed}");
    }
    let before: Value = world.atoll_json(&["wallet"])?;

    deploy_hello(&world)?;
    eventually("the hello page", PATIENCE, || hello_answers(&world))?;

    let apps: Value = world.atoll_json(&["ps"])?;
    ensure!(apps.to_string().contains("hello"), "`atoll ps` does not show the app: {apps}");
    ensure!(world.atoll(["logs", "hello"])?.contains("start worker process"), "nginx's log is not shown");
    ensure!(world.atoll(["why", "hello"])?.contains("hello"), "the ledger's record is not shown");
    let (status, page) = world.get("localhost:8088", "/")?;
    ensure!(
        status == 200 && page.contains("hello") && page.len() < 60_000,
        "the region's page: {status}, {} bytes",
        page.len()
    );

    browser_shows(&world, "http://localhost:8088/", &["hello", "running"])?;
    browser_shows(&world, "http://hello.localhost:8088/", &["Hello from your own internet"])?;

    // Stopped and started again: the same region, the same app.
    world.atoll(["down"])?;
    ensure!(world.processes()?.is_empty(), "something still runs after `atoll down`");
    let started = Instant::now();
    let again = world.up(&[])?;
    eventually("the hello page after a restart", PATIENCE, || hello_answers(&world))?;
    eprintln!("resumed in {:?}", started.elapsed());
    let id = |text: &str| text.lines().find(|line| line.starts_with("Region")).map(str::to_owned);
    ensure!(id(&printed) == id(&again), "another region after the restart");
    let after: Value = world.atoll_json(&["wallet"])?;
    ensure!(before["address"] == after["address"], "another wallet after the restart");

    world.atoll(["rm", "hello", "--yes"])?;
    eventually("the app's end", PATIENCE, || {
        let (status, _) = world.get("hello.localhost:8088", "/")?;
        Ok((status == 404).then_some(()))
    })?;
    Ok(())
}

#[test]
fn kill_9_of_everything_loses_nothing() -> Result<()> {
    let world = World::new("kill")?;
    world.up(&[])?;
    deploy_hello(&world)?;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..10 {
        let height = world.height()?;
        // A moment within a few blocks, different in each round.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_millis(seed >> 54));
        for pid in world.processes()? {
            // It may have ended by itself meanwhile, because its parent was killed.
            let _ = atoll_e2e::command("kill", ["-9", &pid.to_string()]);
        }
        world.up(&[])?;
        eventually("the hello page", PATIENCE, || hello_answers(&world)).with_context(|| format!("round {round}"))?;
        ensure!(world.height()? >= height, "blocks were lost in round {round}");
    }
    Ok(())
}

#[test]
fn wallets_of_the_ethereum_world_are_clients() -> Result<()> {
    let world = World::new("eth")?;
    world.up(&[])?;
    let clients = repository().join("crates/atoll-ledger/tests/clients");
    if !clients.join("node_modules").exists() {
        atoll_e2e::command(
            "npm",
            ["ci", "--silent", "--no-audit", "--no-fund", "--prefix", &clients.display().to_string()],
        )?;
    }
    let key = fs::read_to_string(world.state().join("keys/wallet.key"))?;
    for script in ["viem.mjs", "ethers.mjs"] {
        let path = clients.join(script).display().to_string();
        world.inside("node", [path.as_str(), "http://127.0.0.1:8545", key.trim()]).with_context(|| script)?;
    }
    ensure!(world.rpc("eth_chainId", json!([]))?.is_string());
    Ok(())
}
