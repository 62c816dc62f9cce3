//! What the page contains, how large it gets, and that nothing of a stranger's becomes markup.

use alloy_primitives::{Address, B256, U256};
use atoll_base::{
    NodeId,
    schema::{Capacity, Isolation, LeaseState},
};
use axum::body::Body;
use http_body_util::BodyExt as _;

use super::{
    page::{self, Links},
    snapshot::{Ledger, Snapshot},
    *,
};
use crate::{
    cli::{
        apps::{App, Lease, Service},
        nodes::Node,
    },
    history::{Event, What},
};

fn coins(count: u64) -> U256 {
    U256::from(count) * U256::from(10).pow(U256::from(15))
}

fn lease(id: u64, service: &str, state: LeaseState, why: &str) -> Lease {
    Lease {
        id,
        service: service.into(),
        replica: 0,
        node: Some(NodeId([id as u8; 32])),
        standby: None,
        address: None,
        epoch: 1,
        state,
        since_ms: 0,
        why: why.into(),
    }
}

fn app(id: u64, name: &str, leases: Vec<Lease>) -> App {
    let services = leases.iter().map(|lease| Service {
        name: lease.service.clone(),
        replicas: 1,
        isolation: Isolation::Container,
        needs: Capacity::default(),
        http_port: 80,
        open_ports: vec![80],
        constraints: vec![],
        spec_hash: B256::ZERO,
    });
    App {
        id,
        name: name.into(),
        owner: Address::ZERO,
        created_ms: 0,
        ended_ms: 0,
        suspended: false,
        escrow: coins(8_640),
        charged: coins(3),
        price_per_hour: coins(12),
        services: services.collect(),
        leases,
    }
}

fn node(id: u8, online: bool) -> Node {
    let gib = 1 << 30;
    Node {
        id: NodeId([id; 32]),
        address: "fd00::1".parse().expect("an address"),
        provider: Address::ZERO,
        online,
        total: Capacity { cpu_milli: 2000, memory_bytes: 8 * gib, disk_bytes: 40 * gib },
        used: Capacity { cpu_milli: 250 * u64::from(id), memory_bytes: gib * u64::from(id), disk_bytes: gib },
        labels: vec!["zone=attic".into()],
        registered_ms: 0,
        heartbeat_ms: 1_790_000_000_000,
    }
}

fn event(what: What, why: &str) -> Event {
    Event {
        height: 41,
        time_ms: 1_789_999_990_000,
        deployment: Some(2),
        lease: Some(2),
        node: Some(NodeId([3; 32])),
        what,
        why: why.into(),
    }
}

/// A region in which something happened.
pub(super) fn snapshot() -> Snapshot {
    let offline = "node 01010101 sent no heartbeat for 6.1 s";
    Snapshot {
        name: "home".into(),
        id: "7df8511a8d1eccfa34711cd58b0121c1f7a107a68920eacf0f80165acdcab346".into(),
        currency: "Home coin".into(),
        symbol: "HOME".into(),
        chain_id: 4711,
        validators: vec![("v1".into(), NodeId([9; 32])), ("v2".into(), NodeId([8; 32]))],
        ledger: Some(Ledger {
            height: 48_213,
            block_ms: 1_790_000_019_000,
            finality_ms: Some(23),
            pending: 0,
            supply: coins(1_000_000_000),
        }),
        nodes: vec![node(1, false), node(2, true), node(3, true)],
        apps: vec![
            app(1, "hello", vec![lease(3, "web", LeaseState::Running, "healthy")]),
            app(
                2,
                "guestbook",
                vec![lease(2, "redis", LeaseState::Starting, offline), lease(3, "web", LeaseState::Running, "healthy")],
            ),
        ],
        events: vec![
            event(What::Changed { state: LeaseState::Running }, "GET /health answers 200"),
            event(What::Moved { from: Some(NodeId([1; 32])) }, offline),
            event(What::Offline, "no heartbeat for 6.1 s"),
            event(What::Granted, "best fit of 2 nodes"),
            event(What::Deployed { name: "guestbook".into() }, ""),
        ],
        problems: vec![],
        now_ms: 1_790_000_020_000,
    }
}

fn text(snapshot: &Snapshot) -> String {
    page::render(snapshot, &Links::of("localhost:8088", "home")).into_string()
}

/// A charter of a region that never lived.
pub(crate) fn charter(validators: Vec<atoll_base::charter::Validator>) -> atoll_base::Charter {
    atoll_base::Charter {
        version: 1,
        name: "home".into(),
        chain_id: 7,
        created_ms: 0,
        currency: atoll_base::charter::Currency { name: "Home coin".into(), symbol: "HOME".into() },
        prices: atoll_base::charter::Prices {
            cpu_core_hour: U256::ONE,
            memory_gib_hour: U256::ONE,
            disk_gib_hour: U256::ONE,
            gas: 1,
        },
        timing: atoll_base::charter::Timing {
            block_min_ms: 50,
            block_idle_ms: 1000,
            heartbeat_ms: 1000,
            heartbeat_timeout_ms: 5000,
            settle_ms: 60_000,
        },
        validators,
        allocations: vec![],
        treasury: Address::ZERO,
        closed: None,
    }
}

