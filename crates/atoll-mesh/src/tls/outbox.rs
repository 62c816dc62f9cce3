//! What waits to be written to one connection.
//!
//! The owner of the mesh puts frames in and never waits; the connection's task takes them out in chunks that fill a TLS
//! record. Frames that keep links and keys alive go first. Data is dropped where too much of it waits, or has waited for
//! too long: a stream that is slower than what is sent must not become a store.

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
use tokio::{sync::Notify, time::Instant};

use crate::limits::{
    TLS_CHUNK_BYTES, TLS_QUEUE_BYTES_MAX, TLS_QUEUE_DELAY_MAX, TLS_QUEUE_FRAMES_MAX, TLS_QUEUES_BYTES_MAX,
    TLS_URGENT_BYTES_MAX,
};

/// Frames that wait for one connection.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    /// Something was put in, or the end has come.
    changed: Notify,
    /// The end has come, and nothing is waited for any more.
    ended: Notify,
    /// Bytes of data that wait in all outboxes of this node.
    waiting: Arc<AtomicUsize>,
    /// Whether a link was ever up over this connection.
    was_useful: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    urgent: Vec<u8>,
    data: VecDeque<Chunk>,
    bytes: usize,
    frames: usize,
    end: Option<End>,
    /// An empty buffer, to be used again.
    spare: Vec<u8>,
}

#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    frames: usize,
    /// When its first frame was put in.
    since: Instant,
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
    pub(crate) fn new(waiting: Arc<AtomicUsize>) -> Self {
        Self {
            queue: Mutex::default(),
            changed: Notify::new(),
            ended: Notify::new(),
            waiting,
            was_useful: AtomicBool::new(false),
        }
    }

    /// Puts in a row of frames, all of one size but the last, which may be shorter. How many were dropped.
    pub(crate) fn push_row(&self, row: &[u8], frame_bytes: usize, now: Instant) -> usize {
        let mut queue = self.queue();
        if queue.end.is_some() {
            return row.len().div_ceil(frame_bytes.max(1));
        }
        let before = queue.bytes;
        let mut room = TLS_QUEUES_BYTES_MAX.saturating_sub(self.waiting.load(Ordering::Relaxed));
        let mut dropped = 0;
        for frame in row.chunks(frame_bytes.max(1)) {
            let bytes = frame.len() + LENGTH_BYTES;
            let is_taken = if is_data(frame) {
                let is_taken = bytes <= room && queue.push_data(frame, now);
                room -= if is_taken { bytes } else { 0 };
                is_taken
            } else {
                queue.urgent.len() + bytes <= TLS_URGENT_BYTES_MAX && push_frame(&mut queue.urgent, frame)
            };
            dropped += usize::from(!is_taken);
        }
        self.waiting.fetch_add(queue.bytes - before, Ordering::Relaxed);
        drop(queue);
        self.changed.notify_one();
        dropped
    }

    /// Bytes of data that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.queue().bytes
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
            queue.bytes -= chunk.bytes.len();
            queue.frames -= chunk.frames;
            self.waiting.fetch_sub(chunk.bytes.len(), Ordering::Relaxed);
            return Some(Next::Write(chunk.bytes));
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
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Queue {
    fn push_data(&mut self, frame: &[u8], now: Instant) -> bool {
        let bytes = frame.len() + LENGTH_BYTES;
        let is_stale = self.data.front().is_some_and(|oldest| now - oldest.since > TLS_QUEUE_DELAY_MAX);
        if is_stale || self.bytes + bytes > TLS_QUEUE_BYTES_MAX || self.frames >= TLS_QUEUE_FRAMES_MAX {
            return false;
        }
        if self.data.back().is_none_or(|last| last.bytes.len() + bytes > TLS_CHUNK_BYTES) {
            let bytes = core::mem::take(&mut self.spare);
            self.data.push_back(Chunk { bytes, frames: 0, since: now });
        }
        let Some(chunk) = self.data.back_mut() else { return false };
        if !push_frame(&mut chunk.bytes, frame) {
            return false;
        }
        chunk.frames += 1;
        self.frames += 1;
        self.bytes += bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

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
        let waiting = Arc::new(AtomicUsize::new(0));
        let (outbox, now) = (Outbox::new(Arc::clone(&waiting)), Instant::now());
        let row = frame(DATA, 1000).repeat(40);
        assert_eq!(outbox.push_row(&row, 1000, now), 0);
        assert_eq!(outbox.push_row(&frame(CONTROL, 100), 100, now), 0);
        assert_eq!((outbox.bytes(), waiting.load(Ordering::Relaxed)), (40 * 1002, 40 * 1002));
        assert_eq!(written(&outbox).len(), 102);
        for frames in [16, 16, 8] {
            assert_eq!(written(&outbox).len(), frames * 1002);
        }
        assert_eq!((outbox.try_next(), waiting.load(Ordering::Relaxed)), (None, 0));
    }

    #[test]
    fn a_connection_that_takes_nothing_holds_little_and_nothing_old() {
        let waiting = Arc::new(AtomicUsize::new(0));
        let (outbox, start) = (Outbox::new(Arc::clone(&waiting)), Instant::now());
        let dropped: usize = (0..2000).map(|_| outbox.push_row(&frame(DATA, 1450), 1450, start)).sum();
        assert!(outbox.bytes() <= TLS_QUEUE_BYTES_MAX && outbox.bytes() > TLS_QUEUE_BYTES_MAX - 1452);
        assert_eq!(dropped, 2000 - outbox.bytes() / 1452);
        let urgent: usize = (0..2000).map(|_| outbox.push_row(&frame(CONTROL, 98), 98, start)).sum();
        assert_eq!(urgent, 2000 - TLS_URGENT_BYTES_MAX / 100);
        while let Some(Next::Write(_)) = outbox.try_next() {}
        let small: usize = (0..2000).map(|_| outbox.push_row(&frame(DATA, 82), 82, start)).sum();
        assert_eq!(small, 2000 - TLS_QUEUE_FRAMES_MAX);
        while let Some(Next::Write(_)) = outbox.try_next() {}
        assert_eq!(outbox.push_row(&frame(DATA, 82), 82, start), 0);
        let late = start + TLS_QUEUE_DELAY_MAX + Duration::from_millis(1);
        assert_eq!(outbox.push_row(&frame(DATA, 82), 82, late), 1, "what waited too long keeps more out");
        drop(outbox);
        assert_eq!(waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn all_connections_together_hold_little() {
        let (waiting, now) = (Arc::new(AtomicUsize::new(TLS_QUEUES_BYTES_MAX - 1500)), Instant::now());
        let outbox = Outbox::new(waiting);
        assert_eq!(outbox.push_row(&frame(DATA, 1000).repeat(3), 1000, now), 2);
    }

    #[test]
    fn the_end_comes_at_once_or_after_what_waits() {
        let now = Instant::now();
        let outbox = Outbox::new(Arc::default());
        outbox.push_row(&frame(CONTROL, 50), 50, now);
        outbox.end(End::Written);
        assert_eq!(outbox.push_row(&frame(CONTROL, 50), 50, now), 1);
        assert_eq!(written(&outbox).len(), 52);
        assert_eq!(outbox.try_next(), Some(Next::End));
        let outbox = Outbox::new(Arc::default());
        outbox.push_row(&frame(CONTROL, 50), 50, now);
        outbox.end(End::Now);
        assert_eq!(outbox.try_next(), Some(Next::End));
    }
}
