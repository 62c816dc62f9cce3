//! What can be looked at from outside.

use core::time::Duration;
use std::net::SocketAddr;

use atoll_base::{MeshAddr, NodeId, RegionId, RegionPrefix};

use super::{LinkId, Mesh, Origin};
use crate::{announce::Target, routing::Choice, time::Time};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What was counted since the start.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// All of them, by name.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters!(
    /// Datagrams that came in.
    rx_datagrams,
    /// Datagrams that went out.
    tx_datagrams,
    /// Datagrams passed on for others.
    relayed,
    /// Frames that ran out of hops here, and whose senders were told so.
    expiries_told,
    /// Links that followed their neighbour to another endpoint.
    links_moved,
    /// Attempts to get a direct link to a node that was reached over others.
    punches,
    /// Beacons of other regions that were heard.
    beacons_of_other_regions,
    /// Frames that are not well-formed.
    dropped_malformed,
    /// Frames of another region, or of strangers.
    dropped_other_region,
    /// Handshakes beyond the bounds.
    dropped_handshakes,
    /// First messages that were answered with the demand to prove their address.
    cookies_demanded,
    /// Nodes that were refused because they are no members of the closed region.
    refused_strangers,
    /// Processes that were refused because a newer one with the same identity is alive.
    refused_twins,
    /// Nodes that were refused because another one is said to be where they answered.
    refused_wrong_node,
    /// Refusals of this node by others.
    refused_by_others,
    /// Frames that do not authenticate.
    dropped_forged,
    /// Frames that were seen before.
    dropped_replayed,
    /// Frames for keys that are not known (any more).
    dropped_unknown_session,
    /// Packets without keys to seal them.
    dropped_no_session,
    /// Packets without a route.
    dropped_no_route,
    /// Datagrams that travelled too far.
    dropped_hop_limit,
    /// Frames of another region that came from inside this one by what they say, or go to where that was not agreed.
    dropped_transit,
    /// Packets whose source or destination is not allowed there.
    dropped_wrong_address,
    /// Packets from the TUN device that are not IPv6.
    dropped_not_ipv6,
    /// Packets that have no form in IPv4, or in IPv6, to which they were to go over an exit.
    dropped_untranslatable,
    /// Fragments of such packets.
    dropped_fragments,
    /// Packets to IPv4 addresses while more guests use IPv4 over this exit than it has addresses for.
    dropped_no_ipv4_address,
    /// Packets above the MTU.
    dropped_too_big,
    /// Datagrams and packets for which a queue was full.
    dropped_queue_full,
    /// Frames that waited because the socket took no more.
    queue_pushed,
    /// Frames that were dropped because too many waited; one of the flow that had most of them.
    queue_dropped_full,
    /// Frames that were dropped because their flow's queue did not get shorter (CoDel, RFC 8289).
    queue_dropped_late,
    /// Frames that were marked "congestion experienced" instead.
    queue_marked,
    /// Frames that came in with a mark of the network below, "congestion experienced".
    rx_congested,
    /// Frames marked so although their transport does not understand it (RFC 6040).
    dropped_wrong_mark,
);

/// A neighbour, or who should be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStatus {
    /// The link.
    pub link: LinkId,
    /// Who it is, once proven.
    pub node: Option<NodeId>,
    /// Its region, if it is another than this node's.
    pub region: Option<RegionId>,
    /// Where it is.
    pub endpoint: SocketAddr,
    /// How it came to be.
    pub origin: Origin,
    /// Whether it works in both directions, and is not narrow.
    pub is_up: bool,
    /// Whether it works, but carries fewer bytes than [`DATAGRAM_BYTES_MIN`](crate::limits::DATAGRAM_BYTES_MIN) in a
    /// datagram, and therefore no packets.
    pub is_narrow: bool,
    /// Whether the other end turned out to be this node itself.
    pub is_self: bool,
    /// Smoothed round trip.
    pub rtt: Option<Duration>,
    /// What it costs: 96, and more for delay, loss, lack of capacity, and for a connection instead of datagrams.
    pub cost: u16,
    /// Frames towards this end that get lost, in thousandths.
    pub loss_permille: u16,
    /// Bytes of sealed frames received.
    pub rx_bytes: u64,
    /// Bytes of sealed frames sent.
    pub tx_bytes: u64,
}

