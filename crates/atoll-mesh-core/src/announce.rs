//! Signed words about where networks are: what the holder of a key announces or takes back, and what the authority of a
//! region allows a border node to announce. All of it can be checked offline.

use atoll_base::{MeshAddr, NodeId, NodeSecret, RegionId, RegionPrefix, keys};

use crate::babel::{GrantBytes, Origin, Prefix, RouterId};

const ANNOUNCEMENT_DOMAIN: &str = "atoll mesh announcement v2";
const GRANT_DOMAIN: &str = "atoll mesh border grant v1";
/// Prefix length of a region.
const REGION_BITS: u8 = 48;
/// Expiry and signature.
const GRANT_TEXT_BYTES: usize = 8 + 64;

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A node of this region, with its workloads: a /112.
    Node(MeshAddr),
    /// Another region as a whole: a /48.
    Region(RegionPrefix),
}

impl Target {
    /// The same as a prefix of Babel.
    pub fn prefix(self) -> Prefix {
        let (address, length) = match self {
            Self::Node(network) => (network.network(), MeshAddr::PREFIX_LEN),
            Self::Region(region) => (region.network(), REGION_BITS),
        };
        Prefix::new(address, length).expect("both lengths are below 129")
    }

    /// What a prefix of Babel stands for; nothing if it is neither a node's nor a region's.
    pub fn of(prefix: Prefix) -> Option<Self> {
        let octets = prefix.address().octets();
        if octets[0] != 0xfd {
            return None;
        }
        match prefix.length() {
            MeshAddr::PREFIX_LEN => Some(Self::Node(MeshAddr::containing(prefix.address()))),
            REGION_BITS => octets.first_chunk::<6>().map(|region| Self::Region(RegionPrefix(*region))),
            _ => None,
        }
    }
}

/// The region in which a network lies.
pub(crate) fn region_of(network: MeshAddr) -> RegionPrefix {
    let mut prefix = [0; 6];
    prefix.copy_from_slice(&network.octets()[..6]);
    RegionPrefix(prefix)
}

/// Babel's name of a node (RFC 8966 section 4.1.3): the last 8 octets of its network's address.
pub fn router_id(region: RegionId, node: NodeId) -> RouterId {
    let octets = MeshAddr::of(region, node).network().octets();
    let mut id = [0; 8];
    id.copy_from_slice(&octets[8..]);
    id
}

/// The right of a border node to announce its region to other regions, signed by the authority of that region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The region.
    pub region: RegionId,
    /// Its border node.
    pub node: NodeId,
    /// Until when, in milliseconds of the calendar (Unix time).
    pub expiry_ms: u64,
    /// Ed25519 signature of the authority.
    pub signature: [u8; 64],
}

impl Grant {
    /// Signs a grant with the key of the region's authority.
    pub fn sign(authority: &NodeSecret, region: RegionId, node: NodeId, expiry_ms: u64) -> Self {
        let signature = authority.sign(GRANT_DOMAIN, &grant_message(region, node, expiry_ms));
        Self { region, node, expiry_ms, signature }
    }

    /// Whether the authority with this Ed25519 key signed it.
    pub fn is_authentic(&self, authority: NodeId) -> bool {
        keys::verify(authority, GRANT_DOMAIN, &grant_message(self.region, self.node, self.expiry_ms), &self.signature)
    }

