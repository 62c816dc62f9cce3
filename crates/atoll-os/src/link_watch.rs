//! Notices when a network interface stops working, without waiting for anybody's silence.

use std::{
    ffi::c_char,
    net::{IpAddr, UdpSocket},
    os::fd::AsRawFd as _,
};

use futures::{StreamExt as _, channel::mpsc::UnboundedReceiver};
use nix::{
    ifaddrs::getifaddrs,
    libc,
    net::if_::{if_indextoname, if_nametoindex},
};
use rtnetlink::{
    MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{RouteNetlinkMessage, link::LinkFlags},
    sys::SocketAddr,
};

use crate::{link::LinkError, tap::named_request};

/// The kernel's question whether a link has a carrier (`linux/ethtool.h`).
const ETHTOOL_GLINK: u32 = 0x0a;

/// Follows the interfaces of the namespace in which it was made.
#[derive(Debug)]
pub struct LinkWatch {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    /// Any socket: what the kernel is asked through.
    socket: UdpSocket,
}

/// `struct ethtool_value` of `linux/ethtool.h`.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

impl LinkWatch {
    /// Starts to follow. Must be called on a tokio runtime.
    pub fn here() -> Result<Self, LinkError> {
        let (connection, _, messages) =
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link]).map_err(LinkError::Socket)?;
        tokio::spawn(connection);
        let socket = UdpSocket::bind("127.0.0.1:0").map_err(LinkError::Socket)?;
        Ok(Self { messages, socket })
    }

    /// Whether an interface is known to be down or without carrier at this moment. The kernel tells of lost carriers at
    /// most once a second; it answers at once. An interface that cannot be asked counts as working.
    pub fn is_dead(&self, index: u32) -> bool {
        let Ok(name) = if_indextoname(index) else { return true };
        let mut request = named_request(&name.to_string_lossy());
        let mut value = EthtoolValue { cmd: ETHTOOL_GLINK, data: 1 };
        request.ifr_ifru.ifru_data = (&raw mut value).cast::<c_char>();
        // SAFETY: the socket is open for the duration of the call, and SIOCETHTOOL with ETHTOOL_GLINK reads one `ifreq`
        // and writes the one `ethtool_value` at which it points; both outlive the call.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL as _, &request) };
        result == 0 && value.data == 0
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
