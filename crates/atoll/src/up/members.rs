//! The members of a region on this machine: which daemons each has, and with which configuration.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context as _, Result};
use atoll_base::{Charter, MeshAddr, NodeId, NodeSecret, RegionId, charter::Validator, schema::Capacity};
use atoll_mesh::{ConfigError, RegionConfig};

use super::{
    layout::Layout,
    settings::{Mesh, Settings},
};

/// Port of consensus, on mesh addresses.
const CONSENSUS_PORT: u16 = 4871;
/// Port of JSON-RPC on mesh addresses.
const RPC_MESH_PORT: u16 = 8545;
/// Port of a node's server for other nodes, on mesh addresses.
const PEER_PORT: u16 = atoll_node::limits::PEER_PORT;
/// Port of a node's name server, on mesh addresses.
const DNS_PORT: u16 = atoll_node::limits::DNS_PORT;
/// TCP ports of the daemons on mesh addresses, and what they are for.
pub(crate) const MESH_TCP_PORTS: [(&str, u16); 4] = [
    ("the region's consensus", CONSENSUS_PORT),
    ("the region's JSON-RPC", RPC_MESH_PORT),
    ("the node's server for images", PEER_PORT),
    ("the node's name server", DNS_PORT),
];
/// The mesh's interface in every member's network.
pub(crate) const MESH_INTERFACE: &str = "atoll0";
/// The interface by which a lab member reaches the bridge.
pub(crate) const LAB_INTERFACE: &str = "eth0";
/// The bridge that joins a lab's members.
pub(crate) const LAB_BRIDGE: &str = "atoll-br";

/// A daemon's job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Carries packets.
    Mesh,
    /// Orders transactions.
    Ledger,
    /// Runs workloads, or only the gateway.
    Node,
}

impl Role {
    /// Name of the subcommand, of files and in tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Ledger => "ledger",
            Self::Node => "node",
        }
    }
}

/// One machine of the region, real or in a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// `home`; in a lab `host`, `v1`…, `n1`….
    pub(crate) name: String,
    /// Whether it votes.
    pub(crate) validator: bool,
    /// Whether it offers capacity.
    pub(crate) capacity: bool,
    /// Whether people on this machine reach the region through it.
    pub(crate) gateway: bool,
    /// Whether its mesh refuses strangers, and so has to be told who is registered.
    pub(crate) closed: bool,
    /// Network namespace; the machine's own when absent.
    pub(crate) namespace: Option<String>,
}

impl Member {
    /// Its daemons, in the order in which they start.
    pub(crate) fn roles(&self) -> Vec<Role> {
        let mut roles = vec![Role::Mesh];
        roles.extend(self.validator.then_some(Role::Ledger));
        roles.extend((self.capacity || self.gateway || self.closed).then_some(Role::Node));
        roles
    }
}

/// All members that the settings ask for, of a machine that is closed to strangers or not.
pub(crate) fn members(settings: &Settings, closed: bool) -> Vec<Member> {
    let region = &settings.region.name;
    if settings.size.is_single() {
        let name = region.clone();
        return vec![Member { name, validator: true, capacity: true, gateway: true, closed, namespace: None }];
    }
    let inside = |name: String, validator| Member {
        namespace: Some(format!("{region}-{name}")),
        name,
        validator,
        capacity: !validator,
        gateway: false,
        closed,
    };
    let host =
        Member { name: "host".into(), validator: false, capacity: false, gateway: true, closed, namespace: None };
    std::iter::once(host)
        .chain((1..=settings.size.validators).map(|i| inside(format!("v{i}"), true)))
        .chain((1..=settings.size.nodes).map(|i| inside(format!("n{i}"), false)))
        .collect()
}

/// What the daemons' configurations follow from.
pub(crate) struct Plan<'a> {
    /// Paths.
    pub(crate) layout: &'a Layout,
    /// The owner's wishes.
    pub(crate) settings: &'a Settings,
    /// The region.
    pub(crate) charter: &'a Charter,
    /// What one node offers.
    pub(crate) capacity: Capacity,
}

