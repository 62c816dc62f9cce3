//! Resource limits and accounts of one workload, on cgroup v1, hybrid and v2 machines.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal,
        statfs::{CGROUP2_SUPER_MAGIC, TMPFS_MAGIC, statfs},
    },
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use crate::limits::{CGROUP_EMPTY_MAX, CPU_PERIOD_US};

const ROOT: &str = "/sys/fs/cgroup";
/// The v1 hierarchies that limit or account.
const V1_CONTROLLERS: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];
/// All workloads of all regions on this machine are below it.
const PARENT: &str = "atoll";

/// A cgroup could not be made, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The machine's cgroups are not mounted where they should be.
    #[error("there are no cgroups under {ROOT}, only {0}; mount cgroup2 there")]
    Setup(String),
    /// A file of the cgroup could not be read or written.
    #[error("cannot {what} {path}; this needs root and the kernel's cpu, memory and pids controllers")]
    Io {
        /// What was tried.
        what: String,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Processes are left though they were killed.
    #[error("processes of cgroup {0} do not end though they were killed; they may wait for a disk")]
    Stuck(String),
}

/// What a workload may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Thousandths of a core; the workload is throttled beyond it.
    pub cpu_milli: u64,
    /// Bytes of memory; the kernel kills in the workload beyond it.
    pub memory_bytes: u64,
    /// Processes and threads; more cannot be started.
    pub pids_max: u32,
}

/// What a workload uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time since its start, in microseconds.
    pub cpu_us: u64,
    /// Memory now, with caches that the kernel would give up.
    pub memory_bytes: u64,
    /// Processes and threads now.
    pub pids: u64,
    /// How often the kernel killed in it for want of memory.
    pub oom_kills: u64,
}

/// How the machine's cgroups are set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only v2.
    Unified,
    /// Controllers on v1 (with or without an empty v2 tree).
    V1,
}

/// The cgroup of one workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    name: String,
    mode: Mode,
}

impl Cgroup {
    /// The cgroup of the workload of this name, whether it exists or not.
    pub fn of(name: &str) -> Result<Self, CgroupError> {
        Ok(Self { name: name.to_owned(), mode: mode()? })
    }

    /// Its path as the OCI runtime specification wants it: from the root of each hierarchy.
    pub fn oci_path(&self) -> String {
        format!("/{PARENT}/{}", self.name)
    }

    /// Makes it, empty and with these limits.
    pub fn create(&self, limits: Limits) -> Result<(), CgroupError> {
        // The kernel takes no quota below a millisecond, and no share or weight out of its range.
        let quota_us = (limits.cpu_milli.saturating_mul(CPU_PERIOD_US) / 1000).max(1000);
        let shares = (limits.cpu_milli.saturating_mul(1024) / 1000).clamp(2, 262_144);
        let set = |controller: &str, file: &str, value: &str| write(&self.directory(controller).join(file), value);
        match self.mode {
            Mode::Unified => {
                self.create_unified()?;
                set("cpu", "cpu.max", &format!("{quota_us} {CPU_PERIOD_US}"))?;
                set("cpu", "cpu.weight", &(1 + (shares - 2) * 9999 / 262_142).to_string())?;
                set("memory", "memory.max", &limits.memory_bytes.to_string())?;
                set_if_there(&self.directory("memory").join("memory.swap.max"), "0")?;
                set("pids", "pids.max", &limits.pids_max.to_string())
            }
            Mode::V1 => {
                for controller in V1_CONTROLLERS {
                    make_directory(&self.directory(controller))?;
                }
                set("cpu", "cpu.cfs_period_us", &CPU_PERIOD_US.to_string())?;
                set("cpu", "cpu.cfs_quota_us", &quota_us.to_string())?;
                set("cpu", "cpu.shares", &shares.to_string())?;
                let bytes = limits.memory_bytes.to_string();
                set("memory", "memory.limit_in_bytes", &bytes)?;
                set_if_there(&self.directory("memory").join("memory.memsw.limit_in_bytes"), &bytes)?;
                set("pids", "pids.max", &limits.pids_max.to_string())
            }
        }
    }

    /// Moves a process into it.
    pub fn add(&self, pid: Pid) -> Result<(), CgroupError> {
        match self.mode {
            Mode::Unified => write(&self.directory("").join("cgroup.procs"), &pid.to_string()),
            Mode::V1 => V1_CONTROLLERS
                .iter()
                .try_for_each(|controller| write(&self.directory(controller).join("cgroup.procs"), &pid.to_string())),
        }
    }

