//! Handshakes and closed regions under faults and attackers, from seeds.

use core::time::Duration;
use std::{net::SocketAddr, path::Path};

use atoll_base::{NodeSecret, RegionId};
use atoll_mesh_core::{Mesh, Origin, Settings, Time, Tuning};
use atoll_sim::kem::SeededKem;

/// A node of the tests, from a seed.
fn node(seed: u8) -> Mesh {
    let settings = Settings {
        secret: NodeSecret::from_seed([seed; 32]),
        region: RegionId([7; 32]),
        seed: [seed; 32],
        kem: Box::new(SeededKem::new([seed; 32])),
        epoch: 1,
        tuning: Tuning::default(),
    };
    Mesh::new(settings, Time::ZERO)
}

/// All datagrams of a handshake between nodes with known seeds: pins the pattern, the prologue, the payloads and the
/// order. `ATOLL_GOLDEN=write` writes the file instead of comparing, which is a decision, not a fix.
#[test]
fn golden_handshake() {
    let (mut initiator, mut responder) = (node(1), node(2));
    let there: SocketAddr = "192.0.2.2:4870".parse().expect("an endpoint");
    let here: SocketAddr = "192.0.2.1:4870".parse().expect("an endpoint");
    initiator.add_peer(there, Origin::Static, Time::ZERO);
    initiator.handle_timeout(Time::ZERO);
    let mut transcript = String::new();
    for turn in 0..3 {
        let is_initiator = turn % 2 == 0;
        let (sender, receiver, from) =
            if is_initiator { (&mut initiator, &mut responder, here) } else { (&mut responder, &mut initiator, there) };
        for _ in 0..2 {
            let mut data = sender.poll_transmit().expect("both parts of a message").data;
            transcript.extend(data.iter().map(|byte| format!("{byte:02x}")));
            transcript.push('\n');
            receiver.handle_datagram(from, &mut data, Time::ZERO);
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/handshake.hex");
    if std::env::var_os("ATOLL_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&path, &transcript).expect("the folder is there");
    }
    assert_eq!(transcript, std::fs::read_to_string(&path).expect("the file is committed"));
    assert!(responder.link_status()[0].is_up);
    let mut confirmation = responder.poll_transmit().expect("the first frame under the new keys").data;
    initiator.handle_datagram(there, &mut confirmation, Time::ZERO + Duration::from_millis(1));
    assert!(initiator.link_status()[0].is_up);
}
