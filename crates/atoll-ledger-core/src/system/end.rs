//! The end of a block: nodes that fell silent, takeovers, whoever waits for a node or a standby, and charges.
//!
//! It looks at nodes and living leases only, and only when [`due`] says so.

use std::collections::BTreeSet;

use alloy_primitives::B256;
use atoll_base::{
    contracts::{DEPLOYMENTS, IDeployments, INodes, NODES},
    schema::{self, DeploymentRecord, LeaseRecord, LeaseState, NodeRecord, ServiceRecord},
};

use super::{
    Access, Stop, billing, due,
    fleet::Fleet,
    leases,
    scheduler::{self, Nodes, Replicas, Request, short},
};
use crate::limits;

/// Work at the end of each block.
pub(crate) fn end_block(access: &mut Access<'_>) -> Result<(), Stop> {
    let mut fleet = Fleet::default();
    if access.now_ms() >= access.read_u64(DEPLOYMENTS, due::nodes_slot())? {
        find_silent(access, &mut fleet)?;
    }
    if access.now_ms() >= access.read_u64(DEPLOYMENTS, due::leases_slot())? {
        tend_all(access, &mut fleet)?;
    }
    fleet.save(access)
}

/// Nodes whose last heartbeat is too old go offline.
fn find_silent(access: &mut Access<'_>, fleet: &mut Fleet) -> Result<(), Stop> {
    let now = access.now_ms();
    let timeout = access.env.charter.timing.heartbeat_timeout_ms;
    let online: Vec<B256> = fleet.all(access)?.values().filter(|node| node.online).map(|node| node.id).collect();
    let resumed = access.read_u64(DEPLOYMENTS, due::resumed_slot())?;
    let mut next = u64::MAX;
    let mut lost = false;
    for id in online {
        // While the ledger itself was away nobody could be heard.
        let heard = access.read_u64(NODES, schema::heartbeat_slot(id))?.max(resumed);
        let limit = heard.saturating_add(timeout);
        if now <= limit {
            next = next.min(limit.saturating_add(1));
            continue;
        }
        fleet.change(access, id)?.online = false;
        let why = silence(id, now, heard);
        access.emit(NODES, &INodes::NodeOffline { id, why })?;
        lost = true;
    }
    access.store_u64(DEPLOYMENTS, due::nodes_slot(), next)?;
    if lost {
        access.store_u64(DEPLOYMENTS, due::leases_slot(), 0)?;
        access.bump_change()?;
    }
    Ok(())
}

fn silence(node: B256, now_ms: u64, heard_ms: u64) -> String {
    let tenths = now_ms.saturating_sub(heard_ms) / 100;
    format!("node {} sent no heartbeat for {}.{} s", short(node), tenths / 10, tenths % 10)
}

/// Tends the living deployments, and finds out when to look again.
fn tend_all(access: &mut Access<'_>, fleet: &mut Fleet) -> Result<(), Stop> {
    let mut next = u64::MAX;
    let mut wanting = false;
    let mut desk = Desk::default();
    let mut alive = schema::alive(access)?;
    if !alive.is_empty() {
        // Whoever is cut off below by the bound comes earlier in another block.
        let first = access.env.number % alive.len() as u64;
        alive.rotate_left(first as usize);
    }
    for id in alive {
        if desk.tried >= limits::PLACEMENTS_PER_BLOCK_MAX {
            next = 0;
            wanting = true;
            break;
        }
        let mut work = Work::load(access, id)?;
        work.tend(access, fleet, &mut desk)?;
        next = next.min(billing::due_ms(access, &work.deployment, &work.leases));
        wanting |= work.is_wanting();
        work.save(access)?;
    }
    if desk.freed && wanting {
        // What a suspension has freed may be what somebody waited for who was looked at before.
        next = 0;
    }
    access.store_u64(DEPLOYMENTS, due::leases_slot(), next)?;
    due::wanting(access, wanting)
}

/// What the end of a block remembers from one deployment to the next.
#[derive(Default)]
struct Desk {
    /// Placements tried.
    tried: usize,
    /// Whether a suspension gave capacity back.
    freed: bool,
    /// Placements that failed: the same again fails again, until capacity is given back.
    hopeless: BTreeSet<Wish>,
}

