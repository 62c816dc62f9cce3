//! `atoll charter show`: what the founders of the region agreed on.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

use super::{output, region::Region};
use crate::amount;

/// `atoll charter`.
#[derive(Debug, Subcommand)]
pub(crate) enum CharterCommand {
    /// Show the region's id, currency, prices, times and validators
    Show {
        /// Print JSON for programs
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(command: &CharterCommand, state: Option<&Path>) -> Result<ExitCode> {
    let region = Region::open(state)?;
    let CharterCommand::Show { json: as_json } = command;
    if *as_json {
        output::print_json(&json!({ "region": region.id, "charter": region.charter }))?;
    } else {
        output::print(&render(&region))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(region: &Region) -> String {
    let charter = &region.charter;
    let symbol = &charter.currency.symbol;
    let price = |units| amount::with_symbol(units, symbol);
    let (prices, timing) = (&charter.prices, &charter.timing);
    let mut text = format!(
        "Region     {}\nId         {}\nBorn       {} UTC\nChain id   {}\nCurrency   {}, {symbol}\nPrices     {} a core, {} a GiB of memory, {} a GiB of disk, each for an hour\nMesh       {}\nHeartbeat  every {} ms, a node is offline after {} ms\nFile       {}\n\n",
        charter.name,
        region.id,
        output::time(charter.created_ms),
        charter.chain_id,
        charter.currency.name,
        price(prices.cpu_core_hour),
        price(prices.memory_gib_hour),
        price(prices.disk_gib_hour),
        if charter.is_closed() { "closed: only registered nodes and the validators join" } else { "open" },
        timing.heartbeat_ms,
        timing.heartbeat_timeout_ms,
        region.charter_path().display(),
    );
    let rows: Vec<Vec<String>> =
        charter.validators.iter().map(|v| vec![output::clean(&v.name), v.node().to_string()]).collect();
    text += &output::table(&["VALIDATOR", "ID"], &rows);
    text
}
