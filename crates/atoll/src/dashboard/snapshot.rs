//! What the page shows, gathered at one moment.

use alloy_primitives::U256;
use atoll_base::{Charter, NodeId};

use crate::{
    cli::{apps::App, nodes::Node},
    history::Event,
};

/// Nodes on the page; the others are counted.
pub(super) const NODES_MAX: usize = 12;
/// Apps on the page; the others are counted.
pub(super) const APPS_MAX: usize = 12;
/// Leases of one app on the page; the others are counted.
pub(super) const LEASES_MAX: usize = 4;
/// Events on the page.
pub(super) const EVENTS_MAX: usize = 16;
/// Problems on the page.
pub(super) const PROBLEMS_MAX: usize = 6;

/// The region at a moment.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    /// The region's name, a DNS label.
    pub(super) name: String,
    /// The region's id as text.
    pub(super) id: String,
    pub(super) currency: String,
    pub(super) symbol: String,
    pub(super) chain_id: u64,
    pub(super) validators: Vec<(String, NodeId)>,
    /// `None` when no ledger answers.
    pub(super) ledger: Option<Ledger>,
    pub(super) nodes: Vec<Node>,
    pub(super) apps: Vec<App>,
    /// Newest first.
    pub(super) events: Vec<Event>,
    pub(super) problems: Vec<String>,
    /// When it was gathered, milliseconds since 1970.
    pub(super) now_ms: u64,
}

/// Where the ledger stands.
#[derive(Debug, Clone)]
pub(super) struct Ledger {
    pub(super) height: u64,
    /// Time of the newest block, milliseconds since 1970.
    pub(super) block_ms: u64,
    pub(super) finality_ms: Option<u64>,
    pub(super) pending: u64,
    pub(super) supply: U256,
}

impl Snapshot {
    /// Of a region about which nothing is known yet but its charter.
    pub(super) fn of(charter: &Charter) -> Self {
        Self {
            name: charter.name.clone(),
            id: charter.region_id().to_string(),
            currency: charter.currency.name.clone(),
            symbol: charter.currency.symbol.clone(),
            chain_id: charter.chain_id,
            validators: charter.validators.iter().map(|v| (v.name.clone(), v.node())).collect(),
            ledger: None,
            nodes: Vec::new(),
            apps: Vec::new(),
            events: Vec::new(),
            problems: Vec::new(),
            now_ms: 0,
        }
    }
}
