//! Typed identifiers. None of them is ever passed as a bare string or integer.

use core::{fmt, str::FromStr};

use alloy_primitives::{B256, keccak256};
use serde::{Deserialize, Serialize};

/// A text that is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a {what}: expected 64 hexadecimal digits, with or without 0x")]
pub struct IdError {
    /// What was expected, in the words of the user.
    pub what: &'static str,
    /// The offending text.
    pub text: String,
}

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The id as the 32-byte word that contracts use.
            pub const fn word(self) -> B256 {
                B256::new(self.0)
            }
        }

        impl From<B256> for $name {
            fn from(word: B256) -> Self {
                Self(word.0)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let digits = text.strip_prefix("0x").unwrap_or(text);
                let mut id = [0; 32];
                hex::decode_to_slice(digits, &mut id)
                    .map_err(|_| IdError { what: $what, text: text.to_owned() })?;
                Ok(Self(id))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({}…)"), hex::encode(&self.0[..4]))
            }
        }
    };
}

hash_id!(
    /// A region: the hash of its charter (see [`crate::Charter::region_id`]).
    RegionId,
    "region id"
);
hash_id!(
    /// A node: its Ed25519 identity public key (RFC 8032).
    NodeId,
    "node id"
);

impl NodeId {
    /// A short form for tables and logs: the first eight hexadecimal digits.
    pub fn short(self) -> String {
        hex::encode(&self.0[..4])
    }

    /// Whether this is the contracts' "no node".
    pub fn is_none(self) -> bool {
        self.0 == [0; 32]
    }
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id!(
    /// A deployment, numbered by the ledger from 1.
    DeploymentId
);
number_id!(
    /// A lease, numbered by the ledger from 1.
    LeaseId
);

/// Keccak-256 over a domain string and parts, each with its length in front, so that no two inputs share an encoding.
pub fn domain_hash(domain: &str, parts: &[&[u8]]) -> B256 {
    let mut input = Vec::with_capacity(domain.len() + 8 + parts.iter().map(|p| p.len() + 8).sum::<usize>());
    for part in core::iter::once(domain.as_bytes()).chain(parts.iter().copied()) {
        input.extend_from_slice(&(part.len() as u64).to_be_bytes());
        input.extend_from_slice(part);
    }
    keccak256(&input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_as_text() {
        let id = NodeId([7; 32]);
        assert_eq!(id.to_string().parse::<NodeId>(), Ok(id));
        assert_eq!(format!("0x{id}").parse::<NodeId>(), Ok(id));
        assert!("07".parse::<NodeId>().is_err());
    }

    #[test]
    fn domain_hash_separates_parts() {
        assert_ne!(domain_hash("d", &[b"ab", b"c"]), domain_hash("d", &[b"a", b"bc"]));
        assert_ne!(domain_hash("d", &[b""]), domain_hash("d", &[]));
    }
}
