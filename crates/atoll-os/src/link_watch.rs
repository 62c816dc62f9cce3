//! Notices when a network interface stops working, without waiting for anybody's silence.

use std::net::IpAddr;

use futures::{StreamExt as _, channel::mpsc::UnboundedReceiver};
use nix::{ifaddrs::getifaddrs, net::if_::if_nametoindex};
use rtnetlink::{
    MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{RouteNetlinkMessage, link::LinkFlags},
    sys::SocketAddr,
};

use crate::link::LinkError;

/// Follows the interfaces of the namespace in which it was made.
#[derive(Debug)]
pub struct LinkWatch {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
}

impl LinkWatch {
    /// Starts to follow. Must be called on a tokio runtime.
    pub fn here() -> Result<Self, LinkError> {
        let (connection, _, messages) =
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link]).map_err(LinkError::Socket)?;
        tokio::spawn(connection);
        Ok(Self { messages })
    }

    /// Index of the next interface that goes down, loses its carrier or is removed. An interface may be named more than
    /// once. Nothing when the kernel says no more.
    pub async fn lost(&mut self) -> Option<u32> {
        loop {
            let (message, _) = self.messages.next().await?;
            let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
            match message {
                RouteNetlinkMessage::NewLink(link) if !link.header.flags.contains(LinkFlags::Running) => {
                    return Some(link.header.index);
                }
                RouteNetlinkMessage::DelLink(link) => return Some(link.header.index),
                _ => {}
            }
        }
    }
}

/// Index of the interface that has this address; nothing if none has.
pub fn interface_of(address: IpAddr) -> Option<u32> {
    let has = |entry: &nix::ifaddrs::InterfaceAddress| {
        let Some(storage) = entry.address else { return false };
        let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let v6 = storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
        v4.or(v6) == Some(address)
    };
    let entry = getifaddrs().ok()?.find(has)?;
    if_nametoindex(entry.interface_name.as_str()).ok()
}
