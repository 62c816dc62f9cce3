//! A router alone, fed by hand: what it must not believe.

use super::*;
use crate::{
    announce::{Grant, router_id},
    babel::{self, AckRequest, Batch, INFINITY, Path, SeqnoRequest, Tlv, Update},
    limits::{COST_HYSTERESIS, HOP_LIMIT, LINK_COST, ORIGINS_MAX},
};

const REGION: RegionId = RegionId([7; 32]);
const ABROAD: RegionId = RegionId([8; 32]);
const LINK: LinkId = LinkId::of(0);
const OTHER: LinkId = LinkId::of(1);
const CALENDAR_MS: u64 = 100;

fn secret(seed: u8) -> NodeSecret {
    NodeSecret::from_seed([seed; 32])
}

fn network(seed: u8) -> MeshAddr {
    MeshAddr::of(REGION, secret(seed).id())
}

fn at(ms: u64) -> Time {
    Time::from_micros(ms * 1000)
}

fn neighbourhood(region: RegionId, seed: u8) -> Neighbourhood {
    let policy = LinkPolicy::default();
    Neighbourhood { region, node: secret(seed).id(), cost: LINK_COST, mtu: 1400, generation: 5, policy }
}

/// A router of node 1 with neighbours 2 and 3.
fn router() -> Router {
    let settings = RouterSettings { secret: secret(1), region: REGION, calendar_ms: CALENDAR_MS };
    let mut router = Router::new(settings, at(0));
    router.handle_link_up(LINK, neighbourhood(REGION, 2), at(0));
    router.handle_link_up(OTHER, neighbourhood(REGION, 3), at(0));
    router
}

fn carry(target: Target, word: &Announcement, metric: u16, hops: u8) -> Update {
    let (origin, grant) = word.to_wire();
    Update {
        prefix: Some(target.prefix()),
        router_id: Some(word.router_id(REGION)),
        interval_cs: 1,
        seqno: (word.seqno & 0xffff) as u16,
        metric,
        origin: Some(origin),
        grant,
        path: Some(Path { mtu: 1300, hops }),
    }
}

fn update(origin: u8, seqno: u64, metric: u16) -> Update {
    let word = Announcement::sign(&secret(origin), REGION, seqno, false);
    carry(Target::Node(network(origin)), &word, metric, 1)
}

fn retract(origin: u8) -> Update {
    Update { metric: INFINITY, origin: None, router_id: None, path: None, ..update(origin, 1, 0) }
}

fn goodbye(origin: u8, seqno: u64) -> Update {
    let word = Announcement::sign(&secret(origin), REGION, seqno, true);
    carry(Target::Node(network(origin)), &word, INFINITY, 0)
}

fn batch_for(router: &mut Router, link: LinkId, generation: u32, number: u32, updates: &[Update]) {
    let batch = Some(Batch { generation, number });
    let mut tlvs = vec![Tlv::AckRequest(AckRequest { opaque: 0, interval_cs: 1, batch })];
    tlvs.extend(updates.iter().map(|update| Tlv::Update(Box::new(*update))));
    router.handle_tlvs(link, &tlvs, at(u64::from(number)));
}

fn batch(router: &mut Router, link: LinkId, number: u32, updates: &[Update]) {
    batch_for(router, link, 5, number, updates);
}

/// What the router sends over a link when its timers fire.
fn sent(router: &mut Router, link: LinkId, now: Time) -> Vec<Tlv> {
    router.handle_timeout(now);
    let mut tlvs = Vec::new();
    while let Some((to, packet)) = router.poll_transmit() {
        if to == link {
            tlvs.extend(babel::decode(&packet).expect("own messages are well-formed"));
        }
    }
    tlvs
}

/// The updates, but for the retraction of everything with which a new generation begins.
fn updates(tlvs: &[Tlv]) -> Vec<Update> {
    let updates = tlvs.iter().filter_map(|tlv| if let Tlv::Update(update) = tlv { Some(**update) } else { None });
    updates.filter(|update| update.prefix.is_some()).collect()
}

