//! The command line: what can be said, and which module does it.

pub(crate) mod apps;
mod charter;
mod daemon;
mod deploy;
pub(crate) mod failure;
mod logs;
pub(crate) mod mesh;
mod money;
pub(crate) mod nodes;
pub(crate) mod output;
mod proven;
mod ps;
pub(crate) mod region;
mod rm;
pub(crate) mod telemetry;
mod why;

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{cli::failure::OrFail as _, up};

/// Printed below `--help`.
const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 failed (standard error says what, why and what to do), 2 wrong usage.
Environment: ATOLL_STATE is the default of --state; ATOLL_LOG (or RUST_LOG) says how much is logged to standard error, \
for example ATOLL_LOG=debug or ATOLL_LOG=atoll_node=trace.";

/// A local internet of your own: its capacity, its ledger and currency, its network, its rules.
#[derive(Debug, Parser)]
#[command(name = "atoll", version, propagate_version = true, after_help = AFTER_HELP, subcommand_required = true)]
pub(crate) struct Cli {
    /// State directory of the region [default: /var/lib/atoll/home]
    #[arg(long, global = true, value_name = "DIR", env = "ATOLL_STATE", hide_env = true)]
    pub(crate) state: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the region on this machine and keep it running, or apply what changed in its atoll.toml
    Up(up::UpArgs),
    /// Stop the region's daemons and leave its state
    Down(up::DownArgs),
    /// Say what runs, how far it is, and what is wrong
    Status(up::StatusArgs),
    /// Deploy an app from a Compose file, and follow it until it answers
    Deploy(deploy::DeployArgs),
    /// List the apps, where they run and what they cost
    Ps(ps::PsArgs),
    /// Show what the workloads of an app print
    Logs(logs::LogsArgs),
    /// Say why an app is as it is: the ledger's record with reasons
    Why(why::WhyArgs),
    /// Remove an app and take back what is left of its escrow
    Rm(rm::RmArgs),
    /// List the region's nodes and what is free on them
    Nodes(nodes::NodesArgs),
    /// Show this machine's account, or send coins from it
    Wallet(money::WalletArgs),
    /// Show what the founders of the region agreed on
    #[command(subcommand)]
    Charter(charter::CharterCommand),
    /// The mesh: its daemon, and who can be reached how
    #[command(subcommand)]
    Mesh(mesh::MeshCommand),
    /// The ledger daemon, which orders transactions
    #[command(subcommand)]
    Ledger(daemon::DaemonCommand),
    /// The node daemon, which runs apps and forwards browsers to them
    #[command(subcommand)]
    Node(daemon::DaemonCommand),
    /// Print completions for a shell: source them from its start-up file
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether it is a long-running daemon, whose log is read later instead of a person waiting for an answer.
    pub(crate) const fn is_daemon(&self) -> bool {
        matches!(self, Self::Mesh(mesh::MeshCommand::Run(_)) | Self::Ledger(_) | Self::Node(_))
    }
}

/// Carries out the command.
pub(crate) fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let state = cli.state;
    match cli.command {
        Command::Up(args) => up::run(args, state),
        Command::Down(args) => up::down(args, state),
        Command::Status(args) => up::status(args, state),
        Command::Deploy(args) => deploy::run(&args, state.as_deref()),
        Command::Ps(args) => ps::run(&args, state.as_deref()),
        Command::Logs(args) => logs::run(&args, state.as_deref()),
        Command::Why(args) => why::run(&args, state.as_deref()),
        Command::Rm(args) => rm::run(&args, state.as_deref()),
        Command::Nodes(args) => nodes::run(&args, state.as_deref()),
        Command::Wallet(args) => money::run(&args, state.as_deref()),
        Command::Charter(command) => charter::run(&command, state.as_deref()),
        Command::Mesh(command) => mesh::run(&command, state.as_deref()),
        Command::Ledger(command) => daemon::ledger(&command),
        Command::Node(command) => daemon::node(&command),
        Command::Completions { shell } => completions(shell),
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    // Into memory first: clap_complete panics when the pipe breaks.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "atoll", &mut script);
    std::io::stdout().write_all(&script).or_fail(
        || "cannot print the completions",
        || "check where standard output goes, and whether its disk is full",
    )?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_visible_command_and_option_says_what_it_does() {
        fn walk(command: &clap::Command) {
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
                assert!(sub.get_about().is_some(), "`{}` has no help", sub.get_name());
                walk(sub);
            }
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                assert!(arg.get_help().is_some(), "`{}`: {} has no help", command.get_name(), arg.get_id());
            }
        }
        let mut command = Cli::command();
        command.build();
        walk(&command);
    }

    #[test]
    fn wrong_usage_exits_with_2() {
        for line in [&["atoll"][..], &["atoll", "nonsense"], &["atoll", "completions", "tcl"]] {
            let error = Cli::try_parse_from(line).expect_err("wrong usage");
            assert_eq!(error.exit_code(), 2, "{line:?}");
        }
    }
}
