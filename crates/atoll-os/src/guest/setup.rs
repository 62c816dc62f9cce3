//! What the guest does before its workload: modules, mounts, network.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsRawFd,
        unix::{ffi::OsStrExt, fs::symlink},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
    unistd::sethostname,
};

use crate::{
    limits::DEVICES_MAX_WAIT,
    link::{Links, Route},
    rootfs,
    spec::{Engine, ShimSpec},
    users::{self, Account},
    vm::protocol::{self, Report},
    workload::{GATEWAY, WORKLOAD_LINK},
};

/// Where the disk is mounted; the workload's `/`.
pub(super) const ROOT: &str = "/root";
/// The cgroup of the workload.
pub(super) const CGROUP: &str = "/sys/fs/cgroup/workload";

/// The ways to the host.
pub(super) struct Ports {
    pub(super) out: File,
    pub(super) err: File,
    pub(super) control: File,
}

impl Ports {
    /// Tells the host.
    pub(super) fn report(&mut self, report: &Report) -> Result<(), String> {
        let mut line = serde_json::to_vec(report).map_err(|e| e.to_string())?;
        line.push(b'\n');
        self.control.write_all(&line).map_err(|e| format!("cannot report to the host: {e}"))
    }
}

/// Mounts what the kernel shows of itself.
pub(super) fn mount_kernel_files() -> Result<(), String> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        attach(kind, target, "")?;
    }
    Ok(())
}

/// Loads the modules that came with the guest.
pub(super) fn load_modules() -> Result<(), String> {
    let list = fs::read_to_string(protocol::MODULES_FILE).map_err(|e| format!("there is no list of modules: {e}"))?;
    for path in list.lines() {
        let file = File::open(path).map_err(|e| format!("cannot open {path}: {e}"))?;
        let is_packed = path.ends_with(".xz") || path.ends_with(".zst") || path.ends_with(".gz");
        // MODULE_INIT_COMPRESSED_FILE of linux/module.h.
        let flags: libc::c_int = if is_packed { 4 } else { 0 };
        // SAFETY: the descriptor is open and the parameters are a C string; the kernel only reads both.
        let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), flags) };
        let error = io::Error::last_os_error();
        if result != 0 && error.raw_os_error() != Some(libc::EEXIST) {
            return Err(format!("cannot load {path}: {error}"));
        }
    }
    Ok(())
}

/// Opens the ports to the host, which appear some moments after their driver.
pub(super) fn open_ports() -> Result<Ports, String> {
    let open = |name: &str| {
        let path = wait_for(name, || port_device(name))?;
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|e| format!("cannot open {}: {e}", path.display()))
    };
    Ok(Ports { out: open(protocol::OUT_PORT)?, err: open(protocol::ERR_PORT)?, control: open(protocol::CONTROL_PORT)? })
}

/// Makes the workload's world, and says who it is.
pub(super) fn prepare(spec: &ShimSpec) -> Result<Account, String> {
    let Engine::MicroVm { address, mtu, .. } = &spec.engine else {
        return Err("the specification is not one of a micro-VM".into());
    };
    sethostname(&spec.hostname).map_err(|e| format!("cannot set the host name: {e}"))?;
    let disk = wait_for("the disk", || Some(PathBuf::from("/dev/vda")).filter(|path| path.exists()))?;
    mount(Some(&disk), ROOT, Some("ext4"), MsFlags::MS_NOATIME, None::<&str>)
        .map_err(|e| format!("cannot mount the disk: {e}"))?;
    for dir in ["/proc", "/sys", "/dev", "/etc", spec.process.working_dir.as_str()] {
        rootfs::ensure_directory_inside(ROOT.as_ref(), dir).map_err(|e| format!("cannot create {dir}: {e}"))?;
    }
    attach("proc", "/root/proc", "")?;
    attach("sysfs", "/root/sys", "")?;
    prepare_devices()?;
    limit(spec)?;
    for (name, content) in [
        ("hosts", spec.hosts_file(Some(*address))),
        ("resolv.conf", spec.resolv_conf()),
        ("hostname", format!("{}\n", spec.hostname)),
    ] {
        let path = Path::new(ROOT).join("etc").join(name);
        // It may be a link to something that is not there.
        let _ = fs::remove_file(&path);
        fs::write(&path, content).map_err(|e| format!("cannot write /etc/{name}: {e}"))?;
    }
    connect(*address, *mtu)?;
    users::look_up(ROOT.as_ref(), spec.process.user.as_deref()).map_err(|e| e.to_string())
}

