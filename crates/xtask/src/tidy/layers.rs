//! Dependencies point down only (`ARCHITECTURE.md`, code map).

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result};
use cargo_metadata::{DependencyKind, MetadataCommand};

use super::Finding;

/// Each crate of the house, and the crates of the house that it may depend on.
const HOUSE: &[(&str, &[&str])] = &[
    ("atoll-base", &[]),
    ("atoll-api", &["atoll-base"]),
    ("atoll-mesh-core", &["atoll-base"]),
    ("atoll-ledger-core", &["atoll-base"]),
    ("atoll-light", &["atoll-base"]),
    ("atoll-node-core", &["atoll-base"]),
    ("atoll-os", &["atoll-base"]),
    ("atoll-mesh", &["atoll-base", "atoll-api", "atoll-os", "atoll-mesh-core"]),
    ("atoll-ledger", &["atoll-base", "atoll-api", "atoll-os", "atoll-light", "atoll-ledger-core"]),
    ("atoll-node", &["atoll-base", "atoll-api", "atoll-os", "atoll-light", "atoll-node-core"]),
    ("atoll", &["atoll-base", "atoll-api", "atoll-os", "atoll-light", "atoll-mesh", "atoll-ledger", "atoll-node"]),
    ("atoll-sim", &["atoll-base", "atoll-mesh-core", "atoll-ledger-core", "atoll-node-core"]),
    ("atoll-e2e", &["atoll-base", "atoll-api"]),
    ("xtask", &[]),
];

/// Crates that must stay pure: no runtime, no sockets, no clock, no randomness of their own.
const CORES: &[&str] = &["atoll-base", "atoll-mesh-core", "atoll-ledger-core", "atoll-light", "atoll-node-core"];

/// What no core may depend on.
const IMPURE: &[&str] = &["tokio", "socket2", "rand", "getrandom", "reqwest", "axum", "hyper", "nix", "tracing"];

/// Checks `cargo metadata` against the house.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let house: BTreeMap<_, _> = HOUSE.iter().copied().collect();
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo metadata failed")?;
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let path = Path::new("crates").join(name).join("Cargo.toml");
        let mut find = |what: String| findings.push(Finding { path: path.clone(), line: 0, what });
        let Some(allowed) = house.get(name) else {
            find(format!("crate {name} has no place in the house: add it to ARCHITECTURE.md and to xtask's layers"));
            continue;
        };
        for dependency in package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development) {
            let on = dependency.name.as_str();
            if house.contains_key(on) && !allowed.contains(&on) {
                find(format!(
                    "{name} must not depend on {on}: dependencies point down, and shells meet only through atoll-api"
                ));
            }
            if CORES.contains(&name) && IMPURE.contains(&on) {
                find(format!("{name} is pure and must not depend on {on}: hand it in, or move the code to a shell"));
            }
        }
    }
    Ok(findings)
}
