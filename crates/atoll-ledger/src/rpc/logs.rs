//! Logs and polling filters.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use alloy_primitives::{B256, U256};
use alloy_rpc_types_eth::{Filter, FilterBlockOption, Log};
use serde::Serialize;

use super::{Rpc, error::Failure};
use crate::{chain::lock, limits};

/// The polling filters of all clients.
#[derive(Debug, Default)]
pub(super) struct Filters {
    made: u64,
    by_id: BTreeMap<U256, Polled>,
}

#[derive(Debug)]
struct Polled {
    kind: Kind,
    /// First height that the client has not seen.
    next: u64,
    asked: Instant,
}

#[derive(Debug, Clone)]
enum Kind {
    Blocks,
    Logs(Box<Filter>),
}

/// What came since the last question.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(super) enum Changes {
    Hashes(Vec<B256>),
    Logs(Vec<Log>),
}

impl Rpc {
    pub(super) fn logs(&self, filter: &Filter) -> Result<Vec<Log>, Failure> {
        check(filter)?;
        match filter.block_option {
            FilterBlockOption::AtBlockHash(hash) => {
                let height = self.height(hash.into())?;
                let height =
                    height.ok_or_else(|| Failure::refused(format!("unknown block: no final block has hash {hash}")))?;
                self.logs_between(filter, height, height)
            }
            FilterBlockOption::Range { from_block, to_block } => {
                let from = self.height_of_tag(from_block.unwrap_or_default());
                let to = self.height_of_tag(to_block.unwrap_or_default());
                self.logs_between(filter, from, to)
            }
        }
    }

    fn logs_between(&self, filter: &Filter, from: u64, to: u64) -> Result<Vec<Log>, Failure> {
        let to = to.min(self.chain.head().block.number());
        if from > to {
            return Ok(Vec::new());
        }
        if to - from >= limits::RPC_LOGS_BLOCKS_MAX {
            let max = limits::RPC_LOGS_BLOCKS_MAX;
            return Err(Failure::params(format!("block range too large: at most {max} blocks at once, ask in parts")));
        }
        let mut logs = Vec::new();
        let mut failed = None;
        self.chain.index().blooms(from, to, &mut |height, bloom| {
            if !filter.matches_bloom(bloom) {
                return ControlFlow::Continue(());
            }
            match self.full(height) {
                Ok(Some(full)) => logs.extend(full.logs().filter(|log| matches(filter, log))),
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
            if failed.is_some() || logs.len() > limits::RPC_LOGS_MAX {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        match failed {
            Some(error) => Err(error),
            None if logs.len() > limits::RPC_LOGS_MAX => {
                let max = limits::RPC_LOGS_MAX;
                Err(Failure::params(format!(
                    "query returned more than {max} results: narrow the filter or the block range"
                )))
            }
            None => Ok(logs),
        }
    }

    pub(super) fn new_block_filter(&self) -> U256 {
        self.add_filter(Kind::Blocks)
    }

    pub(super) fn new_filter(&self, filter: Filter) -> Result<U256, Failure> {
        check(&filter)?;
        Ok(self.add_filter(Kind::Logs(Box::new(filter))))
    }

    pub(super) fn drop_filter(&self, id: U256) -> bool {
        lock(&self.filters).by_id.remove(&id).is_some()
    }

    /// All logs of a log filter.
    pub(super) fn filter_logs(&self, id: U256) -> Result<Vec<Log>, Failure> {
        let kind = lock(&self.filters).by_id.get(&id).map(|polled| polled.kind.clone());
        match kind {
            Some(Kind::Logs(filter)) => self.logs(&filter),
            _ => Err(Failure::refused("filter not found")),
        }
    }

    /// What came since the last question.
    pub(super) fn filter_changes(&self, id: U256) -> Result<Changes, Failure> {
        let head = self.chain.head().block.number();
        let (kind, from) = {
            let mut filters = lock(&self.filters);
            let polled = filters.by_id.get_mut(&id).ok_or_else(|| Failure::refused("filter not found"))?;
            let from = polled.next;
            polled.next = head + 1;
            polled.asked = Instant::now();
            (polled.kind.clone(), from)
        };
        match kind {
            Kind::Blocks => {
                let first = from.max((head + 1).saturating_sub(limits::RPC_FILTER_BLOCKS_MAX));
                let mut hashes = Vec::new();
                for height in first..=head {
                    hashes.extend(self.chain.index().block(height)?.map(|block| block.hash()));
                }
                Ok(Changes::Hashes(hashes))
            }
            Kind::Logs(filter) => {
                let first = from.max((head + 1).saturating_sub(limits::RPC_LOGS_BLOCKS_MAX));
                self.logs_between(&filter, first, head).map(Changes::Logs)
            }
        }
    }

    fn add_filter(&self, kind: Kind) -> U256 {
        let next = self.chain.head().block.number() + 1;
        let mut filters = lock(&self.filters);
        let idle = Duration::from_millis(limits::RPC_FILTER_IDLE_MS);
        filters.by_id.retain(|_, polled| polled.asked.elapsed() < idle);
        if filters.by_id.len() >= limits::RPC_FILTERS_MAX {
            let oldest = filters.by_id.iter().min_by_key(|(_, polled)| polled.asked).map(|(id, _)| *id);
            oldest.and_then(|id| filters.by_id.remove(&id));
        }
        filters.made += 1;
        // Not to be guessed, so that no client empties another's.
        let id = U256::from(rand::random::<u64>()) << 64 | U256::from(filters.made);
        filters.by_id.insert(id, Polled { kind, next, asked: Instant::now() });
        id
    }
}

fn check(filter: &Filter) -> Result<(), Failure> {
    let max = limits::RPC_FILTER_ITEMS_MAX;
    if filter.address.len() > max || filter.topics.iter().any(|topic| topic.len() > max) {
        return Err(Failure::params(format!("a filter may name at most {max} addresses, and topics at one place")));
    }
    filter.block_option.ensure_valid_block_range().map_err(|error| Failure::params(error.to_string()))
}

fn matches(filter: &Filter, log: &Log) -> bool {
    filter.matches_address(log.inner.address) && filter.matches_topics(log.inner.topics())
}
