//! A chain without transactions whose state root counts its blocks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use alloy_primitives::{B256, Bytes, keccak256};
use atoll_base::{Header, NodeId, charter::Charter};
use atoll_light::CertificateVerifier;
use commonware_runtime::{Clock as _, deterministic::Context};
use futures::channel::oneshot;

use crate::engine::{Ancestors, Application, Block, Proposal};

/// What a validator's chain keeps on its disk: it outlives crashes.
#[derive(Debug, Clone)]
pub(super) struct Toy(Arc<Mutex<Disk>>);

#[derive(Debug)]
struct Disk {
    genesis: Block,
    blocks: BTreeMap<u64, Block>,
    certified: u64,
    verifier: CertificateVerifier,
    heard: Vec<Vec<u8>>,
    work: bool,
    waiting: Vec<oneshot::Sender<()>>,
}

impl Toy {
    pub(super) fn new(charter: &Charter) -> Self {
        let genesis = Block::new(
            Header {
                parent_hash: charter.region_id().word(),
                number: 0,
                timestamp_ms: 0,
                proposer: B256::ZERO,
                state_root: B256::ZERO,
                transactions_root: Block::transactions_root(&[]),
                receipts_root: B256::ZERO,
                gas_used: 0,
                gas_limit: 0,
                base_fee: 0,
                epoch: 0,
                view: 0,
                extra: Bytes::new(),
            },
            vec![],
        )
        .unwrap();
        Self(Arc::new(Mutex::new(Disk {
            blocks: BTreeMap::from([(0, genesis.clone())]),
            genesis,
            certified: 0,
            verifier: CertificateVerifier::new(charter).unwrap(),
            heard: vec![],
            work: false,
            waiting: vec![],
        })))
    }

    /// The height that is durable.
    pub(super) fn height(&self) -> u64 {
        *self.0.lock().unwrap().blocks.last_key_value().unwrap().0
    }

    /// The block at that height.
    pub(super) fn block(&self, height: u64) -> Option<Block> {
        self.0.lock().unwrap().blocks.get(&height).cloned()
    }

    /// How many blocks came with a certificate of their own.
    pub(super) fn certified(&self) -> u64 {
        self.0.lock().unwrap().certified
    }

    pub(super) fn heard(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().heard.clone()
    }

    /// There is something to order from now on until the next block.
    pub(super) fn submit(&self) {
        let mut disk = self.0.lock().unwrap();
        disk.work = true;
        for waiting in disk.waiting.drain(..) {
            let _ = waiting.send(());
        }
    }

    fn commit(&self, block: Block, certificate: Option<Bytes>) {
        let mut disk = self.0.lock().unwrap();
        if let Some(certificate) = certificate {
            disk.verifier.verify(&block.header().to_bytes(), &certificate).unwrap();
            disk.certified += 1;
        }
        let (height, newest) = disk.blocks.last_key_value().unwrap();
        if block.number() <= *height {
            assert_eq!(disk.blocks[&block.number()], block, "a second chain");
            return;
        }
        assert_eq!(block.number(), height + 1, "a gap");
        assert_eq!(block.header().parent_hash, newest.hash(), "a second chain");
        disk.blocks.insert(block.number(), block);
        disk.work = false;
    }
}

/// A running chain on a [`Toy`] disk.
#[derive(Clone)]
pub(super) struct ToyChain {
    pub(super) toy: Toy,
    pub(super) context: Arc<Context>,
}

fn state_root(parent: &Block) -> B256 {
    keccak256(parent.header().state_root)
}

impl Application for ToyChain {
    fn genesis(&self) -> Block {
        self.toy.0.lock().unwrap().genesis.clone()
    }

    async fn ready(&self) {
        let waiting = {
            let mut disk = self.toy.0.lock().unwrap();
            if disk.work {
                return;
            }
            let (sender, receiver) = oneshot::channel();
            disk.waiting.push(sender);
            receiver
        };
        waiting.await.unwrap();
    }

    async fn propose(&self, parent: Block, _: Ancestors, proposal: Proposal) -> Option<Block> {
        let header = Header {
            parent_hash: parent.hash(),
            number: parent.number() + 1,
            timestamp_ms: proposal.timestamp_ms,
            proposer: proposal.proposer.word(),
            state_root: state_root(&parent),
            epoch: proposal.epoch,
            view: proposal.view,
            ..parent.header().clone()
        };
        Some(Block::new(header, vec![]).unwrap())
    }

    async fn verify(&self, parent: Block, mut ancestors: Ancestors, block: Block) -> bool {
        // Walks back to what is final here, as a chain that lost its unfinalised states in a crash has to.
        let mut oldest = parent.clone();
        while oldest.number() > self.toy.height() {
            oldest = ancestors.next().await.unwrap();
        }
        assert_eq!(self.toy.block(oldest.number()), Some(oldest), "an unfinalised chain leaves the final one");
        block.header().state_root == state_root(&parent)
    }

    async fn finalized(&self, block: Block, certificate: Option<Bytes>) {
        self.context.sleep(Duration::from_millis(block.number() % 17)).await;
        // Commits may end in any order, but each waits for those before it.
        while self.toy.height() + 1 < block.number() {
            self.context.sleep(Duration::from_millis(1)).await;
        }
        self.toy.commit(block, certificate);
    }

    fn gossiped(&self, _: NodeId, message: Bytes) {
        self.toy.0.lock().unwrap().heard.push(message.to_vec());
    }
}
