//! Plain interfaces, as they are written in the configuration and as they are used.

use std::{collections::BTreeSet, net::Ipv6Addr};

use atoll_base::MeshAddr;
use atoll_mesh_core::babel::Prefix;
use serde::{Deserialize, Serialize};

use super::ConfigError;
use crate::limits::{PLAIN_ACCEPT_MAX, PLAIN_INTERFACES_MAX};

/// An interface on which routes are exchanged with ordinary Babel routers (RFC 8966), without encryption or signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BabelConfig {
    /// Name of the interface.
    pub interface: String,
    /// What of the mesh is announced there.
    #[serde(default)]
    pub announce: Announce,
    /// Prefixes, as `fd01::/16`: routes to what lies within one of these are learned, no others.
    #[serde(default)]
    pub accept: Vec<String>,
}

/// What of the mesh is announced on plain interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Announce {
    /// Nothing.
    None,
    /// The network of the region, a /48.
    #[default]
    Region,
    /// This node's network and that of each node to which the mesh has a route, a /112 each.
    Nodes,
}

/// A plain interface, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plain {
    pub(crate) interface: String,
    pub(crate) announce: Announce,
    pub(crate) accept: Vec<Prefix>,
}

/// Parses the plain interfaces of a node; `own` is the mesh's interface.
pub(super) fn check(entries: &[BabelConfig], own: &str, network: MeshAddr) -> Result<Vec<Plain>, ConfigError> {
    if entries.len() > PLAIN_INTERFACES_MAX {
        return Err(ConfigError::TooMany { what: "babel", limit: PLAIN_INTERFACES_MAX });
    }
    let refuse = |entry: &BabelConfig, why| ConfigError::Babel { interface: entry.interface.clone(), why };
    let mut seen = BTreeSet::new();
    let mut interfaces = Vec::new();
    for entry in entries {
        if entry.interface == own {
            return Err(refuse(entry, "it is the mesh's own interface; name one of a local network"));
        }
        if entry.interface.is_empty() || entry.interface == "lo" {
            return Err(refuse(entry, "it is not the interface of a local network; name one, such as eth1"));
        }
        if !seen.insert(entry.interface.as_str()) {
            return Err(refuse(entry, "it is named twice; keep one of the two"));
        }
        if entry.accept.len() > PLAIN_ACCEPT_MAX {
            return Err(ConfigError::TooMany { what: "accept", limit: PLAIN_ACCEPT_MAX });
        }
        let accept = entry.accept.iter().map(|text| prefix(text, network)).collect::<Result<_, _>>()?;
        interfaces.push(Plain { interface: entry.interface.clone(), announce: entry.announce, accept });
    }
    Ok(interfaces)
}

fn prefix(text: &str, network: MeshAddr) -> Result<Prefix, ConfigError> {
    let refuse = |why| ConfigError::Accept { prefix: text.to_owned(), why };
    let (address, length) = text.split_once('/').ok_or_else(|| refuse("the length is missing"))?;
    let address: Ipv6Addr = address.parse().map_err(|_| refuse("it is not an IPv6 address"))?;
    let length = length.parse().ok().filter(|length| *length <= 128);
    let length = length.ok_or_else(|| refuse("the length is not a number from 0 to 128"))?;
    let prefix = Prefix::new(address, length).ok_or_else(|| refuse("the length is not a number from 0 to 128"))?;
    if prefix.address() != address {
        return Err(refuse("there are bits behind its length"));
    }
    if address.is_multicast() || (length > 9 && address.is_unicast_link_local()) {
        return Err(refuse("nothing is routed there"));
    }
    let region = Prefix::new(network.network(), 48).is_some_and(|region| region.covers(prefix));
    let own = Prefix::new(network.network(), MeshAddr::PREFIX_LEN).is_some_and(|own| own.covers(prefix));
    if region && !own {
        return Err(refuse(
            "it lies in the mesh, of which only this node's own network may be behind such an interface",
        ));
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use atoll_base::{NodeSecret, RegionId, RegionPrefix};

    use super::*;

    fn network() -> MeshAddr {
        MeshAddr::of(RegionId([0x5a; 32]), NodeSecret::from_seed([1; 32]).id())
    }

    fn entry(interface: &str, accept: &[&str]) -> BabelConfig {
        let accept = accept.iter().map(|text| (*text).to_owned()).collect();
        BabelConfig { interface: interface.to_owned(), announce: Announce::Region, accept }
    }

    #[test]
    fn plain_interfaces_are_read() {
        let text = "interface = \"eth1\"\nannounce = \"nodes\"\naccept = [\"fd01::/16\", \"::/0\"]";
        let one: BabelConfig = toml::from_str(text).expect("it is well-formed");
        let plain = check(&[one], "atoll0", network()).expect("it is good");
        assert_eq!(plain[0].announce, Announce::Nodes);
        let prefixes: Vec<_> = plain[0].accept.iter().map(|p| (p.address(), p.length())).collect();
        assert_eq!(prefixes, [("fd01::".parse().expect("an address"), 16), (Ipv6Addr::UNSPECIFIED, 0)]);
        let plain = check(&[toml::from_str("interface = \"eth1\"").expect("enough")], "atoll0", network());
        let plain = plain.expect("it is good");
        assert_eq!((plain[0].announce, plain[0].accept.len()), (Announce::Region, 0), "nothing is learned");
        let own = format!("{}/120", network().network());
        check(&[entry("eth1", &[&own])], "atoll0", network()).expect("a part of the own network");
        assert_eq!(check(&[], "atoll0", network()).expect("none"), []);
        assert!(toml::from_str::<BabelConfig>("interface = \"eth1\"\nannounce = \"all\"").is_err());
        assert!(toml::from_str::<BabelConfig>("interface = \"eth1\"\nacept = []").is_err());
    }

    #[test]
    fn what_cannot_be_a_plain_interface_is_refused_with_a_reason() {
        let other = MeshAddr::of(RegionId([0x5a; 32]), NodeSecret::from_seed([2; 32]).id());
        let other = format!("{}/112", other.network());
        let region = format!("{}/48", RegionPrefix::of(RegionId([0x5a; 32])).network());
        for (accept, reason) in [
            ("fd01::", "length is missing"),
            ("fd01::/129", "from 0 to 128"),
            ("fd01::/x", "from 0 to 128"),
            ("10.0.0.0/8", "not an IPv6 address"),
            ("fd01::1/16", "bits behind its length"),
            ("ff00::/8", "nothing is routed"),
            ("fe80::/64", "nothing is routed"),
            (other.as_str(), "in the mesh"),
            (region.as_str(), "in the mesh"),
        ] {
            let error = check(&[entry("eth1", &[accept])], "atoll0", network()).expect_err(accept).to_string();
            assert!(error.contains(reason) && error.contains(accept), "{error}");
        }
        for (entries, reason) in [
            (vec![entry("atoll0", &[])], "own interface"),
            (vec![entry("lo", &[])], "not the interface of a local network"),
            (vec![entry("", &[])], "not the interface of a local network"),
            (vec![entry("eth1", &[]), entry("eth1", &[])], "named twice"),
            (vec![entry("eth1", &[]); PLAIN_INTERFACES_MAX + 1], "more than"),
            (vec![entry("eth1", &vec!["fd01::/16"; PLAIN_ACCEPT_MAX + 1])], "more than"),
        ] {
            let error = check(&entries, "atoll0", network()).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
