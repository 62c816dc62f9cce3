//! Bounds of what this crate does to a machine.

use core::time::Duration;

/// Longest name of a network link (`IFNAMSIZ` without its end).
pub const LINK_NAME_BYTES_MAX: usize = 15;
/// Longest name of a network namespace or of a workload: it becomes a file name and a cgroup's name.
pub const NAME_BYTES_MAX: usize = 128;

/// How long a start waits for its workload to execute; a micro-VM that waits for its turn goes on afterwards.
pub const SHIM_START_MAX: Duration = Duration::from_secs(120);
/// How long killed processes may take to leave their cgroup.
pub const CGROUP_EMPTY_MAX: Duration = Duration::from_secs(10);
/// The stretch of time in which the kernel accounts for a CPU limit, in microseconds.
pub const CPU_PERIOD_US: u64 = 100_000;

/// Longest line of a workload's output; longer ones are split.
pub const LOG_LINE_BYTES_MAX: usize = 16 * 1024;
/// Size of one log file when the caller has no wish; there are two.
pub const LOG_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// Smallest log file, so that one line always fits.
pub const LOG_FILE_BYTES_MIN: u64 = 2 * LOG_LINE_BYTES_MAX as u64;
/// Lines that a reader of the log gets at once.
pub const LOG_TAIL_LINES_MAX: usize = 10_000;

/// Bind mounts of one workload.
pub const BINDS_MAX: usize = 64;

const _: () = assert!(LOG_FILE_BYTES >= LOG_FILE_BYTES_MIN);
/// How much of an image's `/etc/passwd` and `/etc/group` is read.
pub const ACCOUNT_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Files that a process of a container may open unless it raises its own limit.
pub const OPEN_FILES_MAX: u64 = 65_536;
/// How much earlier than daemons a workload is killed when the whole machine runs out of memory.
pub const WORKLOAD_OOM_SCORE: u32 = 500;
/// Workloads of one node that the firewall describes.
pub const FIREWALL_WORKLOADS_MAX: usize = 4096;
/// Peers of one workload in the firewall.
pub const FIREWALL_PEERS_MAX: usize = 4096;
/// Ranges of open ports of the machine itself, of each transport.
pub const FIREWALL_OPEN_RANGES_MAX: usize = 256;
/// Echo requests per second that the machine itself takes from the mesh, and as many at once.
pub const FIREWALL_ECHOES_PER_SECOND: u32 = 100;
/// ICMPv6 errors per second that the machine itself takes from the mesh beside those about its own connections.
pub const FIREWALL_ERRORS_PER_SECOND: u32 = 100;
/// Refusals per second that the machine itself sends into the mesh, of each transport; the rest is dropped silently.
pub const FIREWALL_REJECTS_PER_SECOND: u32 = 100;

/// Smallest disk of a micro-VM.
pub const DISK_BYTES_MIN: u64 = 64 << 20;
/// Kernel modules that a guest loads.
pub const MODULES_MAX: usize = 64;
/// How long the guest of the KVM probe may take.
pub const KVM_PROBE_MAX: Duration = Duration::from_secs(6);
/// How long a guest may take until its workload executes.
pub const VM_BOOT_MAX: Duration = Duration::from_secs(60);
/// How long a guest may take to power off after its workload has ended.
pub const VM_POWER_OFF_MAX: Duration = Duration::from_secs(10);
/// Guests that boot at the same time on this machine: more of them only slow each other down.
pub const VM_BOOTS_AT_ONCE: usize = 2;
/// Memory of a guest beyond its workload's: its kernel; the initramfs comes on top, twice while it is unpacked.
pub const GUEST_KERNEL_BYTES: u64 = 96 << 20;
/// Memory of the hypervisor beyond its guest's.
pub const HYPERVISOR_BYTES: u64 = 256 << 20;
/// Translated code that the hypervisor keeps, in MiB; within [`HYPERVISOR_BYTES`].
pub const TRANSLATION_MIB: u64 = 64;
/// Processes and threads of the hypervisor.
pub const HYPERVISOR_PIDS: u32 = 128;
/// Processors of a guest.
pub const VM_CPUS_MAX: u64 = 16;
/// A message on the control port of a guest.
pub const CONTROL_LINE_BYTES_MAX: usize = 64 * 1024;

const _: () = assert!((TRANSLATION_MIB << 20) * 2 <= HYPERVISOR_BYTES);
/// How long a guest waits for a device whose driver is loaded.
pub const DEVICES_MAX_WAIT: Duration = Duration::from_secs(10);
/// The hard limit of open files in a guest.
pub const GUEST_OPEN_FILES_HARD: u64 = 1_048_576;
/// Hypervisors run as users of their own from here on, which no system hands out to people or daemons.
pub const HYPERVISOR_UID_FIRST: u32 = 2_000_000_000;
/// How many such users there are.
pub const HYPERVISOR_UIDS: u32 = 100_000_000;

const _: () = assert!(SHIM_START_MAX.as_secs() > VM_BOOT_MAX.as_secs());
