//! What waits to be written to one connection.
//!
//! The owner of the mesh puts frames in and never waits; the connection's task takes them out in chunks that fill a TLS
//! record. Frames that keep links and keys alive go first. Of data there is only as much here as leaves within a few
//! milliseconds: what is here is closed for its link already, so the rest waits in a queue of the core, which is fair
//! to flows and marks or drops what waits for too long ([`atoll_mesh_core::queue`]).

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use atoll_mesh_core::{
    stream::{LENGTH_BYTES, push_frame},
    wire::is_data,
};
use tokio::sync::Notify;

use crate::limits::{
    TLS_CHUNK_BYTES, TLS_READY_BYTES_MAX, TLS_READY_BYTES_SUM_MAX, TLS_ROOM_BYTES, TLS_URGENT_BYTES_MAX,
};

/// Frames that wait for one connection.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    /// Something was put in, or the end has come.
    changed: Notify,
    /// The end has come, and nothing is waited for any more.
    ended: Notify,
    load: Arc<Load>,
    /// Whether a link was ever up over this connection.
    was_useful: AtomicBool,
}

/// What all outboxes of this node share.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Bytes of data that wait in them.
    waiting: AtomicUsize,
    /// One for which more waits took some.
    pub(crate) room: Notify,
}

#[derive(Debug)]
struct Queue {
    urgent: Vec<u8>,
    data: VecDeque<Vec<u8>>,
    bytes: usize,
    /// With so many bytes it is full.
    room: usize,
    /// Bytes that were taken out since this was asked last.
    taken: usize,
    /// More waits elsewhere.
    is_wanted: bool,
    end: Option<End>,
    /// An empty buffer, to be used again.
    spare: Vec<u8>,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// At once.
    Now,
    /// When everything that waits is written.
    Written,
}

/// What the task of a connection is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Write this.
    Write(Vec<u8>),
    /// Say goodbye: nothing more will come.
    End,
}

impl Outbox {
    pub(crate) fn new(load: Arc<Load>) -> Self {
        let queue = Queue {
            urgent: Vec::new(),
            data: VecDeque::new(),
            bytes: 0,
            room: TLS_ROOM_BYTES,
            taken: 0,
            is_wanted: false,
            end: None,
            spare: Vec::new(),
        };
        Self {
            queue: Mutex::new(queue),
            changed: Notify::new(),
            ended: Notify::new(),
            load,
            was_useful: AtomicBool::new(false),
        }
    }

    /// Puts in a row of frames, all of one size but the last, which may be shorter. How many were dropped.
    pub(crate) fn push_row(&self, row: &[u8], frame_bytes: usize) -> usize {
        let mut queue = self.queue();
        if queue.end.is_some() {
            return row.len().div_ceil(frame_bytes.max(1));
        }
        let before = queue.bytes;
        let mut room = TLS_READY_BYTES_SUM_MAX.saturating_sub(self.load.waiting.load(Ordering::Relaxed));
        let mut dropped = 0;
        for frame in row.chunks(frame_bytes.max(1)) {
            let bytes = frame.len() + LENGTH_BYTES;
            let is_taken = if is_data(frame) {
                let is_taken = bytes <= room && queue.push_data(frame);
                room -= if is_taken { bytes } else { 0 };
                is_taken
            } else {
                queue.urgent.len() + bytes <= TLS_URGENT_BYTES_MAX && push_frame(&mut queue.urgent, frame)
            };
            dropped += usize::from(!is_taken);
        }
        self.load.waiting.fetch_add(queue.bytes - before, Ordering::Relaxed);
        drop(queue);
        self.changed.notify_one();
        dropped
    }

