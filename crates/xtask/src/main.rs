//! Automation of the repository: `cargo xtask tidy` checks the house's rules.

mod tidy;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// Automation of the Atoll repository.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check layers, sizes of files and functions, and bans
    Tidy,
}

fn main() -> Result<ExitCode> {
    match Args::parse().command {
        Command::Tidy => {
            let findings = tidy::check(&root()?)?;
            for finding in &findings {
                eprintln!("{finding}");
            }
            Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// The root of the repository in which this was started.
fn root() -> Result<PathBuf> {
    let here = std::env::current_dir().context("there is no current directory")?;
    let root = here.ancestors().find(|dir| dir.join("Cargo.lock").is_file());
    Ok(root.context("this directory is not within the repository: start xtask there")?.to_owned())
}
