use atoll_base::{NodeSecret, RegionId};
use proptest::prelude::*;

use super::*;
use crate::{
    babel::{AckRequest, Hello, Ihu, SeqnoRequest, Tlv, Update, Writer, decode},
    limits::{
        LINK_COST, PLAIN_HELLO_INTERVAL, PLAIN_NEIGHBOURS_MAX, PLAIN_ROUTES_MAX, PLAIN_SOURCE_KEEP,
        PLAIN_UPDATE_INTERVAL,
    },
};

const ME: [u8; 8] = [1; 8];
const THEM: [u8; 8] = [2; 8];
const OTHERS: [u8; 8] = [3; 8];
const LEFT: u32 = 5;
const RIGHT: u32 = 6;

fn at(ms: u64) -> Time {
    Time::from_micros(ms * 1000)
}

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').expect("a length");
    Prefix::new(address.parse().expect("an address"), length.parse().expect("a number")).expect("short enough")
}

fn host(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, number)
}

fn network() -> MeshAddr {
    MeshAddr::of(RegionId([7; 32]), NodeSecret::from_seed([1; 32]).id())
}

fn region() -> Prefix {
    Prefix::new(network().network(), 48).expect("short enough")
}

fn interface() -> PlainInterface {
    PlainInterface {
        addresses: BTreeSet::from([host(1)]),
        announce: PlainAnnounce::Region,
        accept: vec![prefix("fd01::/16"), prefix("2001:db8::/32")],
    }
}

/// A router on both interfaces that announces its region.
fn router() -> PlainRouter {
    let mut router = PlainRouter::new(PlainSettings { router_id: ME, seqno: 100, network: network() }, at(0));
    router.set_interface(LEFT, interface(), at(0));
    router.set_interface(RIGHT, interface(), at(0));
    router.set_announced(BTreeMap::from([(region(), 0)]), at(0));
    router
}

fn packet(tlvs: &[Tlv]) -> Vec<u8> {
    let mut writer = Writer::default();
    assert!(tlvs.iter().all(|tlv| writer.push(tlv)));
    writer.finish()
}

fn hello(seqno: u16) -> Tlv {
    Tlv::Hello(Hello { is_unicast: false, seqno, interval_cs: 400, timestamp_us: None, link: None, grant: None })
}

fn ihu(to: u16) -> Tlv {
    Tlv::Ihu(Ihu { address: Some(host(to)), rxcost: LINK_COST, interval_cs: 1200, echo: None })
}

fn route(text: &str, router_id: [u8; 8], seqno: u16, metric: u16) -> Tlv {
    let router_id = (metric != INFINITY).then_some(router_id);
    let prefix = Some(prefix(text));
    let (interval_cs, origin) = (1600, None);
    Tlv::Update(Box::new(Update { prefix, router_id, interval_cs, seqno, metric, origin, grant: None, path: None }))
}

fn hears(router: &mut PlainRouter, index: u32, from: u16, tlvs: &[Tlv], now: Time) {
    router.handle_packet(index, host(from), &packet(tlvs), now);
    router.handle_timeout(now);
}

/// A neighbour that hears and is heard.
fn meet(router: &mut PlainRouter, index: u32, from: u16, now: Time) {
    hears(router, index, from, &[hello(1), ihu(1)], now);
    hears(router, index, from, &[hello(2), ihu(1)], now);
    assert!(router.neighbours().any(|via| via == (index, host(from))));
}

/// Everything that is sent until a time, with the interface.
fn sent(router: &mut PlainRouter, until: Time) -> Vec<(u32, Tlv)> {
    let mut all = Vec::new();
    loop {
        while let Some(transmit) = router.poll_transmit() {
            let tlvs = decode(&transmit.data).expect("what is sent is well-formed");
            all.extend(tlvs.into_iter().map(|tlv| (transmit.interface, tlv)));
        }
        match router.deadline().filter(|deadline| *deadline <= until) {
            Some(deadline) => router.handle_timeout(deadline),
            None => return all,
        }
    }
}

