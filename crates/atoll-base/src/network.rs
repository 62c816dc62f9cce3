//! Networks without a ledger: a name is enough.

use crate::{
    charter::is_dns_label,
    ids::{RegionId, domain_hash},
};

/// A name that cannot be a network's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' cannot name a network: use a letter and then up to 62 of a-z, 0-9 and '-', as in 'my-town'")]
pub struct NetworkNameError(pub String);

impl RegionId {
    /// The region of a network that has a name and no charter. Every node that is given the same name is in the same
    /// region; the name is no secret. Of no charter can it be the region, because it is hashed under a domain of its
    /// own.
    pub fn of_network(name: &str) -> Result<Self, NetworkNameError> {
        if is_dns_label(name) {
            Ok(Self(domain_hash("atoll network name v1", &[name.as_bytes()]).0))
        } else {
            Err(NetworkNameError(name.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_region() {
        let region = RegionId::of_network("my-town").expect("a name");
        // Nodes that run know each other by it: it never changes.
        assert_eq!(region.to_string(), "8b797496883240450efa676fdba9a2b7db2be9c3d357b43c9321a474f01e516a");
        assert_ne!(RegionId::of_network("my-towns"), Ok(region));
        for wrong in ["", "My-Town", "-a", "a-", "4a", "a.b", "stra\u{df}e", &"a".repeat(64)] {
            let error = RegionId::of_network(wrong).expect_err("no name");
            assert!(error.to_string().contains("cannot name a network"), "{error}");
        }
    }
}
