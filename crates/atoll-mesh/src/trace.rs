//! The way to a node: probes with a growing hop limit, several times, and what they found.

use std::{collections::BTreeMap, net::Ipv6Addr, time::Duration};

use atoll_api::mesh::{Hop, HopNode, Trace, TraceRequest};
use atoll_base::NodeId;
use atoll_mesh_core::{ProbeError, limits::TRACE_HOPS_MAX};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    api::{Refusal, Request, ask},
    limits::{TRACE_KEYS_INTERVAL, TRACE_KEYS_MAX, TRACE_PAUSE, TRACE_PROBES_MAX, TRACE_STEP, TRACE_TIMEOUT_MS},
};

/// Who answered a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) address: Ipv6Addr,
    pub(crate) node: Option<NodeId>,
    pub(crate) is_target: bool,
    pub(crate) round_trip: Duration,
}

/// Carries a trace out.
pub(crate) async fn run(requests: &mpsc::Sender<Request>, request: &TraceRequest) -> Result<Trace, Refusal> {
    let TraceRequest { address, probes, timeout_ms } = *request;
    if !(1..=TRACE_PROBES_MAX).contains(&probes) || !TRACE_TIMEOUT_MS.contains(&timeout_ms) {
        return Err(Refusal::WrongTrace);
    }
    let patience = Duration::from_millis(timeout_ms);
    wait_for_keys(requests, address, patience).await?;
    let links = ask(requests, |answer| Request::Links(address, answer)).await?.unwrap_or(1);
    let mut found = Found::new(address, links);
    for _ in 0..probes {
        let next = Instant::now() + TRACE_PAUSE;
        let width = found.width;
        let round = (1..=width).map(|hop| async move {
            let answer = ask(requests, |answer| Request::Probe(address, hop, answer));
            (hop, timeout(patience, answer).await)
        });
        for (hop, answer) in futures::future::join_all(round).await {
            match answer {
                // A way, or keys, that are lost meanwhile are probes that are lost.
                Err(_) | Ok(Ok(Err(_))) => found.add(hop, None),
                Ok(Ok(Ok(answered))) => found.add(hop, Some(answered)),
                Ok(Err(stopping)) => return Err(stopping),
            }
        }
        found.end_round();
        sleep_until(next).await;
    }
    Ok(found.finish())
}

/// Probes until the target has keys; that it has, or that a relay answers, is all that is asked for.
async fn wait_for_keys(requests: &mpsc::Sender<Request>, address: Ipv6Addr, patience: Duration) -> Result<(), Refusal> {
    let begun = Instant::now();
    loop {
        let answer = ask(requests, |answer| Request::Probe(address, TRACE_HOPS_MAX, answer));
        match timeout(patience, answer).await {
            Ok(Ok(Err(ProbeError::NoKeys))) if begun.elapsed() < TRACE_KEYS_MAX => sleep(TRACE_KEYS_INTERVAL).await,
            Ok(Ok(Err(error))) => return Err(Refusal::Probe(error)),
            Ok(Err(stopping)) => return Err(stopping),
            Ok(Ok(Ok(_))) | Err(_) => return Ok(()),
        }
    }
}

/// What the probes found so far.
struct Found {
    address: Ipv6Addr,
    /// Links of the way, as its announcement says.
    links: u8,
    /// Hops that are probed in one round.
    width: u8,
    hops: BTreeMap<u8, Hop>,
}

impl Found {
    fn new(address: Ipv6Addr, links: u8) -> Self {
        let links = links.clamp(1, TRACE_HOPS_MAX);
        Self { address, links, width: links, hops: BTreeMap::new() }
    }

    fn add(&mut self, number: u8, answered: Option<Answered>) {
        let hop = self.hops.entry(number).or_insert_with(|| Hop { hop: number, sent: 0, nodes: Vec::new() });
        hop.sent += 1;
        let Some(Answered { address, node, is_target, round_trip }) = answered else { return };
        let rtt_us = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        let is_same = |known: &&mut HopNode| (known.address, known.node) == (address, node);
        match hop.nodes.iter_mut().find(is_same) {
            Some(known) => {
                known.rtt_us.push(rtt_us);
                known.is_target |= is_target;
            }
            None => hop.nodes.push(HopNode { address, node, is_target, rtt_us: vec![rtt_us] }),
        }
    }

    /// The nearest hop at which the target answered.
    fn target_hop(&self) -> Option<u8> {
        self.hops.values().find(|hop| hop.nodes.iter().any(|node| node.is_target)).map(|hop| hop.hop)
    }

    /// Settles how far the next round goes.
    fn end_round(&mut self) {
        self.width = self.target_hop().unwrap_or(self.width.saturating_add(TRACE_STEP).min(TRACE_HOPS_MAX));
    }

    /// The target's hop, or the last that answered and those that should come after it, is the last.
    fn finish(self) -> Trace {
        let target = self.target_hop();
        let last_heard = self.hops.values().rfind(|hop| !hop.nodes.is_empty()).map_or(0, |hop| hop.hop);
        let last = target.unwrap_or_else(|| last_heard.max(self.links));
        let mut hops: Vec<Hop> = self.hops.into_values().filter(|hop| hop.hop <= last).collect();
        for hop in &mut hops {
            hop.nodes.sort_by_key(|node| core::cmp::Reverse(node.rtt_us.len()));
        }
        Trace { address: self.address, reached: target.is_some(), hops }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(host: u16, is_target: bool) -> Option<Answered> {
        let address = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host);
        let node = Some(NodeId([host as u8; 32]));
        Some(Answered { address, node, is_target, round_trip: Duration::from_micros(u64::from(host)) })
    }

    #[test]
    fn a_trace_ends_where_the_target_answers() {
        let mut found = Found::new(Ipv6Addr::LOCALHOST, 2);
        // The way is longer than announced.
        found.add(1, answered(1, false));
        found.add(2, answered(2, false));
        found.end_round();
        assert_eq!(found.width, 6);
        for (hop, answer) in [(1, answered(1, false)), (2, answered(9, false)), (3, answered(3, true)), (4, None)] {
            found.add(hop, answer);
        }
        found.add(5, answered(3, true));
        found.end_round();
        assert_eq!(found.width, 3);
        found.add(1, None);
        found.add(2, answered(9, false));
        found.add(3, answered(3, true));
        let trace = found.finish();
        assert!(trace.reached);
        let short = |hop: &Hop| (hop.hop, hop.sent, hop.received(), hop.nodes.len());
        assert_eq!(trace.hops.iter().map(short).collect::<Vec<_>>(), [(1, 3, 2, 1), (2, 3, 3, 2), (3, 2, 2, 1)]);
        assert_eq!(trace.hops[1].nodes[0].rtt_us, [9, 9], "who answered most comes first");
    }

    #[test]
    fn silence_is_shown_as_far_as_the_way_should_go() {
        let mut found = Found::new(Ipv6Addr::LOCALHOST, 3);
        for _ in 0..9 {
            for hop in 1..=found.width {
                found.add(hop, if hop == 1 { answered(1, false) } else { None });
            }
            found.end_round();
        }
        assert_eq!(found.width, TRACE_HOPS_MAX);
        let trace = found.finish();
        assert!(!trace.reached);
        let received: Vec<_> = trace.hops.iter().map(|hop| (hop.sent, hop.received())).collect();
        assert_eq!(received, [(9, 9), (9, 0), (9, 0)]);
    }
}