/// A placement: beside which node (zero: none), what it needs, and with which labels.
type Wish = (B256, [u64; 3], Vec<String>);

impl Desk {
    /// A node for a lease that has lost its own, or why there is none. It must hold the service's key: the tenant is not
    /// there to seal it to another, and who ran it may be dead.
    fn find(
        &mut self,
        access: &mut Access<'_>,
        fleet: &mut Fleet,
        lease: &LeaseRecord,
        request: &Request,
        siblings: &Replicas,
    ) -> Result<Result<B256, &'static str>, Stop> {
        let nodes = fleet.all(access)?;
        let fit = |node: &&NodeRecord| scheduler::fits(node, request);
        if self.ask(B256::ZERO, request, || nodes.values().find(fit).map(|node| node.id)).is_none() {
            return Ok(Err("no other node fits"));
        }
        let mut trusted = Nodes::new();
        for node in nodes.values().filter(fit) {
            if leases::has_key(access, lease, node.id)? {
                trusted.insert(node.id, node.clone());
            }
        }
        Ok(scheduler::best(&trusted, request, siblings).ok_or("no node that fits holds its key"))
    }

    /// Asks the scheduler, unless the answer is known to be no.
    fn ask(&mut self, beside: B256, request: &Request, scheduler: impl FnOnce() -> Option<B256>) -> Option<B256> {
        let needs = [request.needs.cpu_milli, request.needs.memory_bytes, request.needs.disk_bytes];
        let wish = (beside, needs, request.constraints.clone());
        if self.hopeless.contains(&wish) {
            return None;
        }
        self.tried += 1;
        let found = scheduler();
        if found.is_none() {
            self.hopeless.insert(wish);
        }
        found
    }
}

/// One deployment with its leases.
struct Work {
    deployment: DeploymentRecord,
    leases: Vec<LeaseRecord>,
    loaded: (DeploymentRecord, Vec<LeaseRecord>),
}

impl Work {
    fn load(access: &mut Access<'_>, id: u64) -> Result<Self, Stop> {
        let deployment: DeploymentRecord = access.record(DEPLOYMENTS, schema::deployment_slot(id), "a deployment")?;
        let leases = leases::all(access, &deployment)?;
        let loaded = (deployment.clone(), leases.clone());
        Ok(Self { deployment, leases, loaded })
    }

    fn tend(&mut self, access: &mut Access<'_>, fleet: &mut Fleet, desk: &mut Desk) -> Result<(), Stop> {
        for at in 0..self.leases.len() {
            self.take_over(access, fleet, desk, at)?;
        }
        if access.now_ms() >= billing::due_ms(access, &self.deployment, &self.leases)
            && billing::settle(access, fleet, &mut self.deployment, &self.leases)?
        {
            self.suspend(access, fleet)?;
            desk.freed = true;
            desk.hopeless.clear();
        }
        if !self.deployment.suspended {
            for at in 0..self.leases.len() {
                self.retry(access, fleet, desk, at)?;
            }
            for at in 0..self.leases.len() {
                self.choose_standby(access, fleet, desk, at)?;
            }
        }
        Ok(())
    }

    /// Moves a lease whose node is lost: to its standby if that is still fit, else to the best fit that holds the key, else it
    /// waits.
    fn take_over(
        &mut self,
        access: &mut Access<'_>,
        fleet: &mut Fleet,
        desk: &mut Desk,
        at: usize,
    ) -> Result<(), Stop> {
        let lease = &self.leases[at];
        if !leases::is_active(lease) || fleet.node(access, lease.node)?.online {
            return Ok(());
        }
        let heartbeat = access.read_u64(NODES, schema::heartbeat_slot(lease.node))?;
        // Nobody knows whether it ran after its last sign of life, so nobody pays for it.
        billing::charge(access, fleet, &mut self.deployment, lease, heartbeat)?;
        let resumed = access.read_u64(DEPLOYMENTS, due::resumed_slot())?;
        let why = silence(lease.node, access.now_ms(), heartbeat.max(resumed));
        let service = self.service(access, at)?;
        let request = leases::request(&service);
        let siblings = leases::siblings(&self.leases, &self.leases[at]);
        let standby = self.leases[at].standby;
        let takes = matches!(fleet.all(access)?.get(&standby), Some(node) if scheduler::fits(node, &request))
            && leases::has_key(access, &self.leases[at], standby)?;
        let target = match takes {
            true => Ok(standby),
            false => desk.find(access, fleet, &self.leases[at], &request, &siblings)?,
        };
        let lease = &mut self.leases[at];
        match target {
            Ok(node) => {
                lease.standby = B256::ZERO;
                leases::assign(access, fleet, lease, service.needs, node, &why)
            }
            Err(nobody) => leases::withdraw(access, fleet, lease, service.needs, &format!("{why}, and {nobody}")),
        }
    }

