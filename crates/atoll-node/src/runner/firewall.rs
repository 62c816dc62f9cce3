//! Keeps the node's packet filter in step with the view: who may reach which of its workloads.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

use atoll_base::{LeaseId, RegionId, schema::RegionView};
use atoll_os::firewall::{Firewall, FirewallError, WorkloadRules};
use tokio::sync::Mutex;

use crate::{gateway::route::address, limits::DNS_PORT};

/// A workload that has, or is about to have, a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) host_link: String,
    pub(crate) address: Ipv6Addr,
    /// Port of its health check.
    pub(crate) health_port: Option<u16>,
}

/// The filter of this node, and what was applied last.
pub(crate) struct Filter {
    region: RegionId,
    suffix: String,
    mesh_link: String,
    applied: Mutex<Option<Firewall>>,
}

impl Filter {
    pub(crate) fn new(region: RegionId, suffix: String, mesh_link: String) -> Self {
        Self { region, suffix, mesh_link, applied: Mutex::default() }
    }

    /// Makes the filter what view and members say; does nothing when it is so already.
    pub(crate) async fn apply(
        &self,
        view: &RegionView,
        members: &BTreeMap<LeaseId, Member>,
    ) -> Result<(), FirewallError> {
        let wanted = self.describe(view, members);
        let mut applied = self.applied.lock().await;
        if applied.as_ref() == Some(&wanted) {
            return Ok(());
        }
        wanted.apply().await?;
        *applied = Some(wanted);
        Ok(())
    }

    /// Takes the filter away: this node has no workloads any more.
    pub(crate) async fn remove(&self) -> Result<(), FirewallError> {
        let mut applied = self.applied.lock().await;
        if applied.take().is_some() {
            Firewall::remove(&self.suffix).await?;
        }
        Ok(())
    }

    fn describe(&self, view: &RegionView, members: &BTreeMap<LeaseId, Member>) -> Firewall {
        let workloads = members.iter().map(|(lease, member)| self.rules(view, *lease, member)).collect();
        Firewall {
            suffix: self.suffix.clone(),
            mesh_link: self.mesh_link.clone(),
            node_ports: BTreeSet::from([DNS_PORT]),
            workloads,
        }
    }

    fn rules(&self, view: &RegionView, lease: LeaseId, member: &Member) -> WorkloadRules {
        let record = view.leases.get(&lease.0);
        let service = record.and_then(|lease| view.services.get(&(lease.deployment, lease.service)));
        let mut open_ports: BTreeSet<u16> = service.iter().flat_map(|s| s.open_ports.iter().copied()).collect();
        open_ports.extend(service.map(|s| s.http_port).filter(|port| *port != 0));
        let siblings = |deployment: u64| view.leases.values().filter(move |other| other.deployment == deployment);
        let peers = record
            .into_iter()
            .flat_map(|record| siblings(record.deployment))
            .filter_map(|other| address(self.region, other))
            .filter(|peer| *peer != member.address)
            .collect();
        WorkloadRules {
            host_link: member.host_link.clone(),
            address: member.address,
            peers,
            open_ports,
            node_only_ports: member.health_port.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use atoll_base::{MeshAddr, NodeId, schema::LeaseState};

    use super::*;
    use crate::gateway::tests::{lease, view};

    #[test]
    fn only_siblings_and_declared_ports_pass() {
        let region = RegionId([9; 32]);
        let mut stranger = lease(3, 3, LeaseState::Running, "");
        stranger.deployment = 2;
        let sibling = lease(2, 2, LeaseState::Starting, "");
        let view = view(vec![lease(1, 1, LeaseState::Running, ""), sibling, stranger]).view();
        let own = MeshAddr::of(region, NodeId([1; 32])).host(2);
        let member = Member { host_link: "at1".into(), address: own, health_port: Some(9) };
        let filter = Filter::new(region, "n".into(), "atoll0".into());
        let described = filter.describe(&view, &BTreeMap::from([(LeaseId(1), member)]));
        let rules = &described.workloads[0];
        assert_eq!(rules.peers, BTreeSet::from([MeshAddr::of(region, NodeId([2; 32])).host(2)]));
        assert_eq!(rules.open_ports, BTreeSet::from([8000]));
        assert_eq!(rules.node_only_ports, BTreeSet::from([9]));
    }
}
