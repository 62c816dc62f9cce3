//! The system contracts: native code behind fixed addresses, called like any contract.
//!
//! Everything they know is in their storage, laid out by [`atoll_base::schema`]; everything they change goes through the
//! EVM's journal ([`Host`]), so that a revert undoes it. They never call other contracts, so nothing can re-enter them.
//! The accounts themselves are not empty (nonce 1, code `0xef`), or state clearing would erase them.

use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::{Revert, SolError as _, SolInterface, abi::AbiDecoderConfig};
use atoll_base::{
    contracts::{CHARTER, DEPLOYMENTS, ICharter, IDeployments, INodes, NODES},
    schema,
};

use crate::{execute::StateError, limits, state::StateRead};

mod access;
pub mod billing;
mod charter;
mod deployments;
mod due;
mod end;
mod fleet;
mod leases;
mod nodes;
mod outage;
pub mod scheduler;

pub(crate) use access::{Access, Host, Stop};
pub(crate) use charter::region_slot;
pub(crate) use end::end_block;
pub(crate) use outage::begin_block;

/// All system contracts.
pub const ADDRESSES: [Address; 3] = [CHARTER, NODES, DEPLOYMENTS];

/// Code of the system contracts' accounts: one byte that no EVM executes.
pub const CODE: &[u8] = &[0xef];

/// A call of a system contract.
pub(crate) struct Call<'a> {
    pub(crate) contract: Address,
    pub(crate) caller: Address,
    pub(crate) value: U256,
    pub(crate) input: &'a [u8],
    /// Whether the contract's code is to run on another account's storage: DELEGATECALL, CALLCODE.
    pub(crate) borrowed: bool,
}

/// Runs a call. The value was moved to the contract already, and goes back if this fails.
pub(crate) fn call(access: &mut Access<'_>, call: &Call<'_>) -> Result<Bytes, Stop> {
    access.charge(limits::GAS_BASE + words(call.input.len()) * limits::GAS_COPY)?;
    if call.borrowed {
        return Err(revert("a system contract cannot run on another account: use CALL or STATICCALL"));
    }
    let output = match call.contract {
        CHARTER => charter::call(access, decode::<ICharter::ICharterCalls>(call)?, call),
        NODES => nodes::call(access, decode::<INodes::INodesCalls>(call)?, call),
        _ => deployments::call(access, decode::<IDeployments::IDeploymentsCalls>(call)?, call),
    }?;
    access.charge(words(output.len()) * limits::GAS_COPY)?;
    Ok(output.into())
}

/// Whether an account belongs to a registered node: it may then call for free.
pub(crate) fn is_node_account<S: StateRead>(
    state: &mut crate::execute::Overlay<'_, S>,
    account: Address,
) -> Result<bool, StateError<S::Error>> {
    Ok(!state.word(NODES, schema::node_of_account_slot(account))?.is_zero())
}

fn decode<T: SolInterface>(call: &Call<'_>) -> Result<T, Stop> {
    // Offsets may point to the same bytes again and again: the bound is on what they unfold to.
    let bounds = AbiDecoderConfig::new().validate(true).memory_limit(limits::ABI_MEMORY_BYTES_MAX);
    T::abi_decode_with_config(call.input, bounds)
        .map_err(|error| revert(&format!("the input is no call of this system contract: {error}")))
}

/// Revert with a plain reason, `Error(string)`.
pub(crate) fn revert(why: &str) -> Stop {
    Stop::Revert(Revert::from(why).abi_encode().into())
}

/// Refuses coins that are sent to a function that does not take them.
pub(crate) fn no_value(call: &Call<'_>) -> Result<(), Stop> {
    if call.value.is_zero() { Ok(()) } else { Err(revert("this function takes no coins")) }
}

fn words(bytes: usize) -> u64 {
    bytes.div_ceil(32) as u64
}
