//! Images from other nodes and from registries, blob by blob, going on where an earlier attempt stopped.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use atoll_base::{
    MeshAddr, NodeId, RegionId,
    spec::{ImageRef, ImageSource},
};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use http::{StatusCode, header};
use oci_client::{
    Reference,
    client::{BlobResponse, ClientConfig, ClientProtocol},
    errors::OciDistributionError,
    secrets::RegistryAuth,
};

use super::{Digest, ImageError, ImageStore, store::Partial};
use crate::limits::{
    BLOB_ATTEMPTS, BLOB_BYTES_MAX, BLOB_SILENCE, BLOBS_AT_ONCE, LEDGER_CONNECT, MANIFEST_BYTES_MAX, PEER_PORT,
};
use crate::problem::{chain, http_client};

/// Media types of manifests that are asked for.
const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// Where a node's blobs are served: the beginning of the address, to which the digest is appended.
pub(crate) type Locate = Arc<dyn Fn(NodeId) -> String + Send + Sync>;

/// Every node serves its blobs on its mesh address.
pub(crate) fn on_the_mesh(region: RegionId) -> Locate {
    Arc::new(move |node| format!("http://[{}]:{PEER_PORT}/v1/blobs/", MeshAddr::of(region, node).node()))
}

/// Brings images into the store.
#[derive(Clone)]
pub(crate) struct Fetcher {
    store: ImageStore,
    locate: Locate,
    me: NodeId,
    http: reqwest::Client,
    /// One lock for each blob that comes in, so that it comes once.
    coming: Arc<Mutex<BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>>>,
}

/// Why one source did not give a blob.
enum Refusal {
    /// It does not have it: no use to ask again.
    Absent(String),
    /// It broke off.
    Broken(String),
    /// The blob came and cannot be kept.
    Local(ImageError),
}

impl From<ImageError> for Refusal {
    fn from(error: ImageError) -> Self {
        Self::Local(error)
    }
}

