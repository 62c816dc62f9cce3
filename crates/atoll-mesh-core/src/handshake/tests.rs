//! Whole handshakes of two nodes: parts in any order, forged parts between them, and what the keys depend on.

use proptest::prelude::*;

use super::*;
use crate::kem::{AwsLcKem, KemError, KemPair};

const REGION: RegionId = RegionId([7; 32]);
const OTHER: RegionId = RegionId([8; 32]);
const LINK: Scope = Scope { region: REGION, ends: Ends::Link };

struct End {
    local: Local,
    sources: Sources,
}

fn end(seed: u8, region: RegionId) -> End {
    let (secrets, _) = Secrets::new(&[seed; 32]);
    let local = Local::new(NodeSecret::from_seed([seed; 32]), region, u64::from(seed));
    End { local, sources: Sources { secrets, kem: Box::new(AwsLcKem) } }
}

struct Pair {
    a: End,
    b: End,
    initiator: Initiator,
    responder: Responder,
    second: ResponseContents,
}

/// The scope names the region of the second node, which is called by the first.
fn pair(scope: Scope) -> Pair {
    let (mut a, mut b) = (end(1, REGION), end(2, scope.region));
    let initiator = a.local.initiate(scope, 11, &mut a.sources);
    let scope = Scope { region: REGION, ..scope };
    let (responder, second) =
        b.local.respond(scope, (11, initiator.first()), 22, &mut b.sources).expect("a genuine first message");
    Pair { a, b, initiator, responder, second }
}

impl Pair {
    fn read_second(
        &mut self,
        part: Part,
        content: &[u8; RESPONSE_CONTENT_BYTES],
    ) -> Option<(Keys, u32, FinishContents)> {
        match self.initiator.read(&self.a.local, &mut self.a.sources, part, content) {
            Ok(InitiatorStep::Done { keys, remote_index, third }) => Some((keys, remote_index, third)),
            Ok(InitiatorStep::Wait) | Err(HandshakeError) => None,
        }
    }

    fn read_third(&mut self, part: Part, content: &[u8; FINISH_CONTENT_BYTES]) -> Option<Keys> {
        self.responder.read(part, content).ok().flatten()
    }
}

fn altered<const N: usize>(content: &[u8; N], at: usize, bit: u8) -> Box<[u8; N]> {
    let mut altered = Box::new(*content);
    altered[at % N] ^= 1 << (bit % 8);
    altered
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Genuine parts in any order and number, with forged ones between them: both ends get the same keys, once.
    #[test]
    fn forged_and_reordered_parts_spoil_nothing(
        rest_first: [bool; 2],
        is_between_regions: bool,
        forged in prop::collection::vec((any::<bool>(), any::<usize>(), 0u8..8), 0..6),
    ) {
        let region = if is_between_regions { OTHER } else { REGION };
        let mut pair = pair(Scope { region, ends: Ends::Link });
        let order = |rest_first| if rest_first { [Part::Rest, Part::Head, Part::Rest] } else { [Part::Head, Part::Rest, Part::Head] };
        let content = pair.second.clone();
        let mut done = None;
        for part in order(rest_first[0]) {
            for (is_rest, at, bit) in &forged {
                let forged_part = if *is_rest { Part::Rest } else { Part::Head };
                let forged = altered(&content[usize::from(*is_rest)], *at, *bit);
                prop_assert!(pair.read_second(forged_part, &forged).is_none());
            }
            if done.is_none() {
                done = pair.read_second(part, &content[usize::from(part.number())]);
            }
        }
        let (here, remote_index, third) = done.expect("all parts were there");
        prop_assert_eq!((remote_index, here.proven), (22, Proven { node: pair.b.local.node, epoch: 2, region }));
        let mut done = None;
        for part in order(rest_first[1]) {
            for (is_rest, at, bit) in &forged {
                let forged_part = if *is_rest { Part::Rest } else { Part::Head };
                prop_assert!(pair.read_third(forged_part, &altered(&third[usize::from(*is_rest)], *at, *bit)).is_none());
            }
            done = done.or(pair.read_third(part, &third[usize::from(part.number())]));
        }
        let there = done.expect("all parts were there");
        prop_assert_eq!(there.proven, Proven { node: pair.a.local.node, epoch: 1, region: REGION });
        prop_assert_eq!((&here.raw.send, &here.raw.receive), (&there.raw.receive, &there.raw.send));
        prop_assert_eq!(&here.refusal, &there.refusal);
        prop_assert_ne!(&here.raw.send, &here.raw.receive);
    }
}

