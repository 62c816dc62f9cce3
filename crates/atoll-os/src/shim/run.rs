//! The shim's own process: single-threaded, one loop over the workload's output, its end and the wishes of the daemon.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork, pipe2, setsid},
};

use super::{
    EXIT, ExitRecord, RUNNING, Running, SHIM, SPEC, ShimError, container,
    vm::{self, Guest, Heard},
};
use crate::{
    cgroup::Cgroup,
    disk,
    limits::{SHIM_START_MAX, VM_BOOT_MAX, VM_POWER_OFF_MAX},
    log::{LineSplitter, LogWriter, Stream},
    process::ProcessId,
    spec::{Engine, ShimSpec},
};

/// How often one stream is read before the other things are looked at; more than a pipe holds.
const READS_PER_ROUND: usize = 32;

/// The main function of `atoll shim <directory>`, given what follows `shim`. Call it before any thread is started.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let (Some(dir), None) = (arguments.next(), arguments.next()) else {
        return complain("usage: shim <directory>; this is for the node daemon, not for people");
    };
    match detach(PathBuf::from(dir)) {
        Ok(code) => code,
        Err(error) => complain(&error.to_string()),
    }
}

/// Forks the process that stays. The one that was called waits until the workload executes or has failed to.
fn detach(dir: PathBuf) -> io::Result<ExitCode> {
    let threads = fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!("the shim has {threads} threads, but must have one: it forks")));
    }
    let (ready, ready_end) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: this process has a single thread, checked above, so the child finds no lock held.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => {
            drop(ready_end);
            let patience = PollTimeout::try_from(SHIM_START_MAX).unwrap_or(PollTimeout::MAX);
            if poll(&mut [PollFd::new(ready.as_fd(), PollFlags::POLLIN)], patience)? == 0 {
                // It goes on by itself, and its status says so.
                return Ok(ExitCode::SUCCESS);
            }
            let said = File::from(ready).read(&mut [0])?;
            Ok(if said == 1 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        ForkResult::Child => {
            drop(ready);
            setsid()?;
            match run(&dir, File::from(ready_end)) {
                Ok(()) => Ok(ExitCode::SUCCESS),
                Err(error) => Ok(complain(&error.to_string())),
            }
        }
    }
}

fn run(dir: &Path, mut ready: File) -> Result<(), ShimError> {
    let fail = |what: &'static str| move |source: io::Error| ShimError::Process { what, dir: dir.to_owned(), source };
    let own = ProcessId::current().map_err(fail("identify"))?;
    disk::write_json(&dir.join(SHIM), &own)?;
    let Some(spec) = disk::read_json::<ShimSpec>(&dir.join(SPEC))? else {
        return Err(fail("find the specification of")(io::ErrorKind::NotFound.into()));
    };
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD]);
    signals.thread_block().map_err(|e| fail("prepare")(e.into()))?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|e| fail("prepare")(e.into()))?;
    let mut log = LogWriter::open(dir, spec.log_file_bytes).map_err(fail("open the log of"))?;
    let cgroup = Cgroup::of(&spec.name)?;

    let started = match &spec.engine {
        Engine::Container { root, binds } => container::start(dir, &spec, root, binds, &cgroup),
        Engine::MicroVm { disk, accelerator, .. } => vm::start(dir, &spec, disk, *accelerator, &cgroup, &signals),
    };
    let record = match started {
        Ok(child) => {
            let process = ProcessId::of(child.pid.as_raw()).map_err(fail("identify the workload of"))?;
            let running = Running { process, since_ms: 0, lacking: child.lacking.clone() };
            let mut announce = || {
                disk::write_json(&dir.join(RUNNING), &Running { since_ms: now_ms(), ..running.clone() })?;
                say_ready(&mut ready);
                Ok(())
            };
            Watch::new(&spec, child, &signals, &cgroup, &mut log).until_ended(&mut announce)?
        }
        Err(error) => ExitRecord { error: Some(error.to_string()), ..ExitRecord::default() },
    };
    if let Some(why) = &record.error {
        log.line(Stream::Note, format!("could not be started: {why}").as_bytes(), SystemTime::now());
    }
    let oom_kills = record.oom_kills + cgroup.usage().oom_kills;
    let record = ExitRecord { oom_kills, finished_ms: now_ms(), ..record };
    let removed = cgroup.remove();
    disk::write_json(&dir.join(EXIT), &record)?;
    say_ready(&mut ready);
    Ok(removed?)
}

/// The process that waits may have been killed: then nobody needs to be told.
fn say_ready(ready: &mut File) {
    let _ = ready.write_all(b"!");
}

/// What a shim watches over.
pub(super) struct Child {
    /// The first process of a container, or the hypervisor: a child of this process.
    pub(super) pid: Pid,
    /// What it prints.
    pub(super) outputs: Vec<(Stream, OwnedFd)>,
    /// What the machine lacks.
    pub(super) lacking: Vec<String>,
    /// How to talk to the guest, if there is one.
    pub(super) guest: Option<Guest>,
}

/// The loop around a running workload.
struct Watch<'a> {
    child: Pid,
    outputs: Vec<(Stream, Option<OwnedFd>, LineSplitter)>,
    guest: Option<Guest>,
    signals: &'a SignalFd,
    cgroup: &'a Cgroup,
    log: &'a mut LogWriter,
    grace: Duration,
    kill_at: Option<Instant>,
    record: ExitRecord,
}

