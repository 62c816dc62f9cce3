//! Simulates a world of many regions and prints its figures, as a table and as JSON: `mesh_scale [REGIONS [NODES]]`.
//! Without arguments: 100 regions of 100 nodes.

use core::time::Duration;

use atoll_sim::scale::{Plan, run};

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse().expect("a number of regions, or of nodes"));
    let regions = numbers.next().unwrap_or(100);
    let nodes = numbers.next().unwrap_or(100);
    let started = std::time::Instant::now();
    let report = run(Plan { seed: 1, regions, nodes, check_each: 1000, patience: Duration::from_secs(120) });
    println!("{report}\n{}", report.to_json());
    println!("simulated in {:.0} s", started.elapsed().as_secs_f64());
}
