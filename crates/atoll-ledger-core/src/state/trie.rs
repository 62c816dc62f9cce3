//! The incremental Merkle-Patricia trie: applies sorted changes to a trie of which only the touched branches are read.

use std::collections::BTreeMap;

use alloy_trie::{
    Nibbles,
    nodes::{ExtensionNodeRef, LeafNodeRef},
};

use super::{
    StateError,
    node::{Branch, Child},
};

/// Reads one version of one trie.
pub(super) trait TrieRead {
    /// The branch at `path`, which is known to be there.
    fn branch(&self, path: &Nibbles) -> Result<Branch, StateError>;

    /// The only leaf whose key starts with `path`: its key and the RLP of its value.
    fn leaf(&self, path: &Nibbles) -> Result<(Nibbles, Vec<u8>), StateError>;

    /// The RLP of the value of the leaf with this key, if there is one.
    fn value(&self, key: &Nibbles) -> Result<Option<Vec<u8>>, StateError>;
}

/// One changed leaf.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// The hashed key.
    pub(super) key: Nibbles,
    /// RLP of the value; `None` removes, which is only allowed for a leaf that exists.
    pub(super) value: Option<Vec<u8>>,
    /// Whether a leaf with this key exists before.
    pub(super) existed: bool,
}

/// Branch records that a change writes; `None` removes.
pub(super) type Nodes = BTreeMap<Nibbles, Option<Vec<u8>>>;

/// Applies `changes`, sorted by key and each key once, to the trie with `root`. Returns its new root and the records
/// that differ.
pub(super) fn update(
    trie: &dyn TrieRead,
    root: Option<Child>,
    changes: &[Change],
) -> Result<(Option<Child>, Nodes), StateError> {
    let mut update = Update { trie, nodes: Nodes::new() };
    let root = update.place(Nibbles::new(), root, changes)?.map(|placed| placed.child);
    Ok((root, update.nodes))
}

/// RLP of all nodes on the way from the root to `keys`, which are sorted; each node once, a parent before its children.
/// Where a key has no leaf, the last node shows so. Nodes that are part of their parent are left out, as Ethereum does.
pub(super) fn prove(
    trie: &dyn TrieRead,
    root: Option<&Child>,
    keys: &[Nibbles],
    out: &mut Vec<Vec<u8>>,
) -> Result<(), StateError> {
    root.map_or(Ok(()), |root| prove_place(trie, &Nibbles::new(), root, keys, out))
}

fn prove_place(
    trie: &dyn TrieRead,
    at: &Nibbles,
    child: &Child,
    keys: &[Nibbles],
    out: &mut Vec<Vec<u8>>,
) -> Result<(), StateError> {
    let Some(first) = keys.first() else { return Ok(()) };
    let mut show = |rlp: Vec<u8>| {
        if rlp.len() >= 32 || at.is_empty() {
            out.push(rlp);
        }
    };
    let (extension, node) = match child {
        Child::Leaf(_) => {
            // Mostly the wanted key is there; only a proof of absence must search for whose leaf it is.
            let (key, value) = match trie.value(first)? {
                Some(value) => (*first, value),
                None => trie.leaf(at)?,
            };
            show(alloy_rlp::encode(LeafNodeRef::new(&key.slice(at.len()..), &value)));
            return Ok(());
        }
        Child::Branch { extension, node } => (extension, node),
    };
    if !extension.is_empty() {
        show(alloy_rlp::encode(ExtensionNodeRef::new(extension, node)));
    }
    let path = at.join(extension);
    let below: Vec<_> = keys.iter().copied().filter(|key| key.starts_with(&path)).collect();
    if below.is_empty() {
        return Ok(());
    }
    let branch = trie.branch(&path)?;
    let (rlp, _) = branch.rlp();
    if rlp.len() >= 32 || path.is_empty() {
        out.push(rlp);
    }
    for group in below.chunk_by(|a, b| a.get(path.len()) == b.get(path.len())) {
        let nibble = group[0].get_unchecked(path.len());
        if let Some(child) = &branch.children[usize::from(nibble)] {
            prove_place(trie, &with(&path, nibble), child, group, out)?;
        }
    }
    Ok(())
}

/// A leaf's key and RLP of its value.
type Leaf = (Nibbles, Vec<u8>);

/// What stands at a place after the change, and the leaf itself where it was at hand.
struct Placed {
    child: Child,
    leaf: Option<Leaf>,
}

struct Update<'a> {
    trie: &'a dyn TrieRead,
    nodes: Nodes,
}

