//! A loopback port that leads to whichever ledger server is healthy: wallets and scripts on a machine without a ledger
//! of its own use it as if it were one.

use std::sync::Arc;

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

use crate::{
    ledger::follow::Ledger,
    limits::{FORWARD_CONNECTIONS_MAX, LEDGER_CONNECT, LEDGER_RETRY},
};

/// Forwards for ever.
pub(crate) async fn serve(listener: TcpListener, ledger: Ledger) {
    let places = Arc::new(Semaphore::new(FORWARD_CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(LEDGER_RETRY / 10).await;
            continue;
        };
        let server = ledger.server();
        tokio::spawn(async move {
            if let Err(error) = join(client, &server).await {
                tracing::debug!(%error, server, "a forwarded connection ended");
            }
            drop(place);
        });
    }
}

async fn join(mut client: TcpStream, server: &str) -> std::io::Result<()> {
    let authority = server.parse::<http::Uri>().ok().and_then(|uri| uri.authority().cloned());
    let authority = authority.ok_or_else(|| std::io::Error::other("not an address"))?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(80);
    let mut backend = timeout(LEDGER_CONNECT, TcpStream::connect((host, port)))
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    client.set_nodelay(true)?;
    backend.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut backend).await?;
    Ok(())
}
