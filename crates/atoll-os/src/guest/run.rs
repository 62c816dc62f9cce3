//! The workload in the guest, and its way out.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        resource::{Resource, setrlimit},
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{
        ForkResult, Gid, Pid, Uid, chdir, chroot, dup2_stderr, dup2_stdin, dup2_stdout, execve, fork, pipe2, setgid,
        setgroups, setsid, setuid,
    },
};

use super::setup::{CGROUP, Ports, ROOT};
use crate::{
    exec,
    limits::{GUEST_OPEN_FILES_HARD, OPEN_FILES_MAX},
    spec::ShimSpec,
    users::Account,
    vm::protocol::{self, Report},
};

/// Runs the workload to its end.
pub(super) fn workload(spec: &ShimSpec, account: &Account, ports: &mut Ports) -> Result<Report, String> {
    let text = |e: Errno| format!("cannot prepare the guest: {e}");
    let mask = SigSet::from_iter([Signal::SIGCHLD]);
    mask.thread_block().map_err(text)?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(text)?;
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(text);
    let ((out, out_end), (err, err_end), (failure, failure_end)) = (pipe()?, pipe()?, pipe()?);
    // SAFETY: this process has a single thread: the runtime that connected the guest is gone and had none of its own.
    let child = match unsafe { fork() }.map_err(text)? {
        ForkResult::Child => {
            let why = become_workload(spec, account, &out_end, &err_end);
            // If not even this can be said, the exit code remains.
            let _ = File::from(failure_end).write_all(why.as_bytes());
            std::process::exit(127);
        }
        ForkResult::Parent { child } => child,
    };
    drop((out_end, err_end, failure_end));
    // Closed by the exec that succeeds.
    let mut why = String::new();
    File::from(failure).read_to_string(&mut why).map_err(|e| e.to_string())?;
    if !why.is_empty() {
        return Ok(Report::Failed { why });
    }
    ports.report(&Report::Running)?;
    watch(child, &signals, &out, &err, ports).map_err(|e| format!("cannot watch the workload: {e}"))
}

/// Returns only when it fails, with the reason.
fn become_workload(spec: &ShimSpec, account: &Account, out: &OwnedFd, err: &OwnedFd) -> String {
    let prepare = || -> io::Result<()> {
        fs::write(format!("{CGROUP}/cgroup.procs"), "0")?;
        setsid()?;
        dup2_stdin(File::open("/dev/null")?)?;
        dup2_stdout(out)?;
        dup2_stderr(err)?;
        setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES_MAX, GUEST_OPEN_FILES_HARD)?;
        chroot(ROOT)?;
        chdir(spec.process.working_dir.as_str())?;
        let groups: Vec<Gid> = account.groups.iter().map(|group| Gid::from_raw(*group)).collect();
        setgroups(&groups)?;
        setgid(Gid::from_raw(account.gid))?;
        setuid(Uid::from_raw(account.uid))?;
        Ok(exec::restore_signals()?)
    };
    if let Err(e) = prepare() {
        return format!("cannot prepare the process: {e}");
    }
    let mut env = spec.environment();
    if let (Some(home), false) = (&account.home, env.iter().any(|(name, _)| name == "HOME")) {
        env.push(("HOME".to_owned(), home.clone()));
    }
    let path = env.iter().find(|(name, _)| name == "PATH").map_or("", |(_, value)| value);
    let program = match exec::find_program(&spec.process.args[0], path) {
        Ok(program) => program,
        Err(why) => return why,
    };
    let strings = |texts: Vec<String>| texts.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
    let variables = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let (Ok(path), Ok(arguments), Ok(variables)) =
        (CString::new(program.to_string_lossy().as_bytes()), strings(spec.process.args.clone()), strings(variables))
    else {
        return "the command or the environment contains a NUL byte".to_owned();
    };
    match execve(&path, &arguments, &variables) {
        Ok(never) => match never {},
        Err(e) => format!("cannot execute {}: {}", program.display(), e.desc()),
    }
}

/// Carries output and wishes until the workload ends.
fn watch(child: Pid, signals: &SignalFd, out: &OwnedFd, err: &OwnedFd, ports: &mut Ports) -> io::Result<Report> {
    for end in [out.as_fd(), err.as_fd(), ports.control.as_fd()] {
        fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    let (mut open, mut said) = ([true, true], Vec::new());
    loop {
        let mut watched = vec![
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(ports.control.as_fd(), PollFlags::POLLIN),
        ];
        for (end, _) in [out, err].into_iter().zip(open).filter(|(_, open)| *open) {
            watched.push(PollFd::new(end.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        open[0] = open[0] && copy(out, &mut ports.out)?;
        open[1] = open[1] && copy(err, &mut ports.err)?;
        while signals.read_signal()?.is_some() {}
        if is_asked_to_stop(&ports.control, &mut said)? {
            // It may just have ended.
            let _ = kill(child, Signal::SIGTERM);
        }
        if let Some(report) = reap(child)? {
            // What is left of it must not write any more, nor keep the disk busy.
            let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
            while waitpid(Pid::from_raw(-1), None).is_ok() {}
            copy(out, &mut ports.out)?;
            copy(err, &mut ports.err)?;
            fcntl(ports.control.as_fd(), FcntlArg::F_SETFL(OFlag::empty()))?;
            return Ok(report);
        }
    }
}

/// Copies what is there; false when the stream has ended.
fn copy(from: &OwnedFd, to: &mut File) -> io::Result<bool> {
    let mut buffer = [0; 16 * 1024];
    // A pipe holds 64 KiB: signals and wishes get their turn between.
    for _ in 0..8 {
        match nix::unistd::read(from.as_fd(), &mut buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => to.write_all(&buffer[..count])?,
            Err(Errno::EAGAIN) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(true)
}

fn is_asked_to_stop(control: &File, said: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 256];
    match nix::unistd::read(control, &mut buffer) {
        Ok(count) => said.extend_from_slice(&buffer[..count]),
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
        Err(e) => return Err(e.into()),
    }
    let asked = said.windows(protocol::STOP.len()).any(|window| window == protocol::STOP.as_bytes());
    if asked || said.len() > buffer.len() {
        said.clear();
    }
    Ok(asked)
}

/// Collects processes that ended; the report when the workload's first is among them.
fn reap(child: Pid) -> io::Result<Option<Report>> {
    let (code, signal) = loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => break (Some(code), None),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => break (None, Some(signal as i32)),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    };
    let events = fs::read_to_string(format!("{CGROUP}/memory.events")).unwrap_or_default();
    let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
    Ok(Some(Report::Exited { code, signal, oom_kills: kills.unwrap_or_default() }))
}
