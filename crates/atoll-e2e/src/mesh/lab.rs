//! Machines and the wires between them: network namespaces and veth pairs.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};

use crate::{Turn, command, finish};

/// Machines joined by wires. Everything is removed when it is dropped.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    wires: Vec<Wire>,
    dir: tempfile::TempDir,
}

impl Lab {
    /// So many machines, and a wire for each of `edges`. `name` is a short DNS label that no other lab of this process
    /// has. Wires carry IPv4 and IPv6 addresses, MTU 1500, offloads as the kernel sets them.
    pub fn new(_turn: &Turn, name: &str, hosts: usize, edges: &[(usize, usize)]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("atoll-mesh-lab-").tempdir()?;
        let mut lab = Self { hosts: Vec::new(), wires: Vec::new(), dir };
        for number in 0..hosts {
            let host = Host { namespace: format!("{name}{}-{number}", std::process::id()), number };
            command("ip", ["netns", "add", &host.namespace])?;
            lab.hosts.push(host);
        }
        for host in &lab.hosts {
            // Addresses are ours alone: no second of waiting for a duplicate.
            host.sysctl("ipv6/conf/default/accept_dad", "0")?;
        }
        lab.wires = edges.iter().enumerate().map(|(number, ends)| Wire { number, ends: *ends }).collect();
        lab.lay_wires()?;
        Ok(lab)
    }

    /// Machine of this number.
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number]
    }

    /// All machines.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// All wires, in the order of the edges.
    pub fn wires(&self) -> &[Wire] {
        &self.wires
    }

    /// The wire between two machines.
    pub fn wire(&self, a: usize, b: usize) -> Result<&Wire> {
        let joins = |wire: &&Wire| wire.ends == (a, b) || wire.ends == (b, a);
        self.wires.iter().find(joins).with_context(|| format!("no wire joins machines {a} and {b}"))
    }

    /// A folder for keys, configurations and logs.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    fn lay_wires(&self) -> Result<()> {
        let mut batch = String::new();
        let mut addresses = vec!["link set lo up\n".to_owned(); self.hosts.len()];
        for wire in &self.wires {
            let (a, b) = wire.ends;
            let [host_a, host_b] = [a, b].map(|end| &self.hosts[end].namespace);
            let [link_a, link_b] = [a, b].map(|end| wire.interface(end));
            batch += &format!("link add {link_a} netns {host_a} type veth peer name {link_b} netns {host_b}\n");
            for end in [a, b] {
                let link = wire.interface(end);
                addresses[end] += &format!(
                    "address add {}/30 dev {link}\naddress add {}/64 dev {link} nodad\nlink set {link} up\n",
                    wire.ip(end),
                    wire.ip6(end)
                );
            }
        }
        ip_batch(&[], &batch)?;
        for (host, batch) in self.hosts.iter().zip(&addresses) {
            ip_batch(&["-n", &host.namespace], batch)?;
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            self.show_logs();
        }
        for host in &self.hosts {
            // Best effort: what a failed lab left must not stop the next one.
            let _ = Command::new("ip").args(["netns", "delete", &host.namespace]).output();
        }
    }
}

impl Lab {
    /// The end of every log, for the report of a failed test.
    fn show_logs(&self) {
        for file in fs::read_dir(self.scratch()).into_iter().flatten().flatten() {
            if file.path().extension().is_some_and(|extension| extension == "log") {
                let text = fs::read_to_string(file.path()).unwrap_or_default();
                let tail: Vec<_> = text.lines().rev().take(15).collect();
                let mut out = std::io::stderr().lock();
                let _ = writeln!(out, "--- {}", file.path().display());
                for line in tail.into_iter().rev() {
                    let _ = writeln!(out, "{line}");
                }
            }
        }
    }
}

/// Many `ip` commands in one process.
fn ip_batch(options: &[&str], batch: &str) -> Result<()> {
    let mut child = Command::new("ip").args(options).args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    child.stdin.take().context("no standard input")?.write_all(batch.as_bytes())?;
    ensure!(child.wait()?.success(), "ip failed on one of these commands:\n{batch}");
    Ok(())
}

/// One machine of a lab.
#[derive(Debug, Clone)]
pub struct Host {
    namespace: String,
    number: usize,
}

impl Host {
    /// Its number in the lab.
    pub fn number(&self) -> usize {
        self.number
    }

    /// A program on this machine.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace)).arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a program on this machine; an error when it fails.
    pub fn inside<S: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String> {
        finish(self.program(program).args(args))
    }

    /// Starts a program that runs on; what it prints goes to `log`.
    pub fn start<S: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = S>,
        log: &Path,
    ) -> Result<Process> {
        let out = File::options().create(true).append(true).open(log)?;
        let mut command = self.program(program);
        command.args(args).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Process { child })
    }

    /// Does `work` on a thread in this machine's network. Sockets that it opens stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = format!("/run/netns/{}", self.namespace);
        let inside = || {
            let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
            setns(&namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {path}"))?;
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join()).map_err(|_| anyhow!("the work inside {path} panicked"))?
    }

    /// Writes a setting below `/proc/sys/net`.
    pub fn sysctl(&self, setting: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{setting}");
        self.run(|| fs::write(&path, value).with_context(|| format!("cannot write {value} to {path}")))
    }

    /// Lets this machine pass on packets of others by itself.
    pub fn forward(&self) -> Result<()> {
        self.sysctl("ipv4/ip_forward", "1")?;
        self.sysctl("ipv6/conf/all/forwarding", "1")
    }
}

/// A running program. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGTERM; waits for its end.
    pub fn terminate(mut self) -> Result<()> {
        command("kill", ["-TERM", &self.id().to_string()])?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A veth pair between two machines.
#[derive(Debug, Clone)]
pub struct Wire {
    number: usize,
    ends: (usize, usize),
}

impl Wire {
    /// The two machines.
    pub fn ends(&self) -> (usize, usize) {
        self.ends
    }

    /// The machine at the other end.
    pub fn far(&self, host: usize) -> usize {
        if self.ends.0 == host { self.ends.1 } else { self.ends.0 }
    }

    /// Name of its interface on a machine.
    pub fn interface(&self, host: usize) -> String {
        format!("to{}", self.far(host))
    }

    /// IPv4 address on a machine, in a /30 of 10.128.0.0/9.
    pub fn ip(&self, host: usize) -> Ipv4Addr {
        let network = 0x0a80_0000 + 4 * u32::try_from(self.number).unwrap_or(u32::MAX / 8);
        Ipv4Addr::from(network + 1 + u32::from(self.ends.0 != host))
    }

    /// IPv6 address on a machine, in a /64.
    pub fn ip6(&self, host: usize) -> Ipv6Addr {
        let [high, low] = [self.number >> 16, self.number & 0xffff].map(|part| u16::try_from(part).unwrap_or(u16::MAX));
        Ipv6Addr::new(0xfd00, high, low, 0, 0, 0, 0, 1 + u16::from(self.ends.0 != host))
    }
}
