//! What the owner of the mesh knows of all connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use atoll_mesh_core::{Time, send_buffer::SendBuffer};
use tokio::time::Instant;

use super::{Load, Outbox, outbox::End};
use crate::limits::{HOLD_KEEP, TLS_CONNECTIONS_MAX, TLS_IDLE_MAX};

/// All connections, by the endpoint that stands for each.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    streams: BTreeMap<SocketAddr, Stream>,
    /// Where the neighbour behind each endpoint is, or was last.
    remotes: BTreeMap<SocketAddr, SocketAddr>,
    /// Endpoints for neighbours that this node calls.
    called: BTreeSet<SocketAddr>,
    /// A connection should write before something else is read.
    is_crowded: bool,
    /// Connections that became full and are not held yet.
    full: Vec<SocketAddr>,
    /// Connections for which everything goes through a queue.
    held: BTreeMap<SocketAddr, Hold>,
    /// What all outboxes share; there since the first connection.
    load: Option<Arc<Load>>,
}

/// Since a connection was full.
#[derive(Debug, Default)]
struct Hold {
    /// How much may be ready, from what the connection takes.
    buffer: SendBuffer,
    /// Until when the hold lasts, unless it is full again; it was not looked at yet if there is nothing.
    until: Option<Time>,
}

#[derive(Debug)]
struct Stream {
    outbox: Arc<Outbox>,
    local: IpAddr,
    /// Whether a link is up over it.
    is_up: bool,
    /// When one was seen to be, or since when it is there.
    useful: Instant,
}

impl Streams {
    /// A neighbour is to be called there.
    pub(crate) fn call(&mut self, endpoint: SocketAddr, remote: SocketAddr) {
        self.called.insert(endpoint);
        self.remotes.insert(endpoint, remote);
    }

    /// The neighbour behind an endpoint is not to be called any more; what connection there is ends.
    pub(crate) fn forget(&mut self, endpoint: SocketAddr) {
        self.end(endpoint);
        self.called.remove(&endpoint);
        self.remotes.remove(&endpoint);
    }

    /// There is a connection. If there are too many, the oldest called by others that carries no link gives way.
    pub(crate) fn connected(&mut self, endpoint: SocketAddr, ends: (SocketAddr, IpAddr), outbox: Arc<Outbox>) {
        let (remote, local) = ends;
        if !self.called.contains(&endpoint) {
            let strangers = || self.streams.iter().filter(|(endpoint, _)| !self.called.contains(endpoint));
            if strangers().count() >= TLS_CONNECTIONS_MAX {
                let idle = strangers().filter(|(_, stream)| !stream.is_up);
                let Some(oldest) = idle.min_by_key(|(_, stream)| stream.useful).map(|(endpoint, _)| *endpoint) else {
                    return outbox.end(End::Now);
                };
                self.end(oldest);
            }
        }
        self.remotes.insert(endpoint, remote);
        self.load.get_or_insert_with(|| Arc::clone(outbox.load()));
        let stream = Stream { outbox, local, is_up: false, useful: Instant::now() };
        self.streams.insert(endpoint, stream);
    }

    /// A connection has ended. Whether it is the one that was known under this endpoint.
    pub(crate) fn closed(&mut self, endpoint: SocketAddr, outbox: &Arc<Outbox>) -> bool {
        let is_known = self.streams.get(&endpoint).is_some_and(|stream| Arc::ptr_eq(&stream.outbox, outbox));
        if is_known {
            self.streams.remove(&endpoint);
        }
        is_known
    }

    /// Whether there is a connection.
    pub(crate) fn has(&self, endpoint: SocketAddr) -> bool {
        self.streams.contains_key(&endpoint)
    }

    /// Sends a row of frames, all of one size but the last, which may be shorter; how many were dropped.
    pub(crate) fn send(&mut self, endpoint: SocketAddr, row: &[u8], frame_bytes: usize) -> usize {
        let Some(stream) = self.streams.get(&endpoint) else { return row.len().div_ceil(frame_bytes.max(1)) };
        let dropped = stream.outbox.push_row(row, frame_bytes);
        if stream.outbox.room() == 0 {
            self.is_crowded = true;
            if !self.held.contains_key(&endpoint) && !self.full.contains(&endpoint) {
                self.full.push(endpoint);
            }
        }
        dropped
    }

    /// The next connection that became full; it is held from now on.
    pub(crate) fn next_full(&mut self) -> Option<SocketAddr> {
        let endpoint = self.full.pop()?;
        self.held.insert(endpoint, Hold::default());
        Some(endpoint)
    }

