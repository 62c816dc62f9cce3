//! How system contracts reach the state: through the EVM's journal, each step paid for in gas.

use alloy_primitives::{Address, B256, Bytes, IntoLogData, Log, U256};
use alloy_rlp::{Decodable, Encodable};
use atoll_base::{
    contracts::DEPLOYMENTS,
    schema::{self, ReadError, StorageRead},
};

use crate::{execute::Env, limits};

/// What a system contract needs of the EVM. Errors are texts because that is what revm carries; all of them are fatal.
pub(crate) trait Host {
    /// Reads a word.
    fn load(&mut self, contract: Address, slot: B256) -> Result<U256, String>;
    /// Writes a word.
    fn store(&mut self, contract: Address, slot: B256, word: U256) -> Result<(), String>;
    /// Moves coins; false if `source` does not hold as much.
    fn transfer(&mut self, source: Address, target: Address, amount: U256) -> Result<bool, String>;
    /// Logs.
    fn log(&mut self, log: Log);
}

/// Why a system contract stopped without a result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stop {
    /// It refuses; the data says why (ABI error).
    #[error("reverted with {0}")]
    Revert(Bytes),
    /// The gas is used up.
    #[error("out of gas")]
    OutOfGas,
    /// A change was attempted within STATICCALL.
    #[error("a static call cannot change anything")]
    Static,
    /// The state is unreadable or holds what no version wrote.
    #[error("{0}")]
    Broken(String),
}

impl From<ReadError<Self>> for Stop {
    fn from(error: ReadError<Self>) -> Self {
        match error {
            ReadError::Storage(stop) => stop,
            ReadError::Form { .. } => Self::Broken(error.to_string()),
        }
    }
}

/// A system contract's hands.
pub(crate) struct Access<'a> {
    host: &'a mut dyn Host,
    pub(crate) env: &'a Env<'a>,
    gas: Option<u64>,
    is_static: bool,
}

impl<'a> Access<'a> {
    /// For a call within a transaction.
    pub(crate) fn metered(host: &'a mut dyn Host, env: &'a Env<'a>, gas: u64, is_static: bool) -> Self {
        Self { host, env, gas: Some(gas), is_static }
    }

    /// For the ledger's own work at the bounds of a block, which is bounded by [`limits`] instead.
    pub(crate) fn unmetered(host: &'a mut dyn Host, env: &'a Env<'a>) -> Self {
        Self { host, env, gas: None, is_static: false }
    }

    /// Ledger time.
    pub(crate) fn now_ms(&self) -> u64 {
        self.env.timestamp_ms
    }

    /// What is left of the gas.
    pub(crate) fn gas_left(&self) -> u64 {
        self.gas.unwrap_or(0)
    }

    /// Pays for work.
    pub(crate) fn charge(&mut self, gas: u64) -> Result<(), Stop> {
        if let Some(left) = &mut self.gas {
            let Some(rest) = left.checked_sub(gas) else {
                *left = 0;
                return Err(Stop::OutOfGas);
            };
            *left = rest;
        }
        Ok(())
    }

    /// Writes a word.
    pub(crate) fn store(&mut self, contract: Address, slot: B256, word: U256) -> Result<(), Stop> {
        if self.is_static {
            return Err(Stop::Static);
        }
        if self.word(contract, slot)? == word {
            return Ok(());
        }
        self.charge(limits::GAS_WRITE)?;
        self.host.store(contract, slot, word).map_err(Stop::Broken)
    }

    /// Writes a small number.
    pub(crate) fn store_u64(&mut self, contract: Address, slot: B256, number: u64) -> Result<(), Stop> {
        self.store(contract, slot, U256::from(number))
    }

    /// Reads a small number.
    pub(crate) fn read_u64(&mut self, contract: Address, slot: B256) -> Result<u64, Stop> {
        Ok(schema::read_u64(self, contract, slot)?)
    }

    /// Writes a byte string, and clears the words of a longer one that was there.
    pub(crate) fn store_bytes(&mut self, contract: Address, at: B256, bytes: &[u8]) -> Result<(), Stop> {
        let before = self.read_u64(contract, at)?.div_ceil(32) as usize;
        let words = schema::words_of(at, bytes);
        let now = words.len() - 1;
        for (slot, word) in words {
            self.store(contract, slot, word)?;
        }
        for index in now..before {
            self.store(contract, schema::data_slot(at, index), U256::ZERO)?;
        }
        Ok(())
    }

    /// Writes a record.
    pub(crate) fn store_record<T: Encodable>(&mut self, contract: Address, at: B256, record: &T) -> Result<(), Stop> {
        self.store_bytes(contract, at, &schema::encode_record(record))
    }

    /// Reads a record that must be there.
    pub(crate) fn record<T: Decodable>(&mut self, contract: Address, at: B256, what: &'static str) -> Result<T, Stop> {
        schema::read_record(self, contract, at, what)?
            .ok_or_else(|| Stop::Broken(format!("the ledger's record of {what} is missing at slot {at}")))
    }

    /// Moves coins out of the escrow that `DEPLOYMENTS` holds.
    pub(crate) fn pay(&mut self, target: Address, amount: U256) -> Result<(), Stop> {
        if self.is_static {
            return Err(Stop::Static);
        }
        if amount.is_zero() {
            return Ok(());
        }
        self.charge(limits::GAS_TRANSFER)?;
        if self.host.transfer(DEPLOYMENTS, target, amount).map_err(Stop::Broken)? {
            Ok(())
        } else {
            Err(Stop::Broken("the deployments' escrow is larger than the coins behind it".to_owned()))
        }
    }

    /// Emits an event.
    pub(crate) fn emit(&mut self, contract: Address, event: &impl IntoLogData) -> Result<(), Stop> {
        if self.is_static {
            return Err(Stop::Static);
        }
        let data = event.to_log_data();
        let topics = data.topics().len() as u64 + 1;
        self.charge(limits::GAS_LOG * topics + limits::GAS_LOG_BYTE * data.data.len() as u64)?;
        self.host.log(Log { address: contract, data });
        Ok(())
    }

    /// Something that nodes or gateways act on has changed.
    pub(crate) fn bump_change(&mut self) -> Result<(), Stop> {
        let count = self.read_u64(DEPLOYMENTS, schema::change_slot())?;
        self.store_u64(DEPLOYMENTS, schema::change_slot(), count + 1)
    }
}

impl StorageRead for Access<'_> {
    type Error = Stop;

    fn word(&mut self, contract: Address, slot: B256) -> Result<U256, Stop> {
        self.charge(limits::GAS_READ)?;
        self.host.load(contract, slot).map_err(Stop::Broken)
    }
}
