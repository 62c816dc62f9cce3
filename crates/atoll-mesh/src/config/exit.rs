//! Exits, as they are written in the configuration and as they are used.

use std::net::{IpAddr, Ipv4Addr};

use atoll_base::NodeId;
use atoll_mesh_core::{
    babel::Prefix,
    exit::{Guests, Offer, is_outside},
    translate::{PREFIX_BITS, embed, is_global},
};
use serde::{Deserialize, Serialize};

use super::ConfigError;
use crate::limits::{EXIT_PREFIXES_MAX, MEMBERS_MAX};

/// A node's part in exits to the Internet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected the id of a node, or a table with `allow` (and `to`) and nothing else")]
pub enum ExitConfig {
    /// Packets of this machine to the Internet leave the mesh at this node.
    Use(NodeId),
    /// This machine is an exit.
    Offer(ExitOffer),
}

/// What an exit lets through. Its owner answers for what is done from its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitOffer {
    /// For whom.
    pub allow: Allow,
    /// Where to, as `2001:db8::/32` or `198.51.100.0/24`; none: to the whole Internet.
    #[serde(default)]
    pub to: Vec<String>,
}

/// For whom a node is an exit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected \"region\", or a list of the ids of nodes")]
pub enum Allow {
    /// For all whom one word names.
    All(AllowAll),
    /// For these nodes.
    Nodes(Vec<NodeId>),
}

/// Words for many nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AllowAll {
    /// Every node of the region.
    Region,
}

/// A node's part in exits, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It uses this one.
    Use(NodeId),
    /// It is one.
    Offer(Offer),
}

/// Parses a node's part in exits; `own` is the node itself.
pub(super) fn check(config: &ExitConfig, own: NodeId) -> Result<Exit, ConfigError> {
    let ExitOffer { allow, to } = match config {
        ExitConfig::Use(node) if *node == own => {
            let why = "it is this node itself; name another, or write [exit] and allow = \"region\" to be one";
            return Err(ConfigError::Exit { entry: node.to_string(), why });
        }
        ExitConfig::Use(node) => return Ok(Exit::Use(*node)),
        ExitConfig::Offer(offer) => offer,
    };
    let guests = match allow {
        Allow::All(AllowAll::Region) => Guests::Region,
        Allow::Nodes(nodes) if nodes.len() > MEMBERS_MAX => {
            return Err(ConfigError::TooMany { what: "allow", limit: MEMBERS_MAX });
        }
        Allow::Nodes(nodes) => Guests::Nodes(nodes.iter().copied().collect()),
    };
    if to.len() > EXIT_PREFIXES_MAX {
        return Err(ConfigError::TooMany { what: "to", limit: EXIT_PREFIXES_MAX });
    }
    let to = to.iter().map(|text| prefix(text).map_err(|why| ConfigError::Exit { entry: text.clone(), why }));
    Ok(Exit::Offer(Offer { guests, to: to.collect::<Result<_, _>>()? }))
}

fn prefix(text: &str) -> Result<Prefix, &'static str> {
    let (address, length) =
        text.split_once('/').ok_or("the length is missing; write 2001:db8::/32 or 198.51.100.0/24")?;
    let address: IpAddr = address.parse().map_err(|_| "it is not an address")?;
    let address = match address {
        IpAddr::V4(address) => return prefix4(address, length),
        IpAddr::V6(address) => address,
    };
    let length = length.parse().ok().filter(|length| *length <= 128);
    let prefix = length.and_then(|length| Prefix::new(address, length));
    let prefix = prefix.ok_or("the length is not a number from 3 to 128")?;
    if prefix.address() != address {
        return Err("there are bits behind its length");
    }
    if prefix.length() < 3 || !is_outside(address) {
        return Err("an exit leads to addresses within 2000::/3 only");
    }
    Ok(prefix)
}

