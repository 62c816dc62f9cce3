//! `atoll mesh invite`: one line that another machine needs to join.

use std::{net::SocketAddr, path::Path, process::ExitCode};

use anyhow::Result;
use atoll_base::invite::{Invite, InviteLink, LinkTransport};

use super::{
    super::{failure::OrFail as _, output},
    Which,
};

/// Port of a link over TLS, if none is given.
const TLS_PORT: u16 = 443;

/// `atoll mesh invite`.
#[derive(Debug, clap::Args)]
pub(crate) struct InviteArgs {
    /// Where this machine, or another of the network, can be called from outside: HOST:PORT, or tls://HOST:PORT if it
    /// takes links over TLS there (443 if no port is given); again for more
    #[arg(value_name = "HOST:PORT", required = true)]
    links: Vec<String>,
    #[command(flatten)]
    which: Which,
}

pub(super) fn run(args: &InviteArgs, state: Option<&Path>) -> Result<ExitCode> {
    let status = args.which.status(state)?;
    let cure = || "write HOST:PORT, such as 192.0.2.7:4870, [2001:db8::7]:4870 or gate.example.org:4870, or tls://gate.example.org";
    let link = |text: &String| -> Result<InviteLink> {
        let (transport, rest) = match text.strip_prefix("tls://") {
            Some(rest) => (LinkTransport::Tls, rest),
            None => (LinkTransport::Udp, text.strip_prefix("udp://").unwrap_or(text)),
        };
        let bare = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(rest);
        let has_port = bare == rest && rest.contains(':');
        let (host, port) = match rest.parse::<SocketAddr>() {
            Ok(address) => (address.ip().to_string(), address.port()),
            Err(_) if transport == LinkTransport::Tls && !has_port => (bare.to_owned(), TLS_PORT),
            Err(_) => {
                let (host, port) = rest.rsplit_once(':').unwrap_or((rest, ""));
                (host.to_owned(), port.parse().or_fail(|| format!("'{text}' does not end with a port"), cure)?)
            }
        };
        InviteLink::new(transport, &host, port).or_fail(|| format!("'{text}' cannot be called"), cure)
    };
    let links = args.links.iter().map(link).collect::<Result<_>>()?;
    let invite = Invite::new(status.region, links).or_fail(|| "cannot make the invite", cure)?;
    output::print(&format!("{invite}\n"))?;
    Ok(ExitCode::SUCCESS)
}
