//! `atoll up` for a region that runs: what has changed in its settings is done at once, as far as that can be.

use std::{fs, io::Write as _, net::SocketAddr, path::Path};

use anyhow::{Context as _, Result};
use atoll_api::{ClientError, UnixClient, mesh::Reloaded, supervisor::RestartRequest};

use super::{
    layout::Layout,
    machine,
    members::{Member, Plan, Role},
    progress,
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

/// Refuses what the running daemons could not change to.
pub(super) fn check(plan: &Plan<'_>) -> Result<()> {
    let mut held = Vec::new();
    for member in plan.members().iter().filter(|member| member.namespace.is_none()) {
        let text = |role: Role| fs::read_to_string(plan.layout.daemon_config(&member.name, role.name())).ok();
        let node = text(Role::Node).and_then(|text| toml::from_str::<atoll_node::Config>(&text).ok());
        let ledger = text(Role::Ledger).and_then(|text| toml::from_str::<atoll_ledger::Config>(&text).ok());
        held.extend(node.into_iter().flat_map(|config| config.gateway.into_iter().chain(config.rpc_forward)));
        held.extend(ledger.into_iter().flat_map(|config| config.rpc));
    }
    let held: Vec<u16> = held.iter().map(SocketAddr::port).collect();
    machine::check_loopback_ports(plan.settings, &held)
}

/// Starts the daemons again whose configuration is another than the one that they have, but for the mesh's.
pub(super) async fn others(plan: &Plan<'_>) -> Result<()> {
    let supervisor = UnixClient::new(plan.layout.supervisor_socket());
    for member in plan.members() {
        for role in member.roles().into_iter().filter(|role| *role != Role::Mesh) {
            let path = plan.layout.daemon_config(&member.name, role.name());
            let before = fs::read_to_string(&path).ok();
            let text = match (role, &before) {
                (Role::Node, Some(before)) => measured(plan, before).config(&member, role)?,
                _ => plan.config(&member, role)?,
            };
            if before.as_ref() == Some(&text) {
                continue;
            }
            let progress =
                progress::spinner(&format!("starting the {} of {} with its new settings", role.name(), member.name));
            replace(&path, &text)?;
            let request = RestartRequest { member: member.name.clone(), role: role.name().to_owned() };
            if let Err(error) = supervisor.post::<_, ()>("/v1/restart", &request).await {
                progress.failed();
                return Err(error).with_context(|| {
                    format!("the {} of {} does not start again: `atoll down`, `atoll up`", role.name(), member.name)
                });
            }
            progress.done();
        }
    }
    Ok(())
}

/// The plan with the capacity that was measured before, unless the owner says it: the free disk changes all the time.
fn measured<'a>(plan: &Plan<'a>, before: &str) -> Plan<'a> {
    let known = toml::from_str::<atoll_node::Config>(before).ok().and_then(|config| config.capacity);
    let capacity = known.filter(|_| plan.settings.capacity.is_none()).unwrap_or(plan.capacity);
    Plan { capacity, ..*plan }
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