    /// As it is written in a configuration: expiry and signature, 144 hexadecimal digits.
    pub fn to_text(&self) -> String {
        let bytes = self.expiry_ms.to_be_bytes().into_iter().chain(self.signature);
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads what [`Self::to_text`] wrote of a grant for this region and border node; nothing if it is anything else. Who
    /// signed it is not looked at.
    pub fn of_text(region: RegionId, node: NodeId, text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 2 * GRANT_TEXT_BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
        let bytes = (0..GRANT_TEXT_BYTES).map(|at| byte(2 * at)).collect::<Option<Vec<_>>>()?;
        let (expiry, signature) = bytes.split_first_chunk()?;
        let signature = signature.try_into().ok()?;
        Some(Self { region, node, expiry_ms: u64::from_be_bytes(*expiry), signature })
    }

    /// As it travels: the border node is named by the update that carries it, or is the neighbour that says hello.
    pub(crate) const fn to_wire(self) -> GrantBytes {
        GrantBytes { region: self.region.0, expiry_ms: self.expiry_ms, signature: self.signature }
    }

    pub(crate) const fn of_wire(node: NodeId, grant: &GrantBytes) -> Self {
        let GrantBytes { region, expiry_ms, signature } = *grant;
        Self { region: RegionId(region), node, expiry_ms, signature }
    }
}

/// "I, this node, announce this prefix, for the n-th time", or "I am gone". Distance is not part of it: it changes at
/// every hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Who announces.
    pub node: NodeId,
    /// Grows with each new announcement, over restarts too. Its lower 16 bits are Babel's sequence number.
    pub seqno: u64,
    /// Whether it takes everything back that has this number or a lower one.
    pub is_retraction: bool,
    /// The node's signature over all of this, its region and the prefix.
    pub signature: [u8; 64],
    /// Its right to announce a region; nothing for a node's own network.
    pub grant: Option<Grant>,
}

impl Announcement {
    /// Signs an announcement of the node's own network, or its retraction.
    pub fn sign(secret: &NodeSecret, region: RegionId, seqno: u64, is_retraction: bool) -> Self {
        let node = secret.id();
        let target = Target::Node(MeshAddr::of(region, node));
        let signature = secret.sign(ANNOUNCEMENT_DOMAIN, &message(region, target, node, seqno, is_retraction));
        Self { node, seqno, is_retraction, signature, grant: None }
    }

    /// Signs an announcement of the region of a grant, or its retraction.
    pub fn sign_region(secret: &NodeSecret, grant: Grant, seqno: u64, is_retraction: bool) -> Self {
        let target = Target::Region(RegionPrefix::of(grant.region));
        let message = message(grant.region, target, grant.node, seqno, is_retraction);
        let signature = secret.sign(ANNOUNCEMENT_DOMAIN, &message);
        Self { node: grant.node, seqno, is_retraction, signature, grant: Some(grant) }
    }

    /// Whether the node itself signed it for this target, and the target is its own (`region` is the receiver's) or
    /// that of its grant. Who signed the grant, and until when it holds, is for the caller to see.
    pub fn is_authentic(&self, region: RegionId, target: Target) -> bool {
        let region = match (target, &self.grant) {
            (Target::Node(network), None) if network == MeshAddr::of(region, self.node) => region,
            (Target::Region(prefix), Some(grant))
                if prefix == RegionPrefix::of(grant.region) && grant.node == self.node =>
            {
                grant.region
            }
            _ => return false,
        };
        let message = message(region, target, self.node, self.seqno, self.is_retraction);
        keys::verify(self.node, ANNOUNCEMENT_DOMAIN, &message, &self.signature)
    }

    /// Babel's name of the originator; `region` is the receiver's.
    pub(crate) fn router_id(&self, region: RegionId) -> RouterId {
        router_id(self.grant.map_or(region, |grant| grant.region), self.node)
    }

    pub(crate) fn to_wire(&self) -> (Origin, Option<GrantBytes>) {
        let origin = Origin {
            node: self.node.0,
            epoch: self.seqno >> 16,
            is_retraction: self.is_retraction,
            signature: self.signature,
        };
        (origin, self.grant.map(Grant::to_wire))
    }

    pub(crate) fn of_wire(seqno: u16, origin: &Origin, grant: Option<&GrantBytes>) -> Self {
        let node = NodeId(origin.node);
        let grant = grant.map(|grant| Grant::of_wire(node, grant));
        let seqno = origin.epoch << 16 | u64::from(seqno);
        Self { node, seqno, is_retraction: origin.is_retraction, signature: origin.signature, grant }
    }
}

