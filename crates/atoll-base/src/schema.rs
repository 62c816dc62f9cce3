//! What the ledger knows, and where in the state trie it stands.
//!
//! Every record is an RLP value kept as Solidity keeps `bytes` (length in the record's slot, data from the slot's hash
//! on), at a slot that follows from its kind and number. The reading functions here run anywhere: in the ledger over its
//! state, in a server over a recorder that notes which slots were touched, and in a node or client over slots proven by
//! `atoll-light`. So everyone who does not trust a server runs the very same code as the ledger.
//!
//! Writers live in `atoll-ledger-core`; only the codec of a record and its place are shared.

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_rlp::{Decodable, Encodable, RlpDecodable, RlpEncodable};
use serde::{Deserialize, Serialize};

use crate::{
    contracts::{DEPLOYMENTS, NODES},
    ids::NodeId,
    limits,
};

mod view;
pub use view::{RegionView, ServiceView, region_view, sealed_view};

/// Cores, memory and disk: of a node, or of a workload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
pub struct Capacity {
    /// Thousandths of a core.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of disk.
    pub disk_bytes: u64,
}

/// A registered node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
pub struct NodeRecord {
    /// Ed25519 identity.
    pub id: B256,
    /// Is paid.
    pub provider: Address,
    /// Signs heartbeats and reports.
    pub account: Address,
    /// X25519 key for sealed secrets.
    pub sealing_key: B256,
    /// What it offers.
    pub total: Capacity,
    /// What leases use.
    pub used: Capacity,
    /// `key=value`.
    pub labels: Vec<String>,
    /// Ledger time, ms.
    pub registered_ms: u64,
    /// Whether its heartbeats are on time. The time of the last one is in a slot of its own, see [`heartbeat_slot`].
    pub online: bool,
    /// The workload index that the next lease gets.
    pub next_workload: u16,
}

/// How a service is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// A container: namespaces, cgroups.
    Container,
    /// A virtual machine with a kernel of its own.
    MicroVm,
}

/// A deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
pub struct DeploymentRecord {
    /// Its number.
    pub id: u64,
    /// Who pays and may remove it.
    pub owner: Address,
    /// Its DNS label, unique among the living.
    pub name: String,
    /// Ledger time, ms.
    pub created_ms: u64,
    /// Ledger time, ms; 0 while it lives.
    pub ended_ms: u64,
    /// What is left, as of `settled_ms`.
    pub escrow: U256,
    /// Paid to providers so far.
    pub charged: U256,
    /// Until when its leases are charged, ledger time, ms.
    pub settled_ms: u64,
    /// Whether the escrow ran out.
    pub suspended: bool,
    /// How many services it has.
    pub services: u32,
    /// Its leases, in the order of (service, replica).
    pub leases: Vec<u64>,
}

/// The public part of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
pub struct ServiceRecord {
    /// DNS label.
    pub name: String,
    /// How many leases.
    pub replicas: u32,
    /// An [`Isolation`], by [`Isolation::code`].
    pub isolation: u8,
    /// What one replica needs.
    pub needs: Capacity,
    /// Gateways forward to it; 0: none.
    pub http_port: u16,
    /// Open to the whole mesh.
    pub open_ports: Vec<u16>,
    /// Labels that its node must have.
    pub constraints: Vec<String>,
    /// SHA-256 of the private part's plaintext.
    pub spec_hash: B256,
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
pub struct LeaseRecord {
    /// Its number.
    pub id: u64,
    /// Its deployment.
    pub deployment: u64,
    /// Which of the deployment's services.
    pub service: u32,
    /// Which replica of it, from 0.
    pub replica: u32,
    /// Who runs it; zero while it waits.
    pub node: B256,
    /// Who takes over; zero when nobody can.
    pub standby: B256,
    /// The fencing token.
    pub epoch: u64,
    /// Index of the workload's address in the node's /112.
    pub workload: u16,
    /// A [`LeaseState`], by [`LeaseState::code`].
    pub state: u8,
    /// Ledger time of the last change, ms.
    pub since_ms: u64,
    /// Smallest units of the currency.
    pub price_per_hour: U256,
    /// Why it is as it is.
    pub why: String,
}

/// Where a lease stands. The codes are those of the contract's enum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseState {
    /// No node fits now.
    Waiting,
    /// Given to a node that has not reported yet.
    Granted,
    /// The node prepares it.
    Starting,
    /// It runs and is healthy: it is charged.
    Running,
    /// It stopped; the node retries with back-off.
    Failed,
    /// The escrow is empty.
    Suspended,
    /// Over.
    Ended,
}

impl LeaseState {
    const ALL: [Self; 7] =
        [Self::Waiting, Self::Granted, Self::Starting, Self::Running, Self::Failed, Self::Suspended, Self::Ended];

    /// The number on the ledger.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// From the number on the ledger.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

impl Isolation {
    /// The number on the ledger.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// From the number on the ledger.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Container),
            1 => Some(Self::MicroVm),
            _ => None,
        }
    }
}