    /// Whether a connection is held.
    pub(crate) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Connections that are held.
    pub(crate) fn held(&self) -> Vec<SocketAddr> {
        self.held.keys().copied().collect()
    }

    /// Waits until one of those for which more waits took something.
    pub(crate) async fn taken(&self) {
        match &self.load {
            Some(load) => load.room.notified().await,
            None => core::future::pending().await,
        }
    }

    /// Bytes that a connection takes until it is full; nothing if there is none.
    pub(crate) fn room(&self, endpoint: SocketAddr) -> Option<usize> {
        self.streams.get(&endpoint).map(|stream| stream.outbox.room())
    }

    /// A connection that is held got what there is room for, and so many bytes are left. Whether the hold is over.
    pub(crate) fn handle_refilled(&mut self, endpoint: SocketAddr, left_bytes: usize, now: Time) -> bool {
        let (Some(stream), Some(hold)) = (self.streams.get(&endpoint), self.held.get_mut(&endpoint)) else {
            self.held.remove(&endpoint);
            return true;
        };
        hold.buffer.handle_taken(stream.outbox.next_taken());
        if left_bytes > 0 {
            hold.until = Some(now + HOLD_KEEP);
            if let Some(bytes) = hold.buffer.handle_full(now) {
                stream.outbox.set_room_max(bytes);
            }
            stream.outbox.want_room();
            self.is_crowded = true;
            return false;
        }
        hold.buffer.handle_idle();
        let is_over = now >= *hold.until.get_or_insert(now + HOLD_KEEP);
        if is_over {
            self.held.remove(&endpoint);
        }
        is_over
    }

    /// Whether connections should write now, before anything else is read.
    pub(crate) const fn is_crowded(&self) -> bool {
        self.is_crowded
    }

    /// They could write.
    pub(crate) const fn relieve(&mut self) {
        self.is_crowded = false;
    }

    /// Where the neighbour behind an endpoint is, or was last.
    pub(crate) fn remote(&self, endpoint: SocketAddr) -> Option<SocketAddr> {
        self.remotes.get(&endpoint).copied()
    }

    /// A link is up over a connection.
    pub(crate) fn note_up(&mut self, endpoint: SocketAddr) {
        if let Some(stream) = self.streams.get_mut(&endpoint) {
            stream.is_up = true;
            stream.outbox.note_useful();
        }
    }

    /// Ends the connections that no link is up over for long. `links` are all endpoints of links, and whether each is up.
    pub(crate) fn sweep(&mut self, links: &BTreeMap<SocketAddr, bool>, now: Instant) {
        let mut idle = Vec::new();
        for (endpoint, stream) in &mut self.streams {
            stream.is_up = links.get(endpoint).is_some_and(|is_up| *is_up);
            if stream.is_up {
                stream.useful = now;
                stream.outbox.note_useful();
            } else if now - stream.useful > TLS_IDLE_MAX {
                idle.push(*endpoint);
            }
        }
        for endpoint in idle {
            self.end(endpoint);
        }
        let Self { streams, called, .. } = self;
        self.remotes.retain(|endpoint, _| {
            streams.contains_key(endpoint) || called.contains(endpoint) || links.contains_key(endpoint)
        });
    }

    /// Endpoints of connections whose own address this machine has no more: nothing will ever come over them.
    pub(crate) fn orphans(&self, addresses: &[IpAddr]) -> Vec<SocketAddr> {
        let is_orphan = |stream: &Stream| !stream.local.is_loopback() && !addresses.contains(&stream.local);
        self.streams.iter().filter(|(_, stream)| is_orphan(stream)).map(|(endpoint, _)| *endpoint).collect()
    }

    /// Ends a connection at once.
    pub(crate) fn end(&mut self, endpoint: SocketAddr) {
        if let Some(stream) = self.streams.remove(&endpoint) {
            stream.outbox.end(End::Now);
        }
    }

    /// A neighbour is not to be called any more. Its connection ends when what waits in it is written.
    pub(crate) fn dismiss(&mut self, endpoint: SocketAddr) {
        self.called.remove(&endpoint);
        if let Some(stream) = self.streams.get(&endpoint) {
            stream.outbox.end(End::Written);
        }
    }

    /// Ends all connections when what waits in them is written; they are known until then.
    pub(crate) fn stop(&self) {
        for stream in self.streams.values() {
            stream.outbox.end(End::Written);
        }
    }

