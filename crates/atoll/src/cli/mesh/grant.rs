//! `atoll mesh authority` and `atoll mesh grant`: how a region vouches for its border nodes.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use atoll_base::{NodeId, NodeSecret, RegionId};
use atoll_mesh::Grant;
use serde::Serialize;

use super::{
    super::{
        failure::{OrFail as _, fail},
        output,
    },
    Which,
};
use crate::up::found;

const DAY: Duration = Duration::from_secs(86_400);

/// `atoll mesh authority`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Whoever has this file decides which nodes speak for the region towards other regions: keep it, and a copy, where nobody \
else reads it. It is needed only to grant, not while the region runs.")]
pub(crate) struct AuthorityArgs {
    /// The key; made if there is no such file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// `atoll mesh grant`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Two regions recognise each other:
  each, once:        atoll mesh authority border-authority.key
  for a border node: atoll mesh grant --authority border-authority.key
The first lines go into the border node's own settings, the others are for the nodes of the other region.")]
pub(crate) struct GrantArgs {
    /// The key that `atoll mesh authority` made
    #[arg(long, value_name = "FILE")]
    authority: PathBuf,
    /// The border node, by its full id; without it this machine's node
    #[arg(long, value_name = "NODE", requires = "region")]
    node: Option<NodeId>,
    /// Its region, by the full id; without it that of this machine
    #[arg(long, value_name = "REGION", requires = "node")]
    region: Option<RegionId>,
    /// For how many days the grant is good
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    #[command(flatten)]
    which: Which,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// The public half of an authority.
#[derive(Debug, Serialize)]
struct Authority {
    authority: NodeId,
}

/// What was granted.
#[derive(Debug, Serialize)]
struct Granted {
    region: RegionId,
    node: NodeId,
    authority: NodeId,
    /// Until when, in milliseconds since 1970.
    expiry_ms: u64,
    grant: String,
}

pub(super) fn authority(args: &AuthorityArgs) -> Result<ExitCode> {
    let path = &args.file;
    let is_there = path
        .try_exists()
        .or_fail(|| format!("cannot look for {}", path.display()), || "name a file in a directory that can be read")?;
    let authority = if is_there {
        read(path)?.id()
    } else {
        let secret = NodeSecret::from_seed(rand::random());
        found::write_secret(path, &secret.to_text())
            .or_fail(|| "the new key cannot be kept", || "name a file in a directory that can be written")?;
        secret.id()
    };
    if args.json {
        output::print_json(&Authority { authority })?;
    } else {
        output::print(&format!("{authority}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn grant(args: &GrantArgs, state: Option<&Path>) -> Result<ExitCode> {
    let secret = read(&args.authority)?;
    let (region, node) = match (args.region, args.node) {
        (Some(region), Some(node)) => (region, node),
        _ => {
            let status = args.which.status(state)?;
            (status.region, status.node)
        }
    };
    let end = SystemTime::now() + DAY * args.days;
    let expiry_ms = end.duration_since(UNIX_EPOCH).context("the clock of this machine is before 1970")?.as_millis();
    let expiry_ms = u64::try_from(expiry_ms).context("the clock of this machine is far in the future")?;
    let grant = Grant::sign(&secret, region, node, expiry_ms).to_text();
    let granted = Granted { region, node, authority: secret.id(), expiry_ms, grant };
    if args.json {
        output::print_json(&granted)?;
    } else {
        output::print(&granted.to_settings(humantime::format_rfc3339_seconds(end)))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Granted {
    /// The lines for both sides' settings.
    fn to_settings(&self, end: impl core::fmt::Display) -> String {
        let Self { region, node, authority, grant, .. } = self;
        format!(
            "# for [mesh] of {node}, until {end}\n\
             grant = \"{grant}\"\n\n\
             # for the nodes of a region that recognises this one ([[regions]] in a file of `atoll mesh run --config`)\n\
             [[mesh.regions]]\n\
             id = \"{region}\"\n\
             authority = \"{authority}\"\n"
        )
    }
}

/// Reads the key of an authority, which nobody else may be able to read.
fn read(path: &Path) -> Result<NodeSecret> {
    let shown = path.display();
    let make =
        || format!("name the file that was made by `atoll mesh authority FILE`, and read it as its owner ({shown})");
    let mode = fs::metadata(path).or_fail(|| format!("cannot read {shown}"), make)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(fail(
            format!("{shown} can be read by others of this machine"),
            format!("run `chmod 600 {shown}`, or make a new authority if somebody may have read it"),
        ));
    }
    let text = fs::read_to_string(path).or_fail(|| format!("cannot read {shown}"), make)?;
    NodeSecret::from_text(&text).or_fail(|| format!("{shown} is not the key of an authority"), make)
}

#[cfg(test)]
mod tests {
    use super::{super::super::failure::render, *};

    #[test]
    fn a_grant_is_good_for_the_settings_that_it_prints() {
        let secret = NodeSecret::from_seed([7; 32]);
        let (region, node) = (RegionId([1; 32]), NodeSecret::from_seed([2; 32]).id());
        let grant = Grant::sign(&secret, region, node, 1_900_000_000_000).to_text();
        let granted = Granted { region, node, authority: secret.id(), expiry_ms: 1_900_000_000_000, grant };
        let settings: toml::Table = granted.to_settings("then").parse().expect("it is TOML");
        let grant = settings["grant"].as_str().and_then(|text| Grant::of_text(region, node, text));
        assert!(grant.is_some_and(|grant| grant.is_authentic(secret.id())));
        let other = &settings["mesh"]["regions"][0];
        assert_eq!(other["id"].as_str(), Some(region.to_string().as_str()));
        assert_eq!(other["authority"].as_str(), Some(secret.id().to_string().as_str()));
    }

    #[test]
    fn a_key_that_others_read_or_that_is_none_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.key");
        let refusal = || render(&read(&path).expect_err("it is refused"));
        assert!(refusal().contains("atoll mesh authority"));
        found::write_secret(&path, &NodeSecret::from_seed([7; 32]).to_text()).expect("it is written");
        assert_eq!(read(&path).expect("it is good").id(), NodeSecret::from_seed([7; 32]).id());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is opened");
        assert!(refusal().contains("chmod 600"));
        found::write_secret(&path, "no key").expect("it is written");
        assert!(refusal().contains("not the key"));
    }
}