impl LeaseRecord {
    /// The state as a type; `Waiting` for a code that no version wrote.
    pub fn state(&self) -> LeaseState {
        LeaseState::from_code(self.state).unwrap_or(LeaseState::Waiting)
    }

    /// Who runs it.
    pub fn runner(&self) -> Option<NodeId> {
        (!self.node.is_zero()).then(|| self.node.into())
    }
}

/// Read access to the storage of system contracts.
pub trait StorageRead {
    /// Why a slot could not be read: the state's own error, or a missing proof.
    type Error;
    /// The word in `slot` of `contract`; zero when it was never written.
    fn word(&mut self, contract: Address, slot: B256) -> Result<U256, Self::Error>;
}

/// A record that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError<E> {
    /// The storage failed.
    #[error("cannot read the ledger's storage")]
    Storage(#[source] E),
    /// The bytes are no record: another version wrote them.
    #[error("the ledger's record of {what} has an unknown form: this program and the ledger differ in version")]
    Form {
        /// Which record.
        what: &'static str,
    },
}

/// Longest record.
const RECORD_BYTES_MAX: usize = 32 * 1024;

/// The slot of a record: its kind, and what numbers it.
fn slot(kind: &str, key: &[&[u8]]) -> B256 {
    crate::ids::domain_hash(kind, key)
}

/// A single word: how many nodes there are.
pub fn node_count_slot() -> B256 {
    slot("nodes.count", &[])
}

/// A single word: id of the node that was registered as number `index`, from 0.
pub fn node_at_slot(index: u64) -> B256 {
    slot("nodes.at", &[&index.to_be_bytes()])
}

/// A record: [`NodeRecord`].
pub fn node_slot(id: B256) -> B256 {
    slot("nodes.node", &[id.as_slice()])
}

/// A single word: id of the node whose own account this is.
pub fn node_of_account_slot(account: Address) -> B256 {
    slot("nodes.account", &[account.as_slice()])
}

/// A single word: ledger time of the node's last heartbeat, ms.
pub fn heartbeat_slot(id: B256) -> B256 {
    slot("nodes.heartbeat", &[id.as_slice()])
}

/// A single word in `DEPLOYMENTS`: grows whenever anything that a node or gateway acts on changes, in nodes or deployments.
pub fn change_slot() -> B256 {
    slot("deployments.change", &[])
}

/// A single word: the number of the newest deployment.
pub fn deployment_count_slot() -> B256 {
    slot("deployments.count", &[])
}

/// A single word: the number of the newest lease.
pub fn lease_count_slot() -> B256 {
    slot("deployments.leases", &[])
}

/// A record: the numbers of all deployments that have not ended, as a list of u64.
pub fn alive_slot() -> B256 {
    slot("deployments.alive", &[])
}

/// A single word: the living deployment of this name.
pub fn name_slot(name: &str) -> B256 {
    slot("deployments.name", &[name.as_bytes()])
}

/// A record: [`DeploymentRecord`].
pub fn deployment_slot(id: u64) -> B256 {
    slot("deployments.deployment", &[&id.to_be_bytes()])
}

/// A record: [`ServiceRecord`].
pub fn service_slot(deployment: u64, service: u32) -> B256 {
    slot("deployments.service", &[&deployment.to_be_bytes(), &service.to_be_bytes()])
}

/// A record: the sealed private part of a service, plain bytes.
pub fn sealed_spec_slot(deployment: u64, service: u32) -> B256 {
    slot("deployments.spec", &[&deployment.to_be_bytes(), &service.to_be_bytes()])
}

/// A record: the content key of a service sealed to a node, plain bytes.
pub fn sealed_key_slot(deployment: u64, service: u32, node: B256) -> B256 {
    slot("deployments.key", &[&deployment.to_be_bytes(), &service.to_be_bytes(), node.as_slice()])
}

/// A record: [`LeaseRecord`].
pub fn lease_slot(id: u64) -> B256 {
    slot("deployments.lease", &[&id.to_be_bytes()])
}

/// The words of a byte string at `at`: what a writer stores. The old value's further words must be cleared by the writer.
pub fn words_of(at: B256, bytes: &[u8]) -> Vec<(B256, U256)> {
    let mut words = vec![(at, U256::from(bytes.len()))];
    for (i, chunk) in bytes.chunks(32).enumerate() {
        let mut word = [0; 32];
        word[..chunk.len()].copy_from_slice(chunk);
        words.push((data_slot(at, i), U256::from_be_bytes(word)));
    }
    words
}

/// Slot of the `index`-th 32-byte piece of the byte string at `at`.
pub fn data_slot(at: B256, index: usize) -> B256 {
    (U256::from_be_bytes(keccak256(at).0).wrapping_add(U256::from(index))).into()
}

