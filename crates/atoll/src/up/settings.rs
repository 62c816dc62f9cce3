//! `atoll.toml`: what the owner of this machine wants of the region. Everything has a sane default.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use atoll_base::{
    Charter,
    charter::is_dns_label,
    limits::{LABEL_BYTES_MAX, LABELS_MAX, PUBLISHED_LINKS_MAX},
    published::{self, PublishedLink},
    schema::Capacity,
};
use atoll_mesh::{BabelConfig, ExitConfig, RegionConfig};
use atoll_node::limits::DNS_UPLINKS_MAX;
use serde::{Deserialize, Serialize};

use super::members::{MESH_TCP_PORTS, members};

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
    /// Whether only registered nodes and the first validators may join its mesh. Once it is founded, the charter says so;
    /// another word here is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) closed: Option<bool>,
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

/// What the machine itself does in the mesh, and its links beyond. Empty by default: no host is contacted that neither
/// the owner of this machine named nor, on the ledger, that of the host. Each setting is that of the mesh daemon, and is
/// parsed by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mesh {
    /// Peers, `udp://host:port` or `tls://host:port`.
    #[serde(default)]
    pub(crate) peers: Vec<String>,
    /// Where others of the region may call this machine, `udp://host:port` or `tls://host`: published on the ledger, with
    /// the node's labels. Empty: nothing is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) announce: Vec<String>,
    /// Whether this machine may call nodes of the region where their owners published that, while it has too few
    /// neighbours.
    #[serde(default = "Mesh::default_learn")]
    pub(crate) learn: bool,
    /// Interfaces on which neighbours are discovered by link-local multicast.
    #[serde(default)]
    pub(crate) discovery: Vec<String>,
    /// Whether this machine refuses strangers also in a region that was founded open; others let them in.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub(crate) closed: bool,
    /// Resolvers, `address:port`, for names outside the region. Empty: nobody outside is asked, such names are refused.
    #[serde(default)]
    pub(crate) resolvers: Vec<SocketAddr>,
    /// Where to take links over TLS, `[::]:443`, for those to whom no UDP gets through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) listen_tls: Option<SocketAddr>,
    /// What others may reach of this machine besides the region's own daemons: `tcp/22`, or `all`.
    #[serde(default, deserialize_with = "atoll_mesh::read_open", skip_serializing_if = "Vec::is_empty")]
    pub(crate) open: Vec<String>,
    /// Where Prometheus may scrape the mesh over TCP, `127.0.0.1:9871`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<SocketAddr>,
    /// By what right this machine speaks for the region to others: it is a border then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) grant: Option<String>,
    /// Over which node this machine reaches the Internet, or for whom it is an exit itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exit: Option<ExitConfig>,
    /// Interfaces with ordinary routers that speak Babel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) babel: Vec<BabelConfig>,
    /// Other regions that are recognised. All machines of a region should recognise the same ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) regions: Vec<RegionConfig>,
}

impl Mesh {
    const fn default_learn() -> bool {
        true
    }
}

