//! The supervisor's process: prepares the members, serves its API, and runs until it is told to stop.

use std::{
    fs::{self, File, TryLockError},
    rc::Rc,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use atoll_api::{
    Problem,
    supervisor::{RestartRequest, SupervisorStatus},
};
use axum::{
    Json, Router,
    http::StatusCode,
    routing::{get, post},
};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc, oneshot},
    task::LocalSet,
};

use super::{
    found, lab,
    layout::Layout,
    machine,
    members::{Member, Plan, Role, members},
    settings::Settings,
    supervise::{DaemonSpec, Supervisor},
};
use crate::cli::failure::fail;

/// Runs the region until `SIGTERM`, `SIGINT` or the API says stop.
pub(super) fn run(layout: &Layout, settings: &Settings) -> Result<()> {
    let _lock = lock(layout)?;
    // The supervisor's tasks stay on this thread, see `supervise`.
    let tasks = LocalSet::new();
    super::block_on(tasks.run_until(async {
        let charter = found::load_charter(layout)?;
        let members = members(settings, settings.is_closed(&charter));
        let plan = Plan { layout, settings, charter: &charter, capacity: machine::capacity(layout, settings)? };
        let specs = prepare(layout, &plan, &members)?;
        lab::ensure(&members).await?;
        let supervisor = Supervisor::new(layout.clone(), specs);
        let stop = Arc::new(Notify::new());
        let api = serve_api(layout, supervisor.clone(), stop.clone())?;
        tracing::info!(region = %charter.region_id(), name = charter.name, "the region starts");
        supervisor.run(until_stopped(stop)).await?;
        api.abort();
        lab::remove(&members).await?;
        remove_if_there(&layout.supervisor_socket())?;
        tracing::info!("all daemons have stopped");
        Ok(())
    }))
}

fn lock(layout: &Layout) -> Result<File> {
    let path = layout.supervisor_lock();
    fs::create_dir_all(layout.root().join("run")).context("cannot make the run directory")?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(fail(
            format!("a supervisor already runs the region in {}", layout.root().display()),
            "`atoll status` shows it, `atoll down` stops it",
        )),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Writes every daemon's configuration and makes its directories.
fn prepare(layout: &Layout, plan: &Plan<'_>, members: &[Member]) -> Result<Vec<DaemonSpec>> {
    let mut specs = Vec::new();
    for member in members {
        fs::create_dir_all(layout.member(&member.name).join("run")).context("cannot make a member's directory")?;
        for role in member.roles() {
            let config = layout.daemon_config(&member.name, role.name());
            fs::write(&config, plan.config(member, role)?)
                .with_context(|| format!("cannot write {}", config.display()))?;
            specs.push(DaemonSpec {
                member: member.clone(),
                role,
                config,
                log: layout.log(&format!("{}-{}", member.name, role.name())),
                socket: (role != Role::Ledger).then(|| layout.daemon_socket(&member.name, role.name())),
            });
        }
    }
    // All meshes first, then all ledgers: each needs the one before to get anywhere.
    specs.sort_by_key(|spec| spec.role);
    Ok(specs)
}

async fn until_stopped(stop: Arc<Notify>) {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot listen to a signal");
                std::future::pending::<()>().await;
            }
        }
    };
    let ignore_hangup = async {
        if let Ok(mut hangups) = signal(SignalKind::hangup()) {
            while hangups.recv().await.is_some() {}
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = stop.notified() => {}
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::interrupt()) => {}
        () = ignore_hangup => {}
    }
}

/// The supervisor lives on one thread, axum's handlers want to move: they ask it through a channel.
enum Request {
    Status(oneshot::Sender<SupervisorStatus>),
    Restart(RestartRequest, oneshot::Sender<Option<oneshot::Receiver<()>>>),
}

fn serve_api(layout: &Layout, supervisor: Rc<Supervisor>, stop: Arc<Notify>) -> Result<tokio::task::JoinHandle<()>> {
    let path = layout.supervisor_socket();
    remove_if_there(&path)?;
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let (requests, mut inbox) = mpsc::channel::<Request>(16);
    let restarts = requests.clone();
    let status = move || async move {
        let (answer, wait) = oneshot::channel();
        requests.send(Request::Status(answer)).await.ok();
        wait.await.map(Json).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
    };
    let restart = move |Json(which): Json<RestartRequest>| async move {
        let (answer, wait) = oneshot::channel();
        restarts.send(Request::Restart(which.clone(), answer)).await.ok();
        let ended = wait.await.ok().flatten().ok_or_else(|| unknown(&which))?;
        // Not told: it stopped for good meanwhile, which is an end too.
        ended.await.ok();
        Ok::<_, (StatusCode, Json<Problem>)>(Json(()))
    };
    let stop = move || async move {
        stop.notify_one();
        Json(())
    };
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/restart", post(restart))
        .route("/v1/stop", post(stop));
    Ok(tokio::task::spawn_local(async move {
        let answer = async {
            while let Some(request) = inbox.recv().await {
                match request {
                    Request::Status(answer) => drop(answer.send(supervisor.status())),
                    Request::Restart(which, answer) => drop(answer.send(supervisor.restart(&which))),
                }
            }
        };
        tokio::join!(answer, async {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the supervisor's API has ended");
            }
        });
    }))
}

fn unknown(which: &RestartRequest) -> (StatusCode, Json<Problem>) {
    let error = format!("there is no daemon '{}' of '{}' on this machine", which.role, which.member);
    (StatusCode::NOT_FOUND, Json(Problem { error, cure: Some("`atoll status` shows all that there are".into()) }))
}

fn remove_if_there(path: &std::path::Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
