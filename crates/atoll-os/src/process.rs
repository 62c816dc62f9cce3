//! Processes by id, without mistaking a new process for an old one that had the same number.

use std::{fs, io, os::unix::process::CommandExt as _, process::Command};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// A process: its id and when it started, which together are never used twice until the machine restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRef {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot (`proc(5)`, field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
}

impl ProcessRef {
    /// The process that has this id now; `None` when there is none.
    pub fn of(pid: u32) -> Option<Self> {
        start_ticks(pid).map(|start_ticks| Self { pid, start_ticks })
    }

    /// Whether this very process still exists and is not a zombie.
    pub fn is_alive(self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }

    /// Asks it to end (`SIGTERM`). A process that is gone already is no error.
    pub fn terminate(self) -> io::Result<()> {
        self.signal(Signal::SIGTERM)
    }

    /// Ends it at once (`SIGKILL`). A process that is gone already is no error.
    pub fn kill(self) -> io::Result<()> {
        self.signal(Signal::SIGKILL)
    }

    fn signal(self, signal: Signal) -> io::Result<()> {
        let Ok(pid) = i32::try_from(self.pid) else { return Ok(()) };
        if !self.is_alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Start time of a process; `None` when it does not exist or is a zombie.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may hold anything, spaces and parentheses too.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Lets the kernel send the child `SIGTERM` when the thread that starts it ends: a daemon never outlives its supervisor.
/// Start it from a thread that lives as long as the supervisor.
pub fn end_with_parent(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe and allocates nothing.
    unsafe { command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGTERM).map_err(io::Error::from)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_its_successor() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep starts");
        let process = ProcessRef::of(child.id()).expect("it runs");
        assert!(process.is_alive());
        assert!(!ProcessRef { start_ticks: process.start_ticks + 1, ..process }.is_alive());
        process.kill().expect("killed");
        child.wait().expect("reaped");
        assert!(!process.is_alive());
        process.terminate().expect("a gone process is no error");
    }
}
