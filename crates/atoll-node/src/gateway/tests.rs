//! The gateway against real servers on loopback.

use std::{collections::BTreeMap, net::Ipv6Addr};

use alloy_primitives::{Address, B256, U256};
use atoll_base::{
    MeshAddr, NodeId, RegionId,
    schema::{Capacity, DeploymentRecord, LeaseRecord, LeaseState, NodeRecord, RegionView, ServiceRecord},
};
use axum::routing::{any, get};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{proxy::forward, *};

const REGION: RegionId = RegionId([9; 32]);

pub(crate) fn lease(id: u64, node: u8, state: LeaseState, why: &str) -> LeaseRecord {
    LeaseRecord {
        id,
        deployment: 1,
        service: 0,
        replica: 0,
        node: B256::repeat_byte(node),
        standby: B256::ZERO,
        epoch: 1,
        workload: 2,
        state: state.code(),
        since_ms: 0,
        price_per_hour: U256::ZERO,
        why: why.to_owned(),
    }
}

/// A registered node.
pub(crate) fn node(n: u8) -> NodeRecord {
    NodeRecord {
        id: B256::repeat_byte(n),
        provider: Address::ZERO,
        account: Address::ZERO,
        sealing_key: B256::ZERO,
        total: Capacity::default(),
        used: Capacity::default(),
        labels: vec![],
        registered_ms: 0,
        online: true,
        next_workload: 2,
    }
}

/// A view with the deployment `shop`: service `web` with a web port, service `db` without.
pub(crate) fn view(leases: Vec<LeaseRecord>) -> Verified {
    let deployment = DeploymentRecord {
        id: 1,
        owner: Address::ZERO,
        name: "shop".into(),
        created_ms: 1,
        ended_ms: 0,
        escrow: U256::ZERO,
        charged: U256::ZERO,
        settled_ms: 1,
        suspended: false,
        services: 2,
        leases: leases.iter().map(|lease| lease.id).collect(),
    };
    let service = |name: &str, http_port| ServiceRecord {
        name: name.into(),
        replicas: 1,
        isolation: 0,
        needs: Capacity::default(),
        http_port,
        open_ports: vec![],
        constraints: vec![],
        spec_hash: B256::ZERO,
    };
    let view = RegionView {
        change: 1,
        nodes: vec![],
        deployments: vec![deployment],
        services: BTreeMap::from([((1, 0), service("web", 8000)), ((1, 1), service("db", 0))]),
        leases: leases.into_iter().map(|lease| (lease.id, lease)).collect(),
    };
    Verified { height: 5, view: Some(Arc::new(view)), ..Verified::default() }
}

fn routed(verified: &Verified, host: &str) -> Route {
    route(verified, REGION, "home", host)
}

#[test]
fn hosts_lead_to_healthy_replicas_in_order() {
    let verified = view(vec![
        lease(1, 1, LeaseState::Running, ""),
        lease(2, 2, LeaseState::Failed, ""),
        lease(3, 3, LeaseState::Running, ""),
    ]);
    let expected: Vec<SocketAddr> =
        [1u8, 3].map(|n| (MeshAddr::of(REGION, NodeId([n; 32])).host(2), 8000).into()).to_vec();
    for host in ["shop.localhost", "shop.home", "web.shop.localhost"] {
        let Route::App { backends, .. } = routed(&verified, host) else { panic!("{host} is an app") };
        assert_eq!(backends, expected, "{host}");
    }
    for host in ["localhost", "127.0.0.1", "::1", "home", ""] {
        assert!(matches!(routed(&verified, host), Route::Dashboard), "{host}");
    }
    for host in ["cafe.localhost", "example.org", "db.shop.localhost", "x.y.z.localhost"] {
        assert!(matches!(routed(&verified, host), Route::Unknown(_)), "{host}");
    }
}

#[tokio::test]
async fn pages_say_what_is_wrong() {
    let text = async |verified: &Verified| {
        let Route::Waiting(page) = routed(verified, "shop.localhost") else { panic!("it must wait") };
        let response = page.response();
        assert_eq!(response.status(), 503);
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        String::from_utf8(body.to_vec()).expect("text")
    };
    let failed = view(vec![lease(1, 1, LeaseState::Failed, "it exited with code 7 <b>")]);
    let page = text(&failed).await;
    assert!(page.contains("has failed") && page.contains("code 7 &lt;b&gt;"), "{page}");
    assert!(text(&view(vec![lease(1, 1, LeaseState::Starting, "fetching")])).await.contains("is starting"));
    assert!(text(&view(vec![lease(1, 0, LeaseState::Waiting, "no node fits")])).await.contains("waits for a node"));
    assert!(text(&view(vec![lease(1, 1, LeaseState::Suspended, "")])).await.contains("is suspended"));
    assert!(text(&Verified::default()).await.contains("does not know"));
}

