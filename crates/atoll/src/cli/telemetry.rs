//! Logging to standard error, and what happens on a panic.
//!
//! Levels by rule: `error` something failed for good, `warn` someone should act, `info` what an operator wants to see once
//! (start, stop, a lease that changed), `debug` decisions with their values and addresses, `trace` each packet. Secrets are
//! never logged.

use std::{backtrace::Backtrace, io::IsTerminal as _};

use tracing_subscriber::{EnvFilter, fmt::time::SystemTime};

/// What daemons log unless told otherwise. Libraries below us talk only when something is wrong.
const DAEMON_FILTER: &str = "warn,atoll=info,atoll_mesh=info,atoll_ledger=info,atoll_node=info,atoll_os=info";
/// What commands log unless told otherwise: their output is what they print.
const COMMAND_FILTER: &str = "error";

/// Logs to standard error as `ATOLL_LOG`, else `RUST_LOG`, else the default says. An unreadable filter is reported, not obeyed.
pub(crate) fn install(daemon: bool) {
    let default = if daemon { DAEMON_FILTER } else { COMMAND_FILTER };
    let wanted = ["ATOLL_LOG", "RUST_LOG"].into_iter().find_map(|name| Some((name, std::env::var(name).ok()?)));
    let (filter, complaint) = match wanted {
        Some((name, text)) if !text.is_empty() => match EnvFilter::try_new(&text) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new(default), Some(format!("{name}={text} is not a log filter: {error}"))),
        },
        _ => (EnvFilter::new(default), None),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_timer(SystemTime)
        .with_target(true);
    // Fails only when a subscriber is installed already, which then stays.
    let _ = builder.try_init();
    if let Some(complaint) = complaint {
        tracing::error!("{complaint}; using {default}");
    }
}

/// A panic is a bug: log it with where it was, then abort, so that the supervisor restarts a clean process instead of one
/// that limps on with a dead task.
pub(crate) fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let backtrace = Backtrace::force_capture();
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        tracing::error!(thread = name, "panic, a bug in atoll: {info}\n{backtrace}");
        if !tracing::enabled!(tracing::Level::ERROR) {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "panic, a bug in atoll: {info}\n{backtrace}");
        }
        std::process::abort();
    }));
}
