//! Errors name the cause and the cure, and leave nothing half done.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

use anyhow::{Result, ensure};
use atoll_e2e::{World, eventually, repository};

const PATIENCE: Duration = Duration::from_secs(60);

fn says(error: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(error.contains(word), "the error does not say '{word}':\n{error}");
    }
    Ok(())
}

#[test]
fn before_anything_runs() -> Result<()> {
    let world = World::new("err")?;
    let broken = world.compose("broken", |text| text.replace("services:", "services: ["))?;
    says(&world.atoll_fails(["deploy", "--yes", &broken])?, &["broken.yaml:"])?;
    let unknown = world.compose("unknown", |text| text.replace("    ports", "    privileged: true\n    ports"))?;
    says(&world.atoll_fails(["deploy", "--yes", &unknown])?, &["unknown.yaml:5", "privileged"])?;
    says(&world.atoll_fails(["status"])?, &["there is no region", "atoll up"])?;
    says(&world.atoll_fails(["up", "--name", "Not_A_Label"])?, &["Not_A_Label", "a-z"])?;

    // Another program has the port.
    let mut nc = world
        .program("python3")
        .args([
            "-c",
            "import socket,time; s=socket.create_server(('127.0.0.1',8088)); print('on',flush=True); time.sleep(600)",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    if let Some(out) = nc.stdout.as_mut() {
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line)?;
    }
    let error = world.up(&[]).err().map(|error| format!("{error:#}")).unwrap_or_default();
    nc.kill()?;
    nc.wait()?;
    says(&error, &["8088", "in use", "--gateway-port"])?;
    ensure!(!world.state().join("atoll.toml").exists(), "a region was founded although its port is in use");

    // Without root.
    let output = world
        .program("setpriv")
        .args(["--reuid=65534", "--clear-groups", "--"])
        .arg(atoll_e2e::binary())
        .args(["--state", "/nonexistent", "up"])
        .output()?;
    says(&String::from_utf8_lossy(&output.stderr), &["needs root", "sudo"])
}

#[test]
fn while_a_region_runs() -> Result<()> {
    let world = World::new("errs")?;
    world.up(&[])?;
    let deploy = |file: &str| world.atoll_fails(["deploy", "--yes", file]);

    // A wrong digest inside the image, which the node has not seen before.
    let copy = world.scratch().join("tampered");
    atoll_e2e::command(
        "cp",
        [
            "-a",
            &repository().join("target/examples/hello").canonicalize()?.display().to_string(),
            &copy.display().to_string(),
        ],
    )?;
    let blob =
        fs::read_dir(copy.join("blobs/sha256"))?.flatten().max_by_key(|entry| entry.metadata().map_or(0, |m| m.len()));
    let blob = blob.map(|entry| entry.path()).unwrap_or_default();
    let mut bytes = fs::read(&blob)?;
    bytes[100] ^= 1;
    fs::write(&blob, bytes)?;
    let tampered = world.compose_image("tampered", &format!("oci-layout:{}", copy.display()))?;
    says(&deploy(&tampered)?, &["digest"])?;

    let missing = world.compose("missing", |text| text.replace("examples/hello", "examples/nowhere"))?;
    says(&deploy(&missing)?, &["nowhere"])?;
    let huge = world.compose("huge", |text| text.replace("\"0.25\"", "\"512\""))?;
    says(&deploy(&huge)?, &["512", "nearest fit"])?;
    let dies = world.compose("dies", |text| {
        text.replace("    ports", "    command: [\"-t\", \"-c\", \"/no/such.conf\"]\n    ports")
    })?;
    says(&deploy(&dies)?, &["exit"])?;
    world.atoll(["rm", "dies", "--yes"])?;
    says(&world.atoll_fails(["rm", "nobody", "--yes"])?, &["nobody"])?;

    let error = world.atoll(["up", "--name", "other"]).err().map(|error| format!("{error:#}")).unwrap_or_default();
    says(&error, &["holds the region", "other", "--state"])?;
    let poor = world.compose("poor", |text| text)?;
    says(
        &world.atoll_fails(["deploy", "--yes", "--escrow", "100000000", &poor])?,
        &["not enough funds", "atoll wallet"],
    )?;
    let status = world.atoll_status()?;
    ensure!(status["problems"].as_array().is_some_and(Vec::is_empty), "errors left problems behind: {status}");
    Ok(())
}

#[test]
fn a_full_disk_stops_a_region_and_loses_nothing() -> Result<()> {
    let world = World::new("full")?;
    world.mount_state(100)?;
    let error = world.up(&[]).err().map(|error| format!("{error:#}")).unwrap_or_default();
    says(&error, &["MiB are free", "--state"])?;
    ensure!(fs::read_dir(world.state())?.next().is_none(), "a region was begun on a disk that is too small");
    world.unmount_state()?;
    world.mount_state(2_600)?;
    world.up(&[])?;
    world.atoll(["deploy", "--yes", &world.compose("page", |text| text)?])?;
    let before = world.send_coins("1")?;
    let filler = world.state().join("filler");
    // Less than the ledger's reserve is left; then nothing at all.
    for left_mib in [64, 0] {
        fill(&filler, &world, left_mib)?;
        eventually("the status that names the disk", PATIENCE, || {
            let problems = world.atoll_status()?["problems"].to_string();
            Ok(problems.contains("free some space").then_some(()))
        })?;
        let (status, _) = world.get("page.localhost:8088", "/")?;
        ensure!(status == 200, "the app does not answer while the disk is full: {status}");
        fs::remove_file(&filler)?;
        let height = eventually("the ledger after there is room", PATIENCE, || world.height().map(Some))?;
        eventually("new blocks after there is room", PATIENCE, || Ok((world.height()? > height + 1).then_some(())))?;
        world.send_coins("1")?;
    }
    let receipt = world.rpc("eth_getTransactionReceipt", serde_json::json!([before]))?;
    ensure!(receipt["status"] == "0x1", "an acknowledged transaction is lost");
    eventually("a status without problems", PATIENCE, || {
        Ok(world.atoll_status()?["problems"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })?;
    world.atoll(["down"])?;
    Ok(())
}

/// Writes zeros into a file until so much of its disk is left.
fn fill(file: &Path, world: &World, left_mib: u64) -> Result<()> {
    let out = atoll_e2e::command("df", ["-m", "--output=avail", &world.state().display().to_string()])?;
    let free_mib: u64 = out.lines().nth(1).unwrap_or_default().trim().parse()?;
    // All that is free, rounded up: the disk itself says when it is full.
    let bytes = (free_mib + u64::from(left_mib == 0)).saturating_sub(left_mib) << 20;
    match io::copy(&mut io::repeat(0).take(bytes), &mut fs::File::create(file)?) {
        Err(error) if error.kind() != io::ErrorKind::StorageFull => Err(error.into()),
        _ => Ok(()),
    }
}
