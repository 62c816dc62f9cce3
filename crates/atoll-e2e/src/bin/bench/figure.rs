//! One measured figure, and how it is shown.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// A figure in the form that all areas share.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figure {
    /// What was done.
    pub(crate) case: String,
    /// What was measured of it.
    pub(crate) metric: String,
    /// In which unit.
    pub(crate) unit: String,
    /// `lower` or `higher`.
    pub(crate) better: &'static str,
    /// Middle of the runs; for a percentile metric, that percentile.
    pub(crate) median: f64,
    /// Smallest.
    pub(crate) min: f64,
    /// Largest.
    pub(crate) max: f64,
    /// How often it was measured.
    pub(crate) runs: usize,
    /// What the project wants to reach.
    pub(crate) goal: Option<f64>,
    /// Medians of other systems in the same run.
    pub(crate) peers: BTreeMap<String, f64>,
}

impl Figure {
    /// The `percentile` (0 to 100, nearest rank) of `samples`; lower is better.
    pub(crate) fn of(
        case: &str,
        metric: &str,
        unit: &str,
        samples: &[f64],
        percentile: usize,
        goal: Option<f64>,
    ) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * percentile).div_ceil(100).clamp(1, sorted.len().max(1)) - 1;
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        Self {
            case: case.to_owned(),
            metric: metric.to_owned(),
            unit: unit.to_owned(),
            better: "lower",
            median: at(rank),
            min: at(0),
            max: at(sorted.len().saturating_sub(1)),
            runs: sorted.len(),
            goal,
            peers: BTreeMap::new(),
        }
    }

    /// The same where more is better.
    pub(crate) fn higher(self) -> Self {
        Self { better: "higher", ..self }
    }

    /// Whether the goal is reached; nothing without a goal. What could not be measured reaches none.
    pub(crate) fn is_met(&self) -> Option<bool> {
        let goal = self.goal?;
        Some(if self.better == "higher" { self.median >= goal } else { self.median <= goal })
    }
}

/// Writes `target/bench/<area>.json`.
pub(crate) fn write(area: &str, figures: &[Figure]) -> Result<()> {
    let dir = atoll_e2e::repository().join("target/bench");
    fs::create_dir_all(&dir).context("cannot make target/bench")?;
    let path = dir.join(format!("{area}.json"));
    fs::write(&path, serde_json::to_string_pretty(figures)?).with_context(|| format!("cannot write {}", path.display()))
}

/// A table for people.
pub(crate) fn table(area: &str, figures: &[Figure]) -> String {
    let mut text = format!(
        "\n{area}\n{:<36} {:<36} {:>10} {:>10} {:>10} {:>5} {:>9} {:>4}  others\n",
        "case", "metric", "median", "min", "max", "runs", "goal", "met"
    );
    for f in figures {
        let goal = f.goal.map_or("-".to_owned(), |goal| format!("{goal:.3}"));
        let met = f.is_met().map_or("-", |is_met| if is_met { "yes" } else { "NO" });
        let metric = format!("{} ({})", f.metric, f.unit);
        let peers: Vec<_> = f.peers.iter().map(|(name, median)| format!("{name} {median:.3}")).collect();
        text += &format!(
            "{:<36} {metric:<36} {:>10.3} {:>10.3} {:>10.3} {:>5} {goal:>9} {met:>4}  {}\n",
            f.case,
            f.median,
            f.min,
            f.max,
            f.runs,
            peers.join(", ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let samples: Vec<f64> = (1..=10).map(f64::from).collect();
        assert_eq!(Figure::of("c", "p50", "s", &samples, 50, None).median, 5.0);
        assert_eq!(Figure::of("c", "p99", "s", &samples, 99, None).median, 10.0);
        assert_eq!(Figure::of("c", "p50", "s", &[7.0], 50, None).median, 7.0);
    }

    #[test]
    fn a_goal_is_met_from_its_better_side() {
        let figure = |goal| Figure::of("c", "p50", "s", &[7.0], 50, goal);
        assert_eq!(figure(None).is_met(), None);
        assert_eq!((figure(Some(7.0)).is_met(), figure(Some(6.0)).is_met()), (Some(true), Some(false)));
        assert_eq!(figure(Some(8.0)).higher().is_met(), Some(false));
        assert_eq!(Figure::of("c", "p50", "s", &[], 50, Some(1.0)).is_met(), Some(false));
    }
}