impl Default for Mesh {
    fn default() -> Self {
        Self {
            peers: Vec::new(),
            announce: Vec::new(),
            learn: Self::default_learn(),
            discovery: Vec::new(),
            closed: false,
            resolvers: Vec::new(),
            listen_tls: None,
            open: Vec::new(),
            metrics: None,
            grant: None,
            exit: None,
            babel: Vec::new(),
            regions: Vec::new(),
        }
    }
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
                closed: None,
                symbol: name.chars().filter(char::is_ascii_alphanumeric).take(5).collect::<String>().to_uppercase(),
            },
            size,
            ports,
            capacity: None,
            labels: BTreeMap::new(),
            mesh: Mesh::default(),
        }
    }

    /// Whether the mesh of this machine refuses strangers.
    pub(crate) fn is_closed(&self, charter: &Charter) -> bool {
        charter.is_closed() || self.mesh.closed
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
        self.check_announce()?;
        let resolvers = self.mesh.resolvers.len();
        if resolvers > DNS_UPLINKS_MAX {
            bail!("mesh.resolvers has {resolvers} entries: name {DNS_UPLINKS_MAX} at most");
        }
        let members = members(self, false);
        for name in self.labels.keys() {
            if !members.iter().any(|member| member.name == *name) {
                bail!("labels.{name}: this machine has no member of that name");
            }
            self.check_labels(name)?;
        }
        self.check_tcp_ports()
    }

    /// Refuses two servers of this machine on one TCP port.
    fn check_tcp_ports(&self) -> Result<()> {
        let loopback: IpAddr = Ipv4Addr::LOCALHOST.into();
        let (gateway, rpc) = (self.ports.gateway, self.ports.rpc);
        let mut servers = vec![
            ("[ports] gateway", SocketAddr::new(loopback, gateway)),
            ("[ports] rpc", SocketAddr::new(loopback, rpc)),
        ];
        let listeners = [("[mesh] listen_tls", self.mesh.listen_tls), ("[mesh] metrics", self.mesh.metrics)];
        servers.extend(listeners.into_iter().filter_map(|(key, listen)| Some((key, listen?))));
        // The gateway is there for both kinds of addresses; and the daemons listen at the mesh address, which any stands
        // for here.
        let fixed = [("[ports] gateway", SocketAddr::new(Ipv6Addr::LOCALHOST.into(), gateway))].into_iter();
        let mesh = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
        let fixed = fixed.chain(MESH_TCP_PORTS.map(|(what, port)| (what, SocketAddr::new(mesh.into(), port))));
        let fixed: Vec<_> = fixed.collect();
        for (at, (key, listen)) in servers.iter().enumerate() {
            let others = servers[..at].iter().chain(&fixed);
            if let Some((other, _)) = others.into_iter().find(|(other, taken)| other != key && overlap(*listen, *taken))
            {
                bail!("{key} and {other} are both TCP port {}: choose another port for {key}", listen.port());
            }
        }
        Ok(())
    }

    fn check_announce(&self) -> Result<()> {
        if self.mesh.announce.is_empty() {
            return Ok(());
        }
        if !self.size.is_single() {
            bail!(
                "mesh.announce says where this machine can be called, but its nodes are in namespaces: remove it, or give \
                 one of them a label such as link=udp://203.0.113.7:4870"
            );
        }
        if self.mesh.announce.len() > PUBLISHED_LINKS_MAX {
            bail!("mesh.announce has more than {PUBLISHED_LINKS_MAX} entries: remove some");
        }
        for text in &self.mesh.announce {
            text.parse::<PublishedLink>().context("mesh.announce cannot be used")?;
        }
        self.check_labels(&self.region.name)
    }

    /// The ledger refuses bad labels only when the node is registered, and others ignore bad links.
    fn check_labels(&self, member: &str) -> Result<()> {
        let labels = self.labels_of(member);
        if labels.len() > LABELS_MAX {
            bail!("labels.{member} has more than {LABELS_MAX} entries, with those of mesh.announce: remove some");
        }
        for label in &labels {
            if label.len() > LABEL_BYTES_MAX || label.split_once('=').is_none_or(|(key, _)| key.is_empty()) {
                bail!("labels.{member}: '{label}' does not read key=value within {LABEL_BYTES_MAX} bytes");
            }
            if let (true, Some((_, text))) = (published::is_link(label), label.split_once('=')) {
                text.parse::<PublishedLink>().with_context(|| format!("labels.{member}: '{label}' cannot be used"))?;
            }
        }
        if labels.iter().filter(|label| published::is_link(label)).count() > PUBLISHED_LINKS_MAX {
            bail!("labels.{member} names more than {PUBLISHED_LINKS_MAX} links, with mesh.announce: remove some");
        }
        Ok(())
    }

    /// All labels of a member: its own, and where it can be called.
    pub(crate) fn labels_of(&self, member: &str) -> Vec<String> {
        let mut labels = self.labels.get(member).cloned().unwrap_or_default();
        if self.size.is_single() && member == self.region.name {
            let links = self.mesh.announce.iter().filter_map(|text| text.parse::<PublishedLink>().ok());
            labels.extend(links.map(|link| link.label()));
        }
        labels
    }

    /// The text of the file, with a word of explanation.
    pub(crate) fn to_text(&self) -> Result<String> {
        Ok(format!(
            "# This machine's part in the region. Read at each `atoll up`; what the region *is* stands in charter.toml.\n\n{}",
            toml::to_string_pretty(self)?
        ))
    }
}

