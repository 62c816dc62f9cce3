//! The page itself, a pure function of a snapshot.

use atoll_base::{charter::is_dns_label, schema::LeaseState};
use maud::{DOCTYPE, Markup, html};

use super::snapshot::{APPS_MAX, EVENTS_MAX, LEASES_MAX, Ledger, NODES_MAX, PROBLEMS_MAX, Snapshot};
use crate::{
    amount,
    cli::{
        apps::{App, Lease, state_word},
        nodes::Node,
        output,
    },
    history::{Event, What},
};

/// How links to apps are made: as the viewer reached this page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Links {
    suffix: String,
    port: Option<u16>,
}

impl Links {
    /// From the request's host. Only a port and one of two known names are taken from it.
    pub(super) fn of(host: &str, region: &str) -> Self {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) => (name, port.parse().ok()),
            None => (host, None),
        };
        let suffix = if name == region { region } else { "localhost" };
        Self { suffix: suffix.to_owned(), port }
    }

    fn to(&self, app: &str) -> Option<String> {
        // The ledger admits nothing else, but a link is worth a second look.
        is_dns_label(app).then(|| match self.port {
            Some(port) => format!("http://{app}.{}:{port}/", self.suffix),
            None => format!("http://{app}.{}/", self.suffix),
        })
    }
}

/// The whole page.
pub(super) fn render(snapshot: &Snapshot, links: &Links) -> Markup {
    document(
        &snapshot.name,
        html! {
            main id="live" {
                (header(snapshot))
                (problems(&snapshot.problems))
                (apps(snapshot, links))
                (nodes(snapshot))
                (history(snapshot))
                (validators(snapshot))
            }
            footer {
                p {
                    "Rendered " time { (output::time(snapshot.now_ms)) " UTC" } ". This page only reads. "
                    "To change something: " code { "atoll deploy" } ", " code { "atoll rm" } ", " code { "atoll wallet send" } "."
                }
            }
        },
    )
}

/// The page for a path that is not there.
pub(super) fn not_found() -> Markup {
    document(
        "not found",
        html! {
            main {
                h1 { "Nothing is here" }
                p { "The region's page is at " a href="/" { "the start" } "." }
            }
        },
    )
}

fn document(title: &str, body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Atoll" }
                link rel="icon" href="/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/style.css";
                noscript { meta http-equiv="refresh" content="5"; }
                script src="/live.js" defer {}
            }
            body { (body) }
        }
    }
}

fn header(s: &Snapshot) -> Markup {
    let online = s.nodes.iter().filter(|node| node.online).count();
    let running = s.apps.iter().filter(|app| app.runs()).count();
    html! {
        header {
            p.kicker { "A local internet of its own" }
            h1 { (s.name) }
            p.id { "Region " code title=(s.id) { (group(&s.id)) } }
        }
        dl.tiles {
            @match &s.ledger {
                Some(ledger) => (ledger_tiles(s, ledger)),
                None => (tile("Height", "–", "the ledger does not answer")),
            }
            (tile("Nodes", &format!("{online} of {}", s.nodes.len()), "online"))
            (tile("Apps", &format!("{running} of {}", s.apps.len()), "running"))
        }
    }
}

fn ledger_tiles(s: &Snapshot, ledger: &Ledger) -> Markup {
    let age = format!("last block {} ago", output::duration(s.now_ms.saturating_sub(ledger.block_ms)));
    let finality = ledger.finality_ms.map_or("–".to_owned(), |ms| format!("{ms} ms"));
    let pending = match ledger.pending {
        0 => "no transaction waits".to_owned(),
        1 => "1 transaction waits".to_owned(),
        many => format!("{many} transactions wait"),
    };
    html! {
        (tile("Height", &ledger.height.to_string(), &age))
        (tile("Finality", &finality, &pending))
        (tile("Supply", &amount::with_symbol(ledger.supply, &s.symbol), &s.currency))
    }
}

fn tile(name: &str, value: &str, detail: &str) -> Markup {
    html! {
        div { dt { (name) } dd { strong { (value) } small { (detail) } } }
    }
}

