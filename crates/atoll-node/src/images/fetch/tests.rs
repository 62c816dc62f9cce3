//! Fetching from real servers on loopback: another node's, and a small registry.

use std::net::SocketAddr;

use axum::{Router, extract::Path, response::IntoResponse as _, routing::get};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::*;
use crate::{
    images::{
        import::import,
        tests::{Entry, layout, store, tar_of},
    },
    metrics::Metrics,
    peer::{Blobs, blob_router},
};

const ME: NodeId = NodeId([1; 32]);
const OTHER: NodeId = NodeId([2; 32]);
const DEAD: NodeId = NodeId([3; 32]);

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// A store with an image, served as another node does.
async fn other_node() -> (TempDir, ImageStore, Digest, SocketAddr) {
    let (folder, store) = store();
    let given = folder.path().join("layout");
    layout(&given, &[tar_of(&[Entry::File("a", "1")]), tar_of(&[Entry::File("b", "2")])]);
    let digest = import(&store, &given, None, None).expect("imported");
    let address = serve(blob_router(Blobs { store: store.clone(), metrics: Metrics::new() })).await;
    (folder, store, digest, address)
}

fn fetcher(store: &ImageStore, other: SocketAddr) -> Fetcher {
    let locate: Locate = Arc::new(move |node| match node {
        OTHER => format!("http://{other}/v1/blobs/"),
        // A port that nobody may use: refused at once.
        _ => "http://127.0.0.1:1/v1/blobs/".to_owned(),
    });
    Fetcher::new(store.clone(), locate, ME).expect("a client")
}

fn image(digest: Digest, sources: Vec<ImageSource>) -> ImageRef {
    ImageRef { digest: digest.to_string(), name: "app:1".into(), sources }
}

#[tokio::test]
async fn an_image_comes_from_the_first_node_that_has_it_and_goes_on_where_it_stopped() {
    let (_there, remote, digest, address) = other_node().await;
    let (_here, local) = store();
    let layer: Digest = remote.manifest(digest).expect("a manifest").layers[0].digest().expect("a digest");
    let mut partial = local.partial(layer).expect("begun");
    partial.write(&std::fs::read(remote.path(layer)).expect("read")[..100]).expect("written");
    drop(partial);
    let wanted = image(digest, vec![ImageSource::Node(DEAD)]);
    let got = fetcher(&local, address).fetch(&wanted, &[OTHER]).await.expect("fetched");
    assert_eq!(got, digest);
    let root = local.unpacked(digest).expect("unpacked");
    assert_eq!(std::fs::read_to_string(root.join("b")).expect("read"), "2");
    // Everything is here now: no source is needed.
    fetcher(&local, address).fetch(&image(digest, vec![]), &[]).await.expect("nothing to fetch");
}

#[tokio::test]
async fn what_nobody_has_is_said_with_every_source() {
    let (_there, _remote, _digest, address) = other_node().await;
    let (_here, local) = store();
    let sources = vec![ImageSource::Node(ME), ImageSource::Node(OTHER), ImageSource::Node(DEAD)];
    let wanted = image(Digest::of(b"nobody has this"), sources);
    let error = fetcher(&local, address).fetch(&wanted, &[]).await.expect_err("it is nowhere").to_string();
    for part in
        ["'app:1'", "(this node) does not have it", "node 02020202 does not have it", "node 03030303 does not answer"]
    {
        assert!(error.contains(part), "{part} is missing in: {error}");
    }
}

#[tokio::test]
async fn a_source_that_lies_is_not_believed_and_the_next_is_asked() {
    let (_there, _remote, digest, honest) = other_node().await;
    let liar = serve(Router::new().route("/v1/blobs/{digest}", get(async || "something else"))).await;
    let (_here, local) = store();
    let locate: Locate = Arc::new(move |node| match node {
        OTHER => format!("http://{honest}/v1/blobs/"),
        _ => format!("http://{liar}/v1/blobs/"),
    });
    let fetcher = Fetcher::new(local.clone(), locate, ME).expect("a client");
    let only_liar = image(digest, vec![ImageSource::Node(DEAD)]);
    let error = fetcher.fetch(&only_liar, &[]).await.expect_err("a lie").to_string();
    assert!(error.contains("node 03030303 sent something else"), "{error}");
    assert_eq!(local.size(digest), None);
    fetcher.fetch(&only_liar, &[OTHER]).await.expect("fetched from the honest one");
}

#[tokio::test]
async fn an_image_comes_from_a_registry() {
    let (_there, remote, digest, _address) = other_node().await;
    let served = remote.clone();
    let blob = move |Path((_, digest)): Path<(String, String)>| {
        let served = served.clone();
        async move {
            let digest: Digest = digest.parse().expect("a digest");
            match std::fs::read(served.path(digest)) {
                Ok(bytes) => bytes.into_response(),
                Err(_) => http::StatusCode::NOT_FOUND.into_response(),
            }
        }
    };
    let router = Router::new()
        .route("/v2/", get(async || "{}"))
        .route("/v2/{name}/manifests/{digest}", get(blob.clone()))
        .route("/v2/{name}/blobs/{digest}", get(blob));
    let address = serve(router).await;
    let (_here, local) = store();
    let registry = ImageSource::Registry(format!("{address}/app"));
    let fetcher = fetcher(&local, address);
    assert_eq!(fetcher.fetch(&image(digest, vec![registry.clone()]), &[]).await.expect("fetched"), digest);
    local.unpacked(digest).expect("unpacked");
    let absent = image(Digest::of(b"absent"), vec![registry, ImageSource::Registry("no-path".into())]);
    let error = fetcher.fetch(&absent, &[]).await.expect_err("it is not there").to_string();
    assert!(error.contains("does not have it") && error.contains("is no repository"), "{error}");
}
