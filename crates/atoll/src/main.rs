//! One binary: the daemons, the supervisor, the client and the dashboard.
//!
//! `main` parses the command line, sets up logging and turns the outcome into an exit code; each command lives in a
//! module of its own. Two rules: what a command prints for people or programs goes to standard output, everything else
//! (logs, progress, errors) to standard error; and nothing that must be single-threaded runs after a runtime started.

mod amount;
mod cli;
mod compose;
mod dashboard;
mod history;
mod rpc;
mod up;
mod wallet;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, failure, telemetry};

fn main() -> ExitCode {
    telemetry::install_panic_hook();
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        // A workload's shim forks, so it must run before anything starts a thread. Only the node daemon calls it.
        Some(first) if first == "shim" => {
            telemetry::install(true);
            return atoll_os::shim::main(arguments);
        }
        // The first program of a micro-VM's guest: the same holds, and there is nobody else on that machine.
        Some(first) if first == "guest-init" => return atoll_os::guest::main(),
        _ => {}
    }
    let cli = Cli::parse();
    telemetry::install(cli.command.is_daemon() || std::env::var_os("ATOLL_DAEMON").is_some());
    match cli::run(cli) {
        Ok(code) => code,
        Err(error) if failure::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            failure::report(&error);
            ExitCode::FAILURE
        }
    }
}