/// A blob on its way: from where on it is sent, and its pieces.
type Pieces = (u64, BoxStream<'static, Result<Bytes, String>>);

impl Fetcher {
    pub(crate) fn new(store: ImageStore, locate: Locate, me: NodeId) -> Result<Self, reqwest::Error> {
        let http = http_client().read_timeout(BLOB_SILENCE).build()?;
        Ok(Self { store, locate, me, http, coming: Arc::default() })
    }

    /// Makes all blobs of an image complete in the store, from its sources in their order, then from `others`, nodes
    /// that should have it too. Returns the digest of its manifest.
    pub(crate) async fn fetch(&self, image: &ImageRef, others: &[NodeId]) -> Result<Digest, ImageError> {
        let _busy = self.store.busy.read().await;
        let mut sources = image.sources.clone();
        for node in others {
            let source = ImageSource::Node(*node);
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        let named: Digest = image.digest.parse()?;
        self.blob(image, named, None, true, &sources).await?;
        let digest = self.store.resolve(&image.name, named)?;
        self.blob(image, digest, None, true, &sources).await?;
        let manifest = self.store.manifest(digest)?;
        let wanted: Vec<_> = manifest
            .layers
            .iter()
            .chain([&manifest.config])
            .map(|d| Ok((d.digest()?, d.size)))
            .collect::<Result<_, ImageError>>()?;
        stream::iter(wanted)
            .map(|(digest, size)| self.blob(image, digest, Some(size), false, &sources))
            .buffer_unordered(BLOBS_AT_ONCE)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(digest)
    }

    async fn blob(
        &self,
        image: &ImageRef,
        digest: Digest,
        size: Option<u64>,
        manifest: bool,
        sources: &[ImageSource],
    ) -> Result<(), ImageError> {
        let lock = {
            let mut coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
            coming.retain(|_, lock| Arc::strong_count(lock) > 1);
            coming.entry(digest).or_default().clone()
        };
        let _guard = lock.lock().await;
        if self.store.size(digest).is_some() {
            return Ok(());
        }
        let mut tried = Vec::new();
        for source in sources {
            for attempt in 1..=BLOB_ATTEMPTS {
                if self.store.size(digest).is_some() {
                    return Ok(());
                }
                match self.attempt(digest, size, manifest, source).await {
                    Ok(()) => return Ok(()),
                    Err(Refusal::Absent(why)) => {
                        tried.push(format!("{} {why}", self.name(source)));
                        break;
                    }
                    Err(Refusal::Broken(why)) if attempt == BLOB_ATTEMPTS => {
                        tried.push(format!("{} {why}", self.name(source)));
                    }
                    Err(Refusal::Broken(_)) => {}
                    Err(Refusal::Local(error @ ImageError::Io { .. })) => return Err(error),
                    Err(Refusal::Local(error)) => {
                        tried.push(format!("{} sent something else: {error}", self.name(source)));
                        break;
                    }
                }
            }
        }
        let tried = if tried.is_empty() { "no source is named".to_owned() } else { tried.join("; ") };
        Err(ImageError::NotFound { name: image.name.clone(), digest, tried })
    }

    async fn attempt(
        &self,
        digest: Digest,
        size: Option<u64>,
        manifest: bool,
        source: &ImageSource,
    ) -> Result<(), Refusal> {
        let mut partial = {
            let store = self.store.clone();
            blocking(move || store.partial(digest)).await?
        };
        let (from, mut pieces) = match source {
            ImageSource::Node(node) => self.ask_node(*node, digest, partial.length()).await?,
            ImageSource::Registry(repository) => {
                self.ask_registry(repository, digest, partial.length(), manifest).await?
            }
        };
        if from != partial.length() {
            partial.restart()?;
        }
        let resumed = from > 0;
        let most = size.unwrap_or(if manifest { MANIFEST_BYTES_MAX } else { BLOB_BYTES_MAX });
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|why| Refusal::Broken(format!("broke off: {why}")))?;
            if partial.length() + piece.len() as u64 > most {
                partial.restart()?;
                return Err(Refusal::Absent(format!("sends more than the {most} bytes that it should have")));
            }
            partial.write(&piece)?;
        }
        if let Some(size) = size.filter(|size| partial.length() < *size) {
            return Err(Refusal::Broken(format!("stopped after {} of {size} bytes", partial.length())));
        }
        match finish(partial, digest, size).await {
            // What an earlier source sent may have been the lie: this one gets a chance from the beginning.
            Err(error) if resumed && !matches!(error, ImageError::Io { .. }) => {
                Err(Refusal::Broken(format!("went on with what did not fit: {error}")))
            }
            other => Ok(other?),
        }
    }

    async fn ask_node(&self, node: NodeId, digest: Digest, have: u64) -> Result<Pieces, Refusal> {
        if node == self.me {
            return Err(Refusal::Absent("(this node) does not have it: import it again".into()));
        }
        let mut request = self.http.get(format!("{}{digest}", (self.locate)(node)));
        if have > 0 {
            request = request.header(header::RANGE, format!("bytes={have}-"));
        }
        let response = request.send().await.map_err(|e| Refusal::Broken(reason(&e)))?;
        let from = match response.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => have,
            // Everything is here already, only the check is left.
            StatusCode::RANGE_NOT_SATISFIABLE => return Ok((have, stream::empty().boxed())),
            StatusCode::NOT_FOUND => return Err(Refusal::Absent("does not have it".into())),
            status => return Err(Refusal::Broken(format!("answers {status}"))),
        };
        Ok((from, response.bytes_stream().map_err(|e| reason(&e)).boxed()))
    }

    async fn ask_registry(
        &self,
        repository: &str,
        digest: Digest,
        have: u64,
        manifest: bool,
    ) -> Result<Pieces, Refusal> {
        let (host, path) = repository
            .split_once('/')
            .filter(|(host, path)| !host.is_empty() && !path.is_empty())
            .ok_or_else(|| Refusal::Absent("is no repository: expected host/path".into()))?;
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let local = matches!(name, "localhost" | "127.0.0.1" | "[::1]");
        let protocol = if local { ClientProtocol::Http } else { ClientProtocol::Https };
        // Without certificate authorities the registry client would not fail but panic.
        if let Err(error) = reqwest::Client::builder().build() {
            let why = format!("cannot be asked ({}): install the package ca-certificates", chain(&error));
            return Err(Refusal::Absent(why));
        }
        let client = oci_client::Client::new(ClientConfig {
            protocol,
            connect_timeout: Some(LEDGER_CONNECT),
            read_timeout: Some(BLOB_SILENCE),
            ..ClientConfig::default()
        });
        let reference = Reference::with_digest(host.to_owned(), path.to_owned(), digest.to_string());
        if manifest {
            let (bytes, _) = client
                .pull_manifest_raw(&reference, &RegistryAuth::Anonymous, &MANIFEST_TYPES)
                .await
                .map_err(|e| refused(&e))?;
            return Ok((0, stream::iter([Ok(bytes)]).boxed()));
        }
        let wanted = digest.to_string();
        let answer = client.pull_blob_stream_partial(&reference, wanted.as_str(), have, None).await;
        let (from, sized) = match answer.map_err(|e| refused(&e))? {
            BlobResponse::Full(sized) => (0, sized),
            BlobResponse::Partial(sized) => (have, sized),
        };
        Ok((from, sized.stream.map_err(|e| e.to_string()).boxed()))
    }

    fn name(&self, source: &ImageSource) -> String {
        match source {
            ImageSource::Node(node) => format!("node {}", node.short()),
            ImageSource::Registry(repository) => format!("registry {repository}"),
        }
    }
}

fn refused(error: &OciDistributionError) -> Refusal {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => Refusal::Absent("does not have it".into()),
        OciDistributionError::ServerError { code: 404, .. } => Refusal::Absent("does not have it".into()),
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
            Refusal::Absent("does not give it to strangers (registries with a login are not supported)".into())
        }
        other => Refusal::Broken(format!("answers: {}", chain(other))),
    }
}

async fn finish(partial: Partial, digest: Digest, size: Option<u64>) -> Result<(), ImageError> {
    blocking(move || partial.finish(&format!("blob {digest}"), size)).await
}

/// Disk work off the event loop.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ImageError::Form { what: "the image store".into(), why: format!("a task failed: {error}") }),
    }
}

fn reason(error: &reqwest::Error) -> String {
    if error.is_connect() || error.is_timeout() {
        return "does not answer".into();
    }
    chain(error)
}

#[cfg(test)]
mod tests;
