//! Routes that a routing protocol learned: marked as Babel's (protocol 42), so that they can be told from the owner's
//! own and cleaned up after a crash, and with a preference below those.

use std::net::Ipv6Addr;

use futures::TryStreamExt as _;
use rtnetlink::{
    RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType},
    },
};

use super::{ENODEV, ENOENT, ESRCH, LinkError, Links, ignore, kernel, kernel_with};

/// Preference of learned routes. Others have 1024 at most, unless somebody says otherwise, and win.
const PRIORITY: u32 = 4242;

/// Where packets of a learned route go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LearnedHop {
    /// To a neighbour.
    Via {
        /// Index of the interface.
        interface: u32,
        /// Its link-local address.
        address: Ipv6Addr,
    },
    /// Nowhere: senders are told that the destination is unreachable.
    Unreachable,
}

impl Links {
    /// Makes a learned route, replacing the learned one to the same destination.
    pub async fn ensure_learned(&self, network: Ipv6Addr, length: u8, hop: LearnedHop) -> Result<(), LinkError> {
        let what = || format!("make the learned route {network}/{length}");
        let request = self.handle.route().add(message(network, length, Some(hop))).replace();
        request.execute().await.map_err(kernel_with(what))
    }

    /// Removes a learned route if it is there.
    pub async fn remove_learned(&self, network: Ipv6Addr, length: u8) -> Result<(), LinkError> {
        let what = || format!("remove the learned route {network}/{length}");
        let result = self.handle.route().del(message(network, length, None)).execute().await;
        ignore(&[ESRCH, ENOENT, ENODEV], result).map_err(kernel_with(what))
    }

    /// The learned routes that there are, by network and length, also those of an earlier process.
    pub async fn learned(&self) -> Result<Vec<(Ipv6Addr, u8)>, LinkError> {
        let all = self.handle.route().get(RouteMessageBuilder::<Ipv6Addr>::new().build()).execute();
        let all: Vec<RouteMessage> = all.try_collect().await.map_err(kernel("list routes"))?;
        Ok(all.iter().filter_map(destination).collect())
    }
}

fn message(network: Ipv6Addr, length: u8, hop: Option<LearnedHop>) -> RouteMessage {
    let builder = RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(network, length)
        .protocol(RouteProtocol::Babel)
        .priority(PRIORITY);
    match hop {
        Some(LearnedHop::Via { interface, address }) => builder.output_interface(interface).gateway(address).build(),
        Some(LearnedHop::Unreachable) => builder.kind(RouteType::Unreachable).build(),
        // Whatever it is: the kernel goes by destination, protocol and preference.
        None => builder.build(),
    }
}

fn destination(message: &RouteMessage) -> Option<(Ipv6Addr, u8)> {
    let header = &message.header;
    if header.address_family != AddressFamily::Inet6 || header.protocol != RouteProtocol::Babel {
        return None;
    }
    let is_ours = message.attributes.contains(&RouteAttribute::Priority(PRIORITY));
    let network = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet6(network)) => Some(*network),
        _ => None,
    });
    is_ours.then_some((network.unwrap_or(Ipv6Addr::UNSPECIFIED), header.destination_prefix_length))
}
