//! Who may talk to the machine itself over the mesh, as one nftables table.
//!
//! ```text
//! from    to                     passes
//! ─────────────────────────────────────────────────────────────────────────────────────────────────────
//! mesh    the machine itself     answers, ICMPv6 errors, echo requests (both at a bounded rate), its open ports
//! mesh    anything else          not looked at: this table has no rule for what is forwarded
//! ```
//!
//! Refused TCP and UDP is answered, at a bounded rate, so that callers fail at once. The table is apart from that of
//! [`Firewall`](super::Firewall): what one of the two drops is dropped, in whichever order they were made.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{FirewallError, drop_it, is, matches, run};
use crate::limits::{
    FIREWALL_ECHOES_PER_SECOND, FIREWALL_ERRORS_PER_SECOND, FIREWALL_OPEN_RANGES_MAX, FIREWALL_REJECTS_PER_SECOND,
    LINK_NAME_BYTES_MAX,
};

const FAMILY: &str = "ip6";
const ICMP_ERRORS: [&str; 4] = ["destination-unreachable", "packet-too-big", "time-exceeded", "parameter-problem"];

/// The rules for what comes to this machine over one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnFirewall {
    /// The link to the mesh. The table is named after it.
    pub link: String,
    /// TCP ports that everybody on the mesh may reach.
    pub tcp: BTreeSet<PortRange>,
    /// UDP ports that everybody on the mesh may reach.
    pub udp: BTreeSet<PortRange>,
}

/// Ports from the first to the last; both belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last, not below the first.
    pub last: u16,
}

impl OwnFirewall {
    /// Replaces this link's table by these rules. Must be called in the link's network namespace, on a tokio runtime.
    pub async fn apply(&self) -> Result<(), FirewallError> {
        self.check()?;
        run(&table_name(&self.link), &self.transaction()).await
    }

    /// Removes the table of this link if there is one.
    pub async fn remove(link: &str) -> Result<(), FirewallError> {
        check_link(link)?;
        let table = table(link);
        run(&table_name(link), &json!({ "nftables": [{ "add": table }, { "delete": table }] })).await
    }

    fn check(&self) -> Result<(), FirewallError> {
        check_link(&self.link)?;
        for ranges in [&self.tcp, &self.udp] {
            if ranges.len() > FIREWALL_OPEN_RANGES_MAX {
                let why = format!("it has more than {FIREWALL_OPEN_RANGES_MAX} entries");
                return Err(FirewallError::Description { what: "list of open ports", why });
            }
            if let Some(range) = ranges.iter().find(|range| range.first > range.last) {
                let why = format!("{}-{} ends before it begins", range.first, range.last);
                return Err(FirewallError::Description { what: "list of open ports", why });
            }
        }
        Ok(())
    }

    /// Everything as one transaction in the JSON of `libnftables-json(5)`.
    fn transaction(&self) -> Value {
        let table = table(&self.link);
        let name = table_name(&self.link);
        let chain = |chain: Value| {
            let mut chain = chain;
            chain["family"] = json!(FAMILY);
            chain["table"] = json!(name);
            json!({ "add": { "chain": chain } })
        };
        let rule = |chain: &str, expr: Vec<Value>| {
            let rule = json!({ "family": FAMILY, "table": name, "chain": chain, "expr": expr });
            json!({ "add": { "rule": rule } })
        };
        // The first "add" makes sure that there is something to delete.
        let mut commands = vec![json!({ "add": table }), json!({ "delete": table }), json!({ "add": table })];
        commands.push(chain(json!({ "name": "own" })));
        commands.extend(self.rules().into_iter().map(|expr| rule("own", expr)));
        let hook = json!({ "name": "input", "type": "filter", "hook": "input", "prio": 0, "policy": "accept" });
        commands.push(chain(hook));
        let link = [self.link.as_str()];
        commands.push(rule("input", vec![is("iifname", &link), json!({ "jump": { "target": "own" } })]));
        json!({ "nftables": commands })
    }