fn requests(tlvs: &[Tlv]) -> Vec<SeqnoRequest> {
    tlvs.iter().filter_map(|tlv| if let Tlv::SeqnoRequest(request) = tlv { Some(*request) } else { None }).collect()
}

fn link_to(router: &Router, origin: u8) -> Option<LinkId> {
    router.route(network(origin)).map(|route| route.link)
}

#[test]
fn an_announcement_counts_only_with_its_origins_signature_for_this_region() {
    let mut router = router();
    let origin = |update: Update, change: fn(&mut babel::Origin)| {
        let mut origin = update.origin.expect("signed");
        change(&mut origin);
        Update { origin: Some(origin), ..update }
    };
    let foreign = Announcement::sign(&secret(9), ABROAD, 1, false);
    let lies = [
        origin(update(9, 1, 200), |origin| origin.signature[3] ^= 1),
        origin(update(9, 1, 200), |origin| origin.epoch += 1),
        origin(update(9, 1, 200), |origin| origin.node = secret(8).id().0),
        origin(update(9, 1, 200), |origin| origin.is_retraction = true),
        Update { seqno: 2, ..update(9, 1, 200) },
        Update { prefix: update(8, 1, 0).prefix, ..update(9, 1, 200) },
        Update { origin: None, ..update(9, 1, 200) },
        carry(Target::Node(network(9)), &foreign, 200, 1),
        // Nobody but the origin is at distance zero, and every link has its price.
        Update { path: Some(Path { mtu: 1300, hops: 0 }), ..update(9, 1, 200) },
        Update { path: Some(Path { mtu: 1300, hops: 3 }), ..update(9, 1, 200) },
        update(9, 1, 1),
        Update { path: Some(Path { mtu: 1300, hops: HOP_LIMIT }), ..update(9, 1, 0xfff0) },
    ];
    for (number, lie) in lies.iter().enumerate() {
        batch(&mut router, LINK, number as u32 + 1, &[*lie]);
        assert_eq!(router.route(network(9)), None, "lie {number}");
    }
    batch(&mut router, LINK, 100, &[update(9, 1, 200)]);
    let route = router.route(network(9)).expect("true at last");
    assert_eq!((route.link, route.metric, route.mtu, route.hops), (LINK, 200 + LINK_COST, 1300, 2));
}

#[test]
fn a_farther_route_at_the_same_number_is_not_feasible_and_a_newer_one_is_asked_for() {
    let mut router = router();
    batch(&mut router, LINK, 1, &[update(9, 1, 100)]);
    // Node 3 may have learned this from us: taking it could close a circle.
    batch(&mut router, OTHER, 1, &[update(9, 1, 500)]);
    batch(&mut router, LINK, 2, &[retract(9)]);
    assert_eq!(router.route(network(9)), None);
    let asked = requests(&sent(&mut router, OTHER, at(3)));
    let expected = SeqnoRequest {
        prefix: Target::Node(network(9)).prefix(),
        router_id: router_id(REGION, secret(9).id()),
        seqno: 2,
        epoch: Some(0),
        hop_count: HOP_LIMIT,
    };
    assert_eq!(asked, [expected]);
    batch(&mut router, OTHER, 2, &[update(9, 2, 500)]);
    assert_eq!(link_to(&router, 9), Some(OTHER));
    assert_eq!(requests(&sent(&mut router, OTHER, at(5000))), []);
}

