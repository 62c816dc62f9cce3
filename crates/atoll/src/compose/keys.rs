//! Keys of the Compose specification that cannot be honoured, with the reason and the way out.

/// A key, why it cannot be honoured, and what to do.
type Row = (&'static str, &'static str, &'static str);

const SHARED_NETWORK: &str =
    "remove it: services of one deployment share a private network and find each other by their names";
const HOST: &str = "remove it: the workload runs on a machine that the ledger chooses, and is isolated from it";
const VOLUMES: &str =
    "remove it: keep data inside the workload's disk for now, knowing that it is lost when the lease moves";
const IN_IMAGE: &str = "remove it, and put it into the image";
const WRITE_ENV: &str = "write the values under `environment`";

/// Keys at the top of the file.
pub(crate) const TOP: &[Row] = &[
    ("networks", "networks are not declared", SHARED_NETWORK),
    ("volumes", "volumes are not built yet", VOLUMES),
    (
        "secrets",
        "secrets have no key of their own",
        "write them under `environment`: it is encrypted to the nodes that run the service",
    ),
    ("configs", "configs are not built yet", IN_IMAGE),
    ("include", "a deployment is one file", "write the services into this file"),
    ("models", "models are not supported", "remove it"),
];

/// Keys of a service.
pub(crate) const SERVICE: &[Row] = &[
    ("annotations", "annotations have no effect", "remove it"),
    ("attach", "there is nothing to attach to", "remove it, and read the output with `atoll logs`"),
    ("blkio_config", "disk bandwidth is not limited yet", "remove it"),
    (
        "build",
        "images are not built here",
        "build it first (`docker build`, `buildah`), then name it by `image: docker-archive:FILE` or `oci-layout:FOLDER`",
    ),
    ("cap_add", "a workload gets no additional capabilities", HOST),
    ("cap_drop", "a workload has a fixed small set of capabilities", HOST),
    ("cgroup", "control groups are the node's", HOST),
    ("cgroup_parent", "control groups are the node's", HOST),
    ("configs", "configs are not built yet", IN_IMAGE),
    ("container_name", "containers have no names of their own", "remove it: a service is reached by its name"),
    ("cpu_count", "there are several keys for this", "use `cpus`"),
    ("cpu_percent", "there are several keys for this", "use `cpus`"),
    ("cpu_quota", "there are several keys for this", "use `cpus`"),
    ("cpu_shares", "a service gets what it pays for, not a share", "use `cpus`"),
    ("cpuset", "the node chooses the cores", "use `cpus`"),
    ("credential_spec", "it is for Windows", "remove it"),
    (
        "depends_on",
        "all services start at once, on different machines, and may be moved one by one",
        "remove it, and let the program try again until the other service answers",
    ),
    ("develop", "it is for development on one machine", "remove it"),
    ("device_cgroup_rules", "a workload has no devices of the machine", HOST),
    ("devices", "a workload has no devices of the machine", HOST),
    ("dns", "names are answered by the region", "remove it"),
    ("dns_opt", "names are answered by the region", "remove it"),
    ("dns_search", "names are answered by the region", "remove it"),
    ("domainname", "names are given by the region", "remove it"),
    ("env_file", "a deployment is one file", WRITE_ENV),
    ("extends", "a deployment is one file", "write the keys of the other service here"),
    (
        "external_links",
        "deployments do not share private networks",
        "use the other deployment's mesh name, `NAME.REGION`",
    ),
    ("extra_hosts", "names are answered by the region", "remove it"),
    ("gpus", "graphics processors are not offered yet", "remove it"),
    ("group_add", "supplementary groups are not supported", "use `user: UID:GID`"),
    ("hostname", "the workload is reached by its service's name", "remove it"),
    ("init", "a workload's first process is its own", "remove it, and start an init from the image if it needs one"),
    ("ipc", "a workload shares nothing with the machine", HOST),
    ("isolation", "here it is called otherwise", "write `x-atoll: {isolation: micro-vm}`"),
    (
        "labels",
        "labels of containers have no effect",
        "remove it; to choose nodes write `x-atoll: {constraints: [key=value]}`",
    ),
    ("links", "services find each other by their names", "remove it"),
    ("logging", "logs are kept by the node", "remove it, and read them with `atoll logs`"),
    ("mac_address", "workloads have mesh addresses, not Ethernet ones", "remove it"),
    ("mem_reservation", "memory is always reserved up to its limit", "use `mem_limit`"),
    ("mem_swappiness", "a workload has no swap", "remove it"),
    ("memswap_limit", "a workload has no swap", "remove it"),
    ("network_mode", "a workload has a network of its own", SHARED_NETWORK),
    ("networks", "networks are not declared", SHARED_NETWORK),
    ("oom_kill_disable", "a memory limit is a limit", "remove it"),
    ("oom_score_adj", "a memory limit is a limit", "remove it"),
    ("pid", "a workload shares nothing with the machine", HOST),
    (
        "platform",
        "the node runs images of its own architecture",
        "remove it, and name an image for the nodes' architecture",
    ),
    ("post_start", "hooks are not supported", IN_IMAGE),
    ("pre_stop", "hooks are not supported", IN_IMAGE),
    ("privileged", "no workload is privileged", HOST),
    ("profiles", "every service of the file is deployed", "remove it, or move the service to a file of its own"),
    ("provider", "only the region provides", "remove it"),
    ("pull_policy", "an image is pinned by its digest and fetched once", "remove it"),
    ("read_only", "the root file system is writable and lost with the workload", "remove it"),
    ("runtime", "the runtime is chosen otherwise", "write `x-atoll: {isolation: micro-vm}` or remove it"),
    ("scale", "there are several keys for this", "use `deploy: {replicas: N}`"),
    (
        "secrets",
        "secrets have no key of their own",
        "write them under `environment`: it is encrypted to the nodes that run the service",
    ),
    ("security_opt", "isolation is the node's", "remove it, or write `x-atoll: {isolation: micro-vm}`"),
    ("shm_size", "the size of /dev/shm is fixed", "remove it"),
    ("stdin_open", "a workload has no terminal", "remove it"),
    ("stop_grace_period", "the node gives every workload the same time to stop", "remove it"),
    ("stop_signal", "the image says which signal stops it", IN_IMAGE),
    ("storage_opt", "here it is called otherwise", "write `x-atoll: {disk: 1g}`"),
    ("sysctls", "kernel parameters are the node's", HOST),
    ("tmpfs", "temporary file systems are not supported", "remove it: /tmp is on the workload's disk"),
    ("tty", "a workload has no terminal", "remove it"),
    ("ulimits", "limits are the node's", "use `pids_limit`, `mem_limit` and `cpus`"),
    ("use_api_socket", "there is no such socket", "remove it"),
    ("userns_mode", "isolation is the node's", HOST),
    ("uts", "a workload shares nothing with the machine", HOST),
    ("volumes", "volumes are not built yet", VOLUMES),
    ("volumes_from", "volumes are not built yet", VOLUMES),
];

/// Keys under `deploy`.
pub(crate) const DEPLOY: &[Row] = &[
    ("endpoint_mode", "the gateway spreads requests over healthy replicas", "remove it"),
    ("labels", "labels have no effect", "remove it"),
    ("placement", "here it is called otherwise", "write `x-atoll: {constraints: [key=value]}` beside `deploy`"),
    ("restart_policy", "a workload that ends is always started again, with growing pauses", "remove it"),
    ("rollback_config", "updating in place is not built yet", "remove it"),
    ("update_config", "updating in place is not built yet", "remove it"),
];

/// Keys under `deploy.resources`.
pub(crate) const RESOURCES: &[Row] =
    &[("reservations", "what a service may use is always reserved for it", "use `limits`")];

/// Keys under `deploy.resources.limits`.
pub(crate) const LIMITS: &[Row] = &[("devices", "a workload has no devices of the machine", HOST)];

/// The row of a key.
pub(crate) fn find(rows: &'static [Row], key: &str) -> Option<(&'static str, &'static str)> {
    rows.iter().find(|row| row.0 == key).map(|row| (row.1, row.2))
}

/// The known key that `key` was probably meant to be.
pub(crate) fn nearest<'a>(known: &[&'a str], key: &str) -> Option<&'a str> {
    let key = key.to_ascii_lowercase();
    let bound = 1 + key.chars().count() / 4;
    known
        .iter()
        .map(|candidate| (distance(candidate, &key), *candidate))
        .filter(|(d, _)| *d <= bound)
        .min()
        .map(|x| x.1)
}

/// Insertions, deletions and replacements from one to the other (Levenshtein). Long texts are no typing mistakes.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
