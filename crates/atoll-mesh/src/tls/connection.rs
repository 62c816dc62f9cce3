//! One connection, from its TLS handshake to its end: the task that reads and writes it.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    task::Poll,
};

use atoll_mesh_core::{limits::STREAM_FRAME_BYTES_MAX, stream::whole_frames};
use socket2::{SockRef, Socket};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split},
    net::TcpStream,
    sync::mpsc,
};
use tokio_rustls::TlsStream;

use super::{News, Outbox, Shared, outbox::Next};
use crate::limits::{TLS_READ_BYTES, TLS_UNSENT_BYTES};

type Stream = TlsStream<TcpStream>;

/// Carries frames until the connection ends. Whether it was of use: a link was up over it.
pub(super) async fn run(stream: Stream, endpoint: SocketAddr, ends: (SocketAddr, IpAddr), shared: &Shared) -> bool {
    let outbox = Arc::new(Outbox::new(Arc::clone(&shared.load)));
    let Ok(socket) = SockRef::from(stream.get_ref().0).try_clone() else { return false };
    let (remote, local) = ends;
    let connected = News::Connected { endpoint, remote, local, outbox: Arc::clone(&outbox) };
    if shared.news.send(connected).await.is_err() {
        return false;
    }
    let (reader, writer) = split(stream);
    let result = tokio::select! {
        result = read(reader, endpoint, &shared.news) => result,
        result = write(writer, &socket, &outbox) => result,
        () = outbox.ended() => Ok(()),
    };
    if let Err(error) = result {
        tracing::debug!(%remote, %error, "a TLS connection ended");
    }
    let was_useful = outbox.was_useful();
    let _ = shared.news.send(News::Closed { endpoint, outbox }).await;
    was_useful
}

/// Hands on whole frames. If the owner of the mesh is busy, it is waited for, and the other end with it.
async fn read(mut reader: ReadHalf<Stream>, endpoint: SocketAddr, news: &mpsc::Sender<News>) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        buffer.reserve(TLS_READ_BYTES.saturating_sub(buffer.len()).max(STREAM_FRAME_BYTES_MAX));
        if reader.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        // What else is there already goes with it.
        while buffer.len() < TLS_READ_BYTES {
            let more = poll_fn(|cx| match pin!(reader.read_buf(&mut buffer)).poll(cx) {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                Poll::Pending => Poll::Ready(None),
            });
            // An end, or an error, shows again when it is waited for.
            if !matches!(more.await, Some(Ok(1..))) {
                break;
            }
        }
        let whole = whole_frames(&buffer).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if whole > 0 {
            let rest = buffer.split_off(whole);
            let bytes = core::mem::replace(&mut buffer, rest);
            if news.send(News::Frames { endpoint, bytes }).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Writes what waits: each time as much as a TLS record takes, and nothing before that is on its way. The kernel holds no
/// more of what it cannot send yet than about as much again as the outbox.
async fn write(mut writer: WriteHalf<Stream>, socket: &Socket, outbox: &Outbox) -> io::Result<()> {
    let mut unsent_bytes = TLS_UNSENT_BYTES;
    loop {
        match outbox.next().await {
            Next::Write(bytes) => {
                let wanted = u32::try_from(outbox.room_max() * 2).unwrap_or(u32::MAX).min(TLS_UNSENT_BYTES);
                if wanted != unsent_bytes {
                    socket.set_tcp_notsent_lowat(wanted)?;
                    unsent_bytes = wanted;
                }
                writer.write_all(&bytes).await?;
                writer.flush().await?;
                outbox.recycle(bytes);
            }
            Next::End => return writer.shutdown().await,
        }
    }
}