fn problems(problems: &[String]) -> Markup {
    html! {
        @if !problems.is_empty() {
            section.problems role="alert" {
                h2 { "What is wrong" }
                ul {
                    @for problem in problems.iter().take(PROBLEMS_MAX) { li { (clip(problem)) } }
                }
                (more(problems.len(), PROBLEMS_MAX, "atoll status"))
            }
        }
    }
}

fn apps(s: &Snapshot, links: &Links) -> Markup {
    html! {
        section {
            h2 { "Apps" }
            @if s.apps.is_empty() {
                p.empty { "Nothing is deployed. " code { "atoll deploy FILE" } " changes that." }
            }
            div.cards {
                @for app in s.apps.iter().take(APPS_MAX) { (app_card(s, app, links)) }
            }
            (more(s.apps.len(), APPS_MAX, "atoll ps"))
        }
    }
}

fn app_card(s: &Snapshot, app: &App, links: &Links) -> Markup {
    let link = if app.has_page() { links.to(&app.name) } else { None };
    let lasts = app.lasts_ms().map(|ms| format!(", lasts {}", output::duration(ms))).unwrap_or_default();
    html! {
        article {
            h3 {
                @match &link {
                    Some(link) => a href=(link) { (app.name) },
                    None => (output::clean(&app.name)),
                }
                " " span.badge.(tone_of_app(app)) { (app.state()) }
            }
            p.dim { (amount::with_symbol(app.price_per_hour, &s.symbol)) " an hour" (lasts) }
            ul.leases {
                @for lease in app.leases.iter().take(LEASES_MAX) { (lease_row(lease)) }
            }
            (more(app.leases.len(), LEASES_MAX, "atoll ps"))
        }
    }
}

fn lease_row(lease: &Lease) -> Markup {
    html! {
        li {
            span.dot.(tone(lease.state)) {}
            span {
                strong { (output::clean(&lease.service)) } " " (state_word(lease.state))
                @if let Some(node) = lease.node { " on node " code title=(node) { (node.short()) } }
                @if !lease.why.is_empty() && lease.state != LeaseState::Running { small { (clip(&lease.why)) } }
            }
        }
    }
}

fn nodes(s: &Snapshot) -> Markup {
    html! {
        section {
            h2 { "Nodes" }
            @if s.nodes.is_empty() { p.empty { "No machine offers capacity yet." } }
            div.cards {
                @for node in s.nodes.iter().take(NODES_MAX) { (node_card(s, node)) }
            }
            (more(s.nodes.len(), NODES_MAX, "atoll nodes"))
        }
    }
}

fn node_card(s: &Snapshot, node: &Node) -> Markup {
    let runs: Vec<String> = s
        .apps
        .iter()
        .flat_map(|app| app.leases.iter().map(move |lease| (app, lease)))
        .filter(|(_, lease)| lease.node == Some(node.id))
        .map(|(app, lease)| format!("{}/{}", app.name, lease.service))
        .collect();
    let silent = output::duration(s.now_ms.saturating_sub(node.heartbeat_ms));
    html! {
        article {
            h3 {
                code title=(node.id) { (node.id.short()) }
                " "
                @if node.online { span.badge.good { "online" } } @else { span.badge.bad { "silent for " (silent) } }
            }
            @let (used, total) = (&node.used, &node.total);
            (bar("Cores", used.cpu_milli, total.cpu_milli, output::cores))
            (bar("Memory", used.memory_bytes, total.memory_bytes, output::bytes))
            (bar("Disk", used.disk_bytes, total.disk_bytes, output::bytes))
            @if !node.labels.is_empty() { p.dim { (clip(&node.labels.join(" "))) } }
            p.dim {
                @if runs.is_empty() { "runs nothing" } @else { "runs " (clip(&runs.join(", "))) }
            }
        }
    }
}

