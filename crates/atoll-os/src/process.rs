//! Processes told apart even when their numbers are used again.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::Command,
};

use nix::{libc, sys::signal::Signal};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

/// A process, for as long as the machine runs and beyond: a later process with the same number is another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number in this process's PID namespace.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    start_ticks: u64,
    /// Which boot of the machine.
    boot: String,
}

impl ProcessId {
    /// The process that now has this number.
    pub fn of(pid: i32) -> io::Result<Self> {
        let (_, start_ticks) = read_stat(pid)?;
        Ok(Self { pid, start_ticks, boot: boot_id()? })
    }

    /// This process.
    pub fn current() -> io::Result<Self> {
        Self::of(nix::unistd::getpid().as_raw())
    }

    /// Whether it still runs. A zombie does not.
    pub fn is_alive(&self) -> bool {
        matches!(read_stat(self.pid), Ok((state, ticks)) if ticks == self.start_ticks && state != 'Z' && state != 'X')
            && boot_id().is_ok_and(|boot| boot == self.boot)
    }

    /// Sends it a signal; false when it is gone. Never hits a process that took over its number.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        let Some(handle) = self.handle()? else { return Ok(false) };
        // SAFETY: the descriptor is an open pidfd, a null siginfo means "as kill() would", and flags must be 0.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                handle.as_raw_fd(),
                signal as libc::c_int,
                core::ptr::null::<libc::c_void>(),
                0,
            )
        };
        match result {
            0 => Ok(true),
            _ => match io::Error::last_os_error() {
                e if e.raw_os_error() == Some(libc::ESRCH) => Ok(false),
                e => Err(e),
            },
        }
    }

    /// Asks it to end (`SIGTERM`); false when it is gone.
    pub fn terminate(&self) -> io::Result<bool> {
        self.signal(Signal::SIGTERM)
    }

    /// Ends it at once (`SIGKILL`); false when it is gone.
    pub fn kill(&self) -> io::Result<bool> {
        self.signal(Signal::SIGKILL)
    }

    /// Waits until it has ended.
    pub async fn gone(&self) -> io::Result<()> {
        let Some(handle) = self.handle()? else { return Ok(()) };
        // SAFETY: `handle` owns its descriptor, and the `AsyncFd` owns `handle`: it stays open and the same until dropped.
        let watched = unsafe { AsyncFd::register_with_interest(handle, tokio::io::Interest::READABLE) }?;
        let _ready = watched.readable().await?;
        Ok(())
    }

    /// A descriptor that stands for exactly this process; none when it is gone.
    fn handle(&self) -> io::Result<Option<OwnedFd>> {
        // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) };
        if result < 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::ESRCH) { Ok(None) } else { Err(error) };
        }
        // SAFETY: the kernel just returned this descriptor to us and nobody else owns it; descriptors fit an int.
        let handle = unsafe { OwnedFd::from_raw_fd(result as i32) };
        // Only now that the number cannot be used again is the check conclusive.
        Ok(self.is_alive().then_some(handle))
    }
}

/// Whether this process may do what only root may.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Lets the kernel send the child `SIGTERM` when the thread that starts it ends: a daemon never outlives its supervisor.
/// Start it from a thread that lives as long as the supervisor.
pub fn end_with_parent(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe and allocates nothing.
    unsafe { command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).map_err(io::Error::from)) }
}

/// State letter and start time of a process.
fn read_stat(pid: i32) -> io::Result<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&stat)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is not as expected")))
}

/// The name, field 2, is in parentheses and may hold anything, also parentheses.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some((state, start_ticks))
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let stat = "7 (a) Z (b)) S 1 7 7 0 -1 4194560 1 0 0 0 2 3 0 0 20 0 1 0 4242 0 0 18446744073709551615";
        assert_eq!(parse_stat(stat), Some(('S', 4242)));
        assert_eq!(parse_stat("7 (a"), None);
    }

    #[test]
    fn a_process_lives_until_it_is_killed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("spawn sleep");
        let id = ProcessId::of(child.id() as i32).expect("its identity");
        assert!(id.is_alive() && ProcessId::current().expect("own identity").is_alive());
        let impostor = ProcessId { start_ticks: id.start_ticks + 1, ..id.clone() };
        assert!(!impostor.is_alive());
        assert!(!impostor.signal(Signal::SIGKILL).expect("signal"), "the wrong process is spared");
        assert!(id.is_alive());
        assert!(id.signal(Signal::SIGKILL).expect("signal"));
        child.wait().expect("reap");
        assert!(!id.is_alive() && !id.signal(Signal::SIGKILL).expect("signal"));
    }
}
