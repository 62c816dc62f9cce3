//! Bounds of deployment files. Those that the ledger shares are in `atoll_base::limits`.

/// Longest deployment file.
pub(crate) const FILE_BYTES_MAX: usize = 256 * 1024;
/// Mappings and lists within each other. A deployment file needs seven.
pub(crate) const DEPTH_MAX: usize = 32;
/// Refusals that are shown at once: more would hide the first.
pub(crate) const REFUSALS_MAX: usize = 20;
/// Entries of one service's environment.
pub(crate) const ENVIRONMENT_MAX: usize = 256;
/// Words of a command.
pub(crate) const WORDS_MAX: usize = 256;

/// Share of a core of a service that does not say, in thousandths.
pub(crate) const CPU_MILLI_DEFAULT: u64 = 250;
/// Largest share of cores, in thousandths.
pub(crate) const CPU_MILLI_MAX: u64 = 1_024_000;
/// Memory of a service that does not say.
pub(crate) const MEMORY_BYTES_DEFAULT: u64 = 256 * MIB;
/// Least memory in which a container starts.
pub(crate) const MEMORY_BYTES_MIN: u64 = 8 * MIB;
/// Least memory in which a virtual machine's kernel boots.
pub(crate) const MEMORY_BYTES_MIN_VM: u64 = 128 * MIB;
/// Disk of a service that does not say.
pub(crate) const DISK_BYTES_DEFAULT: u64 = 1024 * MIB;
/// Largest memory or disk: what an unsigned 53-bit number holds, as in every JSON reader.
pub(crate) const SIZE_BYTES_MAX: u64 = 1 << 53;
/// Processes and threads of a service that does not say.
pub(crate) const PIDS_DEFAULT: u32 = 512;
/// Most processes and threads: the kernel's own bound (`PID_MAX_LIMIT`).
pub(crate) const PIDS_MAX: u32 = 4_194_304;

const MIB: u64 = 1024 * 1024;
