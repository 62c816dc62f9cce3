//! What stands in the region's zone, and in the zone of its addresses: derived from the verified view, nothing else.

use std::{collections::BTreeSet, net::Ipv6Addr, str::FromStr as _};

use atoll_base::{
    MeshAddr, NodeId, RegionId, RegionPrefix,
    schema::{DeploymentRecord, LeaseRecord, LeaseState, NodeRecord, RegionView, ServiceRecord},
};
use hickory_proto::rr::{
    Name, RData,
    rdata::{PTR, SRV, TXT},
};

use crate::{
    gateway::route::{address, web_service},
    limits::{DNS_ANSWERS_MAX, DNS_TEXT_BYTES_MAX},
};

/// The zone as of one view.
pub(super) struct Zone<'a> {
    pub(super) region: RegionId,
    /// The region's name, the top of the zone.
    pub(super) name: &'a str,
    pub(super) view: &'a RegionView,
}

/// What a name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It exists and has these records now, of all types, possibly none.
    Known(Vec<RData>),
    /// It does not exist.
    Absent,
    /// This zone does not answer for it.
    Outside,
}

impl Zone<'_> {
    /// Looks a name up; it is in lower case, without the final dot.
    pub(super) fn look_up(&self, name: &str) -> Answer {
        if let Some(rest) = name.strip_suffix("ip6.arpa").filter(|_| self.is_reverse(name)) {
            return self.pointer(rest);
        }
        if name == self.name {
            return Answer::Known(vec![text([format!("region={}", self.region)])]);
        }
        let Some(inner) = name.strip_suffix(self.name).and_then(|rest| rest.strip_suffix('.')) else {
            return Answer::Outside;
        };
        let labels: Vec<&str> = inner.split('.').collect();
        match labels[..] {
            ["_tcp", deployment] => without_records(self.web(deployment, None)),
            ["_tcp", service, deployment] => without_records(self.web(deployment, Some(service))),
            ["_http", "_tcp", deployment] => self.web(deployment, None),
            ["_http", "_tcp", service, deployment] => self.web(deployment, Some(service)),
            [short, "node"] if short.len() == 8 && short.bytes().all(|c| c.is_ascii_hexdigit()) => self.node(short),
            [deployment] => self.deployment(deployment),
            [service, deployment] => self.service(deployment, service),
            [replica, service, deployment] => self.replica(deployment, service, replica),
            _ => Answer::Absent,
        }
    }

    /// The name of the zone in which a name lies: the region's, or that of its addresses.
    pub(super) fn apex(&self, name: &str) -> String {
        if self.is_reverse(name) { reverse_zone(self.region) } else { self.name.to_owned() }
    }

    fn is_reverse(&self, name: &str) -> bool {
        let zone = reverse_zone(self.region);
        name == zone || name.strip_suffix(&zone).is_some_and(|rest| rest.ends_with('.'))
    }

    fn node(&self, short: &str) -> Answer {
        let meant: Vec<&NodeRecord> =
            self.view.nodes.iter().filter(|node| NodeId::from(node.id).short() == short).collect();
        if meant.is_empty() {
            return Answer::Absent;
        }
        let mut records = Vec::new();
        for node in meant {
            let id = NodeId::from(node.id);
            records.push(RData::AAAA(MeshAddr::of(self.region, id).node().into()));
            records.push(text([format!("node={id}"), format!("online={}", node.online)]));
            records.extend(node.labels.iter().map(|label| text([label.clone()])));
        }
        Answer::Known(records)
    }

    fn deployment(&self, name: &str) -> Answer {
        let Some(deployment) = self.deployment_called(name) else { return Answer::Absent };
        let services = self.services(deployment);
        let main = web_service(self.view, deployment.id, None)
            .map(|(index, _)| index)
            .or_else(|| services.first().map(|(index, _)| *index));
        let mut records = main.map_or(Vec::new(), |index| self.addresses(deployment, index));
        records.push(text([format!("deployment={}", deployment.id), format!("owner={}", deployment.owner)]));
        records.extend(services.iter().map(|(_, service)| text([format!("service={}", service.name)])));
        Answer::Known(records)
    }

    fn service(&self, deployment: &str, service: &str) -> Answer {
        let Some((deployment, index, service)) = self.service_called(deployment, service) else {
            return Answer::Absent;
        };
        let mut records = self.addresses(deployment, index);
        records.push(text([format!("service={}", service.name), format!("replicas={}", service.replicas)]));
        records.extend(service.open_ports.iter().map(|port| text([format!("open-port={port}")])));
        Answer::Known(records)
    }

    fn replica(&self, deployment: &str, service: &str, replica: &str) -> Answer {
        // Only the usual form of a number is a name: `01` is not.
        let number = replica.parse::<u32>().ok().filter(|number| number.to_string() == replica);
        let Some((number, (deployment, index, service))) = number.zip(self.service_called(deployment, service)) else {
            return Answer::Absent;
        };
        if number >= service.replicas {
            return Answer::Absent;
        }
        let running = self.running(deployment, index).filter(|lease| lease.replica == number);
        Answer::Known(running.filter_map(|lease| Some(RData::AAAA(address(self.region, lease)?.into()))).collect())
    }

    /// Where a web service listens: one SRV record (RFC 2782) for each healthy replica.
    fn web(&self, deployment: &str, service: Option<&str>) -> Answer {
        let Some(record) = self.deployment_called(deployment) else { return Answer::Absent };
        let Some((index, found)) = web_service(self.view, record.id, service) else { return Answer::Absent };
        let target = |lease: &LeaseRecord| {
            let target = domain(&format!("{}.{}.{deployment}.{}", lease.replica, found.name, self.name))?;
            Some(RData::SRV(SRV::new(0, 0, found.http_port, target)))
        };
        Answer::Known(self.running(record, index).filter_map(target).take(DNS_ANSWERS_MAX).collect())
    }

    /// Whose address this is; `digits` are its hexadecimal digits, the last first, with a dot after each.
    fn pointer(&self, digits: &str) -> Answer {
        let digits: Vec<&str> = digits.split_terminator('.').collect();
        let is_digit = |digit: &&str| digit.len() == 1 && digit.bytes().all(|c| c.is_ascii_hexdigit());
        if digits.len() > 32 || !digits.iter().all(is_digit) {
            return Answer::Absent;
        }
        if digits.len() < 32 {
            // A name above addresses. Whether there are any below is not worth a search.
            return Answer::Known(Vec::new());
        }
        let number = digits.iter().rev().copied().collect::<String>();
        let Ok(bits) = u128::from_str_radix(&number, 16) else { return Answer::Absent };
        self.name_of(Ipv6Addr::from_bits(bits))
            .and_then(|name| domain(&name))
            .map_or(Answer::Absent, |name| Answer::Known(vec![RData::PTR(PTR(name))]))
    }

    fn name_of(&self, address_sought: Ipv6Addr) -> Option<String> {
        let network = MeshAddr::containing(address_sought);
        let ids = self.view.nodes.iter().map(|node| NodeId::from(node.id));
        let node = ids.into_iter().find(|id| MeshAddr::of(self.region, *id) == network)?;
        if network.node() == address_sought {
            return Some(format!("{}.node.{}", node.short(), self.name));
        }
        let is_meant = |lease: &&LeaseRecord| {
            lease.state() == LeaseState::Running && address(self.region, lease) == Some(address_sought)
        };
        let lease = self.view.leases.values().find(is_meant)?;
        let deployment = self.view.deployments.iter().find(|deployment| deployment.id == lease.deployment)?;
        let service = self.view.services.get(&(lease.deployment, lease.service))?;
        Some(format!("{}.{}.{}.{}", lease.replica, service.name, deployment.name, self.name))
    }

    fn deployment_called(&self, name: &str) -> Option<&DeploymentRecord> {
        self.view.deployments.iter().find(|deployment| deployment.name == name)
    }

    fn services(&self, deployment: &DeploymentRecord) -> Vec<(u32, &ServiceRecord)> {
        let all = self.view.services.range((deployment.id, 0)..=(deployment.id, u32::MAX));
        all.map(|((_, index), service)| (*index, service)).collect()
    }

    fn service_called(&self, deployment: &str, name: &str) -> Option<(&DeploymentRecord, u32, &ServiceRecord)> {
        let deployment = self.deployment_called(deployment)?;
        let (index, service) = self.services(deployment).into_iter().find(|(_, service)| service.name == name)?;
        Some((deployment, index, service))
    }

    /// The healthy replicas of a service.
    fn running(&self, deployment: &DeploymentRecord, service: u32) -> impl Iterator<Item = &LeaseRecord> {
        let deployment = deployment.id;
        self.view.leases.values().filter(move |lease| {
            lease.deployment == deployment && lease.service == service && lease.state() == LeaseState::Running
        })
    }

    fn addresses(&self, deployment: &DeploymentRecord, service: u32) -> Vec<RData> {
        let addresses = self.running(deployment, service).filter_map(|lease| address(self.region, lease));
        let addresses: BTreeSet<Ipv6Addr> = addresses.collect();
        addresses.into_iter().take(DNS_ANSWERS_MAX).map(|address| RData::AAAA(address.into())).collect()
    }
}

/// A TXT record of these strings, each cut to what one may have (RFC 1035 section 3.3).
fn text<const N: usize>(strings: [String; N]) -> RData {
    let cut = |mut string: String| {
        string.truncate(string.floor_char_boundary(DNS_TEXT_BYTES_MAX));
        string
    };
    RData::TXT(TXT::new(strings.into_iter().map(cut).collect()))
}

/// What is known of the name above a name.
fn without_records(below: Answer) -> Answer {
    match below {
        Answer::Known(_) => Answer::Known(Vec::new()),
        other => other,
    }
}

/// A full name.
pub(super) fn domain(name: &str) -> Option<Name> {
    Name::from_str(&format!("{name}.")).ok()
}

/// The zone of a region's addresses: its /48 under `ip6.arpa` (RFC 3596 section 2.5).
fn reverse_zone(region: RegionId) -> String {
    let octets = RegionPrefix::of(region).0;
    let digits = octets.iter().rev().map(|octet| format!("{:x}.{:x}.", octet & 0xf, octet >> 4));
    format!("{}ip6.arpa", digits.collect::<String>())
}
