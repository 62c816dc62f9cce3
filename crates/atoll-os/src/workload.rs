//! The network of one workload: a namespace of its own, joined to the node's by a pair of links.
//!
//! ```text
//! node's namespace                      workload's namespace
//!   <host_link>  fe80::1  ══ veth ══  eth0  <address>/128, default via fe80::1
//!   route <address>/128 dev <host_link>
//! ```
//! For a micro-VM the far end is not addressed: a bridge joins it to the TAP link of the VM, and the guest's `eth0`
//! takes the address instead.

use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::{
    link::{LinkError, Links, Route},
    netns::NetNs,
};

/// What every workload sees as its router.
pub const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The workload's link, in its namespace or in its guest.
pub const WORKLOAD_LINK: &str = "eth0";
/// The TAP link of a micro-VM, in the workload's namespace.
pub const TAP_LINK: &str = "tap0";
/// Joins [`WORKLOAD_LINK`] and [`TAP_LINK`] in the namespace of a micro-VM.
pub const BRIDGE_LINK: &str = "br0";

/// How a workload is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadNetwork {
    /// Name of its network namespace, unique on the machine.
    pub namespace: String,
    /// Name of its link in the node's namespace, unique there, at most 15 bytes.
    pub host_link: String,
    /// Its mesh address.
    pub address: Ipv6Addr,
    /// Largest packet: what the mesh carries.
    pub mtu: u32,
    /// Whether a micro-VM will use it (see the module's picture).
    pub micro_vm: bool,
}

impl WorkloadNetwork {
    /// Makes all of it so, and forwarding on. Must be called on a tokio runtime, in the node's namespace.
    pub async fn ensure(&self) -> Result<NetNs, LinkError> {
        let namespace = NetNs::ensure(&self.namespace).map_err(LinkError::Namespace)?;
        let host = Links::here()?;
        host.enable_forwarding()?;
        host.ensure_veth(&self.host_link, &namespace, WORKLOAD_LINK).await?;
        host.set_sysctl(&format!("ipv6/conf/{}/disable_ipv6", self.host_link), "0")?;
        host.set_sysctl(&format!("ipv6/conf/{}/accept_ra", self.host_link), "0")?;
        host.set_sysctl(&format!("ipv6/conf/{}/accept_dad", self.host_link), "0")?;
        host.ensure_mtu(&self.host_link, self.mtu).await?;
        host.ensure_address(&self.host_link, IpAddr::V6(GATEWAY), 64).await?;
        host.ensure_up(&self.host_link).await?;
        host.ensure_route(&Route::host(self.address.into(), &self.host_link)).await?;

        let inside = Links::of(&namespace)?;
        inside.ensure_mtu(WORKLOAD_LINK, self.mtu).await?;
        if self.micro_vm {
            self.ensure_bridged(&inside).await?;
        } else {
            self.ensure_addressed(&inside).await?;
        }
        Ok(namespace)
    }

    /// Removes all of it. A shim that still runs keeps the namespace alive, but nobody reaches it any more.
    pub async fn remove(&self) -> Result<(), LinkError> {
        Links::here()?.remove(&self.host_link).await?;
        Ok(NetNs::remove(&self.namespace)?)
    }

    async fn ensure_addressed(&self, inside: &Links) -> Result<(), LinkError> {
        inside.set_sysctl("ipv6/conf/all/disable_ipv6", "0")?;
        // As in Docker: a program need not be root to listen on port 80 of a machine that is its own.
        inside.set_sysctl("ipv4/ip_unprivileged_port_start", "0")?;
        inside.set_sysctl(&format!("ipv6/conf/{WORKLOAD_LINK}/accept_dad"), "0")?;
        inside.set_sysctl(&format!("ipv6/conf/{WORKLOAD_LINK}/accept_ra"), "0")?;
        inside.ensure_address(WORKLOAD_LINK, self.address.into(), 128).await?;
        inside.ensure_up(WORKLOAD_LINK).await?;
        inside.ensure_route(&Route::default_via(GATEWAY, WORKLOAD_LINK)).await
    }

    async fn ensure_bridged(&self, inside: &Links) -> Result<(), LinkError> {
        // The namespace only passes frames on: it must not answer for itself.
        inside.set_sysctl("ipv6/conf/all/disable_ipv6", "1")?;
        inside.set_sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        inside.ensure_bridge(BRIDGE_LINK).await?;
        inside.ensure_tap(TAP_LINK).await?;
        for link in [WORKLOAD_LINK, TAP_LINK] {
            inside.ensure_port(link, BRIDGE_LINK).await?;
            inside.ensure_mtu(link, self.mtu).await?;
            inside.ensure_up(link).await?;
        }
        inside.ensure_up(BRIDGE_LINK).await
    }
}
