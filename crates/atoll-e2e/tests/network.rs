//! A network that needs only a name, by the commands that a person types: `atoll mesh`. And two regions of `atoll up` that
//! recognise each other.

use std::{
    fs,
    net::{Ipv6Addr, SocketAddrV4},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use atoll_base::{MeshAddr, NodeId, RegionId};
use atoll_e2e::{
    Turn, binary, eventually,
    mesh::{Host, Lab, PORT, Process, topology},
    processes_of,
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);
const NETWORK: &str = "my-town";

/// A machine of somebody who only wants the network.
struct Machine<'a> {
    host: &'a Host,
    state: PathBuf,
    log: PathBuf,
    /// By which name commands find its daemon.
    network: String,
    daemon: Option<Process>,
}

impl<'a> Machine<'a> {
    fn new(lab: &'a Lab, number: usize) -> Self {
        let file = |name: &str| lab.scratch().join(format!("machine{number}.{name}"));
        let (host, network) = (lab.host(number), NETWORK.to_owned());
        Self { host, state: file("state"), log: file("log"), network, daemon: None }
    }

    fn run(&mut self, options: &[&str]) -> Result<()> {
        let state = self.state.display().to_string();
        let line = ["--state", &state, "mesh", "run"].into_iter().chain(options.iter().copied());
        self.daemon = Some(self.host.start(binary(), line, &self.log)?);
        eventually("the daemon to answer", PATIENCE, || Ok(self.ask(&["status"]).ok()).map(|it| it.map(drop)))
    }

    fn stop(&mut self) -> Result<()> {
        self.daemon.take().context("it does not run")?.terminate()
    }

    /// `atoll mesh …` for a person.
    fn says(&self, words: &[&str]) -> Result<String> {
        let state = self.state.display().to_string();
        let line = ["--state", &state, "mesh"].into_iter().chain(words.iter().copied());
        self.host.inside(binary(), line.chain(["--network", &self.network]))
    }

    /// The same for a program.
    fn ask(&self, words: &[&str]) -> Result<Value> {
        let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        Ok(serde_json::from_str(&self.says(&words)?)?)
    }

    fn id(&self) -> Result<String> {
        Ok(self.ask(&["status"])?["node"].as_str().context("an id")?.to_owned())
    }

    /// Waits until its log says this.
    fn logs(&self, words: &str) -> Result<()> {
        eventually(words, PATIENCE, || Ok(fs::read_to_string(&self.log)?.contains(words).then_some(())))
    }

    fn reaches(&self, nodes: u64) -> Result<()> {
        eventually("routes to the others", PATIENCE, || Ok((self.ask(&["status"])?["nodes"] == nodes).then_some(())))
            .with_context(|| fs::read_to_string(&self.log).unwrap_or_default())
    }
}

#[test]
fn a_name_and_a_peer_make_a_network_and_an_invite_makes_it_grow() -> Result<()> {
    let turn = Turn::take()?;
    let lab = Lab::new(&turn, "mname", 3, &topology::line(3))?;
    let [mut first, mut second, mut third] = [0, 1, 2].map(|number| Machine::new(&lab, number));
    first.run(&["--network", NETWORK])?;
    second.run(&["--network", NETWORK, "--peer", &format!("udp://{}:{PORT}", lab.wire(0, 1)?.ip(0))])?;
    let invite = second.says(&["invite", &format!("{}:{PORT}", lab.wire(1, 2)?.ip(1))])?;
    ensure!(invite.starts_with("atoll-invite:"), "{invite}");
    third.run(&["--network", NETWORK, "--invite", invite.trim()])?;
    third.reaches(2)?;
    first.reaches(2)?;

    let (far, near) = (first.id()?, second.id()?);
    let ping = third.ask(&["ping", &far[..12], "--count", "3"])?;
    ensure!(ping["received"] == 3 && ping["rtt_us"].as_array().is_some_and(|all| all.len() == 3), "{ping}");
    let choices = third.ask(&["routes", "--to", &far])?;
    ensure!(choices[0]["verdict"] == "used" && choices[0]["next_hop"] == near.as_str(), "{choices}");
    ensure!(choices[0]["hops"] == 2, "{choices}");
    let routes = third.says(&["routes"])?;
    ensure!(routes.contains("direct") && routes.contains(&far[..8]), "{routes}");
    let peers = third.ask(&["peers"])?;
    ensure!(
        peers[0]["node"] == near.as_str()
            && peers[0]["up"] == true
            && peers.as_array().is_some_and(|all| all.len() == 1),
        "{peers}"
    );
    let sessions = third.ask(&["sessions"])?;
    ensure!(sessions.as_array().is_some_and(|all| all.iter().any(|one| one["node"] == far.as_str())), "{sessions}");

    // Stopped in good order it is gone at once, and comes back as who it was.
    first.stop()?;
    eventually("the end of the route", Duration::from_secs(2), || {
        Ok((third.ask(&["status"])?["nodes"] == 1).then_some(()))
    })?;
    let refusal = format!("{:#}", third.says(&["ping", &far[..12]]).expect_err("nobody is there"));
    ensure!(refusal.contains("atoll mesh routes"), "it does not say what to do: {refusal}");
    second.logs("does not answer; check that it runs")?;
    first.run(&["--network", NETWORK])?;
    ensure!(first.id()? == far, "it came back as another");
    third.reaches(2)?;
    second.logs("no longer: peer")
}

