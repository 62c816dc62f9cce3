//! Links over TLS, for networks where nothing but TCP port 443 passes.
//!
//! TLS is here to get through, and for nothing else: who the neighbour is, and that nobody else reads or alters a frame,
//! is proven by the mesh's own handshake inside. So the server's certificate is made at start and the client does not
//! look at it; whoever sits in between sees and forwards what they could have seen and forwarded as datagrams
//! (`docs/rfd/0015-links-over-tls.md`).
//!
//! ```text
//!                     one task per connection                        the task that owns the mesh
//!   socket ── TLS ── read  ── batches of frames ── channel ────────▶ Mesh::handle_datagram
//!          ◀─ TLS ── write ◀─ chunks of frames ─── Outbox (bounded) ◀ Sender
//! ```
//!
//! [`Streams`] is what the owner of the mesh knows of all connections; [`accept`] and [`dial`] make them.

pub(crate) mod accept;
mod certificate;
pub(crate) mod connection;
pub(crate) mod dial;
mod outbox;
mod streams;

use std::{
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use atoll_base::RegionPrefix;
use rustls::{
    ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        CryptoProvider,
        aws_lc_rs::{
            cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256},
            default_provider,
            kx_group::{SECP256R1, SECP384R1, X25519},
        },
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::NoServerSessionStorage,
    sign::SingleCertAndKey,
    version::TLS13,
};
use tokio::{net::TcpStream, sync::mpsc};

use crate::{
    limits::{TLS_UNSENT_BYTES, TLS_USER_TIMEOUT},
    send::canonical,
};
pub(crate) use outbox::{Load, Outbox};
pub(crate) use streams::Streams;

/// What a client says that it would speak, as browsers do. Nothing follows from it.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why TLS cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate could be made.
    #[error(transparent)]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refuses its configuration.
    #[error(transparent)]
    Config(#[from] rustls::Error),
}

/// What a connection tells the owner of the mesh.
#[derive(Debug)]
pub(crate) enum News {
    /// There is one.
    Connected {
        /// The endpoint that stands for it.
        endpoint: SocketAddr,
        /// Where its other end is.
        remote: SocketAddr,
        /// The address of this machine that it uses.
        local: IpAddr,
        /// Where it takes frames from.
        outbox: Arc<Outbox>,
    },
    /// Whole frames with their lengths came in.
    Frames {
        /// Over which connection.
        endpoint: SocketAddr,
        /// One behind the other.
        bytes: Vec<u8>,
    },
    /// It has ended.
    Closed {
        /// Which one.
        endpoint: SocketAddr,
        /// What it took frames from.
        outbox: Arc<Outbox>,
    },
}

/// What all connections of a node share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) news: mpsc::Sender<News>,
    /// A connection through the mesh itself would feed on itself.
    pub(crate) region: RegionPrefix,
    pub(crate) client: Arc<ClientConfig>,
    /// Mark of the packets of connections, if there is one.
    pub(crate) mark: Option<u32>,
    /// What all outboxes share.
    pub(crate) load: Arc<Load>,
    hasher: RandomState,
}

impl Shared {
    pub(crate) fn new(region: RegionPrefix, mark: Option<u32>, news: mpsc::Sender<News>) -> Result<Self, TlsError> {
        let client = Arc::new(client_config()?);
        Ok(Self { news, region, client, mark, load: Arc::default(), hasher: RandomState::new() })
    }

    /// A number for all that one site has: an IPv4 address, an IPv6 /64. Nobody outside can choose it.
    fn group(&self, ip: IpAddr) -> u32 {
        let site = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
        };
        // Zero is for those that this node calls.
        (self.hasher.hash_one(site) as u32).max(1)
    }

    /// Whether this may be the other end of a link.
    pub(crate) fn may_be(&self, remote: SocketAddr) -> bool {
        let ip = remote.ip();
        let is_inside = matches!(ip, IpAddr::V6(v6) if self.region.contains(v6));
        !is_inside && !ip.is_unspecified() && !ip.is_multicast() && remote.port() != 0
    }
}

/// Both ends of a connection, if it still has them, with everything set on it that frames need: no waiting for company,
/// little that waits in the kernel, and an end when nothing is acknowledged.
fn prepare(tcp: &TcpStream) -> std::io::Result<(SocketAddr, IpAddr)> {
    tcp.set_nodelay(true)?;
    let socket = socket2::SockRef::from(tcp);
    socket.set_tcp_user_timeout(Some(TLS_USER_TIMEOUT))?;
    socket.set_tcp_notsent_lowat(TLS_UNSENT_BYTES)?;
    Ok((canonical(tcp.peer_addr()?), canonical(tcp.local_addr()?).ip()))
}

/// What a server needs; its certificate is fresh.
pub(crate) fn server_config() -> Result<ServerConfig, TlsError> {
    let key = certificate::make()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    // Nothing is kept of a connection, and nothing tells two of them to be of one caller.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_config() -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider())))
        .with_no_client_auth();
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Algorithms of TLS 1.3 that everybody speaks. The contents are sealed already, so the cheapest cipher comes first; and
/// no post-quantum key, so that the first message fits one segment.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256],
        kx_groups: vec![X25519, SECP256R1, SECP384R1],
        ..default_provider()
    })
}

/// Takes every certificate: the handshake of the mesh inside proves who the neighbour is.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