impl Plan<'_> {
    /// The text of one daemon's configuration file.
    pub(crate) fn config(&self, member: &Member, role: Role) -> Result<String> {
        Ok(match role {
            Role::Mesh => toml::to_string_pretty(&self.mesh(member)?)?,
            Role::Ledger => toml::to_string_pretty(&self.ledger(member))?,
            Role::Node => toml::to_string_pretty(&self.node(member))?,
        })
    }

    fn region(&self) -> RegionId {
        self.charter.region_id()
    }

    /// All members on this machine.
    pub(crate) fn members(&self) -> Vec<Member> {
        members(self.settings, self.settings.is_closed(self.charter))
    }

    /// The configuration of a member's mesh daemon.
    pub(crate) fn mesh(&self, member: &Member) -> Result<atoll_mesh::Config> {
        let lab = !self.settings.size.is_single();
        let wishes = self.wishes(member);
        let mut discovery = wishes.discovery;
        if lab {
            discovery = vec![if member.namespace.is_some() { LAB_INTERFACE } else { LAB_BRIDGE }.to_owned()];
        }
        Ok(atoll_mesh::Config {
            identity: self.layout.identity(&member.name),
            region: self.region(),
            interface: MESH_INTERFACE.to_owned(),
            tun: atoll_mesh::TunMode::Create,
            listen: SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), self.settings.ports.mesh),
            listen_tls: wishes.listen_tls,
            peers: wishes.peers,
            discovery,
            members: member.closed.then(|| self.founders()).transpose()?,
            socket: self.layout.daemon_socket(&member.name, Role::Mesh.name()),
            babel: wishes.babel,
            open: open(wishes.open),
            exit: wishes.exit,
            grant: wishes.grant,
            regions: wishes.regions,
            metrics: wishes.metrics,
        })
    }

    /// What the owner wants of a member's mesh. It is the machine itself that they mean; but what regions are recognised
    /// has to be the same everywhere, or members in namespaces would have no way to them.
    fn wishes(&self, member: &Member) -> Mesh {
        let mesh = &self.settings.mesh;
        if member.namespace.is_none() {
            return mesh.clone();
        }
        let regions = mesh.regions.iter().map(|region| RegionConfig { peers: Vec::new(), ..region.clone() });
        Mesh { regions: regions.collect(), ..Mesh::default() }
    }

    /// Refuses what the mesh of this machine cannot do, before anything starts.
    pub(crate) fn check_mesh(&self) -> Result<()> {
        let Some(machine) = self.members().into_iter().find(|member| member.namespace.is_none()) else {
            return Ok(());
        };
        let place = || format!("[mesh] in {} cannot be used", self.layout.settings().display());
        match self.mesh(&machine)?.validate() {
            // Of the key the settings say nothing.
            Err(error @ (ConfigError::ReadKey { .. } | ConfigError::OpenKey { .. } | ConfigError::BadKey { .. })) => {
                Err(error.into())
            }
            result => result.with_context(place),
        }
    }

    /// Who is known before the ledger is: the founding validators, and the members on this machine.
    fn founders(&self) -> Result<Vec<NodeId>> {
        let mut founders: Vec<NodeId> = self.charter.validators.iter().map(Validator::node).collect();
        for member in members(self.settings, false) {
            let path = self.layout.identity(&member.name);
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let secret = NodeSecret::from_text(&text).with_context(|| format!("{} is no identity", path.display()))?;
            founders.push(secret.id());
        }
        founders.sort_unstable();
        founders.dedup();
        Ok(founders)
    }

    fn ledger(&self, member: &Member) -> atoll_ledger::Config {
        let port = if member.namespace.is_some() { RPC_MESH_PORT } else { self.settings.ports.rpc };
        atoll_ledger::Config {
            identity: self.layout.identity(&member.name),
            charter: self.layout.charter(),
            data: self.layout.daemon_data(&member.name, Role::Ledger.name()),
            p2p_port: CONSENSUS_PORT,
            rpc: vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)],
            rpc_mesh_port: Some(RPC_MESH_PORT),
        }
    }

    fn node(&self, member: &Member) -> atoll_node::Config {
        let loopback = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.settings.ports.rpc);
        let own = member.validator.then(|| format!("http://{loopback}"));
        let gateway = if member.gateway {
            let port = self.settings.ports.gateway;
            vec![
                SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
                SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port),
            ]
        } else {
            Vec::new()
        };
        atoll_node::Config {
            identity: self.layout.identity(&member.name),
            charter: self.layout.charter(),
            data: self.layout.daemon_data(&member.name, Role::Node.name()),
            socket: self.layout.daemon_socket(&member.name, Role::Node.name()),
            servers: own.into_iter().chain(self.validator_urls()).collect(),
            capacity: member.capacity.then_some(self.capacity),
            labels: self.settings.labels_of(&member.name),
            gateway,
            rpc_forward: (member.gateway && !member.validator).then_some(loopback),
            resolvers: if member.namespace.is_none() { self.settings.mesh.resolvers.clone() } else { Vec::new() },
            mesh_socket: Some(self.layout.daemon_socket(&member.name, Role::Mesh.name())),
            learn: self.settings.mesh.learn,
            closed: member.closed,
            interface: MESH_INTERFACE.to_owned(),
        }
    }

    fn validator_urls(&self) -> impl Iterator<Item = String> {
        let region = self.region();
        self.charter.validators.iter().map(move |validator| {
            let node: NodeId = validator.node();
            format!("http://[{}]:{RPC_MESH_PORT}", MeshAddr::of(region, node).node())
        })
    }
}

