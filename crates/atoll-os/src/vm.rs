//! Micro-VMs: a kernel of its own for each workload, in QEMU.
//!
//! ```text
//! shim ── qemu ─┬─ virtio-blk ── disk: ext4 image, made once from the image's directory by `mke2fs -d`
//!               ├─ virtio-net ── tap0 ══ br0 ══ eth0 ══ veth: the same network as a container's
//!               ├─ ports atoll.out, atoll.err: the workload's output
//!               ├─ port atoll.control: how it goes, and the wish to stop (see `protocol`)
//!               └─ kernel of this machine's package, initramfs made at each start:
//!                    /init = this very program as `guest-init` (see `crate::guest`), its libraries, modules, the spec
//! ```
//!
//! It needs Debian's packages `qemu-system-x86`, `linux-image-cloud-amd64` (any Debian kernel works) and `e2fsprogs`.

pub(crate) mod initramfs;
pub(crate) mod protocol;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    disk::{self, DiskError},
    limits::{DISK_BYTES_MIN, KVM_PROBE_MAX, MODULES_MAX},
};

/// The hypervisor.
pub(crate) const QEMU: &str = "qemu-system-x86_64";
/// What the guest needs if its kernel has it as modules.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng"];

/// A micro-VM could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// There is no kernel to boot.
    #[error(
        "there is no guest kernel: no /boot/vmlinuz-* has its modules under /lib/modules; install linux-image-cloud-amd64"
    )]
    NoKernel,
    /// A module that the guest needs is missing.
    #[error("the guest kernel {version} has no {module}: install linux-image-cloud-amd64")]
    NoModule {
        /// The kernel.
        version: String,
        /// The module.
        module: String,
    },
    /// A program is missing or failed.
    #[error("cannot run {program}: {why}; install {package}")]
    Program {
        /// The program.
        program: &'static str,
        /// Debian's package with it.
        package: &'static str,
        /// What happened.
        why: String,
    },
    /// The image is larger than the disk.
    #[error("the image does not fit on a disk of {0} MiB: allow more disk")]
    TooSmall(u64),
    /// A file.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// The processor, through `/dev/kvm`; only where [`kvm_works`] said so.
    Kvm,
    /// QEMU's translator: works everywhere, several times slower.
    Tcg,
}

/// A kernel that guests can boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestKernel {
    /// Its release, such as `6.1.0-56-cloud-amd64`.
    pub version: String,
    /// The kernel itself.
    pub image: PathBuf,
    /// Files of the modules to load, in order.
    pub(crate) modules: Vec<PathBuf>,
}

impl GuestKernel {
    /// The newest kernel on this machine, those made for clouds first because they are small.
    pub fn find() -> Result<Self, VmError> {
        let boot = fs::read_dir("/boot").map_err(|_| VmError::NoKernel)?;
        let mut versions: Vec<String> = boot
            .flatten()
            .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_owned()))
            .filter(|version| modules_dir(version).join("modules.dep").exists())
            .collect();
        versions.sort_by_key(|version| (version.contains("cloud"), numbers(version)));
        let version = versions.pop().ok_or(VmError::NoKernel)?;
        let modules = needed_modules(&version)?;
        Ok(Self { image: Path::new("/boot").join(format!("vmlinuz-{version}")), version, modules })
    }
}

/// Makes a disk with the content of an extracted image, unless it is there already with what its workload wrote.
/// The file takes no more room than what is in it; the size is the most that the workload can fill.
pub fn ensure_disk(image: &Path, disk: &Path, size_bytes: u64) -> Result<(), VmError> {
    if disk.exists() {
        return Ok(());
    }
    let size_mib = size_bytes.max(DISK_BYTES_MIN).div_ceil(1 << 20);
    let unfinished = disk.with_extension("new");
    disk::remove(&unfinished)?;
    if let Some(dir) = disk.parent() {
        fs::create_dir_all(dir).map_err(DiskError::io("create", dir))?;
    }
    let output = Command::new("mke2fs")
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-m",
            "0",
            "-J",
            "size=4",
            "-E",
            "lazy_itable_init=1,lazy_journal_init=1",
            "-d",
        ])
        .arg(image)
        .arg(&unfinished)
        .arg(format!("{size_mib}M"))
        .stdin(Stdio::null())
        .output();
    let fail = |why: String| VmError::Program { program: "mke2fs", package: "e2fsprogs", why };
    let output = output.map_err(|e| fail(e.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
        disk::remove(&unfinished)?;
        let is_full = said.contains("Could not allocate") || said.contains("No space") || said.contains("no free");
        return Err(if is_full { VmError::TooSmall(size_mib) } else { fail(said) });
    }
    fs::rename(&unfinished, disk).map_err(DiskError::io("name", disk))?;
    Ok(())
}

