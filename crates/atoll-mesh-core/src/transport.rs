//! One set of keys that a handshake gave: seals and opens what goes under them, counts it, and knows when it is worn out.
//!
//! The same keys serve a link or a session, never both. A session seals records. A link seals control frames; of the
//! data frames that pass over it, it only masks the steering and authenticates it, together with the record's tag: the
//! record itself is sealed once, by its two ends.

use aes::{
    Aes128Enc,
    cipher::{BlockEncrypt as _, KeyInit as _, generic_array::GenericArray},
};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
};
use siphasher::sip::SipHasher24;
use zeroize::Zeroizing;

use crate::{
    Tuning,
    limits::{REJECT_AFTER, REJECT_AFTER_MESSAGES, REKEY_RESPONDER_DELAY},
    replay::ReplayWindow,
    time::Time,
    wire::{
        TAG_BYTES,
        data::{
            self, Cipher, LINK_HEADER_BYTES, LINK_MAC_BYTES, LinkKind, RECORD_AT, STEERING_AT, STEERING_BYTES, Steering,
        },
    },
};

/// The raw keys of a finished handshake, wiped when dropped.
pub(crate) struct RawKeys {
    pub(crate) send: Zeroizing<[u8; 32]>,
    pub(crate) receive: Zeroizing<[u8; 32]>,
}

/// Why a frame was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// The counter was seen before or is too old.
    Replayed,
    /// It does not authenticate.
    Forged,
    /// The key is too old.
    Expired,
}

