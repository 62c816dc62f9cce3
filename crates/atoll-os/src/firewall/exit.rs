//! A machine that lets nodes of the mesh out to the Internet (an exit), as two nftables tables of one name.
//!
//! ```text
//! from        to                   passes
//! ─────────────────────────────────────────────────────────────────────────────────────
//! IPv6
//! mesh        outside              everything, under an address of this machine (masquerade)
//! outside     mesh                 answers; nobody begins anything from there
//! anywhere    mesh                 nothing with a source that this machine would look for behind another link, nor
//!                                  in 64:ff9b::/96: such packets come from the translator
//! IPv4
//! pool        anywhere else        everything, under an address of this machine
//! mesh        anywhere else        nothing that is not from the pool
//! anywhere    mesh                 answers, also of this machine itself
//! mesh        the machine itself   nothing
//! ```
//!
//! *Outside* is 2000::/3; the *pool* has the IPv4 addresses of guests. Which nodes are let out, and to where, was decided
//! before a packet comes out of the mesh's link. Connections that go out get [`EXIT_MARK`], by which the table of
//! [`Firewall`](super::Firewall) knows them.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::{FirewallError, drop_it, is, is_not, matches, own::check_link, run};

/// The bit in the mark of connections over an exit.
pub(super) const EXIT_MARK: u32 = 0x0400_0000;
const IPV6: &str = "ip6";
const IPV4: &str = "ip";

/// The rules of an exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitFirewall {
    /// The link to the mesh. The tables are named after it.
    pub link: String,
    /// IPv4 addresses of guests: network and length.
    pub pool: (Ipv4Addr, u8),
}

impl ExitFirewall {
    /// Replaces this link's tables by these rules. Must be called in the link's network namespace, on a tokio runtime.
    pub async fn apply(&self) -> Result<(), FirewallError> {
        check_link(&self.link)?;
        run(&table_name(&self.link), &self.transaction()).await
    }

    /// Removes the tables of this link if there are any.
    pub async fn remove(link: &str) -> Result<(), FirewallError> {
        check_link(link)?;
        let commands: Vec<Value> = [IPV6, IPV4]
            .into_iter()
            .map(|family| table(family, link))
            .flat_map(|table| [json!({ "add": table }), json!({ "delete": table })])
            .collect();
        run(&table_name(link), &json!({ "nftables": commands })).await
    }

    /// Everything as one transaction in the JSON of `libnftables-json(5)`.
    fn transaction(&self) -> Value {
        let mut commands = self.ipv6();
        commands.extend(self.ipv4());
        json!({ "nftables": commands })
    }

    fn ipv6(&self) -> Vec<Value> {
        let mesh = [self.link.as_str()];
        let outside = |field: &str| lies_in("ip6", field, "2000::", 3);
        let behind = json!({ "fib": { "result": "oif", "flags": ["saddr", "iif"] } });
        let misplaced = matches("==", behind, json!(false));
        let chain = |name, kind, hook, priority| self.chain(IPV6, name, (kind, hook, priority));
        let rule = |chain, expr| self.rule(IPV6, chain, expr);
        let mut commands = self.empty(IPV6);
        commands.extend([
            // Before the chain of the workloads' table, which looks at the mark.
            chain("forwarding", "filter", "forward", -10),
            rule("forwarding", json!([is("iifname", &mesh), is_not("oifname", &mesh), outside("daddr"), mark()])),
            rule("forwarding", json!([is("oifname", &mesh), outside("saddr"), answers(), { "accept": null }])),
            rule("forwarding", json!([is("oifname", &mesh), outside("saddr"), { "counter": null }, drop_it()])),
            rule(
                "forwarding",
                json!([
                    is("oifname", &mesh),
                    lies_in("ip6", "saddr", "64:ff9b::", 96),
                    { "counter": null },
                    drop_it(),
                ]),
            ),
            // This machine forwards: without this, its neighbours could borrow the addresses of its workloads.
            rule(
                "forwarding",
                json!([is_not("iifname", &mesh), is("oifname", &mesh), misplaced, { "counter": null }, drop_it()]),
            ),
            chain("leaving", "nat", "postrouting", 100),
            rule("leaving", json!([is_not("oifname", &mesh), is_marked(), { "masquerade": null }])),
        ]);
        commands
    }

