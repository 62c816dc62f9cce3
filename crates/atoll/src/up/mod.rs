//! `atoll up`, `down` and `status`: a region on this machine.
//!
//! `up` founds the region if there is none, starts the supervisor in the background and waits until everything answers.
//! The supervisor ([`supervise`]) is the same program with `--foreground`.

pub(crate) mod found;
mod lab;
pub(crate) mod layout;
mod machine;
mod members;
mod progress;
mod ready;
mod reload;
mod report;
mod serve;
pub(crate) mod settings;
mod supervise;

use std::{
    fs::{self, File, TryLockError},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use atoll_api::UnixClient;

use self::{
    layout::Layout,
    members::Plan,
    settings::{Ports, Settings, Size},
};
use crate::cli::failure::fail;

/// How long the supervisor may take to stop everything.
const DOWN_PATIENCE: Duration = Duration::from_secs(60);

/// `atoll up`.
#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    /// Name of the region, a DNS label [default: home, or that of the region in the state directory]
    #[arg(long)]
    name: Option<String>,
    /// How many validators a new region gets on this machine, each with a network namespace of its own
    #[arg(long, value_name = "N")]
    validators: Option<u32>,
    /// How many nodes with capacity a new region gets on this machine
    #[arg(long, value_name = "N")]
    nodes: Option<u32>,
    /// Found a closed region: only registered nodes and the validators may join its mesh
    #[arg(long)]
    closed: bool,
    /// Port of the gateway and of the region's page, on loopback [default: 8088]
    #[arg(long, value_name = "PORT")]
    gateway_port: Option<u16>,
    /// Port of the Ethereum JSON-RPC, on loopback [default: 8545]
    #[arg(long, value_name = "PORT")]
    rpc_port: Option<u16>,
    /// Stay in the foreground and log to standard error, for service managers
    #[arg(long)]
    foreground: bool,
}

/// `atoll down`.
#[derive(Debug, clap::Args)]
pub(crate) struct DownArgs {}

