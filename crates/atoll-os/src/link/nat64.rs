//! What an exit needs of the system to translate between IPv6 and IPv4, besides rules for nftables.

use std::{fs, net::Ipv4Addr, path::Path};

use rtnetlink::{
    RouteMessageBuilder,
    packet_route::route::{RouteAttribute, RouteMetric},
};

use super::{LinkError, Links, SYSCTL_ROOT, kernel_with, write_sysctl};

impl Links {
    /// Routes an IPv4 network to a link, on which packets of at most `mtu` bytes fit. The route ends with the link.
    pub async fn ensure_network_behind(
        &self,
        link: &str,
        (network, bits): (Ipv4Addr, u8),
        mtu: u32,
    ) -> Result<(), LinkError> {
        let index = self.require(link).await?;
        let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(network, bits)
            .output_interface(index)
            .scope(rtnetlink::packet_route::route::RouteScope::Link)
            .build();
        route.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        let what = || format!("route {network}/{bits} to {link}");
        self.handle.route().add(route).replace().execute().await.map_err(kernel_with(what))
    }

    /// Lets the namespace forward IPv4.
    pub fn enable_forwarding_ipv4(&self) -> Result<(), LinkError> {
        self.inside(|| {
            const KEY: &str = "ipv4/ip_forward";
            // To write it sets other parameters too, even if it stays as it is.
            if fs::read_to_string(Path::new(SYSCTL_ROOT).join(KEY)).is_ok_and(|value| value.trim() == "1") {
                return Ok(());
            }
            write_sysctl(KEY, "1")
        })?
    }
}
