//! Other regions, as they are written in the configuration and as they are used.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

use atoll_base::{NodeId, RegionId, RegionPrefix};
use atoll_mesh_core::{
    Grant,
    routing::{Federation, LinkPolicy, Regions},
};
use serde::{Deserialize, Serialize};

use super::{Config, ConfigError, Host, Peer};
use crate::limits::{PEERS_MAX, REGIONS_MAX};

/// Another region that this node recognises. All nodes of a region should recognise the same ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionConfig {
    /// Its full id.
    pub id: RegionId,
    /// Public key of the authority that signs its grants.
    pub authority: NodeId,
    /// Border nodes of it that this node calls, as `udp://host:port`; this node then needs a `grant`.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Ids of third regions that are announced over links to it, and to which its traffic is carried; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announce: Option<Vec<RegionId>>,
    /// Ids of the regions, itself or others, that are reached through links to it; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept: Option<Vec<RegionId>>,
    /// What is added to the metric of what is reached through it; 96 is one more link.
    #[serde(default)]
    pub price: u16,
}

/// Other regions, parsed.
pub(crate) struct Others {
    pub(crate) federation: Federation,
    pub(crate) ids: Vec<RegionId>,
    /// Border nodes to call, and of which region each is.
    pub(crate) peers: Vec<(Peer, RegionId)>,
}

impl Others {
    /// The networks of the regions.
    pub(crate) fn networks(&self) -> BTreeSet<Ipv6Addr> {
        self.ids.iter().map(|id| RegionPrefix::of(*id).network()).collect()
    }
}

/// Parses the other regions of a node.
pub(super) fn check(config: &Config, node: NodeId) -> Result<Others, ConfigError> {
    if config.regions.len() > REGIONS_MAX {
        return Err(ConfigError::TooMany { what: "regions", limit: REGIONS_MAX });
    }
    if config.regions.iter().map(|region| region.peers.len()).sum::<usize>() + config.peers.len() > PEERS_MAX {
        return Err(ConfigError::TooMany { what: "peers", limit: PEERS_MAX });
    }
    let refuse = |region: &RegionConfig, why| ConfigError::Region { region: region.id, why };
    let mut federation = Federation::default();
    let mut known = BTreeMap::from([(RegionPrefix::of(config.region), config.region)]);
    for region in &config.regions {
        if known.insert(RegionPrefix::of(region.id), region.id).is_some() {
            return Err(refuse(region, "its network, the first 40 bits of the id, is that of another one or the own"));
        }
        if !federation.trust(region.id, region.authority) {
            return Err(refuse(region, "there are too many"));
        }
    }
    let mut peers = Vec::new();
    for region in &config.regions {
        federation.set_policy(region.id, policy(region, &known)?);
        if config.grant.is_none() && !region.peers.is_empty() {
            return Err(refuse(
                region,
                "only a border node may call its nodes: set this node's `grant`, or remove `peers`",
            ));
        }
        for text in &region.peers {
            let peer: Peer = text.parse()?;
            if is_inside(&peer, &known) {
                return Err(ConfigError::Peer {
                    peer: text.clone(),
                    why: "the address lies within the mesh of a region, but a link needs an address outside of it",
                });
            }
            peers.push((peer, region.id));
        }
    }
    if let Some(text) = &config.grant {
        federation.grant = Some(Grant::of_text(config.region, node, text).ok_or(ConfigError::Grant)?);
    }
    Ok(Others { federation, ids: config.regions.iter().map(|region| region.id).collect(), peers })
}

fn policy(region: &RegionConfig, known: &BTreeMap<RegionPrefix, RegionId>) -> Result<LinkPolicy, ConfigError> {
    let choice = |ids: &Option<Vec<RegionId>>| match ids {
        None => Ok(Regions::All),
        Some(ids) if ids.iter().all(|id| known.get(&RegionPrefix::of(*id)) == Some(id)) => {
            Ok(Regions::Only(ids.iter().map(|id| RegionPrefix::of(*id)).collect::<BTreeSet<_>>()))
        }
        Some(_) => Err(ConfigError::Region {
            region: region.id,
            why: "`announce` or `accept` names a region that is not among `regions`",
        }),
    };
    Ok(LinkPolicy { announce: choice(&region.announce)?, accept: choice(&region.accept)?, price: region.price })
}

/// Whether a neighbour's address is one of the mesh itself.
fn is_inside(peer: &Peer, known: &BTreeMap<RegionPrefix, RegionId>) -> bool {
    match &peer.host {
        Host::Address(std::net::IpAddr::V6(ip)) => known.keys().any(|region| region.contains(*ip)),
        Host::Address(_) | Host::Scoped(..) | Host::Name(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use atoll_base::NodeSecret;

    use super::*;

    const OWN: RegionId = RegionId([1; 32]);
    const OTHER: RegionId = RegionId([2; 32]);

    fn node() -> NodeId {
        NodeSecret::from_seed([3; 32]).id()
    }

    fn config(more: &str) -> Config {
        let head = format!(
            "identity = \"key\"\nregion = \"{OWN}\"\ninterface = \"atoll0\"\nlisten = \"[::]:4870\"\nsocket = \"s\"\n"
        );
        toml::from_str(&format!("{head}{more}")).expect("it is well-formed")
    }

    fn other(more: &str) -> String {
        format!("[[regions]]\nid = \"{OTHER}\"\nauthority = \"{}\"\n{more}\n", node())
    }

    #[test]
    fn regions_are_read_with_what_goes_over_links_to_them() {
        let authority = NodeSecret::from_seed([4; 32]);
        let grant = Grant::sign(&authority, OWN, node(), 1_900_000_000_000);
        let text = format!("grant = \"{}\"\n{}", grant.to_text(), other("peers = [\"udp://192.0.2.7:1\"]\nprice = 7"));
        let others = check(&config(&text), node()).expect("it is right");
        assert_eq!(others.federation.grant, Some(grant));
        assert_eq!(others.federation.regions().collect::<Vec<_>>(), [(OTHER, node())]);
        assert_eq!((others.ids, others.peers.len(), others.peers[0].1), (vec![OTHER], 1, OTHER));
        assert!(check(&config(""), node()).expect("nothing is right too").ids.is_empty());
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_reason() {
        let inside = RegionPrefix::of(OTHER).network();
        let with_grant = |more: &str| format!("grant = \"{}\"\n{}", "00".repeat(72), other(more));
        for (text, reason) in [
            (other("").replace(&OTHER.to_string(), &OWN.to_string()), "that of another one or the own"),
            (other("") + &other(""), "that of another one or the own"),
            (other("peers = [\"udp://192.0.2.7:1\"]"), "set this node's `grant`"),
            (other(&format!("announce = [\"{}\"]", RegionId([9; 32]))), "not among `regions`"),
            (format!("grant = \"00\"\n{}", other("")), "144 hexadecimal digits"),
            (with_grant("peers = [\"192.0.2.7\"]"), "udp://host:port"),
            (with_grant(&format!("peers = [\"udp://[{inside}]:1\"]")), "within the mesh"),
        ] {
            let Err(error) = check(&config(&text), node()) else { panic!("{text} is refused") };
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
