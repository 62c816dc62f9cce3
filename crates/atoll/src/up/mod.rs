//! The supervisor: starts the daemons of a region on this machine, keeps them running and stops them in order.

pub(crate) mod layout;
pub(crate) mod settings;

use std::{path::PathBuf, process::ExitCode};

use crate::cli::failure::fail;

/// `atoll up`.
#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {}

/// `atoll down`.
#[derive(Debug, clap::Args)]
pub(crate) struct DownArgs {}

/// `atoll status`.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {}

/// Starts the region. `state` is what `--state` or `ATOLL_STATE` says.
pub(crate) fn run(_args: UpArgs, _state: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    Err(fail("the supervisor is not built into this binary", "use a newer atoll"))
}

/// Stops the region.
pub(crate) fn down(_args: DownArgs, _state: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    Err(fail("the supervisor is not built into this binary", "use a newer atoll"))
}

/// Says what runs.
pub(crate) fn status(_args: StatusArgs, _state: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    Err(fail("the supervisor is not built into this binary", "use a newer atoll"))
}

pub(crate) fn load(layout: &layout::Layout) -> anyhow::Result<settings::Settings> {
    if !layout.settings().exists() {
        return Err(fail(
            format!("there is no region in {}", layout.root().display()),
            "`atoll up` founds one; --state DIR names another directory",
        ));
    }
    settings::Settings::load(&layout.settings())
}