#[test]
fn a_backup_is_ready_and_small_differences_do_not_move_traffic() {
    let mut router = router();
    batch(&mut router, LINK, 1, &[update(9, 1, 200)]);
    assert_eq!(router.route(network(9)).and_then(|route| route.backup), None);
    batch(&mut router, OTHER, 1, &[update(9, 1, 200 - COST_HYSTERESIS / 2)]);
    assert_eq!(link_to(&router, 9), Some(LINK));
    batch(&mut router, OTHER, 2, &[update(9, 1, 200 - 4 * COST_HYSTERESIS)]);
    let route = router.route(network(9)).expect("a route");
    assert_eq!((route.link, route.backup), (OTHER, Some(LINK)));
    router.handle_link_down(OTHER, at(10));
    assert_eq!(link_to(&router, 9), Some(LINK), "node 2 is nearer to the origin than we ever said that we are");
}

#[test]
fn a_neighbour_that_moves_away_stays_usable_and_costs_more() {
    let mut router = router();
    batch(&mut router, LINK, 1, &[update(9, 1, 100)]);
    batch(&mut router, LINK, 2, &[update(9, 1, 900)]);
    let route = router.route(network(9)).expect("it once was nearer than we ever were, so it does not lead back");
    assert_eq!(route.metric, 900 + LINK_COST);
    // The other is better now but may lead back: so it is asked for, a few times.
    batch(&mut router, OTHER, 1, &[update(9, 1, 300)]);
    assert_eq!(link_to(&router, 9), Some(LINK));
    let asked: Vec<_> = (0..20).flat_map(|s| requests(&sent(&mut router, OTHER, at(1000 + s * 5000)))).collect();
    assert_eq!(asked.len(), 3);
    batch(&mut router, OTHER, 2, &[update(9, 2, 300)]);
    assert_eq!(link_to(&router, 9), Some(OTHER));
    // And after that the old number is of no use any more.
    router.handle_link_down(OTHER, at(200_000));
    assert_eq!(link_to(&router, 9), None);
}

#[test]
fn who_goes_in_order_is_forgotten_at_once_and_nobody_else_can_do_that() {
    let mut router = router();
    router.handle_generation(OTHER, 77, at(0));
    batch(&mut router, LINK, 1, &[update(9, 5, 100)]);
    batch(&mut router, OTHER, 1, &[update(9, 5, 150)]);
    sent(&mut router, OTHER, at(100));
    // A relay takes back its own path only, whatever it claims.
    let mut forged = goodbye(9, 6);
    forged.origin = goodbye(8, 6).origin;
    batch(&mut router, LINK, 2, &[forged]);
    assert_eq!(link_to(&router, 9), Some(OTHER));
    batch(&mut router, LINK, 3, &[update(9, 5, 100)]);
    // An old word of the origin, from before it started again, repeated by a relay.
    batch(&mut router, LINK, 4, &[goodbye(9, 4)]);
    assert_eq!(link_to(&router, 9), Some(OTHER));
    batch(&mut router, LINK, 5, &[goodbye(9, 6)]);
    assert_eq!(link_to(&router, 9), None, "through nobody");
    let told = updates(&sent(&mut router, OTHER, at(400)));
    let passed_on = told.iter().find(|update| update.origin.is_some_and(|origin| origin.is_retraction));
    assert_eq!(passed_on.map(|update| update.metric), Some(INFINITY), "passed on, signed");
    // What it said before it went is void; what it says after it came back is not.
    batch(&mut router, LINK, 6, &[update(9, 6, 100)]);
    assert_eq!(link_to(&router, 9), None);
    batch(&mut router, LINK, 7, &[update(9, 7, 100)]);
    assert_eq!(link_to(&router, 9), Some(LINK));
}

#[test]
fn stopping_tells_everybody_at_once() {
    let mut router = router();
    router.handle_generation(LINK, 77, at(0));
    sent(&mut router, LINK, at(10));
    router.stop(at(20));
    let told = sent(&mut router, LINK, at(20));
    let everything =
        |tlv: &Tlv| matches!(tlv, Tlv::Update(update) if update.prefix.is_none() && update.metric == INFINITY);
    assert!(told.iter().any(everything), "nothing leads through it");
    let told = updates(&told);
    let [word, again] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(word, again);
    assert!(word.metric == INFINITY && word.origin.is_some_and(|origin| origin.is_retraction));
}

