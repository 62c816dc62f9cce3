//! Replays the corpus of the fuzz targets, so that what they once found stays found; and feeds them random bytes.

use std::{fs, path::Path};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;

#[path = "../../../fuzz/checks/babel.rs"]
mod babel;
#[path = "../../../fuzz/checks/beacon.rs"]
mod beacon;
#[path = "../../../fuzz/checks/frames.rs"]
mod frames;
#[path = "../../../fuzz/checks/handshake.rs"]
mod handshake;
#[path = "../../../fuzz/checks/invite.rs"]
mod invite;
#[path = "../../../fuzz/checks/offload.rs"]
mod offload;
#[path = "../../../fuzz/checks/plain.rs"]
mod plain;
#[path = "../../../fuzz/checks/punch.rs"]
mod punch;
#[path = "../../../fuzz/checks/steering.rs"]
mod steering;
#[path = "../../../fuzz/checks/stream.rs"]
mod stream;
#[path = "../../../fuzz/checks/translate.rs"]
mod translate;

/// Runs a check over its corpus, and over `random` inputs from a seed: bytes, and altered pieces of the corpus.
fn replay(name: &str, check: fn(&[u8]), random: usize) {
    let folder = Path::new("../../fuzz/corpus").join(name);
    let entries = fs::read_dir(&folder).expect("the corpus is committed");
    let corpus: Vec<Vec<u8>> =
        entries.map(|entry| fs::read(entry.expect("readable").path()).expect("readable")).collect();
    assert!(corpus.len() >= 3, "{name} has a corpus");
    for input in &corpus {
        check(input);
    }
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    for _ in 0..random {
        let mut input = corpus[rng.random_range(0..corpus.len())].clone();
        if rng.random_bool(0.5) {
            input = (0..rng.random_range(0..900)).map(|_| rng.random()).collect();
        }
        for _ in 0..rng.random_range(0..4) {
            if !input.is_empty() {
                let at = rng.random_range(0..input.len());
                input[at] = rng.random();
            }
        }
        input.truncate(rng.random_range(0..=input.len()));
        check(&input);
    }
}

#[test]
fn frames_of_handshakes() {
    replay("frames", frames::check, 5_000);
}

#[test]
fn invites() {
    replay("invite", invite::check, 20_000);
}

#[test]
fn messages_about_direct_links() {
    replay("punch", punch::check, 20_000);
}

#[test]
fn packets_between_ipv6_and_ipv4() {
    replay("translate", translate::check, 20_000);
}

#[test]
fn beacons() {
    replay("beacon", beacon::check, 20_000);
}

#[test]
fn handshakes_with_an_attacker_between() {
    replay("handshake", handshake::check, 300);
}

#[test]
fn frames_of_a_connection() {
    replay("stream", stream::check, 20_000);
}

#[test]
fn packets_that_are_split_and_merged() {
    replay("offload", offload::check, 20_000);
}

#[test]
fn packets_of_routers() {
    replay("babel", babel::check, 2_000);
}

#[test]
fn routers_on_a_plain_interface() {
    replay("plain", plain::check, 5_000);
}

#[test]
fn steering_and_grants() {
    replay("steering", steering::check, 20_000);
}