/// A gateway whose one app is served by the given backends: the request path is the real one, only the choice by host
/// name is fixed, because mesh addresses do not exist on a test machine.
async fn proxy(backends: Vec<SocketAddr>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let pool = Pool::default();
    tokio::spawn(async move {
        while let Ok((stream, client)) = listener.accept().await {
            let (pool, backends) = (pool.clone(), backends.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let (pool, backends) = (pool.clone(), backends.clone());
                async move {
                    let answer = forward(&pool, request, client, "shop.localhost", &backends).await;
                    Ok::<_, Infallible>(answer.unwrap_or_else(|error| page::failed("shop", &error).response()))
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades(),
            );
        }
    });
    address
}

async fn backend(router: Router) -> SocketAddr {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// A port where nobody listens.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.expect("a port");
    listener.local_addr().expect("an address")
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

#[tokio::test]
async fn requests_pass_with_headers_and_bodies() {
    let echo = |headers: http::HeaderMap, body: axum::body::Bytes| async move {
        let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("-").to_owned();
        let (forwarded, host) = (header("x-forwarded-for"), header("host"));
        format!("{forwarded} {host} {} {} {}", header("x-secret-hop"), header("te"), body.len())
    };
    let gateway = proxy(vec![backend(Router::new().route("/a", any(echo))).await]).await;
    for _ in 0..3 {
        let answer = client()
            .post(format!("http://{gateway}/a?x=1"))
            .header("host", "shop.localhost:8088")
            .header("connection", "x-secret-hop")
            .header("x-secret-hop", "1")
            .header("te", "trailers")
            .body(vec![7; 300_000])
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.text().await.expect("text"), "::1 shop.localhost:8088 - - 300000");
    }
}

#[tokio::test]
async fn a_dead_replica_is_passed_over_for_every_method() {
    let alive = backend(Router::new().route("/", any(async || "alive"))).await;
    let gateway = proxy(vec![nobody().await, alive]).await;
    for method in [reqwest::Method::GET, reqwest::Method::POST] {
        let answer = client().request(method, format!("http://{gateway}/")).body("x").send().await.expect("an answer");
        assert_eq!(answer.text().await.expect("text"), "alive");
    }
}

#[tokio::test]
async fn a_replica_that_breaks_off_is_asked_again_only_when_that_is_safe() {
    // Accepts, reads the request, and closes.
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.expect("a port");
    let broken = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 1024];
            let _read = stream.read(&mut buffer).await;
        }
    });
    let alive = backend(Router::new().route("/", any(async || "alive"))).await;
    let gateway = proxy(vec![broken, alive]).await;
    let got = client().get(format!("http://{gateway}/")).send().await.expect("an answer");
    assert_eq!(got.text().await.expect("text"), "alive");
    let posted = client().post(format!("http://{gateway}/")).body("x").send().await.expect("an answer");
    assert_eq!(posted.status(), 502);
}

#[tokio::test]
async fn nobody_there_is_said_in_words() {
    let gateway = proxy(vec![nobody().await]).await;
    let answer = client().get(format!("http://{gateway}/")).send().await.expect("an answer");
    assert_eq!(answer.status(), 502);
    assert!(answer.text().await.expect("text").contains("none of its 1 replicas can be reached"));
}

#[tokio::test]
async fn bodies_stream_in_pieces() {
    let (sender, receiver) = tokio::sync::mpsc::channel::<std::io::Result<&'static str>>(1);
    let receiver = Arc::new(tokio::sync::Mutex::new(Some(receiver)));
    let stream = move || {
        let receiver = receiver.clone();
        async move {
            let receiver = receiver.lock().await.take().expect("asked once");
            Body::from_stream(futures::stream::unfold(receiver, |mut r| async move { Some((r.recv().await?, r)) }))
        }
    };
    let gateway = proxy(vec![backend(Router::new().route("/", get(stream))).await]).await;
    let mut answer = {
        let asked = tokio::spawn(client().get(format!("http://{gateway}/")).send());
        sender.send(Ok("one")).await.expect("the stream is read");
        asked.await.expect("no panic").expect("an answer")
    };
    assert_eq!(answer.chunk().await.expect("a piece").as_deref(), Some(b"one".as_slice()));
    // The first piece arrived before the second was made.
    sender.send(Ok("two")).await.expect("the stream is read");
    assert_eq!(answer.chunk().await.expect("a piece").as_deref(), Some(b"two".as_slice()));
    drop(sender);
    assert_eq!(answer.chunk().await.expect("an end"), None);
}

#[tokio::test]
async fn upgrades_pass_both_ways() {
    let upgrade = |mut request: axum::extract::Request| async move {
        let on = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(on.await.expect("an upgrade"));
            let mut buffer = [0; 5];
            stream.read_exact(&mut buffer).await.expect("five bytes");
            buffer.reverse();
            stream.write_all(&buffer).await.expect("written");
        });
        (http::StatusCode::SWITCHING_PROTOCOLS, [("connection", "upgrade"), ("upgrade", "atoll-test")])
    };
    let gateway = proxy(vec![backend(Router::new().route("/", get(upgrade))).await]).await;
    let mut stream = TcpStream::connect(gateway).await.expect("connected");
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: shop.localhost\r\nconnection: Upgrade\r\nupgrade: atoll-test\r\n\r\n")
        .await
        .expect("written");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: atoll-test"), "{head}");
    stream.write_all(b"abcde").await.expect("written");
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await.expect("five bytes");
    assert_eq!(&answer, b"edcba");
}

#[tokio::test]
async fn a_whole_gateway_shows_its_dashboard_and_unknown_names() {
    let (_sender, verified) = watch::channel(view(vec![]));
    let gateway = Arc::new(Gateway {
        region: REGION,
        region_name: "home".into(),
        verified,
        dashboard: Some(Router::new().route("/", get(async || "the dashboard"))),
        metrics: Metrics::new(),
        pool: Pool::default(),
    });
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(gateway.clone().serve(listener));
    let ask = async |host: &str| {
        let request = client().get(format!("http://{address}/")).header("host", host);
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    };
    assert_eq!(ask("localhost:8088").await, (200, "the dashboard".to_owned()));
    let (status, text) = ask("cafe.localhost:8088").await;
    assert_eq!(status, 404);
    assert!(text.contains("“cafe”") && text.contains("Apps in this region: shop"), "{text}");
    assert!(gateway.metrics.text().contains("outcome=\"unknown\"} 1"), "{}", gateway.metrics.text());
}
