//! A workload's shim: a small process of its own that starts the workload, keeps its log, and writes down how it ended.
//! It lives in its own session, so the daemon that started it may stop, be updated or crash meanwhile.
//!
//! ```text
//! absent ──start──▶ starting ──▶ running ──▶ exited (record)
//!                      │            │
//!                      └────────────┴─ shim killed ─▶ lost ──start or clear──▶ …
//! ```
//!
//! Everything that is known about it is in its directory, which the caller chooses and owns:
//!
//! | file | holds |
//! |---|---|
//! | `spec.json` | the [`ShimSpec`] |
//! | `shim.json` | the shim's [`ProcessId`], as soon as it lives |
//! | `running.json` | [`Running`], as soon as the workload executes |
//! | `exit.json` | the [`ExitRecord`], when it has ended |
//! | `output.log`, `output.log.1` | what it printed, see [`crate::log`] |
//! | `shim.log` | what went wrong in the shim itself |
//!
//! When a shim is killed, the kernel kills a container's first process with it; `start`, `clear` and `remove` kill
//! whatever else is left in the workload's cgroup.

mod container;
mod oci;
mod run;
mod vm;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

pub use run::main;

use crate::{
    cgroup::{Cgroup, CgroupError, Usage},
    disk::{self, DiskError},
    process::ProcessId,
    spec::{ShimSpec, SpecError},
};

const SPEC: &str = "spec.json";
const SHIM: &str = "shim.json";
const RUNNING: &str = "running.json";
const EXIT: &str = "exit.json";
const SHIM_LOG: &str = "shim.log";
/// Files that are made anew at each start.
const TRANSIENT: [&str; 6] = [SHIM, RUNNING, EXIT, "bundle", "oci", "etc"];

/// A shim could not be started, asked or ended.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The specification cannot be carried out.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Its directory.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Its cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The shim's process could not be made or reached.
    #[error("cannot {what} the shim in {dir}")]
    Process {
        /// What was tried.
        what: &'static str,
        /// The shim's directory.
        dir: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The shim ended before it had started the workload and left no record.
    #[error("the shim ended before the workload ran; {log} says why")]
    Died {
        /// Its own log.
        log: PathBuf,
    },
}

/// Where a workload stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It was never started, or was cleared.
    Absent,
    /// Its shim lives and prepares it.
    Starting,
    /// It executes.
    Running(Running),
    /// It has ended, or could not be started.
    Exited(ExitRecord),
    /// Its shim was killed or the machine restarted: nobody knows how it ended. Start or clear it.
    Lost,
}

/// A workload that executes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The container's first process, or the hypervisor.
    pub process: ProcessId,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
    /// What could not be had on this machine and was left out, in plain words.
    pub lacking: Vec<String>,
}

/// How a workload ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Its exit code, if it ended by itself.
    pub code: Option<i32>,
    /// The number of the signal that ended it.
    pub signal: Option<i32>,
    /// How often the kernel killed in it for want of memory.
    pub oom_kills: u64,
    /// Whether it was asked to stop.
    pub stopped: bool,
    /// Why it could not be started at all.
    pub error: Option<String>,
    /// When it ended, milliseconds since 1970.
    pub finished_ms: u64,
}

impl ExitRecord {
    /// In plain words, for people.
    pub fn why(&self) -> String {
        let ending = match (&self.error, self.code, self.signal) {
            (Some(error), _, _) => format!("could not be started: {error}"),
            (_, Some(code), _) => format!("exited with code {code}"),
            (_, _, Some(signal)) => {
                let name = Signal::try_from(signal).map_or_else(|_| signal.to_string(), |s| s.as_str().to_owned());
                format!("was ended by signal {name}")
            }
            (None, None, None) => "ended".to_owned(),
        };
        match (self.oom_kills, self.stopped) {
            (0, false) => ending,
            (0, true) => format!("{ending} after it was asked to stop"),
            (_, _) => format!("{ending}; the kernel killed in it because its memory limit was reached"),
        }
    }
}

/// A workload's shim, by its directory, whether it runs or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shim {
    dir: PathBuf,
}

