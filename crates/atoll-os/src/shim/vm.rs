//! Starts a micro-VM's hypervisor, and listens to its guest.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::{fs::MetadataExt, net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, FdFlag, Flock, FlockArg, OFlag, fcntl},
    libc,
    sys::{signal::Signal, signalfd::SignalFd},
    unistd::{Gid, Pid, Uid, fchown, getpid, pipe2, setgid, setgroups, setuid},
};

use super::{ExitRecord, ShimError, run::Child};
use crate::{
    cgroup::{Cgroup, Limits},
    disk::DiskError,
    limits::{
        CONTROL_LINE_BYTES_MAX, GUEST_KERNEL_BYTES, HYPERVISOR_BYTES, HYPERVISOR_PIDS, HYPERVISOR_UID_FIRST,
        HYPERVISOR_UIDS, TRANSLATION_MIB, VM_BOOTS_AT_ONCE, VM_CPUS_MAX,
    },
    log::Stream,
    netns::NetNs,
    spec::{ShimSpec, SpecError},
    tap,
    vm::{self, Accelerator, GuestKernel, initramfs, protocol, protocol::Report},
    workload::TAP_LINK,
};

/// Holds the turns of guests that boot.
const TURNS_DIR: &str = "/run/atoll";

/// What was heard from a guest.
pub(super) enum Heard {
    /// No news.
    Nothing,
    /// Its workload executes.
    Running,
    /// Its workload has ended or could not be started; it powers off.
    Ending,
}

/// The shim's view of a guest.
pub(super) struct Guest {
    control: Option<UnixStream>,
    pending: Vec<u8>,
    report: Option<Report>,
    /// Given back when the workload executes.
    turn: Option<Flock<File>>,
}

/// Starts the hypervisor in the workload's cgroup and network namespace, when it is this guest's turn.
pub(super) fn start(
    dir: &Path,
    spec: &ShimSpec,
    disk: &Path,
    accelerator: Accelerator,
    cgroup: &Cgroup,
    signals: &SignalFd,
) -> Result<Child, ShimError> {
    let fail = |what: &'static str| move |source: io::Error| ShimError::Process { what, dir: dir.to_owned(), source };
    let refuse = |why: String| SpecError { what: "micro-VM", why };
    let kernel = GuestKernel::find().map_err(|e| refuse(e.to_string()))?;
    let namespace = NetNs::open(&spec.network_namespace).map_err(|e| refuse(e.to_string()))?;
    let turn = wait_for_turn(signals).map_err(fail("wait for the turn of"))?;
    let bundle = dir.join("bundle");
    fs::create_dir_all(&bundle).map_err(DiskError::io("create", &bundle))?;
    let initrd = bundle.join("initrd.cpio");
    let initrd_bytes = initramfs::write(&initrd, &kernel, Some(spec)).map_err(DiskError::io("write", &initrd))?;
    let guest_bytes = spec.limits.memory_bytes + GUEST_KERNEL_BYTES + 2 * initrd_bytes;
    cgroup.create(Limits {
        cpu_milli: spec.limits.cpu_milli,
        memory_bytes: guest_bytes + HYPERVISOR_BYTES,
        pids_max: HYPERVISOR_PIDS,
    })?;

    let opened = |e: io::Error| fail("open the channels to the guest of")(e);
    let ((out, out_end), (err, err_end)) = (UnixStream::pair().map_err(opened)?, UnixStream::pair().map_err(opened)?);
    let (control, control_end) = UnixStream::pair().map_err(opened)?;
    control.set_nonblocking(true).map_err(opened)?;
    let (console, console_end) = pipe2(OFlag::O_CLOEXEC).map_err(|e| opened(e.into()))?;
    let tap = namespace.run(|| tap::open(TAP_LINK)).map_err(|e| refuse(e.to_string()))?;
    let tap = tap.map_err(|e| refuse(format!("cannot open its link {TAP_LINK}: {e}; prepare its network first")))?;
    // Some systems let only root read /boot.
    let image = bundle.join("vmlinuz");
    fs::copy(&kernel.image, &image).map_err(DiskError::io("copy the kernel to", &image))?;
    let user = Uid::from_raw(HYPERVISOR_UID_FIRST + hash(&spec.name) % HYPERVISOR_UIDS);
    let files = Files {
        kernel: hand_over(&image, user, false)?,
        initrd: hand_over(&initrd, user, false)?,
        disk: hand_over(disk, user, true)?,
        tap,
        out: out_end,
        err: err_end,
        control: control_end,
    };
    let mut command = Command::new(vm::QEMU);
    command.args(machine(spec, accelerator, guest_bytes)).args(files.devices(spec)).current_dir("/");
    command.stdin(Stdio::null()).stdout(console_end.try_clone().map_err(opened)?).stderr(console_end);
    let kvm = fs::metadata("/dev/kvm").ok().filter(|_| accelerator == Accelerator::Kvm).map(|found| found.gid());
    confine(&mut command, cgroup.clone(), user, kvm.map(Gid::from_raw), files.numbers());
    let child =
        command.spawn().map_err(|e| refuse(format!("cannot run {}: {e}; install qemu-system-x86", vm::QEMU)))?;
    Ok(Child {
        // A process number fits an i32; the child is collected by the shim's loop.
        pid: Pid::from_raw(child.id() as i32),
        outputs: vec![(Stream::Out, out.into()), (Stream::Err, err.into()), (Stream::Note, console)],
        lacking: Vec::new(),
        guest: Some(Guest { control: Some(control), pending: Vec::new(), report: None, turn: Some(turn) }),
    })
}

