//! A flood of handshakes from a million forged addresses. Alone in its process, because it measures memory.

use core::time::Duration;

use atoll_mesh_core::{
    Event, Mesh,
    limits::{PENDING_PROVEN_MAX, PENDING_STRANGERS_MAX},
    wire::{RegionMac, handshake::Part},
};
use atoll_sim::mesh::{Quality, REGION, World};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
const LAN: Quality = Quality::clean(Duration::from_micros(200));

/// Resident memory of this process.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number of pages") * 4096
}

#[test]
fn a_million_forged_sources_leave_memory_bounded_and_honest_handshakes_quick() {
    let mut world = World::new(1);
    world.add_many(2);
    world.connect(0, 1, LAN);
    world.run_for(S);
    assert_eq!(world.unreachable_pairs(S), []);
    let newcomer = world.add(REGION);
    let mac = RegionMac::of(REGION);
    let before = resident_bytes();
    let (mut largest, mut waited, mut began) = ((0, 0), Vec::new(), None);
    for flood in 0..1_000_000usize {
        let mut noise = [0x5a; 32];
        noise[..8].copy_from_slice(&flood.to_be_bytes());
        let part = Part::BOTH[flood % 2];
        // 100,000 a second, each from an address of its own.
        world.inject(1000 + flood, 0, mac.init(part, flood as u32, &noise, None));
        if flood % 100 == 0 {
            world.run_for(MS);
            let half_open = world.mesh(0).expect("runs").half_open();
            largest = (largest.0.max(half_open.0), largest.1.max(half_open.1));
        }
        // Ten times in the flood, an honest node that nobody knows calls.
        if flood % 100_000 == 50_000 {
            world.connect(newcomer, 0, LAN);
            began = Some(world.now());
        }
        let is_up = |mesh: &Mesh| mesh.link_status().iter().any(|link| link.is_up);
        if let Some(start) = began
            && world.mesh(newcomer).is_some_and(|mesh| is_up(mesh))
        {
            waited.push(world.now().since(start));
            began = None;
            world.kill(newcomer);
            world.forget_peers(newcomer);
            world.start(newcomer);
        }
    }
    let grown = resident_bytes().saturating_sub(before);
    let slowest = waited.iter().max().copied().unwrap_or_default();
    println!("half open at most {largest:?}; {grown} bytes grown; handshakes took at most {slowest:?}");
    assert_eq!(waited.len(), 10, "each of the ten calls was answered");
    assert!(slowest <= 20 * MS, "{slowest:?}");
    assert!(largest.0 <= PENDING_STRANGERS_MAX && largest.1 <= PENDING_PROVEN_MAX, "{largest:?}");
    assert!(grown <= 4 << 20, "{grown} bytes");
    // Who was there before has noticed nothing.
    let downs =
        |node: usize| world.events.iter().filter(|e| e.0 == node && matches!(e.2, Event::LinkDown { .. })).count();
    assert_eq!(downs(1), 0);
    assert_eq!(world.unreachable_pairs(100 * MS).iter().filter(|(a, b)| *a < 2 && *b < 2).count(), 0);
    assert!(world.mesh(0).expect("runs").counters().cookies_demanded > 900_000);
}