#[test]
fn a_closed_network_refuses_whoever_is_not_named() -> Result<()> {
    let turn = Turn::take()?;
    let lab = Lab::new(&turn, "mclosed", 3, &[(0, 1), (0, 2)])?;
    let [mut owner, mut member, mut stranger] = [0, 1, 2].map(|number| Machine::new(&lab, number));
    let calls = |number| Ok::<_, anyhow::Error>(format!("udp://{}:{PORT}", lab.wire(0, number)?.ip(0)));
    member.run(&["--network", NETWORK, "--peer", &calls(1)?])?;
    owner.run(&["--network", NETWORK, "--only", &member.id()?])?;
    owner.reaches(1)?;
    stranger.run(&["--network", NETWORK, "--peer", &calls(2)?])?;
    stranger.logs("refused by a node")?;
    let peers = owner.ask(&["peers"])?;
    let up = peers.as_array().context("a list")?.iter().filter(|peer| peer["up"] == true).count();
    ensure!(up == 1, "the stranger has a link: {peers}");
    ensure!(stranger.ask(&["status"])?["nodes"] == 0);
    ensure!(member.ask(&["status"])?["nodes"] == 1, "the stranger can be reached");
    Ok(())
}

#[test]
fn a_relay_without_an_interface_carries_and_commands_show_the_way_and_the_packets() -> Result<()> {
    let turn = Turn::take()?;
    let lab = Lab::new(&turn, "mlook", 3, &topology::line(3))?;
    let [mut first, mut relay, mut third] = [0, 1, 2].map(|number| Machine::new(&lab, number));
    let metrics = "127.0.0.1:9871";
    relay.run(&["--network", NETWORK, "--relay", "--metrics", metrics])?;
    first.run(&["--network", NETWORK, "--peer", &format!("udp://{}:{PORT}", lab.wire(0, 1)?.ip(1))])?;
    third.run(&[
        "--network",
        NETWORK,
        "--peer",
        &format!("udp://{}:{PORT}", lab.wire(1, 2)?.ip(1)),
        "--open",
        "tcp/80",
    ])?;
    first.reaches(2)?;
    third.reaches(2)?;
    let (far, near) = (third.id()?, relay.id()?);

    let trace = first.ask(&["trace", &far[..12], "--count", "3"])?;
    let hops = trace["hops"].as_array().context("hops")?;
    ensure!(trace["reached"] == true && hops.len() == 2, "{trace}");
    ensure!(hops[0]["nodes"][0]["node"] == near.as_str(), "the relay has not proven itself: {trace}");
    ensure!(hops[1]["nodes"][0]["node"] == far.as_str() && hops[1]["nodes"][0]["is_target"] == true, "{trace}");
    let table = first.says(&["trace", &far[..12]])?;
    ensure!(table.contains(&near[..8]) && table.contains("the target"), "{table}");

    // What is captured is what is sent meanwhile, in a form that others read.
    let file = lab.scratch().join("pings.pcap").display().to_string();
    std::thread::scope(|scope| {
        let capture = scope.spawn(|| first.says(&["capture", "--count", "4", "--write", &file]));
        eventually("the end of the capture", PATIENCE, || {
            first.says(&["ping", &far[..12], "--count", "1"])?;
            Ok(capture.is_finished().then_some(()))
        })?;
        capture.join().expect("no panic")
    })?;
    let bytes = std::fs::read(&file)?;
    ensure!(bytes.starts_with(&0xa1b2_c3d4_u32.to_le_bytes()) || bytes.starts_with(&0xa1b2_3c4d_u32.to_le_bytes()));
    ensure!(bytes.len() > 24 + 4 * (16 + 48), "{} bytes", bytes.len());

    let scraped = relay.host.inside("curl", ["-s", &format!("http://{metrics}/metrics")])?;
    let relayed =
        scraped.lines().find_map(|line| line.strip_prefix("atoll_mesh_relayed_total ")).context("no count")?;
    ensure!(relayed.parse::<u64>()? > 10, "{relayed}");
    let other = relay
        .host
        .inside("curl", ["-s", "-o", "/dev/null", "-w", "%{http_code}", &format!("http://{metrics}/v1/status")])?;
    ensure!(other == "404", "the API is open over TCP: {other}");
    Ok(())
}

