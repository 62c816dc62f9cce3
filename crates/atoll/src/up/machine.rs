//! What `atoll up` checks of the machine before it starts anything.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use atoll_base::schema::Capacity;

use super::{layout::Layout, settings::Settings};
use crate::cli::failure::fail;

/// Free disk below which a region is not started: a ledger that cannot write stops.
const DISK_BYTES_MIN: u64 = 256 * 1024 * 1024;
/// How long the ports of daemons that were killed may stay in use.
const KILLED_PATIENCE: Duration = Duration::from_secs(5);
/// Memory that is left to the machine itself.
const RESERVED_MEMORY_BYTES: u64 = 512 * 1024 * 1024;
/// Share of the free disk that is offered, in percent.
const DISK_SHARE: u64 = 50;

/// TUN devices, network namespaces and cgroups are the kernel's to give, and it gives them to root.
pub(super) fn require_root() -> Result<()> {
    if atoll_os::process::is_root() {
        return Ok(());
    }
    Err(fail(
        "a region needs root: it makes network interfaces, network namespaces and control groups",
        "run the same command with sudo",
    ))
}

/// Refuses to start where it cannot work.
pub(super) fn check(layout: &Layout, settings: &Settings) -> Result<()> {
    if !Path::new("/dev/net/tun").exists() {
        return Err(fail(
            "/dev/net/tun does not exist: the mesh has no network interface to make",
            "load the kernel's tun module: `modprobe tun`",
        ));
    }
    let existing = layout.root().ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let free = atoll_os::disk::space(existing)
        .map(|space| space.free_bytes)
        .with_context(|| format!("cannot find out how full the disk of {} is", existing.display()))?;
    if free < DISK_BYTES_MIN {
        return Err(fail(
            format!("only {} MiB are free on the disk of {}", free >> 20, existing.display()),
            format!("free at least {} MiB, or choose another disk with --state", DISK_BYTES_MIN >> 20),
        ));
    }
    // Daemons that were killed a moment ago hold their ports until the kernel has taken their network interface away.
    let patience = if layout.daemons_file().exists() { KILLED_PATIENCE } else { Duration::ZERO };
    let started = Instant::now();
    loop {
        match check_ports(settings) {
            Err(_) if started.elapsed() < patience => thread::sleep(Duration::from_millis(50)),
            result => return result,
        }
    }
}

/// Refuses ports on loopback that other programs have; the region's own daemons have those that are `held`.
pub(super) fn check_loopback_ports(settings: &Settings, held: &[u16]) -> Result<()> {
    for (key, port) in [("gateway", settings.ports.gateway), ("rpc", settings.ports.rpc)] {
        if !held.contains(&port) {
            check_port(key, port, TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop))?;
        }
    }
    Ok(())
}

fn check_ports(settings: &Settings) -> Result<()> {
    check_loopback_ports(settings, &[])?;
    check_port("mesh", settings.ports.mesh, UdpSocket::bind((Ipv6Addr::UNSPECIFIED, settings.ports.mesh)).map(drop))?;
    for (key, listen) in [("listen_tls", settings.mesh.listen_tls), ("metrics", settings.mesh.metrics)] {
        if let Some(listen) = listen {
            check_listener(key, listen, TcpListener::bind(listen).map(drop))?;
        }
    }
    Ok(())
}

/// The same for what the owner set in `[mesh]`.
fn check_listener(key: &str, listen: SocketAddr, bound: io::Result<()>) -> Result<()> {
    let what = match bound.as_ref().map_err(io::Error::kind) {
        Ok(()) => return Ok(()),
        Err(io::ErrorKind::AddrInUse) => {
            format!("port {} on this machine is in use by another program ([mesh] {key})", listen.port())
        }
        Err(io::ErrorKind::AddrNotAvailable) => format!("{} is no address of this machine ([mesh] {key})", listen.ip()),
        Err(_) => return bound.with_context(|| format!("cannot listen on {listen} ([mesh] {key})")),
    };
    Err(fail(what, format!("stop that program, or choose another address and port: [mesh] {key} in atoll.toml")))
}

fn check_port(key: &str, port: u16, bound: io::Result<()>) -> Result<()> {
    match bound {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(fail(
            format!("port {port} on this machine is in use by another program ({key})"),
            format!(
                "stop it, or choose another port: --{key}-port for a new region, [ports] {key} in its atoll.toml else"
            ),
        )),
        other => other.with_context(|| format!("cannot listen on port {port}")),
    }
}

/// What each of `nodes` nodes on this machine offers, unless the settings say it.
pub(super) fn capacity(layout: &Layout, settings: &Settings) -> Result<Capacity> {
    if let Some(capacity) = settings.capacity {
        return Ok(capacity);
    }
    let nodes = u64::from(settings.size.nodes);
    let cores = u64::try_from(std::thread::available_parallelism().context("cannot count the processors")?.get())?;
    let memory = memory_bytes()?.saturating_sub(RESERVED_MEMORY_BYTES);
    let disk = atoll_os::disk::space(layout.root())?.free_bytes;
    Ok(Capacity {
        // Cores are shared by all nodes of a lab: each offers them all, as a lab is for trying and not for selling.
        cpu_milli: cores * 1_000,
        memory_bytes: memory / nodes,
        disk_bytes: disk / 100 * DISK_SHARE / nodes,
    })
}

fn memory_bytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok())
        .context("/proc/meminfo has no MemTotal line that can be read")?;
    Ok(kib * 1024)
}
