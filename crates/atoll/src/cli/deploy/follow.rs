//! Following a deployment until everything runs and its page answers.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use atoll_base::schema::LeaseState;
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::{
    apps::{self, App, Lease, state_word},
    failure::fail,
    logs, output,
    region::Region,
};

/// How often the ledger is asked.
const POLL: Duration = Duration::from_millis(100);
/// A workload that failed may still recover so long before we give up: its node tries again with growing pauses.
const FAILED_PATIENCE: Duration = Duration::from_secs(8);
/// Lines of the log that are shown of a workload that fails.
const LOG_LINES: u32 = 10;

/// A spinner on a terminal; nothing elsewhere.
pub(super) fn spinner(message: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(message.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// When the deployment that is followed was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    /// By this command.
    Now,
    /// By an earlier one.
    Before,
}

/// Returns when every lease runs and the gateway passes requests on.
pub(super) async fn until_it_answers(
    region: &Region,
    id: u64,
    name: &str,
    begun: Begun,
    patience: Duration,
) -> Result<()> {
    let started = Instant::now();
    let bar = spinner(&format!("starting {name}"));
    let result = follow(region, id, name, patience, &bar).await;
    bar.finish_and_clear();
    let app = result?;
    let took = started.elapsed().as_secs_f64();
    let place = if app.has_page() { region.url(name) } else { "no service of it has a page".to_owned() };
    output::print(&match begun {
        Begun::Now => format!("{name} runs after {took:.1} s: {place}\n"),
        Begun::Before => format!("{name} was deployed before, as the file says, and runs: {place}\n"),
    })
}

async fn follow(region: &Region, id: u64, name: &str, patience: Duration, bar: &ProgressBar) -> Result<App> {
    let started = Instant::now();
    let mut watch = Watch::default();
    let app = loop {
        let app = region.explain(&format!("cannot follow {name}"), apps::get(&region.rpc, region.id, id).await)?;
        watch.tell(&app, bar);
        if app.runs() {
            break app;
        }
        if let Some(lease) = watch.gives_up(&app) {
            return Err(failed(region, name, lease).await);
        }
        if app.ended_ms != 0 {
            return Err(fail(
                format!("{name} was removed while it started"),
                format!("`atoll why {name}` says by whom"),
            ));
        }
        if started.elapsed() > patience {
            return Err(late(name, &app, patience));
        }
        tokio::time::sleep(POLL).await;
    };
    if app.has_page() {
        bar.set_message(format!("waiting for {}", region.url(name)));
        page(region, name, patience.saturating_sub(started.elapsed()).max(Duration::from_secs(5))).await?;
    }
    Ok(app)
}

/// What was told already, and since when leases fail.
#[derive(Default)]
struct Watch {
    told: BTreeMap<u64, (LeaseState, String)>,
    failing: BTreeMap<u64, (Instant, u32)>,
}

impl Watch {
    /// Tells what changed.
    fn tell(&mut self, app: &App, bar: &ProgressBar) {
        for lease in &app.leases {
            let now = (lease.state, lease.why.clone());
            let before = self.told.insert(lease.id, now.clone());
            if before.as_ref() == Some(&now) {
                continue;
            }
            let line = line(lease);
            // Without a terminal the bar is hidden and swallows what is printed through it.
            if bar.is_hidden() {
                eprintln!("{line}")
            } else {
                bar.println(line)
            }
            if lease.state == LeaseState::Failed && before.is_none_or(|before| before.0 != LeaseState::Failed) {
                self.failing.entry(lease.id).or_insert((Instant::now(), 0)).1 += 1;
            }
            if lease.state == LeaseState::Running {
                self.failing.remove(&lease.id);
            }
        }
    }

    /// A lease that failed twice, or for so long that it will hardly recover.
    fn gives_up<'a>(&self, app: &'a App) -> Option<&'a Lease> {
        app.leases.iter().find(|lease| {
            lease.state == LeaseState::Failed
                && self
                    .failing
                    .get(&lease.id)
                    .is_some_and(|(since, times)| *times > 1 || since.elapsed() > FAILED_PATIENCE)
        })
    }
}