/// What the daemons of one machine offer to others over the mesh, and what its owner opened; nothing else passes its
/// firewall. The daemons' part is the same for each role, because a machine's role may change while its mesh daemon goes on.
fn open(more: Vec<String>) -> Vec<String> {
    if more == ["all"] {
        return more;
    }
    let tcp = MESH_TCP_PORTS.map(|(_, port)| format!("tcp/{port}"));
    tcp.into_iter().chain([format!("udp/{DNS_PORT}")]).chain(more).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::{
        found,
        settings::{Ports, Size},
    };

    #[test]
    fn one_machine_has_one_member_with_every_role() {
        let members = members(&Settings::new("home", Size::default(), Ports::default()), false);
        assert_eq!(members.len(), 1);
        assert_eq!(members[0].roles(), [Role::Mesh, Role::Ledger, Role::Node]);
        assert_eq!(members[0].namespace, None);
    }

    #[test]
    fn a_lab_gives_each_validator_and_node_a_namespace() {
        let members = members(&Settings::new("lab", Size { validators: 4, nodes: 3 }, Ports::default()), false);
        assert_eq!(members.len(), 8);
        assert_eq!(members.iter().filter(|m| m.namespace.is_some()).count(), 7);
        assert_eq!(members[0].roles(), [Role::Mesh, Role::Node]);
        assert_eq!(members[1].roles(), [Role::Mesh, Role::Ledger]);
        assert_eq!(members[7].roles(), [Role::Mesh, Role::Node]);
        assert_eq!(members[7].namespace.as_deref(), Some("lab-n3"));
    }

    #[test]
    fn a_node_publishes_what_its_owner_says_and_tells_its_mesh_what_others_publish() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let layout = Layout::find(Some(dir.path()), "home");
        let mut settings = Settings::new("home", Size::default(), Ports::default());
        settings.mesh.announce = vec!["tls://gw.example.org".into()];
        let charter = crate::up::found::found(&layout, &settings).expect("founds");
        let capacity = Capacity { cpu_milli: 1, memory_bytes: 1, disk_bytes: 1 };
        let node = |settings: &Settings| {
            let plan = Plan { layout: &layout, settings, charter: &charter, capacity };
            let text = plan.config(&members(settings, false)[0], Role::Node).expect("written");
            toml::from_str::<atoll_node::Config>(&text).expect("the daemon reads it")
        };
        let config = node(&settings);
        assert_eq!(config.labels, ["link=tls://gw.example.org:443"]);
        assert_eq!(config.mesh_socket, Some(layout.daemon_socket("home", "mesh")));
        assert!(config.learn && !config.closed);
        settings.mesh.learn = false;
        assert!(!node(&settings).learn);
    }

    #[test]
    fn in_a_closed_region_each_mesh_has_somebody_who_follows_the_ledger_for_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let layout = Layout::find(Some(dir.path()), "lab");
        let mut settings = Settings::new("lab", Size { validators: 1, nodes: 2 }, Ports::default());
        settings.region.closed = Some(true);
        let charter = crate::up::found::found(&layout, &settings).expect("founds");
        // A machine that only has the charter.
        settings.region.closed = None;
        assert!(settings.is_closed(&charter));
        let capacity = Capacity { cpu_milli: 1, memory_bytes: 1, disk_bytes: 1 };
        let plan = Plan { layout: &layout, settings: &settings, charter: &charter, capacity };
        for member in members(&settings, settings.is_closed(&charter)) {
            assert!(member.roles().contains(&Role::Node), "{member:?}");
            let read = |role| plan.config(&member, role).expect("written");
            let mesh: atoll_mesh::Config = toml::from_str(&read(Role::Mesh)).expect("the daemon reads it");
            assert_eq!(mesh.members.map(|members| members.len()), Some(4), "all that are on this machine");
            assert!(toml::from_str::<atoll_node::Config>(&read(Role::Node)).expect("the daemon reads it").closed);
        }
        let open = Charter { closed: Some(false), ..charter };
        assert!(!settings.is_closed(&open));
        settings.mesh.closed = true;
        assert!(settings.is_closed(&open), "a machine may be stricter");
    }

    const OTHER: RegionId = RegionId([0x5d; 32]);

    fn recognised(more: &str) -> String {
        let authority = NodeSecret::from_seed([4; 32]).id();
        format!("[[regions]]\nid = \"{OTHER}\"\nauthority = \"{authority}\"\n{more}\n")
    }

    /// A founded region whose owner wants this of the mesh, with what its machine and one member in a namespace are told;
    /// an error if it is refused.
    fn founded(size: Size, wishes: &str) -> Result<Vec<atoll_mesh::Config>> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let layout = Layout::find(Some(dir.path()), "home");
        let mut settings = Settings::new("home", size, Ports::default());
        let charter = found::found(&layout, &settings).expect("founds");
        settings.mesh = toml::from_str(wishes).expect("it is well-formed");
        let capacity = Capacity { cpu_milli: 1, memory_bytes: 1, disk_bytes: 1 };
        let plan = Plan { layout: &layout, settings: &settings, charter: &charter, capacity };
        plan.check_mesh()?;
        let all = plan.members();
        // What is written is what the daemon reads.
        all.iter().map(|member| Ok(toml::from_str(&plan.config(member, Role::Mesh)?)?)).collect()
    }

    #[test]
    fn the_machine_itself_does_what_its_owner_wants_of_the_mesh() {
        let grant = "0".repeat(144);
        let wishes = format!(
            "listen_tls = \"[::]:443\"\nopen = [\"tcp/22\"]\nmetrics = \"127.0.0.1:9871\"\ngrant = \"{grant}\"\n\
             exit = {{ allow = \"region\", to = [\"2001:db8::/32\"] }}\n{}",
            recognised("peers = [\"udp://192.0.2.7:4870\"]\nprice = 5"),
        );
        for size in [Size::default(), Size { validators: 1, nodes: 2 }] {
            let configs = founded(size, &wishes).expect("it is right");
            let (machine, others) = configs.split_first().expect("at least one member");
            assert_eq!(machine.listen_tls.map(|listen| listen.port()), Some(443));
            assert_eq!(machine.metrics.map(|listen| listen.port()), Some(9871));
            assert_eq!(machine.grant, Some(grant.clone()));
            assert!(
                machine.open.iter().any(|entry| entry == "tcp/22") && machine.open.len() == 6,
                "{:?}",
                machine.open
            );
            assert!(machine.exit.is_some() && machine.regions[0].peers.len() == 1 && machine.regions[0].price == 5);
            assert_eq!(others.len(), if size.is_single() { 0 } else { 3 });
            for other in others {
                assert!(other.listen_tls.is_none() && other.metrics.is_none() && other.grant.is_none());
                assert!(other.exit.is_none() && other.open.len() == 5);
                // They take part in traffic with the other region, and call nobody there.
                let [region] = other.regions.as_slice() else { panic!("one region: {:?}", other.regions) };
                assert!(region.id == OTHER && region.peers.is_empty() && region.price == 5);
            }
        }
        assert_eq!(founded(Size::default(), "open = \"all\"").expect("it is right")[0].open, ["all"]);
    }

    #[test]
    fn what_the_mesh_cannot_do_is_refused_before_anything_starts() {
        for (wishes, reason) in [
            ("open = [\"22\"]".to_owned(), "`open`"),
            ("open = [\"tcp/22\", \"all\"]".to_owned(), "only entry"),
            ("exit = { allow = [], to = [\"fd00::/8\"] }".to_owned(), "`exit`"),
            ("peers = [\"tcp://192.0.2.7:1\"]".to_owned(), "udp://"),
            ("grant = \"00\"".to_owned(), "144 hexadecimal digits"),
            (recognised("peers = [\"udp://192.0.2.7:4870\"]"), "set this node's `grant`"),
            (recognised("") + &recognised(""), "`regions`"),
        ] {
            let error = format!("{:#}", founded(Size::default(), &wishes).expect_err(&wishes));
            assert!(error.contains(reason) && error.contains("[mesh] in") && error.contains("atoll.toml"), "{error}");
        }
    }
}