impl Update<'_> {
    /// Applies changes, all of which start with `at`, to the place there.
    fn place(&mut self, at: Nibbles, child: Option<Child>, changes: &[Change]) -> Result<Option<Placed>, StateError> {
        let (Some(first), Some(last)) = (changes.first(), changes.last()) else {
            return Ok(child.map(|child| Placed { child, leaf: None }));
        };
        let (extension, node) = match child {
            None => return Ok(self.build(&at, &leaves(changes, None))),
            Some(Child::Leaf(_)) => {
                let other = if changes.iter().any(|c| c.existed) { None } else { Some(self.trie.leaf(&at)?) };
                return Ok(self.build(&at, &leaves(changes, other.as_ref())));
            }
            Some(Child::Branch { extension, node }) => (extension, node),
        };
        let top = at.join(&extension);
        // The changes are sorted: what all of them share with `top` is what the outermost two share with it.
        let common = first.key.common_prefix_length(&top).min(last.key.common_prefix_length(&top));
        if common == top.len() {
            let branch = self.trie.branch(&top)?;
            return self.branch(&at, top, branch, true, changes);
        }
        let mut branch = Branch::default();
        let below = Child::Branch { extension: top.slice(common + 1..), node };
        branch.children[usize::from(top.get_unchecked(common))] = Some(below);
        self.branch(&at, top.slice(..common), branch, false, changes)
    }

    /// Applies changes to the branch at `path`, which is reached from the place `at`.
    fn branch(
        &mut self,
        at: &Nibbles,
        path: Nibbles,
        mut branch: Branch,
        stored: bool,
        changes: &[Change],
    ) -> Result<Option<Placed>, StateError> {
        let mut leaf = None;
        for group in changes.chunk_by(|a, b| a.key.get(path.len()) == b.key.get(path.len())) {
            let nibble = group[0].key.get_unchecked(path.len());
            let child = branch.children[usize::from(nibble)].take();
            let placed = self.place(with(&path, nibble), child, group)?;
            branch.children[usize::from(nibble)] = placed.map(|placed| {
                leaf = placed.leaf.or(leaf.take());
                placed.child
            });
        }
        let single = branch.single();
        if stored && (single.is_some() || branch.is_empty()) {
            self.nodes.insert(path, None);
        }
        match single {
            Some((nibble, child)) => self.collapse(at, &with(&path, nibble), child, leaf).map(Some),
            None if branch.is_empty() => Ok(None),
            None => Ok(Some(self.store(at, path, &branch))),
        }
    }

    /// A branch with a single child gives way to that child, which then stands at the place `at` instead of `from`.
    fn collapse(&self, at: &Nibbles, from: &Nibbles, child: &Child, leaf: Option<Leaf>) -> Result<Placed, StateError> {
        Ok(match child {
            Child::Leaf(_) => {
                let leaf = match leaf.filter(|(key, _)| key.starts_with(from)) {
                    Some(leaf) => leaf,
                    None => self.trie.leaf(from)?,
                };
                Placed { child: Child::leaf(&leaf.0, at.len(), &leaf.1), leaf: Some(leaf) }
            }
            Child::Branch { extension, node } => {
                let extension = from.slice(at.len()..).join(extension);
                Placed { child: Child::Branch { extension, node: node.clone() }, leaf: None }
            }
        })
    }

    /// Builds what stands at `at` from all its leaves, sorted.
    fn build(&mut self, at: &Nibbles, leaves: &[(&Nibbles, &[u8])]) -> Option<Placed> {
        let (first, last) = (leaves.first()?, leaves.last()?);
        if leaves.len() == 1 {
            let child = Child::leaf(first.0, at.len(), first.1);
            return Some(Placed { child, leaf: Some((*first.0, first.1.to_vec())) });
        }
        let path = first.0.slice(..first.0.common_prefix_length(last.0));
        let mut branch = Branch::default();
        for group in leaves.chunk_by(|a, b| a.0.get(path.len()) == b.0.get(path.len())) {
            let nibble = group[0].0.get_unchecked(path.len());
            branch.children[usize::from(nibble)] = self.build(&with(&path, nibble), group).map(|placed| placed.child);
        }
        Some(self.store(at, path, &branch))
    }

    fn store(&mut self, at: &Nibbles, path: Nibbles, branch: &Branch) -> Placed {
        let (_, node) = branch.rlp();
        self.nodes.insert(path, Some(branch.encode()));
        Placed { child: Child::Branch { extension: path.slice(at.len()..), node }, leaf: None }
    }
}

/// The leaves that the changes leave, with one more that they do not touch.
fn leaves<'a>(changes: &'a [Change], other: Option<&'a Leaf>) -> Vec<(&'a Nibbles, &'a [u8])> {
    let mut leaves: Vec<_> = changes.iter().filter_map(|c| Some((&c.key, c.value.as_deref()?))).collect();
    if let Some((key, value)) = other {
        let place = leaves.partition_point(|(before, _)| *before < key);
        leaves.insert(place, (key, value));
    }
    leaves
}

fn with(path: &Nibbles, nibble: u8) -> Nibbles {
    let mut path = *path;
    path.push(nibble);
    path
}