/// Whether the hypervisor can be run, and its version.
pub fn qemu_version() -> Result<String, VmError> {
    let fail = |why: String| VmError::Program { program: QEMU, package: "qemu-system-x86", why };
    let output = Command::new(QEMU).arg("--version").stdin(Stdio::null()).output().map_err(|e| fail(e.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next() {
        Some(line) if output.status.success() => Ok(line.to_owned()),
        _ => Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// Boots a tiny guest with KVM, and says why it cannot be used if it does not come up: a `/dev/kvm` that can be opened
/// may still hang every kernel. Blocks for up to [`KVM_PROBE_MAX`]; `dir` takes its temporary files.
pub fn kvm_works(dir: &Path) -> Result<(), String> {
    fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").map_err(|e| format!("cannot open /dev/kvm: {e}"))?;
    let kernel = GuestKernel::find().map_err(|e| e.to_string())?;
    let initrd = dir.join("kvm-probe.cpio");
    initramfs::write(&initrd, &GuestKernel { modules: vec![], ..kernel.clone() }, None).map_err(|e| e.to_string())?;
    let booted = boots(&kernel, &initrd);
    // A file left behind is overwritten by the next probe.
    let _ = fs::remove_file(&initrd);
    booted
}

fn boots(kernel: &GuestKernel, initrd: &Path) -> Result<(), String> {
    let spawned = Command::new(QEMU)
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-monitor",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
        ])
        .args(["-machine", "q35,accel=kvm", "-cpu", "host", "-m", "512", "-append"])
        .arg(command_line(Accelerator::Kvm))
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initrd)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = spawned.map_err(|e| format!("cannot run {QEMU}: {e}"))?;
    let give_up = Instant::now() + KVM_PROBE_MAX;
    let ended = loop {
        match child.try_wait() {
            Ok(Some(_)) => break true,
            Ok(None) if Instant::now() < give_up => std::thread::sleep(Duration::from_millis(20)),
            Ok(None) | Err(_) => break false,
        }
    };
    if !ended {
        // It may just have ended by itself.
        let _ = child.kill();
    }
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    if String::from_utf8_lossy(&output.stdout).contains(protocol::PROBE_GREETING) {
        return Ok(());
    }
    let what = if ended { "ended without starting its program" } else { "hung" };
    Err(format!("a guest that was booted with it {what}"))
}

/// The guest kernel's command line; what follows `--` are the arguments of `/init`.
pub(crate) fn command_line(accelerator: Accelerator) -> String {
    let translated = match accelerator {
        // Without the first, kernels panic now and then because the emulated timer is late; the second
        // saves time that an emulated processor, which does not speculate, need not spend.
        Accelerator::Tcg => " no_timer_check mitigations=off",
        Accelerator::Kvm => "",
    };
    format!("console=ttyS0 quiet panic=-1 random.trust_cpu=on{translated} -- guest-init")
}

fn modules_dir(version: &str) -> PathBuf {
    Path::new("/lib/modules").join(version)
}

/// The numbers in a version, so that 6.10 is newer than 6.9.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// The files of all modules in [`MODULES`] and of those that they need, the needed first.
fn needed_modules(version: &str) -> Result<Vec<PathBuf>, VmError> {
    let dir = modules_dir(version);
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read_to_string(&path).map_err(DiskError::io("read", &path))
    };
    let (dep, builtin) = (read("modules.dep")?, read("modules.builtin")?);
    let mut order: Vec<&str> = Vec::new();
    for module in MODULES {
        let line = dep.lines().find(|line| line.split(':').next().is_some_and(|path| module_name(path) == module));
        let Some((path, needs)) = line.and_then(|line| line.split_once(':')) else {
            if builtin.lines().any(|path| module_name(path) == module) {
                continue;
            }
            return Err(VmError::NoModule { version: version.to_owned(), module: module.to_owned() });
        };
        // `modules.dep` names all that a module needs, the deepest last.
        for file in needs.split_ascii_whitespace().rev().chain([path]) {
            if !order.contains(&file) {
                order.push(file);
            }
        }
    }
    order.truncate(MODULES_MAX);
    Ok(order.into_iter().map(|file| dir.join(file)).collect())
}

/// `kernel/drivers/char/hw_random/virtio-rng.ko.xz` is `virtio_rng`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

impl From<VmError> for io::Error {
    fn from(error: VmError) -> Self {
        io::Error::other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(numbers("6.10.0-1-amd64") > numbers("6.9.0-20-amd64"));
        assert_eq!(module_name("kernel/drivers/char/hw_random/virtio-rng.ko.xz"), "virtio_rng");
    }

    #[test]
    fn guests_that_are_translated_do_not_check_timers() {
        assert!(command_line(Accelerator::Tcg).contains("no_timer_check"));
        assert!(command_line(Accelerator::Kvm).ends_with("-- guest-init"));
    }
}
