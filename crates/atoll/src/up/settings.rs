//! `atoll.toml`: what the owner of this machine wants of the region. Everything has a sane default.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path};

use anyhow::{Context as _, Result, bail};
use atoll_base::{charter::is_dns_label, schema::Capacity};
use atoll_mesh::BabelConfig;
use serde::{Deserialize, Serialize};

/// Most members of one kind in a region on one machine.
pub(crate) const MEMBERS_MAX: u32 = 32;

/// The file `atoll.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// What is founded.
    pub(crate) region: Region,
    /// How large it is on this machine.
    #[serde(default)]
    pub(crate) size: Size,
    /// Ports on this machine.
    #[serde(default)]
    pub(crate) ports: Ports,
    /// What each node offers; what the machine has, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) capacity: Option<Capacity>,
    /// Labels of members, by name: `n1 = ["zone=school"]`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, Vec<String>>,
    /// Links to machines elsewhere.
    #[serde(default)]
    pub(crate) mesh: Mesh,
}

/// Name and currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Region {
    /// A DNS label, the region's top-level domain.
    pub(crate) name: String,
    /// Full name of the coin.
    pub(crate) currency: String,
    /// Its ticker.
    pub(crate) symbol: String,
}

/// How many validators and nodes run on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Size {
    /// Validators.
    pub(crate) validators: u32,
    /// Nodes that offer capacity.
    pub(crate) nodes: u32,
}

impl Default for Size {
    fn default() -> Self {
        Self { validators: 1, nodes: 1 }
    }
}

impl Size {
    /// One validator and one node share the machine's own network; anything bigger gets a namespace for each.
    pub(crate) const fn is_single(self) -> bool {
        self.validators == 1 && self.nodes == 1
    }
}

/// Where people and programs on this machine reach the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ports {
    /// Gateway and the region's page, on loopback.
    pub(crate) gateway: u16,
    /// Ethereum JSON-RPC, on loopback.
    pub(crate) rpc: u16,
    /// Mesh links, UDP.
    pub(crate) mesh: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { gateway: 8088, rpc: 8545, mesh: 4870 }
    }
}

/// Links beyond this machine. Empty by default: no host is contacted that the owner did not name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mesh {
    /// Peers, `udp://host:port` or `tls://host:port`.
    #[serde(default)]
    pub(crate) peers: Vec<String>,
    /// Interfaces on which neighbours are discovered by link-local multicast.
    #[serde(default)]
    pub(crate) discovery: Vec<String>,
    /// Whether only registered nodes, the founding validators and the members on this machine may join. Each machine
    /// refuses others itself, so this should be the same on all.
    #[serde(default)]
    pub(crate) closed: bool,
    /// Resolvers, `address:port`, for names outside the region. Empty: nobody outside is asked, such names are refused.
    #[serde(default)]
    pub(crate) resolvers: Vec<SocketAddr>,
    /// Interfaces with ordinary routers that speak Babel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) babel: Vec<BabelConfig>,
}

impl Settings {
    /// For a new region.
    pub(crate) fn new(name: &str, size: Size, ports: Ports) -> Self {
        let mut currency = name.to_owned();
        currency[..1].make_ascii_uppercase();
        Self {
            region: Region {
                name: name.to_owned(),
                currency: format!("{currency} coin"),
                symbol: name.chars().filter(char::is_ascii_alphanumeric).take(5).collect::<String>().to_uppercase(),
            },
            size,
            ports,
            capacity: None,
            labels: BTreeMap::new(),
            mesh: Mesh::default(),
        }
    }

    /// Reads and checks the file.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let settings: Self = toml::from_str(&text)
            .with_context(|| format!("{} is not a valid configuration: correct it and try again", path.display()))?;
        settings.check().with_context(|| format!("{} cannot be used", path.display()))?;
        Ok(settings)
    }

    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> Result<()> {
        if !is_dns_label(&self.region.name) || self.region.name == "localhost" {
            bail!(
                "region.name '{}' is not a DNS label: use a-z, 0-9 and '-', starting with a letter",
                self.region.name
            );
        }
        for (what, count) in [("size.validators", self.size.validators), ("size.nodes", self.size.nodes)] {
            if count == 0 || count > MEMBERS_MAX {
                bail!("{what} is {count}: use 1 to {MEMBERS_MAX}");
            }
        }
        Ok(())
    }

    /// The text of the file, with a word of explanation.
    pub(crate) fn to_text(&self) -> Result<String> {
        Ok(format!(
            "# This machine's part in the region. Read at each `atoll up`; what the region *is* stands in charter.toml.\n\n{}",
            toml::to_string_pretty(self)?
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_refuses_unknown_keys() {
        let settings = Settings::new("home", Size::default(), Ports::default());
        let text = settings.to_text().expect("serialises");
        assert_eq!(toml::from_str::<Settings>(&text).expect("parses"), settings);
        assert!(toml::from_str::<Settings>(&text.replace("validators", "validatorz")).is_err());
    }

    #[test]
    fn bad_values_name_the_key() {
        let mut settings = Settings::new("home", Size { validators: 0, nodes: 1 }, Ports::default());
        assert!(settings.check().expect_err("no validators").to_string().contains("size.validators"));
        settings.size.validators = 1;
        settings.region.name = "Home".into();
        assert!(settings.check().expect_err("upper case").to_string().contains("region.name"));
    }
}
