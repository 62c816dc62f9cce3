//! What is compared: the bare wire, Atoll, and other overlays, each with its daemon at both ends.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Result, ensure};
use atoll_e2e::{
    binary, command, eventually,
    mesh::{Host, Lab, Node, PORT, Process, probe, probe::tool},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum System {
    Raw,
    Atoll,
    WireguardGo,
    Boringtun,
    Tinc,
    Nebula,
}

impl System {
    pub(super) const ALL: [Self; 6] =
        [Self::Raw, Self::Atoll, Self::WireguardGo, Self::Boringtun, Self::Tinc, Self::Nebula];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Atoll => "atoll",
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun",
            Self::Tinc => "tinc",
            Self::Nebula => "nebula",
        }
    }
}

/// Versions of everything that takes part, and how TCP is steered.
pub(super) fn versions() -> Vec<String> {
    let asked = [
        (binary(), "--version"),
        (tool("wireguard-go"), "--version"),
        (tool("boringtun-cli"), "--version"),
        (tool("tincd"), "--version"),
        (tool("nebula"), "-version"),
        (tool("babeld"), "-V"),
        (tool("iperf3"), "--version"),
        ("uname".into(), "-sr"),
    ];
    let version = |(program, option): (PathBuf, &str)| {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Ok(output) = Command::new(&program).arg(option).output() else { return format!("{name}: missing") };
        let text = [output.stdout, output.stderr].concat();
        format!("{name}: {}", String::from_utf8_lossy(&text).lines().find(|line| !line.is_empty()).unwrap_or("?"))
    };
    let control = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
    asked.into_iter().map(version).chain([format!("TCP congestion control: {}", control.trim())]).collect()
}

/// Two machines that reach each other.
#[derive(Clone, Copy)]
pub(super) struct Ends<'a> {
    pub(super) lab: &'a Lab,
    pub(super) source: usize,
    pub(super) target: usize,
    pub(super) source_ip: Ipv4Addr,
    pub(super) target_ip: Ipv4Addr,
}

/// One system that runs between two machines.
pub(super) struct Tunnel {
    pub(super) system: System,
    pub(super) source: Host,
    /// Of the target.
    pub(super) address: IpAddr,
    /// Its daemons.
    pub(super) pids: Vec<u32>,
    _daemons: Daemons,
}

/// Held until the end.
enum Daemons {
    None,
    Ours(Vec<Node>),
    Others(Vec<Process>),
}

impl Tunnel {
    /// Starts these systems between the same two machines, and waits until a ping passes through each. A peer that
    /// cannot start is told and left out.
    pub(super) fn start_all(ends: &Ends<'_>, systems: &[System]) -> Result<Vec<Self>> {
        let mut tunnels = Vec::new();
        for system in systems {
            let started = Self::start(ends, *system).and_then(|tunnel| {
                let ping = || probe::ping(&tunnel.source, tunnel.address, 1, Duration::from_secs(1)).map(Some);
                eventually("a ping through it", PATIENCE, ping)?;
                Ok(tunnel)
            });
            match started {
                Ok(tunnel) => tunnels.push(tunnel),
                Err(error) if matches!(system, System::Raw | System::Atoll) => return Err(error),
                Err(error) => eprintln!("  {} does not start: {error:#}", system.name()),
            }
        }
        Ok(tunnels)
    }

    fn start(ends: &Ends<'_>, system: System) -> Result<Self> {
        let (address, daemons) = match system {
            System::Raw => (ends.target_ip.into(), Daemons::None),
            System::Atoll => {
                let target = Node::start(ends.lab, ends.target, &[])?;
                let source = Node::start(ends.lab, ends.source, &[SocketAddr::from((ends.target_ip, PORT))])?;
                (target.address.into(), Daemons::Ours(vec![source, target]))
            }
            System::WireguardGo => wireguard(ends, "wgo", &["wireguard-go", "-f"], 51820)?,
            System::Boringtun => wireguard(ends, "bor", &["boringtun-cli", "-f", "--disable-drop-privileges"], 51821)?,
            System::Tinc => tinc(ends)?,
            System::Nebula => nebula(ends)?,
        };
        let pids = match &daemons {
            Daemons::None => Vec::new(),
            Daemons::Ours(nodes) => nodes.iter().map(Node::pid).collect::<Result<_>>()?,
            Daemons::Others(processes) => processes.iter().map(Process::id).collect(),
        };
        Ok(Self { system, source: ends.lab.host(ends.source).clone(), address, pids, _daemons: daemons })
    }
}

impl Ends<'_> {
    /// Number, machine and the other's underlay address, for each end: 0 is the source.
    fn sides(&self) -> [(usize, &Host, Ipv4Addr); 2] {
        [(0, self.lab.host(self.source), self.target_ip), (1, self.lab.host(self.target), self.source_ip)]
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.lab.scratch().join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }
}

fn set_up(host: &Host, interface: &str, address: &str, mtu: u32) -> Result<()> {
    host.inside("ip", ["address", "add", address, "dev", interface, "nodad"])?;
    host.inside("ip", ["link", "set", interface, "mtu", &mtu.to_string(), "up"]).map(drop)
}

