//! Revert data in words.

use alloy_sol_types::{Panic, Revert, SolError as _, SolInterface as _};
use atoll_base::{
    NodeId,
    contracts::{IDeployments::IDeploymentsErrors, INodes::INodesErrors},
};

/// What a revert says: a plain reason, a panic, or one of the system contracts' own errors.
pub(super) fn reason(data: &[u8]) -> Option<String> {
    if let Ok(revert) = Revert::abi_decode(data) {
        return Some(revert.reason().to_owned());
    }
    if let Ok(panic) = Panic::abi_decode(data) {
        return Some(panic.to_string());
    }
    nodes(data).or_else(|| deployments(data))
}

fn nodes(data: &[u8]) -> Option<String> {
    Some(match INodesErrors::abi_decode(data).ok()? {
        INodesErrors::UnknownNode(e) => format!("no node {} is registered", e.id),
        INodesErrors::NotYourNode(e) => {
            format!("node {} belongs to provider {}", NodeId::from(e.id).short(), e.provider)
        }
        INodesErrors::BadClaim(e) => format!("the node's claim is not valid: {}", e.why),
        INodesErrors::TooMany(e) => format!("too many {}: at most {} are allowed", e.what, e.max),
    })
}

fn deployments(data: &[u8]) -> Option<String> {
    use IDeploymentsErrors as E;
    Some(match E::abi_decode(data).ok()? {
        E::NoCapacity(e) => format!("no node has room for service {}: {}", e.service, e.why),
        E::PlacementChanged(_) => "the scheduler now decides otherwise than quoted: ask for a new quote".into(),
        E::NameTaken(e) => format!("the name '{}' is taken by a deployment of {}", e.name, e.owner),
        E::NotOwner(e) => format!("only the owner, {}, may do that", e.owner),
        E::UnknownDeployment(e) => format!("there is no deployment {}", e.id),
        E::StaleEpoch(e) => format!("lease {} has moved on: its epoch is {}", e.lease, e.epoch),
        E::NotEnoughEscrow(e) => format!("the escrow must be at least {}, {} was given", e.needed, e.given),
        E::Invalid(e) => format!("not valid: {}", e.why),
    })
}

/// The message of a revert, as Ethereum's clients write it.
pub(super) fn message(data: &[u8]) -> String {
    match reason(data) {
        Some(reason) => format!("execution reverted: {reason}"),
        None => "execution reverted".into(),
    }
}
