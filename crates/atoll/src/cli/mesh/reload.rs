//! `atoll mesh reload`: the daemon reads its configuration again.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use atoll_api::mesh::Reloaded;

use super::{super::output, Which};

/// `atoll mesh reload`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Peers, members, open ports, the grant and other regions change at once, and nothing else is disturbed. Other settings \
are named, and hold when the daemon is started again. A file with a mistake is refused as a whole. In a region, change \
[mesh] in atoll.toml instead, and type `atoll up` again.")]
pub(crate) struct ReloadArgs {
    #[command(flatten)]
    which: Which,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ReloadArgs, state: Option<&Path>) -> Result<ExitCode> {
    let reloaded: Reloaded = args.which.post(state, "/v1/reload", &())?;
    if args.json {
        output::print_json(&reloaded)?;
    } else {
        output::print(&in_words(&reloaded, "the daemon is started again"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What became of it, and from when on the rest holds.
pub(crate) fn in_words(reloaded: &Reloaded, start: &str) -> String {
    let Reloaded { applied, restart } = reloaded;
    let mut text = match applied.as_slice() {
        [] if restart.is_empty() => "Nothing has changed.\n".to_owned(),
        [] => String::new(),
        _ => format!("Changed: {}.\n", applied.join(", ")),
    };
    if !restart.is_empty() {
        text += &format!("Not yet changed: {}; that holds when {start}.\n", restart.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_what_holds_and_what_waits() {
        let says = |applied: &[&str], restart: &[&str]| {
            let [applied, restart] =
                [applied, restart].map(|names| names.iter().map(|name| (*name).to_owned()).collect());
            in_words(&Reloaded { applied, restart }, "it is started")
        };
        assert_eq!(says(&[], &[]), "Nothing has changed.\n");
        assert_eq!(says(&["peers", "open"], &[]), "Changed: peers, open.\n");
        assert_eq!(says(&[], &["listen"]), "Not yet changed: listen; that holds when it is started.\n");
        assert_eq!(says(&["grant"], &["exit"]).lines().count(), 2);
    }
}
