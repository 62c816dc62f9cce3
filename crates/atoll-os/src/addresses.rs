//! Addresses of this machine's interfaces.

use std::{collections::BTreeSet, net::Ipv6Addr};

use nix::ifaddrs::getifaddrs;

/// The link-local addresses of an interface of this namespace; none if there is no such interface.
pub fn link_local_of(interface: &str) -> BTreeSet<Ipv6Addr> {
    let entries = getifaddrs().into_iter().flatten().filter(|entry| entry.interface_name == interface);
    let addresses = entries.filter_map(|entry| Some(entry.address?.as_sockaddr_in6()?.ip()));
    addresses.filter(Ipv6Addr::is_unicast_link_local).collect()
}
