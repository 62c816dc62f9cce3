//! Every operating-system level thing: tun, netlink, namespaces, cgroups, nftables, containers, hypervisor processes.
//!
//! This crate does what it is told on one machine. It never decides what should run, never talks to the ledger or to
//! another machine, and keeps no state of its own beside what the kernel and the folders that it was given hold, so
//! that a restarted daemon finds everything again.
//!
//! Everything that changes the machine is idempotent: `ensure_*` makes a thing so whatever was there before, `remove_*`
//! succeeds when there is nothing to remove.
//!
//! Read [`workload::WorkloadNetwork`] (how it is
//! connected) first.
//!
//! ```text
//! node daemon ──spawns──▶ shim (one per workload, own session)
//!      │                    ├─ container: libcontainer ─▶ init of the workload, in its cgroup and namespaces
//!      │                    └─ micro-VM:  qemu, in the workload's cgroup and network namespace
//!      └─ netlink, nft ───▶ veth ═══ eth0 in the workload's network namespace
//! ```
//!
//! It is the only crate in which `unsafe` is allowed.
#![allow(unsafe_code)] // system calls for which nix has no safe wrapper; each block says why it is sound

pub mod addresses;
pub mod alarm;
pub mod cgroup;
pub mod disk;
mod exec;
pub mod firewall;
pub mod guest;
pub mod limits;
pub mod link;
pub mod link_watch;
pub mod log;
pub mod netns;
pub mod probe;
pub mod process;
pub mod rootfs;
mod seccomp;
pub mod shim;
pub mod spec;
mod tap;
pub mod tun;
pub mod udp;
mod users;
pub mod vm;
pub mod workload;
