//! Side effects: one step of the plan on this machine. Every step may be done again after it was interrupted anywhere.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use atoll_base::{
    LeaseId, NodeId,
    schema::{Isolation, RegionView},
    spec::{Health, PrivateSpec},
};
use atoll_node_core::{Action, Record, Stage, Want};
use atoll_os::{
    cgroup::Limits,
    limits::LOG_FILE_BYTES,
    link::Links,
    rootfs,
    shim::{Shim, ShimError, Status},
    spec::{Engine, ProcessSpec, ShimSpec},
    vm::{self, Accelerator},
    workload::WorkloadNetwork,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use super::{
    Message,
    firewall::{Filter, Member},
    health::Watch,
    vault::{Opened, Vault, VaultError},
};
use crate::{
    config::Checked,
    images::{Digest, ImageConfig, ImageError, ImageStore, fetch::Fetcher},
    ledger::follow::Ledger,
    limits::{FIREWALL_AGAIN, STOP_PATIENCE, VM_STARTS_MAX},
    probe::Found,
    problem::chain,
};

/// Packet size of a mesh interface that cannot be asked.
const MTU_DEFAULT: u32 = 1_280;
/// File of a micro-VM's disk.
const DISK: &str = "disk.img";
const UNKNOWN_ISOLATION: &str =
    "the ledger asks for a kind of isolation that this version does not know: update the node";

/// The machine's side of the runner.
pub(crate) struct Machine {
    checked: Arc<Checked>,
    ledger: Ledger,
    store: ImageStore,
    fetcher: Fetcher,
    vault: Vault,
    found: watch::Receiver<Found>,
    view: Mutex<Arc<RegionView>>,
    /// Workloads that have, or are about to have, a network.
    members: Mutex<BTreeMap<LeaseId, Member>>,
    filter: Filter,
    filter_due: Notify,
    vm_starts: Semaphore,
    problem: Mutex<Option<String>>,
}

impl Machine {
    pub(crate) fn new(
        checked: Arc<Checked>,
        ledger: Ledger,
        store: ImageStore,
        fetcher: Fetcher,
        vault: Vault,
        found: watch::Receiver<Found>,
    ) -> Self {
        let filter = Filter::new(checked.region, checked.id.short(), checked.config.interface.clone());
        Self {
            checked,
            ledger,
            store,
            fetcher,
            vault,
            found,
            view: Mutex::default(),
            members: Mutex::default(),
            filter,
            filter_due: Notify::new(),
            vm_starts: Semaphore::new(VM_STARTS_MAX),
            problem: Mutex::default(),
        }
    }

    /// Takes note of workloads that have a network since before the daemon was started.
    pub(crate) fn adopt<'a>(&self, records: impl Iterator<Item = &'a Record>) {
        for record in records.filter(|record| record.stage >= Stage::Preparing && record.stage <= Stage::Stopping) {
            self.join(record.lease, &record.want);
        }
    }

    /// Keeps the packet filter in step with the view, for ever.
    pub(crate) async fn keep_filter(&self) {
        loop {
            self.filter_due.notified().await;
            while let Err(why) = self.refresh_filter().await {
                *locked(&self.problem) = Some(why);
                tokio::time::sleep(FIREWALL_AGAIN).await;
            }
            *locked(&self.problem) = None;
        }
    }

    /// Does one step. The error is for people.
    pub(crate) async fn act(
        &self,
        lease: LeaseId,
        want: &Want,
        action: Action,
        news: &mpsc::Sender<Message>,
    ) -> Result<(), String> {
        let began = Instant::now();
        let outcome = match action {
            Action::Accept | Action::Renew => Ok(()),
            Action::Fetch => self.fetch(lease, want, true, news).await,
            Action::Prefetch => self.fetch(lease, want, false, news).await,
            Action::Prepare => self.prepare(lease, want).await,
            Action::Start => self.start(lease, want).await,
            Action::Stop => self.take_away(lease, want).await,
            Action::Delete => self.delete(lease, want).await,
        };
        let took_ms = began.elapsed().as_millis();
        tracing::debug!(lease = lease.0, action = action.name(), took_ms, ok = outcome.is_ok(), "step");
        outcome
    }

    /// Watches a workload until it fails or ends.
    pub(crate) async fn watch(&self, record: &Record, events: mpsc::Sender<Message>) {
        let want = &record.want;
        let health = self.vault.open(record.lease, want.spec_hash).ok().and_then(|opened| opened.spec.health);
        let web = (want.http_port != 0).then_some(Health::Tcp { port: want.http_port });
        let watch = Watch {
            lease: record.lease,
            starts: record.starts,
            address: self.checked.net.host(want.workload),
            check: health.or(web),
            isolation: want.isolation.unwrap_or(Isolation::Container),
            healthy: record.stage == Stage::Running,
        };
        watch.run(self.shim(record.lease), events).await;
    }

    /// Takes note of a new view.
    pub(crate) fn view_changed(&self, view: Arc<RegionView>) {
        *locked(&self.view) = view;
        self.filter_due.notify_one();
    }

    /// What is wrong with the machine.
    pub(crate) fn problem(&self) -> Option<String> {
        locked(&self.problem).clone()
    }

    /// The image that a workload needs, when its specification is known.
    pub(crate) fn image_of(&self, lease: LeaseId, want: &Want) -> Option<Digest> {
        let opened = self.vault.open(lease, want.spec_hash).ok()?;
        let named = opened.spec.image.digest.parse().ok()?;
        self.store.resolve(&opened.spec.image.name, named).ok()
    }

    /// Specification and image onto this machine. `keep`: the specification is stored, because the lease is this node's.
    async fn fetch(&self, lease: LeaseId, want: &Want, keep: bool, news: &mpsc::Sender<Message>) -> Result<(), String> {
        let spec = self.specification(lease, want, keep).await?;
        let view = locked(&self.view).clone();
        let others: Vec<NodeId> = view
            .leases
            .get(&lease.0)
            .into_iter()
            .flat_map(|lease| [lease.node, lease.standby])
            .filter(|node| !node.is_zero())
            .map(NodeId::from)
            .filter(|node| *node != self.checked.id)
            .collect();
        let digest = self.fetcher.fetch(&spec.image, &others).await.map_err(|e| e.to_string())?;
        if news.send(Message::Image { lease, digest }).await.is_err() {
            tracing::trace!("the runner is gone");
        }
        let (store, now_ms) = (self.store.clone(), self.ledger.verified().borrow().now_ms());
        // A standby unpacks too: taking over is then a matter of starting.
        blocking(move || {
            store.refer(digest, now_ms)?;
            store.unpacked(digest).map(drop)
        })
        .await
        .map_err(|e: ImageError| e.to_string())
    }

    async fn specification(&self, lease: LeaseId, want: &Want, keep: bool) -> Result<PrivateSpec, String> {
        if let Ok(opened) = self.vault.open(lease, want.spec_hash) {
            return Ok(opened.spec);
        }
        let view = self
            .ledger
            .sealed(want.deployment.0, want.service, self.checked.id)
            .await
            .map_err(|e| format!("cannot get the sealed specification: {}", chain(&e)))?;
        let opened = self.vault.open_view(&view, want.spec_hash).map_err(|e| e.to_string())?;
        if keep {
            self.vault.save(lease, &view).map_err(|e| e.to_string())?;
        }
        Ok(opened.spec)
    }

    async fn prepare(&self, lease: LeaseId, want: &Want) -> Result<(), String> {
        let isolation = want.isolation.ok_or(UNKNOWN_ISOLATION)?;
        let opened = self.opened(lease, want)?;
        let digest = self.image(&opened.spec).map_err(|e| e.to_string())?;
        let (store, folder, disk_bytes) = (self.store.clone(), self.vault.folder(lease), want.needs.disk_bytes);
        blocking(move || {
            let image = store.unpacked(digest).map_err(|e| e.to_string())?;
            match isolation {
                Isolation::Container => rootfs::prepare(&image, &folder).map(drop).map_err(|e| chain(&e)),
                Isolation::MicroVm => vm::ensure_disk(&image, &folder.join(DISK), disk_bytes).map_err(|e| chain(&e)),
            }
        })
        .await?;
        // The filter first, so that its network is never open.
        self.join(lease, want);
        self.refresh_filter().await?;
        let network = self.network(lease, want, self.mtu().await);
        network.ensure().await.map_err(|e| format!("cannot make its network: {}", chain(&e)))?;
        Ok(())
    }

    /// Counts a workload among those that the packet filter knows.
    fn join(&self, lease: LeaseId, want: &Want) {
        let health = self.vault.open(lease, want.spec_hash).ok().and_then(|opened| opened.spec.health);
        let health_port = health.map(|health| match health {
            Health::Tcp { port } | Health::Http { port, .. } => port,
        });
        let network = self.network(lease, want, MTU_DEFAULT);
        let member = Member { host_link: network.host_link, address: network.address, health_port };
        locked(&self.members).insert(lease, member);
    }

    async fn refresh_filter(&self) -> Result<(), String> {
        let (view, members) = (locked(&self.view).clone(), locked(&self.members).clone());
        self.filter.apply(&view, &members).await.map_err(|e| format!("cannot set the packet filter: {}", chain(&e)))
    }

    async fn start(&self, lease: LeaseId, want: &Want) -> Result<(), String> {
        let opened = self.opened(lease, want)?;
        let engine = self.engine(lease, want).await?;
        let spec = self.shim_spec(lease, want, &opened.spec, engine)?;
        let shim = self.shim(lease);
        let _place = match want.isolation {
            Some(Isolation::MicroVm) => self.vm_starts.acquire().await.ok(),
            Some(Isolation::Container) | None => None,
        };
        let status = blocking(move || {
            shim.start(&spec)?;
            shim.status()
        })
        .await
        .map_err(|e: ShimError| told(&e))?;
        match status {
            Status::Running(running) => {
                for lacking in &running.lacking {
                    tracing::info!(lease = lease.0, lacking, "runs without");
                }
                Ok(())
            }
            Status::Exited(record) => Err(format!("it {}", record.why())),
            Status::Starting | Status::Absent | Status::Lost => Err("its process could not be started".to_owned()),
        }
    }

    /// Process, mounts and network go; root directory, log and specification stay.
    async fn take_away(&self, lease: LeaseId, want: &Want) -> Result<(), String> {
        let shim = self.shim(lease);
        if shim.stop().map_err(|e| chain(&e))? {
            let patience = STOP_PATIENCE * 2; // the shim itself kills after STOP_PATIENCE
            if tokio::time::timeout(patience, shim.ended()).await.is_err() {
                tracing::warn!(lease = lease.0, "its shim does not end and is killed");
            }
        }
        let folder = self.vault.folder(lease);
        blocking(move || {
            shim.clear().map_err(|e| chain(&e))?;
            rootfs::release(&folder).map_err(|e| chain(&e))
        })
        .await?;
        self.network(lease, want, MTU_DEFAULT)
            .remove()
            .await
            .map_err(|e| format!("cannot remove its network: {}", chain(&e)))?;
        locked(&self.members).remove(&lease);
        self.filter_due.notify_one();
        Ok(())
    }

    async fn delete(&self, lease: LeaseId, want: &Want) -> Result<(), String> {
        self.take_away(lease, want).await?;
        let (shim, folder) = (self.shim(lease), self.vault.folder(lease));
        blocking(move || {
            rootfs::remove(&folder).map_err(|e| chain(&e))?;
            shim.remove().map_err(|e| chain(&e))
        })
        .await
    }

    /// What is left to do when the daemon ends in order.
    pub(crate) async fn stop(&self) {
        if let Err(error) = self.filter.remove().await {
            tracing::warn!(error = chain(&error), "the packet filter stays");
        }
    }

    fn opened(&self, lease: LeaseId, want: &Want) -> Result<Opened, String> {
        self.vault.open(lease, want.spec_hash).map_err(|e: VaultError| e.to_string())
    }

    fn image(&self, spec: &PrivateSpec) -> Result<Digest, ImageError> {
        self.store.resolve(&spec.image.name, spec.image.digest.parse()?)
    }

    fn shim(&self, lease: LeaseId) -> Shim {
        Shim::at(self.vault.folder(lease))
    }

    /// Its name on the machine: other nodes, also of other regions, may share it.
    fn name(&self, lease: LeaseId) -> String {
        format!("atoll-{}-{lease}", self.checked.id.short())
    }

    /// Its network; the packet size matters only to make it.
    fn network(&self, lease: LeaseId, want: &Want, mtu: u32) -> WorkloadNetwork {
        let region = self.checked.region.0;
        let hash = Sha256::digest([&region[..], &self.checked.id.0[..], &lease.0.to_be_bytes()[..]].concat());
        WorkloadNetwork {
            namespace: self.name(lease),
            host_link: format!("at{}", hex::encode(&hash[..6])),
            address: self.checked.net.host(want.workload),
            mtu,
            micro_vm: want.isolation == Some(Isolation::MicroVm),
        }
    }

    /// Largest packet of the mesh.
    async fn mtu(&self) -> u32 {
        let asked = match Links::here() {
            Ok(links) => links.mtu(&self.checked.config.interface).await,
            Err(error) => Err(error),
        };
        asked.unwrap_or_default().unwrap_or(MTU_DEFAULT)
    }

    async fn engine(&self, lease: LeaseId, want: &Want) -> Result<Engine, String> {
        let folder = self.vault.folder(lease);
        match want.isolation.ok_or(UNKNOWN_ISOLATION)? {
            Isolation::Container => Ok(Engine::Container { root: folder.join("root"), binds: Vec::new() }),
            Isolation::MicroVm => Ok(Engine::MicroVm {
                disk: folder.join(DISK),
                address: self.checked.net.host(want.workload),
                mtu: self.mtu().await,
                accelerator: self.accelerator().await?,
            }),
        }
    }

    /// Waits until it is known.
    async fn accelerator(&self) -> Result<Accelerator, String> {
        let mut found = self.found.clone();
        let known = found.wait_for(|found| found.accelerator.is_some()).await.ok().and_then(|found| found.accelerator);
        known.ok_or_else(|| "it could not be found out whether KVM works here".to_owned())
    }

    fn shim_spec(&self, lease: LeaseId, want: &Want, spec: &PrivateSpec, engine: Engine) -> Result<ShimSpec, String> {
        let digest = self.image(spec).map_err(|e| e.to_string())?;
        let manifest = self.store.manifest(digest).map_err(|e| e.to_string())?;
        let config = self.store.image_config(&manifest).map_err(|e| e.to_string())?;
        let network = self.network(lease, want, MTU_DEFAULT);
        let region = &self.checked.charter.name;
        Ok(ShimSpec {
            name: self.name(lease),
            engine,
            process: process(spec, &config),
            hostname: want.service_name.clone(),
            network_namespace: network.namespace,
            dns: vec![IpAddr::V6(self.checked.address())],
            dns_search: vec![format!("{}.{region}", want.deployment_name)],
            hosts: vec![(IpAddr::V6(network.address), want.service_name.clone())],
            limits: Limits {
                cpu_milli: want.needs.cpu_milli,
                memory_bytes: want.needs.memory_bytes,
                pids_max: spec.pids_max,
            },
            stop_grace_ms: u64::try_from(STOP_PATIENCE.as_millis()).unwrap_or(u64::MAX),
            log_file_bytes: LOG_FILE_BYTES,
        })
    }
}

