//! What the system needs for this node's part in exits: made before the first packet comes out of the mesh, removed in
//! good order.

use std::net::Ipv6Addr;

use atoll_os::{
    firewall::{ExitFirewall, FirewallError},
    link::Links,
};

use crate::{MeshError, config::Exit};

/// The part that this node has.
pub(crate) enum Part {
    /// None.
    None,
    /// It sends its own packets over an exit.
    User,
    /// It is an exit, on this link.
    Exit(String),
}

impl Part {
    /// Makes what the part needs on `link`, on which this node is `own`, and removes what an earlier process left.
    pub(crate) async fn start(exit: Option<&Exit>, link: &str, own: Ipv6Addr) -> Result<Self, MeshError> {
        let links = Links::here()?;
        if !matches!(exit, Some(Exit::Use(_))) {
            links.remove_detour().await?;
        }
        if !matches!(exit, Some(Exit::Offer(_))) {
            match ExitFirewall::remove(link).await {
                // Where nft is missing nobody made a table, and where a name cannot be one, neither.
                Ok(()) | Err(FirewallError::Missing(_) | FirewallError::Description { .. }) => {}
                Err(error) => tracing::warn!(%error, "the rules of an exit of before may still be there"),
            }
        }
        match exit {
            None => Ok(Self::None),
            Some(Exit::Use(_)) => {
                links.ensure_detour(link, own).await?;
                Ok(Self::User)
            }
            Some(Exit::Offer(_)) => {
                let link = link.to_owned();
                ExitFirewall { link: link.clone() }.apply().await.map_err(MeshError::Exit)?;
                links.enable_forwarding()?;
                Ok(Self::Exit(link))
            }
        }
    }

    /// Removes it; this machine goes on to forward.
    pub(crate) async fn stop(self) {
        let done = match self {
            Self::None => return,
            Self::User => end_detour().await,
            Self::Exit(link) => ExitFirewall::remove(&link).await.map_err(MeshError::Exit),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "what the exit needed stays behind until the mesh is started again");
        }
    }
}

async fn end_detour() -> Result<(), MeshError> {
    Ok(Links::here()?.remove_detour().await?)
}
