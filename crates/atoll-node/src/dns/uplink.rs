//! Names of the rest of the world, asked from resolvers that the owner named.

use std::net::SocketAddr;

use hickory_proto::op::{DnsRequestOptions, DnsResponse, Query};
use hickory_server::net::{
    runtime::TokioRuntimeProvider,
    tcp::TcpClientStream,
    udp::UdpClientStream,
    xfer::{DnsExchange, DnsHandle as _, FirstAnswer as _},
};

use crate::limits::{DNS_UPLINK_QUESTIONS_MAX, DNS_UPLINK_TIMEOUT};

/// The owner's resolvers, and how many questions may wait for them.
pub(crate) struct Uplink {
    resolvers: Vec<SocketAddr>,
    permits: tokio::sync::Semaphore,
}

impl Uplink {
    pub(crate) fn new(resolvers: Vec<SocketAddr>) -> Self {
        Self { resolvers, permits: tokio::sync::Semaphore::new(DNS_UPLINK_QUESTIONS_MAX) }
    }

    /// Whether there is anybody to ask.
    pub(super) const fn is_there(&self) -> bool {
        !self.resolvers.is_empty()
    }

    /// The first answer of a resolver, in their order; nothing if none answers, or too many questions wait already.
    pub(super) async fn ask(&self, query: Query) -> Option<DnsResponse> {
        let _permit = self.permits.try_acquire().ok()?;
        for resolver in &self.resolvers {
            match ask(*resolver, query.clone()).await {
                Ok(response) => return Some(response),
                Err(error) => tracing::debug!(%resolver, %error, "a resolver did not answer"),
            }
        }
        None
    }
}

async fn ask(resolver: SocketAddr, query: Query) -> Result<DnsResponse, hickory_server::net::NetError> {
    let provider = TokioRuntimeProvider::default();
    let over_udp = UdpClientStream::builder(resolver, provider.clone()).with_timeout(Some(DNS_UPLINK_TIMEOUT));
    let response = exchange(over_udp.exchange(), query.clone()).await?;
    if !response.metadata.truncation {
        return Ok(response);
    }
    let over_tcp = TcpClientStream::exchange(resolver, None, DNS_UPLINK_TIMEOUT, None, provider).await?;
    exchange(over_tcp, query).await
}

async fn exchange(
    exchange: DnsExchange<TokioRuntimeProvider>,
    query: Query,
) -> Result<DnsResponse, hickory_server::net::NetError> {
    exchange.lookup(query, DnsRequestOptions::default()).first_answer().await
}
