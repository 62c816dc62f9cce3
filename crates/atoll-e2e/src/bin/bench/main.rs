//! `make bench`: measures the real binary and prints a table; JSON goes to `target/bench/<area>.json`.
//!
//! Timings on shared machines are noisy: every figure is the median of several runs, with the extremes beside it.

mod figure;
mod mesh;
mod region;

use std::{env, process::ExitCode};

use anyhow::Result;

use crate::figure::Figure;

/// An area's name and what measures it.
type Area = (&'static str, fn() -> Result<Vec<Figure>>);

const AREAS: &[Area] = &[("mesh", mesh::measure), ("region", region::measure)];

fn main() -> Result<ExitCode> {
    let wanted: Vec<String> = env::args().skip(1).filter(|arg| !arg.is_empty()).collect();
    if let Some(unknown) = wanted.iter().find(|name| AREAS.iter().all(|(area, _)| area != name)) {
        let known: Vec<_> = AREAS.iter().map(|(name, _)| *name).collect();
        eprintln!("there is no area '{unknown}': use one of {}", known.join(", "));
        return Ok(ExitCode::from(2));
    }
    for (name, measure) in AREAS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| w == name)) {
        let figures = measure()?;
        figure::write(name, &figures)?;
        println!("{}", figure::table(name, &figures));
    }
    Ok(ExitCode::SUCCESS)
}
