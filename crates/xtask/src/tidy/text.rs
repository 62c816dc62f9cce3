//! Bans that a look at the text finds.

use std::path::Path;

use super::Finding;

/// A text that must not stand in some files, and what to do instead.
struct Ban {
    /// In pieces, so that this file does not find itself.
    text: &'static [&'static str],
    /// Where it counts.
    scope: Scope,
    /// What to do.
    instead: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Everywhere,
    Rust,
    Cores,
}

const BANS: &[Ban] = &[
    Ban { text: &["todo", "!("], scope: Scope::Rust, instead: "build it, or leave it out" },
    Ban { text: &["unimplemented", "!("], scope: Scope::Rust, instead: "build it, or leave it out" },
    Ban { text: &["dbg", "!("], scope: Scope::Rust, instead: "use tracing" },
    Ban { text: &["Instant::", "now"], scope: Scope::Cores, instead: "a core is handed the time" },
    Ban { text: &["SystemTime::", "now"], scope: Scope::Cores, instead: "a core is handed the time" },
    Ban { text: &["Hash", "Map"], scope: Scope::Cores, instead: "use BTreeMap: its order is the same everywhere" },
    Ban { text: &["Hash", "Set"], scope: Scope::Cores, instead: "use BTreeSet: its order is the same everywhere" },
    Ban { text: &["async ", "fn"], scope: Scope::Cores, instead: "a core is synchronous" },
    Ban { text: &["/ro", "ot/."], scope: Scope::Rust, instead: "no path of a machine belongs into the repository" },
    Ban {
        text: &["/wo", "rk/"],
        scope: Scope::Everywhere,
        instead: "no path of a machine belongs into the repository",
    },
    Ban { text: &["<<<<", "<<<"], scope: Scope::Everywhere, instead: "finish the merge" },
];

const CORES: &[&str] = &["atoll-base", "atoll-mesh-core", "atoll-ledger-core", "atoll-light", "atoll-node-core"];

/// Checks one file.
pub(super) fn check(path: &Path, text: &str) -> Vec<Finding> {
    let is_rust = path.extension().is_some_and(|extension| extension == "rs");
    let in_core = CORES.iter().any(|core| path.starts_with(Path::new("crates").join(core).join("src")));
    let is_lock = path.file_name().is_some_and(|name| name == "Cargo.lock" || name == "package-lock.json");
    let mut findings = Vec::new();
    for ban in BANS {
        let counts = match ban.scope {
            Scope::Everywhere => !is_lock,
            Scope::Rust => is_rust,
            Scope::Cores => is_rust && in_core,
        };
        let banned = ban.text.concat();
        // Tests and comments may name what production code must not use; only cores' tests may.
        let production = if ban.scope == Scope::Cores { before_tests(text) } else { text };
        for (index, line) in production.lines().enumerate().filter(|_| counts) {
            if line.contains(&banned) && !(ban.scope == Scope::Cores && line.trim_start().starts_with("//")) {
                let what = format!("contains '{banned}': {}", ban.instead);
                findings.push(Finding { path: path.to_owned(), line: index + 1, what });
            }
        }
    }
    findings
}

fn before_tests(text: &str) -> &str {
    text.find("#[cfg(test)]").map_or(text, |at| &text[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bans_hold_where_they_count() {
        let clock = ["use std::time::Instant; let t = Instant::", "now();"].concat();
        assert_eq!(check(Path::new("crates/atoll-mesh-core/src/lib.rs"), &clock).len(), 1);
        assert_eq!(check(Path::new("crates/atoll-mesh/src/lib.rs"), &clock).len(), 0);
        let path = ["cd /wo", "rk/x"].concat();
        assert_eq!(check(Path::new("Makefile"), &path).len(), 1);
    }
}
