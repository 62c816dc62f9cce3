//! What a shim is told to run.

use std::{
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::{
    cgroup::Limits,
    limits::{BINDS_MAX, LOG_FILE_BYTES_MIN, NAME_BYTES_MAX},
    vm::Accelerator,
};

/// One workload, complete: the shim reads nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShimSpec {
    /// Unique on the machine: letters, digits, `-`, `_` and `.`. Names its cgroup.
    pub name: String,
    /// How it is isolated.
    pub engine: Engine,
    /// What it executes.
    pub process: ProcessSpec,
    /// Its host name.
    pub hostname: String,
    /// Name of its network namespace, which must exist (see [`crate::workload::WorkloadNetwork`]).
    pub network_namespace: String,
    /// Whom it asks for names.
    pub dns: Vec<IpAddr>,
    /// Appended to names without a dot.
    pub dns_search: Vec<String>,
    /// Names that it knows without asking, beside its own and `localhost`.
    pub hosts: Vec<(IpAddr, String)>,
    /// What it may use.
    pub limits: Limits,
    /// How long it may take to end after SIGTERM before it is killed.
    pub stop_grace_ms: u64,
    /// Size of each of its two log files.
    pub log_file_bytes: u64,
}

/// How a workload is isolated from its machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Engine {
    /// Namespaces and cgroups.
    Container {
        /// Its root directory, ready to be written to (see [`crate::rootfs`]).
        root: PathBuf,
        /// Directories and files of the machine that it sees.
        binds: Vec<Bind>,
    },
    /// A virtual machine with a kernel of its own.
    MicroVm {
        /// Its disk: an ext4 image with the root directory (see [`crate::vm::ensure_disk`]).
        disk: PathBuf,
        /// Its mesh address.
        address: Ipv6Addr,
        /// Largest packet.
        mtu: u32,
        /// What executes it: [`Accelerator::Kvm`] only where [`crate::vm::kvm_works`].
        accelerator: Accelerator,
    },
}

/// A directory or file of the machine that a container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// Where it is on the machine.
    pub source: PathBuf,
    /// Where the container sees it.
    pub target: PathBuf,
    /// Whether the container may change it.
    pub writable: bool,
}

/// What a workload executes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessSpec {
    /// Program, searched in `PATH`, and arguments.
    pub args: Vec<String>,
    /// Its whole environment; later ones win, `PATH` and `HOME` are added when absent.
    pub env: Vec<(String, String)>,
    /// Working directory; created when absent.
    pub working_dir: String,
    /// `uid[:gid]` or `name[:group]` as in the image's `/etc/passwd` and `/etc/group`; none: root.
    pub user: Option<String>,
}

/// A specification that cannot be carried out.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the workload's {what}: {why}")]
pub struct SpecError {
    /// Which part of it.
    pub what: &'static str,
    /// What is wrong.
    pub why: String,
}

impl ShimSpec {
    /// Refuses what could not work or would escape its bounds.
    pub fn check(&self) -> Result<(), SpecError> {
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        let refuse = |what, why: &str| Err(SpecError { what, why: why.to_owned() });
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX || self.name.starts_with('.') || !plain(&self.name)
        {
            return refuse("name", "use letters, digits, '-', '_' and '.', not starting with '.'");
        }
        if self.process.args.first().is_none_or(|program| program.is_empty()) {
            return refuse("command", "it is empty: the image names no program, so the deployment must");
        }
        let names = self.process.env.iter().map(|(name, _)| name);
        if names.clone().any(|name| name.is_empty() || name.contains('=')) {
            return refuse("environment", "a variable's name is empty or contains '='");
        }
        let texts = self.process.args.iter().chain(names).chain(self.process.env.iter().map(|(_, value)| value));
        if texts.chain([&self.process.working_dir, &self.hostname]).any(|text| text.contains('\0')) {
            return refuse("command or environment", "it contains a NUL byte");
        }
        if !self.process.working_dir.starts_with('/') {
            return refuse("working directory", "it must be absolute");
        }
        if self.hostname.is_empty() || self.hostname.len() > 63 || !plain(&self.hostname) {
            return refuse("host name", "use up to 63 letters, digits, '-', '_' and '.'");
        }
        if self.limits.memory_bytes < 4 << 20 || self.limits.pids_max == 0 || self.limits.cpu_milli == 0 {
            return refuse("limits", "they leave nothing: at least 4 MiB of memory, one process and 0.001 core");
        }
        if self.log_file_bytes < LOG_FILE_BYTES_MIN {
            return refuse("log", "its files are too small for one line");
        }
        match &self.engine {
            Engine::Container { binds, .. } if binds.len() > BINDS_MAX => refuse("binds", "there are too many"),
            Engine::Container { binds, .. }
                if binds.iter().any(|b| !b.target.is_absolute() || !b.source.is_absolute()) =>
            {
                refuse("binds", "their paths must be absolute")
            }
            Engine::Container { .. } | Engine::MicroVm { .. } => Ok(()),
        }
    }

