//! Keeps the daemons running: one task each starts its daemon, waits for its end, and starts it again with back-off.
//!
//! Everything happens on one thread, so that the kernel ends the daemons when the supervisor ends in whatever way
//! (`process::end_with_parent`). Daemons stop in the order node, ledger, mesh: each may need the next until its end.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    path::PathBuf,
    process::Stdio,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use atoll_api::supervisor::{Daemon, RestartRequest, SupervisorStatus};
use atoll_os::{
    netns::NetNs,
    process::{ProcessId, end_with_parent},
};
use tokio::{
    process::Child,
    sync::{mpsc, oneshot, watch},
    task::spawn_local,
    time,
};

use super::{
    layout::Layout,
    members::{Member, Role},
};

/// First pause before a daemon is started again.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A daemon that ran for so long starts again without a pause.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// How long a daemon may take to stop before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(15);
/// A log file is turned over when it is longer than this.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How often log files are looked at.
const LOG_CHECK: Duration = Duration::from_secs(60);

/// One daemon to keep running.
#[derive(Debug, Clone)]
pub(super) struct DaemonSpec {
    /// Whose it is.
    pub(super) member: Member,
    /// What it does.
    pub(super) role: Role,
    /// Its configuration file.
    pub(super) config: PathBuf,
    /// Its log file.
    pub(super) log: PathBuf,
    /// Its API socket.
    pub(super) socket: Option<PathBuf>,
}

impl DaemonSpec {
    fn name(&self) -> String {
        format!("{}-{}", self.member.name, self.role.name())
    }
}

/// A wish that a daemon starts again; told when the old one has ended.
type Restart = oneshot::Sender<()>;

#[derive(Debug, Clone, Default)]
struct State {
    process: Option<ProcessId>,
    restarts: u32,
    problem: Option<String>,
}

/// How far stopping has come: daemons of this role and later ones end. `None`: keep running.
type Stopping = Option<Role>;

/// All daemons and what is known of them.
pub(super) struct Supervisor {
    layout: Layout,
    specs: Vec<DaemonSpec>,
    states: RefCell<BTreeMap<String, State>>,
    restarts: RefCell<BTreeMap<String, mpsc::UnboundedSender<Restart>>>,
    stopping: watch::Sender<Stopping>,
}

impl Supervisor {
    pub(super) fn new(layout: Layout, specs: Vec<DaemonSpec>) -> Rc<Self> {
        let stopping = watch::channel(None).0;
        Rc::new(Self { layout, specs, states: RefCell::default(), restarts: RefCell::default(), stopping })
    }

