//! Beacons on local networks: link-local IPv6 multicast.

use core::time::Duration;
use std::{
    collections::BTreeMap,
    io,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
};

use atoll_mesh_core::beacon::{BEACON_BYTES, Beacon};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::{
    MeshError,
    limits::{BEACON_INTERVAL, BEACON_INTERVAL_MAX, BEACON_PORT, BEACONS_EAGER},
};

/// Link-local group of Atoll's beacons (transient: RFC 4291 section 2.7).
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0xa701, 0x0001);

/// How soon the next beacon is due. Whoever comes new says so often, and is called by those who hear it; the others need
/// not repeat where they are.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Beacons since there was news.
    beacons: u32,
}

impl Pace {
    /// There is news: beacons come often for a while.
    pub(crate) const fn hurry(&mut self) {
        self.beacons = 0;
    }

    /// Time from a beacon to the next.
    pub(crate) fn next(&mut self) -> Duration {
        self.beacons = self.beacons.saturating_add(1);
        let doublings = self.beacons.saturating_sub(BEACONS_EAGER).min(16);
        BEACON_INTERVAL.saturating_mul(1 << doublings).min(BEACON_INTERVAL_MAX)
    }
}

/// Sends beacons on some interfaces, and hears those of others.
pub(crate) struct Discovery {
    socket: UdpSocket,
    interfaces: Vec<String>,
    /// Index under which each interface joined the group.
    joined: BTreeMap<String, u32>,
    /// What goes wrong, by interface.
    problems: BTreeMap<String, String>,
}

impl Discovery {
    pub(crate) fn open(interfaces: Vec<String>) -> Result<Option<Self>, MeshError> {
        if interfaces.is_empty() {
            return Ok(None);
        }
        let socket = open().map_err(MeshError::Discovery)?;
        Ok(Some(Self { socket, interfaces, joined: BTreeMap::new(), problems: BTreeMap::new() }))
    }

    /// The next beacon of anybody, and where it came from.
    pub(crate) async fn next(&self) -> (SocketAddr, Beacon) {
        let mut buffer = [0; BEACON_BYTES + 1];
        loop {
            match self.socket.recv_from(&mut buffer).await {
                Ok((length, from)) => {
                    if let Some(beacon) = Beacon::parse(&buffer[..length]) {
                        return (from, beacon);
                    }
                }
                // Nothing that could be done about it; the next one may be better.
                Err(error) => tracing::trace!(%error, "no beacon"),
            }
        }
    }

    /// Sends a beacon on every interface. Interfaces may come and go.
    pub(crate) fn send(&mut self, beacon: &Beacon) {
        self.problems.clear();
        for name in &self.interfaces {
            let Some(index) = atoll_os::tun::interface_index(name) else {
                self.joined.remove(name);
                let problem = format!("discovery: there is no interface '{name}'; correct `discovery` or create it");
                self.problems.insert(name.clone(), problem);
                continue;
            };
            if self.joined.get(name) != Some(&index) && self.socket.join_multicast_v6(&GROUP, index).is_ok() {
                self.joined.insert(name.clone(), index);
            }
            let to = SocketAddrV6::new(GROUP, BEACON_PORT, 0, index);
            if let Err(error) = self.socket.try_send_to(&beacon.to_bytes(), to.into()) {
                let problem =
                    format!("discovery: no beacon leaves on '{name}' ({error}); check that it is up and has IPv6");
                self.problems.insert(name.clone(), problem);
            }
        }
    }

    pub(crate) fn problems(&self) -> impl Iterator<Item = &String> {
        self.problems.values()
    }
}

fn open() -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_only_v6(true)?;
    // Several regions on one machine hear the same beacons.
    socket.set_reuse_address(true)?;
    socket.set_multicast_hops_v6(1)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, BEACON_PORT)).into())?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beacons_come_often_while_there_is_news_and_seldom_after_that() {
        let mut pace = Pace::default();
        let seconds = |pace: &mut Pace, count: usize| (0..count).map(|_| pace.next().as_secs()).collect::<Vec<_>>();
        assert_eq!(seconds(&mut pace, 10), [2, 2, 2, 2, 2, 4, 8, 16, 16, 16]);
        pace.hurry();
        assert_eq!(seconds(&mut pace, 6), [2, 2, 2, 2, 2, 4]);
    }
}
