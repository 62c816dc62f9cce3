//! Automation of the repository: `cargo xtask tidy` checks the house's rules.

mod tidy;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
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
            let findings = tidy::check(&root())?;
            for finding in &findings {
                eprintln!("{finding}");
            }
            Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// The repository's root: xtask is compiled within it.
fn root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root.pop();
    root
}