/// What the image says, replaced and completed by what the deployment says.
fn process(spec: &PrivateSpec, config: &ImageConfig) -> ProcessSpec {
    let entrypoint = spec.entrypoint.clone().or_else(|| config.entrypoint.clone()).unwrap_or_default();
    // As in Docker and Compose: a new entrypoint makes the image's command meaningless.
    let command = match (&spec.command, &spec.entrypoint) {
        (Some(command), _) => command.clone(),
        (None, Some(_)) => Vec::new(),
        (None, None) => config.cmd.clone().unwrap_or_default(),
    };
    let image_env = config.env.iter().flatten().filter_map(|pair| pair.split_once('='));
    let mut env: Vec<(String, String)> = image_env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    env.extend(spec.env.iter().cloned());
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    ProcessSpec {
        args: entrypoint.into_iter().chain(command).collect(),
        env,
        working_dir: spec.working_dir.clone().or_else(|| given(&config.working_dir)).unwrap_or_else(|| "/".to_owned()),
        user: spec.user.clone().or_else(|| given(&config.user)),
    }
}

/// Why a shim failed, for people on other machines: its own last words instead of where they are.
fn told(error: &ShimError) -> String {
    let ShimError::Died { log } = error else { return chain(error) };
    let said = fs::read_to_string(log).unwrap_or_default();
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    format!("it could not be started: {}", last.trim())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Disk and process work off the event loop.
async fn blocking<T: Send + 'static, E: Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // Blocking tasks are never cancelled; a panic in one is a bug that must not be hidden.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