/// Updates of a prefix among what was sent: interface, router, seqno, metric.
fn told(sent: &[(u32, Tlv)], of: Prefix) -> Vec<(u32, Option<[u8; 8]>, u16, u16)> {
    let updates = sent.iter().filter_map(|(index, tlv)| match tlv {
        Tlv::Update(update) if update.prefix == Some(of) => {
            Some((*index, update.router_id, update.seqno, update.metric))
        }
        _ => None,
    });
    updates.collect()
}

fn requests(sent: &[(u32, Tlv)]) -> Vec<(u32, SeqnoRequest)> {
    let requests = sent.iter().filter_map(|(index, tlv)| match tlv {
        Tlv::SeqnoRequest(request) => Some((*index, *request)),
        _ => None,
    });
    requests.collect()
}

fn table(router: &PlainRouter) -> BTreeMap<Prefix, PlainNextHop> {
    router.routes().collect()
}

fn over(interface: u32, from: u16) -> PlainNextHop {
    PlainNextHop::Via { interface, address: host(from) }
}

#[test]
fn a_neighbour_is_used_once_both_ends_hear_each_other() {
    let mut router = router();
    hears(&mut router, LEFT, 2, &[hello(7), route("fd01:2::/32", THEM, 1, 0)], at(0));
    hears(&mut router, LEFT, 2, &[hello(8)], at(100));
    assert_eq!(table(&router), BTreeMap::new(), "it did not say that it hears this node");
    let all = sent(&mut router, at(600));
    let heard = |(index, tlv): &(u32, Tlv)| *index == LEFT && matches!(tlv, Tlv::Ihu(i) if i.rxcost == LINK_COST);
    assert!(all.iter().any(heard), "{all:?}");
    hears(&mut router, LEFT, 2, &[ihu(9)], at(700));
    assert_eq!(table(&router), BTreeMap::new(), "it hears somebody else");
    hears(&mut router, LEFT, 2, &[ihu(1)], at(700));
    assert_eq!(table(&router), BTreeMap::from([(prefix("fd01:2::/32"), over(LEFT, 2))]));
    let all = sent(&mut router, at(900));
    assert!(all.contains(&(LEFT, Tlv::RouteRequest(None))), "it is asked for all that it knows");
    assert!(told(&all, region()).contains(&(LEFT, Some(ME), 100, 0)), "and told: {all:?}");
    // Silence: two of three hellos are missing after 2.5 intervals, all of them after 17.
    sent(&mut router, at(100 + 9_000));
    assert_eq!(table(&router)[&prefix("fd01:2::/32")], over(LEFT, 2));
    sent(&mut router, at(100 + 11_000));
    assert_eq!(table(&router)[&prefix("fd01:2::/32")], PlainNextHop::Unreachable, "the other side was told of it");
    sent(&mut router, at(80_000));
    assert!(router.neighbours.is_empty());
}

#[test]
fn routes_are_learned_chosen_and_taken_back() {
    let mut router = router();
    meet(&mut router, LEFT, 2, at(0));
    meet(&mut router, LEFT, 3, at(0));
    hears(&mut router, LEFT, 2, &[route("fd01:2::/32", THEM, 1, 300), route("fd01:3::/32", THEM, 1, 0)], at(10));
    hears(&mut router, LEFT, 3, &[route("fd01:2::/32", THEM, 1, 200)], at(10));
    let (two, three) = (prefix("fd01:2::/32"), prefix("fd01:3::/32"));
    assert_eq!(table(&router), BTreeMap::from([(two, over(LEFT, 3)), (three, over(LEFT, 2))]));
    // A little better is no reason to change.
    hears(&mut router, LEFT, 2, &[route("fd01:2::/32", THEM, 1, 190)], at(20));
    assert_eq!(table(&router)[&two], over(LEFT, 3));
    hears(&mut router, LEFT, 3, &[route("fd01:2::/32", THEM, 1, INFINITY)], at(30));
    assert_eq!(table(&router)[&two], over(LEFT, 2), "the other one is used at once");
    let all = Update { prefix: None, router_id: None, ..*an_update(route("fd01::/16", THEM, 1, INFINITY)) };
    hears(&mut router, LEFT, 2, &[Tlv::Update(Box::new(all))], at(40));
    assert_eq!(table(&router).keys().collect::<Vec<_>>(), [&two, &three], "others may have been told");
    assert!(table(&router).values().all(|hop| *hop == PlainNextHop::Unreachable));
}

