//! A container's specification in the terms of the OCI runtime specification.

use std::{fs, path::Path};

use nix::sys::resource::{Resource, getrlimit};
use serde_json::{Value, json};

use crate::{
    cgroup::Cgroup, limits::OPEN_FILES_MAX, netns, shim::ShimError, spec::Bind, spec::ShimSpec, users::Account,
};

/// What a container's root may do: Docker's default list without MKNOD, because on cgroup v2 nothing else would keep
/// it from making and opening the machine's disks.
const CAPABILITIES: [&str; 13] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Places of the kernel that concern the whole machine.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The `config.json` of the bundle.
pub(super) fn config(
    spec: &ShimSpec,
    root: &Path,
    binds: &[Bind],
    account: &Account,
    cgroup: &Cgroup,
) -> Result<Value, ShimError> {
    // Raising the hard limit needs a capability that a container host may have lost.
    let (_, files_hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((OPEN_FILES_MAX, OPEN_FILES_MAX));
    let network = Path::new(netns::NETNS_DIR).join(&spec.network_namespace);
    // A user other than root starts without any capability, and may not gain one: only the bound is common.
    let held: &[&str] = if account.uid == 0 { &CAPABILITIES } else { &[] };
    let mut env: Vec<String> = spec.environment().iter().map(|(name, value)| format!("{name}={value}")).collect();
    if let (Some(home), false) = (&account.home, env.iter().any(|variable| variable.starts_with("HOME="))) {
        env.push(format!("HOME={home}"));
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "root": { "path": root, "readonly": false },
        "hostname": spec.hostname,
        "mounts": mounts(binds),
        "process": {
            "terminal": false,
            "user": { "uid": account.uid, "gid": account.gid, "additionalGids": account.groups },
            "args": spec.process.args,
            "env": env,
            "cwd": spec.process.working_dir,
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": CAPABILITIES, "effective": held, "permitted": held, "inheritable": [], "ambient": [],
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": OPEN_FILES_MAX.min(files_hard), "hard": files_hard }],
        },
        "linux": {
            "cgroupsPath": cgroup.oci_path(),
            // The limits themselves are set before: see `Cgroup::create`.
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "cgroup" },
                { "type": "network", "path": network },
            ],
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    }))
}

fn mounts(binds: &[Bind]) -> Vec<Value> {
    let mount = |kind: &str, target: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    let mut mounts = vec![
        mount("proc", "/proc", &["nosuid", "noexec", "nodev"]),
        mount("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("tmpfs", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
    ];
    if fs::read_to_string("/proc/filesystems").is_ok_and(|known| known.lines().any(|line| line.ends_with("\tmqueue"))) {
        mounts.push(mount("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]));
    }
    mounts.extend(binds.iter().map(|bind| {
        let access = if bind.writable { "rw" } else { "ro" };
        json!({
            "destination": bind.target, "type": "bind", "source": bind.source,
            "options": ["rbind", "rprivate", "nosuid", "nodev", access],
        })
    }));
    mounts
}
