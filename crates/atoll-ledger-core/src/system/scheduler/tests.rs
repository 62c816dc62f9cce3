use alloy_primitives::Address;
use proptest::{collection::vec, prelude::*};

use super::*;

const GIB: u64 = 1 << 30;

fn node(id: u8, provider: u8, cores: u64, gib: u64) -> NodeRecord {
    NodeRecord {
        id: B256::repeat_byte(id),
        provider: Address::repeat_byte(provider),
        account: Address::repeat_byte(id),
        sealing_key: B256::ZERO,
        total: Capacity { cpu_milli: cores * 1000, memory_bytes: gib * GIB, disk_bytes: 10 * GIB },
        used: Capacity::default(),
        labels: vec![format!("id={id}")],
        registered_ms: 0,
        online: true,
        next_workload: 2,
    }
}

fn nodes(list: impl IntoIterator<Item = NodeRecord>) -> Nodes {
    list.into_iter().map(|node| (node.id, node)).collect()
}

fn request(cores: u64, gib: u64, replicas: u32) -> Request {
    Request {
        name: "web".into(),
        replicas,
        needs: Capacity { cpu_milli: cores * 1000, memory_bytes: gib * GIB, disk_bytes: GIB },
        constraints: vec![],
    }
}

fn id(byte: u8) -> B256 {
    B256::repeat_byte(byte)
}

#[track_caller]
fn check_shortage(nodes: &Nodes, request: Request, expect: &str) {
    let shortage = place_all(nodes, &[request]).expect_err("nothing fits");
    assert_eq!(shortage.why, expect);
}

#[test]
fn the_tightest_fit_wins_and_ties_go_to_the_lowest_id() {
    let fleet = nodes([node(1, 1, 8, 8), node(2, 1, 4, 8), node(3, 1, 4, 8)]);
    let placed = place_all(&fleet, &[request(2, 1, 1)]).expect("fits");
    assert_eq!(placed, [Placed { service: 0, replica: 0, node: id(2), standby: id(3) }]);
}

#[test]
fn replicas_spread_before_they_double_up() {
    let fleet = nodes([node(1, 1, 8, 8), node(2, 1, 4, 8)]);
    let placed = place_all(&fleet, &[request(1, 1, 3)]).expect("fits");
    let on: Vec<B256> = placed.iter().map(|p| p.node).collect();
    assert_eq!(on, [id(2), id(1), id(2)]);
}

#[test]
fn labels_are_honoured() {
    let fleet = nodes([node(1, 1, 8, 8), node(2, 1, 8, 8)]);
    let wanted = Request { constraints: vec!["id=2".into()], ..request(1, 1, 1) };
    let placed = place_all(&fleet, std::slice::from_ref(&wanted)).expect("fits");
    assert_eq!(placed[0].node, id(2));
    assert_eq!(placed[0].standby, B256::ZERO, "nobody else has the label");
    let nowhere = Request { constraints: vec!["id=2".into(), "zone=eu".into()], ..wanted };
    check_shortage(
        &fleet,
        nowhere,
        "service web needs the label zone=eu; the nearest fit is node 02020202, which lacks it",
    );
}

#[test]
fn a_refusal_names_what_is_missing_and_the_nearest_fit() {
    let mut fleet = nodes([node(1, 1, 4, 8), node(2, 1, 2, 2)]);
    fleet.get_mut(&id(1)).expect("a node").used.cpu_milli = 2000;
    let fit = "the nearest fit is node 01010101 with";
    check_shortage(&fleet, request(8, 1, 1), &format!("service web needs 8 cores; {fit} 2 of 4 cores free"));
    check_shortage(
        &fleet,
        request(1, 9, 1),
        &format!("service web needs 9 GiB of memory; {fit} 8 GiB of 8 GiB of memory free"),
    );
    check_shortage(
        &fleet,
        request(8, 9, 1),
        &format!("service web needs 8 cores and 9 GiB of memory; {fit} 2 of 4 cores and 8 GiB of 8 GiB of memory free"),
    );
    check_shortage(
        &fleet,
        request(2, 1, 3),
        "replica 3 of 3 of service web needs 2 cores; the nearest fit is node 01010101 with 0 of 4 cores free",
    );
    for node in fleet.values_mut() {
        node.online = false;
    }
    check_shortage(&fleet, request(1, 1, 1), "service web cannot be placed: none of the region's 2 nodes is online");
    check_shortage(
        &Nodes::new(),
        request(1, 1, 1),
        "service web cannot be placed: none of the region's 0 nodes is online",
    );
}