/// `atoll status`.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Starts the region. `state` is what `--state` or `ATOLL_STATE` says.
pub(crate) fn run(args: UpArgs, state: Option<PathBuf>) -> Result<ExitCode> {
    let layout = Layout::find(state.as_deref(), args.name.as_deref().unwrap_or("home"));
    machine::require_root()?;
    let settings = open_or_found(&layout, &args)?;
    if args.foreground {
        serve::run(&layout, &settings)?;
        return Ok(ExitCode::SUCCESS);
    }
    let charter = found::load_charter(&layout)?;
    block_on(async {
        if answers(&layout).await {
            let capacity = machine::capacity(&layout, &settings)?;
            let plan = Plan { layout: &layout, settings: &settings, charter: &charter, capacity };
            reload::check(&plan)?;
            reload::mesh(&plan).await?;
            reload::others(&plan).await?;
        } else {
            machine::check(&layout, &settings)?;
            start_in_background(&layout)?;
        }
        ready::wait(&layout, &settings, &charter).await?;
        report::summary(&layout, &settings, &charter).await
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Stops the region.
pub(crate) fn down(_args: DownArgs, state: Option<PathBuf>) -> Result<ExitCode> {
    let layout = Layout::find(state.as_deref(), "home");
    block_on(async {
        if !answers(&layout).await {
            eprintln!("Nothing runs in {}.", layout.root().display());
            return Ok(());
        }
        let client = UnixClient::new(layout.supervisor_socket());
        client.post::<_, ()>("/v1/stop", &()).await.context("the supervisor does not stop")?;
        wait_for_end(&layout)?;
        eprintln!("Stopped. The state is kept in {}; `atoll up` resumes it.", layout.root().display());
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Says what runs.
pub(crate) fn status(args: StatusArgs, state: Option<PathBuf>) -> Result<ExitCode> {
    let layout = Layout::find(state.as_deref(), "home");
    let settings = load(&layout)?;
    let charter = found::load_charter(&layout)?;
    let healthy = block_on(report::status(&layout, &settings, &charter, args.json))?;
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn open_or_found(layout: &Layout, args: &UpArgs) -> Result<Settings> {
    if layout.settings().exists() {
        let settings = Settings::load(&layout.settings())?;
        found::check_same(layout, &settings, args.name.as_deref())?;
        found::check_rules(layout, &settings)?;
        check_unchanged(layout, &settings, args)?;
        found::check_size(layout, &settings)?;
        let charter = found::load_charter(layout)?;
        let capacity = machine::capacity(layout, &settings)?;
        Plan { layout, settings: &settings, charter: &charter, capacity }.check_mesh()?;
        return Ok(settings);
    }
    let defaults = (Size::default(), Ports::default());
    let size = Size {
        validators: args.validators.unwrap_or(defaults.0.validators),
        nodes: args.nodes.unwrap_or(defaults.0.nodes),
    };
    let ports = Ports {
        gateway: args.gateway_port.unwrap_or(defaults.1.gateway),
        rpc: args.rpc_port.unwrap_or(defaults.1.rpc),
        ..defaults.1
    };
    let name = args.name.as_deref().unwrap_or("home");
    if !atoll_base::charter::is_dns_label(name) || name == "localhost" {
        return Err(fail(
            format!("'{name}' cannot name a region: its name is also its top-level domain"),
            "use 1 to 63 of a-z, 0-9 and '-', with a letter first and no '-' last",
        ));
    }
    let mut settings = Settings::new(name, size, ports);
    settings.region.closed = args.closed.then_some(true);
    settings.check()?;
    machine::check(layout, &settings)?;
    found::found(layout, &settings)?;
    Ok(settings)
}

/// Options that only a new region can take are refused for one that exists, never ignored.
fn check_unchanged(layout: &Layout, settings: &Settings, args: &UpArgs) -> Result<()> {
    if args.closed && !found::load_charter(layout)?.is_closed() {
        return Err(fail(
            format!("region '{}' was founded open, and its charter does not change", settings.region.name),
            "start it without --closed, or found another one with --name and --state",
        ));
    }
    let differs = |asked: Option<u32>, is: u32| asked.is_some_and(|asked| asked != is);
    let port_differs = |asked: Option<u16>, is: u16| asked.is_some_and(|asked| asked != is);
    if differs(args.validators, settings.size.validators) || differs(args.nodes, settings.size.nodes) {
        return Err(fail(
            format!(
                "region '{}' was founded with {} validator(s) and {} node(s) on this machine",
                settings.region.name, settings.size.validators, settings.size.nodes
            ),
            "start it without --validators and --nodes, or found another one with --name and --state",
        ));
    }
    if port_differs(args.gateway_port, settings.ports.gateway) || port_differs(args.rpc_port, settings.ports.rpc) {
        return Err(fail(
            "a region that exists takes its ports from its configuration",
            "change [ports] in its atoll.toml, then `atoll up` without these options",
        ));
    }
    Ok(())
}

/// The settings of a region that must exist.
pub(crate) fn load(layout: &Layout) -> Result<Settings> {
    if !layout.settings().exists() {
        return Err(fail(
            format!("there is no region in {}", layout.root().display()),
            "`atoll up` founds one; --state DIR names another directory",
        ));
    }
    Settings::load(&layout.settings())
}

async fn answers(layout: &Layout) -> bool {
    let client = UnixClient::new(layout.supervisor_socket());
    client.get::<atoll_api::supervisor::SupervisorStatus>("/v1/status").await.is_ok()
}

/// Starts the supervisor detached from the terminal, its log in a file.
fn start_in_background(layout: &Layout) -> Result<()> {
    let path = layout.log("supervisor");
    let log = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let mut command = Command::new(std::env::current_exe().context("cannot find this program's own file")?);
    command
        .args(["up", "--foreground", "--state"])
        .arg(layout.root())
        .env("ATOLL_DAEMON", "1")
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("cannot open the log twice")?)
        .stderr(log)
        .current_dir("/")
        .process_group(0);
    command.spawn().context("cannot start the supervisor")?;
    Ok(())
}

/// The supervisor holds its lock until its last daemon ended.
fn wait_for_end(layout: &Layout) -> Result<()> {
    let path = layout.supervisor_lock();
    let lock = fs::File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let started = Instant::now();
    let progress = progress::spinner("stopping the daemons");
    loop {
        match lock.try_lock_shared() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if started.elapsed() < DOWN_PATIENCE => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(fail(
                    format!("the supervisor has not stopped within {} s", DOWN_PATIENCE.as_secs()),
                    format!("look into {}", layout.log("supervisor").display()),
                ));
            }
            Err(TryLockError::Error(error)) => return Err(error).context("cannot wait for the supervisor"),
        }
    }
    progress.done();
    Ok(())
}

fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?
        .block_on(future)
}
