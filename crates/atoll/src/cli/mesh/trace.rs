//! `atoll mesh trace`: the way that packets take through the mesh, hop by hop.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use atoll_api::mesh::{Hop, HopNode, Trace, TraceRequest};
use atoll_base::NodeId;

use super::{
    super::{failure::fail, output},
    Which,
    show::{address_of, milliseconds},
};

/// `atoll mesh trace`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A relay that answers has proven with its key that it saw the probe; one of another region has not. What a relay says \
of the way behind it, or how long it takes to say so, is its own word. `traceroute -6` and `mtr` show the same hops.")]
pub(crate) struct TraceArgs {
    /// An address, or the beginning of a node's id
    #[arg(value_name = "NODE")]
    to: String,
    /// How many probes are sent for each hop
    #[arg(long, short, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    count: u16,
    /// How long each is waited for, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=10_000))]
    timeout_ms: u64,
    #[command(flatten)]
    which: Which,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &TraceArgs, state: Option<&Path>) -> Result<ExitCode> {
    let address = address_of(&args.which.status(state)?, &args.to)?;
    let request = TraceRequest { address, probes: args.count, timeout_ms: args.timeout_ms };
    let trace: Trace = args.which.post(state, "/v1/trace", &request)?;
    if args.json {
        output::print_json(&trace)?;
    } else {
        let rows: Vec<Vec<String>> = trace.hops.iter().flat_map(rows).collect();
        let head = ["HOP", "NODE", "ADDRESS", "LOSS", "BEST", "MEDIAN", "WORST", ""];
        output::print(&output::table(&head, &rows))?;
    }
    if !trace.reached {
        return Err(fail(
            format!("{address} does not answer"),
            format!("`atoll mesh routes --to {address}` says which ways there are"),
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// A row for each node that answered at a hop; one, if nobody did.
fn rows(hop: &Hop) -> Vec<Vec<String>> {
    let sent = usize::from(hop.sent).max(1);
    let loss = format!("{} %", (sent - hop.received().min(sent)) * 100 / sent);
    if hop.nodes.is_empty() {
        let dash = || "-".to_owned();
        let said = "no answer".to_owned();
        return vec![vec![hop.hop.to_string(), "?".to_owned(), dash(), loss, dash(), dash(), dash(), said]];
    }
    let row = |(number, node): (usize, &HopNode)| {
        let mut trips = node.rtt_us.clone();
        trips.sort_unstable();
        let trip = |at: usize| trips.get(at).map_or("-".to_owned(), |us| milliseconds(*us));
        let said = match (node.is_target, node.node) {
            (true, _) => "the target",
            (false, None) => "not proven",
            (false, Some(_)) => "",
        };
        vec![
            if number == 0 { hop.hop.to_string() } else { String::new() },
            node.node.map_or("?".to_owned(), NodeId::short),
            node.address.to_string(),
            if number == 0 { loss.clone() } else { String::new() },
            trip(0),
            trip(trips.len() / 2),
            trip(trips.len().saturating_sub(1)),
            said.to_owned(),
        ]
    };
    hop.nodes.iter().enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_shows_who_answered_and_what_was_lost() {
        let address = "fd00::1".parse().expect("an address");
        let node = HopNode { address, node: Some(NodeId([7; 32])), is_target: false, rtt_us: vec![3000, 1000, 2000] };
        let other = HopNode { node: None, rtt_us: vec![500], ..node.clone() };
        let hop = Hop { hop: 2, sent: 5, nodes: vec![node, other] };
        let shown = rows(&hop);
        assert_eq!(shown[0][3..], ["20 %", "1.000 ms", "2.000 ms", "3.000 ms", ""]);
        assert_eq!(shown[1], ["", "?", "fd00::1", "", "0.500 ms", "0.500 ms", "0.500 ms", "not proven"]);
        let silent = rows(&Hop { hop: 3, sent: 4, nodes: Vec::new() });
        assert_eq!(silent, [["3", "?", "-", "100 %", "-", "-", "-", "no answer"]]);
    }
}
