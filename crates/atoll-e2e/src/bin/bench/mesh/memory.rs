//! Memory of a relay under more than it can carry, and under forged senders.

use std::{fs, net::SocketAddrV4, time::Duration};

use anyhow::{Result, ensure};
use atoll_e2e::{
    Turn, command,
    mesh::{Host, Mesh, PORT, flood, topology, usage},
};

use crate::figure::Figure;

/// What a daemon may take at most, whoever sends to it.
const MEMORY_MIB_MAX: f64 = 64.0;
const OVERLOAD: Duration = Duration::from_secs(20);
const FLOWS: usize = 256;
const FORGED: u32 = 1_000_000;
const FORGED_PER_SECOND: u32 = 100_000;

/// Both floods, each on a fresh lab.
pub(super) fn measure(turn: &Turn) -> Result<Vec<Figure>> {
    Ok(vec![overload(turn)?, forged(turn)?])
}

fn overload(turn: &Turn) -> Result<Figure> {
    let mesh = Mesh::start(turn, "bover", 3, &topology::line(3))?;
    mesh.wait_until_joined()?;
    let relay = mesh.nodes[1].pid()?;
    // The relay gets what the others leave of the processors: it cannot keep up.
    command("renice", ["-n", "19", "-p", &relay.to_string()])?;
    let mut sent = 0;
    let most = usage::peak_memory_mib(relay, || {
        sent = flood::overload(mesh.lab.host(0), mesh.nodes[2].address, FLOWS, OVERLOAD)?;
        Ok(())
    })?;
    let overflowed = socket_drops(mesh.lab.host(1))?;
    println!("  {sent} packets of {FLOWS} flows, {overflowed} overflowed the relay's socket: at most {most:.1} MiB");
    Ok(Figure::of("relay, overload for 20 s", "memory, most (Pss)", "MiB", &[most], 50, Some(MEMORY_MIB_MAX)))
}

/// Datagrams for which the sockets of a machine had no room.
fn socket_drops(host: &Host) -> Result<u64> {
    let table = host.run(|| Ok(fs::read_to_string("/proc/thread-self/net/udp6")?))?;
    // The last column of each line but the title.
    Ok(table.lines().skip(1).filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok()).sum())
}

/// 0 is flooded by 1, and has an honest neighbour 2.
fn forged(turn: &Turn) -> Result<Figure> {
    let mut mesh = Mesh::start(turn, "bforge", 3, &[(0, 1), (0, 2)])?;
    mesh.wait_until_joined()?;
    mesh.nodes[1].kill();
    let words = flood::first_words(&mesh.lab, 1, 3)?;
    let wire = mesh.lab.wire(0, 1)?;
    mesh.lab.host(0).inside("ip", ["route", "add", "default", "via", &wire.ip(1).to_string()])?;
    let target = SocketAddrV4::new(wire.ip(0), PORT);
    let flood = || flood::forge(mesh.lab.host(1), target, &words, FORGED, FORGED_PER_SECOND);
    let most = usage::peak_memory_mib(mesh.nodes[0].pid()?, flood)?;
    println!("  {FORGED} forged senders: at most {most:.1} MiB");
    ensure!(mesh.nodes[0].hears(mesh.nodes[2].address), "the honest neighbour is not heard any more");
    Ok(Figure::of("1,000,000 forged senders", "memory, most (Pss)", "MiB", &[most], 50, Some(MEMORY_MIB_MAX)))
}
