//! The configuration as it is written, and as it is used: parsed once.

mod exit;
mod open;
mod plain;
mod regions;

use std::{
    fmt,
    io::Read as _,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    str::FromStr,
};

use atoll_base::{MeshAddr, NodeId, NodeSecret, RegionId, RegionPrefix, keys::KeyError};
use atoll_mesh_core::stream::is_stream;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};

use crate::limits::{DISCOVERY_INTERFACES_MAX, KEY_BYTES_MAX, MEMBERS_MAX, PEERS_MAX};
pub(crate) use exit::Exit;
pub use exit::{Allow, AllowAll, ExitConfig, ExitOffer};
pub(crate) use open::Open;
pub use open::read as read_open;
pub(crate) use plain::Plain;
pub use plain::{Announce, BabelConfig};
pub(crate) use regions::Others;
pub use regions::RegionConfig;

/// Port of links over TLS, if none is given: that of HTTPS, which passes nearly everywhere.
const TLS_PORT: u16 = 443;

/// Configuration of the mesh daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// File with the node's identity key: 64 hexadecimal digits.
    pub identity: PathBuf,
    /// The region.
    pub region: RegionId,
    /// Name of the network interface to create.
    #[serde(default = "Config::default_interface")]
    pub interface: String,
    /// Whether there is one.
    #[serde(default)]
    pub tun: TunMode,
    /// Where to listen for datagrams: `[::]:4870` is IPv4 and IPv6 on all interfaces.
    pub listen: SocketAddr,
    /// Where to take links over TLS, for those to whom no UDP gets through: `[::]:443`. Absent: nowhere. Two programs of
    /// one machine cannot have the same port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_tls: Option<SocketAddr>,
    /// Neighbours to call, as `udp://host:port`, or as `tls://host:port` (443 if no port is given) where no UDP gets
    /// through. One that is named both ways is called both ways: UDP is used whenever it works, TLS stands by.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Interfaces on which neighbours are looked for; none: off.
    #[serde(default)]
    pub discovery: Vec<String>,
    /// The nodes that may have links and sessions with this one, itself aside; absent: every node that knows the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<NodeId>>,
    /// Unix socket of the local API.
    pub socket: PathBuf,
    /// Interfaces on which routes are exchanged with ordinary Babel routers; none: off.
    #[serde(default)]
    pub babel: Vec<BabelConfig>,
    /// What others may reach of this machine itself over the mesh: `tcp/22`, `udp/53`, `tcp/8000-8100`, or just `all`;
    /// by default nothing. Answers and pings always pass.
    #[serde(default, deserialize_with = "open::read")]
    pub open: Vec<String>,
    /// The exit over which this machine reaches the Internet, or for whom it is one itself; absent: neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitConfig>,
    /// By what right this node speaks for its region to others: expiry and signature of the region's authority, 144
    /// hexadecimal digits. Absent: it is no border node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// Other regions that are recognised; none: traffic stays in the own one.
    #[serde(default)]
    pub regions: Vec<RegionConfig>,
    /// Where Prometheus may scrape over TCP, such as `127.0.0.1:9871`: `GET /metrics`, and nothing else. Absent: only
    /// on the unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
}