/// The same of IPv4: as the prefix of the addresses that stand for these.
fn prefix4(address: Ipv4Addr, length: &str) -> Result<Prefix, &'static str> {
    let length = length.parse::<u8>().ok().filter(|length| *length <= 32);
    let length = length.ok_or("the length is not a number from 0 to 32")?;
    let embedded = embed(address);
    let prefix = Prefix::new(embedded, PREFIX_BITS + length).filter(|prefix| prefix.address() == embedded);
    let prefix = prefix.ok_or("there are bits behind its length")?;
    // Networks that are not of the Internet are no shorter than 8 bits, but for one of 3.
    if length >= 8 && !is_global(address) {
        return Err("an exit leads to addresses of the Internet only");
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use atoll_base::NodeSecret;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Written {
        exit: Option<ExitConfig>,
    }

    fn id(seed: u8) -> NodeId {
        NodeSecret::from_seed([seed; 32]).id()
    }

    fn read(text: &str) -> Result<Option<Exit>, String> {
        let written: Written = toml::from_str(text).map_err(|error| error.to_string())?;
        written.exit.map(|exit| check(&exit, id(1))).transpose().map_err(|error| error.to_string())
    }

    #[test]
    fn both_parts_are_read() {
        assert_eq!(read(""), Ok(None));
        assert_eq!(read(&format!("exit = \"{}\"", id(2))), Ok(Some(Exit::Use(id(2)))));
        let all = Exit::Offer(Offer { guests: Guests::Region, to: Vec::new() });
        assert_eq!(read("[exit]\nallow = \"region\""), Ok(Some(all)));
        let ipv4 = read("[exit]\nallow = \"region\"\nto = [\"198.51.100.0/24\", \"0.0.0.0/0\"]");
        let to = [("64:ff9b::c633:6400", 120), ("64:ff9b::", 96)]
            .map(|(text, bits)| Prefix::new(text.parse().expect("an address"), bits).expect("a prefix"));
        assert_eq!(ipv4, Ok(Some(Exit::Offer(Offer { guests: Guests::Region, to: to.to_vec() }))));
        let to = Prefix::new("2001:db8::".parse().expect("an address"), 32).expect("a prefix");
        let one = Exit::Offer(Offer { guests: Guests::Nodes(BTreeSet::from([id(2)])), to: vec![to] });
        assert_eq!(read(&format!("[exit]\nallow = [\"{}\"]\nto = [\"2001:db8::/32\"]", id(2))), Ok(Some(one)));
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_reason() {
        let itself = format!("exit = \"{}\"", id(1));
        let many = format!("[exit]\nallow = \"region\"\nto = [{}]", "\"2000::/3\",".repeat(EXIT_PREFIXES_MAX + 1));
        for (text, reason) in [
            (itself.as_str(), "this node itself"),
            ("exit = \"abc\"", "id of a node"),
            ("exit = true", "id of a node"),
            ("[exit]", "`allow`"),
            ("[exit]\nallow = \"everybody\"", "`allow`"),
            ("[exit]\nallow = \"region\"\nfrom = []", "nothing else"),
            (&many, "more than 256"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(reason), "{error}");
        }
        for (prefix, reason) in [
            ("2001:db8::", "length is missing"),
            ("2001:db8::/129", "from 3 to 128"),
            ("2001:db8::/x", "from 3 to 128"),
            ("example.org/32", "not an address"),
            ("192.0.2.0", "length is missing"),
            ("192.0.2.0/33", "from 0 to 32"),
            ("192.0.2.1/24", "bits behind"),
            ("10.0.0.0/8", "of the Internet only"),
            ("192.168.7.0/24", "of the Internet only"),
            ("240.0.0.0/8", "of the Internet only"),
            ("2001:db8::1/32", "bits behind"),
            ("::/0", "within 2000::/3"),
            ("fd00::/8", "within 2000::/3"),
            ("fe80::/10", "within 2000::/3"),
            ("ff0e::/16", "within 2000::/3"),
        ] {
            let error = read(&format!("[exit]\nallow = \"region\"\nto = [\"{prefix}\"]")).expect_err(prefix);
            assert!(error.contains(reason) && error.contains(prefix), "{error}");
        }
    }
}
