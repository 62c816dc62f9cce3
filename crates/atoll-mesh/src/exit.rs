//! What the system needs for this node's part in exits: made before the first packet comes out of the mesh, removed in
//! good order.

use atoll_base::MeshAddr;
use atoll_mesh_core::{
    exit::{POOL_BITS, pool_of},
    limits::MTU,
    translate::SPARE_BYTES,
};
use atoll_os::{
    firewall::{ExitFirewall, FirewallError},
    link::Links,
};

use crate::{MeshError, config::Exit};

/// Largest IPv4 packet to a guest: as one of IPv6 it fits the link.
const IPV4_MTU: u32 = (MTU - SPARE_BYTES) as u32;

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
    /// Makes what the part needs on `link`, to which the network `own` of this node belongs, and removes what an earlier
    /// process left.
    pub(crate) async fn start(exit: Option<&Exit>, link: &str, own: MeshAddr) -> Result<Self, MeshError> {
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
                links.ensure_detour(link, own.node()).await?;
                Ok(Self::User)
            }
            Some(Exit::Offer(_)) => {
                let pool = (pool_of(own), POOL_BITS);
                ExitFirewall { link: link.to_owned(), pool }.apply().await.map_err(MeshError::Exit)?;
                links.enable_forwarding()?;
                links.enable_forwarding_ipv4()?;
                links.ensure_network_behind(link, pool, IPV4_MTU).await?;
                Ok(Self::Exit(link.to_owned()))
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
