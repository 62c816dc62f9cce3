//! Errors name the cause and the cure, and leave nothing half done.

use std::{fs, path::PathBuf};

use anyhow::{Result, ensure};
use atoll_e2e::{World, repository};

/// A Compose file with one service, changed by `change`.
fn compose(world: &World, name: &str, change: impl Fn(String) -> String) -> Result<String> {
    let hello = repository().join("target/examples/hello");
    let image = hello.canonicalize().unwrap_or(hello).display().to_string();
    let text = format!(
        "name: {name}\nservices:\n  web:\n    image: oci-layout:{image}\n    ports: [\"8080\"]\n    deploy:\n      resources:\n        limits: {{ cpus: \"0.25\", memory: 64M }}\n"
    );
    let path: PathBuf = world.scratch().join(format!("{name}.yaml"));
    fs::write(&path, change(text))?;
    Ok(path.display().to_string())
}

fn says(error: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(error.contains(word), "the error does not say '{word}':\n{error}");
    }
    Ok(())
}

#[test]
fn before_anything_runs() -> Result<()> {
    let world = World::new("err")?;
    let broken = compose(&world, "broken", |text| text.replace("services:", "services: ["))?;
    says(&world.atoll_fails(["deploy", "--yes", &broken])?, &["broken.yaml:"])?;
    let unknown = compose(&world, "unknown", |text| text.replace("    ports", "    privileged: true\n    ports"))?;
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
    let tampered = compose(&world, "tampered", |text| {
        let line = text.lines().find(|line| line.contains("image:")).unwrap_or_default().to_owned();
        text.replace(&line, &format!("    image: oci-layout:{}", copy.display()))
    })?;
    says(&deploy(&tampered)?, &["digest"])?;

    let missing = compose(&world, "missing", |text| text.replace("examples/hello", "examples/nowhere"))?;
    says(&deploy(&missing)?, &["nowhere"])?;
    let huge = compose(&world, "huge", |text| text.replace("\"0.25\"", "\"512\""))?;
    says(&deploy(&huge)?, &["512", "nearest fit"])?;
    let dies = compose(&world, "dies", |text| {
        text.replace("    ports", "    command: [\"-t\", \"-c\", \"/no/such.conf\"]\n    ports")
    })?;
    says(&deploy(&dies)?, &["exit"])?;
    world.atoll(["rm", "dies", "--yes"])?;
    says(&world.atoll_fails(["rm", "nobody", "--yes"])?, &["nobody"])?;

    let error = world.atoll(["up", "--name", "other"]).err().map(|error| format!("{error:#}")).unwrap_or_default();
    says(&error, &["holds the region", "other", "--state"])?;
    let poor = compose(&world, "poor", |text| text)?;
    says(
        &world.atoll_fails(["deploy", "--yes", "--escrow", "100000000", &poor])?,
        &["not enough funds", "atoll wallet"],
    )?;
    let status = world.atoll_status()?;
    ensure!(status["problems"].as_array().is_some_and(Vec::is_empty), "errors left problems behind: {status}");
    Ok(())
}