    /// Bytes of data that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.queue().bytes
    }

    /// What all outboxes share.
    pub(crate) fn load(&self) -> &Arc<Load> {
        &self.load
    }

    /// Bytes of data that it takes until it is full.
    pub(crate) fn room(&self) -> usize {
        let queue = self.queue();
        queue.room.saturating_sub(queue.bytes)
    }

    /// With how many bytes of data it is full.
    pub(crate) fn room_max(&self) -> usize {
        self.queue().room
    }

    /// Says that; up to [`TLS_ROOM_BYTES`].
    pub(crate) fn set_room_max(&self, bytes: usize) {
        self.queue().room = bytes.min(TLS_ROOM_BYTES);
    }

    /// Bytes of data that the connection took since this was asked last.
    pub(crate) fn next_taken(&self) -> usize {
        core::mem::take(&mut self.queue().taken)
    }

    /// More waits elsewhere: [`Load::room`] tells when some of it fits.
    pub(crate) fn want_room(&self) {
        let mut queue = self.queue();
        if queue.bytes < queue.room {
            return self.load.room.notify_one();
        }
        queue.is_wanted = true;
    }

    /// Ends the connection.
    pub(crate) fn end(&self, end: End) {
        self.queue().end = Some(end);
        self.changed.notify_one();
        if end == End::Now {
            self.ended.notify_one();
        }
    }

    /// Waits until the connection is to end at once, whatever it does.
    pub(crate) async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Notes that a link is up over the connection.
    pub(crate) fn note_useful(&self) {
        self.was_useful.store(true, Ordering::Relaxed);
    }

    pub(crate) fn was_useful(&self) -> bool {
        self.was_useful.load(Ordering::Relaxed)
    }

    /// Waits for something to do. Nothing is lost if this is dropped while it waits.
    pub(crate) async fn next(&self) -> Next {
        loop {
            if let Some(next) = self.try_next() {
                return next;
            }
            self.changed.notified().await;
        }
    }

    /// Takes back a buffer that was written.
    pub(crate) fn recycle(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.queue().spare = buffer;
    }

    fn try_next(&self) -> Option<Next> {
        let mut queue = self.queue();
        if queue.end == Some(End::Now) {
            return Some(Next::End);
        }
        if !queue.urgent.is_empty() {
            return Some(Next::Write(core::mem::take(&mut queue.urgent)));
        }
        if let Some(chunk) = queue.data.pop_front() {
            queue.bytes -= chunk.len();
            queue.taken += chunk.len();
            self.load.waiting.fetch_sub(chunk.len(), Ordering::Relaxed);
            if queue.is_wanted && queue.bytes < queue.room {
                queue.is_wanted = false;
                self.load.room.notify_one();
            }
            return Some(Next::Write(chunk));
        }
        queue.end.map(|_| Next::End)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing that panics is done under the lock; and if it were, the queue would still be a queue.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let bytes = self.bytes();
        self.load.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Queue {
    fn push_data(&mut self, frame: &[u8]) -> bool {
        let bytes = frame.len() + LENGTH_BYTES;
        if self.bytes + bytes > TLS_READY_BYTES_MAX {
            return false;
        }
        // On a slow connection a full record would be long on its way.
        let chunk_bytes = TLS_CHUNK_BYTES.min(self.room / 2);
        if self.data.back().is_none_or(|last| last.len() + bytes > chunk_bytes) {
            let chunk = core::mem::take(&mut self.spare);
            self.data.push_back(chunk);
        }
        let Some(chunk) = self.data.back_mut() else { return false };
        if !push_frame(chunk, frame) {
            return false;
        }
        self.bytes += bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u8 = 4;
    const CONTROL: u8 = 8;

    fn frame(kind: u8, bytes: usize) -> Vec<u8> {
        let mut frame = vec![7; bytes];
        frame[0] = kind;
        frame
    }

    fn written(outbox: &Outbox) -> Vec<u8> {
        match outbox.try_next() {
            Some(Next::Write(bytes)) => bytes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn frames_that_keep_links_alive_go_first_and_data_fills_records() {
        let outbox = Outbox::new(Arc::default());
        let waiting = || outbox.load.waiting.load(Ordering::Relaxed);
        let row = frame(DATA, 1000).repeat(40);
        assert_eq!(outbox.push_row(&row, 1000), 0);
        assert_eq!(outbox.push_row(&frame(CONTROL, 100), 100), 0);
        assert_eq!((outbox.bytes(), waiting()), (40 * 1002, 40 * 1002));
        assert_eq!(written(&outbox).len(), 102);
        for frames in [16, 16, 8] {
            assert_eq!(written(&outbox).len(), frames * 1002);
        }
        assert_eq!((outbox.try_next(), waiting(), outbox.next_taken()), (None, 0, 40 * 1002));
    }

    #[test]
    fn a_connection_that_takes_nothing_holds_little() {
        let load = Arc::new(Load::default());
        let outbox = Outbox::new(Arc::clone(&load));
        let dropped: usize = (0..2000).map(|_| outbox.push_row(&frame(DATA, 1450), 1450)).sum();
        assert!(outbox.bytes() <= TLS_READY_BYTES_MAX && outbox.bytes() > TLS_READY_BYTES_MAX - 1452);
        assert_eq!(dropped, 2000 - outbox.bytes() / 1452);
        let urgent: usize = (0..2000).map(|_| outbox.push_row(&frame(CONTROL, 98), 98)).sum();
        assert_eq!(urgent, 2000 - TLS_URGENT_BYTES_MAX / 100);
        drop(outbox);
        assert_eq!(load.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_slow_connection_is_full_sooner_writes_less_at_once_and_tells_when_it_took_some() {
        let outbox = Outbox::new(Arc::default());
        let is_told = || {
            let told = outbox.load.room.notified();
            tokio::pin!(told);
            told.as_mut().enable()
        };
        outbox.set_room_max(4096);
        assert_eq!((outbox.push_row(&frame(DATA, 1000).repeat(5), 1000), outbox.room()), (0, 0));
        outbox.want_room();
        assert!(!is_told());
        assert_eq!((written(&outbox).len(), is_told()), (2 * 1002, true));
        assert_eq!(outbox.room(), 4096 - 3 * 1002);
        assert!(written(&outbox).len() == 2 * 1002 && !is_told(), "nobody asked again");
        outbox.want_room();
        assert!(is_told(), "there is room already");
    }

    #[test]
    fn all_connections_together_hold_little() {
        let load = Arc::new(Load { waiting: AtomicUsize::new(TLS_READY_BYTES_SUM_MAX - 1500), room: Notify::new() });
        let outbox = Outbox::new(load);
        assert_eq!(outbox.push_row(&frame(DATA, 1000).repeat(3), 1000), 2);
    }

    #[test]
    fn the_end_comes_at_once_or_after_what_waits() {
        let outbox = Outbox::new(Arc::default());
        outbox.push_row(&frame(CONTROL, 50), 50);
        outbox.end(End::Written);
        assert_eq!(outbox.push_row(&frame(CONTROL, 50), 50), 1);
        assert_eq!(written(&outbox).len(), 52);
        assert_eq!(outbox.try_next(), Some(Next::End));
        let outbox = Outbox::new(Arc::default());
        outbox.push_row(&frame(CONTROL, 50), 50);
        outbox.end(End::Now);
        assert_eq!(outbox.try_next(), Some(Next::End));
    }
}
