//! Starts a container with `libcontainer`, which forks: only for the single-threaded shim.

use std::{
    ffi::CString,
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use libcontainer::{
    container::builder::ContainerBuilder,
    oci_spec::runtime::Spec,
    syscall::syscall::SyscallType,
    workload::{Executor, ExecutorError, ExecutorValidationError},
};
use nix::{
    errno::Errno,
    libc::{self, sock_filter},
    unistd::{Gid, Pid, Uid, execv, fchown, pipe2},
};

use super::{ShimError, oci, run::Child};
use crate::{
    cgroup::Cgroup,
    disk::{self, DiskError},
    exec,
    limits::WORKLOAD_OOM_SCORE,
    log::Stream,
    rootfs, seccomp,
    spec::{Bind, ShimSpec, SpecError},
    users,
};

/// Creates the container in its cgroup and starts its process.
pub(super) fn start(
    dir: &Path,
    spec: &ShimSpec,
    root: &Path,
    binds: &[Bind],
    cgroup: &Cgroup,
) -> Result<Child, ShimError> {
    let root = fs::canonicalize(root).map_err(DiskError::io("find the container's root", root))?;
    let account = users::look_up(&root, spec.process.user.as_deref())?;
    rootfs::ensure_directory_inside(&root, &spec.process.working_dir)
        .map_err(|e| SpecError { what: "working directory", why: format!("cannot create it in the container: {e}") })?;
    let mut binds = binds.to_vec();
    binds.extend(name_service_files(dir, spec)?);
    let bundle = dir.join("bundle");
    fs::create_dir_all(&bundle).map_err(DiskError::io("create", &bundle))?;
    disk::write_json(&bundle.join("config.json"), &oci::config(spec, &root, &binds, &account, cgroup)?)?;
    cgroup.create(spec.limits)?;

    let fail = |what: &'static str| {
        move |source: Errno| ShimError::Process { what, dir: dir.to_owned(), source: source.into() }
    };
    let (out, out_end) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(fail("open a pipe for"))?;
    let (err, err_end) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(fail("open a pipe for"))?;
    for end in [&out_end, &err_end] {
        // So that a process that gave up root can open /dev/stdout.
        fchown(end.as_fd(), Some(Uid::from_raw(account.uid)), Some(Gid::from_raw(account.gid)))
            .map_err(fail("hand over a pipe of"))?;
    }
    let mut lacking = Vec::new();
    let filter = if seccomp::available() {
        seccomp::filter()
    } else {
        lacking.push("system calls are not filtered: the kernel has no seccomp filters".to_owned());
        Vec::new()
    };
    let oci_root = dir.join("oci");
    fs::create_dir_all(&oci_root).map_err(DiskError::io("create", &oci_root))?;
    let create = || {
        let mut container = ContainerBuilder::new(spec.name.clone(), SyscallType::default())
            .with_executor(Workload { filter })
            .with_stdout(out_end)
            .with_stderr(err_end)
            .with_root_path(&oci_root)?
            .validate_id()?
            .as_init(&bundle)
            .with_systemd(false)
            .with_no_pivot(!is_mount_point(Path::new("/")))
            .with_detach(true)
            .build()?;
        if let Some(pid) = container.pid() {
            // Not in the specification: that would be applied to this process too, and could not be taken back.
            let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), WORKLOAD_OOM_SCORE.to_string());
        }
        container.start()?;
        Ok::<_, libcontainer::error::LibcontainerError>(container)
    };
    let container = create().map_err(|e| SpecError { what: "container", why: chain(&e) })?;
    let pid = container.pid().map(|pid| Pid::from_raw(pid.as_raw()));
    let pid = pid.ok_or_else(|| SpecError { what: "container", why: "it has no process".to_owned() })?;
    Ok(Child { pid, outputs: vec![(Stream::Out, out), (Stream::Err, err)], lacking, guest: None })
}

/// The files that tell the container its name, its neighbours and whom to ask.
fn name_service_files(dir: &Path, spec: &ShimSpec) -> Result<Vec<Bind>, ShimError> {
    let etc = dir.join("etc");
    fs::create_dir_all(&etc).map_err(DiskError::io("create", &etc))?;
    // The directories above may be closed to others; the files themselves are for every user of the container.
    let files = [
        ("hosts", spec.hosts_file(None)),
        ("resolv.conf", spec.resolv_conf()),
        ("hostname", format!("{}\n", spec.hostname)),
    ];
    files
        .into_iter()
        .map(|(name, content)| {
            let source = etc.join(name);
            disk::write_atomic(&source, content.as_bytes(), 0o644)?;
            Ok(Bind { source, target: Path::new("/etc").join(name), writable: false })
        })
        .collect()
}

/// `pivot_root` needs the current root to be a mount point, which it is not in a chroot to a plain directory.
fn is_mount_point(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

/// An error with everything that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Turns the prepared process into the workload.
#[derive(Clone)]
struct Workload {
    filter: Vec<sock_filter>,
}

impl Executor for Workload {
    /// Runs in the container, before its start is reported.
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        // From here on the kernel kills this process, and with it its PID namespace, when the shim ends.
        // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            let error = io::Error::last_os_error();
            return Err(ExecutorValidationError::ArgValidationError(format!("cannot tie it to its shim: {error}")));
        }
        program(spec).map(drop).map_err(ExecutorValidationError::ArgValidationError)
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let path = program(spec).map_err(ExecutorError::Other)?;
        let c_string = |text: &str| CString::new(text).map_err(|_| ExecutorError::InvalidArg);
        let args: Vec<CString> = arguments(spec).iter().map(|arg| c_string(arg)).collect::<Result<_, _>>()?;
        let path = c_string(&path.to_string_lossy())?;
        exec::restore_signals().map_err(|e| ExecutorError::Other(format!("cannot restore the signals: {e}")))?;
        if !self.filter.is_empty() {
            seccomp::install(&self.filter)
                .map_err(|e| ExecutorError::Other(format!("cannot filter system calls: {e}")))?;
        }
        let error = match execv(&path, &args) {
            Ok(never) => match never {},
            Err(error) => error,
        };
        // Nobody listens to this process any more but the workload's log.
        eprintln!("cannot execute {}: {}", path.to_string_lossy(), error.desc());
        std::process::exit(if error == Errno::ENOENT { 127 } else { 126 });
    }
}

fn arguments(spec: &Spec) -> &[String] {
    spec.process().as_ref().and_then(|process| process.args().as_deref()).unwrap_or_default()
}

/// The program's path in the container.
fn program(spec: &Spec) -> Result<PathBuf, String> {
    let name = arguments(spec).first().ok_or("the command is empty")?;
    let env = spec.process().as_ref().and_then(|process| process.env().as_deref()).unwrap_or_default();
    exec::find_program(name, env.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or_default())
}
