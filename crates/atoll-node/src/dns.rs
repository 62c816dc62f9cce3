//! The name server of this node: authoritative for the region's zone, from what the node verified itself.
//!
//! | name | records |
//! |---|---|
//! | `<region>` | TXT `region=` its id |
//! | `<deployment>.<region>` | AAAA: the healthy replicas of its web service (of its first service, when it has no web port); TXT |
//! | `<service>.<deployment>.<region>` | AAAA: the healthy replicas of that service; TXT |
//! | `<replica>.<service>.<deployment>.<region>` | AAAA: that replica, when it is healthy |
//! | `_http._tcp.[<service>.]<deployment>.<region>` | SRV: where its web service listens |
//! | `<8 hex digits>.node.<region>` | AAAA: a node; TXT: its full id and labels |
//! | `….ip6.arpa` | PTR: whose address within the region it is |
//!
//! Other names in these zones do not exist (NXDOMAIN). Names outside go to the owner's resolvers, if he named any, and
//! are refused otherwise.

mod uplink;
mod zone;

use atoll_base::RegionId;
use hickory_proto::{
    op::{Header, HeaderCounts, LowerQuery, Metadata, OpCode, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::SOA},
};
use hickory_server::{
    net::runtime::Time,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use tokio::sync::watch;

use crate::{ledger::Verified, limits::DNS_TTL_S, metrics::Metrics};
pub(crate) use uplink::Uplink;
use zone::{Answer, Zone, domain};

/// Answers questions.
pub(crate) struct Names {
    pub(crate) region: RegionId,
    pub(crate) region_name: String,
    pub(crate) verified: watch::Receiver<Verified>,
    /// Who answers for names outside the region.
    pub(crate) uplink: Uplink,
    pub(crate) metrics: Metrics,
}

/// The records of a response.
#[derive(Default)]
struct Sections {
    answers: Vec<Record>,
    soa: Option<Record>,
    additionals: Vec<Record>,
}

impl Names {
    /// Fills in the answer to one question.
    async fn resolve(&self, query: &LowerQuery, metadata: &mut Metadata) -> Sections {
        let mut sections = Sections::default();
        if query.query_class() != DNSClass::IN {
            metadata.response_code = ResponseCode::Refused;
            return sections;
        }
        let name = query.name().to_string();
        let name = name.trim_end_matches('.');
        let view = self.verified.borrow().view();
        let zone = Zone { region: self.region, name: &self.region_name, view: &view };
        let answer = zone.look_up(name);
        metadata.authoritative = answer != Answer::Outside;
        match answer {
            Answer::Outside => return self.ask_uplink(query, metadata).await,
            Answer::Absent => metadata.response_code = ResponseCode::NXDomain,
            Answer::Known(records) => {
                let kind = query.query_type();
                let owner = query.original().name();
                let wanted = records.into_iter().filter(|data| kind == RecordType::ANY || data.record_type() == kind);
                sections.answers = wanted.map(|data| Record::from_rdata(owner.clone(), DNS_TTL_S, data)).collect();
                sections.additionals = sections.answers.iter().flat_map(|record| targets(&zone, record)).collect();
            }
        }
        if sections.answers.is_empty() {
            sections.soa = soa(&zone.apex(name), view.change);
        }
        sections
    }

    async fn ask_uplink(&self, query: &LowerQuery, metadata: &mut Metadata) -> Sections {
        metadata.recursion_available = self.uplink.is_there();
        if !self.uplink.is_there() || !metadata.recursion_desired {
            metadata.response_code = ResponseCode::Refused;
            return Sections::default();
        }
        let Some(response) = self.uplink.ask(query.original().clone()).await else {
            metadata.response_code = ResponseCode::ServFail;
            return Sections::default();
        };
        let response = response.into_message();
        metadata.response_code = response.metadata.response_code;
        let soa = response.authorities.into_iter().find(|record| record.record_type() == RecordType::SOA);
        Sections { answers: response.answers, soa, additionals: Vec::new() }
    }

    async fn answer<R: ResponseHandler>(&self, request: &Request, mut handle: R) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        let mut sections = Sections::default();
        match request.request_info() {
            _ if request.metadata.op_code != OpCode::Query => metadata.response_code = ResponseCode::NotImp,
            Err(_) => metadata.response_code = ResponseCode::FormErr,
            Ok(info) => sections = self.resolve(info.query, &mut metadata).await,
        }
        let builder = MessageResponseBuilder::from_message_request(request);
        let response = builder.build(metadata, &sections.answers, [], sections.soa.iter(), &sections.additionals);
        match handle.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "cannot answer a question for a name");
                Header { metadata, counts: HeaderCounts::default() }.into()
            }
        }
    }
}

/// Addresses of the host that a SRV record names, so that nobody has to ask for them.
fn targets(zone: &Zone<'_>, record: &Record) -> Vec<Record> {
    let RData::SRV(service) = &record.data else { return Vec::new() };
    let target: &Name = &service.target;
    match zone.look_up(target.to_lowercase().to_string().trim_end_matches('.')) {
        Answer::Known(records) => {
            records.into_iter().map(|data| Record::from_rdata(target.clone(), DNS_TTL_S, data)).collect()
        }
        Answer::Absent | Answer::Outside => Vec::new(),
    }
}

/// Head of a zone. Its serial number is the region's change counter.
fn soa(apex: &str, change: u64) -> Option<Record> {
    let zone = domain(apex)?;
    let ttl = i32::try_from(DNS_TTL_S).ok()?;
    let serial = u32::try_from(change & u64::from(u32::MAX)).ok()?;
    let soa = SOA::new(zone.clone(), zone.clone(), serial, ttl, ttl, ttl, DNS_TTL_S);
    Some(Record::from_rdata(zone, DNS_TTL_S, RData::SOA(soa)))
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
