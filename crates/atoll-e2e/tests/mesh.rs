//! The mesh on real interfaces, daemons alone: what must never break. How fast it is: `make bench AREA=mesh`.

use std::{net::SocketAddrV4, time::Duration};

use anyhow::{Context as _, Result, ensure};
use atoll_e2e::{
    Turn,
    mesh::{Mesh, PORT, cut::Cut, flood, probe, topology, usage},
};

/// No way around a cut takes longer.
const STUCK: Duration = Duration::from_secs(15);
/// What a daemon may take at most, whoever sends to it.
const MEMORY_MIB_MAX: f64 = 64.0;

#[test]
fn two_hundred_megabytes_arrive_as_they_were_sent() -> Result<()> {
    let turn = Turn::take()?;
    let mesh = Mesh::start(&turn, "mtcp", 2, &topology::line(2))?;
    mesh.wait_until_joined()?;
    let (source, target) = (mesh.lab.host(0), mesh.lab.host(1));
    let took = probe::transfer(source, target, mesh.nodes[1].address, 200_000_000)?;
    eprintln!("200 MB in {took:?}");
    Ok(())
}

#[test]
fn a_ring_heals_after_each_kind_of_cut() -> Result<()> {
    let turn = Turn::take()?;
    let mut mesh = Mesh::start(&turn, "mring", 4, &topology::ring(4))?;
    mesh.wait_until_joined()?;
    let (source, target) = (mesh.nodes[0].address, mesh.nodes[2].address);
    let _echo = probe::Echo::start(mesh.lab.host(2))?;
    let prober = probe::Prober::start(mesh.lab.host(0), source, target)?;
    for cut in Cut::ALL {
        mesh.wait_until_joined()?;
        prober.wait_until_clear(STUCK)?;
        let relay = mesh.next_hop(0, 2)?;
        let at = cut.apply(&mut mesh, 0, relay, 2)?;
        let outage =
            prober.outage(at, STUCK).with_context(|| format!("{}: no way around within {STUCK:?}", cut.name()))?;
        eprintln!("{}: {outage:?}", cut.name());
        cut.mend(&mut mesh, 0, relay, 2)?;
    }
    Ok(())
}

#[test]
fn a_million_forged_senders_do_not_fill_the_memory() -> Result<()> {
    let turn = Turn::take()?;
    // 0 is flooded by 1, and has an honest neighbour 2.
    let mut mesh = Mesh::start(&turn, "mflood", 3, &[(0, 1), (0, 2)])?;
    mesh.wait_until_joined()?;
    mesh.nodes[1].kill();
    let words = flood::first_words(&mesh.lab, 1, 3)?;
    let (wire, victim, attacker) = (mesh.lab.wire(0, 1)?, mesh.lab.host(0), mesh.lab.host(1));
    // Its answers to the forged senders leave, as they do towards the internet.
    victim.inside("ip", ["route", "add", "default", "via", &wire.ip(1).to_string()])?;
    let target = SocketAddrV4::new(wire.ip(0), PORT);
    let flood = || flood::forge(attacker, target, &words, 1_000_000, 100_000);
    let most = usage::peak_memory_mib(mesh.nodes[0].pid()?, flood)?;
    eprintln!("at most {most:.1} MiB");
    ensure!(most < MEMORY_MIB_MAX, "{most:.1} MiB under forged senders, more than {MEMORY_MIB_MAX}");
    ensure!(mesh.nodes[0].hears(mesh.nodes[2].address), "the honest neighbour is not heard any more");
    Ok(())
}