    fn ipv4(&self) -> Vec<Value> {
        let mesh = [self.link.as_str()];
        let (network, bits) = self.pool;
        let of_guest = || lies_in("ip", "saddr", &network.to_string(), bits);
        let chain = |name, kind, hook, priority| self.chain(IPV4, name, (kind, hook, priority));
        let rule = |chain, expr| self.rule(IPV4, chain, expr);
        let counter = || json!({ "counter": null });
        let mut commands = self.empty(IPV4);
        commands.extend([
            chain("forwarding", "filter", "forward", -10),
            rule("forwarding", json!([is("oifname", &mesh), answers(), { "accept": null }])),
            rule("forwarding", json!([is("oifname", &mesh), counter(), drop_it()])),
            rule("forwarding", json!([is("iifname", &mesh), of_guest(), mark(), { "accept": null }])),
            rule("forwarding", json!([is("iifname", &mesh), counter(), drop_it()])),
            // What this machine itself says to guests is only of their connections: errors.
            chain("leaving_here", "filter", "output", 0),
            rule("leaving_here", json!([is("oifname", &mesh), answers(), { "accept": null }])),
            rule("leaving_here", json!([is("oifname", &mesh), counter(), drop_it()])),
            chain("entering", "filter", "input", 0),
            rule("entering", json!([is("iifname", &mesh), counter(), drop_it()])),
            chain("leaving", "nat", "postrouting", 100),
            rule("leaving", json!([is_not("oifname", &mesh), is_marked(), { "masquerade": null }])),
        ]);
        commands
    }

    /// A new table without anything in it. The first "add" makes sure that there is something to delete.
    fn empty(&self, family: &str) -> Vec<Value> {
        let table = table(family, &self.link);
        vec![json!({ "add": table }), json!({ "delete": table }), json!({ "add": table })]
    }

    fn chain(&self, family: &str, chain: &str, (kind, hook, priority): (&str, &str, i32)) -> Value {
        json!({ "add": { "chain": {
            "family": family, "table": table_name(&self.link), "name": chain, "type": kind, "hook": hook,
            "prio": priority, "policy": "accept",
        } } })
    }

    fn rule(&self, family: &str, chain: &str, expr: Value) -> Value {
        let rule = json!({ "family": family, "table": table_name(&self.link), "chain": chain, "expr": expr });
        json!({ "add": { "rule": rule } })
    }
}

fn lies_in(protocol: &str, field: &str, network: &str, bits: u8) -> Value {
    let prefix = json!({ "prefix": { "addr": network, "len": bits } });
    matches("==", json!({ "payload": { "protocol": protocol, "field": field } }), prefix)
}

/// Packets of connections that are known.
fn answers() -> Value {
    matches("in", json!({ "ct": { "key": "state" } }), json!(["established", "related"]))
}

/// Marks the connection of a packet.
fn mark() -> Value {
    let mark = json!({ "ct": { "key": "mark" } });
    json!({ "mangle": { "key": mark, "value": { "|": [mark, EXIT_MARK] } } })
}

/// Whether the connection of a packet goes over an exit.
pub(super) fn is_marked() -> Value {
    matches("==", json!({ "&": [{ "ct": { "key": "mark" } }, EXIT_MARK] }), json!(EXIT_MARK))
}

/// No suffix of [`Firewall`](super::Firewall) has a hyphen, so that the names of tables never meet.
fn table_name(link: &str) -> String {
    format!("atoll-exit-{link}")
}

fn table(family: &str, link: &str) -> Value {
    json!({ "table": { "family": family, "name": table_name(link) } })
}
