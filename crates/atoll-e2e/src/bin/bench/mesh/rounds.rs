//! Measurements by turns.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::systems::{System, Tunnel};
use crate::figure::Figure;

/// What each system showed in each round, `N` values a time; not a number where it failed.
pub(super) struct Rounds<const N: usize> {
    case: String,
    samples: BTreeMap<System, Vec<[f64; N]>>,
}

impl<const N: usize> Rounds<N> {
    /// `runs` rounds in which every tunnel has its turn. A failing peer is told and left out; Atoll must not fail
    /// always.
    pub(super) fn of(
        case: &str,
        runs: usize,
        tunnels: &[Tunnel],
        measure: impl Fn(&Tunnel) -> Result<[f64; N]>,
    ) -> Result<Self> {
        let mut samples: BTreeMap<System, Vec<[f64; N]>> = BTreeMap::new();
        for round in 1..=runs {
            for tunnel in tunnels {
                let values = measure(tunnel);
                let said = match &values {
                    Ok(values) => values.map(|value| format!("{value:.3}")).join(" "),
                    Err(error) => format!("failed: {error:#}"),
                };
                println!("  {case}, round {round} of {runs}, {}: {said}", tunnel.system.name());
                samples.entry(tunnel.system).or_default().push(values.unwrap_or([f64::NAN; N]));
            }
        }
        let this = Self { case: case.to_owned(), samples };
        ensure!(!this.column(0, System::Atoll).is_empty(), "{case}: Atoll failed in every round");
        Ok(this)
    }

    /// One value of one system, of all rounds in which it did not fail.
    fn column(&self, index: usize, system: System) -> Vec<f64> {
        let rows = self.samples.get(&system).into_iter().flatten();
        rows.map(|row| row[index]).filter(|value| !value.is_nan()).collect()
    }

    /// The middle of one value of one system.
    pub(super) fn median(&self, index: usize, system: System) -> Option<f64> {
        let column = self.column(index, system);
        (!column.is_empty()).then(|| Figure::of("", "", "", &column, 50, None).median)
    }

    /// One value as a figure of Atoll's, with the peers' medians.
    pub(super) fn figure(&self, index: usize, metric: &str, unit: &str, goal: Option<f64>) -> Figure {
        let mut figure = Figure::of(&self.case, metric, unit, &self.column(index, System::Atoll), 50, goal);
        let others = self.samples.keys().filter(|system| **system != System::Atoll);
        figure.peers = others.filter_map(|s| Some((s.name().to_owned(), self.median(index, *s)?))).collect();
        figure
    }

    /// The same rounds with one value as share of what the bare wire showed in the same round.
    pub(super) fn as_share_of_raw(&self, index: usize) -> Rounds<1> {
        let raw = self.samples.get(&System::Raw);
        let share = |rows: &Vec<[f64; N]>| {
            let pairs = rows.iter().zip(raw.into_iter().flatten());
            pairs.map(|(row, raw)| [row[index] / raw[index]]).collect()
        };
        let samples = self.samples.iter().map(|(system, rows)| (*system, share(rows))).collect();
        Rounds { case: self.case.clone(), samples }
    }
}