fn an_update(tlv: Tlv) -> Box<Update> {
    match tlv {
        Tlv::Update(update) => update,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_announced_again_expires() {
    let mut router = router();
    router.remove_interface(RIGHT, at(0));
    meet(&mut router, LEFT, 2, at(0));
    hears(&mut router, LEFT, 2, &[route("fd01:2::/32", THEM, 1, 0)], at(0));
    for (seqno, second) in (3..).zip(1..70) {
        hears(&mut router, LEFT, 2, &[hello(seqno), ihu(1)], at(second * 1000));
        let is_known = table(&router).contains_key(&prefix("fd01:2::/32"));
        assert_eq!(is_known, second < 56, "3.5 intervals of 16 s: {second}");
    }
}

#[test]
fn only_what_the_owner_lists_is_learned_and_nothing_of_the_mesh() {
    let mut router = router();
    let all = PlainInterface { accept: vec![prefix("::/0")], ..interface() };
    router.set_interface(LEFT, all, at(0));
    meet(&mut router, LEFT, 2, at(0));
    hears(&mut router, LEFT, 2, &[route("fd77::/56", THEM, 1, 0)], at(0));
    assert!(table(&router).contains_key(&prefix("fd77::/56")));
    router.set_other_regions(vec![prefix("fd77::/48")], at(0));
    assert!(!table(&router).contains_key(&prefix("fd77::/56")), "what was learned before is forgotten");
    let own = network().network();
    let stranger = MeshAddr::of(RegionId([7; 32]), NodeSecret::from_seed([2; 32]).id()).network();
    for (index, text, is_learned) in [
        (RIGHT, "fd01:2::/32".to_owned(), true),
        (RIGHT, "fd02::/16".to_owned(), false),
        (RIGHT, "::/0".to_owned(), false),
        (RIGHT, "fd00::/8".to_owned(), false),
        (LEFT, "::/0".to_owned(), true),
        (LEFT, "fd00::/8".to_owned(), true),
        (LEFT, format!("{}/48", region().address()), false),
        (LEFT, format!("{}/64", region().address()), false),
        (LEFT, format!("{stranger}/112"), false),
        (LEFT, format!("{stranger}/128"), false),
        (LEFT, format!("{own}/112"), false),
        (LEFT, format!("{own}/120"), true),
        (LEFT, "fd77::/64".to_owned(), false),
        (LEFT, "fd77:0:1::/64".to_owned(), true),
        (LEFT, "ff02::/16".to_owned(), false),
        (LEFT, "fe80::/64".to_owned(), false),
        (LEFT, "::1/128".to_owned(), false),
        (LEFT, "::ffff:0:0/96".to_owned(), false),
    ] {
        meet(&mut router, index, 2, at(0));
        hears(&mut router, index, 2, &[route(&text, THEM, 1, 0)], at(0));
        assert_eq!(table(&router).contains_key(&prefix(&text)), is_learned, "{text}");
    }
    // This node's own word comes back from somebody.
    hears(&mut router, LEFT, 2, &[route("fd01:9::/32", ME, 1, 0)], at(0));
    assert!(!table(&router).contains_key(&prefix("fd01:9::/32")));
    // The way there must be on the wire on which it was told.
    let next_hop = Tlv::NextHop("2001:db8::1".parse().expect("an address"));
    hears(&mut router, LEFT, 2, &[next_hop, route("fd01:8::/32", THEM, 1, 0)], at(0));
    assert!(!table(&router).contains_key(&prefix("fd01:8::/32")));
    hears(&mut router, LEFT, 2, &[Tlv::NextHop(host(9)), route("fd01:8::/32", THEM, 1, 0)], at(0));
    assert_eq!(table(&router)[&prefix("fd01:8::/32")], over(LEFT, 9));
}

#[test]
fn what_is_learned_on_one_interface_is_announced_on_the_other_and_held_when_it_ends() {
    let mut router = router();
    let known = prefix("fd01:2::/32");
    meet(&mut router, LEFT, 2, at(0));
    hears(&mut router, LEFT, 2, &[route("fd01:2::/32", THEM, 9, 50)], at(0));
    let all = sent(&mut router, at(1000));
    let updates = told(&all, known);
    assert!(!updates.is_empty() && updates.iter().all(|u| *u == (RIGHT, Some(THEM), 9, 50 + LINK_COST)), "{updates:?}");
    hears(&mut router, LEFT, 2, &[route("fd01:2::/32", THEM, 9, INFINITY)], at(2000));
    assert_eq!(table(&router)[&known], PlainNextHop::Unreachable, "others still send here");
    let updates = told(&sent(&mut router, at(3000)), known);
    assert_eq!(updates.len(), 2, "a retraction is repeated");
    assert!(updates.iter().all(|(index, _, _, metric)| (*index, *metric) == (RIGHT, INFINITY)), "{updates:?}");
    sent(&mut router, at(2000) + PLAIN_HOLD);
    assert_eq!(table(&router), BTreeMap::new());
}

#[test]
fn an_infeasible_route_is_asked_for_and_used_only_with_a_newer_number() {
    let mut router = router();
    let known = prefix("fd01:2::/32");
    meet(&mut router, LEFT, 2, at(0));
    meet(&mut router, RIGHT, 3, at(0));
    hears(&mut router, LEFT, 2, &[route("fd01:2::/32", THEM, 9, 50)], at(0));
    sent(&mut router, at(1000));
    // On the other side somebody has it from this node.
    hears(&mut router, RIGHT, 3, &[route("fd01:2::/32", THEM, 9, 50 + 2 * LINK_COST)], at(1000));
    hears(&mut router, LEFT, 2, &[route("fd01:2::/32", THEM, 9, INFINITY)], at(1100));
    assert_eq!(table(&router)[&known], PlainNextHop::Unreachable, "that would be a loop");
    let all = sent(&mut router, at(1200));
    let asked = requests(&all);
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked.iter().all(|(_, r)| (r.prefix, r.router_id, r.seqno) == (known, THEM, 10)), "{asked:?}");
    assert_eq!(requests(&sent(&mut router, at(3300))).len(), 2, "repeated after two seconds");
    hears(&mut router, RIGHT, 3, &[route("fd01:2::/32", THEM, 10, 50 + 2 * LINK_COST)], at(3400));
    assert_eq!(table(&router)[&known], over(RIGHT, 3));
    assert_eq!(requests(&sent(&mut router, at(12_000))), []);
}

#[test]
fn requests_are_answered_or_passed_on_to_where_the_route_leads() {
    let mut router = router();
    meet(&mut router, LEFT, 2, at(0));
    meet(&mut router, RIGHT, 3, at(0));
    hears(&mut router, LEFT, 2, &[route("fd01:2::/32", THEM, 9, 50)], at(0));
    sent(&mut router, at(5000));
    let ask = |of: Prefix, router_id, seqno, hop_count| {
        Tlv::SeqnoRequest(SeqnoRequest { prefix: of, router_id, seqno, epoch: None, hop_count })
    };
    // For this node's own: one number more, at most one a second.
    hears(&mut router, RIGHT, 3, &[ask(region(), ME, 102, 5)], at(5000));
    hears(&mut router, RIGHT, 3, &[ask(region(), ME, 102, 5)], at(5100));
    let updates = told(&sent(&mut router, at(5900)), region());
    assert!(updates.iter().all(|(_, id, seqno, _)| (*id, *seqno) == (Some(ME), 101)), "{updates:?}");
    assert!([LEFT, RIGHT].iter().all(|index| updates.iter().any(|update| update.0 == *index)));
    // For another's: passed on once, and not further than it may.
    let far = prefix("fd01:2::/32");
    hears(&mut router, RIGHT, 3, &[ask(far, THEM, 10, 1)], at(6000));
    assert_eq!(requests(&sent(&mut router, at(6010))), []);
    hears(&mut router, RIGHT, 3, &[ask(far, THEM, 10, 5), ask(far, THEM, 10, 5)], at(6020));
    let passed = requests(&sent(&mut router, at(6030)));
    assert_eq!(passed.iter().map(|(i, r)| (*i, r.seqno, r.hop_count)).collect::<Vec<_>>(), [(LEFT, 10, 4)]);
    hears(&mut router, LEFT, 2, &[route("fd01:2::/32", THEM, 10, 50)], at(6100));
    assert!(told(&sent(&mut router, at(6400)), far).contains(&(RIGHT, Some(THEM), 10, 50 + LINK_COST)));
    // What is known is answered at once, what is not known is answered too.
    hears(&mut router, RIGHT, 3, &[Tlv::RouteRequest(Some(far))], at(7000));
    hears(&mut router, RIGHT, 3, &[Tlv::RouteRequest(Some(prefix("fd01:77::/32")))], at(7000));
    let ack = AckRequest { opaque: 5, interval_cs: 10, batch: None };
    hears(&mut router, RIGHT, 3, &[Tlv::AckRequest(ack)], at(7000));
    let all = sent(&mut router, at(7000));
    assert_eq!(told(&all, far), [(RIGHT, Some(THEM), 10, 50 + LINK_COST)]);
    let unknown: Vec<_> = told(&all, prefix("fd01:77::/32")).iter().map(|u| (u.0, u.3)).collect();
    assert_eq!(unknown, [(RIGHT, INFINITY)]);
    assert!(all.iter().any(|(index, tlv)| *index == RIGHT && matches!(tlv, Tlv::Ack(ack) if ack.opaque == 5)));
}

#[test]
fn what_is_announced_follows_the_mesh_and_its_owner() {
    let mut router = router();
    let nodes = PlainInterface { announce: PlainAnnounce::Nodes, ..interface() };
    router.set_interface(RIGHT, nodes, at(0));
    let node = Prefix::new(network().network(), 112).expect("short enough");
    router.set_announced(BTreeMap::from([(region(), 0), (node, 200)]), at(10));
    let all = sent(&mut router, at(1000));
    assert!(told(&all, region()).iter().all(|update| update.0 == LEFT), "{all:?}");
    assert!(told(&all, node).contains(&(RIGHT, Some(ME), 100, 200)));
    // Farther away: nobody would believe it under the same number.
    router.set_announced(BTreeMap::from([(region(), 0), (node, 300)]), at(1000));
    assert_eq!(told(&sent(&mut router, at(1900)), node).last(), Some(&(RIGHT, Some(ME), 101, 300)));
    router.set_announced(BTreeMap::from([(region(), 0), (node, 400)]), at(1950));
    assert_eq!(
        told(&sent(&mut router, at(2000) + PLAIN_UPDATE_INTERVAL), node).last(),
        Some(&(RIGHT, Some(ME), 101, 300))
    );
    router.set_announced(BTreeMap::from([(region(), 0), (node, 400)]), at(20_000));
    assert_eq!(told(&sent(&mut router, at(21_000)), node).last(), Some(&(RIGHT, Some(ME), 102, 400)));
    router.set_announced(BTreeMap::from([(region(), 0)]), at(22_000));
    let updates = told(&sent(&mut router, at(23_000)), node);
    assert!(updates.len() == 2 && updates.iter().all(|update| update.3 == INFINITY), "{updates:?}");
    router.stop();
    let all = sent(&mut router, at(24_000));
    assert!(all.iter().all(|(_, tlv)| matches!(tlv, Tlv::Update(u) if u.prefix.is_none() && u.metric == INFINITY)));
    assert_eq!((all.len(), table(&router).len()), (4, 0));
}

#[test]
fn tables_are_bounded() {
    let mut router = router();
    for number in 2..PLAIN_NEIGHBOURS_MAX as u16 + 20 {
        hears(&mut router, LEFT, number, &[hello(1)], at(0));
    }
    assert_eq!(router.neighbours.len(), PLAIN_NEIGHBOURS_MAX);
    let mut router = self::router();
    meet(&mut router, LEFT, 2, at(0));
    for number in 0..PLAIN_ROUTES_MAX + 10 {
        let text = format!("fd01:{:x}:{:x}::/48", number >> 8, number & 0xff);
        router.handle_packet(LEFT, host(2), &packet(&[route(&text, THEM, 1, 0)]), at(10));
    }
    assert_eq!((router.entries.len(), router.route_count), (PLAIN_ROUTES_MAX, PLAIN_ROUTES_MAX));
    sent(&mut router, at(1000));
    assert!(router.sources.len() <= PLAIN_ROUTES_MAX);
    router.remove_interface(LEFT, at(1000));
    assert_eq!(router.route_count, 0);
    sent(&mut router, at(2000) + PLAIN_SOURCE_KEEP);
    assert_eq!((router.entries.len(), router.sources.len()), (0, 0));
}

fn messages() -> impl Strategy<Value = Tlv> {
    let prefixes = (0u16..4).prop_map(|number| format!("fd01:{number}::/32"));
    let ids = prop_oneof![Just(ME), Just(THEM), Just(OTHERS)];
    let metrics = prop_oneof![Just(INFINITY), 0u16..400, any::<u16>()];
    prop_oneof![
        any::<u16>().prop_map(hello),
        (0u16..20).prop_map(hello),
        Just(ihu(1)),
        (prefixes.clone(), ids.clone(), 0u16..6, metrics).prop_map(|(p, id, seqno, m)| route(&p, id, seqno, m)),
        prefixes.clone().prop_map(|p| Tlv::RouteRequest(Some(prefix(&p)))),
        Just(Tlv::RouteRequest(None)),
        (prefixes, ids, 0u16..200, 1u8..).prop_map(|(p, router_id, seqno, hop_count)| {
            Tlv::SeqnoRequest(SeqnoRequest { prefix: prefix(&p), router_id, seqno, epoch: None, hop_count })
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever neighbours say: nothing that leads out of an interface is announced on it, the route in use is
    /// feasible, and no more is kept than is counted.
    #[test]
    fn no_words_of_neighbours_break_the_rules(
        steps in prop::collection::vec((any::<bool>(), 2u16..5, prop::collection::vec(messages(), 0..5), 0u64..3000), 0..60),
    ) {
        let mut router = router();
        meet(&mut router, LEFT, 2, at(0));
        meet(&mut router, RIGHT, 3, at(0));
        let mut now = at(0);
        for (is_left, from, tlvs, pause_ms) in steps {
            now = now + core::time::Duration::from_millis(pause_ms);
            for (_, tlv) in sent(&mut router, now) {
                let Tlv::Update(update) = tlv else { continue };
                let (Some(prefix), Some(router_id)) = (update.prefix, update.router_id) else { continue };
                if prefix == region() {
                    prop_assert_eq!((router_id, update.metric), (ME, 0));
                    continue;
                }
                // The feasibility distance is never above what was promised.
                let source = router.sources.get(&(prefix, router_id)).expect("it is kept");
                prop_assert!(!source.allows(update.seqno, update.metric));
            }
            router.handle_timeout(now);
            hears(&mut router, if is_left { LEFT } else { RIGHT }, from, &tlvs, now);
            let count: usize = router.entries.values().map(|entry| entry.routes.len()).sum();
            prop_assert_eq!(count, router.route_count);
            let selected: Vec<_> = router.entries.iter().filter_map(|(p, e)| Some((*p, e.selected?))).collect();
            for (prefix, selected) in selected {
                let back = router.announcement(selected.via.0, prefix, now);
                prop_assert!(back.is_none_or(|update| update.metric == INFINITY), "split horizon");
                let entry = &router.entries[&prefix];
                let route = entry.routes.get(&selected.via).expect("the route in use is known");
                let source = router.sources.get(&(prefix, route.router_id));
                prop_assert!(source.is_none_or(|source| source.allows(route.seqno, route.advertised)));
                prop_assert!(router.neighbours.get(&selected.via).is_some_and(|n| n.cost() != INFINITY));
            }
            prop_assert!(router.deadline().is_none_or(|deadline| deadline > now), "it cannot spin");
        }
    }

    #[test]
    fn bytes_that_are_no_packet_change_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200), is_ours in any::<bool>()) {
        let mut router = router();
        meet(&mut router, LEFT, 2, at(0));
        hears(&mut router, LEFT, 2, &[route("fd01:2::/32", THEM, 1, 0)], at(0));
        let before = table(&router);
        let (index, from) = if is_ours { (LEFT, host(2)) } else { (99, host(2)) };
        if is_ours && decode(&bytes).is_ok() {
            return Ok(());
        }
        router.handle_packet(index, from, &bytes, at(10));
        prop_assert_eq!(table(&router), before);
    }
}

#[test]
fn packets_from_elsewhere_change_nothing() {
    let mut router = router();
    let words = packet(&[hello(1), ihu(1), route("fd01:2::/32", THEM, 1, 0)]);
    router.handle_packet(LEFT, "2001:db8::2".parse().expect("an address"), &words, at(0));
    router.handle_packet(LEFT, host(1), &words, at(0));
    router.handle_packet(99, host(2), &words, at(0));
    hears(&mut router, LEFT, 2, &[route("fd01:2::/32", THEM, 1, 0)], at(0));
    assert!(router.neighbours.is_empty() && router.entries.is_empty(), "nobody said hello");
}

#[test]
fn hellos_that_are_lost_or_out_of_step_are_counted_as_the_rfc_says() {
    let mut neighbour = Neighbour::new(at(0));
    let hello =
        |seqno| Hello { is_unicast: false, seqno, interval_cs: 400, timestamp_us: None, link: None, grant: None };
    neighbour.handle_hello(hello(65_534), at(0));
    assert_eq!(neighbour.rxcost(), INFINITY, "one is not enough");
    neighbour.handle_hello(hello(0), at(8000));
    assert_eq!(neighbour.rxcost(), LINK_COST, "two of three, across the end of the circle");
    neighbour.handle_hello(hello(3), at(20_000));
    assert_eq!(neighbour.rxcost(), INFINITY, "two were lost");
    neighbour.handle_hello(hello(4), at(24_000));
    assert_eq!(neighbour.rxcost(), LINK_COST);
    neighbour.handle_hello(hello(900), at(28_000));
    assert_eq!(neighbour.rxcost(), INFINITY, "it was started anew");
    assert!(neighbour.handle_timeout(at(28_000) + PLAIN_HELLO_INTERVAL * 5));
    assert!(!neighbour.handle_timeout(at(28_000) + PLAIN_HELLO_INTERVAL * 40));
}