#[test]
fn wrong_words_are_refused_with_what_to_do() -> Result<()> {
    let turn = Turn::take()?;
    let lab = Lab::new(&turn, "mwrong", 1, &[])?;
    let machine = Machine::new(&lab, 0);
    for (line, expected) in [
        (&["mesh", "run", "--network", "My Town"][..], "cannot name a network"),
        (&["mesh", "run", "--invite", "atoll-invite:abc"], "invite"),
        (&["mesh", "run"], "which network"),
        (&["mesh", "run", "--network", NETWORK, "--peer", "tcp://192.0.2.7:1"], "udp://"),
        (&["mesh", "peers", "--network", NETWORK], "atoll mesh run --network my-town"),
        (&["mesh", "peers"], "atoll up"),
    ] {
        let state = machine.state.display().to_string();
        let all = ["--state", &state].into_iter().chain(line.iter().copied());
        let error = format!("{:#}", machine.host.inside(binary(), all).expect_err("it is wrong"));
        ensure!(error.contains(expected), "{line:?}: {error}");
    }
    Ok(())
}

/// A machine with a region of its own, by `atoll up`.
struct Town<'a> {
    host: &'a Host,
    name: String,
    state: PathBuf,
    /// The key that signs the grants of its border nodes.
    key: PathBuf,
    authority: NodeId,
}

impl<'a> Town<'a> {
    fn found(lab: &'a Lab, number: usize, name: &str, options: &[&str]) -> Result<Self> {
        let name = format!("{name}{}", std::process::id());
        let (host, state) = (lab.host(number), lab.scratch().join(&name));
        let key = lab.scratch().join(format!("{name}.key"));
        let authority = host.inside(binary(), ["mesh", "authority", &key.display().to_string()])?.trim().parse()?;
        let town = Self { host, name, state, key, authority };
        town.atoll(&[&["up", "--name", &town.name], options].concat())?;
        Ok(town)
    }

    fn atoll(&self, words: &[&str]) -> Result<String> {
        let state = self.state.display().to_string();
        self.host.inside(binary(), ["--state", &state].into_iter().chain(words.iter().copied()))
    }

    fn up(&self) -> Result<String> {
        self.atoll(&["up", "--name", &self.name])
    }

    fn mesh(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.atoll(&["mesh", "status", "--json"])?)?)
    }

    /// The processes of mesh, ledger and node.
    fn pids(&self) -> Result<[Value; 3]> {
        let status: Value = serde_json::from_str(&self.atoll(&["status", "--json"])?)?;
        let of = |role: &str| {
            let daemons = status["supervisor"]["daemons"].as_array().context("daemons")?;
            let daemon = daemons.iter().find(|daemon| daemon["role"] == role).context("the daemon")?;
            Ok::<_, anyhow::Error>(daemon["pid"].clone())
        };
        Ok([of("mesh")?, of("ledger")?, of("node")?])
    }

    /// Its region, and its node in there.
    fn ids(&self) -> Result<(RegionId, NodeId)> {
        let mesh = self.mesh()?;
        let [region, node] = ["region", "node"].map(|key| mesh[key].as_str().context("an id"));
        Ok((region?.parse()?, node?.parse()?))
    }

    fn address(&self) -> Result<Ipv6Addr> {
        let (region, node) = self.ids()?;
        Ok(MeshAddr::of(region, node).node())
    }

    /// What the authority signs for the machine.
    fn grant(&self) -> Result<String> {
        let granted = self.atoll(&["mesh", "grant", "--authority", &self.key.display().to_string(), "--json"])?;
        let granted: Value = serde_json::from_str(&granted)?;
        Ok(granted["grant"].as_str().context("a grant")?.to_owned())
    }

    /// Replaces what the owner wants of the mesh: `head` stands at the beginning of `[mesh]`, `tail` at the end.
    fn set_mesh(&self, head: &str, tail: &str) -> Result<()> {
        let path = self.state.join("atoll.toml");
        let text = fs::read_to_string(&path)?;
        let (before, _) = text.split_once("[mesh]").context("[mesh] is in the founded region's settings")?;
        Ok(fs::write(path, format!("{before}[mesh]\n{head}\n{tail}\n"))?)
    }

    /// Recognises another region, whose border is called, if it is said where that is.
    fn recognise(&self, other: &Town<'_>, call: Option<SocketAddrV4>) -> Result<()> {
        let peers: Vec<_> = call.iter().map(|at| format!("udp://{at}")).collect();
        let (id, authority) = (other.ids()?.0, other.authority);
        self.set_mesh(
            &format!("grant = \"{}\"", self.grant()?),
            &format!("[[mesh.regions]]\nid = \"{id}\"\nauthority = \"{authority}\"\npeers = {peers:?}"),
        )
    }

    fn pings(&self, other: &Town<'_>) -> Result<bool> {
        let target = other.address()?.to_string();
        let output = self.host.program("ping").args(["-6", "-n", "-c", "1", "-W", "1", &target]).output()?;
        Ok(output.status.success())
    }
}

