//! Trie nodes as they are stored, and as they are hashed.
//!
//! Only branch nodes have records of their own. What stands at one of a branch's sixteen places is a [`Child`]: a leaf,
//! of which the branch knows the hash alone (key and value are in the flat tables), or another branch further down,
//! with the nibbles of the extension node between the two, if there is one.
//!
//! A branch's record: a 16-bit mask of its children, then for each a header byte, the extension (its length, then one
//! byte a nibble) when the header says so, and the node reference. Header: bit 7 a branch stands there, bit 6 with an
//! extension, bits 0–5 length of a reference that is no hash, 0 when it is one.

use alloy_primitives::{B256, keccak256};
use alloy_trie::{
    EMPTY_ROOT_HASH, Nibbles, TrieMask,
    nodes::{BranchNodeRef, ExtensionNodeRef, LeafNodeRef, RlpNode},
};

use super::StateError;

const IS_BRANCH: u8 = 0x80;
const HAS_EXTENSION: u8 = 0x40;
const INLINE_MASK: u8 = 0x3f;

/// What stands at one place of a branch, or at the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Child {
    /// A leaf, by the reference to its node.
    Leaf(RlpNode),
    /// A branch, after `extension`.
    Branch { extension: Nibbles, node: RlpNode },
}

impl Child {
    /// The leaf of `key` where `depth` nibbles of the key lead to.
    pub(super) fn leaf(key: &Nibbles, depth: usize, value: &[u8]) -> Self {
        Self::Leaf(LeafNodeRef::new(&key.slice(depth..), value).rlp(&mut Vec::with_capacity(128)))
    }

    /// The reference that a parent node holds.
    pub(super) fn reference(&self) -> RlpNode {
        match self {
            Self::Leaf(node) => node.clone(),
            Self::Branch { extension, node } if extension.is_empty() => node.clone(),
            Self::Branch { extension, node } => ExtensionNodeRef::new(extension, node).rlp(&mut Vec::with_capacity(70)),
        }
    }

    /// Root hash of a trie with this at its root.
    pub(super) fn root_hash(child: Option<&Self>) -> B256 {
        child.map_or(EMPTY_ROOT_HASH, |child| {
            let reference = child.reference();
            reference.as_hash().unwrap_or_else(|| keccak256(&reference))
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let (kind, extension, node) = match self {
            Self::Leaf(node) => (0, None, node),
            Self::Branch { extension, node } if extension.is_empty() => (IS_BRANCH, None, node),
            Self::Branch { extension, node } => (IS_BRANCH | HAS_EXTENSION, Some(extension), node),
        };
        let hash = node.as_hash();
        // A reference has at most 33 bytes, an extension at most 64 nibbles.
        out.push(kind | hash.map_or(node.len() as u8, |_| 0));
        if let Some(extension) = extension {
            out.push(extension.len() as u8);
            out.extend(extension.iter());
        }
        match &hash {
            Some(hash) => out.extend_from_slice(hash.as_slice()),
            None => out.extend_from_slice(node),
        }
    }

    /// Takes one from the front of `bytes`.
    pub(super) fn decode(bytes: &mut &[u8]) -> Result<Self, StateError> {
        const DAMAGED: StateError = StateError::Damaged("a trie node");
        let mut take = |length: usize| {
            let (head, rest) = bytes.split_at_checked(length).ok_or(DAMAGED)?;
            *bytes = rest;
            Ok::<_, StateError>(head)
        };
        let header = take(1)?[0];
        let mut extension = Nibbles::new();
        if header & HAS_EXTENSION != 0 {
            let length = usize::from(take(1)?[0]);
            let nibbles = take(length)?;
            if length > 64 || nibbles.iter().any(|nibble| *nibble > 0x0f) {
                return Err(DAMAGED);
            }
            extension = Nibbles::from_nibbles_unchecked(nibbles);
        }
        let node = match header & INLINE_MASK {
            0 => RlpNode::word_rlp(&B256::from_slice(take(32)?)),
            length => RlpNode::from_raw(take(usize::from(length))?).ok_or(DAMAGED)?,
        };
        Ok(if header & IS_BRANCH == 0 { Self::Leaf(node) } else { Self::Branch { extension, node } })
    }
}

/// A branch node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Branch {
    pub(super) children: [Option<Child>; 16],
}

impl Branch {
    /// The node's RLP: what is hashed, and what a proof shows.
    pub(super) fn rlp(&self) -> (Vec<u8>, RlpNode) {
        let mut mask = TrieMask::default();
        let mut references = Vec::with_capacity(16);
        for (nibble, child) in (0..).zip(&self.children) {
            if let Some(child) = child {
                mask.set_bit(nibble);
                references.push(child.reference());
            }
        }
        let mut rlp = Vec::with_capacity(544);
        let node = BranchNodeRef::new(&references, mask).rlp(&mut rlp);
        (rlp, node)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; 2];
        let mut mask = 0_u16;
        for (nibble, child) in self.children.iter().enumerate() {
            if let Some(child) = child {
                mask |= 1 << nibble;
                child.encode(&mut out);
            }
        }
        out[..2].copy_from_slice(&mask.to_be_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let (mask, mut rest) = bytes.split_first_chunk().ok_or(StateError::Damaged("a branch node"))?;
        let mask = u16::from_be_bytes(*mask);
        let mut branch = Self::default();
        for (nibble, child) in branch.children.iter_mut().enumerate() {
            if mask & (1 << nibble) != 0 {
                *child = Some(Child::decode(&mut rest)?);
            }
        }
        if rest.is_empty() { Ok(branch) } else { Err(StateError::Damaged("a branch node")) }
    }

    /// Its only child, when it has but one.
    pub(super) fn single(&self) -> Option<(u8, &Child)> {
        let mut present = (0..).zip(&self.children).filter_map(|(nibble, child)| Some((nibble, child.as_ref()?)));
        present.next().filter(|_| present.next().is_none())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.children.iter().all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_and_damage_is_noticed() {
        let hash = RlpNode::word_rlp(&B256::repeat_byte(7));
        let mut branch = Branch::default();
        branch.children[0] = Some(Child::Leaf(hash.clone()));
        branch.children[5] = Some(Child::Leaf(RlpNode::from_rlp(&[0xc2, 0x20, 0x01])));
        branch.children[9] = Some(Child::Branch { extension: Nibbles::new(), node: hash.clone() });
        let extension = Nibbles::from_nibbles([1, 2, 0xf]);
        branch.children[15] = Some(Child::Branch { extension, node: hash });
        let bytes = branch.encode();
        assert_eq!(Branch::decode(&bytes).expect("own encoding"), branch);
        for cut in 0..bytes.len() {
            assert!(Branch::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(Branch::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
    }
}
