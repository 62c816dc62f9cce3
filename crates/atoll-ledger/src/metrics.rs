//! Figures for Prometheus, read from their owners at each scrape.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::text::encode,
    metrics::{gauge::Gauge, info::Info},
    registry::Registry,
};

use crate::rpc::Rpc;

/// All figures in the OpenMetrics text format.
pub(crate) fn text(rpc: &Rpc) -> String {
    let mut registry = Registry::with_prefix("atoll_ledger");
    let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The program", build);
    let head = rpc.chain.head();
    let header = head.block.header();
    let mempool = rpc.chain.mempool();
    let figures = [
        ("height", "Height of the newest final block", header.number),
        ("timestamp_ms", "Ledger time of that block, milliseconds since 1970", header.timestamp_ms),
        ("gas_used", "Gas used in that block", header.gas_used),
        ("finality_ms", "Newest time from proposal to finality", rpc.status.finality_ms().unwrap_or(0)),
        ("peers", "Validators that this one is connected to", rpc.status.peers().len() as u64),
        ("waiting_blocks", "Executed blocks that are not final", rpc.chain.waiting_blocks() as u64),
        ("mempool_transactions", "Transactions that wait for a block", mempool.len() as u64),
        ("mempool_bytes", "Their bytes", mempool.bytes() as u64),
        ("problem", "1 when the ledger cannot go on", u64::from(rpc.chain.problem().is_some())),
    ];
    for (name, help, value) in figures {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = encode(&mut text, &registry);
    text
}
