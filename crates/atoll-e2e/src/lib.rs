//! Labs: the real binary, in network namespaces that the test makes and removes.
//!
//! A [`World`] is a machine of its own as far as networks go: a namespace with nothing but loopback. So every test here
//! also shows that a region needs no other link, and none disturbs a region that runs on this machine.
//!
//! [`mesh`] has labs of many machines joined by wires, in which mesh daemons run alone.

pub mod mesh;

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A machine with a network of its own, on which regions can be started. Everything is removed when it is dropped.
pub struct World {
    /// Name of its namespace, and of the region in it.
    name: String,
    dir: tempfile::TempDir,
    _turn: Turn,
}

/// The right to run labs. They share few cores: one holder at a time on a machine.
#[derive(Debug)]
pub struct Turn {
    _lock: File,
}

impl Turn {
    /// Waits until it is ours.
    pub fn take() -> Result<Self> {
        let lock = File::create(std::env::temp_dir().join("atoll-e2e.lock")).context("cannot create the lock file")?;
        lock.lock().context("cannot wait for other labs")?;
        ensure!(binary().exists(), "the binary is missing: build it with `cargo build --release -p atoll`");
        Ok(Self { _lock: lock })
    }
}

impl World {
    /// A fresh one. `name` must be a short DNS label that no other test uses.
    pub fn new(name: &str) -> Result<Self> {
        let turn = Turn::take()?;
        let name = format!("{name}{}", std::process::id());
        command("ip", ["netns", "add", &name])?;
        let world = Self { name, dir: tempfile::Builder::new().prefix("atoll-e2e-").tempdir()?, _turn: turn };
        world.inside("ip", ["link", "set", "lo", "up"])?;
        Ok(world)
    }

    /// Name of the region.
    pub fn region(&self) -> &str {
        &self.name
    }

    /// The region's state directory.
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Gives the state directory a disk of its own, in memory, of so many MiB.
    pub fn mount_state(&self, mebibytes: u32) -> Result<()> {
        fs::create_dir_all(self.state())?;
        let (size, path) = (format!("size={mebibytes}m"), self.state().display().to_string());
        command("mount", ["-t", "tmpfs", "-o", &size, "tmpfs", &path]).map(drop)
    }

    /// Takes that disk away, with all that is on it.
    pub fn unmount_state(&self) -> Result<()> {
        command("umount", [&self.state()]).map(drop)
    }

