//! Connections that others make.
//!
//! Everything that a stranger can make this node keep or do is bounded here: TLS handshakes per second, those that are
//! half open, and connections of one address. Whoever is through with TLS has [`crate::limits::TLS_IDLE_MAX`] to bring a
//! link up by the mesh's handshake, which has bounds of its own.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use atoll_mesh_core::stream::stream_endpoint;
use atoll_os::udp::set_mark;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::{Duration, Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{Shared, connection, prepare};
use crate::{
    MeshError,
    limits::{
        TLS_ACCEPT_PAUSE, TLS_ACCEPTS_PER_SECOND_MAX, TLS_ACCEPTS_PER_SOURCE_AND_SECOND_MAX, TLS_BACKLOG,
        TLS_CONNECTIONS_PER_SOURCE_MAX, TLS_HALF_OPEN_MAX, TLS_HANDSHAKE_MAX,
    },
};

/// Opens the socket on which others call; connections inherit its mark.
pub(crate) fn listen(listen: SocketAddr, mark: Option<u32>) -> Result<TcpListener, MeshError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
        if listen.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // Connections of a daemon that just ended do not keep the next one out; one that listens still does.
        socket.set_reuse_address(true)?;
        if let Some(mark) = mark {
            set_mark(&socket, mark)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&listen.into())?;
        socket.listen(TLS_BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    open().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => MeshError::TlsPortInUse { listen },
        io::ErrorKind::PermissionDenied => MeshError::TlsNotPermitted { listen },
        _ => MeshError::ListenTls { listen, source },
    })
}

/// Takes connections until it is aborted.
pub(crate) async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Shared) {
    let slots = Arc::new(Slots::default());
    let mut half_open: VecDeque<AbortHandle> = VecDeque::new();
    let mut rates = Rates::new(Instant::now());
    let mut number = 0_u32;
    loop {
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                // One that broke off already, or no more file descriptors.
                tracing::debug!(%error, "a TLS connection was not accepted");
                sleep(TLS_ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(ends) = prepare(&tcp) else { continue };
        let group = shared.group(ends.0.ip());
        if !shared.may_be(ends.0) || !rates.allow(group, Instant::now()) {
            continue;
        }
        let Some(slot) = Slots::take(&slots, group) else { continue };
        half_open.retain(|handshake| !handshake.is_finished());
        if half_open.len() >= TLS_HALF_OPEN_MAX
            && let Some(oldest) = half_open.pop_front()
        {
            oldest.abort();
        }
        number = number.wrapping_add(1);
        let endpoint = stream_endpoint(group, number);
        let (acceptor, shared) = (acceptor.clone(), shared.clone());
        let handshake = tokio::spawn(async move {
            if let Some(stream) = shake_hands(&acceptor, tcp).await {
                // From here on it is not half open any more.
                tokio::spawn(async move {
                    connection::run(stream.into(), endpoint, ends, &shared).await;
                    drop(slot);
                });
            }
        });
        half_open.push_back(handshake.abort_handle());
    }
}

async fn shake_hands(acceptor: &TlsAcceptor, tcp: TcpStream) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    timeout(TLS_HANDSHAKE_MAX, acceptor.accept(tcp)).await.ok()?.ok()
}

/// Connections by source, half open or not.
#[derive(Debug, Default)]
struct Slots(Mutex<BTreeMap<u32, usize>>);

/// A connection's place among those of its source.
#[derive(Debug)]
struct Slot {
    slots: Arc<Slots>,
    group: u32,
}

impl Slots {
    fn take(slots: &Arc<Self>, group: u32) -> Option<Slot> {
        let mut counts = slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(group).or_default();
        if *count >= TLS_CONNECTIONS_PER_SOURCE_MAX {
            return None;
        }
        *count += 1;
        Some(Slot { slots: Arc::clone(slots), group })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.group) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.group);
            }
        }
    }
}

/// How many handshakes were begun in this second, in all and by source. No source gets more than its part, so the table
/// has no more entries than there are handshakes.
#[derive(Debug)]
struct Rates {
    since: Instant,
    all: u32,
    by_source: BTreeMap<u32, u32>,
}

impl Rates {
    const fn new(now: Instant) -> Self {
        Self { since: now, all: 0, by_source: BTreeMap::new() }
    }

    fn allow(&mut self, group: u32, now: Instant) -> bool {
        if now - self.since >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        if self.all >= TLS_ACCEPTS_PER_SECOND_MAX {
            return false;
        }
        let count = self.by_source.entry(group).or_default();
        if *count >= TLS_ACCEPTS_PER_SOURCE_AND_SECOND_MAX {
            return false;
        }
        *count += 1;
        self.all += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_source_takes_the_places_of_others() {
        let slots = Arc::new(Slots::default());
        let mut taken: Vec<_> = (0..TLS_CONNECTIONS_PER_SOURCE_MAX).map(|_| Slots::take(&slots, 1)).collect();
        assert!(taken.iter().all(Option::is_some) && Slots::take(&slots, 1).is_none());
        assert!(Slots::take(&slots, 2).is_some());
        taken.pop();
        assert!(Slots::take(&slots, 1).is_some());
        taken.clear();
        assert!(slots.0.lock().expect("no panic").is_empty(), "nothing is kept of who is gone");
    }

    #[test]
    fn no_source_takes_the_time_of_others() {
        let start = Instant::now();
        let mut rates = Rates::new(start);
        let allowed = (0..1000).filter(|_| rates.allow(1, start)).count();
        assert_eq!(allowed, TLS_ACCEPTS_PER_SOURCE_AND_SECOND_MAX as usize);
        assert!(rates.allow(2, start));
        let allowed = (3..10_000).filter(|group| rates.allow(*group, start)).count();
        assert!(allowed < TLS_ACCEPTS_PER_SECOND_MAX as usize && rates.by_source.len() <= allowed + 2);
        assert!(rates.allow(1, start + Duration::from_secs(1)), "the next second is a new one");
    }
}