    fn rules(&self) -> Vec<Vec<Value>> {
        let accept = || json!({ "accept": null });
        let drop = || vec![json!({ "counter": null }), drop_it()];
        let kind = |kinds: Value| matches("==", json!({ "payload": { "protocol": "icmpv6", "field": "type" } }), kinds);
        let state = |states: Value| matches("in", json!({ "ct": { "key": "state" } }), states);
        let transport = |name: &str| matches("==", json!({ "meta": { "key": "l4proto" } }), json!(name));
        // Echoes come before answers: the second of a row of requests would count as part of what the first began.
        let mut rules = vec![
            vec![kind(json!("echo-request")), limit(FIREWALL_ECHOES_PER_SECOND), accept()],
            [vec![kind(json!("echo-request"))], drop()].concat(),
            vec![state(json!(["established", "related"])), accept()],
            vec![kind(json!({ "set": ICMP_ERRORS })), limit(FIREWALL_ERRORS_PER_SECOND), accept()],
            // A late segment of a connection that lives must not be answered by a reset.
            [vec![state(json!("invalid"))], drop()].concat(),
        ];
        for (protocol, ranges) in [("tcp", &self.tcp), ("udp", &self.udp)] {
            if !ranges.is_empty() {
                let port = json!({ "payload": { "protocol": protocol, "field": "dport" } });
                rules.push(vec![matches("==", port, json!({ "set": merged(ranges) })), accept()]);
            }
        }
        let reset = json!({ "reject": { "type": "tcp reset" } });
        let unreachable = json!({ "reject": { "type": "icmpv6", "expr": "port-unreachable" } });
        rules.push(vec![transport("tcp"), limit(FIREWALL_REJECTS_PER_SECOND), json!({ "counter": null }), reset]);
        rules.push(vec![transport("udp"), limit(FIREWALL_REJECTS_PER_SECOND), json!({ "counter": null }), unreachable]);
        rules.push(drop());
        rules
    }
}

/// The ranges as nft takes them: it refuses a set whose ranges overlap.
fn merged(ranges: &BTreeSet<PortRange>) -> Vec<Value> {
    let mut merged: Vec<PortRange> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(previous) if range.first <= previous.last.saturating_add(1) => {
                previous.last = previous.last.max(range.last);
            }
            _ => merged.push(*range),
        }
    }
    merged.iter().map(|range| json!({ "range": [range.first, range.last] })).collect()
}

fn limit(per_second: u32) -> Value {
    json!({ "limit": { "rate": per_second, "burst": per_second, "per": "second" } })
}

/// The name becomes part of the table's, and nft takes some signs in it for a pattern.
pub(super) fn check_link(link: &str) -> Result<(), FirewallError> {
    let is_plain = link.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if !link.is_empty() && link.len() <= LINK_NAME_BYTES_MAX && is_plain {
        return Ok(());
    }
    let why = format!("'{link}' is not 1 to {LINK_NAME_BYTES_MAX} letters, digits, '_', '-' and '.'");
    Err(FirewallError::Description { what: "link", why })
}

/// No suffix of [`Firewall`](super::Firewall) has a hyphen, so that the names of tables never meet.
fn table_name(link: &str) -> String {
    format!("atoll-own-{link}")
}

fn table(link: &str) -> Value {
    json!({ "table": { "family": FAMILY, "name": table_name(link) } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(u16, u16)]) -> BTreeSet<PortRange> {
        ranges.iter().map(|(first, last)| PortRange { first: *first, last: *last }).collect()
    }

    #[test]
    fn ranges_that_touch_or_overlap_become_one() {
        let ranges = set(&[(22, 22), (80, 90), (85, 100), (101, 110), (65_535, 65_535), (60_000, 65_535), (1, 1)]);
        let expected = [(1, 1), (22, 22), (80, 110), (60_000, 65_535)];
        assert_eq!(merged(&ranges), expected.map(|(first, last)| json!({ "range": [first, last] })));
    }

    #[test]
    fn what_nft_would_misread_is_refused() {
        let good = OwnFirewall { link: "atoll0".into(), tcp: set(&[(22, 22)]), udp: BTreeSet::new() };
        good.check().expect("it is good");
        for link in ["", "atoll*", "a b", "a\"b", "ähm", "sixteen-letters0"] {
            let error = OwnFirewall { link: link.into(), ..good.clone() }.check().expect_err(link);
            assert!(matches!(error, FirewallError::Description { what: "link", .. }), "{error}");
        }
        let many: Vec<_> = (0..=FIREWALL_OPEN_RANGES_MAX as u16).map(|port| (port, port)).collect();
        for ranges in [&[(2, 1)][..], &many] {
            let error = OwnFirewall { udp: set(ranges), ..good.clone() }.check().expect_err("bad ports");
            assert!(matches!(error, FirewallError::Description { what: "list of open ports", .. }), "{error}");
        }
    }
}
