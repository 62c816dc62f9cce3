//! `ICharter`: what the founders agreed on, for contracts and wallets to read.

use alloy_primitives::{B256, U256};
use alloy_sol_types::SolCall as _;
use atoll_base::{
    Charter,
    contracts::ICharter::{self, ICharterCalls},
    ids::domain_hash,
};

use super::{Access, Call, Stop, no_value};

/// The word in `CHARTER` that holds the region id, so that a proof of state shows to which region it belongs.
pub(crate) fn region_slot() -> B256 {
    domain_hash("charter.region", &[])
}

pub(super) fn call(access: &mut Access<'_>, input: ICharterCalls, call: &Call<'_>) -> Result<Vec<u8>, Stop> {
    no_value(call)?;
    let charter = access.env.charter;
    Ok(match input {
        ICharterCalls::regionId(_) => ICharter::regionIdCall::abi_encode_returns(&access.env.region.word()),
        ICharterCalls::name(_) => ICharter::nameCall::abi_encode_returns(&charter.name),
        ICharterCalls::currency(_) => ICharter::currencyCall::abi_encode_returns(&ICharter::currencyReturn {
            name_: charter.currency.name.clone(),
            symbol: charter.currency.symbol.clone(),
        }),
        ICharterCalls::prices(_) => ICharter::pricesCall::abi_encode_returns(&ICharter::Prices {
            cpuCoreHour: charter.prices.cpu_core_hour,
            memoryGibHour: charter.prices.memory_gib_hour,
            diskGibHour: charter.prices.disk_gib_hour,
        }),
        ICharterCalls::heartbeat(_) => ICharter::heartbeatCall::abi_encode_returns(&ICharter::heartbeatReturn {
            intervalMs: charter.timing.heartbeat_ms,
            timeoutMs: charter.timing.heartbeat_timeout_ms,
        }),
        ICharterCalls::closed(_) => ICharter::closedCall::abi_encode_returns(&charter.is_closed()),
        ICharterCalls::supply(_) => ICharter::supplyCall::abi_encode_returns(&supply(charter)),
    })
}

/// All coins: those of the charter. None are minted, and fees go to the treasury.
fn supply(charter: &Charter) -> U256 {
    charter.allocations.iter().fold(U256::ZERO, |sum, allocation| sum.saturating_add(allocation.amount))
}
