//! `atoll up` for a region that runs: what has changed in `[mesh]` is done at once, as far as that can be.

use std::{fs, io::Write as _, path::Path};

use anyhow::{Context as _, Result};
use atoll_api::{ClientError, UnixClient, mesh::Reloaded};

use super::{
    layout::Layout,
    members::{Member, Plan, Role},
};
use crate::cli::{failure::fail, mesh::reload::in_words};

/// Tells each mesh daemon of this machine whose configuration is another than the one that it has.
pub(super) async fn mesh(plan: &Plan<'_>) -> Result<()> {
    for member in plan.members() {
        let config = plan.layout.daemon_config(&member.name, Role::Mesh.name());
        let (before, text) = (fs::read_to_string(&config).ok(), plan.config(&member, Role::Mesh)?);
        if before.as_ref() == Some(&text) {
            continue;
        }
        replace(&config, &text)?;
        if let Some(reloaded) = tell(plan.layout, &member, &config, before.as_deref()).await? {
            let said = in_words(&reloaded, "the region is started again: `atoll down`, `atoll up`");
            eprint!("[mesh] of {}: {said}", member.name);
        }
    }
    Ok(())
}

/// What became of it; nothing if the daemon is just being started, and reads the file then.
async fn tell(layout: &Layout, member: &Member, config: &Path, before: Option<&str>) -> Result<Option<Reloaded>> {
    let client = UnixClient::new(layout.daemon_socket(&member.name, Role::Mesh.name()));
    match client.post("/v1/reload", &()).await {
        Ok(reloaded) => Ok(Some(reloaded)),
        Err(ClientError::Refused { problem, .. }) => {
            // The file that is in use stays the one that the next start finds.
            if let Some(before) = before {
                replace(config, before)?;
            }
            Err(fail(
                format!("the mesh of {} does not take the changed [mesh]: {}", member.name, problem.error),
                problem.cure.unwrap_or_default(),
            ))
        }
        Err(ClientError::Connect { .. }) => Ok(None),
        Err(error) => Err(error).context("the mesh did not say whether it took the changed [mesh]"),
    }
}

/// Replaces a file; whoever reads it meanwhile gets the old one or the new one.
fn replace(path: &Path, text: &str) -> Result<()> {
    let write = || {
        let new = path.with_extension("new");
        let mut file = fs::File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
