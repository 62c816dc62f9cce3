//! Images from where people have them: an archive as `docker save` writes it, and a registry (Debian's own).

use std::{
    fs,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use atoll_e2e::{World, eventually, repository};

const PATIENCE: Duration = Duration::from_secs(60);
const REGISTRY: &str = "127.0.0.1:5000";

/// A registry in the world's network, stopped when dropped.
struct Registry(Child);

impl Registry {
    fn start(world: &World) -> Result<Self> {
        let config = world.scratch().join("registry.yaml");
        let root = world.scratch().join("registry");
        let text = format!(
            "version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: \"{REGISTRY}\" }}\nlog: {{ level: error }}\n",
            root.display()
        );
        fs::write(&config, text)?;
        let program = repository().join("target/tools/registry/usr/bin/docker-registry").canonicalize();
        let program = program.context("the registry is missing: run scripts/registry")?;
        let child =
            world.program(program).arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let registry = Self(child);
        eventually("the registry", PATIENCE, || {
            world.inside("curl", ["-sf", &format!("http://{REGISTRY}/v2/")]).map(Some)
        })?;
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Best effort: the namespace goes away in any case.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn answers(world: &World, app: &str) -> Result<()> {
    eventually(app, PATIENCE, || {
        let (status, body) = world.get(&format!("{app}.localhost:8088"), "/")?;
        Ok((status == 200 && body.contains("Hello from your own internet")).then_some(()))
    })
}

fn hello() -> Result<String> {
    let image = repository().join("target/examples/hello").canonicalize().context("the example image is not built")?;
    Ok(format!("oci:{}:latest", image.display()))
}

#[test]
fn an_archive_runs() -> Result<()> {
    let world = World::new("arch")?;
    let archive = world.scratch().join("hello.tar").display().to_string();
    let target = format!("docker-archive:{archive}:hello:1");
    atoll_e2e::command("skopeo", ["--insecure-policy", "copy", "--quiet", &hello()?, &target])?;
    world.up(&[])?;
    world.atoll(["deploy", "--yes", &world.compose_image("saved", &format!("docker-archive:{archive}"))?])?;
    answers(&world, "saved")?;
    let other = world.compose_image("other", &format!("docker-archive:{archive}:hello:2"))?;
    let error = world.atoll_fails(["deploy", "--yes", &other])?;
    ensure!(error.contains("hello:2") && error.contains("hello:1"), "it does not say which tags there are: {error}");
    Ok(())
}

#[test]
fn a_registry_serves_what_its_digest_says_or_nothing() -> Result<()> {
    let world = World::new("reg")?;
    let registry = Registry::start(&world)?;
    let target = format!("docker://{REGISTRY}/town/hello:1");
    world.inside("skopeo", ["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", &hello()?, &target])?;
    let digest = world.inside("skopeo", ["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &target])?;
    let digest = digest.trim();
    world.up(&[])?;

    let refused = |name: &str, image: &str, words: &[&str]| -> Result<()> {
        let error = world.atoll_fails(["deploy", "--yes", &world.compose_image(name, image)?])?;
        for word in words {
            ensure!(error.contains(word), "the error about {image} does not say '{word}': {error}");
        }
        // Nothing is left half done.
        let apps: serde_json::Value = world.atoll_json(&["ps"])?;
        ensure!(!apps.to_string().contains(name), "{name} was left behind: {apps}");
        Ok(())
    };
    let nowhere = format!("{REGISTRY}/town/nowhere@{digest}");
    refused("nowhere", &nowhere, &["town/nowhere", REGISTRY])?;
    let unknown = format!("{REGISTRY}/town/hello@sha256:{}", "0".repeat(64));
    refused("unknown", &unknown, &["town/hello", "0000"])?;
    refused("tagged", &format!("{REGISTRY}/town/hello:1"), &["@sha256:"])?;

    // The registry's disk flips a bit of the largest blob, the layer.
    let blobs = world.scratch().join("registry/docker/registry/v2/blobs/sha256");
    let found = atoll_e2e::command("find", [&blobs.display().to_string(), "-name", "data", "-size", "+1M"])?;
    let layer = found.lines().next().context("the registry has no layer")?;
    let good = fs::read(layer)?;
    let mut bad = good.clone();
    bad[1_000_000] ^= 1;
    fs::write(layer, &bad)?;
    let image = format!("{REGISTRY}/town/hello@{digest}");
    refused("flipped", &image, &["digest"])?;
    fs::write(layer, &good)?;

    world.atoll(["deploy", "--yes", &world.compose_image("pulled", &image)?])?;
    answers(&world, "pulled")?;
    drop(registry);
    // Another image, so that it cannot be in the node's store.
    let gone = format!("{REGISTRY}/town/other@sha256:{}", "1".repeat(64));
    refused("gone", &gone, &[REGISTRY])
}