/// Reads the byte string at `at`; empty when there is none.
pub fn read_bytes<S: StorageRead>(storage: &mut S, contract: Address, at: B256) -> Result<Bytes, ReadError<S::Error>> {
    let length = storage.word(contract, at).map_err(ReadError::Storage)?;
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length <= RECORD_BYTES_MAX)
        .ok_or(ReadError::Form { what: "a byte string" })?;
    let mut bytes = Vec::with_capacity(length.next_multiple_of(32));
    for index in 0..length.div_ceil(32) {
        let word = storage.word(contract, data_slot(at, index)).map_err(ReadError::Storage)?;
        bytes.extend_from_slice(&word.to_be_bytes::<32>());
    }
    bytes.truncate(length);
    Ok(bytes.into())
}

/// Reads a record; `None` when there is none.
pub fn read_record<S: StorageRead, T: Decodable>(
    storage: &mut S,
    contract: Address,
    at: B256,
    what: &'static str,
) -> Result<Option<T>, ReadError<S::Error>> {
    let bytes = read_bytes(storage, contract, at)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut rest = bytes.as_ref();
    let record = T::decode(&mut rest).ok().filter(|_| rest.is_empty());
    record.map(Some).ok_or(ReadError::Form { what })
}

/// RLP of a record, for writers.
pub fn encode_record<T: Encodable>(record: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(record.length());
    record.encode(&mut out);
    debug_assert!(out.len() <= RECORD_BYTES_MAX);
    out
}

/// Reads a small number.
pub fn read_u64<S: StorageRead>(storage: &mut S, contract: Address, at: B256) -> Result<u64, ReadError<S::Error>> {
    let word = storage.word(contract, at).map_err(ReadError::Storage)?;
    u64::try_from(word).map_err(|_| ReadError::Form { what: "a number" })
}

/// All nodes, in the order of registration.
pub fn nodes<S: StorageRead>(storage: &mut S) -> Result<Vec<NodeRecord>, ReadError<S::Error>> {
    let count = read_u64(storage, NODES, node_count_slot())?.min(limits::NODES_MAX);
    let mut nodes = Vec::new();
    for index in 0..count {
        let id = storage.word(NODES, node_at_slot(index)).map_err(ReadError::Storage)?;
        nodes.extend(node(storage, id.into())?);
    }
    Ok(nodes)
}

/// One node.
pub fn node<S: StorageRead>(storage: &mut S, id: B256) -> Result<Option<NodeRecord>, ReadError<S::Error>> {
    read_record(storage, NODES, node_slot(id), "a node")
}

/// The numbers of the living deployments.
pub fn alive<S: StorageRead>(storage: &mut S) -> Result<Vec<u64>, ReadError<S::Error>> {
    Ok(read_record(storage, DEPLOYMENTS, alive_slot(), "the living deployments")?.unwrap_or_default())
}

/// One deployment.
pub fn deployment<S: StorageRead>(storage: &mut S, id: u64) -> Result<Option<DeploymentRecord>, ReadError<S::Error>> {
    read_record(storage, DEPLOYMENTS, deployment_slot(id), "a deployment")
}

/// The public part of one service.
pub fn service<S: StorageRead>(
    storage: &mut S,
    deployment: u64,
    service: u32,
) -> Result<Option<ServiceRecord>, ReadError<S::Error>> {
    read_record(storage, DEPLOYMENTS, service_slot(deployment, service), "a service")
}

/// One lease.
pub fn lease<S: StorageRead>(storage: &mut S, id: u64) -> Result<Option<LeaseRecord>, ReadError<S::Error>> {
    read_record(storage, DEPLOYMENTS, lease_slot(id), "a lease")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    struct Memory(BTreeMap<(Address, B256), U256>);

    impl StorageRead for Memory {
        type Error = core::convert::Infallible;
        fn word(&mut self, contract: Address, slot: B256) -> Result<U256, Self::Error> {
            Ok(self.0.get(&(contract, slot)).copied().unwrap_or_default())
        }
    }

    #[test]
    fn records_round_trip_through_words() {
        let record = LeaseRecord {
            id: 3,
            deployment: 1,
            service: 0,
            replica: 0,
            node: B256::repeat_byte(1),
            standby: B256::ZERO,
            epoch: 2,
            workload: 5,
            state: LeaseState::Running.code(),
            since_ms: 99,
            price_per_hour: U256::from(10).pow(U256::from(18)),
            why: "node a1b2c3d4 was silent for 6.1 s".into(),
        };
        let mut memory = Memory(BTreeMap::new());
        for (slot, word) in words_of(lease_slot(3), &encode_record(&record)) {
            memory.0.insert((DEPLOYMENTS, slot), word);
        }
        assert_eq!(lease(&mut memory, 3).expect("readable"), Some(record));
        assert_eq!(lease(&mut memory, 4).expect("readable"), None);
    }

    #[test]
    fn codes_are_the_contracts_enum() {
        for (code, state) in LeaseState::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(state.code()), code);
            assert_eq!(LeaseState::from_code(state.code()), Some(state));
        }
        assert_eq!(LeaseState::from_code(7), None);
        assert_eq!(Isolation::from_code(1), Some(Isolation::MicroVm));
    }
}
