//! `atoll why`: the ledger's record of an app, with times and reasons.

use std::{collections::BTreeMap, path::Path, process::ExitCode};

use alloy_primitives::U256;
use anyhow::Result;

use super::{
    apps, output,
    region::{self, Region, unknown_app},
};
use crate::{
    amount,
    history::{self, Event, What},
};

/// Removed deployments that are searched for a name.
const ENDED_MAX: usize = 1_000;

/// `atoll why`.
#[derive(Debug, clap::Args)]
pub(crate) struct WhyArgs {
    /// Name of the app; the last one of that name when it was removed
    name: String,
    /// List every charge instead of their sum
    #[arg(long)]
    charges: bool,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &WhyArgs, state: Option<&Path>) -> Result<ExitCode> {
    let region = Region::open(state)?;
    let events = region::block_on(async {
        let id = number(&region, &args.name).await?;
        region.explain("cannot read the ledger's record", history::of_deployment(&region.rpc, id).await)
    })?;
    if args.json {
        output::print_json(&events)?;
        return Ok(ExitCode::SUCCESS);
    }
    output::print(&render(&events, args.charges, &region.charter.currency.symbol))?;
    Ok(ExitCode::SUCCESS)
}

async fn number(region: &Region, name: &str) -> Result<u64> {
    let what = format!("cannot find '{name}'");
    if let Some(id) = region.explain(&what, apps::by_name(&region.rpc, name).await)? {
        return Ok(id);
    }
    let all = region.explain(&what, apps::list(&region.rpc, region.id, true, ENDED_MAX).await)?;
    match all.iter().find(|app| app.name == name) {
        Some(app) => Ok(app.id),
        None => {
            let alive: Vec<String> = all.into_iter().filter(|app| app.ended_ms == 0).map(|app| app.name).collect();
            Err(unknown_app(name, &alive))
        }
    }
}

fn render(events: &[Event], charges: bool, symbol: &str) -> String {
    let mut text = String::new();
    let mut paid: BTreeMap<String, (U256, u32)> = BTreeMap::new();
    for event in events {
        if let (What::Charged { amount }, false) = (&event.what, charges) {
            let node = event.node.map(|node| node.short()).unwrap_or_default();
            let sum = paid.entry(node).or_default();
            sum.0 = sum.0.saturating_add(amount::parse(amount).unwrap_or_default());
            sum.1 += 1;
            continue;
        }
        text += &format!("{}  {}", output::time(event.time_ms), output::clean(&event.text(symbol)));
        if !event.why.is_empty() {
            text += &format!(": {}", output::clean(&event.why));
        }
        text.push('\n');
    }
    for (node, (sum, times)) in paid {
        text += &format!("Paid to node {node}: {} in {times} charge(s)\n", amount::with_symbol(sum, symbol));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_are_summed_and_reasons_told() {
        let event = |what, why: &str| Event {
            height: 1,
            time_ms: 1_790_000_000_123,
            deployment: Some(1),
            lease: Some(4),
            node: Some(atoll_base::NodeId([0xab; 32])),
            what,
            why: why.to_owned(),
        };
        let charge = || event(What::Charged { amount: "0.5".into() }, "");
        let events = [event(What::Granted, "best\u{1b} fit"), charge(), charge()];
        assert_eq!(
            render(&events, false, "HOME"),
            "2026-09-21 14:13:20  lease 4 granted to node abababab: best\u{fffd} fit\n\
             Paid to node abababab: 1 HOME in 2 charge(s)\n"
        );
        assert!(render(&events, true, "HOME").ends_with("0.5 HOME paid to node abababab\n"));
    }
}
