//! Starts a micro-VM's hypervisor, and listens to its guest.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, FdFlag, Flock, FlockArg, OFlag, fcntl},
    libc,
    sys::{signal::Signal, signalfd::SignalFd},
    unistd::{Pid, getpid, pipe2},
};

use super::{ExitRecord, ShimError, run::Child};
use crate::{
    cgroup::{Cgroup, Limits},
    disk::DiskError,
    limits::{
        CONTROL_LINE_BYTES_MAX, GUEST_KERNEL_BYTES, HYPERVISOR_BYTES, HYPERVISOR_PIDS, TRANSLATION_MIB,
        VM_BOOTS_AT_ONCE, VM_CPUS_MAX,
    },
    log::Stream,
    netns::NetNs,
    spec::{ShimSpec, SpecError},
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

    let pair = || UnixStream::pair().map_err(fail("open a channel to the guest of"));
    let ((out, out_end), (err, err_end), (control, control_end)) = (pair()?, pair()?, pair()?);
    control.set_nonblocking(true).map_err(fail("open a channel to the guest of"))?;
    let (console, console_end) = pipe2(OFlag::O_CLOEXEC).map_err(|e| fail("open a pipe for")(e.into()))?;
    let ports = [
        (protocol::OUT_PORT, out_end.as_raw_fd()),
        (protocol::ERR_PORT, err_end.as_raw_fd()),
        (protocol::CONTROL_PORT, control_end.as_raw_fd()),
    ];
    let mut command = Command::new(vm::QEMU);
    command.args(machine(spec, accelerator, guest_bytes)).arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&initrd);
    command.args(devices(spec, disk, &ports).map_err(refuse)?);
    command.stdin(Stdio::null());
    command.stdout(console_end.try_clone().map_err(fail("open a pipe for"))?).stderr(console_end);
    namespace.enter_on_spawn(&mut command).map_err(|e| refuse(e.to_string()))?;
    confine(&mut command, cgroup.clone(), ports.map(|(_, end)| end));
    let child =
        command.spawn().map_err(|e| refuse(format!("cannot run {}: {e}; install qemu-system-x86", vm::QEMU)))?;
    // A process number fits an i32; the child is collected by the shim's loop.
    let pid = Pid::from_raw(child.id() as i32);
    Ok(Child {
        pid,
        outputs: vec![(Stream::Out, out.into()), (Stream::Err, err.into()), (Stream::Note, console)],
        lacking: Vec::new(),
        guest: Some(Guest { control: Some(control), pending: Vec::new(), report: None, turn: Some(turn) }),
    })
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

fn devices(spec: &ShimSpec, disk: &Path, ports: &[(&str, RawFd); 3]) -> Result<Vec<String>, String> {
    let disk = disk.to_str().ok_or("the path of its disk is not UTF-8")?.replace(',', ",,");
    let mut arguments = Vec::new();
    let mut add = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    add("-drive", format!("if=none,id=root,format=raw,discard=unmap,file={disk}"));
    add("-device", "virtio-blk-pci,drive=root".into());
    add("-netdev", format!("tap,id=net,ifname={TAP_LINK},script=no,downscript=no"));
    // Locally administered; it is alone on its link.
    let name = spec.name.bytes().fold(0u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let [a, b, c, d] = name.to_be_bytes();
    add("-device", format!("virtio-net-pci,netdev=net,romfile=,mac=02:a7:{a:02x}:{b:02x}:{c:02x}:{d:02x}"));
    add("-device", "virtio-rng-pci".into());
    add("-device", "virtio-serial-pci".into());
    for (name, end) in ports {
        add("-chardev", format!("socket,id={name},fd={end}"));
        add("-device", format!("virtserialport,chardev={name},name={name}"));
    }
    Ok(arguments)
}

/// Lets the hypervisor end with the shim, be accounted to its workload, and keep its ends of the channels.
fn confine(command: &mut Command, cgroup: Cgroup, ends: [RawFd; 3]) {
    let prepare = move || {
        // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        cgroup.add(getpid()).map_err(io::Error::other)?;
        for end in ends {
            // SAFETY: the channels' ends are open until the spawning function returns, after this ran.
            let end = unsafe { BorrowedFd::borrow_raw(end) };
            fcntl(end, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        Ok(())
    };
    // SAFETY: the shim has a single thread, so between fork and exec the child may allocate and use files.
    unsafe {
        command.pre_exec(prepare);
    }
}
