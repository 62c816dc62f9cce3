//! Connections to configured neighbours: made, and made again.

use core::time::Duration;
use std::net::SocketAddr;

use atoll_os::udp::set_mark;
use rustls::pki_types::ServerName;
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Shared, connection, prepare};
use crate::limits::{TLS_DIAL_PAUSE, TLS_DIAL_PAUSE_MAX, TLS_HANDSHAKE_MAX};

/// Keeps a connection to a neighbour, over which one link goes, whichever connection it is. `target` says where the
/// neighbour is now. It ends when that is dropped.
pub(crate) async fn dial(
    mut target: watch::Receiver<SocketAddr>,
    name: ServerName<'static>,
    endpoint: SocketAddr,
    shared: Shared,
) {
    let mut pause = TLS_DIAL_PAUSE;
    loop {
        let remote = *target.borrow_and_update();
        let was_useful = match connect(remote, &name, &shared).await {
            Ok((stream, ends)) => connection::run(stream.into(), endpoint, ends, &shared).await,
            Err(error) => {
                tracing::debug!(%remote, %error, "no TLS connection");
                false
            }
        };
        pause = if was_useful { TLS_DIAL_PAUSE } else { (pause * 2).min(TLS_DIAL_PAUSE_MAX) };
        // Not at the same time as all others that lost the same neighbour.
        let pause = pause.mul_f64(rand::random_range(0.5..=1.0));
        tokio::select! {
            () = sleep(pause) => {}
            changed = target.changed() => if changed.is_err() {
                return;
            },
        }
        if target.has_changed().is_err() {
            return;
        }
    }
}

async fn connect(
    remote: SocketAddr,
    name: &ServerName<'static>,
    shared: &Shared,
) -> std::io::Result<(TlsStream<TcpStream>, (SocketAddr, std::net::IpAddr))> {
    if !shared.may_be(remote) {
        return Err(std::io::Error::other("a link needs an address outside of the mesh"));
    }
    let within = |limit: Duration, what: &'static str| {
        move |_| std::io::Error::new(std::io::ErrorKind::TimedOut, format!("{what} took longer than {limit:?}"))
    };
    let limit = TLS_HANDSHAKE_MAX;
    let socket = if remote.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
    if let Some(mark) = shared.mark {
        set_mark(&socket, mark)?;
    }
    let tcp = timeout(limit, socket.connect(remote)).await.map_err(within(limit, "connecting"))??;
    let ends = prepare(&tcp)?;
    let connector = TlsConnector::from(shared.client.clone());
    let stream = timeout(limit, connector.connect(name.clone(), tcp)).await.map_err(within(limit, "TLS"))??;
    Ok((stream, ends))
}