impl Shim {
    /// The shim of this directory.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts the workload unless it runs already, and returns when it executes or could not be started: see
    /// [`Self::status`]. (A micro-VM that waits for its turn to boot may still be starting after
    /// [`crate::limits::SHIM_START_MAX`].) What is left of an earlier run is cleared first; its log is continued.
    ///
    /// The shim is this program, called as `shim <directory>`; its `main` must pass that on to [`main`]. Blocks for
    /// some tens of milliseconds: on a tokio runtime, call it with `spawn_blocking`.
    pub fn start(&self, spec: &ShimSpec) -> Result<(), ShimError> {
        spec.check()?;
        if matches!(self.status()?, Status::Starting | Status::Running(_)) {
            return Ok(());
        }
        std::fs::create_dir_all(&self.dir).map_err(DiskError::io("create", &self.dir))?;
        self.clear()?;
        disk::write_json(&self.dir.join(SPEC), spec)?;
        let log_path = self.dir.join(SHIM_LOG);
        let log = File::create(&log_path).map_err(DiskError::io("create", &log_path))?;
        let status = Command::new("/proc/self/exe")
            .arg("shim")
            .arg(&self.dir)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(self.error("start"))?)
            .stderr(log)
            .status()
            .map_err(self.error("start"))?;
        if status.success() || matches!(self.status()?, Status::Exited(_)) {
            return Ok(());
        }
        Err(ShimError::Died { log: log_path })
    }

    /// Where the workload stands. A daemon that was restarted finds everything out from this.
    pub fn status(&self) -> Result<Status, ShimError> {
        let Some(shim) = disk::read_json::<ProcessId>(&self.dir.join(SHIM))? else { return Ok(Status::Absent) };
        // Asked before the record is looked for: a shim writes its record and only then ends.
        let lives = shim.is_alive();
        if let Some(record) = disk::read_json(&self.dir.join(EXIT))? {
            return Ok(Status::Exited(record));
        }
        if !lives {
            return Ok(Status::Lost);
        }
        Ok(disk::read_json(&self.dir.join(RUNNING))?.map_or(Status::Starting, Status::Running))
    }

    /// The specification with which it was last started.
    pub fn spec(&self) -> Result<Option<ShimSpec>, ShimError> {
        Ok(disk::read_json(&self.dir.join(SPEC))?)
    }

    /// Asks the workload to end: SIGTERM, and after its grace it is killed. Returns at once; false when there is no
    /// shim that could do it.
    pub fn stop(&self) -> Result<bool, ShimError> {
        self.signal(Signal::SIGTERM)
    }

    /// Ends the workload without asking it. Returns at once; false when there is no shim that could do it.
    pub fn kill(&self) -> Result<bool, ShimError> {
        self.signal(Signal::SIGINT)
    }

    /// Waits until the shim has ended, and says how the workload did: [`Status::Exited`], [`Status::Lost`] or
    /// [`Status::Absent`].
    pub async fn ended(&self) -> Result<Status, ShimError> {
        if let Some(shim) = disk::read_json::<ProcessId>(&self.dir.join(SHIM))? {
            shim.gone().await.map_err(self.error("wait for"))?;
        }
        self.status()
    }

    /// What the workload uses now.
    pub fn usage(&self) -> Result<Usage, ShimError> {
        match self.spec()? {
            Some(spec) => Ok(Cgroup::of(&spec.name)?.usage()),
            None => Ok(Usage::default()),
        }
    }

    /// Kills the shim and all of the workload, if any of it is left, and forgets how it ended. Its log stays. Blocks
    /// until nothing is left, at most [`crate::limits::CGROUP_EMPTY_MAX`].
    pub fn clear(&self) -> Result<(), ShimError> {
        self.signal(Signal::SIGKILL)?;
        if let Some(spec) = self.spec()? {
            Cgroup::of(&spec.name)?.remove()?;
        }
        for name in TRANSIENT {
            disk::remove(&self.dir.join(name))?;
        }
        Ok(())
    }

    /// [`Self::clear`], and removes its directory with the log and whatever else the caller put there.
    pub fn remove(&self) -> Result<(), ShimError> {
        self.clear()?;
        Ok(disk::remove(&self.dir)?)
    }

    fn signal(&self, signal: Signal) -> Result<bool, ShimError> {
        match disk::read_json::<ProcessId>(&self.dir.join(SHIM))? {
            Some(shim) => shim.signal(signal).map_err(self.error("signal")),
            None => Ok(false),
        }
    }

    fn error(&self, what: &'static str) -> impl Fn(io::Error) -> ShimError {
        let dir = self.dir.clone();
        move |source| ShimError::Process { what, dir: dir.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_told_in_plain_words() {
        let record = ExitRecord { code: Some(3), ..ExitRecord::default() };
        assert_eq!(record.why(), "exited with code 3");
        let record = ExitRecord { signal: Some(15), stopped: true, ..ExitRecord::default() };
        assert_eq!(record.why(), "was ended by signal SIGTERM after it was asked to stop");
        let record = ExitRecord { signal: Some(9), oom_kills: 1, ..ExitRecord::default() };
        assert!(record.why().ends_with("its memory limit was reached"));
    }

    #[test]
    fn an_empty_directory_is_an_absent_workload() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let shim = Shim::at(dir.path());
        assert_eq!(shim.status().expect("status"), Status::Absent);
        assert!(!shim.stop().expect("stop") && !shim.kill().expect("kill"));
        shim.clear().expect("clear");
    }
}