fn message(region: RegionId, target: Target, node: NodeId, seqno: u64, is_retraction: bool) -> Vec<u8> {
    let prefix = target.prefix();
    let mut message = Vec::with_capacity(32 + 16 + 1 + 8 + 32 + 8 + 1);
    message.extend_from_slice(&region.0);
    message.extend_from_slice(&prefix.address().octets());
    message.push(prefix.length());
    message.extend_from_slice(&router_id(region, node));
    message.extend_from_slice(&node.0);
    message.extend_from_slice(&seqno.to_be_bytes());
    message.push(u8::from(is_retraction));
    message
}

fn grant_message(region: RegionId, node: NodeId, expiry_ms: u64) -> Vec<u8> {
    let prefix = Target::Region(RegionPrefix::of(region)).prefix();
    let mut message = Vec::with_capacity(32 + 16 + 1 + 32 + 8);
    message.extend_from_slice(&region.0);
    message.extend_from_slice(&prefix.address().octets());
    message.push(prefix.length());
    message.extend_from_slice(&node.0);
    message.extend_from_slice(&expiry_ms.to_be_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: RegionId = RegionId([7; 32]);
    const THERE: RegionId = RegionId([8; 32]);

    #[test]
    fn an_announcement_is_bound_to_key_region_number_target_and_kind() {
        let secret = NodeSecret::from_seed([1; 32]);
        let own = Target::Node(MeshAddr::of(HERE, secret.id()));
        let word = Announcement::sign(&secret, HERE, 5, false);
        assert!(word.is_authentic(HERE, own));
        assert!(!word.is_authentic(THERE, Target::Node(MeshAddr::of(THERE, secret.id()))));
        assert!(!word.is_authentic(HERE, Target::Node(MeshAddr::of(HERE, NodeId([2; 32])))));
        assert!(!word.is_authentic(HERE, Target::Region(RegionPrefix::of(HERE))));
        assert!(!Announcement { seqno: 6, ..word.clone() }.is_authentic(HERE, own));
        assert!(!Announcement { is_retraction: true, ..word.clone() }.is_authentic(HERE, own));
        let (origin, grant) = word.to_wire();
        assert_eq!(Announcement::of_wire(5, &origin, grant.as_ref()), word);
    }

    #[test]
    fn a_region_needs_the_grant_of_its_own_authority() {
        let (border, authority) = (NodeSecret::from_seed([1; 32]), NodeSecret::from_seed([2; 32]));
        let grant = Grant::sign(&authority, THERE, border.id(), 1000);
        assert!(grant.is_authentic(authority.id()) && !grant.is_authentic(border.id()));
        assert!(!Grant { expiry_ms: 1001, ..grant }.is_authentic(authority.id()));
        assert_eq!(Grant::of_text(THERE, border.id(), &grant.to_text()), Some(grant));
        for text in ["", "00", &"+1".repeat(72), &"é".repeat(72), &grant.to_text()[2..]] {
            assert_eq!(Grant::of_text(THERE, border.id(), text), None, "{text}");
        }
        assert!(!Grant { node: NodeId([3; 32]), ..grant }.is_authentic(authority.id()));
        let word = Announcement::sign_region(&border, grant, 9, false);
        assert!(word.is_authentic(HERE, Target::Region(RegionPrefix::of(THERE))));
        assert!(!word.is_authentic(HERE, Target::Region(RegionPrefix::of(HERE))));
        assert!(!Announcement { grant: None, ..word }.is_authentic(HERE, Target::Region(RegionPrefix::of(THERE))));
    }

    #[test]
    fn targets_are_prefixes_of_two_lengths() {
        for target in [Target::Node(MeshAddr::of(HERE, NodeId([1; 32]))), Target::Region(RegionPrefix::of(THERE))] {
            assert_eq!(Target::of(target.prefix()), Some(target));
        }
        let other = |address: &str, length| Prefix::new(address.parse().expect("an address"), length);
        assert_eq!(other("fd00::", 64).and_then(Target::of), None);
        assert_eq!(other("2001:db8::", 48).and_then(Target::of), None);
    }
}