    /// What it uses; zeroes for what the machine does not count or when it does not exist.
    pub fn usage(&self) -> Usage {
        let number = |controller: &str, file: &str| read_number(&self.directory(controller).join(file));
        let field = |controller: &str, file: &str, key: &str| read_field(&self.directory(controller).join(file), key);
        match self.mode {
            Mode::Unified => Usage {
                cpu_us: field("cpu", "cpu.stat", "usage_usec"),
                memory_bytes: number("memory", "memory.current"),
                pids: number("pids", "pids.current"),
                oom_kills: field("memory", "memory.events", "oom_kill"),
            },
            Mode::V1 => Usage {
                cpu_us: number("cpuacct", "cpuacct.usage") / 1000,
                memory_bytes: number("memory", "memory.usage_in_bytes"),
                pids: number("pids", "pids.current"),
                oom_kills: field("memory", "memory.oom_control", "oom_kill"),
            },
        }
    }

    /// The processes in it.
    pub fn pids(&self) -> Vec<i32> {
        let read = |dir: &Path| fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        let mut pids: Vec<i32> = self
            .directories()
            .iter()
            .flat_map(|dir| read(dir).lines().filter_map(|l| l.parse().ok()).collect::<Vec<_>>())
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Kills what is in it and removes it. Waits until it is gone, at most [`CGROUP_EMPTY_MAX`].
    pub fn remove(&self) -> Result<(), CgroupError> {
        let give_up = Instant::now() + CGROUP_EMPTY_MAX;
        loop {
            let pids = self.pids();
            for pid in &pids {
                // It may just have ended.
                let _ = signal::kill(Pid::from_raw(*pid), signal::Signal::SIGKILL);
            }
            if pids.is_empty() && self.remove_directories()? {
                return Ok(());
            }
            if Instant::now() > give_up {
                return Err(CgroupError::Stuck(self.name.clone()));
            }
            // The kernel offers no event for "empty" that works on v1 and v2 alike.
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn create_unified(&self) -> Result<(), CgroupError> {
        let parent = Path::new(ROOT).join(PARENT);
        make_directory(&parent)?;
        for level in [Path::new(ROOT), &parent] {
            write(&level.join("cgroup.subtree_control"), "+cpu +memory +pids")?;
        }
        make_directory(&self.directory(""))
    }

    /// False while the kernel still holds one of them.
    fn remove_directories(&self) -> Result<bool, CgroupError> {
        for path in self.directories() {
            match fs::remove_dir(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy => return Ok(false),
                Err(source) => return Err(CgroupError::Io { what: "remove".into(), path, source }),
            }
        }
        Ok(true)
    }

    fn directory(&self, controller: &str) -> PathBuf {
        let hierarchy = match self.mode {
            Mode::Unified => PathBuf::from(ROOT),
            Mode::V1 => Path::new(ROOT).join(controller),
        };
        hierarchy.join(PARENT).join(&self.name)
    }

    /// In every hierarchy in which it exists.
    fn directories(&self) -> Vec<PathBuf> {
        let hierarchies = match self.mode {
            Mode::Unified => vec![PathBuf::from(ROOT)],
            Mode::V1 => fs::read_dir(ROOT).into_iter().flatten().flatten().map(|entry| entry.path()).collect(),
        };
        hierarchies.into_iter().map(|root| root.join(PARENT).join(&self.name)).filter(|dir| dir.is_dir()).collect()
    }
}

/// How this machine's cgroups are set up.
pub fn mode() -> Result<Mode, CgroupError> {
    let kind = statfs(ROOT).map_err(|e| CgroupError::Setup(e.to_string()))?.filesystem_type();
    match kind {
        CGROUP2_SUPER_MAGIC => Ok(Mode::Unified),
        TMPFS_MAGIC => Ok(Mode::V1),
        other => Err(CgroupError::Setup(format!("a file system of type {:#x}", other.0))),
    }
}

/// The controllers that limits need and this machine lacks.
pub fn missing_controllers() -> Result<Vec<&'static str>, CgroupError> {
    let needed = ["cpu", "memory", "pids"];
    let available: Vec<String> = match mode()? {
        Mode::Unified => {
            let path = Path::new(ROOT).join("cgroup.controllers");
            let text =
                fs::read_to_string(&path).map_err(|source| CgroupError::Io { what: "read".into(), path, source })?;
            text.split_ascii_whitespace().map(str::to_owned).collect()
        }
        Mode::V1 => needed
            .iter()
            .filter(|c| Path::new(ROOT).join(c).join("cgroup.procs").exists())
            .map(|c| (*c).to_owned())
            .collect(),
    };
    Ok(needed.into_iter().filter(|controller| !available.iter().any(|a| a == controller)).collect())
}

fn make_directory(path: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(path).map_err(|source| CgroupError::Io { what: "create".into(), path: path.into(), source })
}

fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(path, value).map_err(|source| CgroupError::Io {
        what: format!("write '{value}' to"),
        path: path.into(),
        source,
    })
}

/// Machines without swap accounting lack some files; without swap they are not needed.
fn set_if_there(path: &Path, value: &str) -> Result<(), CgroupError> {
    if path.exists() { write(path, value) } else { Ok(()) }
}

fn read_number(path: &Path) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}

fn read_field(path: &Path, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let value = |line: &str| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or_default()
}