#[test]
fn the_page_tells_what_a_person_wants_to_know() {
    let page = text(&snapshot());
    for wanted in [
        "<h1>home</h1>",
        "7df8 511a 8d1e ccfa … 0f80 165a cdca b346",
        "48213",
        "23 ms",
        "1\u{202f}000\u{202f}000 HOME",
        "2 of 3",
        "href=\"http://guestbook.localhost:8088/\"",
        "1 of 2 running",
        "0.012 HOME an hour, lasts 30 days",
        "aria-label=\"Memory: 3 GiB of 8 GiB used\"",
        "lease 2 moved from node 01010101 to node 03030303",
        "node 01010101 sent no heartbeat for 6.1 s",
        "silent for 20 s",
    ] {
        assert!(page.contains(wanted), "{wanted} is missing in {page}");
    }
}

#[test]
fn nothing_of_a_stranger_becomes_markup() {
    let evil = "<script>alert(1)</script>\"'\u{1b}";
    let mut s = snapshot();
    s.problems.push(evil.into());
    s.nodes[0].labels.push(evil.into());
    s.validators[0].0 = evil.into();
    s.apps[0].name = evil.into();
    s.apps[1].leases[0].why = evil.into();
    s.apps[1].leases[0].service = evil.into();
    s.events[0].why = evil.into();
    s.events[4].what = What::Deployed { name: evil.into() };
    let page = text(&s);
    assert!(!page.contains("<script>alert") && !page.contains('\u{1b}'), "{page}");
    assert!(!page.contains("href=\"http://&lt;"), "a name that is no label becomes no link");
}

#[test]
fn links_follow_the_way_the_viewer_came() {
    let check = |host: &str, expect: &str| {
        let page = page::render(&snapshot(), &Links::of(host, "home")).into_string();
        assert!(page.contains(&format!("href=\"{expect}\"")), "{host}");
    };
    check("localhost:8088", "http://hello.localhost:8088/");
    check("home", "http://hello.home/");
    check("home:8088", "http://hello.home:8088/");
    check("127.0.0.1:9000", "http://hello.localhost:9000/");
    check("evil.example\"><script>:80", "http://hello.localhost:80/");
    check("", "http://hello.localhost/");
}

#[test]
fn the_largest_page_stays_small() {
    let mut s = snapshot();
    let name = "n".repeat(63);
    let leases = |n: u64| (0..16).map(|i| lease(n + i, &name, LeaseState::Failed, &"w".repeat(256))).collect();
    s.apps = (0..100).map(|n| app(n, &name, leases(n))).collect();
    s.nodes = (0..200).map(|n| Node { labels: vec!["l".repeat(128); 32], ..node(n, true) }).collect();
    s.events = (0..500).map(|_| event(What::Moved { from: Some(NodeId([7; 32])) }, &"w".repeat(256))).collect();
    s.problems = vec!["p".repeat(1000); 100];
    s.validators = vec![(name, NodeId([1; 32])); 100];
    let parts = [include_str!("style.css"), include_str!("live.js"), include_str!("icon.svg")];
    let usual = text(&snapshot()).len() + parts.iter().map(|part| part.len()).sum::<usize>();
    let largest = text(&s).len() + parts.iter().map(|part| part.len()).sum::<usize>();
    assert!(usual < 24_000, "{usual} bytes");
    assert!(largest < 60_000, "{largest} bytes");
}

#[tokio::test]
async fn without_a_ledger_the_page_says_so() {
    use tower::ServiceExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    // A port that was just free: nobody answers there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let node = atoll_api::UnixClient::new(folder.path().join("node.sock"));
    let router = router(Source::new(charter(vec![]), &[format!("http://{closed}")], node));
    let get = async |path: &str| {
        let request =
            axum::http::Request::get(path).header("host", "localhost:8088").body(Body::empty()).expect("valid");
        let response = router.clone().oneshot(request).await.expect("infallible");
        let (parts, body) = response.into_parts();
        (parts, String::from_utf8(body.collect().await.expect("in memory").to_bytes().to_vec()).expect("text"))
    };
    let (parts, page) = get("/").await;
    assert_eq!(parts.status, StatusCode::OK);
    let policy = parts.headers[header::CONTENT_SECURITY_POLICY].to_str().expect("text");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(page.contains("no ledger answers") && page.contains("no daemon answers"), "{page}");
    for (path, kind) in [("/style.css", "text/css"), ("/live.js", "text/javascript"), ("/icon.svg", "image/svg+xml")] {
        let (parts, _) = get(path).await;
        assert!(parts.headers[header::CONTENT_TYPE].to_str().expect("text").starts_with(kind), "{path}");
    }
    assert_eq!(get("/etc/passwd").await.0.status, StatusCode::NOT_FOUND);
}
