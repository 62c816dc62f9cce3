//! A machine that lets nodes of the mesh out to the Internet (an exit), as one nftables table.
//!
//! ```text
//! from        to          passes
//! ─────────────────────────────────────────────────────────────────────────────────────
//! mesh        outside     everything, under an address of this machine (masquerade)
//! outside     mesh        answers; nobody begins anything from there
//! anywhere    mesh        nothing with a source that this machine would look for behind another link
//! ```
//!
//! *Outside* is 2000::/3. Which nodes are let out, and to where, was decided before a packet comes out of the mesh's
//! link. Connections that go out get [`EXIT_MARK`], by which the table of [`Firewall`](super::Firewall) knows them.

use serde_json::{Value, json};

use super::{FirewallError, drop_it, is, is_not, matches, own::check_link, run};

/// The bit in the mark of connections over an exit.
pub(super) const EXIT_MARK: u32 = 0x0400_0000;
const FAMILY: &str = "ip6";

/// The rules of an exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitFirewall {
    /// The link to the mesh. The table is named after it.
    pub link: String,
}

impl ExitFirewall {
    /// Replaces this link's table by these rules. Must be called in the link's network namespace, on a tokio runtime.
    pub async fn apply(&self) -> Result<(), FirewallError> {
        check_link(&self.link)?;
        run(&table_name(&self.link), &self.transaction()).await
    }

    /// Removes the table of this link if there is one.
    pub async fn remove(link: &str) -> Result<(), FirewallError> {
        check_link(link)?;
        let table = table(link);
        run(&table_name(link), &json!({ "nftables": [{ "add": table }, { "delete": table }] })).await
    }

    /// Everything as one transaction in the JSON of `libnftables-json(5)`.
    fn transaction(&self) -> Value {
        let table = table(&self.link);
        let name = table_name(&self.link);
        let chain = |chain: &str, kind: &str, hook: &str, priority: i32| {
            json!({ "add": { "chain": {
                "family": FAMILY, "table": name, "name": chain, "type": kind, "hook": hook, "prio": priority,
                "policy": "accept",
            } } })
        };
        let rule = |chain: &str, expr: Value| {
            let rule = json!({ "family": FAMILY, "table": name, "chain": chain, "expr": expr });
            json!({ "add": { "rule": rule } })
        };
        let mesh = [self.link.as_str()];
        let outside = |field: &str| {
            let prefix = json!({ "prefix": { "addr": "2000::", "len": 3 } });
            matches("==", json!({ "payload": { "protocol": "ip6", "field": field } }), prefix)
        };
        let mark = json!({ "ct": { "key": "mark" } });
        let marked = json!({ "mangle": { "key": mark, "value": { "|": [mark, EXIT_MARK] } } });
        let answers = matches("in", json!({ "ct": { "key": "state" } }), json!(["established", "related"]));
        let behind = json!({ "fib": { "result": "oif", "flags": ["saddr", "iif"] } });
        let misplaced = matches("==", behind, json!(false));
        let commands = [
            // The first "add" makes sure that there is something to delete.
            json!({ "add": table }),
            json!({ "delete": table }),
            json!({ "add": table }),
            // Before the chain of the workloads' table, which looks at the mark.
            chain("forwarding", "filter", "forward", -10),
            rule("forwarding", json!([is("iifname", &mesh), is_not("oifname", &mesh), outside("daddr"), marked])),
            rule("forwarding", json!([is("oifname", &mesh), outside("saddr"), answers, { "accept": null }])),
            rule("forwarding", json!([is("oifname", &mesh), outside("saddr"), { "counter": null }, drop_it()])),
            // This machine forwards: without this, its neighbours could borrow the addresses of its workloads.
            rule(
                "forwarding",
                json!([is_not("iifname", &mesh), is("oifname", &mesh), misplaced, { "counter": null }, drop_it()]),
            ),
            chain("leaving", "nat", "postrouting", 100),
            rule("leaving", json!([is_not("oifname", &mesh), is_marked(), { "masquerade": null }])),
        ];
        json!({ "nftables": commands })
    }
}

/// Whether the connection of a packet goes over an exit.
pub(super) fn is_marked() -> Value {
    matches("==", json!({ "&": [{ "ct": { "key": "mark" } }, EXIT_MARK] }), json!(EXIT_MARK))
}

/// No suffix of [`Firewall`](super::Firewall) has a hyphen, so that the names of tables never meet.
fn table_name(link: &str) -> String {
    format!("atoll-exit-{link}")
}

fn table(link: &str) -> Value {
    json!({ "table": { "family": FAMILY, "name": table_name(link) } })
}