/// Whether the daemon makes a network interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunMode {
    /// It does: programs of this machine take part. Needs CAP_NET_ADMIN.
    #[default]
    Create,
    /// It does not: it passes packets of others on, and answers pings and traces of its own address itself. Needs no
    /// privileges.
    None,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The key file cannot be read.
    #[error("cannot read the identity key {path}: set `identity` to the node's key file, readable by this user")]
    ReadKey {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others can read the key.
    #[error(
        "the identity key {path} can be read by every user of this machine: run `chmod 600` on it, or make a new \
         identity if somebody may have read it"
    )]
    OpenKey {
        /// The file.
        path: PathBuf,
    },
    /// The key file holds something else.
    #[error("the identity key {path} cannot be used: restore the file from its backup, or make a new identity")]
    BadKey {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// A peer is not an address.
    #[error(
        "'{peer}' is not a peer: {why}; write udp://host:port, such as udp://192.0.2.7:4870 or udp://[fe80::1%eth0]:4870, or \
         tls://host"
    )]
    Peer {
        /// What was written.
        peer: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Too many entries.
    #[error("`{what}` has more than {limit} entries: remove some; neighbours of neighbours are found by themselves")]
    TooMany {
        /// The setting.
        what: &'static str,
        /// Its bound.
        limit: usize,
    },
    /// The own interface cannot be searched for neighbours.
    #[error("`discovery` names '{0}', the mesh's own interface: name the interfaces of the local networks instead")]
    OwnInterface(String),
    /// A plain interface cannot be used.
    #[error("`babel` cannot use the interface '{interface}': {why}")]
    Babel {
        /// What was written.
        interface: String,
        /// What is wrong with it, and what to do.
        why: &'static str,
    },
    /// An entry of `open` is not one.
    #[error("'{entry}' in `open` cannot be opened: {why}; write tcp/22, udp/53, tcp/8000-8100, or just all")]
    Open {
        /// What was written.
        entry: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A setting makes no sense on a node without an interface.
    #[error("`{setting}` needs the mesh's own interface: leave it out, or `tun = \"none\"` (--relay)")]
    NeedsTun {
        /// Which one.
        setting: &'static str,
    },
    /// Something in `exit` cannot be used.
    #[error("'{entry}' in `exit` cannot be used: {why}")]
    Exit {
        /// What was written.
        entry: String,
        /// What is wrong with it, and what to do.
        why: &'static str,
    },
    /// Another region cannot be used.
    #[error("`regions` cannot use the region {region}: {why}")]
    Region {
        /// Its id.
        region: RegionId,
        /// What is wrong with it, and what to do.
        why: &'static str,
    },
    /// The own grant is not one.
    #[error("`grant` is not a border grant: it has 144 hexadecimal digits; ask the region's authority for it")]
    Grant,
    /// A prefix of a plain interface cannot be used.
    #[error("'{prefix}' in `accept` is not a prefix to learn: {why}; write address/length, such as fd01::/16")]
    Accept {
        /// What was written.
        prefix: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// A configuration, parsed.
pub(crate) struct Parsed {
    pub(crate) peers: Vec<Peer>,
    pub(crate) plain: Vec<Plain>,
    pub(crate) open: Open,
    pub(crate) exit: Option<Exit>,
    pub(crate) others: Others,
}

/// A neighbour to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) transport: Transport,
    pub(crate) host: Host,
    pub(crate) port: u16,
}

/// Over what a neighbour is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tls,
}

/// Where a neighbour is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// At this address.
    Address(IpAddr),
    /// At this link-local address, behind this interface.
    Scoped(Ipv6Addr, String),
    /// Where this name points to.
    Name(String),
}

impl Config {
    /// Name of the interface where none is configured.
    fn default_interface() -> String {
        "atoll0".to_owned()
    }

