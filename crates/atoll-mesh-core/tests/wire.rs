//! Wire formats: golden vectors, round trips, and decoders that survive anything.

use std::path::Path;

use atoll_base::{MeshAddr, NodeSecret, RegionId};
use atoll_mesh_core::{
    Mesh, Received, Settings, Time, Tuning, babel,
    beacon::{BEACON_BYTES, Beacon},
    kem::AwsLcKem,
    wire::{
        RegionMac,
        data::{Body, Cipher, Steering},
    },
};
use proptest::prelude::*;

const REGION: RegionId = RegionId([7; 32]);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares with the file of this name. `ATOLL_GOLDEN=write` writes the file instead, which is a decision, not a fix.
fn golden(name: &str, actual: &str) {
    let path = Path::new("tests/golden").join(name).with_extension("hex");
    if std::env::var_os("ATOLL_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&path, format!("{actual}\n")).expect("the folder is there");
    }
    let expected = std::fs::read_to_string(&path).expect("the file is committed");
    assert_eq!(actual, expected.trim(), "{name}");
}

fn secret() -> NodeSecret {
    NodeSecret::from_seed([1; 32])
}

fn network() -> MeshAddr {
    MeshAddr::of(REGION, secret().id())
}

/// Changing any of these breaks every node that runs: it takes a new [`wire::VERSION`].
#[test]
fn golden_frames() {
    let steering = Steering {
        hop_limit: 64,
        ecn: 1,
        flow: 0x1234,
        body: Body::Sealed(Cipher::ChaCha20Poly1305),
        source: network(),
        target: MeshAddr::from_octets([3; 14]),
        receiver: 9,
        counter: 0x0a0b_0c0d_0e0f,
    };
    golden("steering", &hex(&steering.to_bytes()));
    let expired = Steering { hop_limit: 3, ecn: 0, flow: 0, body: Body::Expired, ..steering };
    golden("steering-expired", &hex(&expired.to_bytes()));
    golden("beacon", &hex(&Beacon::of(network(), 4870).to_bytes()));
}

fn node(seed: u8) -> Mesh {
    let settings = Settings {
        secret: NodeSecret::from_seed([seed; 32]),
        region: REGION,
        seed: [seed; 32],
        kem: Box::new(AwsLcKem),
        epoch: 1,
        tuning: Tuning::default(),
    };
    Mesh::new(settings, Time::ZERO)
}

proptest! {
    #[test]
    fn decoders_survive_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = RegionMac::of(REGION).parse(&bytes);
        if let Some(steering) = bytes.first_chunk().and_then(Steering::parse) {
            prop_assert_eq!(Steering::parse(&steering.to_bytes()), Some(steering));
        }
        let _ = babel::decode(&bytes);
        if let Some(beacon) = Beacon::parse(&bytes) {
            prop_assert_eq!(bytes, beacon.to_bytes());
        }
    }

    #[test]
    fn a_node_survives_any_datagram_and_packet(
        kind in 0u8..8,
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut node = node(1);
        let mut data = vec![kind, 0, 0, 0];
        data.extend_from_slice(&bytes);
        node.handle_packet(&data, false, Time::ZERO);
        node.handle_packet(&[&[0x60], bytes.as_slice()].concat(), true, Time::ZERO);
        let received = node.handle_datagram("192.0.2.9:1".parse().expect("an endpoint"), &mut data, Time::ZERO);
        prop_assert_eq!(received, Received::Done);
        prop_assert!(node.poll_packet().is_none());
        prop_assert!(node.link_status().is_empty());
    }

    #[test]
    fn beacons_round_trip(region in any::<[u8; 6]>(), port in 1u16.., hash in any::<[u8; 8]>()) {
        let beacon = Beacon { region: atoll_base::RegionPrefix(region), port, hash };
        prop_assert_eq!(Beacon::parse(&beacon.to_bytes()), Some(beacon));
        prop_assert_eq!(Beacon::parse(&beacon.to_bytes()[..BEACON_BYTES - 1]), None);
    }
}