/// A route in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteStatus {
    /// Where it leads.
    pub node: NodeId,
    /// Its network.
    pub network: MeshAddr,
    /// The link taken.
    pub link: LinkId,
    /// The neighbour there.
    pub next_hop: NodeId,
    /// Cost of the whole path.
    pub metric: u32,
    /// Links of the whole path.
    pub hops: u8,
    /// Largest datagram between neighbours that the whole path takes, in bytes.
    pub mtu: u16,
    /// The link that is taken if this one fails.
    pub backup: Option<LinkId>,
}

/// A route to another region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionRouteStatus {
    /// The region.
    pub region: RegionPrefix,
    /// Its border node, to which the route leads.
    pub border: NodeId,
    /// The link taken.
    pub link: LinkId,
    /// Cost of the whole path.
    pub metric: u32,
    /// Links up to the border node.
    pub hops: u8,
}

/// A session with keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionStatus {
    /// The other end.
    pub node: NodeId,
    /// Age of its keys.
    pub age: Duration,
    /// Bytes of packets received.
    pub rx_bytes: u64,
    /// Bytes of packets sent.
    pub tx_bytes: u64,
}

impl Mesh {
    /// All links.
    pub fn link_status(&self) -> Vec<LinkStatus> {
        let works = |link: &super::Link| {
            link.liveness.is_up() && (link.realm.id == self.local.region || link.granted.is_some())
        };
        let status = |(id, link): (&LinkId, &super::Link)| LinkStatus {
            link: *id,
            node: link.peer.map(|peer| peer.node),
            region: Some(link.realm.id).filter(|region| *region != self.local.region),
            endpoint: link.endpoint,
            origin: link.origin,
            is_up: works(link) && !link.mtu.is_narrow(),
            is_narrow: works(link) && link.mtu.is_narrow(),
            is_self: link.is_self(),
            rtt: link.liveness.metric.rtt(),
            cost: link.cost(),
            loss_permille: link.liveness.metric.loss_permille(),
            rx_bytes: link.rx_bytes,
            tx_bytes: link.tx_bytes,
        };
        self.links.iter().map(status).collect()
    }

    /// All routes in use to nodes of this region.
    pub fn route_status(&self) -> Vec<RouteStatus> {
        let status = |(target, route): (Target, &crate::routing::Selected)| {
            let Target::Node(network) = target else { return None };
            let next_hop = self.links.get(&route.link)?.peer?.node;
            Some(RouteStatus {
                node: route.announcement.node,
                network,
                link: route.link,
                next_hop,
                metric: u32::from(route.metric),
                hops: route.hops,
                mtu: route.mtu,
                backup: route.backup,
            })
        };
        self.router.routes().filter_map(status).collect()
    }

    /// All routes to a node of this region that neighbours told, the one in use first: why it was chosen.
    pub fn route_choices(&self, network: MeshAddr) -> Vec<Choice> {
        self.router.choices(Target::Node(network))
    }

    /// All routes in use to other regions.
    pub fn region_route_status(&self) -> Vec<RegionRouteStatus> {
        let status = |(target, route): (Target, &crate::routing::Selected)| {
            let Target::Region(region) = target else { return None };
            let (border, link, metric) = (route.announcement.node, route.link, u32::from(route.metric));
            Some(RegionRouteStatus { region, border, link, metric, hops: route.hops })
        };
        self.router.routes().filter_map(status).collect()
    }

    /// All sessions with keys.
    pub fn session_status(&self, now: Time) -> Vec<SessionStatus> {
        let status = |remote: &super::Remote| {
            Some(SessionStatus {
                node: remote.node?,
                age: now.since(remote.channel.established()?),
                rx_bytes: remote.rx_bytes,
                tx_bytes: remote.tx_bytes,
            })
        };
        self.remotes.values().filter_map(status).collect()
    }

    /// What was counted since the start.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }
}