#[test]
fn a_handshake_of_one_scope_or_index_is_none_of_another() {
    let network = |seed| MeshAddr::of(REGION, NodeSecret::from_seed([seed; 32]).id());
    let between = |one, two| Ends::EndToEnd { initiator: network(one), responder: network(two) };
    let session = Scope { region: REGION, ends: between(1, 2) };
    let others = [
        (LINK, 11),
        (session, 12),
        (Scope { region: REGION, ends: between(2, 1) }, 11),
        // Who is called takes the caller for one of another region.
        (Scope { region: OTHER, ends: between(1, 2) }, 11),
    ];
    for (scope, index) in others {
        let mut pair = pair(session);
        let first = *pair.initiator.first();
        let (_, second) = pair.b.local.respond(scope, (index, &first), 22, &mut pair.b.sources).expect("answers");
        assert!(pair.read_second(Part::Head, &second[0]).is_none());
        let genuine = pair.second.clone();
        assert!(
            pair.read_second(Part::Head, &genuine[0]).is_none() && pair.read_second(Part::Rest, &genuine[1]).is_some()
        );
    }
}

/// A KEM that an attacker can compute: what a quantum computer, or a flaw of ML-KEM, would make of it.
struct BrokenKem;

impl Kem for BrokenKem {
    fn generate(&mut self) -> Result<KemPair, KemError> {
        Ok(KemPair { secret: Box::new(Self), public: Box::new([0; KEM_KEY_BYTES]) })
    }

    fn encapsulate(
        &mut self,
        _: &[u8; KEM_KEY_BYTES],
    ) -> Result<(Box<[u8; KEM_CIPHERTEXT_BYTES]>, KemSecret), KemError> {
        Ok((Box::new([0; KEM_CIPHERTEXT_BYTES]), KemSecret::default()))
    }
}

impl Decapsulate for BrokenKem {
    fn decapsulate(&self, _: &[u8; KEM_CIPHERTEXT_BYTES]) -> Result<KemSecret, KemError> {
        Ok(KemSecret::default())
    }
}

/// The keys at the initiator after a handshake with this KEM and this randomness.
fn keys_with(kem: fn() -> Box<dyn Kem>, seeds: [u8; 2]) -> [u8; 32] {
    let (mut a, mut b) = (end(1, REGION), end(2, REGION));
    a.sources = Sources { secrets: Secrets::new(&[seeds[0]; 32]).0, kem: kem() };
    b.sources = Sources { secrets: Secrets::new(&[seeds[1]; 32]).0, kem: kem() };
    let mut initiator = a.local.initiate(LINK, 11, &mut a.sources);
    let (_, second) =
        b.local.respond(LINK, (11, initiator.first()), 22, &mut b.sources).expect("a genuine first message");
    assert!(initiator.read(&a.local, &mut a.sources, Part::Head, &second[0]).is_ok());
    match initiator.read(&a.local, &mut a.sources, Part::Rest, &second[1]) {
        Ok(InitiatorStep::Done { keys, .. }) => *keys.raw.send,
        _ => panic!("both parts are there"),
    }
}

#[test]
fn the_keys_depend_on_each_half_alone() {
    let broken = || Box::new(BrokenKem) as Box<dyn Kem>;
    let good = || Box::new(AwsLcKem) as Box<dyn Kem>;
    assert_eq!(keys_with(broken, [1, 2]), keys_with(broken, [1, 2]), "nothing else is random");
    assert_ne!(keys_with(broken, [1, 2]), keys_with(broken, [3, 2]), "the initiator's X25519 key");
    assert_ne!(keys_with(broken, [1, 2]), keys_with(broken, [1, 3]), "the responder's X25519 key");
    assert_ne!(keys_with(good, [1, 2]), keys_with(good, [1, 2]), "the KEM's secret, with all of X25519 known");
}
