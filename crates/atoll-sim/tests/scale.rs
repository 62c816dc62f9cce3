//! Many regions, small enough for every day; `cargo run --release -p atoll-sim --example mesh_scale` runs 10,000 nodes.

use core::time::Duration;

use atoll_sim::scale::{Plan, run};

#[test]
fn two_hundred_nodes_in_ten_regions_know_what_they_need_and_no_more_and_then_are_nearly_silent() {
    let plan = Plan { seed: 1, regions: 10, nodes: 20, check_each: 50, patience: Duration::from_secs(60) };
    let report = run(plan);
    println!("{report}\n{}", report.to_json());
    assert!(report.converged.is_some_and(|time| time <= Duration::from_secs(5)), "{report}");
    // 19 other nodes and 9 other regions; a route over each neighbour at most.
    assert_eq!((report.entries.max, report.entries.mean), (28, 28.0));
    assert!(report.routes.max <= 28 * 6, "{report}");
    assert_eq!(report.rest_bytes, 0.0, "the router says nothing when nothing happens");
    assert!(report.idle_link_bytes < 2500.0, "{report}");
}