impl<'a> Watch<'a> {
    fn new(spec: &ShimSpec, child: Child, signals: &'a SignalFd, cgroup: &'a Cgroup, log: &'a mut LogWriter) -> Self {
        let open = |(stream, end)| (stream, Some(end), LineSplitter::default());
        Self {
            child: child.pid,
            outputs: child.outputs.into_iter().map(open).collect(),
            kill_at: child.guest.as_ref().map(|_| Instant::now() + VM_BOOT_MAX),
            guest: child.guest,
            signals,
            cgroup,
            log,
            grace: Duration::from_millis(spec.stop_grace_ms),
            record: ExitRecord::default(),
        }
    }

    fn until_ended(mut self, announce: &mut dyn FnMut() -> Result<(), ShimError>) -> Result<ExitRecord, ShimError> {
        let broken =
            |source: io::Error| ShimError::Process { what: "watch the workload of", dir: PathBuf::new(), source };
        for (_, end, _) in &self.outputs {
            let end = end.as_ref().map(|end| fcntl(end.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)));
            end.transpose().map_err(|e| broken(e.into()))?;
        }
        if self.guest.is_none() {
            announce()?;
        }
        loop {
            self.wait().map_err(broken)?;
            self.read_output().map_err(broken)?;
            self.obey().map_err(broken)?;
            if self.hear_guest().map_err(broken)? {
                announce()?;
            }
            if self.kill_at.is_some_and(|at| at <= Instant::now()) {
                self.kill_at = None;
                self.kill_all();
            }
            if self.reap().map_err(broken)? {
                // The first process is gone and with it all that could write: what is in the pipes is all there is.
                self.read_output().map_err(broken)?;
                self.hear_guest().map_err(broken)?;
                for (stream, _, splitter) in &mut self.outputs {
                    splitter.finish(|line| self.log.line(*stream, line, SystemTime::now()));
                }
                return Ok(match self.guest {
                    Some(guest) => guest.conclude(self.record),
                    None => self.record,
                });
            }
        }
    }

    /// Sleeps until there is something to do.
    fn wait(&self) -> io::Result<()> {
        let left = self.kill_at.map(|at| at.saturating_duration_since(Instant::now()));
        // Rounded up: waking a little late is better than spinning until the time has come.
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let mut watched = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let open = self.outputs.iter().filter_map(|(_, end, _)| end.as_ref());
        let control = self.guest.as_ref().and_then(Guest::control);
        watched.extend(open.map(|end| end.as_fd()).chain(control).map(|end| PollFd::new(end, PollFlags::POLLIN)));
        match poll(&mut watched, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn read_output(&mut self) -> io::Result<()> {
        let mut buffer = [0; 64 * 1024];
        for (stream, end, splitter) in &mut self.outputs {
            // Bounded, so that a workload that never stops talking cannot keep the shim from hearing its daemon.
            for _ in 0..READS_PER_ROUND {
                let Some(open) = end else { break };
                match nix::unistd::read(open.as_fd(), &mut buffer) {
                    Ok(0) => *end = None,
                    Ok(count) => {
                        splitter.feed(&buffer[..count], |line| self.log.line(*stream, line, SystemTime::now()))
                    }
                    Err(Errno::EAGAIN) => break,
                    Err(Errno::EINTR) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Ok(())
    }

    /// Takes the signals that came: ends of children only wake the loop.
    fn obey(&mut self) -> io::Result<()> {
        while let Some(signal) = self.signals.read_signal()? {
            match Signal::try_from(signal.ssi_signo as i32)? {
                Signal::SIGTERM if !self.record.stopped => {
                    self.record.stopped = true;
                    self.kill_at = Some(Instant::now() + self.grace);
                    match &mut self.guest {
                        Some(guest) => guest.ask_to_stop(),
                        // It may just have ended.
                        None => drop(kill(self.child, Signal::SIGTERM)),
                    }
                }
                Signal::SIGINT => {
                    self.record.stopped = true;
                    self.kill_all();
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads what the guest reports; true when its workload has begun.
    fn hear_guest(&mut self) -> io::Result<bool> {
        let Some(guest) = &mut self.guest else { return Ok(false) };
        let heard = guest.hear()?;
        match heard {
            Heard::Nothing => {}
            // Unless it is to be killed because it was asked to stop.
            Heard::Running if !self.record.stopped => self.kill_at = None,
            Heard::Running => {}
            Heard::Ending => self.kill_at = Some(Instant::now() + VM_POWER_OFF_MAX),
        }
        Ok(matches!(heard, Heard::Running))
    }

    fn kill_all(&self) {
        let _ = kill(self.child, Signal::SIGKILL);
        for pid in self.cgroup.pids() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// Collects children that ended; true when the workload is among them.
    fn reap(&mut self) -> io::Result<bool> {
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.child => {
                    self.record.code = Some(code);
                    return Ok(true);
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.child => {
                    self.record.signal = Some(signal as i32);
                    return Ok(true);
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(false),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn complain(text: &str) -> ExitCode {
    eprintln!("atoll shim: {text}");
    ExitCode::FAILURE
}