#[test]
fn stale_batches_and_batches_for_another_generation_are_void() {
    let mut router = router();
    batch(&mut router, LINK, 7, &[update(9, 1, 100)]);
    batch(&mut router, LINK, 6, &[retract(9)]);
    assert!(router.route(network(9)).is_some(), "an older batch that was overtaken");
    batch_for(&mut router, LINK, 4, 8, &[retract(9)]);
    assert!(router.route(network(9)).is_some(), "a batch from before the link came up");
    router.handle_tlvs(LINK, &[Tlv::Update(Box::new(retract(9)))], at(9));
    assert!(router.route(network(9)).is_some(), "nothing counts outside of a batch");
    batch(&mut router, LINK, 9, &[Update { prefix: None, ..retract(9) }]);
    assert_eq!(router.route(network(9)), None, "all at once");
}

#[test]
fn updates_are_repeated_with_the_state_of_now_until_acknowledged() {
    let mut router = router();
    router.handle_generation(OTHER, 77, at(0));
    batch(&mut router, LINK, 1, &[update(9, 1, 100)]);
    let first = sent(&mut router, OTHER, at(10));
    let Some(Tlv::AckRequest(AckRequest { batch: Some(head), .. })) = first.first() else { panic!("{first:?}") };
    assert_eq!((head.generation, updates(&first).len()), (77, 2), "the origin and ourselves");
    batch(&mut router, LINK, 2, &[retract(9)]);
    let again = sent(&mut router, OTHER, at(400));
    assert!(updates(&again).iter().any(|update| update.metric == INFINITY), "{again:?}");
    let Some(Tlv::AckRequest(AckRequest { opaque, batch: Some(head), .. })) = again.first().cloned() else {
        panic!("{again:?}")
    };
    router.handle_tlvs(OTHER, &[Tlv::Ack(babel::Ack { opaque, number: Some(head.number) })], at(401));
    assert_eq!(sent(&mut router, OTHER, at(60_000)), [], "acknowledged: silence");
}

#[test]
fn a_newer_announcement_of_oneself_is_overtaken_and_requests_cost_one_number_each() {
    let mut router = router();
    router.handle_generation(LINK, 77, at(0));
    // The clock of this node went backwards over a restart; its neighbour shows what it said before.
    let word = Announcement::sign(&secret(1), REGION, 70_000, false);
    batch(&mut router, LINK, 1, &[carry(Target::Node(network(1)), &word, INFINITY, 0)]);
    let own = |tlvs: &[Tlv]| {
        let origin = updates(tlvs).into_iter().find(|update| update.metric == 0)?;
        Some(origin.origin?.epoch << 16 | u64::from(origin.seqno))
    };
    assert_eq!(own(&sent(&mut router, LINK, at(50))), Some(70_001));
    let request = SeqnoRequest {
        prefix: Target::Node(network(1)).prefix(),
        router_id: router_id(REGION, secret(1).id()),
        seqno: u16::MAX,
        epoch: Some((1 << 48) - 1),
        hop_count: 3,
    };
    router.handle_tlvs(LINK, &[Tlv::SeqnoRequest(request)], at(1000));
    assert_eq!(own(&sent(&mut router, LINK, at(1200))), Some(70_002));
}