fn line(lease: &Lease) -> String {
    let node = lease.node.map(|node| format!(" on {}", node.short())).unwrap_or_default();
    let why = if lease.why.is_empty() { String::new() } else { format!(": {}", output::clean(&lease.why)) };
    format!("  {}.{} {}{node}{why}", lease.service, lease.replica + 1, state_word(lease.state))
}

async fn failed(region: &Region, name: &str, lease: &Lease) -> anyhow::Error {
    let mut what = format!("service {} of {name} does not run: {}", lease.service, output::clean(&lease.why));
    if let Ok(signer) = region.wallet() {
        let lines = logs::last_lines(region, &signer, lease.id, LOG_LINES).await;
        if lines.is_empty() {
            what.push_str("\nit printed nothing");
        } else {
            what.push_str("\nthe last lines that it printed:");
        }
        for line in lines {
            what.push_str("\n  ");
            what.push_str(&line);
        }
    }
    fail(
        what,
        format!(
            "correct the image or the file, `atoll rm {name}`, and deploy again; its node goes on trying with growing pauses"
        ),
    )
}

fn late(name: &str, app: &App, patience: Duration) -> anyhow::Error {
    let mut what = format!("{name} does not run after {} s", patience.as_secs());
    for lease in app.leases.iter().filter(|lease| lease.state != LeaseState::Running) {
        what.push('\n');
        what.push_str(line(lease).trim_start());
    }
    fail(what, format!("the ledger goes on trying: `atoll ps` shows how far it is, `atoll rm {name}` gives up"))
}

/// Asks for the page through the gateway until something other than the gateway's own excuse comes back.
async fn page(region: &Region, name: &str, patience: Duration) -> Result<()> {
    let started = Instant::now();
    let client = reqwest::Client::builder()
        .tls_certs_only([]) // plain HTTP: do not depend on the machine's certificate authorities
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(5))
        .build()?;
    let port = region.gateway_port();
    loop {
        let asked = client
            .get(format!("http://127.0.0.1:{port}/"))
            .header(reqwest::header::HOST, format!("{name}.localhost:{port}"))
            .send()
            .await;
        let why = match asked {
            Ok(answer) if !answer.status().is_server_error() => return Ok(()),
            Ok(answer) => format!("it answers {}", answer.status()),
            Err(error) => error.without_url().to_string(),
        };
        if started.elapsed() > patience {
            return Err(fail(
                format!("{name} runs, but {} does not open: {why}", region.url(name)),
                format!("`atoll logs {name}` shows what it prints, `atoll status` whether the gateway runs"),
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(state: LeaseState) -> App {
        let lease = Lease {
            id: 5,
            service: "web".into(),
            replica: 0,
            node: Some(atoll_base::NodeId([0xab; 32])),
            standby: None,
            address: None,
            epoch: 1,
            state,
            since_ms: 0,
            why: "exit code 1\u{1b}".into(),
        };
        App {
            id: 1,
            name: "x".into(),
            owner: Default::default(),
            created_ms: 0,
            ended_ms: 0,
            suspended: false,
            escrow: Default::default(),
            charged: Default::default(),
            price_per_hour: Default::default(),
            services: vec![],
            leases: vec![lease],
        }
    }

    #[test]
    fn one_failure_may_pass_and_two_do_not() {
        let (mut watch, bar) = (Watch::default(), ProgressBar::hidden());
        watch.tell(&app(LeaseState::Failed), &bar);
        assert!(watch.gives_up(&app(LeaseState::Failed)).is_none());
        watch.tell(&app(LeaseState::Starting), &bar);
        watch.tell(&app(LeaseState::Failed), &bar);
        assert!(watch.gives_up(&app(LeaseState::Failed)).is_some());
        watch.tell(&app(LeaseState::Running), &bar);
        assert!(watch.gives_up(&app(LeaseState::Running)).is_none());
    }

    #[test]
    fn lines_say_where_and_why() {
        assert_eq!(line(&app(LeaseState::Failed).leases[0]), "  web.1 failed on abababab: exit code 1\u{fffd}");
        let text = crate::cli::failure::render(&late("x", &app(LeaseState::Waiting), Duration::from_secs(3)));
        assert_eq!(
            text,
            "error: x does not run after 3 s\n    web.1 waiting on abababab: exit code 1\u{fffd}\n  \
             what to do: the ledger goes on trying: `atoll ps` shows how far it is, `atoll rm x` gives up\n"
        );
    }
}
