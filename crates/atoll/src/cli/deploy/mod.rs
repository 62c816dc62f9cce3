//! `atoll deploy`: from a Compose file to an application that answers.
//!
//! In order: read the file and look at its images (nothing is asked of anyone), bring them into the local node's
//! store, ask the ledger for placement and price, ask the person, encrypt, send, and follow until everything runs.

mod follow;
mod order;
mod plan;
mod price;

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use alloy_primitives::U256;
use anyhow::Result;
use atoll_base::charter::is_dns_label;

use self::{order::Order, plan::Plan};
use super::{
    apps::{self, App},
    failure::{OrFail as _, fail},
    output,
    region::{self, Region},
};
use crate::compose;

/// `atoll deploy`.
#[derive(Debug, clap::Args)]
pub(crate) struct DeployArgs {
    /// The Compose file
    file: PathBuf,
    /// Name of the app [default: the file's `name`, or the name of its folder]
    #[arg(long)]
    name: Option<String>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Deposit so many coins [default: what the file says, or enough for --hours]
    #[arg(long, value_name = "AMOUNT", conflicts_with = "hours")]
    escrow: Option<String>,
    /// Deposit enough for so many hours [default: 720]
    #[arg(long, value_name = "H")]
    hours: Option<u32>,
    /// Show placement and price, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Succeed without a change when the same app runs already
    #[arg(long)]
    if_absent: bool,
    /// Give up following after so many seconds; the ledger goes on trying
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    timeout: u64,
}

pub(crate) fn run(args: &DeployArgs, state: Option<&Path>) -> Result<ExitCode> {
    let file = args.file.display().to_string();
    let app = compose::parse(&file, &read(&args.file)?).or_fail(
        || "the deployment file cannot be honoured as it stands",
        || "correct these lines; nothing was deployed",
    )?;
    for note in &app.notes {
        eprintln!("note: {file}:{}:{}: {}", note.place.line, note.place.column, output::clean(&note.text));
    }
    let name = name(args, app.name.as_deref())?;
    let images = plan::check_images(&args.file, &app)?;
    let escrow = price::Wish::of(args.escrow.as_deref(), args.hours, app.escrow)?;
    let region = Region::open(state)?;
    region::block_on(async {
        let plan = Plan::make(&region, &name, &app, &images).await?;
        if let Some(existing) = existing(&region, &name).await? {
            return already(&region, args, &plan, &existing).await;
        }
        let order = Order { plan: &plan, wish: escrow, yes: args.yes, dry_run: args.dry_run };
        match order.place(&region).await? {
            order::Outcome::Shown => Ok(ExitCode::SUCCESS),
            order::Outcome::Declined => {
                output::print("Nothing is deployed.\n")?;
                Ok(ExitCode::FAILURE)
            }
            order::Outcome::Placed(id) => {
                follow::until_it_answers(&region, id, &name, follow::Begun::Now, Duration::from_secs(args.timeout))
                    .await?;
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

/// Reads no more than a deployment file may have, whatever stands at `path`.
fn read(path: &Path) -> Result<Vec<u8>> {
    let cure = || "name the Compose file: `atoll deploy FILE`";
    let what = || format!("cannot read {}", path.display());
    let file = std::fs::File::open(path).or_fail(what, cure)?;
    let mut bytes = Vec::new();
    file.take(compose::FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).or_fail(what, cure)?;
    Ok(bytes)
}

fn name(args: &DeployArgs, in_file: Option<&str>) -> Result<String> {
    if let Some(name) = &args.name {
        if is_dns_label(name) {
            return Ok(name.clone());
        }
        return Err(fail(
            format!("'{}' cannot be the name of an app", output::clean(name)),
            "use 1 to 63 of a-z, 0-9 and '-', with a letter first and no '-' last",
        ));
    }
    if let Some(name) = in_file {
        return Ok(name.to_owned());
    }
    let folder = std::path::absolute(&args.file)
        .ok()
        .and_then(|path| path.parent()?.file_name()?.to_str().map(str::to_lowercase));
    folder.filter(|folder| is_dns_label(folder)).ok_or_else(|| {
        fail(
            "the app has no name, and its folder's name cannot be one",
            "write `name:` into the file, or use --name NAME",
        )
    })
}

async fn existing(region: &Region, name: &str) -> Result<Option<App>> {
    let what = format!("cannot look for '{name}' in the ledger");
    match region.explain(&what, apps::by_name(&region.rpc, name).await)? {
        Some(id) => Ok(Some(region.explain(&what, apps::get(&region.rpc, region.id, id).await)?)),
        None => Ok(None),
    }
}

/// What becomes of a file whose name is in use.
async fn already(region: &Region, args: &DeployArgs, plan: &Plan, existing: &App) -> Result<ExitCode> {
    let name = &existing.name;
    if existing.owner != region.wallet()?.address() {
        return Err(fail(
            format!("the name '{name}' is taken by {}", existing.owner),
            "choose another name: `--name NAME`",
        ));
    }
    if !args.if_absent {
        return Err(fail(
            format!("'{name}' is deployed already (number {})", existing.id),
            format!(
                "`atoll rm {name}` removes it first, with the data of its workloads; or choose another name with --name"
            ),
        ));
    }
    if !plan.is_what_runs(existing) {
        return Err(fail(
            format!("another version of '{name}' is deployed already"),
            format!("`atoll rm {name}` removes it first, with the data of its workloads; then deploy again"),
        ));
    }
    if args.dry_run || (existing.runs() && !existing.has_page()) {
        output::print(&format!("{name} is deployed already, as the file says.\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    follow::until_it_answers(region, existing.id, name, follow::Begun::Before, Duration::from_secs(args.timeout))
        .await?;
    Ok(ExitCode::SUCCESS)
}

/// Smallest units for `hours` at a price an hour.
fn for_hours(price_per_hour: U256, hours: u32) -> U256 {
    price_per_hour.saturating_mul(U256::from(hours))
}