/// A picture, because styles inside the page are forbidden by its own policy.
fn bar(name: &str, used: u64, total: u64, show: fn(u64) -> String) -> Markup {
    let percent = if total == 0 { 0 } else { (u128::from(used) * 100 / u128::from(total)).min(100) };
    let label = format!("{} of {}", show(used), show(total));
    html! {
        div.bar {
            span { (name) }
            svg role="img" aria-label={ (name) ": " (label) " used" } {
                rect.track width="100%" height="100%" rx="4" {}
                rect.fill width={ (percent) "%" } height="100%" rx="4" {}
            }
            span.dim { (label) }
        }
    }
}

fn history(s: &Snapshot) -> Markup {
    html! {
        section {
            h2 { "What happened, and why" }
            @if s.events.is_empty() { p.empty { "Nothing yet." } }
            ol.history {
                @for event in s.events.iter().take(EVENTS_MAX) { (event_row(s, event)) }
            }
        }
    }
}

fn event_row(s: &Snapshot, event: &Event) -> Markup {
    let app = event.deployment.map(|id| match s.apps.iter().find(|app| app.id == id) {
        Some(app) => output::clean(&app.name),
        None => format!("app {id}"),
    });
    let service = event.lease.and_then(|id| {
        s.apps
            .iter()
            .flat_map(|app| &app.leases)
            .find(|lease| lease.id == id)
            .map(|lease| output::clean(&lease.service))
    });
    let ago = output::duration(s.now_ms.saturating_sub(event.time_ms));
    html! {
        li.(tone_of_event(event)) {
            time title={ (output::time(event.time_ms)) " UTC, block " (event.height) } { (ago) " ago" }
            span {
                @if let (Some(app), false) = (&app, matches!(event.what, What::Deployed { .. })) {
                    strong { (app) @if let Some(service) = &service { "/" (service) } } " "
                }
                (clip(&event.text(&s.symbol)))
                @if !event.why.is_empty() { small { (clip(&event.why)) } }
            }
        }
    }
}

fn validators(s: &Snapshot) -> Markup {
    html! {
        section {
            h2 { "Validators" }
            p.dim { "They agree on every block; chain id " (s.chain_id) "." }
            ul.validators {
                @for (name, id) in s.validators.iter().take(NODES_MAX) {
                    li { strong { (clip(name)) } " " code title=(id) { (id.short()) } }
                }
            }
            (more(s.validators.len(), NODES_MAX, "atoll charter show"))
        }
    }
}

fn more(all: usize, shown: usize, command: &str) -> Markup {
    html! {
        @if all > shown { p.dim { "and " (all - shown) " more: " code { (command) } } }
    }
}

const fn tone(state: LeaseState) -> &'static str {
    match state {
        LeaseState::Running => "good",
        LeaseState::Waiting | LeaseState::Failed | LeaseState::Suspended => "bad",
        LeaseState::Granted | LeaseState::Starting | LeaseState::Ended => "busy",
    }
}

fn tone_of_app(app: &App) -> &'static str {
    if app.runs() {
        "good"
    } else if app.suspended || app.leases.iter().any(|lease| tone(lease.state) == "bad") {
        "bad"
    } else {
        "busy"
    }
}

const fn tone_of_event(event: &Event) -> &'static str {
    match &event.what {
        What::Changed { state } => tone(*state),
        What::Moved { .. } | What::Offline | What::Suspended => "bad",
        What::Online | What::Resumed | What::Deployed { .. } => "good",
        What::Granted | What::Charged { .. } | What::Removed { .. } | What::Registered => "busy",
    }
}

/// Longest text of one entry: a reason has at most 256 bytes, a list of names may have more.
const CLIP_CHARS: usize = 140;

fn clip(text: &str) -> String {
    let text = output::clean(text);
    if text.chars().count() <= CLIP_CHARS {
        return text;
    }
    text.chars().take(CLIP_CHARS - 1).chain(['…']).collect()
}

/// A long id in groups, so that people can compare it: the first and last sixteen digits.
fn group(id: &str) -> String {
    let groups: Vec<&str> = id.as_bytes().chunks(4).filter_map(|part| std::str::from_utf8(part).ok()).collect();
    match groups.len() {
        9.. => format!("{} … {}", groups[..4].join(" "), groups[groups.len() - 4..].join(" ")),
        _ => groups.join(" "),
    }
}