    /// Refuses what cannot be used, without starting anything: reads the key, and looks at every setting.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.parse_as(self.read_key()?.id()).map(drop)
    }

    /// Parses every setting but the key; `node` is this node.
    pub(crate) fn parse_as(&self, node: NodeId) -> Result<Parsed, ConfigError> {
        Ok(Parsed {
            peers: self.check_peers()?,
            plain: self.check_babel(MeshAddr::of(self.region, node))?,
            open: self.check_open()?,
            exit: self.check_exit(node)?,
            others: self.check_regions(node)?,
        })
    }

    /// Parses the peers, and looks at what is only a list.
    fn check_peers(&self) -> Result<Vec<Peer>, ConfigError> {
        if self.peers.len() > PEERS_MAX {
            return Err(ConfigError::TooMany { what: "peers", limit: PEERS_MAX });
        }
        if self.discovery.len() > DISCOVERY_INTERFACES_MAX {
            return Err(ConfigError::TooMany { what: "discovery", limit: DISCOVERY_INTERFACES_MAX });
        }
        if self.tun == TunMode::Create && self.discovery.contains(&self.interface) {
            return Err(ConfigError::OwnInterface(self.interface.clone()));
        }
        if self.members.as_ref().is_some_and(|members| members.len() > MEMBERS_MAX) {
            return Err(ConfigError::TooMany { what: "members", limit: MEMBERS_MAX });
        }
        let prefix = RegionPrefix::of(self.region);
        let peers = self.peers.iter().map(|text| {
            let peer: Peer = text.parse()?;
            match peer.host {
                Host::Address(IpAddr::V6(ip)) if prefix.contains(ip) => Err(ConfigError::Peer {
                    peer: text.clone(),
                    why: "the address lies within the mesh itself, but a link needs an address outside of it",
                }),
                Host::Address(ip) if is_stream(ip) => {
                    Err(ConfigError::Peer { peer: text.clone(), why: "no network delivers to that address (RFC 6666)" })
                }
                _ => Ok(peer),
            }
        });
        let peers = peers.collect::<Result<_, _>>()?;
        self.check_tun()?;
        Ok(peers)
    }

    fn check_tun(&self) -> Result<(), ConfigError> {
        let idle = [("open", !self.open.is_empty()), ("exit", self.exit.is_some()), ("babel", !self.babel.is_empty())];
        let setting = idle.into_iter().find(|(_, is_set)| self.tun == TunMode::None && *is_set);
        setting.map_or(Ok(()), |(setting, _)| Err(ConfigError::NeedsTun { setting }))
    }

    /// Reads the key.
    pub(crate) fn read_key(&self) -> Result<NodeSecret, ConfigError> {
        let path = || self.identity.clone();
        let read = || -> std::io::Result<(String, bool)> {
            let mut file = std::fs::File::open(&self.identity)?;
            let is_open = file.metadata()?.permissions().mode() & 0o007 != 0;
            let mut text = String::new();
            file.by_ref().take(KEY_BYTES_MAX).read_to_string(&mut text)?;
            Ok((text, is_open))
        };
        let (text, is_open) = read().map_err(|source| ConfigError::ReadKey { path: path(), source })?;
        let secret = NodeSecret::from_text(&text).map_err(|source| ConfigError::BadKey { path: path(), source })?;
        if is_open { Err(ConfigError::OpenKey { path: path() }) } else { Ok(secret) }
    }

    /// Parses the other regions; `node` is this node.
    fn check_regions(&self, node: NodeId) -> Result<Others, ConfigError> {
        regions::check(self, node)
    }

    /// Parses the plain interfaces.
    fn check_babel(&self, network: MeshAddr) -> Result<Vec<Plain>, ConfigError> {
        plain::check(&self.babel, &self.interface, network)
    }

    /// Parses what is open.
    fn check_open(&self) -> Result<Open, ConfigError> {
        open::check(&self.open)
    }

    /// Parses the part in exits of this node, `own`.
    fn check_exit(&self, own: NodeId) -> Result<Option<Exit>, ConfigError> {
        self.exit.as_ref().map(|exit| exit::check(exit, own)).transpose()
    }
}