/// Keys of one link or session in both directions.
pub(crate) struct Transport {
    cipher: Cipher,
    seal: LessSafeKey,
    /// Control frames are few, so they have one cipher for all machines.
    control_out: LessSafeKey,
    open_aes: LessSafeKey,
    open_chacha: LessSafeKey,
    mask_out: HeaderKey,
    mask_in: HeaderKey,
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
        let (send, receive) = (Schedule::new(&keys.send), Schedule::new(&keys.receive));
        let cipher = preferred_cipher();
        Self {
            cipher,
            seal: send.aead(cipher),
            control_out: send.aead(Cipher::ChaCha20Poly1305),
            open_aes: receive.aead(Cipher::Aes256Gcm),
            open_chacha: receive.aead(Cipher::ChaCha20Poly1305),
            mask_out: send.header(),
            mask_in: receive.header(),
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

    /// The AEAD with which this end seals.
    pub(crate) const fn cipher(&self) -> Cipher {
        self.cipher
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

    /// A counter that was never used under these keys.
    pub(crate) const fn take_counter(&mut self) -> u64 {
        let counter = self.next_counter;
        self.next_counter += 1;
        counter
    }

    /// Seals a record in place. `frame` is a whole data frame whose steering is written and not masked yet; its last
    /// [`TAG_BYTES`] become the tag.
    pub(crate) fn seal_record(&self, counter: u64, frame: &mut [u8]) {
        let (head, record) = frame.split_at_mut(RECORD_AT);
        let (text, tag) = record.split_at_mut(record.len() - TAG_BYTES);
        let aad = Aad::from(data::additional_data(&head[STEERING_AT..]));
        let made = self.seal.seal_in_place_separate_tag(nonce(counter), aad, text);
        tag.copy_from_slice(made.expect("a datagram is far below the cipher's bound on lengths").as_ref());
    }

    /// Opens the record of a data frame in place, whose steering is unmasked. The text then lies between
    /// [`RECORD_AT`] and the tag.
    pub(crate) fn open_record(
        &mut self,
        counter: u64,
        cipher: Cipher,
        frame: &mut [u8],
        now: Time,
    ) -> Result<(), OpenError> {
        self.check_fresh(counter, now)?;
        let key = match cipher {
            Cipher::Aes256Gcm => &self.open_aes,
            Cipher::ChaCha20Poly1305 => &self.open_chacha,
        };
        let (head, record) = frame.split_at_mut(RECORD_AT);
        let aad = Aad::from(data::additional_data(&head[STEERING_AT..]));
        key.open_in_place(nonce(counter), aad, record).map_err(|_| OpenError::Forged)?;
        self.accept(counter);
        Ok(())
    }

    /// A control frame with this payload.
    pub(crate) fn seal_control(&mut self, payload: &[u8]) -> Vec<u8> {
        let counter = self.take_counter();
        let header = data::link_header(LinkKind::Control, self.remote_index, counter);
        let mut frame = Vec::with_capacity(payload.len() + data::CONTROL_OVERHEAD_BYTES);
        frame.extend_from_slice(&header);
        frame.extend_from_slice(payload);
        let sealed = &mut frame[LINK_HEADER_BYTES..];
        let tag = self.control_out.seal_in_place_separate_tag(nonce(counter), Aad::from(header), sealed);
        frame.extend_from_slice(tag.expect("a control frame is far below the cipher's bound on lengths").as_ref());
        frame
    }

    /// Opens a control frame in place; the payload is `frame[LINK_HEADER_BYTES..][..returned]`.
    pub(crate) fn open_control(&mut self, counter: u64, frame: &mut [u8], now: Time) -> Result<usize, OpenError> {
        self.check_fresh(counter, now)?;
        let (header, sealed) = frame.split_at_mut(LINK_HEADER_BYTES);
        let opened = self.open_chacha.open_in_place(nonce(counter), Aad::from(&*header), sealed);
        let length = opened.map_err(|_| OpenError::Forged)?.len();
        self.accept(counter);
        Ok(length)
    }

    /// Masks and authenticates the steering of a data frame for the neighbour, whatever its record is.
    pub(crate) fn close_steering(&mut self, frame: &mut [u8]) {
        let counter = self.take_counter();
        frame[..LINK_HEADER_BYTES].copy_from_slice(&data::link_header(LinkKind::Data, self.remote_index, counter));
        self.mask_out.mask(counter, &mut frame[STEERING_AT..RECORD_AT]);
        let mac = self.mask_out.mac(frame);
        frame[LINK_HEADER_BYTES..STEERING_AT].copy_from_slice(&mac.to_be_bytes());
    }

    /// Checks and unmasks the steering of a data frame in place.
    pub(crate) fn open_steering(
        &mut self,
        counter: u64,
        frame: &mut [u8],
        now: Time,
    ) -> Result<Option<Steering>, OpenError> {
        self.check_fresh(counter, now)?;
        let mac: [u8; LINK_MAC_BYTES] =
            *frame[LINK_HEADER_BYTES..].first_chunk().expect("the frame has the length of its header");
        // As numbers: that takes one time whatever differs, so that a forger learns nothing from it.
        if self.mask_in.mac(frame) != u64::from_be_bytes(mac) {
            return Err(OpenError::Forged);
        }
        self.accept(counter);
        self.mask_in.mask(counter, &mut frame[STEERING_AT..RECORD_AT]);
        let steering: &[u8; STEERING_BYTES] =
            frame[STEERING_AT..].first_chunk().expect("the frame has the length of its header");
        Ok(Steering::parse(steering))
    }

    fn check_fresh(&self, counter: u64, now: Time) -> Result<(), OpenError> {
        if self.is_expired(now) {
            return Err(OpenError::Expired);
        }
        if self.window.is_fresh(counter) { Ok(()) } else { Err(OpenError::Replayed) }
    }

    fn accept(&mut self, counter: u64) {
        self.window.accept(counter);
        self.heard = true;
    }
}

/// What hides and authenticates the steering on one direction of a link.
struct HeaderKey {
    mask: Aes128Enc,
    mac: SipHasher24,
}

impl HeaderKey {
    /// Applies AES-128 in counter mode (NIST SP 800-38A): once masks, twice unmasks.
    fn mask(&self, counter: u64, steering: &mut [u8]) {
        const BLOCKS: usize = STEERING_BYTES.div_ceil(16);
        let mut blocks = [GenericArray::from([0; 16]); BLOCKS];
        for (number, block) in (0..).zip(blocks.iter_mut()) {
            block[..8].copy_from_slice(&counter.to_be_bytes());
            block[15] = number;
        }
        self.mask.encrypt_blocks(&mut blocks);
        // In whole blocks, which the processor does at once.
        let mut whole = [0; BLOCKS * 16];
        whole[..STEERING_BYTES].copy_from_slice(steering);
        for (bytes, mask) in whole.as_chunks_mut::<16>().0.iter_mut().zip(&blocks) {
            *bytes = (u128::from_ne_bytes(*bytes) ^ u128::from_ne_bytes((*mask).into())).to_ne_bytes();
        }
        steering.copy_from_slice(&whole[..STEERING_BYTES]);
    }

    /// SipHash-2-4 over header, masked steering, the record's tag and the length.
    fn mac(&self, frame: &[u8]) -> u64 {
        const TAIL_AT: usize = LINK_HEADER_BYTES + STEERING_BYTES;
        let mut covered = [0; TAIL_AT + TAG_BYTES + 2];
        covered[..LINK_HEADER_BYTES].copy_from_slice(&frame[..LINK_HEADER_BYTES]);
        covered[LINK_HEADER_BYTES..TAIL_AT].copy_from_slice(&frame[STEERING_AT..RECORD_AT]);
        covered[TAIL_AT..TAIL_AT + TAG_BYTES].copy_from_slice(&frame[frame.len() - TAG_BYTES..]);
        covered[TAIL_AT + TAG_BYTES..].copy_from_slice(&u16::try_from(frame.len()).unwrap_or(u16::MAX).to_be_bytes());
        self.mac.hash(&covered)
    }
}

/// Derives all keys of one direction from what the handshake gave (HKDF-SHA256, RFC 5869).
struct Schedule(aws_lc_rs::hkdf::Prk);

impl Schedule {
    fn new(key: &[u8; 32]) -> Self {
        Self(Salt::new(HKDF_SHA256, b"atoll mesh transport v3").extract(key))
    }

    fn derive<const N: usize>(&self, label: &[u8]) -> Zeroizing<[u8; N]> {
        struct Length(usize);
        impl aws_lc_rs::hkdf::KeyType for Length {
            fn len(&self) -> usize {
                self.0
            }
        }
        let mut key = Zeroizing::new([0; N]);
        let info = [label];
        let okm = self.0.expand(&info, Length(N)).expect("the length is far below the bound of RFC 5869");
        okm.fill(key.as_mut()).expect("the buffer has the length that was asked for");
        key
    }

    fn aead(&self, cipher: Cipher) -> LessSafeKey {
        let (label, algorithm): (&[u8], &'static Algorithm) = match cipher {
            Cipher::Aes256Gcm => (b"aes-256-gcm", &AES_256_GCM),
            Cipher::ChaCha20Poly1305 => (b"chacha20-poly1305", &CHACHA20_POLY1305),
        };
        let key = self.derive::<32>(label);
        LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).expect("both ciphers have 32-byte keys"))
    }

    fn header(&self) -> HeaderKey {
        let (mask, mac) = (self.derive::<16>(b"mask"), self.derive::<16>(b"mac"));
        HeaderKey { mask: Aes128Enc::new(&(*mask).into()), mac: SipHasher24::new_with_key(&mac) }
    }
}

/// AES where the processor has instructions for it, else the cipher that is fast without.
fn preferred_cipher() -> Cipher {
    #[cfg(target_arch = "x86_64")]
    let has_aes = std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let has_aes = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let has_aes = false;
    if has_aes { Cipher::Aes256Gcm } else { Cipher::ChaCha20Poly1305 }
}

/// 32 zero bits, then the counter.
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}
