//! A region of many members on one machine: a network namespace for each, joined by veth links to one bridge.

use anyhow::{Context as _, Result};
use atoll_os::{link::Links, netns::NetNs};

use super::members::{LAB_BRIDGE, LAB_INTERFACE, Member};

/// The host's end of a member's link. Taking it down cuts the member off.
pub(super) fn link_name(member: &str) -> String {
    format!("al-{member}")
}

/// Makes what is missing of bridge, namespaces and links. Safe to repeat.
pub(super) async fn ensure(members: &[Member]) -> Result<()> {
    let inside: Vec<_> = members.iter().filter_map(|m| m.namespace.as_ref().map(|ns| (m, ns))).collect();
    if inside.is_empty() {
        return Ok(());
    }
    let host = Links::here()?;
    host.ensure_bridge(LAB_BRIDGE).await.context("cannot make the lab's bridge")?;
    host.ensure_up(LAB_BRIDGE).await?;
    for (member, namespace) in inside {
        ensure_member(&host, namespace, &link_name(&member.name))
            .await
            .with_context(|| format!("cannot make the network of {}", member.name))?;
    }
    Ok(())
}

async fn ensure_member(host: &Links, namespace: &str, link: &str) -> Result<()> {
    let there = NetNs::ensure(namespace)?;
    host.ensure_veth(link, &there, LAB_INTERFACE).await?;
    host.ensure_port(link, LAB_BRIDGE).await?;
    host.ensure_up(link).await?;
    let links = Links::of(&there)?;
    links.ensure_up("lo").await?;
    links.ensure_up(LAB_INTERFACE).await?;
    Ok(())
}

/// Takes it all away again.
pub(super) async fn remove(members: &[Member]) -> Result<()> {
    let inside: Vec<_> = members.iter().filter_map(|m| m.namespace.as_ref().map(|ns| (m, ns))).collect();
    if inside.is_empty() {
        return Ok(());
    }
    let host = Links::here()?;
    for (member, namespace) in inside {
        host.remove(&link_name(&member.name)).await?;
        NetNs::remove(namespace)?;
    }
    host.remove(LAB_BRIDGE).await.context("cannot remove the lab's bridge")
}