/// Whether two servers cannot listen at the same time; one on `[::]` takes IPv4 too.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let covers = |a: IpAddr, b: IpAddr| a.is_unspecified() && (a.is_ipv6() || b.is_ipv4());
    a.port() == b.port() && (a.ip() == b.ip() || covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()))
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
    fn where_others_may_call_becomes_labels_of_the_one_node() {
        let mut settings = Settings::new("home", Size::default(), Ports::default());
        settings.labels.insert("home".into(), vec!["zone=school".into()]);
        settings.mesh.announce = vec!["udp://203.0.113.7:4870".into(), "tls://GW.example.org".into()];
        settings.check().expect("it can be used");
        let labels = ["zone=school", "link=udp://203.0.113.7:4870", "link=tls://gw.example.org:443"];
        assert_eq!(settings.labels_of("home"), labels);
        let text = settings.to_text().expect("serialises");
        assert_eq!(toml::from_str::<Settings>(&text).expect("parses"), settings);

        let refusal = |settings: &Settings| format!("{:#}", settings.check().expect_err("it cannot be used"));
        let with = |announce: &[&str]| {
            let announce = announce.iter().map(|text| (*text).to_owned()).collect();
            Settings { mesh: Mesh { announce, ..Mesh::default() }, ..settings.clone() }
        };
        let loopback = refusal(&with(&["udp://127.0.0.1:4870"]));
        assert!(loopback.contains("mesh.announce") && loopback.contains("127.0.0.1"), "{loopback}");
        assert!(refusal(&with(&["tls://a.example"; 5])).contains("more than 4"));
        let mut both = with(&["tls://a.example", "tls://b.example"]);
        both.labels.insert("home".into(), (1..4).map(|n| format!("link=udp://203.0.113.{n}:1")).collect());
        assert!(refusal(&both).contains("more than 4 links"));
        let nine = Mesh { resolvers: vec![([192, 0, 2, 53], 53).into(); 9], ..Mesh::default() };
        assert!(refusal(&Settings { mesh: nine, ..settings.clone() }).contains("mesh.resolvers has 9 entries"));
        let many = with(&["tls://a.example"]);
        let many = Settings { size: Size { validators: 1, nodes: 2 }, labels: BTreeMap::new(), ..many };
        assert!(refusal(&many).contains("mesh.announce"));
    }

    #[test]
    fn bad_labels_are_refused_before_the_ledger_does() {
        let refusal = |member: &str, labels: &[&str]| {
            let mut settings = Settings::new("lab", Size { validators: 1, nodes: 2 }, Ports::default());
            settings.labels.insert(member.into(), labels.iter().map(|label| (*label).to_owned()).collect());
            settings.check().map_err(|error| format!("{error:#}")).err()
        };
        assert_eq!(refusal("n1", &["zone=a", "link=udp://203.0.113.1:1"]), None);
        assert!(refusal("n3", &["zone=a"]).is_some_and(|why| why.contains("labels.n3")));
        assert!(refusal("n1", &["zone"]).is_some_and(|why| why.contains("key=value")));
        assert!(refusal("n1", &["link=udp://[::1]:1"]).is_some_and(|why| why.contains("labels.n1")));
        assert!(refusal("n1", &["zone=a"; LABELS_MAX + 1]).is_some_and(|why| why.contains("more than 32")));
    }

    #[test]
    fn bad_values_name_the_key() {
        let mut settings = Settings::new("home", Size { validators: 0, nodes: 1 }, Ports::default());
        assert!(settings.check().expect_err("no validators").to_string().contains("size.validators"));
        settings.size.validators = 1;
        settings.region.name = "Home".into();
        assert!(settings.check().expect_err("upper case").to_string().contains("region.name"));
    }

    fn mesh_of(text: &str) -> Result<Mesh, String> {
        let founded = Settings::new("home", Size::default(), Ports::default()).to_text().expect("serialises");
        let (head, _) = founded.split_once("[mesh]").expect("it is there");
        let settings: Settings = toml::from_str(&format!("{head}[mesh]\n{text}")).map_err(|error| error.to_string())?;
        let again: Settings =
            toml::from_str(&settings.to_text().expect("serialises")).expect("what was written is read");
        assert_eq!(again, settings);
        settings.check().map_err(|error| error.to_string())?;
        Ok(settings.mesh)
    }

    #[test]
    fn what_the_mesh_can_do_is_read_and_written() {
        let id = "5c".repeat(32);
        let mesh = mesh_of(&format!(
            "listen_tls = \"[::]:443\"\nopen = \"all\"\nmetrics = \"127.0.0.1:9871\"\ngrant = \"00\"\nexit = \"{id}\"\n\
             [[mesh.regions]]\nid = \"{id}\"\nauthority = \"{id}\"\npeers = [\"udp://192.0.2.7:4870\"]\nprice = 5"
        ));
        let mesh = mesh.expect("it is right");
        assert_eq!((mesh.open, mesh.grant.as_deref()), (vec!["all".to_owned()], Some("00")));
        assert!(matches!(mesh.exit, Some(ExitConfig::Use(_))) && mesh.regions[0].price == 5);
        assert_eq!((mesh.listen_tls.map(|it| it.port()), mesh.metrics.map(|it| it.port())), (Some(443), Some(9871)));
        let mesh = mesh_of("open = [\"tcp/22\"]\n[mesh.exit]\nallow = \"region\"").expect("it is right");
        assert!(matches!(mesh.exit, Some(ExitConfig::Offer(_))) && mesh.open == ["tcp/22"]);
    }

    #[test]
    fn wrong_words_are_refused_where_they_stand() {
        for (text, reason) in [
            ("listen_tls = \"443\"", "listen_tls"),
            ("exit = true", "the id of a node"),
            ("[mesh.exit]\nallow = \"everybody\"", "`allow`"),
            ("open = 22", "the word \"all\""),
            ("[[mesh.regions]]\nid = \"00\"", "id = \"00\""),
            ("[[mesh.regions]]\nname = \"there\"", "name"),
        ] {
            let error = mesh_of(text).expect_err(text);
            assert!(error.contains(reason) && error.contains("line "), "{error}");
        }
    }

    #[test]
    fn two_servers_on_one_port_are_refused() {
        for (text, keys) in [
            ("listen_tls = \"[::]:8088\"", ["[mesh] listen_tls", "[ports] gateway"]),
            ("listen_tls = \"0.0.0.0:8545\"", ["[mesh] listen_tls", "[ports] rpc"]),
            ("listen_tls = \"[::1]:8088\"", ["[mesh] listen_tls", "[ports] gateway"]),
            ("listen_tls = \"[::]:4871\"", ["[mesh] listen_tls", "consensus"]),
            ("metrics = \"127.0.0.1:8088\"", ["[mesh] metrics", "[ports] gateway"]),
            ("listen_tls = \"[::]:443\"\nmetrics = \"127.0.0.1:443\"", ["[mesh] metrics", "[mesh] listen_tls"]),
        ] {
            let error = mesh_of(text).expect_err(text);
            assert!(keys.iter().all(|key| error.contains(key)), "{error}");
        }
        for text in ["listen_tls = \"192.0.2.7:8088\"", "listen_tls = \"0.0.0.0:4871\"", "metrics = \"[::1]:8545\""] {
            mesh_of(text).expect(text);
        }
        let mut settings = Settings::new("home", Size::default(), Ports::default());
        settings.ports.rpc = settings.ports.gateway;
        assert!(settings.check().expect_err("the same port").to_string().contains("[ports] rpc"));
    }
}
