//! Notices when a network interface stops working or addresses change, without waiting for anybody's silence.

use std::{
    ffi::c_char,
    net::{IpAddr, UdpSocket},
    os::fd::AsRawFd as _,
};

use futures::{StreamExt as _, channel::mpsc::UnboundedReceiver};
use nix::{
    ifaddrs::{InterfaceAddress, getifaddrs},
    libc,
    net::if_::if_nametoindex,
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
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ])
        .map_err(LinkError::Socket)?;
        tokio::spawn(connection);
        let socket = UdpSocket::bind("127.0.0.1:0").map_err(LinkError::Socket)?;
        Ok(Self { messages, socket })
    }

    /// Whether an interface is known to be down or without carrier at this moment. The kernel tells of lost carriers at
    /// most once a second; it answers at once. An interface that cannot be asked counts as working.
    pub fn is_dead(&self, index: u32) -> bool {
        // By the socket that is there: libc would open one for this question.
        let mut request = named_request("");
        request.ifr_ifru.ifru_ifindex = index.cast_signed();
        // SAFETY: the socket is open for the duration of the call, and SIOCGIFNAME reads and writes one `ifreq`, which
        // outlives the call.
        if unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCGIFNAME as _, &raw mut request) } != 0 {
            return true;
        }
        let mut value = EthtoolValue { cmd: ETHTOOL_GLINK, data: 1 };
        request.ifr_ifru.ifru_data = (&raw mut value).cast::<c_char>();
        // SAFETY: the socket is open for the duration of the call, and SIOCETHTOOL with ETHTOOL_GLINK reads one `ifreq`
        // and writes the one `ethtool_value` at which it points; both outlive the call.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL as _, &request) };
        result == 0 && value.data == 0
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

/// The same, and how many bits of each are its local network.
pub fn local_networks() -> Vec<(IpAddr, u8)> {
    let network = |entry: InterfaceAddress| {
        let address = ip_of(&entry)?;
        let bits = entry.netmask.and_then(|mask| {
            let v4 = mask.as_sockaddr_in().map(|v4| u32::from(v4.ip()).count_ones());
            v4.or(mask.as_sockaddr_in6().map(|v6| u128::from(v6.ip()).count_ones()))
        });
        let whole = if address.is_ipv4() { 32 } else { 128 };
        Some((address, bits.and_then(|bits| u8::try_from(bits).ok()).unwrap_or(whole)))
    };
    getifaddrs().into_iter().flatten().filter_map(network).collect()
}

fn ip_of(entry: &InterfaceAddress) -> Option<IpAddr> {
    let storage = entry.address?;
    let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or(storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}
