//! The system contracts: their addresses, and their interfaces as published in `contracts/`.

use alloy_primitives::{Address, address};

/// Parameters of the region, from its charter.
pub const CHARTER: Address = address!("000000000000000000000000000000000000A701");
/// Providers' nodes.
pub const NODES: Address = address!("000000000000000000000000000000000000A702");
/// Deployments and leases. Holds all escrow as its balance.
pub const DEPLOYMENTS: Address = address!("000000000000000000000000000000000000A703");

#[allow(missing_docs, reason = "generated from the Solidity files, which carry the documentation")]
mod abi {
    alloy_sol_types::sol!(
        #[sol(all_derives)]
        "../../contracts/ICharter.sol"
    );
    alloy_sol_types::sol!(
        #[sol(all_derives)]
        "../../contracts/INodes.sol"
    );
    alloy_sol_types::sol!(
        #[sol(all_derives)]
        "../../contracts/IDeployments.sol"
    );
}

pub use abi::{ICharter, IDeployments, INodes};
