//! The scheduler: which node runs what. A pure function of nodes and requests.
//!
//! A node is *fit* if it is online, has all the labels that the service asks for and enough of everything free. Of the
//! fit nodes the one is chosen that
//!
//! 1. has the fewest replicas of the same service,
//! 2. has the least left over afterwards (best fit, so that big gaps stay open for big services),
//! 3. has the lowest id.
//!
//! A standby is another node, of another provider where there is one, and otherwise chosen in the same way. It reserves
//! nothing: whether it still fits is looked at when it is to take over.

use std::collections::BTreeMap;

use alloy_primitives::B256;
use atoll_base::{
    NodeId,
    schema::{Capacity, NodeRecord},
};

/// Nodes by id.
pub type Nodes = BTreeMap<B256, NodeRecord>;

/// How many replicas of the service in question are on a node.
pub type Replicas = BTreeMap<B256, u32>;

/// What one replica of a service asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The service's name, for the reason of a refusal.
    pub name: String,
    /// How many replicas.
    pub replicas: u32,
    /// What each needs.
    pub needs: Capacity,
    /// Labels that its node must have.
    pub constraints: Vec<String>,
}

/// Where one replica goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Which request.
    pub service: u32,
    /// Which of its replicas.
    pub replica: u32,
    /// Who runs it.
    pub node: B256,
    /// Who takes over; zero when nobody can.
    pub standby: B256,
}

/// No node fits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Shortage {
    /// Which request.
    pub service: u32,
    /// What is missing, and where the nearest fit is.
    pub why: String,
}

/// Places all replicas of all requests, in their order, or none.
pub fn place_all(nodes: &Nodes, requests: &[Request]) -> Result<Vec<Placed>, Shortage> {
    let mut nodes = nodes.clone();
    let mut placed = Vec::new();
    let mut on: Vec<Replicas> = vec![Replicas::new(); requests.len()];
    for (service, request) in (0u32..).zip(requests) {
        for replica in 0..request.replicas {
            let replicas = &mut on[service as usize];
            let Some(node) = best(&nodes, request, replicas) else {
                return Err(Shortage { service, why: shortage(&nodes, request, replica) });
            };
            if let Some(record) = nodes.get_mut(&node) {
                record.used = sum(record.used, request.needs);
            }
            *replicas.entry(node).or_default() += 1;
            placed.push(Placed { service, replica, node, standby: B256::ZERO });
        }
    }
    // Only now, so that no standby is chosen that the deployment itself fills up.
    for place in &mut placed {
        let at = place.service as usize;
        place.standby = standby(&nodes, &requests[at], place.node, &on[at]).unwrap_or_default();
    }
    Ok(placed)
}

/// The node for one more replica.
pub fn best(nodes: &Nodes, request: &Request, replicas: &Replicas) -> Option<B256> {
    let fit = nodes.values().filter(|node| fits(node, request));
    fit.min_by_key(|node| rank(node, request, replicas)).map(|node| node.id)
}

/// The standby for a replica that `active` runs.
pub fn standby(nodes: &Nodes, request: &Request, active: B256, replicas: &Replicas) -> Option<B256> {
    let provider = nodes.get(&active).map(|node| node.provider);
    let fit = nodes.values().filter(|node| node.id != active && fits(node, request));
    fit.min_by_key(|node| (Some(node.provider) == provider, rank(node, request, replicas))).map(|node| node.id)
}

/// Whether a node can take one more replica.
pub fn fits(node: &NodeRecord, request: &Request) -> bool {
    node.online && lacks_label(node, request).is_none() && missing(node, request) == Capacity::default()
}

/// What is not in use.
pub fn free(node: &NodeRecord) -> Capacity {
    // A node may have lowered its offer below what runs on it.
    less(node.total, node.used)
}

/// `a + b`. Sums of what fits a node's total cannot overflow; the cap is for totals at the end of the range.
pub(crate) fn sum(a: Capacity, b: Capacity) -> Capacity {
    Capacity {
        cpu_milli: a.cpu_milli.saturating_add(b.cpu_milli),
        memory_bytes: a.memory_bytes.saturating_add(b.memory_bytes),
        disk_bytes: a.disk_bytes.saturating_add(b.disk_bytes),
    }
}

