//! Against the `snow` library, in both roles, byte for byte.

use proptest::prelude::*;
use snow::{
    Builder, HandshakeState,
    params::{CipherChoice, DHChoice, HashChoice},
    resolvers::{CryptoResolver, DefaultResolver},
    types::{Cipher, Dh, Hash, Random},
};

use super::*;

const PATTERN: &str = "Noise_XX_25519_ChaChaPoly_SHA256";

/// The library with an ephemeral key that the test chose.
struct Fixed([u8; 32]);

impl CryptoResolver for Fixed {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Self(self.0)))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

impl Random for Fixed {
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), snow::Error> {
        bytes.copy_from_slice(&self.0);
        Ok(())
    }
}

fn library<'a>(own: &'a [u8; 32], ephemeral: [u8; 32], prologue: &'a [u8]) -> Builder<'a> {
    Builder::with_resolver(PATTERN.parse().expect("known"), Box::new(Fixed(ephemeral)))
        .prologue(prologue)
        .and_then(|builder| builder.local_private_key(own))
        .expect("fits")
}

fn pair(secret: [u8; 32]) -> KeyPair {
    KeyPair::new(&Zeroizing::new(secret))
}

fn write(state: &mut HandshakeState, payload: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; 2048];
    let length = state.write_message(payload, &mut buffer).expect("fits");
    buffer.truncate(length);
    buffer
}

fn read(state: &mut HandshakeState, message: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; 2048];
    let length = state.read_message(message, &mut buffer).expect("authentic");
    buffer.truncate(length);
    buffer
}

/// `Split()` of the specification, which Atoll replaces by a derivation of its own.
fn split(chain: &[u8; 32]) -> ([u8; 32], [u8; 32]) {
    let mut keys = [0; 64];
    Hkdf::<Sha256>::new(Some(chain), &[]).expand(&[], &mut keys).expect("short");
    (keys[..32].try_into().expect("half"), keys[32..].try_into().expect("half"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_initiator_talks_to_the_library(
        keys: [[u8; 32]; 4], prologue: Vec<u8>, second in prop::collection::vec(any::<u8>(), 0..900), third: Vec<u8>,
    ) {
        let ours = Initiator::new(&prologue, pair(keys[0]));
        let mut theirs = library(&keys[3], keys[2], &prologue).build_responder().expect("builds");
        prop_assert_eq!(read(&mut theirs, ours.first()), Vec::<u8>::new());
        let message = write(&mut theirs, &second);
        let (ours, payload) = ours.read_second(&message).expect("authentic");
        prop_assert_eq!(&payload, &second);
        prop_assert_eq!(ours.remote_static, *pair(keys[3]).public());
        prop_assert_eq!(ours.hash(), theirs.get_handshake_hash());
        let (message, finished) = ours.write_third(&pair(keys[1]), &third).expect("agrees");
        prop_assert_eq!(read(&mut theirs, &message), third);
        prop_assert_eq!(&finished.hash, theirs.get_handshake_hash());
        prop_assert_eq!(split(&finished.chain), theirs.dangerously_get_raw_split());
    }

    #[test]
    fn the_responder_talks_to_the_library(
        keys: [[u8; 32]; 4], prologue: Vec<u8>, second in prop::collection::vec(any::<u8>(), 0..900), third: Vec<u8>,
    ) {
        let mut theirs = library(&keys[1], keys[0], &prologue).build_initiator().expect("builds");
        let first: [u8; 32] = write(&mut theirs, &[]).try_into().expect("a key");
        let ours = Responder::read_first(&prologue, &first);
        let (ours, message) = ours.write_second(&pair(keys[3]), pair(keys[2]), &second).expect("agrees");
        prop_assert_eq!(read(&mut theirs, &message), second);
        let message = write(&mut theirs, &third);
        let (remote, payload, finished) = ours.read_third(&message).expect("authentic");
        prop_assert_eq!((remote, payload), (*pair(keys[1]).public(), third));
        prop_assert_eq!(&finished.hash, theirs.get_handshake_hash());
        prop_assert_eq!(split(&finished.chain), theirs.dangerously_get_raw_split());
    }

    #[test]
    fn a_forged_message_changes_nothing(keys: [[u8; 32]; 4], at: prop::sample::Index, bit in 0u8..8, cut: prop::sample::Index) {
        let initiator = Initiator::new(b"p", pair(keys[0]));
        let responder = Responder::read_first(b"p", initiator.first());
        let (responder, second) = responder.write_second(&pair(keys[3]), pair(keys[2]), b"two").expect("agrees");
        let mut forged = second.clone();
        forged[at.index(second.len())] ^= 1 << bit;
        // The top bit of a public key is ignored by X25519 but is part of the hash.
        prop_assert!(initiator.read_second(&forged).is_err());
        prop_assert!(initiator.read_second(&second[..cut.index(second.len())]).is_err());
        let (initiator, _) = initiator.read_second(&second).expect("the true one still fits");
        let (third, there) = initiator.write_third(&pair(keys[1]), b"three").expect("agrees");
        let mut forged = third.clone();
        forged[at.index(third.len())] ^= 1 << bit;
        prop_assert!(responder.read_third(&forged).is_err());
        prop_assert!(responder.read_third(&third[..cut.index(third.len())]).is_err());
        let (_, payload, here) = responder.read_third(&third).expect("the true one still fits");
        prop_assert_eq!(payload, b"three");
        prop_assert_eq!((*there.chain, there.hash), (*here.chain, here.hash));
    }
}

#[test]
fn keys_of_low_order_are_refused() {
    let initiator = Initiator::new(b"", pair([1; 32]));
    for low in [[0; 32], {
        let mut one = [0; 32];
        one[0] = 1;
        one
    }] {
        let responder = Responder::read_first(b"", &low);
        assert!(responder.write_second(&pair([2; 32]), pair([3; 32]), b"").is_err());
        let mut message = low.to_vec();
        message.resize(SECOND_OVERHEAD_BYTES, 0);
        assert_eq!(initiator.read_second(&message).err(), Some(Forged));
    }
}
