//! What this machine can do, found out by trying.

use std::{fs, io, path::Path, process::Command};

use crate::{
    cgroup::{self, Mode},
    firewall, netns, rootfs, seccomp,
    vm::{self, Accelerator, GuestKernel},
};

/// A feature of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// Its name, one of the constants of this module.
    pub name: &'static str,
    /// Whether it works here.
    pub works: bool,
    /// How, or why not and what would help.
    pub detail: String,
}

/// Containers can be run: namespaces and cgroups work.
pub const CONTAINER: &str = "container";
/// Micro-VMs can be run: there is a hypervisor and a guest kernel.
pub const MICRO_VM: &str = "micro-vm";
/// The processor's help for micro-VMs.
pub const KVM: &str = "kvm";
/// CPU, memory and process limits.
pub const CGROUP: &str = "cgroup";
/// Network namespaces.
pub const NAMESPACES: &str = "namespaces";
/// Root directories without copying.
pub const OVERLAYFS: &str = "overlayfs";
/// The firewall.
pub const NFTABLES: &str = "nftables";
/// The mesh's network link.
pub const TUN: &str = "tun";
/// Filters of system calls.
pub const SECCOMP: &str = "seccomp";

/// Finds out everything; `dir` (on the disk where workloads will be) takes temporary files. Blocks for some hundred
/// milliseconds, and for up to [`crate::limits::KVM_PROBE_MAX`] where there is a `/dev/kvm` that does not work.
pub fn all(dir: &Path) -> Vec<Capability> {
    let cgroup = capability(CGROUP, cgroups());
    let namespaces = capability(NAMESPACES, network_namespaces());
    let broken: Vec<&str> = [&cgroup, &namespaces].into_iter().filter(|c| !c.works).map(|c| c.name).collect();
    let container = match broken.is_empty() {
        true => Ok("libcontainer".to_owned()),
        false => Err(format!("needs what does not work here: {}", broken.join(", "))),
    };
    let kvm = vm::kvm_works(dir).map(|()| "a guest that was booted with it came up".to_owned());
    let accelerator = if kvm.is_ok() { Accelerator::Kvm } else { Accelerator::Tcg };
    let overlay = rootfs::overlay_works(dir).map(|()| "root directories are made without copying".to_owned());
    let filters = match seccomp::available() {
        true => Ok("system calls that reach the whole machine are filtered".to_owned()),
        false => Err("the kernel has no seccomp filters: containers run without".to_owned()),
    };
    vec![
        capability(CONTAINER, container),
        capability(MICRO_VM, micro_vm(accelerator)),
        capability(KVM, kvm),
        cgroup,
        namespaces,
        capability(OVERLAYFS, overlay.map_err(|e| format!("{}: images are copied", chain(&e)))),
        capability(NFTABLES, nft()),
        capability(TUN, tun()),
        capability(SECCOMP, filters),
    ]
}

/// The accelerator that fits what [`all`] found.
pub fn accelerator(capabilities: &[Capability]) -> Accelerator {
    match capabilities.iter().any(|capability| capability.name == KVM && capability.works) {
        true => Accelerator::Kvm,
        false => Accelerator::Tcg,
    }
}

fn capability(name: &'static str, found: Result<String, String>) -> Capability {
    let works = found.is_ok();
    Capability { name, works, detail: found.unwrap_or_else(|why| why) }
}

fn cgroups() -> Result<String, String> {
    let mode = match cgroup::mode().map_err(|e| chain(&e))? {
        Mode::Unified => "v2",
        Mode::V1 => "v1",
    };
    let missing = cgroup::missing_controllers().map_err(|e| chain(&e))?;
    match missing.is_empty() {
        true => Ok(format!("{mode} with cpu, memory and pids")),
        false => Err(format!("{mode} without {}: limits cannot be enforced", missing.join(", "))),
    }
}

fn network_namespaces() -> Result<String, String> {
    let name = format!("atoll-probe-{}", std::process::id());
    let made = netns::NetNs::ensure(&name);
    netns::NetNs::remove(&name).and(made).map(|_| "network, mount, PID, IPC and UTS".to_owned()).map_err(|e| chain(&e))
}

fn micro_vm(accelerator: Accelerator) -> Result<String, String> {
    let qemu = vm::qemu_version().map_err(|e| e.to_string())?;
    let kernel = GuestKernel::find().map_err(|e| e.to_string())?;
    let mke2fs = Command::new("mke2fs").arg("-V").output();
    mke2fs.map_err(|e| format!("cannot run mke2fs: {e}; install e2fsprogs"))?;
    let how = match accelerator {
        Accelerator::Kvm => "with KVM",
        Accelerator::Tcg => "translated, without KVM",
    };
    Ok(format!("{how}, guest kernel {}, {qemu}", kernel.version))
}

fn nft() -> Result<String, String> {
    let output = Command::new(firewall::NFT).args(["list", "tables"]).output().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => "the program nft is missing: install nftables".to_owned(),
        _ => format!("cannot run nft: {e}"),
    })?;
    match output.status.success() {
        true => Ok("the firewall can be set".to_owned()),
        false => Err(format!("nft cannot reach the kernel: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

fn tun() -> Result<String, String> {
    let opened = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    opened.map(|_| "/dev/net/tun".to_owned()).map_err(|e| format!("cannot open /dev/net/tun: {e}; load the module tun"))
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_other_tests_need_is_found() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let found = all(dir.path());
        for name in [CONTAINER, CGROUP, NAMESPACES, OVERLAYFS, NFTABLES, TUN, SECCOMP] {
            let capability = found.iter().find(|capability| capability.name == name).expect(name);
            assert!(!capability.detail.is_empty(), "{name}");
            assert!(capability.works || name == OVERLAYFS, "{name}: {}", capability.detail);
        }
        assert!(fs::read_dir(dir.path()).expect("list").next().is_none(), "nothing is left behind");
        assert_eq!(accelerator(&[]), Accelerator::Tcg);
    }
}