    /// A folder for the test's own files.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// A program in this world's network.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a program in this world's network; an error when it fails.
    pub fn inside<S: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = S>) -> Result<String> {
        finish(self.program(program).args(args))
    }

    /// An `atoll` command on this world's region.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.program(binary());
        command.arg("--state").arg(self.state()).args(args);
        command
    }

    /// Runs `atoll …`; an error with everything that it printed when it fails.
    pub fn atoll<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        finish(&mut self.command(args))
    }

    /// Runs `atoll …`, which must fail; answers what it said on standard error.
    pub fn atoll_fails<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        let output = self.command(args).output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "this command should have failed: {}", show(&output));
        ensure!(text.contains("error: "), "an error must say so: {text}");
        Ok(text)
    }

    /// Runs `atoll … --json`.
    pub fn atoll_json<T: DeserializeOwned>(&self, args: &[&str]) -> Result<T> {
        let text = self.atoll(args.iter().copied().chain(["--json"]))?;
        serde_json::from_str(&text).with_context(|| format!("`atoll {args:?} --json` printed no JSON: {text}"))
    }

    /// Writes a Compose file with the hello page as its one service, changed by `change`; answers its path.
    pub fn compose(&self, name: &str, change: impl Fn(String) -> String) -> Result<String> {
        let hello = repository().join("target/examples/hello");
        let image = hello.canonicalize().unwrap_or(hello).display().to_string();
        let text = format!(
            "name: {name}\nservices:\n  web:\n    image: oci-layout:{image}\n    ports: [\"8080\"]\n    deploy:\n      resources:\n        limits: {{ cpus: \"0.25\", memory: 64M }}\n"
        );
        let path = self.scratch().join(format!("{name}.yaml"));
        fs::write(&path, change(text))?;
        Ok(path.display().to_string())
    }

    /// The same with another image.
    pub fn compose_image(&self, name: &str, image: &str) -> Result<String> {
        self.compose(name, |text| {
            let line = text.lines().find(|line| line.contains("image:")).unwrap_or_default();
            text.replace(line, &format!("    image: {image}"))
        })
    }

    /// Starts the region, with further options.
    pub fn up(&self, options: &[&str]) -> Result<String> {
        self.atoll(["up", "--name", &self.name].iter().chain(options))
    }

    /// `GET` through the gateway: status and body.
    pub fn get(&self, host: &str, path: &str) -> Result<(u16, String)> {
        let url = format!("http://127.0.0.1:8088{path}");
        let host = format!("Host: {host}");
        let args = ["-s", "--max-time", "10", "-w", "\n%{http_code}", "-H", &host, &url];
        let text = self.inside("curl", args)?;
        let (body, status) = text.rsplit_once('\n').context("curl printed no status")?;
        Ok((status.trim().parse()?, body.to_owned()))
    }

    /// A JSON-RPC request to the region's ledger.
    pub fn rpc(&self, method: &str, params: Value) -> Result<Value> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        let args =
            ["-s", "--max-time", "10", "-H", "Content-Type: application/json", "-d", &body, "http://127.0.0.1:8545/"];
        let mut answer: Value = serde_json::from_str(&self.inside("curl", args)?)?;
        if let Some(error) = answer.get("error") {
            bail!("{method}: {error}");
        }
        Ok(answer["result"].take())
    }

    /// Height of the newest final block.
    pub fn height(&self) -> Result<u64> {
        let height = self.rpc("eth_blockNumber", json!([]))?;
        let digits = height.as_str().and_then(|text| text.strip_prefix("0x")).context("not a height")?;
        Ok(u64::from_str_radix(digits, 16)?)
    }

    /// Sends coins from the wallet to nobody; answers the transaction's hash once it is final.
    pub fn send_coins(&self, amount: &str) -> Result<String> {
        let nobody = "0x000000000000000000000000000000000000dEaD";
        let said = self.atoll(["wallet", "send", nobody, amount, "--yes"])?;
        let (_, hash) = said.split_once("in transaction ").with_context(|| format!("no transaction in: {said}"))?;
        Ok(hash.trim().trim_end_matches('.').to_owned())
    }

    /// All processes of this world's region, by their command lines.
    pub fn processes(&self) -> Result<Vec<u32>> {
        processes_of(&self.state())
    }

    /// `kill -9` of one daemon.
    pub fn kill_daemon(&self, member: &str, role: &str) -> Result<u32> {
        let status: Value = self.atoll_status()?;
        let daemons = status["supervisor"]["daemons"].as_array().context("no daemons in the status")?;
        let pid = daemons
            .iter()
            .find(|daemon| daemon["member"] == member && daemon["role"] == role)
            .and_then(|daemon| daemon["pid"].as_u64())
            .with_context(|| format!("{role} of {member} does not run"))?;
        command("kill", ["-9", &pid.to_string()])?;
        Ok(u32::try_from(pid)?)
    }

    /// `atoll status --json`, whatever its exit code.
    pub fn atoll_status(&self) -> Result<Value> {
        let output = self.command(["status", "--json"]).output()?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("no JSON in: {}", show(&output)))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        // Best effort: what a failed test left must not stop the next one.
        let _ = self.command(["down"]).output();
        for pid in self.processes().unwrap_or_default() {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).output();
        }
        // Fails when the state directory has no disk of its own.
        let _ = self.unmount_state();
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

impl World {
    /// The end of every log, for the report of a failed test.
    fn show_logs(&self) {
        let Ok(logs) = fs::read_dir(self.state().join("logs")) else { return };
        for log in logs.flatten() {
            let text = fs::read_to_string(log.path()).unwrap_or_default();
            let tail: Vec<_> = text.lines().rev().take(15).collect();
            let mut out = std::io::stderr().lock();
            let _ = writeln!(out, "--- {}", log.path().display());
            for line in tail.into_iter().rev() {
                let _ = writeln!(out, "{line}");
            }
        }
    }
}

/// All processes that were started for this state directory.
pub fn processes_of(state: &Path) -> Result<Vec<u32>> {
    let state = state.display().to_string();
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(&state) && pid != std::process::id() {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// Waits until `check` answers something; an error with its last failure when `patience` is over.
pub fn eventually<T>(what: &str, patience: Duration, mut check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    let mut last = String::from("not yet");
    while started.elapsed() < patience {
        match check() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(error) => last = format!("{error:#}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("{what} did not happen within {patience:?}; last: {last}")
}

/// The binary under test: the one beside this program, or what `ATOLL_BIN` names (to compare two builds).
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("ATOLL_BIN") {
        return path.into();
    }
    // Tests are in target/release/deps/, other programs in target/release/.
    let exe = std::env::current_exe().unwrap_or_default();
    exe.ancestors().skip(1).map(|dir| dir.join("atoll")).find(|path| path.is_file()).unwrap_or_default()
}

/// The repository in which this was started. Not that in which it was compiled: clones may share compiled programs.
pub fn repository() -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    here.ancestors().find(|dir| dir.join("Cargo.lock").is_file()).unwrap_or(&here).to_owned()
}

/// Runs a program on the machine itself; an error when it fails.
pub fn command<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Result<String> {
    finish(Command::new(program).args(args))
}

pub(crate) fn finish(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", show(&output));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn show(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