/// Either WireGuard in user space: they are configured alike. MTU 1420, their documented value.
fn wireguard(ends: &Ends<'_>, name: &str, program: &[&str], port: u16) -> Result<(IpAddr, Daemons)> {
    let folder = ends.folder(name)?;
    let mut publics = Vec::new();
    for side in 0..2 {
        let secret = command(tool("wg"), ["genkey"])?;
        let file = folder.join(format!("key{side}"));
        fs::write(&file, &secret)?;
        let public = Command::new(tool("wg")).arg("pubkey").stdin(fs::File::open(&file)?).output()?;
        ensure!(public.status.success(), "wg pubkey failed");
        publics.push(String::from_utf8(public.stdout)?.trim().to_owned());
    }
    let mut processes = Vec::new();
    let network = u32::from(port);
    for (side, host, far) in ends.sides() {
        let interface = format!("{name}{side}");
        let socket = PathBuf::from(format!("/var/run/wireguard/{interface}.sock"));
        // One that was killed leaves it.
        let _ = fs::remove_file(&socket);
        let args = program[1..].iter().copied().chain([interface.as_str()]);
        processes.push(host.start(tool(program[0]), args, &folder.join(format!("{side}.log")))?);
        eventually("its control socket", PATIENCE, || Ok(socket.exists().then_some(())))?;
        let (key, port, endpoint) = (folder.join(format!("key{side}")), port.to_string(), format!("{far}:{port}"));
        let args = ["set", &interface, "private-key", &key.display().to_string(), "listen-port", &port];
        let peer = ["peer", &publics[1 - side], "endpoint", &endpoint, "allowed-ips", "::/0"];
        host.inside(tool("wg"), args.into_iter().chain(peer))?;
        set_up(host, &interface, &format!("fd10:{network:x}::{}/64", side + 1), 1420)?;
    }
    Ok((format!("fd10:{network:x}::2").parse()?, Daemons::Others(processes)))
}

/// tinc 1.0 in its default settings, MTU 1400.
fn tinc(ends: &Ends<'_>) -> Result<(IpAddr, Daemons)> {
    let mut folders = Vec::new();
    for (side, ..) in ends.sides() {
        let folder = ends.folder(&format!("tinc{side}"))?;
        fs::create_dir_all(folder.join("hosts"))?;
        let connect = if side == 0 { "ConnectTo = end1\n" } else { "" };
        fs::write(
            folder.join("tinc.conf"),
            format!("Name = end{side}\nInterface = tinc0\nAddressFamily = ipv4\n{connect}"),
        )?;
        let ip = if side == 0 { ends.source_ip } else { ends.target_ip };
        fs::write(
            folder.join(format!("hosts/end{side}")),
            format!("Address = {ip}\nSubnet = fd11::{}/128\n", side + 1),
        )?;
        let up = format!(
            "#!/bin/sh\nip address add fd11::{}/64 dev $INTERFACE nodad\nip link set $INTERFACE mtu 1400 up\n",
            side + 1
        );
        fs::write(folder.join("tinc-up"), up)?;
        fs::set_permissions(folder.join("tinc-up"), fs::Permissions::from_mode(0o755))?;
        let path = folder.display().to_string();
        let made = Command::new(tool("tincd")).args(["-c", &path, "-K", "2048"]).stdin(Stdio::null()).output()?;
        ensure!(made.status.success(), "tincd makes no key: {}", String::from_utf8_lossy(&made.stderr));
        folders.push(folder);
    }
    for (own, far) in [(0, 1), (1, 0)] {
        let host = format!("hosts/end{own}");
        fs::copy(folders[own].join(&host), folders[far].join(&host))?;
    }
    let mut processes = Vec::new();
    // The one that is called first.
    for (side, host, _) in ends.sides().into_iter().rev() {
        let path = folders[side].display().to_string();
        let pid = format!("--pidfile={path}/pid");
        processes.push(host.start(tool("tincd"), ["-c", &path, "-D", &pid], &folders[side].join("daemon.log"))?);
    }
    Ok(("fd11::2".parse()?, Daemons::Others(processes)))
}

/// nebula with AES-256-GCM, its default, MTU 1300, its default. Overlay addresses of this version are IPv4.
fn nebula(ends: &Ends<'_>) -> Result<(IpAddr, Daemons)> {
    let folder = ends.folder("nebula")?;
    let path = |name: &str| folder.join(name).display().to_string();
    let (authority, key) = (path("ca.crt"), path("ca.key"));
    command(tool("nebula-cert"), ["ca", "-name", "lab", "-out-crt", &authority, "-out-key", &key])?;
    let mut processes = Vec::new();
    for (side, host, far) in ends.sides() {
        let (certificate, secret) = (path(&format!("{side}.crt")), path(&format!("{side}.key")));
        let address = format!("192.168.77.{}/24", side + 1);
        let name = format!("end{side}");
        let sign = ["sign", "-name", &name, "-ip", &address, "-ca-crt", &authority, "-ca-key", &key];
        command(tool("nebula-cert"), sign.into_iter().chain(["-out-crt", &certificate, "-out-key", &secret]))?;
        let text = format!(
            "pki: {{ ca: {authority}, cert: {certificate}, key: {secret} }}\nstatic_host_map: {{ \"192.168.77.{}\": [\"{far}:4242\"] }}\nlighthouse: {{ am_lighthouse: false }}\nlisten: {{ host: 0.0.0.0, port: 4242 }}\ntun: {{ dev: neb0, mtu: 1300 }}\nfirewall:\n  outbound: [{{ port: any, proto: any, host: any }}]\n  inbound: [{{ port: any, proto: any, host: any }}]\n",
            2 - side
        );
        let config = path(&format!("{side}.yaml"));
        fs::write(&config, text)?;
        processes.push(host.start(tool("nebula"), ["-config", &config], &folder.join(format!("{side}.log")))?);
    }
    Ok(("192.168.77.2".parse()?, Daemons::Others(processes)))
}
