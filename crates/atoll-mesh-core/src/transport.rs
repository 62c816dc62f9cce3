//! One set of session keys: seals and opens datagrams, counts them, and knows when it is worn out.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::{
    Tuning,
    limits::{REJECT_AFTER, REJECT_AFTER_MESSAGES, REKEY_RESPONDER_DELAY},
    replay::ReplayWindow,
    time::Time,
    wire::{self, DATA_HEADER_BYTES, TAG_BYTES},
};

/// The raw keys of a finished handshake, wiped when dropped.
pub(crate) struct RawKeys {
    pub(crate) send: Zeroizing<[u8; 32]>,
    pub(crate) receive: Zeroizing<[u8; 32]>,
}

/// Why a data frame was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// The counter was seen before or is too old.
    Replayed,
    /// The tag does not fit.
    Forged,
    /// The key is too old.
    Expired,
}

/// Keys of one session in both directions.
pub(crate) struct Transport {
    seal: LessSafeKey,
    open: LessSafeKey,
    local_index: u32,
    remote_index: u32,
    is_initiator: bool,
    created: Time,
    next_counter: u64,
    window: ReplayWindow,
    /// Whether anything authentic came in under these keys.
    heard: bool,
}

impl Transport {
    pub(crate) fn new(keys: &RawKeys, local_index: u32, remote_index: u32, is_initiator: bool, now: Time) -> Self {
        Self {
            seal: aead_key(&keys.send),
            open: aead_key(&keys.receive),
            local_index,
            remote_index,
            is_initiator,
            created: now,
            next_counter: 0,
            window: ReplayWindow::new(),
            heard: false,
        }
    }

    pub(crate) const fn local_index(&self) -> u32 {
        self.local_index
    }

    pub(crate) const fn remote_index(&self) -> u32 {
        self.remote_index
    }

    pub(crate) const fn created(&self) -> Time {
        self.created
    }

    pub(crate) const fn has_heard(&self) -> bool {
        self.heard
    }

    /// Whether this end should make new keys.
    pub(crate) fn wants_rekey(&self, tuning: &Tuning, now: Time) -> bool {
        let (age, messages) = if self.is_initiator {
            (tuning.rekey_after, tuning.rekey_after_messages)
        } else {
            (tuning.rekey_after + REKEY_RESPONDER_DELAY, tuning.rekey_after_messages.saturating_mul(2))
        };
        now.since(self.created) >= age || self.next_counter >= messages
    }

    /// Whether the keys must not be used any more.
    pub(crate) fn is_expired(&self, now: Time) -> bool {
        now.since(self.created) >= REJECT_AFTER || self.next_counter >= REJECT_AFTER_MESSAGES
    }

    /// Seals what follows `start` in `buffer` as one data frame: the frame's header must already take up
    /// `DATA_HEADER_BYTES` there. The tag is appended.
    pub(crate) fn seal(&mut self, buffer: &mut Vec<u8>, start: usize) {
        let counter = self.next_counter;
        self.next_counter += 1;
        let header = wire::data_header(self.remote_index, counter);
        buffer[start..start + DATA_HEADER_BYTES].copy_from_slice(&header);
        let tag = self
            .seal
            .seal_in_place_separate_tag(nonce(counter), Aad::from(header), &mut buffer[start + DATA_HEADER_BYTES..])
            .expect("a datagram is far below the cipher's bound on lengths");
        buffer.extend_from_slice(tag.as_ref());
    }

    /// Opens a data frame in place; the payload is `frame[DATA_HEADER_BYTES..][..returned]`.
    pub(crate) fn open(&mut self, counter: u64, frame: &mut [u8], now: Time) -> Result<usize, OpenError> {
        if self.is_expired(now) {
            return Err(OpenError::Expired);
        }
        if !self.window.is_fresh(counter) {
            return Err(OpenError::Replayed);
        }
        let (header, sealed) = frame.split_at_mut(DATA_HEADER_BYTES);
        let length =
            self.open.open_in_place(nonce(counter), Aad::from(&*header), sealed).map_err(|_| OpenError::Forged)?.len();
        self.window.accept(counter);
        self.heard = true;
        Ok(length)
    }
}

/// Starts a data frame in `buffer`: reserves its header and makes room for `payload_bytes` and `tags` tags.
pub(crate) fn begin_frame(buffer: &mut Vec<u8>, payload_bytes: usize, tags: usize) {
    buffer.reserve(DATA_HEADER_BYTES + payload_bytes + tags * TAG_BYTES);
    buffer.extend_from_slice(&[0; DATA_HEADER_BYTES]);
}

fn aead_key(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has the cipher's length"))
}

/// 32 zero bits, then the counter in little endian, as the Noise specification has it for ChaChaPoly.
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}