/// Makes a file the hypervisor's own.
fn hand_over(path: &Path, user: Uid, writable: bool) -> Result<File, DiskError> {
    let file = OpenOptions::new().read(true).write(writable).open(path).map_err(DiskError::io("open", path))?;
    fchown(file.as_fd(), Some(user), None).map_err(|e| DiskError::io("hand over", path)(e.into()))?;
    Ok(file)
}

impl Guest {
    /// What to poll for news.
    pub(super) fn control(&self) -> Option<BorrowedFd<'_>> {
        self.control.as_ref().map(AsFd::as_fd)
    }

    /// Passes the wish to stop on. A guest that does not listen is killed after its grace.
    pub(super) fn ask_to_stop(&mut self) {
        if let Some(control) = &mut self.control {
            let _ = control.write_all(protocol::STOP.as_bytes());
        }
    }

    /// Reads the guest's reports.
    pub(super) fn hear(&mut self) -> io::Result<Heard> {
        let mut buffer = [0; 4096];
        while let Some(control) = &mut self.control {
            match control.read(&mut buffer) {
                Ok(0) => self.control = None,
                Ok(count) => self.pending.extend_from_slice(&buffer[..count]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The hypervisor is gone; its end is noticed elsewhere.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => self.control = None,
                Err(e) => return Err(e),
            }
            if self.pending.len() > CONTROL_LINE_BYTES_MAX {
                // Only a guest that was taken over talks like that: it is not listened to any more.
                self.control = None;
                self.pending.clear();
            }
        }
        let mut heard = Heard::Nothing;
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(Report::Running) if self.report.is_none() => {
                    self.turn = None;
                    self.report = Some(Report::Running);
                    heard = Heard::Running;
                }
                Ok(report @ (Report::Exited { .. } | Report::Failed { .. })) => {
                    self.report = Some(report);
                    heard = Heard::Ending;
                }
                // Noise from a guest that was taken over.
                Ok(Report::Running) | Err(_) => {}
            }
        }
        Ok(heard)
    }

    /// How the workload ended, given how the hypervisor did.
    pub(super) fn conclude(self, hypervisor: ExitRecord) -> ExitRecord {
        let ended = ExitRecord { code: None, signal: None, ..hypervisor.clone() };
        match self.report {
            Some(Report::Exited { code, signal, oom_kills }) => ExitRecord { code, signal, oom_kills, ..ended },
            Some(Report::Failed { why }) => ExitRecord { error: Some(why), ..ended },
            // It was killed, by the shim or for want of memory: the record says which.
            Some(Report::Running) if hypervisor.signal.is_some() => hypervisor,
            None if hypervisor.stopped => hypervisor,
            Some(Report::Running) | None => {
                let how = hypervisor.why();
                let why =
                    format!("the hypervisor {how} while its guest still ran; the log lines marked --- are its console");
                ExitRecord { error: Some(why), ..ended }
            }
        }
    }
}

