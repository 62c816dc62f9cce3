//! The firewall of the machine's own address on the mesh: made before the first packet comes out of the mesh, removed
//! in good order.

use atoll_os::firewall::{FirewallError, OwnFirewall};

use crate::config::Open;

/// The firewall that there is.
pub(crate) struct Guard {
    link: String,
}

impl Guard {
    /// Makes the firewall for what comes in over `link`, in the place of one that an earlier process left; nothing if
    /// everything is open.
    pub(crate) async fn start(link: &str, open: Open) -> Result<Option<Self>, FirewallError> {
        let link = link.to_owned();
        match open {
            Open::All => match OwnFirewall::remove(&link).await {
                // Where nft is missing nobody made a table, and where a name cannot be one, neither.
                Ok(()) | Err(FirewallError::Missing(_) | FirewallError::Description { .. }) => Ok(None),
                Err(error) => {
                    tracing::warn!(%error, "a firewall of before may still close this machine to the mesh");
                    Ok(None)
                }
            },
            Open::Ports { tcp, udp } => {
                OwnFirewall { link: link.clone(), tcp, udp }.apply().await?;
                Ok(Some(Self { link }))
            }
        }
    }

    /// Removes it. The link must be gone, or nobody may write to it any more.
    pub(crate) async fn stop(self) {
        if let Err(error) = OwnFirewall::remove(&self.link).await {
            tracing::warn!(error = %error, "the firewall of the mesh's interface stays behind");
        }
    }
}
