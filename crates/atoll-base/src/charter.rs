//! The charter: the genesis file of a region. Its hash is the region id.

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_rlp::{Encodable, RlpEncodable};
use serde::{Deserialize, Serialize};

use crate::{
    ids::{NodeId, RegionId, domain_hash},
    limits,
};

/// The format that this program writes. It reads version 1 too, whose regions are open.
pub const CHARTER_VERSION: u64 = 2;

/// What the founders of a region agree on. Written as TOML, hashed as canonical RLP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, RlpEncodable)]
#[rlp(trailing)]
#[serde(deny_unknown_fields)]
pub struct Charter {
    /// Format of this file.
    pub version: u64,
    /// The region's name, a DNS label: also its top-level domain.
    pub name: String,
    /// EIP-155 chain id, below 2^53 so that every wallet can hold it.
    pub chain_id: u64,
    /// Birth of the region, milliseconds since 1970: the genesis block's time.
    pub created_ms: u64,
    /// The coin.
    pub currency: Currency,
    /// What capacity costs.
    pub prices: Prices,
    /// Pace and patience of the ledger.
    pub timing: Timing,
    /// The first validators, in the order of their keys.
    pub validators: Vec<Validator>,
    /// Accounts that hold coins from the start.
    pub allocations: Vec<Allocation>,
    /// Receives the fees of transactions.
    pub treasury: Address,
    /// Whether the mesh of the region takes only registered nodes and the first validators. Absent in version 1, and only
    /// there: such a region is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<bool>,
}

/// The region's own coin. It has 18 decimals, as every Ethereum wallet expects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, RlpEncodable)]
#[serde(deny_unknown_fields)]
pub struct Currency {
    /// Full name, for people.
    pub name: String,
    /// Ticker, for tables.
    pub symbol: String,
}

/// Prices of capacity, in the smallest unit of the currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, RlpEncodable)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// One core for one hour.
    pub cpu_core_hour: U256,
    /// One GiB of memory for one hour.
    pub memory_gib_hour: U256,
    /// One GiB of disk for one hour.
    pub disk_gib_hour: U256,
    /// One unit of gas.
    pub gas: u64,
}

/// Times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, RlpEncodable)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Least time between two blocks.
    pub block_min_ms: u64,
    /// An empty block is made when there was none for so long.
    pub block_idle_ms: u64,
    /// Nodes send a heartbeat this often.
    pub heartbeat_ms: u64,
    /// A node that was silent for so long is offline, its leases are moved.
    pub heartbeat_timeout_ms: u64,
    /// Leases are charged at least this often.
    pub settle_ms: u64,
}

/// A validator of the first epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, RlpEncodable)]
#[serde(deny_unknown_fields)]
pub struct Validator {
    /// What people call it.
    pub name: String,
    /// Ed25519 identity: its mesh address and its key on the consensus network.
    #[serde(with = "node_id_text")]
    pub id: B256,
    /// BLS12-381 public key (MinPk, 48 bytes) with which it votes.
    pub bls_key: Bytes,
    /// Proof that it holds the BLS secret, bound to its identity.
    pub bls_proof: Bytes,
}

impl Validator {
    /// The identity as a typed id.
    pub fn node(&self) -> NodeId {
        self.id.into()
    }
}

/// Coins from the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, RlpEncodable)]
#[serde(deny_unknown_fields)]
pub struct Allocation {
    /// Who holds them.
    pub account: Address,
    /// How many, in the smallest unit.
    pub amount: U256,
}

/// A charter that no region can live by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CharterError {
    /// Made for another version of Atoll.
    #[error(
        "charter version {0} is not supported by this program, which knows versions 1 to {CHARTER_VERSION}: use a newer atoll"
    )]
    Version(u64),
    /// A name that DNS could not carry.
    #[error("'{0}' cannot name a region: use 1 to 63 of a-z, 0-9 and '-', with a letter first and no '-' last")]
    Name(String),
    /// Any other field.
    #[error("charter field {field}: {why}")]
    Field {
        /// The key in the file.
        field: &'static str,
        /// What is wrong with it, and what would be right.
        why: String,
    },
}

impl Charter {
    /// The region id: the hash of everything the founders agreed on.
    pub fn region_id(&self) -> RegionId {
        let mut rlp = Vec::with_capacity(self.length());
        self.encode(&mut rlp);
        RegionId::from(domain_hash("atoll charter v1", &[&rlp]))
    }

    /// Whether only registered nodes and the first validators may join the mesh.
    pub fn is_closed(&self) -> bool {
        self.closed == Some(true)
    }

