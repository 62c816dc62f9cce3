//! A router alone, fed by hand: what it must not believe.

use super::*;
use crate::limits::LINK_COST;

const REGION: RegionId = RegionId([7; 32]);
const LINK: LinkId = LinkId::of_test(0);
const OTHER: LinkId = LinkId::of_test(1);

fn secret(seed: u8) -> NodeSecret {
    NodeSecret::from_seed([seed; 32])
}

fn network(seed: u8) -> MeshAddr {
    MeshAddr::of(REGION, secret(seed).id())
}

fn at(ms: u64) -> Time {
    Time::from_micros(ms * 1000)
}

/// A router of node 1 with neighbours 2 and 3.
fn router() -> Router {
    let mut router = Router::new(secret(1), REGION, 100, at(0));
    router.handle_link_up(LINK, network(2), LINK_COST, 5, at(0));
    router.handle_link_up(OTHER, network(3), LINK_COST, 5, at(0));
    router
}

fn update(origin: u8, seqno: u64, metric: u32) -> Update {
    Update { announcement: Announcement::sign(&secret(origin), REGION, seqno), metric, hops: 1 }
}

fn batch(router: &mut Router, link: LinkId, number: u32, controls: &[Control]) {
    let mut all = vec![Control::Batch(Batch { generation: 5, number })];
    all.extend_from_slice(controls);
    router.handle_controls(link, &all, at(u64::from(number)));
}

/// What the router sends over a link when its timers fire.
fn sent(router: &mut Router, link: LinkId, now: Time) -> Vec<Control> {
    router.handle_timeout(now);
    let mut controls = Vec::new();
    while let Some((to, payload)) = router.poll_transmit() {
        if to == link {
            controls.extend(crate::control::parse(&payload).expect("own messages are well-formed"));
        }
    }
    controls
}

#[test]
fn an_announcement_counts_only_with_its_origins_signature_for_this_region() {
    let mut router = router();
    let mut forged = update(9, 1, 0);
    forged.announcement.signature[3] ^= 1;
    batch(&mut router, LINK, 1, &[Control::Update(forged)]);
    let mut raised = update(9, 1, 0);
    raised.announcement.seqno = 2;
    batch(&mut router, LINK, 2, &[Control::Update(raised)]);
    let mut stolen = update(8, 1, 0);
    stolen.announcement.node = secret(9).id();
    batch(&mut router, LINK, 3, &[Control::Update(stolen)]);
    let foreign = Announcement::sign(&secret(9), RegionId([8; 32]), 1);
    batch(&mut router, LINK, 4, &[Control::Update(Update { announcement: foreign, metric: 0, hops: 1 })]);
    assert_eq!(router.route(network(9)), None);
    batch(&mut router, LINK, 5, &[Control::Update(update(9, 1, 10))]);
    assert_eq!(router.route(network(9)).map(|route| (route.link, route.metric)), Some((LINK, 10 + LINK_COST)));
}

#[test]
fn a_farther_route_at_the_same_number_is_not_feasible_and_a_newer_one_is_asked_for() {
    let mut router = router();
    batch(&mut router, LINK, 1, &[Control::Update(update(9, 1, 10))]);
    // Node 3 may have learned this from us: taking it could close a circle.
    batch(&mut router, OTHER, 1, &[Control::Update(update(9, 1, 500))]);
    batch(&mut router, LINK, 2, &[Control::Retract(network(9))]);
    assert_eq!(router.route(network(9)), None);
    let requests = sent(&mut router, OTHER, at(3));
    assert!(requests.contains(&Control::Request(Request { network: network(9), seqno: 2, hop_limit: HOP_LIMIT })));
    batch(&mut router, OTHER, 2, &[Control::Update(update(9, 2, 500))]);
    assert_eq!(router.route(network(9)).map(|route| route.link), Some(OTHER));
    assert!(!sent(&mut router, OTHER, at(5000)).iter().any(|control| matches!(control, Control::Request(_))));
}