/// `a - b`, not below zero.
pub(crate) fn less(a: Capacity, b: Capacity) -> Capacity {
    Capacity {
        cpu_milli: a.cpu_milli.saturating_sub(b.cpu_milli),
        memory_bytes: a.memory_bytes.saturating_sub(b.memory_bytes),
        disk_bytes: a.disk_bytes.saturating_sub(b.disk_bytes),
    }
}

/// How much more a node would have to offer. One that offers less than it uses takes nothing more of that.
fn missing(node: &NodeRecord, request: &Request) -> Capacity {
    less(sum(node.used, request.needs), node.total)
}

fn rank(node: &NodeRecord, request: &Request, replicas: &Replicas) -> (u32, u128, B256) {
    let left = less(free(node), request.needs);
    (replicas.get(&node.id).copied().unwrap_or(0), share(left, node.total), node.id)
}

/// Parts of a whole in millionths, added up over cores, memory and disk.
fn share(part: Capacity, whole: Capacity) -> u128 {
    let of = |part: u64, whole: u64| u128::from(part) * 1_000_000 / u128::from(whole.max(1));
    of(part.cpu_milli, whole.cpu_milli)
        + of(part.memory_bytes, whole.memory_bytes)
        + of(part.disk_bytes, whole.disk_bytes)
}

fn lacks_label<'a>(node: &NodeRecord, request: &'a Request) -> Option<&'a String> {
    request.constraints.iter().find(|wanted| !node.labels.contains(wanted))
}

/// Says what is missing, and where the nearest fit is.
fn shortage(nodes: &Nodes, request: &Request, replica: u32) -> String {
    let name = &request.name;
    let which = match request.replicas {
        1 => format!("service {name}"),
        all => format!("replica {} of {all} of service {name}", replica + 1),
    };
    let online = || nodes.values().filter(|node| node.online);
    if online().next().is_none() {
        return format!("{which} cannot be placed: none of the region's {} nodes is online", nodes.len());
    }
    let labelled = online().filter(|node| lacks_label(node, request).is_none());
    let nearest = labelled.min_by_key(|node| (share(missing(node, request), request.needs), node.id));
    let Some(nearest) = nearest else {
        // The node that lacks the fewest labels.
        let lacking = |node: &NodeRecord| request.constraints.iter().filter(|l| !node.labels.contains(l)).count();
        let nearest = online().min_by_key(|node| (lacking(node), node.id));
        let hint = nearest.and_then(|node| Some((node, lacks_label(node, request)?)));
        return match hint {
            Some((node, label)) => {
                format!("{which} needs the label {label}; the nearest fit is node {}, which lacks it", short(node.id))
            }
            None => format!("{which} needs labels that no node has"),
        };
    };
    let lacking = missing(nearest, request);
    let (left, total) = (free(nearest), nearest.total);
    let mut needed = Vec::new();
    let mut there = Vec::new();
    if lacking.cpu_milli > 0 {
        needed.push(format!("{} cores", cores(request.needs.cpu_milli)));
        there.push(format!("{} of {} cores", cores(left.cpu_milli), cores(total.cpu_milli)));
    }
    if lacking.memory_bytes > 0 {
        needed.push(format!("{} of memory", bytes(request.needs.memory_bytes)));
        there.push(format!("{} of {} of memory", bytes(left.memory_bytes), bytes(total.memory_bytes)));
    }
    if lacking.disk_bytes > 0 {
        needed.push(format!("{} of disk", bytes(request.needs.disk_bytes)));
        there.push(format!("{} of {} of disk", bytes(left.disk_bytes), bytes(total.disk_bytes)));
    }
    let (needed, there) = (needed.join(" and "), there.join(" and "));
    format!("{which} needs {needed}; the nearest fit is node {} with {there} free", short(nearest.id))
}

pub(crate) fn short(node: B256) -> String {
    NodeId::from(node).short()
}

fn cores(milli: u64) -> String {
    decimal(u128::from(milli), 1000)
}

fn bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.into_iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => format!("{} {unit}", decimal(u128::from(bytes), u128::from(size))),
        None => format!("{bytes} B"),
    }
}

/// `value / unit` with up to two decimals, cut, not rounded: "2 of 4 free" must never promise what is not there.
fn decimal(value: u128, unit: u128) -> String {
    let hundredths = value * 100 / unit;
    let text = format!("{}.{:02}", hundredths / 100, hundredths % 100);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests;