    /// Its environment, with what every process may expect.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let mut env: Vec<(String, String)> = Vec::new();
        let path = ("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        let hostname = ("HOSTNAME".to_owned(), self.hostname.clone());
        for (name, value) in [path, hostname].iter().chain(&self.process.env) {
            env.retain(|(known, _)| known != name);
            env.push((name.clone(), value.clone()));
        }
        env
    }

    /// The content of its `/etc/hosts`.
    pub(crate) fn hosts_file(&self, own: Option<Ipv6Addr>) -> String {
        let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
        let own = own.map(|address| (IpAddr::V6(address), self.hostname.clone()));
        for (address, name) in own.iter().chain(&self.hosts) {
            text.push_str(&format!("{address} {name}\n"));
        }
        text
    }

    /// The content of its `/etc/resolv.conf`.
    pub(crate) fn resolv_conf(&self) -> String {
        let mut text: String = self.dns.iter().map(|server| format!("nameserver {server}\n")).collect();
        if !self.dns_search.is_empty() {
            text.push_str(&format!("search {}\n", self.dns_search.join(" ")));
        }
        text.push_str("options timeout:2 attempts:3\n");
        text
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> ShimSpec {
        ShimSpec {
            name: "lease-7".into(),
            engine: Engine::Container { root: "/nowhere".into(), binds: vec![] },
            process: ProcessSpec {
                args: vec!["/bin/sh".into()],
                env: vec![("A".into(), "1".into()), ("PATH".into(), "/bin".into()), ("A".into(), "2".into())],
                working_dir: "/".into(),
                user: None,
            },
            hostname: "web".into(),
            network_namespace: "n".into(),
            dns: vec!["fd00::1".parse().expect("an address")],
            dns_search: vec!["home".into()],
            hosts: vec![("fd00::2".parse().expect("an address"), "db".into())],
            limits: Limits { cpu_milli: 500, memory_bytes: 64 << 20, pids_max: 64 },
            stop_grace_ms: 1000,
            log_file_bytes: LOG_FILE_BYTES_MIN,
        }
    }

    #[test]
    fn later_variables_win() {
        let env = sample().environment();
        let expected = [("HOSTNAME", "web"), ("PATH", "/bin"), ("A", "2")];
        assert_eq!(env, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn files_of_the_name_service() {
        let spec = sample();
        let hosts = spec.hosts_file(Some("fd00::9".parse().expect("an address")));
        assert!(hosts.ends_with("fd00::9 web\nfd00::2 db\n"), "{hosts}");
        assert_eq!(spec.resolv_conf(), "nameserver fd00::1\nsearch home\noptions timeout:2 attempts:3\n");
    }

    #[test]
    fn what_cannot_work_is_refused_by_part() {
        let refused = |change: &dyn Fn(&mut ShimSpec)| {
            let mut spec = sample();
            change(&mut spec);
            spec.check().expect_err("must be refused").what
        };
        assert_eq!(sample().check(), Ok(()));
        assert_eq!(refused(&|s| s.name = "../x".into()), "name");
        assert_eq!(refused(&|s| s.process.args.clear()), "command");
        assert_eq!(refused(&|s| s.process.env.push(("A=B".into(), String::new()))), "environment");
        assert_eq!(refused(&|s| s.process.args.push("a\0b".into())), "command or environment");
        assert_eq!(refused(&|s| s.process.working_dir = "srv".into()), "working directory");
        assert_eq!(refused(&|s| s.limits.pids_max = 0), "limits");
        assert_eq!(refused(&|s| s.log_file_bytes = 1), "log");
        assert_eq!(refused(&|s| s.hostname = "a b".into()), "host name");
    }
}