/// Waits until fewer than [`VM_BOOTS_AT_ONCE`] other guests boot, or a signal asks the shim to give up.
fn wait_for_turn(signals: &SignalFd) -> io::Result<Flock<File>> {
    fs::create_dir_all(TURNS_DIR)?;
    loop {
        for turn in 0..VM_BOOTS_AT_ONCE {
            let path = Path::new(TURNS_DIR).join(format!("vm-boot-{turn}.lock"));
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                return Ok(lock);
            }
        }
        let asked = signals.read_signal()?.and_then(|signal| Signal::try_from(signal.ssi_signo as i32).ok());
        if asked.is_some_and(|signal| signal != Signal::SIGCHLD) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "it was asked to stop before it could boot"));
        }
        // There is no way to wait for one of several locks.
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn machine(spec: &ShimSpec, accelerator: Accelerator, guest_bytes: u64) -> Vec<String> {
    let (machine, cpu) = match accelerator {
        Accelerator::Kvm => ("q35,accel=kvm".to_owned(), "host"),
        // The level x86-64-v2, which current distributions ask for, and a source of random numbers for the start.
        Accelerator::Tcg => ("q35".to_owned(), "Nehalem,+rdrand"),
    };
    let cpus = spec.limits.cpu_milli.div_ceil(1000).clamp(1, VM_CPUS_MAX);
    let mut arguments: Vec<String> =
        ["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot", "-serial", "stdio"]
            .map(str::to_owned)
            .to_vec();
    let mut add = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into());
    add("-machine", machine);
    if accelerator == Accelerator::Tcg {
        add("-accel", format!("tcg,tb-size={TRANSLATION_MIB}"));
    }
    add("-cpu", cpu.into());
    add("-smp", cpus.to_string());
    add("-m", format!("{}M", guest_bytes.div_ceil(1 << 20)));
    add("-append", vm::command_line(accelerator));
    arguments
}

/// What the hypervisor is given: it runs as a user that can open nothing by itself.
struct Files {
    kernel: File,
    disk: File,
    initrd: File,
    tap: OwnedFd,
    out: UnixStream,
    err: UnixStream,
    control: UnixStream,
}

impl Files {
    fn numbers(&self) -> [RawFd; 7] {
        let ports = [self.out.as_raw_fd(), self.err.as_raw_fd(), self.control.as_raw_fd()];
        let kernel = self.kernel.as_raw_fd();
        [kernel, self.disk.as_raw_fd(), self.initrd.as_raw_fd(), self.tap.as_raw_fd(), ports[0], ports[1], ports[2]]
    }

    fn devices(&self, spec: &ShimSpec) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut add = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        // A file that the user owns can be opened again by its number, whatever directories it is in.
        add("-kernel", format!("/proc/self/fd/{}", self.kernel.as_raw_fd()));
        add("-initrd", format!("/proc/self/fd/{}", self.initrd.as_raw_fd()));
        let disk = format!("/proc/self/fd/{}", self.disk.as_raw_fd());
        add("-drive", format!("if=none,id=root,format=raw,discard=unmap,file={disk}"));
        add("-device", "virtio-blk-pci,drive=root".into());
        add("-netdev", format!("tap,id=net,fd={}", self.tap.as_raw_fd()));
        // Locally administered; it is alone on its link.
        let [a, b, c, d] = hash(&spec.name).to_be_bytes();
        add("-device", format!("virtio-net-pci,netdev=net,romfile=,mac=02:a7:{a:02x}:{b:02x}:{c:02x}:{d:02x}"));
        add("-device", "virtio-rng-pci".into());
        add("-device", "virtio-serial-pci".into());
        for (name, end) in
            [(protocol::OUT_PORT, &self.out), (protocol::ERR_PORT, &self.err), (protocol::CONTROL_PORT, &self.control)]
        {
            add("-chardev", format!("socket,id={name},fd={}", end.as_raw_fd()));
            add("-device", format!("virtserialport,chardev={name},name={name}"));
        }
        arguments
    }
}

/// A number for a name: it need not be unique, only seldom the same.
fn hash(name: &str) -> u32 {
    name.bytes().fold(5381u32, |hash, byte| hash.wrapping_mul(33) ^ u32::from(byte))
}

/// Lets the hypervisor be accounted to its workload, keep its files, be nobody, and end with the shim.
fn confine(command: &mut Command, cgroup: Cgroup, user: Uid, kvm: Option<Gid>, files: [RawFd; 7]) {
    let prepare = move || {
        cgroup.add(getpid()).map_err(io::Error::other)?;
        for file in files {
            // SAFETY: the files are open until the spawning function returns, after this ran.
            let file = unsafe { BorrowedFd::borrow_raw(file) };
            fcntl(file, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        setgroups(kvm.as_slice())?;
        setgid(Gid::from_raw(user.as_raw()))?;
        setuid(user)?;
        // Last, because a change of user takes it back.
        // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the shim has a single thread again, so between fork and exec the child may allocate and use files.
    unsafe {
        command.pre_exec(prepare);
    }
}