    /// Grants a waiting lease, if a node fits now.
    fn retry(&mut self, access: &mut Access<'_>, fleet: &mut Fleet, desk: &mut Desk, at: usize) -> Result<(), Stop> {
        if self.leases[at].state() != LeaseState::Waiting {
            return Ok(());
        }
        let service = self.service(access, at)?;
        let request = leases::request(&service);
        let siblings = leases::siblings(&self.leases, &self.leases[at]);
        let Ok(node) = desk.find(access, fleet, &self.leases[at], &request, &siblings)? else {
            return Ok(());
        };
        let why = format!("node {} has room for it now", short(node));
        leases::assign(access, fleet, &mut self.leases[at], service.needs, node, &why)
    }

    /// Chooses a standby for a lease that has none, or whose standby is lost.
    fn choose_standby(
        &mut self,
        access: &mut Access<'_>,
        fleet: &mut Fleet,
        desk: &mut Desk,
        at: usize,
    ) -> Result<(), Stop> {
        let lease = &self.leases[at];
        if !leases::is_active(lease) {
            return Ok(());
        }
        if !lease.standby.is_zero() && fleet.node(access, lease.standby)?.online {
            return Ok(());
        }
        let request = leases::request(&self.service(access, at)?);
        let siblings = leases::siblings(&self.leases, &self.leases[at]);
        let lease = &mut self.leases[at];
        let nodes = fleet.all(access)?;
        let chosen = desk.ask(lease.node, &request, || scheduler::standby(nodes, &request, lease.node, &siblings));
        lease.standby = chosen.unwrap_or_default();
        Ok(())
    }

    /// Stops everything until somebody pays.
    fn suspend(&mut self, access: &mut Access<'_>, fleet: &mut Fleet) -> Result<(), Stop> {
        let why = format!("the escrow of {} is used up: fund it and it resumes", self.deployment.name);
        self.deployment.suspended = true;
        for at in 0..self.leases.len() {
            if leases::is_active(&self.leases[at]) {
                let needs = self.service(access, at)?.needs;
                leases::change(access, fleet, &mut self.leases[at], needs, LeaseState::Suspended, &why)?;
            }
        }
        access.emit(DEPLOYMENTS, &IDeployments::Suspended { deployment: self.deployment.id, why })
    }

    /// Whether more capacity would change something.
    fn is_wanting(&self) -> bool {
        let lacks = |lease: &LeaseRecord| {
            lease.state() == LeaseState::Waiting || (leases::is_active(lease) && lease.standby.is_zero())
        };
        !self.deployment.suspended && self.leases.iter().any(lacks)
    }

    fn service(&self, access: &mut Access<'_>, at: usize) -> Result<ServiceRecord, Stop> {
        let lease = &self.leases[at];
        access.record(DEPLOYMENTS, schema::service_slot(lease.deployment, lease.service), "a service")
    }

    fn save(self, access: &mut Access<'_>) -> Result<(), Stop> {
        let (deployment, leases) = self.loaded;
        let mut visible = deployment.suspended != self.deployment.suspended;
        for (before, lease) in leases.iter().zip(&self.leases) {
            if before != lease {
                leases::save(access, lease)?;
                visible = true;
            }
        }
        if deployment != self.deployment {
            access.store_record(DEPLOYMENTS, schema::deployment_slot(deployment.id), &self.deployment)?;
        }
        if visible { access.bump_change() } else { Ok(()) }
    }
}