    /// Whether there is no connection.
    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Connections, and bytes of data that wait in them.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.streams.len(), self.streams.values().map(|stream| stream.outbox.bytes()).sum())
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use atoll_mesh_core::stream::stream_endpoint;

    use super::*;

    fn ends() -> (SocketAddr, IpAddr) {
        (([192, 0, 2, 7], 443).into(), [192, 0, 2, 8].into())
    }

    fn outbox() -> Arc<Outbox> {
        Arc::new(Outbox::new(Arc::default()))
    }

    #[test]
    fn strangers_give_way_the_oldest_first_but_neighbours_stay() {
        let mut streams = Streams::default();
        let endpoint = |number| stream_endpoint(1, number);
        for number in 0..TLS_CONNECTIONS_MAX as u32 {
            streams.connected(endpoint(number), ends(), outbox());
        }
        streams.note_up(endpoint(0));
        streams.connected(endpoint(1000), ends(), outbox());
        assert!(streams.has(endpoint(0)) && !streams.has(endpoint(1)) && streams.has(endpoint(1000)));
        assert_eq!(streams.load().0, TLS_CONNECTIONS_MAX);
        for number in (0..TLS_CONNECTIONS_MAX as u32).chain([1000]) {
            streams.note_up(endpoint(number));
        }
        streams.connected(endpoint(1001), ends(), outbox());
        assert!(!streams.has(endpoint(1001)), "there is no room for another");
        streams.call(endpoint(1002), ends().0);
        streams.connected(endpoint(1002), ends(), outbox());
        assert!(streams.has(endpoint(1002)), "whom the owner named has a place of its own");
    }

    #[test]
    fn a_connection_without_a_link_ends_after_a_while_and_one_with_a_link_does_not() {
        let mut streams = Streams::default();
        let (idle, used) = (stream_endpoint(1, 1), stream_endpoint(1, 2));
        streams.connected(idle, ends(), outbox());
        streams.connected(used, ends(), outbox());
        let links = BTreeMap::from([(used, true)]);
        let now = Instant::now();
        streams.sweep(&links, now + TLS_IDLE_MAX / 2);
        assert!(streams.has(idle) && streams.has(used));
        streams.sweep(&links, now + TLS_IDLE_MAX + Duration::from_secs(1));
        assert!(!streams.has(idle) && streams.has(used));
        assert_eq!((streams.remote(idle), streams.remote(used)), (None, Some(ends().0)));
    }

    #[test]
    fn the_end_of_an_older_connection_does_not_end_the_newer_one() {
        let mut streams = Streams::default();
        let (endpoint, older, newer) = (stream_endpoint(0, 1), outbox(), outbox());
        streams.connected(endpoint, ends(), Arc::clone(&older));
        streams.connected(endpoint, ends(), Arc::clone(&newer));
        assert!(!streams.closed(endpoint, &older) && streams.has(endpoint));
        assert!(streams.closed(endpoint, &newer) && !streams.has(endpoint));
        assert_eq!(streams.send(endpoint, &[8; 300], 100), 3, "nobody is there");
    }

    #[test]
    fn a_connection_is_held_from_when_it_is_full_until_it_was_not_for_a_while() {
        let mut streams = Streams::default();
        let (endpoint, outbox) = (stream_endpoint(0, 1), outbox());
        streams.connected(endpoint, ends(), Arc::clone(&outbox));
        let now = Time::from_micros(1_000_000);
        assert_eq!(streams.send(endpoint, &[4; 1000], 1000), 0);
        assert!(streams.next_full().is_none() && !streams.is_crowded());
        while streams.room(endpoint) > Some(0) {
            assert_eq!(streams.send(endpoint, &[4; 1000], 1000), 0);
        }
        assert_eq!(streams.send(endpoint, &[4; 1000], 1000), 0, "what was on its way still fits");
        assert_eq!((streams.next_full(), streams.next_full()), (Some(endpoint), None));
        assert!(streams.is_crowded() && streams.held() == [endpoint]);
        assert!(!streams.handle_refilled(endpoint, 1, now + HOLD_KEEP), "something is left");
        assert!(!streams.handle_refilled(endpoint, 0, now + HOLD_KEEP));
        assert!(streams.handle_refilled(endpoint, 0, now + HOLD_KEEP * 2) && !streams.is_holding());
        assert!(streams.handle_refilled(stream_endpoint(0, 2), 5, now), "nobody is there");
    }

    #[test]
    fn a_connection_from_an_address_that_is_gone_is_found() {
        let mut streams = Streams::default();
        let endpoint = stream_endpoint(0, 1);
        streams.connected(endpoint, ends(), outbox());
        assert!(streams.orphans(&[ends().1]).is_empty());
        assert_eq!(streams.orphans(&[[192, 0, 2, 9].into()]), [endpoint]);
    }
}