impl Drop for Town<'_> {
    fn drop(&mut self) {
        // Best effort: what a failed test left must not stop the next one.
        let _ = self.atoll(&["down"]);
        for pid in processes_of(&self.state).unwrap_or_default() {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).output();
        }
    }
}

#[test]
fn two_regions_recognise_each_other_by_their_settings() -> Result<()> {
    let turn = Turn::take()?;
    let lab = Lab::new(&turn, "mregion", 2, &topology::line(2))?;
    let (east, west) = (Town::found(&lab, 0, "east", &[])?, Town::found(&lab, 1, "west", &[])?);
    east.recognise(&west, None)?;
    west.recognise(&east, Some(SocketAddrV4::new(lab.wire(0, 1)?.ip(0), PORT)))?;
    for town in [&east, &west] {
        town.atoll(&["down"])?;
        town.up()?;
    }
    eventually("a ping across", PATIENCE, || Ok((west.pings(&east)? && east.pings(&west)?).then_some(())))?;
    for town in [&east, &west] {
        let mesh = town.mesh()?;
        ensure!(mesh["regions"] == 1 && mesh["problems"].as_array().is_some_and(Vec::is_empty), "{mesh}");
    }

    // One withdraws its word while both run, and gives it again.
    let settings = west.state.join("atoll.toml");
    let recognising = fs::read_to_string(&settings)?;
    west.set_mesh("", "")?;
    west.up()?;
    eventually("the end of the way", PATIENCE, || Ok((!west.pings(&east)? && !east.pings(&west)?).then_some(())))?;
    ensure!(west.mesh()?["regions"] == 0 && east.mesh()?["regions"] == 0);
    fs::write(&settings, recognising)?;
    west.up()?;
    eventually("a ping across again", PATIENCE, || Ok((west.pings(&east)? && east.pings(&west)?).then_some(())))?;
    ensure!(west.atoll(&["mesh", "reload"])?.contains("Nothing has changed"));

    // What cannot be is refused before anything starts, with where it stands.
    west.atoll(&["down"])?;
    for (head, words) in [
        ("open = [\"22\"]", ["[mesh] in", "`open`"]),
        ("listen_tls = \"[::]:8088\"", ["[mesh] listen_tls", "[ports] gateway"]),
        ("grant = \"00\"", ["[mesh] in", "`grant`"]),
    ] {
        west.set_mesh(head, "")?;
        let error = format!("{:#}", west.up().expect_err("it is wrong"));
        ensure!(words.iter().all(|word| error.contains(word)), "{error}");
        ensure!(processes_of(&west.state)?.is_empty(), "something runs");
    }
    Ok(())
}

#[test]
fn a_region_that_is_founded_closed_refuses_who_has_its_invite_and_its_nodes_say_where_they_are() -> Result<()> {
    let turn = Turn::take()?;
    let lab = Lab::new(&turn, "mcharter", 2, &topology::line(2))?;
    let town = Town::found(&lab, 0, "oak", &["--closed"])?;
    let place = format!("{}:{PORT}", lab.wire(0, 1)?.ip(0));
    let invite = town.atoll(&["mesh", "invite", &place])?;
    let mut stranger = Machine::new(&lab, 1);
    stranger.network = town.ids()?.0.to_string()[..8].to_owned();
    stranger.run(&["--invite", invite.trim()])?;
    eventually("a refusal in the stranger's log", PATIENCE, || {
        Ok(fs::read_to_string(&stranger.log)?.contains("refused by a node").then_some(()))
    })?;
    ensure!(stranger.ask(&["status"])?["nodes"] == 0 && town.mesh()?["nodes"] == 0);
    let shown = town.atoll(&["charter", "show"])?;
    ensure!(shown.contains("closed"), "{shown}");

    let before = town.pids()?;
    town.set_mesh(&format!("announce = [\"udp://{place}\"]"), "")?;
    town.up()?;
    let label = format!("link=udp://{place}");
    eventually("the label on the ledger", PATIENCE, || {
        Ok(town.atoll(&["nodes", "--json"])?.contains(&label).then_some(()))
    })?;
    // Only the daemon whose settings changed has started again, and none does if nothing has changed.
    let after = town.pids()?;
    ensure!(before[..2] == after[..2] && before[2] != after[2], "{before:?}, {after:?}");
    town.up()?;
    ensure!(town.pids()? == after);
    Ok(())
}
