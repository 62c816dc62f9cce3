//! The name server of this node: authoritative for the region's zone, from what the node verified itself.
//!
//! * `<deployment>.<region>`: the healthy replicas of its web service (of its first service, when it has no web port)
//! * `<service>.<deployment>.<region>`: the healthy replicas of that service
//! * `<8 hex digits>.node.<region>`: a node
//!
//! Only AAAA records exist. Other names in the zone do not exist (NXDOMAIN), names outside are refused.

use std::{collections::BTreeSet, net::Ipv6Addr, str::FromStr as _};

use atoll_base::{MeshAddr, NodeId, RegionId, schema::LeaseState};
use hickory_proto::{
    op::{Header, HeaderCounts, Metadata, OpCode, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::SOA},
};
use hickory_server::{
    net::runtime::Time,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use tokio::sync::watch;

use crate::{
    gateway::route::{address, web_service},
    ledger::Verified,
    limits::{DNS_ANSWERS_MAX, DNS_TTL_S},
    metrics::Metrics,
};

/// Answers questions.
pub(crate) struct Names {
    pub(crate) region: RegionId,
    pub(crate) region_name: String,
    pub(crate) verified: watch::Receiver<Verified>,
    pub(crate) metrics: Metrics,
}

/// What a name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It exists and has these addresses now, possibly none.
    Addresses(Vec<Ipv6Addr>),
    /// It does not exist.
    Absent,
    /// This server does not answer for it.
    Outside,
}

impl Names {
    /// Looks a name up; `name` is in lower case, without the final dot.
    pub(crate) fn look_up(&self, name: &str) -> Answer {
        if name == self.region_name {
            return Answer::Addresses(Vec::new());
        }
        let Some(inner) = name.strip_suffix(&self.region_name).and_then(|rest| rest.strip_suffix('.')) else {
            return Answer::Outside;
        };
        let labels: Vec<&str> = inner.split('.').collect();
        match labels.as_slice() {
            [deployment] => self.service(deployment, None),
            [short, "node"] if short.len() == 8 && short.bytes().all(|c| c.is_ascii_hexdigit()) => self.node(short),
            [service, deployment] => self.service(deployment, Some(service)),
            _ => Answer::Absent,
        }
    }

    fn node(&self, short: &str) -> Answer {
        let view = self.verified.borrow().view();
        let ids = view.nodes.iter().map(|node| NodeId::from(node.id));
        let found: Vec<_> =
            ids.filter(|id| id.short() == short).map(|id| MeshAddr::of(self.region, id).node()).collect();
        if found.is_empty() { Answer::Absent } else { Answer::Addresses(found) }
    }

    fn service(&self, deployment: &str, service: Option<&str>) -> Answer {
        let view = self.verified.borrow().view();
        let Some(deployment) = view.deployments.iter().find(|d| d.name == deployment) else { return Answer::Absent };
        let all = || view.services.range((deployment.id, 0)..=(deployment.id, u32::MAX));
        let index = match service {
            Some(name) => all().find(|(_, s)| s.name == name).map(|((_, index), _)| *index),
            None => web_service(&view, deployment.id, None)
                .map(|(index, _)| index)
                .or_else(|| all().next().map(|((_, index), _)| *index)),
        };
        let Some(index) = index else { return Answer::Absent };
        let mut addresses: BTreeSet<Ipv6Addr> = BTreeSet::new();
        for lease in view.leases.values() {
            let meant = lease.deployment == deployment.id && lease.service == index;
            if meant && lease.state() == LeaseState::Running {
                addresses.extend(address(self.region, lease));
            }
        }
        Answer::Addresses(addresses.into_iter().take(DNS_ANSWERS_MAX).collect())
    }

    /// Serial number of the zone: the region's change counter.
    fn soa(&self) -> Option<Record> {
        let zone = Name::from_str(&format!("{}.", self.region_name)).ok()?;
        let ttl = i32::try_from(DNS_TTL_S).ok()?;
        let serial = u32::try_from(self.verified.borrow().view().change & u64::from(u32::MAX)).ok()?;
        let soa = SOA::new(zone.clone(), zone.clone(), serial, ttl, ttl, ttl, DNS_TTL_S);
        Some(Record::from_rdata(zone, DNS_TTL_S, RData::SOA(soa)))
    }

    async fn answer<R: ResponseHandler>(&self, request: &Request, mut handle: R) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        let mut answers = Vec::new();
        let mut soa = None;
        match request.request_info() {
            _ if request.metadata.op_code != OpCode::Query => metadata.response_code = ResponseCode::NotImp,
            Err(_) => metadata.response_code = ResponseCode::FormErr,
            Ok(info) => {
                let name = info.query.name().to_string();
                let answer = self.look_up(name.trim_end_matches('.'));
                let kind = info.query.query_type();
                metadata.authoritative = answer != Answer::Outside;
                match answer {
                    _ if info.query.query_class() != DNSClass::IN => metadata.response_code = ResponseCode::Refused,
                    Answer::Outside => metadata.response_code = ResponseCode::Refused,
                    Answer::Absent => metadata.response_code = ResponseCode::NXDomain,
                    Answer::Addresses(addresses) if matches!(kind, RecordType::AAAA | RecordType::ANY) => {
                        let owner = info.query.original().name().clone();
                        let record = |a: Ipv6Addr| Record::from_rdata(owner.clone(), DNS_TTL_S, RData::AAAA(a.into()));
                        answers = addresses.into_iter().map(record).collect();
                    }
                    Answer::Addresses(_) => {}
                }
                if metadata.authoritative && answers.is_empty() {
                    soa = self.soa();
                }
            }
        }
        let builder = MessageResponseBuilder::from_message_request(request);
        let response = builder.build(metadata, &answers, [], soa.iter(), []);
        match handle.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "cannot answer a question for a name");
                Header { metadata, counts: HeaderCounts::default() }.into()
            }
        }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Names {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, handle: R) -> ResponseInfo {
        self.metrics.names.inc();
        self.answer(request, handle).await
    }
}

#[cfg(test)]
mod tests;