#[test]
fn a_nearer_route_is_feasible_and_small_differences_do_not_move_traffic() {
    let mut router = router();
    batch(&mut router, LINK, 1, &[Control::Update(update(9, 1, 100))]);
    batch(&mut router, OTHER, 1, &[Control::Update(update(9, 1, 100 - COST_HYSTERESIS / 2))]);
    assert_eq!(router.route(network(9)).map(|route| route.link), Some(LINK));
    batch(&mut router, OTHER, 2, &[Control::Update(update(9, 1, 100 - 2 * COST_HYSTERESIS))]);
    assert_eq!(router.route(network(9)).map(|route| route.link), Some(OTHER));
    router.handle_link_down(OTHER, at(10));
    // A backup is ready: node 2 is nearer to the origin than we ever said that we are.
    assert_eq!(router.route(network(9)).map(|route| route.link), Some(LINK));
}

#[test]
fn stale_batches_and_batches_for_another_generation_are_void() {
    let mut router = router();
    batch(&mut router, LINK, 7, &[Control::Update(update(9, 1, 10))]);
    batch(&mut router, LINK, 6, &[Control::Retract(network(9))]);
    assert!(router.route(network(9)).is_some(), "an older batch that was overtaken");
    let void = [Control::Batch(Batch { generation: 4, number: 8 }), Control::Retract(network(9))];
    router.handle_controls(LINK, &void, at(8));
    assert!(router.route(network(9)).is_some(), "a batch from before the link came up");
    router.handle_controls(LINK, &[Control::Retract(network(9))], at(9));
    assert!(router.route(network(9)).is_some(), "nothing counts outside of a batch");
}

#[test]
fn updates_are_repeated_with_the_state_of_now_until_acknowledged() {
    let mut router = router();
    router.handle_generation(OTHER, 77, at(0));
    batch(&mut router, LINK, 1, &[Control::Update(update(9, 1, 10))]);
    let first = sent(&mut router, OTHER, at(10));
    let [Control::Batch(head), updates @ ..] = first.as_slice() else { panic!("{first:?}") };
    assert_eq!((head.generation, updates.len()), (77, 2), "the origin and ourselves");
    batch(&mut router, LINK, 2, &[Control::Retract(network(9))]);
    let again = sent(&mut router, OTHER, at(400));
    assert!(again.contains(&Control::Retract(network(9))), "{again:?}");
    let Some(Control::Batch(head)) = again.first().copied() else { panic!("{again:?}") };
    router.handle_controls(OTHER, &[Control::BatchAck(head.number)], at(401));
    assert_eq!(sent(&mut router, OTHER, at(60_000)), [], "acknowledged: silence");
}

#[test]
fn a_newer_announcement_of_oneself_is_overtaken_and_requests_cost_one_number_each() {
    let mut router = router();
    router.handle_generation(LINK, 77, at(0));
    // The clock of this node went backwards over a restart.
    batch(&mut router, LINK, 1, &[Control::Update(update(1, 5000, 3))]);
    let own = |controls: &[Control]| {
        controls.iter().find_map(|control| match control {
            Control::Update(update) if update.metric == 0 => Some(update.announcement.seqno),
            _ => None,
        })
    };
    assert_eq!(own(&sent(&mut router, LINK, at(50))), Some(5001));
    let request = Control::Request(Request { network: network(1), seqno: u64::MAX, hop_limit: 3 });
    router.handle_controls(LINK, &[request], at(1000));
    assert_eq!(own(&sent(&mut router, LINK, at(1200))), Some(5002));
}

#[test]
fn tables_are_bounded() {
    let mut router = router();
    let room = 5;
    for number in 0..ORIGINS_MAX {
        let network = MeshAddr::from_octets([1; 14].map(|octet: u8| octet.wrapping_add(number as u8)));
        let mut octets = network.octets();
        octets[..8].copy_from_slice(&(number as u64).to_be_bytes());
        if router.origins.len() < ORIGINS_MAX - room {
            router.origins.insert(MeshAddr::from_octets(octets), Origin::new(NodeId([0; 32])));
        }
    }
    for seed in 10..30 {
        batch(&mut router, LINK, u32::from(seed), &[Control::Update(update(seed, 1, 1))]);
    }
    assert_eq!(router.origins.len(), ORIGINS_MAX);
}
