//! How long a path is broken when something on it breaks: rings of four, a packet each 10 ms to the far machine.

use std::{
    collections::BTreeMap,
    net::Ipv6Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use atoll_e2e::{
    Turn, eventually,
    mesh::{Lab, Mesh, Process, cut::Cut, probe, topology},
};

use crate::figure::Figure;

/// Rings at the same time: this is about timers, not about load.
const RINGS: usize = 5;
const REPEATS: usize = 4;
/// babeld takes its time.
const BABELD_REPEATS: usize = 1;
/// Who needs longer is stuck.
const WINDOW: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(1);
const HOSTS: usize = 4;
const FAR: usize = 2;

/// Outages in milliseconds; nothing for those that never ended.
type Outages = BTreeMap<&'static str, Vec<Option<f64>>>;

/// All kinds of cut, in all rings, of the mesh and of babeld.
pub(super) fn measure(turn: &Turn) -> Result<Vec<Figure>> {
    let [ours, theirs] = thread::scope(|scope| {
        let mesh: Vec<_> = (0..RINGS).map(|ring| scope.spawn(move || mesh_ring(turn, ring))).collect();
        let babel: Vec<_> = (0..RINGS).map(|ring| scope.spawn(move || babel_ring(turn, ring))).collect();
        [mesh, babel].map(|rings| {
            let mut all = Outages::new();
            for ring in rings {
                for (cut, outages) in ring.join().map_err(|_| anyhow!("a ring panicked"))?? {
                    all.entry(cut).or_default().extend(outages);
                }
            }
            anyhow::Ok(all)
        })
    });
    let (ours, theirs) = (ours?, theirs.inspect_err(|error| eprintln!("  babeld: {error:#}")).unwrap_or_default());
    let goals = [(Cut::LinkDown, 50.0), (Cut::FirstHop, 1000.0), (Cut::SecondHop, 1500.0), (Cut::RelayKilled, 500.0)];
    let mut figures = Vec::new();
    for (cut, goal) in goals {
        let case = format!("ring of 4, {}", cut.name());
        let [mine, babel] = [&ours, &theirs].map(|all| all.get(cut.name()).cloned().unwrap_or_default());
        let bounded = |outages: &[Option<f64>]| -> Vec<f64> {
            outages.iter().map(|outage| outage.unwrap_or(1e3 * WINDOW.as_secs_f64())).collect()
        };
        for (metric, percentile, goal) in [("outage, worst", 100, Some(goal)), ("outage, median", 50, None)] {
            let mut figure = Figure::of(&case, metric, "ms", &bounded(&mine), percentile, goal);
            if !babel.is_empty() {
                let other = Figure::of(&case, metric, "ms", &bounded(&babel), percentile, None);
                figure.peers.insert("babeld".to_owned(), other.median);
            }
            figures.push(figure);
        }
    }
    let stuck = |all: &Outages| all.values().flatten().filter(|outage| outage.is_none()).count() as f64;
    let mut never = Figure::of("ring of 4, all cuts", "not over after 60 s", "cuts", &[stuck(&ours)], 50, Some(0.0));
    never.runs = ours.values().map(Vec::len).sum();
    never.peers.insert("babeld".to_owned(), stuck(&theirs));
    figures.push(never);
    Ok(figures)
}

fn mesh_ring(turn: &Turn, ring: usize) -> Result<Outages> {
    let mut mesh = Mesh::start(turn, &format!("bring{ring}"), HOSTS, &topology::ring(HOSTS))?;
    let _echo = probe::Echo::start(mesh.lab.host(FAR))?;
    let prober = probe::Prober::start(mesh.lab.host(0), Ipv6Addr::UNSPECIFIED, mesh.nodes[FAR].address)?;
    let mut outages = Outages::new();
    for _ in 0..REPEATS {
        for cut in Cut::ALL {
            mesh.wait_until_joined()?;
            prober.wait_until_clear(WINDOW)?;
            thread::sleep(SETTLE);
            let relay = mesh.next_hop(0, FAR)?;
            let at = cut.apply(&mut mesh, 0, relay, FAR)?;
            note("atoll", ring, cut, prober.outage(at, WINDOW), &mut outages);
            cut.mend(&mut mesh, 0, relay, FAR)?;
        }
    }
    Ok(outages)
}

fn note(system: &str, ring: usize, cut: Cut, outage: Option<Duration>, outages: &mut Outages) {
    let outage = outage.map(|outage| 1e3 * outage.as_secs_f64());
    let said = outage.map_or("not over after 60 s".to_owned(), |outage| format!("{outage:.0} ms"));
    println!("  {system}, ring {}: {}: {said}", ring + 1, cut.name());
    outages.entry(cut.name()).or_default().push(outage);
}

/// babeld on plain IPv6: no encryption, the kernel forwards.
struct Babel {
    daemons: Vec<Process>,
    lab: Lab,
}

impl Babel {
    fn start(turn: &Turn, ring: usize) -> Result<Self> {
        let lab = Lab::new(turn, &format!("bbabel{ring}"), HOSTS, &topology::ring(HOSTS))?;
        let mut this = Self { daemons: Vec::new(), lab };
        for host in 0..HOSTS {
            this.lab.host(host).forward()?;
            let address = format!("{}/128", Self::address(host));
            this.lab.host(host).inside("ip", ["address", "add", &address, "dev", "lo"])?;
            let daemon = this.daemon(host)?;
            this.daemons.push(daemon);
        }
        Ok(this)
    }

    fn daemon(&self, host: usize) -> Result<Process> {
        let file = |name: &str| self.lab.scratch().join(format!("babeld{host}.{name}")).display().to_string();
        // -l: a lost carrier counts, which is what link down is about.
        let mut args = vec!["-l".to_owned(), "-I".to_owned(), file("pid"), "-S".to_owned(), file("state")];
        let wires = self.lab.wires().iter().filter(|wire| wire.ends().0 == host || wire.ends().1 == host);
        args.extend(wires.map(|wire| wire.interface(host)));
        // A stale one would keep it from starting.
        let _ = std::fs::remove_file(file("pid"));
        self.lab.host(host).start(probe::tool("babeld"), args, file("log").as_ref())
    }

    fn address(host: usize) -> Ipv6Addr {
        Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1 + host as u16)
    }

    /// The neighbour over which machine 0 sends to the far one, once both ways are known everywhere.
    fn next_hop(&self) -> Result<usize> {
        let text = self.lab.host(0).inside("ip", ["-6", "route", "get", &Self::address(FAR).to_string()])?;
        let device = text.split_once(" dev to").and_then(|(_, rest)| rest.split(' ').next());
        device.context("no route to the far machine")?.parse().context("an unknown device")
    }

    /// Every machine has a route to every other, and its neighbours directly: so both ways are there.
    fn wait_until_joined(&self) -> Result<()> {
        for wire in self.lab.wires() {
            let (a, b) = wire.ends();
            for (host, far) in [(a, b), (b, a)] {
                eventually("babeld's route to a neighbour", WINDOW, || {
                    let target = Self::address(far).to_string();
                    let text = self.lab.host(host).inside("ip", ["-6", "route", "get", &target])?;
                    Ok(text.contains(&format!(" dev {} ", wire.interface(host))).then_some(()))
                })?;
            }
        }
        eventually("babeld's route to the far machine", WINDOW, || self.next_hop().map(Some)).map(drop)
    }

    /// SIGTERM to the relay, which takes its leave: after SIGKILL the kernel would go on forwarding.
    fn cut(&mut self, cut: Cut, relay: usize) -> Result<Instant> {
        let at = cut.apply_to_wire(&self.lab, 0, relay, FAR)?;
        if cut == Cut::RelayKilled {
            let replaced = self.daemons.remove(relay);
            replaced.terminate()?;
        }
        Ok(at)
    }

    fn mend(&mut self, cut: Cut, relay: usize) -> Result<()> {
        cut.mend_wire(&self.lab, 0, relay, FAR)?;
        if cut == Cut::RelayKilled {
            let daemon = self.daemon(relay)?;
            self.daemons.insert(relay, daemon);
        }
        Ok(())
    }
}

fn babel_ring(turn: &Turn, ring: usize) -> Result<Outages> {
    let mut babel = Babel::start(turn, ring)?;
    let _echo = probe::Echo::start(babel.lab.host(FAR))?;
    let prober = probe::Prober::start(babel.lab.host(0), Babel::address(0), Babel::address(FAR))?;
    let mut outages = Outages::new();
    for _ in 0..BABELD_REPEATS {
        for cut in Cut::ALL {
            babel.wait_until_joined()?;
            prober.wait_until_clear(WINDOW)?;
            thread::sleep(SETTLE);
            let relay = babel.next_hop()?;
            let at = babel.cut(cut, relay)?;
            note("babeld", ring, cut, prober.outage(at, WINDOW), &mut outages);
            babel.mend(cut, relay)?;
        }
    }
    Ok(outages)
}
