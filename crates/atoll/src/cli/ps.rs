//! `atoll ps`: what is deployed, where it runs, and why it does not.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use serde::Serialize;

use super::{
    apps::{self, App, Lease, state_word},
    output,
    region::{self, Region},
};
use crate::amount;

/// Most apps that are listed.
const APPS_MAX: usize = 1_000;

/// `atoll ps`.
#[derive(Debug, clap::Args)]
pub(crate) struct PsArgs {
    /// Also list what was removed
    #[arg(long, short)]
    all: bool,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// An app with what only this machine knows.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    app: &'a App,
    state: String,
    url: Option<String>,
}

pub(crate) fn run(args: &PsArgs, state: Option<&Path>) -> Result<ExitCode> {
    let region = Region::open(state)?;
    let listed = region::block_on(async {
        region.explain("cannot list the apps", apps::list(&region.rpc, region.id, args.all, APPS_MAX).await)
    })?;
    if args.json {
        let rows: Vec<Row<'_>> = listed
            .iter()
            .map(|app| Row { app, state: app.state(), url: app.has_page().then(|| region.url(&app.name)) })
            .collect();
        output::print_json(&rows)?;
    } else if listed.is_empty() {
        output::print("Nothing is deployed. `atoll deploy FILE` changes that.\n")?;
    } else {
        let texts: Vec<String> = listed.iter().map(|app| render(app, &region, region::now_ms())).collect();
        output::print(&texts.join("\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(app: &App, region: &Region, now_ms: u64) -> String {
    let symbol = &region.charter.currency.symbol;
    let mut text = format!("{}  {}", app.name, app.state());
    if app.ended_ms == 0 && app.has_page() {
        text += &format!("  {}", region.url(&app.name));
    }
    text += &format!("\n  {} an hour", amount::with_symbol(app.price_per_hour, symbol));
    if app.ended_ms == 0 {
        text += &format!(", {} left", amount::with_symbol(app.escrow, symbol));
        if let Some(lasts) = app.lasts_ms() {
            text += &format!(" for {}", output::duration(lasts));
        }
    }
    text += &format!(", {} paid so far\n", amount::with_symbol(app.charged, symbol));
    let rows: Vec<Vec<String>> = app.leases.iter().map(|lease| lease_row(lease, now_ms)).collect();
    let table = output::table(&["SERVICE", "STATE", "FOR", "NODE", "STANDBY", "WHY"], &rows);
    text.extend(table.lines().map(|line| format!("  {line}\n")));
    text
}

fn lease_row(lease: &Lease, now_ms: u64) -> Vec<String> {
    let node = |node: Option<atoll_base::NodeId>| node.map_or("-".to_owned(), atoll_base::NodeId::short);
    vec![
        format!("{}.{}", lease.service, lease.replica + 1),
        state_word(lease.state).to_owned(),
        output::duration(now_ms.saturating_sub(lease.since_ms)),
        node(lease.node),
        node(lease.standby),
        output::clean(&lease.why),
    ]
}
