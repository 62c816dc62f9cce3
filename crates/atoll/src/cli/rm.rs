//! `atoll rm`: ends a deployment and takes back what is left of its escrow.

use std::{path::Path, process::ExitCode};

use alloy_primitives::U256;
use alloy_sol_types::{SolCall as _, SolEvent as _};
use anyhow::Result;
use atoll_base::contracts::{DEPLOYMENTS, IDeployments};

use super::{
    apps, output,
    region::{self, Region},
};
use crate::rpc::Receipt;

/// `atoll rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    /// Name of the app
    name: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub(crate) fn run(args: &RmArgs, state: Option<&Path>) -> Result<ExitCode> {
    let region = Region::open(state)?;
    region::block_on(async {
        let app = apps::find(&region, &args.name).await?;
        let question = format!("Remove {} and the data of its {} workload(s)?", app.name, app.leases.len());
        if !output::confirm(&question, args.yes)? {
            output::print("Nothing is removed.\n")?;
            return Ok(ExitCode::FAILURE);
        }
        let input = IDeployments::removeCall { id: app.id }.abi_encode();
        let sent = region.rpc.transact(&region.wallet()?, DEPLOYMENTS, U256::ZERO, input.into()).await;
        let receipt = region.explain(&format!("cannot remove {}", app.name), sent)?;
        let refund = refund(&receipt).map(|refund| format!(" {} came back.", region.amount(refund)));
        output::print(&format!("Removed {}.{}\n", app.name, refund.unwrap_or_default()))?;
        Ok(ExitCode::SUCCESS)
    })
}

fn refund(receipt: &Receipt) -> Option<U256> {
    receipt
        .logs
        .iter()
        .filter(|log| log.address == DEPLOYMENTS)
        .find_map(|log| IDeployments::Removed::decode_raw_log(log.topics.iter().copied(), &log.data).ok())
        .map(|event| event.refund)
}