#[test]
fn an_origin_that_restarts_with_an_old_clock_is_shown_what_it_said() {
    let mut router = router();
    batch(&mut router, LINK, 1, &[Update { path: Some(Path { mtu: 1300, hops: 0 }), ..update(2, 50_000, 0) }]);
    router.handle_link_up(LINK, neighbourhood(REGION, 2), at(10));
    router.handle_generation(LINK, 78, at(10));
    sent(&mut router, LINK, at(100));
    batch(&mut router, LINK, 2, &[Update { path: Some(Path { mtu: 1300, hops: 0 }), ..update(2, 7, 0) }]);
    assert_eq!(link_to(&router, 2), None);
    let shown = updates(&sent(&mut router, LINK, at(400)));
    let shown = shown.iter().find(|update| update.prefix == Some(Target::Node(network(2)).prefix()));
    assert_eq!(shown.and_then(|update| Some((update.metric, update.seqno, update.origin?.node))), {
        Some((INFINITY, 50_000, secret(2).id().0))
    });
}

fn abroad(seed: u8, authority: u8, seqno: u64, expiry_ms: u64) -> Update {
    let grant = Grant::sign(&secret(authority), ABROAD, secret(seed).id(), expiry_ms);
    let word = Announcement::sign_region(&secret(seed), grant, seqno, false);
    carry(Target::Region(RegionPrefix::of(ABROAD)), &word, 100, 1)
}

fn federation() -> Federation {
    let mut federation = Federation::default();
    assert!(federation.trust(ABROAD, secret(50).id()));
    federation
}

#[test]
fn a_region_is_believed_by_the_word_of_its_authority_until_that_expires() {
    let mut router = router();
    let host = MeshAddr::of(ABROAD, secret(60).id());
    batch(&mut router, LINK, 1, &[abroad(40, 50, 1, 1000)]);
    assert_eq!(router.route(host), None, "nobody told us of that region");
    router.set_federation(federation(), at(2));
    assert!(sent(&mut router, LINK, at(2)).contains(&Tlv::RouteRequest(None)), "so it is asked for again");
    for (number, lie) in [
        abroad(40, 51, 1, 1000),
        abroad(40, 50, 1, CALENDAR_MS),
        Update { grant: None, ..abroad(40, 50, 1, 1000) },
        Update { origin: abroad(41, 50, 1, 1000).origin, ..abroad(40, 50, 1, 1000) },
    ]
    .into_iter()
    .enumerate()
    {
        batch(&mut router, LINK, 3 + number as u32, &[lie]);
        assert_eq!(router.route(host), None, "lie {number}");
    }
    batch(&mut router, LINK, 20, &[abroad(40, 50, 1, 1000)]);
    assert_eq!(router.route(host).map(|route| route.announcement.node), Some(secret(40).id()));
    // Another border node; the nearer one is taken.
    batch(&mut router, OTHER, 21, &[Update { metric: 500, ..abroad(41, 50, 1, 2000) }]);
    assert_eq!(router.route(host).and_then(|route| route.backup), Some(OTHER));
    assert_eq!(router.deadline(), Some(at(1000 - CALENDAR_MS)));
    router.handle_timeout(at(1000 - CALENDAR_MS));
    assert_eq!(router.route(host).map(|route| route.announcement.node), Some(secret(41).id()));
    router.handle_timeout(at(2000));
    assert_eq!(router.route(host), None);
}