#[test]
fn a_node_that_offers_less_than_it_uses_takes_nothing_more() {
    let mut small = node(1, 1, 1, 1);
    small.used.cpu_milli = 5000;
    assert_eq!(free(&small).cpu_milli, 0);
    assert!(!fits(&small, &request(0, 0, 1)));
    assert!(place_all(&nodes([small]), &[request(1, 0, 1)]).is_err());
}

fn any_node() -> impl Strategy<Value = NodeRecord> {
    let used = (0..=8u64, 0..=8u64);
    (1..=255u8, 0..3u8, 1..=8u64, 1..=8u64, used, prop::bool::weighted(0.8), 0..3u8).prop_map(
        |(id, provider, cores, gib, used, online, zone)| {
            let mut node = node(id, provider, cores, gib);
            node.used = Capacity { cpu_milli: used.0 * 500, memory_bytes: used.1 * GIB / 2, disk_bytes: 0 };
            node.online = online;
            node.labels = vec![format!("zone={zone}")];
            node
        },
    )
}

fn any_request() -> impl Strategy<Value = Request> {
    (1..=4u64, 0..=4u64, 1..=4u32, prop::option::weighted(0.3, 0..3u8)).prop_map(|(cores, gib, replicas, zone)| {
        Request {
            constraints: zone.map(|z| format!("zone={z}")).into_iter().collect(),
            ..request(cores, gib, replicas)
        }
    })
}

/// Whether a node can take a replica, said in the plainest way.
fn plainly_fits(node: &NodeRecord, request: &Request) -> bool {
    node.online
        && request.constraints.iter().all(|label| node.labels.iter().any(|has| has == label))
        && node.used.cpu_milli + request.needs.cpu_milli <= node.total.cpu_milli
        && node.used.memory_bytes + request.needs.memory_bytes <= node.total.memory_bytes
        && node.used.disk_bytes + request.needs.disk_bytes <= node.total.disk_bytes
}

/// What would be left over, as a fraction of each resource.
fn plainly_left(node: &NodeRecord, request: &Request) -> f64 {
    let of = |total: u64, used: u64, needs: u64| (total - used - needs) as f64 / total as f64;
    of(node.total.cpu_milli, node.used.cpu_milli, request.needs.cpu_milli)
        + of(node.total.memory_bytes, node.used.memory_bytes, request.needs.memory_bytes)
        + of(node.total.disk_bytes, node.used.disk_bytes, request.needs.disk_bytes)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    /// A model that replays the placement step by step agrees with every choice.
    #[test]
    fn every_choice_is_the_best(list in vec(any_node(), 0..8), requests in vec(any_request(), 1..4)) {
        let mut model = nodes(list);
        let outcome = place_all(&model, &requests);
        let mut placed = outcome.iter().flatten();
        'all: for (service, request) in (0u32..).zip(&requests) {
            let mut on = Replicas::new();
            for replica in 0..request.replicas {
                let fit: Vec<&NodeRecord> = model.values().filter(|node| plainly_fits(node, request)).collect();
                if fit.is_empty() {
                    let shortage = outcome.as_ref().expect_err("nothing fits");
                    prop_assert_eq!(shortage.service, service);
                    break 'all;
                }
                let Ok(_) = &outcome else {
                    // It may still fail later on; follow it by the same rules.
                    let node = best(&model, request, &on).expect("something fits");
                    *on.entry(node).or_default() += 1;
                    let record = model.get_mut(&node).expect("a node");
                    record.used = sum(record.used, request.needs);
                    continue;
                };
                let place = placed.next().expect("one place for each replica");
                prop_assert_eq!((place.service, place.replica), (service, replica));
                let chosen = model.get(&place.node).expect("a node");
                prop_assert!(plainly_fits(chosen, request));
                let count = |node: &NodeRecord| on.get(&node.id).copied().unwrap_or(0);
                for other in fit {
                    prop_assert!(count(chosen) <= count(other), "replicas spread");
                    if count(chosen) == count(other) {
                        // The scheduler counts in millionths of each of three resources.
                        prop_assert!(plainly_left(chosen, request) <= plainly_left(other, request) + 4e-6, "best fit");
                    }
                }
                *on.entry(place.node).or_default() += 1;
                let record = model.get_mut(&place.node).expect("a node");
                record.used = sum(record.used, request.needs);
            }
        }
        for place in outcome.iter().flatten() {
            let request = &requests[place.service as usize];
            let others = || model.values().filter(|node| node.id != place.node && plainly_fits(node, request));
            let provider = model[&place.node].provider;
            if place.standby.is_zero() {
                prop_assert_eq!(others().count(), 0);
            } else {
                prop_assert!(others().any(|node| node.id == place.standby));
                let foreign = others().any(|node| node.provider != provider);
                prop_assert_eq!(model[&place.standby].provider != provider, foreign, "another provider if there is one");
            }
        }
    }
}
