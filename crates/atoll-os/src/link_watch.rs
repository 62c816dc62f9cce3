//! Notices when a network interface stops working or addresses change, without waiting for anybody's silence.

use std::net::IpAddr;

use futures::{StreamExt as _, channel::mpsc::UnboundedReceiver};
use nix::{
    ifaddrs::{InterfaceAddress, getifaddrs},
    net::if_::if_nametoindex,
};
use rtnetlink::{
    MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{RouteNetlinkMessage, link::LinkFlags},
    sys::SocketAddr,
};

use crate::link::LinkError;

/// What happened to the interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkChange {
    /// The interface with this index went down, lost its carrier or was removed.
    Lost(u32),
    /// An address came or went on some interface.
    Addresses,
}

/// Follows the interfaces of the namespace in which it was made.
#[derive(Debug)]
pub struct LinkWatch {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
}

impl LinkWatch {
    /// Starts to follow. Must be called on a tokio runtime.
    pub fn here() -> Result<Self, LinkError> {
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ])
        .map_err(LinkError::Socket)?;
        tokio::spawn(connection);
        Ok(Self { messages })
    }

    /// What happens next; the same may be told more than once. Nothing when the kernel says no more.
    pub async fn next(&mut self) -> Option<LinkChange> {
        loop {
            let (message, _) = self.messages.next().await?;
            let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
            match message {
                RouteNetlinkMessage::NewLink(link) if !link.header.flags.contains(LinkFlags::Running) => {
                    return Some(LinkChange::Lost(link.header.index));
                }
                RouteNetlinkMessage::DelLink(link) => return Some(LinkChange::Lost(link.header.index)),
                RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => {
                    return Some(LinkChange::Addresses);
                }
                _ => {}
            }
        }
    }
}

/// Index of the interface that has this address; nothing if none has.
pub fn interface_of(address: IpAddr) -> Option<u32> {
    let entry = getifaddrs().ok()?.find(|entry| ip_of(entry) == Some(address))?;
    if_nametoindex(entry.interface_name.as_str()).ok()
}

/// All addresses of the interfaces of this namespace.
pub fn local_addresses() -> Vec<IpAddr> {
    getifaddrs().into_iter().flatten().filter_map(|entry| ip_of(&entry)).collect()
}

fn ip_of(entry: &InterfaceAddress) -> Option<IpAddr> {
    let storage = entry.address?;
    let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or(storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}