#[test]
fn nodes_stay_inside_their_region_and_regions_follow_the_owners_policy() {
    let mut router = router();
    let grant = Grant::sign(&secret(52), REGION, secret(1).id(), 10_000);
    let mut federation = federation();
    federation.grant = Some(grant);
    router.set_federation(federation, at(0));
    router.handle_link_up(OTHER, neighbourhood(RegionId([9; 32]), 3), at(0));
    for link in [LINK, OTHER] {
        router.handle_generation(link, 77, at(0));
    }
    // A node of our region by the word of a neighbour of another, and our own region by anybody's.
    let own = Announcement::sign_region(&secret(40), Grant { node: secret(40).id(), ..grant }, 1, false);
    let own = carry(Target::Region(RegionPrefix::of(REGION)), &own, 100, 1);
    batch(&mut router, OTHER, 1, &[update(9, 1, 100), own]);
    assert_eq!(router.table_sizes(), (0, 0));
    batch(&mut router, LINK, 1, &[update(9, 1, 100), abroad(40, 50, 1, 9000)]);
    let prefixes = |router: &mut Router, link, ms| {
        let told = updates(&sent(router, link, at(ms)));
        told.iter().filter_map(|update| update.prefix).map(|prefix| prefix.length()).collect::<Vec<_>>()
    };
    assert_eq!(prefixes(&mut router, OTHER, 100), [48, 48], "our region and the one behind us, no nodes");
    assert_eq!(prefixes(&mut router, LINK, 400), [112], "the neighbour knows the rest");
    // Not willing to carry traffic for that region.
    let policy = LinkPolicy { announce: Regions::Only(BTreeSet::new()), ..LinkPolicy::default() };
    router.handle_policy(OTHER, policy, at(500));
    let told = updates(&sent(&mut router, OTHER, at(2000)));
    let metrics: Vec<_> =
        told.iter().map(|update| (update.prefix.map(|prefix| prefix.address()), update.metric)).collect();
    assert!(metrics.contains(&(Some(RegionPrefix::of(ABROAD).network()), INFINITY)), "{metrics:?}");
    // Not willing to use that link for it.
    let policy = LinkPolicy { accept: Regions::Only(BTreeSet::new()), ..LinkPolicy::default() };
    router.handle_policy(LINK, policy, at(2500));
    assert_eq!(router.route(MeshAddr::of(ABROAD, secret(60).id())), None);
    assert!(router.route(network(9)).is_some());
    let dear = LinkPolicy { price: 50, ..LinkPolicy::default() };
    router.handle_link_up(LINK, Neighbourhood { policy: dear, ..neighbourhood(REGION, 2) }, at(2600));
    batch(&mut router, LINK, 1, &[update(9, 1, 100)]);
    assert_eq!(router.route(network(9)).map(|route| route.metric), Some(100 + LINK_COST + 50));
}

#[test]
fn tables_are_bounded() {
    let mut router = router();
    let room = 5;
    for number in 0..ORIGINS_MAX - room {
        let mut octets = [1; 14];
        octets[..6].copy_from_slice(&RegionPrefix::of(REGION).0);
        octets[6..].copy_from_slice(&(number as u64).to_be_bytes());
        router.entries.insert(Target::Node(MeshAddr::from_octets(octets)), Entry::default());
    }
    for seed in 10..30 {
        batch(&mut router, LINK, u32::from(seed), &[update(seed, 1, 100)]);
    }
    assert_eq!(router.entries.len(), ORIGINS_MAX);
    router.set_federation(federation(), at(100));
    batch(&mut router, LINK, 100, &[abroad(40, 50, 1, 9000)]);
    assert_eq!(router.entries.len(), ORIGINS_MAX + 1, "regions have their own room");
}

#[test]
fn says_of_every_route_what_became_of_it() {
    let mut router = router();
    let target = Target::Node(network(9));
    assert_eq!(router.choices(target), []);
    batch_for(&mut router, LINK, 5, 1, &[update(9, 50, 200)]);
    batch_for(&mut router, OTHER, 5, 1, &[update(9, 50, 150)]);
    let verdicts = |router: &Router| -> Vec<_> {
        router.choices(target).iter().map(|choice| (choice.link, choice.told, choice.cost, choice.verdict)).collect()
    };
    assert_eq!(verdicts(&router), [(OTHER, 150, LINK_COST, Verdict::Used), (LINK, 200, LINK_COST, Verdict::Backup)]);
    // Farther than this node ever was, so it might lead back here.
    router.handle_link_down(LINK, at(0));
    router.handle_link_up(LINK, neighbourhood(REGION, 2), at(0));
    batch_for(&mut router, LINK, 5, 1, &[update(9, 50, 400)]);
    assert_eq!(verdicts(&router)[1], (LINK, 400, LINK_COST, Verdict::NotFeasible));
}
