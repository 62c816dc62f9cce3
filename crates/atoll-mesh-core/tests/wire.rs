//! Wire formats: golden vectors, round trips, and decoders that survive anything.

use std::path::Path;

use atoll_base::{MeshAddr, NodeId, NodeSecret, RegionId};
use atoll_mesh_core::{
    Announcement, Mesh, Settings, Time, Tuning,
    beacon::{BEACON_BYTES, Beacon},
    control::{self, Batch, Control, ControlWriter, Hello, Request, Update},
    kem::AwsLcKem,
    wire::{self, Frame, RegionMac, RelayHeader},
};
use proptest::prelude::*;

const REGION: RegionId = RegionId([7; 32]);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares with the file of this name. `ATOLL_GOLDEN=write` writes the file instead, which is a decision, not a fix.
fn golden(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).with_extension("hex");
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
    let mut relay = wire::data_header(9, 0x0a0b_0c0d_0e0f).to_vec();
    RelayHeader { hop_limit: 64, source: network(), target: MeshAddr::from_octets([3; 14]) }.write(&mut relay);
    golden("relay", &hex(&relay));
    golden("beacon", &hex(&Beacon::of(network(), 4870).to_bytes()));
}

#[test]
fn golden_controls() {
    let mut writer = ControlWriter::default();
    for control in [
        Control::Hello(Hello { is_probe: true, nonce: 1, heard_ms: 2, rtt_us: 3, generation: 4 }),
        Control::Batch(Batch { generation: 5, number: 6 }),
        Control::BatchAck(7),
        Control::Update(Update { announcement: Announcement::sign(&secret(), REGION, 8), metric: 9, hops: 10 }),
        Control::Retract(network()),
        Control::Request(Request { network: network(), seqno: 11, hop_limit: 12 }),
    ] {
        assert!(writer.push(&control));
    }
    golden("controls", &hex(&writer.finish()));
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

fn controls() -> impl Strategy<Value = Control> {
    let network = any::<[u8; 14]>().prop_map(MeshAddr::from_octets);
    let hello = (any::<bool>(), any::<u32>(), any::<u16>(), any::<u32>(), any::<u32>());
    let update = (any::<[u8; 32]>(), any::<u64>(), any::<[u8; 32]>(), 0..u32::MAX, any::<u8>());
    prop_oneof![
        hello.prop_map(|(is_probe, nonce, heard_ms, rtt_us, generation)| {
            Control::Hello(Hello { is_probe, nonce, heard_ms, rtt_us, generation })
        }),
        (any::<u32>(), any::<u32>()).prop_map(|(generation, number)| Control::Batch(Batch { generation, number })),
        any::<u32>().prop_map(Control::BatchAck),
        update.prop_map(|(node, seqno, half, metric, hops)| {
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(&half);
            let announcement = Announcement { node: NodeId(node), seqno, signature };
            Control::Update(Update { announcement, metric, hops })
        }),
        network.clone().prop_map(Control::Retract),
        (network, any::<u64>(), any::<u8>()).prop_map(|(network, seqno, hop_limit)| Control::Request(Request {
            network,
            seqno,
            hop_limit
        })),
    ]
}

proptest! {
    #[test]
    fn controls_round_trip(controls in prop::collection::vec(controls(), 0..8)) {
        let mut writer = ControlWriter::default();
        for control in &controls {
            prop_assert!(writer.push(control));
        }
        prop_assert_eq!(control::parse(&writer.finish()), Ok(controls));
    }

    #[test]
    fn decoders_survive_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(Frame::Data { receiver, counter }) = RegionMac::of(REGION).parse(&bytes) {
            prop_assert_eq!(&wire::data_header(receiver, counter), &bytes[..16]);
        }
        let _ = RelayHeader::parse(&bytes);
        let _ = control::parse(&bytes);
        let mut payload = vec![wire::PAYLOAD_CONTROL];
        payload.extend_from_slice(&bytes);
        let _ = control::parse(&payload);
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
        node.handle_packet(&data, Time::ZERO);
        node.handle_packet(&[&[0x60], bytes.as_slice()].concat(), Time::ZERO);
        node.handle_datagram("192.0.2.9:1".parse().expect("an endpoint"), &mut data, Time::ZERO);
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
