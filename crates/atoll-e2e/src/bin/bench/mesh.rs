//! The area `mesh`: mesh daemons alone in namespaces, beside other overlays and babeld in the same run.
//!
//! Peers of the same case take turns, so that noise hits all alike. How the cases are made is in `atoll_e2e::mesh`;
//! the goals are those of the project.

mod memory;
mod outage;
mod pair;
mod path;
mod rounds;
mod scale;
mod systems;

use anyhow::Result;
use atoll_e2e::Turn;

use crate::figure::Figure;

/// What is measured together in one lab.
type Case = (&'static str, fn(&Turn) -> Result<Vec<Figure>>);

const CASES: &[Case] = &[
    ("two nodes", pair::measure),
    ("loss", path::loss),
    ("relay", path::relay),
    ("outage", outage::measure),
    ("100 nodes", scale::measure),
    ("memory", memory::measure),
];

/// Measures everything in the area; `BENCH_CASE` takes only the cases whose name contains it.
pub(crate) fn measure() -> Result<Vec<Figure>> {
    let turn = Turn::take()?;
    let wanted = std::env::var("BENCH_CASE").unwrap_or_default();
    for version in systems::versions() {
        println!("mesh: with {version}");
    }
    let mut figures = Vec::new();
    for (name, case) in CASES.iter().filter(|(name, _)| name.contains(&wanted)) {
        println!("mesh: {name}");
        match case(&turn) {
            Ok(measured) => figures.extend(measured),
            Err(error) => {
                // The other cases still count; this one shows as a figure without a value, which meets no goal.
                eprintln!("mesh: {name} could not be measured: {error:#}");
                figures.push(Figure::of(name, "not measured", "-", &[], 50, Some(0.0)));
            }
        }
    }
    Ok(figures)
}