/// Leaves the disk clean.
pub(super) fn unmount() {
    for target in ["/root/dev/shm", "/root/dev/pts", "/root/dev", "/root/sys", "/root/proc", ROOT] {
        // What is still busy is written out by the sync that follows.
        let _ = umount2(target, MntFlags::empty());
    }
}

fn prepare_devices() -> Result<(), String> {
    attach("devtmpfs", "/root/dev", "")?;
    for (target, name) in [("/proc/self/fd", "fd"), ("fd/0", "stdin"), ("fd/1", "stdout"), ("fd/2", "stderr")] {
        symlink(target, Path::new("/root/dev").join(name)).map_err(|e| format!("cannot create /dev/{name}: {e}"))?;
    }
    for dir in ["/root/dev/pts", "/root/dev/shm"] {
        fs::create_dir_all(dir).map_err(|e| format!("cannot create {dir}: {e}"))?;
    }
    attach("devpts", "/root/dev/pts", "ptmxmode=0666,mode=0620,gid=5")?;
    attach("tmpfs", "/root/dev/shm", "mode=1777,size=65536k")
}

/// The workload's limits within the guest, which is larger than they are.
fn limit(spec: &ShimSpec) -> Result<(), String> {
    let write = |path: &str, value: String| {
        fs::write(Path::new("/sys/fs/cgroup").join(path), value)
            .map_err(|e| format!("cannot limit the workload ({path}): {e}"))
    };
    attach("cgroup2", "/sys/fs/cgroup", "")?;
    write("cgroup.subtree_control", "+memory +pids".into())?;
    fs::create_dir_all(CGROUP).map_err(|e| format!("cannot limit the workload: {e}"))?;
    write("workload/memory.max", spec.limits.memory_bytes.to_string())?;
    write("workload/pids.max", spec.limits.pids_max.to_string())
}

fn connect(address: std::net::Ipv6Addr, mtu: u32) -> Result<(), String> {
    wait_for(WORKLOAD_LINK, || Some(Path::new("/sys/class/net").join(WORKLOAD_LINK)).filter(|path| path.exists()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(|e| e.to_string())?;
    let connected = runtime.block_on(async {
        let links = Links::here()?;
        links.ensure_up("lo").await?;
        links.set_sysctl(&format!("ipv6/conf/{WORKLOAD_LINK}/accept_dad"), "0")?;
        links.set_sysctl(&format!("ipv6/conf/{WORKLOAD_LINK}/accept_ra"), "0")?;
        links.set_sysctl("ipv4/ip_unprivileged_port_start", "0")?;
        links.ensure_mtu(WORKLOAD_LINK, mtu).await?;
        links.ensure_address(WORKLOAD_LINK, address.into(), 128).await?;
        links.ensure_up(WORKLOAD_LINK).await?;
        links.ensure_route(&Route::default_via(GATEWAY, WORKLOAD_LINK)).await
    });
    connected.map_err(|e: crate::link::LinkError| format!("cannot connect to the network: {e}"))
}

fn attach(kind: &str, target: &str, options: &str) -> Result<(), String> {
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some(kind), target, Some(kind), safe, Some(options))
        .map_err(|e| format!("cannot mount {kind} on {target}: {e}"))
}

fn port_device(name: &str) -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    let found = ports
        .flatten()
        .find(|port| fs::read(port.path().join("name")).is_ok_and(|n| n.trim_ascii() == name.as_bytes()))?;
    let device = Path::new("/dev").join(std::ffi::OsStr::from_bytes(found.file_name().as_bytes()));
    device.exists().then_some(device)
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T, String> {
    let give_up = Instant::now() + DEVICES_MAX_WAIT;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > give_up {
            return Err(format!("{what} did not appear in the guest"));
        }
        thread::sleep(Duration::from_millis(2));
    }
}