    /// What `GET /v1/status` answers.
    pub(super) fn status(&self) -> SupervisorStatus {
        let states = self.states.borrow();
        let daemons = self.specs.iter().map(|spec| {
            let state = states.get(&spec.name()).cloned().unwrap_or_default();
            Daemon {
                member: spec.member.name.clone(),
                role: spec.role.name().to_owned(),
                pid: state.process.and_then(|process| process.pid.try_into().ok()),
                restarts: state.restarts,
                namespace: spec.member.namespace.clone(),
                log: spec.log.display().to_string(),
                socket: spec.socket.as_ref().map(|path| path.display().to_string()),
                problem: state.problem,
            }
        });
        SupervisorStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            daemons: daemons.collect(),
        }
    }

    /// Ends a daemon, which then starts again at once: what resolves when it has ended; `None` if there is no such daemon.
    pub(super) fn restart(&self, request: &RestartRequest) -> Option<oneshot::Receiver<()>> {
        let is_it = |spec: &&DaemonSpec| spec.member.name == request.member && spec.role.name() == request.role;
        let spec = self.specs.iter().find(is_it)?;
        let (done, wait) = oneshot::channel();
        self.restarts.borrow().get(&spec.name())?.send(done).ok()?;
        Some(wait)
    }

    /// Runs until `stop` resolves, then stops all daemons in order. To be called within a [`tokio::task::LocalSet`].
    pub(super) async fn run(self: &Rc<Self>, stop: impl Future<Output = ()>) -> Result<()> {
        self.end_leftovers().await?;
        let mut tasks: BTreeMap<Role, Vec<_>> = BTreeMap::new();
        for spec in &self.specs {
            let (sender, restarts) = mpsc::unbounded_channel();
            self.restarts.borrow_mut().insert(spec.name(), sender);
            tasks.entry(spec.role).or_default().push(spawn_local(self.clone().keep_running(spec.clone(), restarts)));
        }
        let supervisor = self.clone();
        let logs = spawn_local(async move { supervisor.turn_logs_over().await });
        stop.await;
        tracing::info!("stopping all daemons");
        for (role, tasks) in tasks.into_iter().rev() {
            self.stopping.send_replace(Some(role));
            for task in tasks {
                task.await.context("a supervising task failed")?;
            }
        }
        logs.abort();
        Ok(())
    }

    async fn keep_running(self: Rc<Self>, spec: DaemonSpec, mut restarts: mpsc::UnboundedReceiver<Restart>) {
        let mut stopping = self.stopping.subscribe();
        let must_stop = |stage: &Stopping| stage.is_some_and(|role| role <= spec.role);
        let mut backoff = BACKOFF_MIN;
        while !must_stop(&stopping.borrow()) {
            let started = Instant::now();
            let problem = match self.start(&spec) {
                Ok(mut child) => {
                    tokio::select! {
                        biased;
                        _ = stopping.wait_for(must_stop) => return self.end(&spec, child).await,
                        Some(done) = restarts.recv() => {
                            tracing::info!(daemon = spec.name(), "a daemon starts again, because it was asked for");
                            self.end(&spec, child).await;
                            // Who asked may be gone.
                            done.send(()).ok();
                            continue;
                        }
                        exit = child.wait() => describe_exit(exit),
                    }
                }
                Err(error) => format!("cannot start: {error:#}"),
            };
            tracing::warn!(daemon = spec.name(), problem, "a daemon ended, it is started again");
            if started.elapsed() >= STABLE_AFTER {
                backoff = BACKOFF_MIN;
            }
            self.update(&spec, |state| {
                state.process = None;
                state.restarts = state.restarts.saturating_add(1);
                state.problem = Some(format!("{problem}; its log: {}", spec.log.display()));
            });
            tokio::select! {
                _ = stopping.wait_for(must_stop) => return,
                Some(done) = restarts.recv() => {
                    done.send(()).ok();
                    backoff = BACKOFF_MIN;
                }
                () = time::sleep(backoff) => backoff = (backoff * 2).min(BACKOFF_MAX),
            }
        }
    }

    fn start(&self, spec: &DaemonSpec) -> Result<Child> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&spec.log)
            .with_context(|| format!("cannot open {}", spec.log.display()))?;
        let mut command = std::process::Command::new(std::env::current_exe().context("cannot find this program")?);
        command
            .args([spec.role.name(), "run", "--config"])
            .arg(&spec.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot open the log twice")?)
            .stderr(log);
        end_with_parent(&mut command);
        if let Some(namespace) = &spec.member.namespace {
            NetNs::open(namespace)
                .and_then(|namespace| namespace.enter_on_spawn(&mut command))
                .with_context(|| format!("cannot enter the network namespace {namespace}"))?;
        }
        let child = tokio::process::Command::from(command).spawn().context("cannot start the process")?;
        let process = process_of(&child);
        self.update(spec, |state| {
            state.process = process;
            // A problem stays visible until the daemon has run well for a while.
            if state.restarts == 0 {
                state.problem = None;
            }
        });
        Ok(child)
    }

    async fn end(&self, spec: &DaemonSpec, mut child: Child) {
        if let Some(process) = process_of(&child)
            && let Err(error) = process.terminate()
        {
            tracing::warn!(daemon = spec.name(), %error, "cannot ask a daemon to stop");
        }
        if time::timeout(STOP_PATIENCE, child.wait()).await.is_err() {
            tracing::warn!(daemon = spec.name(), "a daemon did not stop in time and is killed");
            if let Err(error) = child.kill().await {
                tracing::warn!(daemon = spec.name(), %error, "cannot kill a daemon");
            }
        }
        self.update(spec, |state| state.process = None);
    }

    fn update(&self, spec: &DaemonSpec, change: impl FnOnce(&mut State)) {
        change(self.states.borrow_mut().entry(spec.name()).or_default());
        let processes: Vec<_> = self.states.borrow().values().filter_map(|state| state.process.clone()).collect();
        let write = serde_json::to_vec(&processes)
            .map_err(io::Error::from)
            .and_then(|json| fs::write(self.layout.daemons_file(), json));
        if let Err(error) = write {
            tracing::warn!(%error, "cannot note the daemons' process ids: after a crash they must be found by hand");
        }
    }

    /// Ends what a supervisor that was killed left behind, and waits until it is gone: two daemons must not share a disk.
    async fn end_leftovers(&self) -> Result<()> {
        let Ok(json) = fs::read(self.layout.daemons_file()) else { return Ok(()) };
        let Ok(processes) = serde_json::from_slice::<Vec<ProcessId>>(&json) else { return Ok(()) };
        for process in &processes {
            process.terminate().context("cannot stop a daemon of an earlier run")?;
        }
        let gone = async {
            while processes.iter().any(|process| process.is_alive()) {
                time::sleep(Duration::from_millis(20)).await;
            }
        };
        if time::timeout(STOP_PATIENCE, gone).await.is_err() {
            for process in &processes {
                process.kill().context("cannot kill a daemon of an earlier run")?;
            }
        }
        Ok(())
    }

    async fn turn_logs_over(&self) {
        let mut ticks = time::interval(LOG_CHECK);
        loop {
            ticks.tick().await;
            for spec in &self.specs {
                if let Err(error) = turn_over(&spec.log) {
                    tracing::warn!(log = %spec.log.display(), %error, "cannot shorten a log");
                }
            }
        }
    }
}

/// Copies a log that is too long aside and empties it. The daemon appends, so it goes on at the new beginning.
fn turn_over(log: &PathBuf) -> io::Result<()> {
    if fs::metadata(log)?.len() > LOG_BYTES_MAX {
        fs::copy(log, log.with_extension("log.1"))?;
        File::options().write(true).open(log)?.set_len(0)?;
    }
    Ok(())
}

fn process_of(child: &Child) -> Option<ProcessId> {
    child.id().and_then(|pid| ProcessId::of(pid.try_into().ok()?).ok())
}

fn describe_exit(exit: io::Result<std::process::ExitStatus>) -> String {
    match exit {
        Ok(status) => format!("it ended with {status}"),
        Err(error) => format!("cannot learn how it ended: {error}"),
    }
}