    /// Refuses a charter that cannot work, naming the field.
    pub fn check(&self) -> Result<(), CharterError> {
        let field = |field, why: &str| Err(CharterError::Field { field, why: why.to_owned() });
        match (self.version, self.closed) {
            (1, None) | (CHARTER_VERSION, Some(_)) => {}
            (1, Some(_)) => return field("closed", "is not part of version 1: remove it"),
            (CHARTER_VERSION, None) => {
                return field("closed", "is missing: restore the file, for it is part of the region's id");
            }
            (version, _) => return Err(CharterError::Version(version)),
        }
        if !is_dns_label(&self.name) || self.name == "localhost" {
            return Err(CharterError::Name(self.name.clone()));
        }
        if self.chain_id == 0 || self.chain_id >= 1 << 53 {
            return field("chain_id", "must be between 1 and 2^53 - 1");
        }
        if self.currency.symbol.is_empty() || self.currency.symbol.len() > 12 {
            return field("currency.symbol", "must have 1 to 12 characters");
        }
        if self.validators.is_empty() || self.validators.len() > limits::VALIDATORS_MAX {
            return field("validators", "a region needs 1 to 100 validators");
        }
        if !self.validators.is_sorted_by(|a, b| a.id < b.id) {
            return field("validators", "must be sorted by id, each once");
        }
        let mut bls: Vec<_> = self.validators.iter().map(|v| &v.bls_key).collect();
        bls.sort();
        if bls.windows(2).any(|pair| pair[0] == pair[1]) {
            return field("validators", "two validators have the same bls_key");
        }
        let t = &self.timing;
        if t.block_min_ms == 0 || t.block_idle_ms < t.block_min_ms {
            return field("timing", "block_min_ms must be at least 1 and not above block_idle_ms");
        }
        if t.heartbeat_ms == 0 || t.heartbeat_timeout_ms < 2 * t.heartbeat_ms {
            return field("timing.heartbeat_timeout_ms", "must be at least twice heartbeat_ms");
        }
        let total = self.allocations.iter().try_fold(U256::ZERO, |sum, a| sum.checked_add(a.amount));
        if total.is_none_or(|total| total > U256::from(u128::MAX)) {
            return field("allocations", "the sum exceeds 2^128 - 1 smallest units");
        }
        Ok(())
    }
}

/// Whether `name` is a lower-case DNS label that starts with a letter (RFC 1035 section 2.3.1).
pub fn is_dns_label(name: &str) -> bool {
    name.len() <= limits::NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
}

mod node_id_text {
    use alloy_primitives::B256;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::ids::NodeId;

    pub(super) fn serialize<S: Serializer>(id: &B256, s: S) -> Result<S::Ok, S::Error> {
        NodeId::from(*id).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<B256, D::Error> {
        NodeId::deserialize(d).map(NodeId::word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{
        "version": 2, "name": "home", "chain_id": 4294967297, "created_ms": 1790000000000,
        "currency": { "name": "Home coin", "symbol": "HOME" },
        "prices": { "cpu_core_hour": "0x1", "memory_gib_hour": "0x2", "disk_gib_hour": "0x3", "gas": 4 },
        "timing": {
            "block_min_ms": 50, "block_idle_ms": 1000, "heartbeat_ms": 2000, "heartbeat_timeout_ms": 6000, "settle_ms": 1
        },
        "validators": [], "allocations": [], "closed": true, "treasury": "0x0000000000000000000000000000000000000007"
    }"#;

    /// With one validator, as [`TEXT`] cannot have a real one.
    fn read(text: &str) -> Charter {
        let mut charter: Charter = serde_json::from_str(text).expect("a charter");
        let (bls_key, bls_proof) = (Bytes::new(), Bytes::new());
        charter.validators.push(Validator { name: "v1".to_owned(), id: B256::repeat_byte(1), bls_key, bls_proof });
        charter
    }

    #[test]
    fn a_charter_of_version_1_keeps_its_id_and_is_open() {
        let old = read(&TEXT.replace("\"version\": 2", "\"version\": 1").replace("\"closed\": true,", ""));
        assert_eq!(old.check(), Ok(()));
        assert!(!old.is_closed());
        let mut rlp = Vec::new();
        old.encode(&mut rlp);
        // The last item is the treasury, as it was in version 1.
        assert!(rlp.ends_with(old.treasury.as_slice()));
        assert_eq!(old.region_id().to_string(), "96e786a3f482d4601d89a0be19b2362984fdd5765a3a412f31f2bbd95f6ce1c1");
    }

    #[test]
    fn whether_it_is_closed_is_part_of_the_id() {
        let (closed, open) = (read(TEXT), read(&TEXT.replace("true", "false")));
        assert_eq!((closed.check(), open.check()), (Ok(()), Ok(())));
        assert!(closed.is_closed() && !open.is_closed());
        assert_ne!(closed.region_id(), open.region_id());
        assert_eq!(closed.region_id().to_string(), "8f970534d7b49a49bc7ffbd498fb2509fffa59298466cc254ae7145c25837798");
        let written = serde_json::to_string(&closed).expect("serialises");
        assert_eq!(serde_json::from_str::<Charter>(&written).expect("parses"), closed);
    }

    #[test]
    fn each_version_has_its_fields_and_no_others() {
        let refusal = |text: &str| read(text).check().expect_err("it cannot work").to_string();
        assert!(refusal(&TEXT.replace("\"version\": 2", "\"version\": 1")).contains("closed"));
        assert!(refusal(&TEXT.replace("\"closed\": true,", "")).contains("closed"));
        assert!(refusal(&TEXT.replace("\"version\": 2", "\"version\": 3")).contains("version 3"));
    }
}