impl FromStr for Peer {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let refuse = |why| ConfigError::Peer { peer: text.to_owned(), why };
        let (transport, rest) = match (text.strip_prefix("udp://"), text.strip_prefix("tls://")) {
            (Some(rest), _) => (Transport::Udp, rest),
            (None, Some(rest)) => (Transport::Tls, rest),
            (None, None) => return Err(refuse("it does not begin with udp:// or tls://")),
        };
        // A colon within brackets belongs to the address.
        let split = rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
        let (host, port) = match (split, transport) {
            (Some((host, port)), _) => {
                let port = port.parse().ok().filter(|port| *port != 0);
                (host, port.ok_or_else(|| refuse("the port is not a number from 1 to 65535"))?)
            }
            (None, Transport::Tls) => (rest, TLS_PORT),
            (None, Transport::Udp) => return Err(refuse("the port is missing")),
        };
        let host = match host.strip_prefix('[').map(|inner| inner.strip_suffix(']')) {
            Some(None) => return Err(refuse("the bracket is not closed")),
            Some(Some(inner)) => match inner.split_once('%') {
                Some((ip, interface)) if !interface.is_empty() => {
                    Host::Scoped(ip.parse().map_err(|_| refuse("it is not an IPv6 address"))?, interface.to_owned())
                }
                Some(_) => return Err(refuse("the interface after % is missing")),
                None => {
                    let ip: Ipv6Addr = inner.parse().map_err(|_| refuse("it is not an IPv6 address"))?;
                    if ip.is_unicast_link_local() {
                        return Err(refuse("a link-local address needs its interface, as in fe80::1%eth0"));
                    }
                    Host::Address(ip.into())
                }
            },
            None if host.contains(':') => return Err(refuse("an IPv6 address needs brackets")),
            None => match host.parse() {
                Ok(IpAddr::V4(ip)) => Host::Address(ip.into()),
                _ if is_host_name(host) => Host::Name(host.to_owned()),
                _ => return Err(refuse("it is not a host name")),
            },
        };
        Ok(Self { transport, host, port })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.transport {
            Transport::Udp => "udp://",
            Transport::Tls => "tls://",
        })?;
        match &self.host {
            Host::Address(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Address(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Host::Scoped(ip, interface) => write!(f, "[{ip}%{interface}]:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl Peer {
    /// What a TLS client says whom it calls: the name under which the neighbour was configured, and nothing if that is an
    /// address (RFC 6066 section 3).
    pub(crate) fn server_name(&self) -> ServerName<'static> {
        match &self.host {
            Host::Address(ip) => ServerName::from(*ip),
            Host::Scoped(ip, _) => ServerName::from(IpAddr::V6(*ip)),
            Host::Name(name) => ServerName::try_from(name.trim_end_matches('.').to_owned())
                .unwrap_or(ServerName::from(IpAddr::V6(Ipv6Addr::UNSPECIFIED))),
        }
    }

    /// Where it is now; nothing if its name or interface is not known at the moment.
    pub(crate) async fn resolve(&self) -> Option<SocketAddr> {
        match &self.host {
            Host::Address(ip) => Some(SocketAddr::new(*ip, self.port)),
            Host::Scoped(ip, interface) => {
                let scope = atoll_os::tun::interface_index(interface)?;
                Some(SocketAddrV6::new(*ip, self.port, 0, scope).into())
            }
            Host::Name(name) => tokio::net::lookup_host((name.as_str(), self.port)).await.ok()?.next(),
        }
    }
}

fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= 253 && text.trim_end_matches('.').split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_read_and_written() {
        for text in [
            "udp://192.0.2.7:4870",
            "udp://[2001:db8::1]:1",
            "udp://[fe80::1%eth0]:4870",
            "udp://node-1.example:65535",
            "udp://localhost:4870",
            "tls://192.0.2.7:8443",
            "tls://[fe80::1%eth0]:443",
            "tls://node-1.example:1",
        ] {
            assert_eq!(text.parse::<Peer>().expect(text).to_string(), text);
        }
        for text in ["tls://192.0.2.7", "tls://[2001:db8::1]", "tls://[fe80::1%eth0]", "tls://node-1.example"] {
            assert_eq!(text.parse::<Peer>().expect(text).to_string(), format!("{text}:443"));
        }
    }

    #[test]
    fn a_tls_client_names_the_host_if_it_has_a_name() {
        let name = |text: &str| text.parse::<Peer>().expect(text).server_name();
        assert_eq!(name("tls://node-1.example."), ServerName::try_from("node-1.example").expect("a name"));
        assert!(matches!(name("tls://192.0.2.7"), ServerName::IpAddress(_)));
        assert!(matches!(name("tls://[fe80::1%eth0]"), ServerName::IpAddress(_)));
    }

    #[test]
    fn what_is_no_peer_is_refused_with_a_reason() {
        for (text, reason) in [
            ("tcp://192.0.2.7:4870", "udp://"),
            ("https://192.0.2.7", "tls://"),
            ("tls://192.0.2.7:0", "port is not a number"),
            ("tls://2001:db8::1", "needs brackets"),
            ("tls://[::1", "bracket is not closed"),
            ("tls://", "not a host name"),
            ("tls://a:b", "port is not a number"),
            ("udp://192.0.2.7", "port is missing"),
            ("udp://192.0.2.7:0", "port is not a number"),
            ("udp://192.0.2.7:70000", "port is not a number"),
            ("udp://[fe80::1]:4870", "needs its interface"),
            ("udp://[fe80::1%]:4870", "interface after % is missing"),
            ("udp://[::1:4870", "bracket is not closed"),
            ("udp://2001:db8::1:4870", "needs brackets"),
            ("udp://a b:4870", "not a host name"),
            ("udp://:4870", "not a host name"),
        ] {
            let error = text.parse::<Peer>().expect_err(text).to_string();
            assert!(error.contains(reason) && error.contains(text), "{error}");
        }
    }
}
