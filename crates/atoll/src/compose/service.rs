//! One service of the file.

use atoll_base::{
    limits::{LABELS_MAX, REPLICAS_MAX},
    schema::{Capacity, Isolation},
    spec::Health,
};

use super::{
    keys, limits,
    model::{Image, Service},
    read::Reader,
    refusal::Place,
    values::{self, Wrong},
    yaml::{Entry, Node, Value},
};

/// Keys of a service that are honoured.
pub(super) const KEYS: &[&str] = &[
    "command",
    "cpus",
    "deploy",
    "entrypoint",
    "environment",
    "expose",
    "healthcheck",
    "image",
    "mem_limit",
    "pids_limit",
    "ports",
    "restart",
    "user",
    "working_dir",
    "x-atoll",
];

/// Keys under `x-atoll` of a service.
const EXTENSION: &[&str] = &["constraints", "disk", "health", "http", "isolation"];

/// What a service says, before defaults and cross-checks.
#[derive(Default)]
struct Draft {
    image: Option<(Image, Place)>,
    entrypoint: Option<Vec<String>>,
    command: Option<Vec<String>>,
    environment: Vec<(String, String)>,
    working_dir: Option<String>,
    user: Option<String>,
    ports: Vec<u16>,
    replicas: Option<u32>,
    cpu_milli: Once<u64>,
    memory_bytes: Once<u64>,
    pids_max: Once<u32>,
    disk_bytes: Option<u64>,
    http: Option<Http>,
    health: Option<DraftHealth>,
    health_off: bool,
    isolation: Option<Isolation>,
    constraints: Vec<String>,
}

/// `x-atoll.http`.
enum Http {
    None,
    Port(u16),
}

/// `x-atoll.health`, whose port may follow from the service.
struct DraftHealth {
    place: Place,
    path: Option<String>,
    port: Option<u16>,
}

/// A limit that Compose lets one write in two places.
struct Once<T>(Option<(T, Place)>);

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl Reader {
    /// One entry under `services`.
    pub(super) fn service(&mut self, entry: &Entry, path: &str) -> Option<Service> {
        let mut draft = Draft::default();
        let entries = self.map(&entry.value, path)?;
        for key in entries {
            self.service_key(&mut draft, key, path);
        }
        let image = if entries.iter().any(|key| matches!(key.key.as_str(), "image" | "build")) {
            draft.image.take()?
        } else {
            return self.reject(entry.place, &format!("{path}.image"), "missing", values::IMAGE_FORMS);
        };
        self.finish(draft, image, entry, path)
    }

    fn service_key(&mut self, draft: &mut Draft, entry: &Entry, service: &str) {
        let path = format!("{service}.{}", entry.key);
        let (path, node) = (path.as_str(), &entry.value);
        match entry.key.as_str() {
            "image" => draft.image = self.scalar(node, path, values::image).map(|image| (image, node.place)),
            "entrypoint" => draft.entrypoint = self.words(node, path),
            "command" => draft.command = self.words(node, path),
            "environment" => draft.environment = self.environment(node, path).unwrap_or_default(),
            "working_dir" => draft.working_dir = self.scalar(node, path, values::absolute),
            "user" => draft.user = self.scalar(node, path, user),
            "ports" => draft.ports = self.ports(node, path).unwrap_or_default(),
            // Services of a deployment reach each other on every port: what this asks for is always so.
            "expose" => drop(self.expose(node, path)),
            "restart" => self.restart(node, path),
            "healthcheck" => draft.health_off = self.healthcheck(entry, path),
            "deploy" => drop(self.deploy(draft, node, path)),
            "cpus" => self.once(|d| &mut d.cpu_milli, draft, node, path, values::cpus),
            "mem_limit" => self.once(|d| &mut d.memory_bytes, draft, node, path, values::size),
            "pids_limit" => self.once(|d| &mut d.pids_max, draft, node, path, pids),
            "x-atoll" => drop(self.extension(draft, node, path)),
            extension if extension.starts_with("x-") => {}
            _ => self.unknown(entry, service, KEYS, keys::SERVICE),
        }
    }

    fn deploy(&mut self, draft: &mut Draft, node: &Node, path: &str) -> Option<()> {
        for entry in self.map(node, path)? {
            let path = format!("{path}.{}", entry.key);
            match entry.key.as_str() {
                "replicas" => draft.replicas = self.scalar(&entry.value, &path, replicas),
                "mode" => drop(self.scalar(&entry.value, &path, |mode| one_of(mode, &["replicated"]))),
                "resources" => drop(self.resources(draft, &entry.value, &path)),
                extension if extension.starts_with("x-") => {}
                _ => self.unknown(entry, path_parent(&path), &["mode", "replicas", "resources"], keys::DEPLOY),
            }
        }
        Some(())
    }

    fn resources(&mut self, draft: &mut Draft, node: &Node, path: &str) -> Option<()> {
        for entry in self.map(node, path)? {
            if entry.key != "limits" {
                self.unknown(entry, path, &["limits"], keys::RESOURCES);
                continue;
            }
            let path = format!("{path}.limits");
            for limit in self.map(&entry.value, &path)? {
                let (node, path_key) = (&limit.value, format!("{path}.{}", limit.key));
                match limit.key.as_str() {
                    "cpus" => self.once(|d| &mut d.cpu_milli, draft, node, &path_key, values::cpus),
                    "memory" => self.once(|d| &mut d.memory_bytes, draft, node, &path_key, values::size),
                    "pids" => self.once(|d| &mut d.pids_max, draft, node, &path_key, pids),
                    _ => self.unknown(limit, &path, &["cpus", "memory", "pids"], keys::LIMITS),
                }
            }
        }
        Some(())
    }

    fn extension(&mut self, draft: &mut Draft, node: &Node, path: &str) -> Option<()> {
        for entry in self.map(node, path)? {
            let (node, path_key) = (&entry.value, format!("{path}.{}", entry.key));
            match entry.key.as_str() {
                "isolation" => draft.isolation = self.scalar(node, &path_key, isolation),
                "constraints" => draft.constraints = self.constraints(node, &path_key).unwrap_or_default(),
                "http" => draft.http = self.scalar(node, &path_key, http),
                "disk" => draft.disk_bytes = self.scalar(node, &path_key, values::size),
                "health" => draft.health = self.health(node, &path_key),
                _ => self.unknown(entry, path, EXTENSION, &[]),
            }
        }
        Some(())
    }

    fn once<T>(
        &mut self,
        field: impl Fn(&mut Draft) -> &mut Once<T>,
        draft: &mut Draft,
        node: &Node,
        path: &str,
        read: impl FnOnce(&str) -> Result<T, Wrong>,
    ) {
        let Some(value) = self.scalar(node, path, read) else { return };
        let Once(slot) = field(draft);
        if let Some((_, first)) = slot {
            let why = format!("this limit stands in line {} already", first.line);
            self.refuse(node.place, path, why, "keep one of them");
        } else {
            *slot = Some((value, node.place));
        }
    }

    fn words(&mut self, node: &Node, path: &str) -> Option<Vec<String>> {
        let words = match &node.value {
            // Compose: an empty key keeps what the image says.
            _ if node.is_null() => return None,
            Value::List(nodes) => nodes.iter().map(|node| self.text(node, path)).collect::<Option<Vec<_>>>()?,
            _ => self.scalar(node, path, values::words)?,
        };
        if words.len() > limits::WORDS_MAX {
            let why = format!("{} words, at most {} are allowed", words.len(), limits::WORDS_MAX);
            return self.reject(node.place, path, why, "put a script into the image");
        }
        Some(words)
    }

    fn environment(&mut self, node: &Node, path: &str) -> Option<Vec<(String, String)>> {
        let mut variables: Vec<(String, String, Place)> = Vec::new();
        if let Value::List(nodes) = &node.value {
            for node in nodes {
                let Some(text) = self.text(node, path) else { continue };
                match text.split_once('=') {
                    Some((name, value)) => variables.push((name.to_owned(), value.to_owned(), node.place)),
                    None => self.unset(node.place, path, &text),
                }
            }
        } else {
            for entry in self.map(node, path)? {
                match &entry.value.value {
                    _ if entry.value.is_null() => self.unset(entry.place, path, &entry.key),
                    Value::Scalar { text, plain: true } if matches!(text.as_str(), "true" | "false") => {
                        let why = format!("is `{text}` the word or the truth value?");
                        self.refuse(
                            entry.value.place,
                            &format!("{path}.{}", entry.key),
                            why,
                            format!("write \"{text}\" in quotes"),
                        );
                    }
                    _ => {
                        let value = self.text(&entry.value, &format!("{path}.{}", entry.key));
                        variables.extend(value.map(|value| (entry.key.clone(), value, entry.place)));
                    }
                }
            }
        }
        self.check_environment(&variables, node.place, path)?;
        Some(variables.into_iter().map(|(name, value, _)| (name, value)).collect())
    }

    fn check_environment(&mut self, variables: &[(String, String, Place)], at: Place, path: &str) -> Option<()> {
        if variables.len() > limits::ENVIRONMENT_MAX {
            let why = format!("{} variables, at most {} are allowed", variables.len(), limits::ENVIRONMENT_MAX);
            return self.reject(at, path, why, "put a configuration file into the image");
        }
        for (index, (name, _, place)) in variables.iter().enumerate() {
            if name.is_empty() || name.contains(['=', '\0']) {
                self.refuse(*place, path, format!("'{name}' cannot name a variable"), "write NAME=value");
            }
            if variables[..index].iter().any(|(earlier, ..)| earlier == name) {
                self.refuse(*place, path, format!("'{name}' stands here twice"), "keep one of them");
            }
        }
        Some(())
    }

    fn unset(&mut self, place: Place, path: &str, name: &str) {
        let why = format!("'{name}' has no value, and the shell of whoever deploys is not read");
        self.refuse(place, path, why, format!("write its value: {name}=… (an empty one is `{name}=`)"));
    }

    fn ports(&mut self, node: &Node, path: &str) -> Option<Vec<u16>> {
        let mut ports = Vec::new();
        for node in self.list(node, path)? {
            let publish = match &node.value {
                Value::Map(_) => self.long_port(node, path),
                _ => self.scalar(node, path, values::publish),
            };
            let Some(publish) = publish else { continue };
            if let Some(published) = publish.published.filter(|published| *published != publish.target.to_string()) {
                let target = publish.target;
                self.note(
                    node.place,
                    format!("'{published}' of '{published}:{target}' plays no part: the service has an address of its own, and answers on {target}"),
                );
            }
            if ports.contains(&publish.target) {
                let why = format!("port {} stands here twice", publish.target);
                self.refuse(node.place, path, why, "keep one of them");
            }
            ports.push(publish.target);
        }
        if ports.len() > LABELS_MAX {
            let why = format!("{} ports, at most {LABELS_MAX} can be opened", ports.len());
            return self.reject(
                node.place,
                path,
                why,
                "services of one deployment need no open ports among themselves",
            );
        }
        Some(ports)
    }

    fn long_port(&mut self, node: &Node, path: &str) -> Option<values::Publish> {
        let (mut target, mut published) = (None, None);
        for entry in self.map(node, path)? {
            let path_key = format!("{path}.{}", entry.key);
            match entry.key.as_str() {
                "target" => target = Some(self.scalar(&entry.value, &path_key, values::port)?),
                "published" => published = Some(self.text(&entry.value, &path_key)?),
                "protocol" => drop(self.scalar(&entry.value, &path_key, |text| one_of(text, &["tcp"]))),
                "name" => drop(self.text(&entry.value, &path_key)),
                _ => self.unknown(entry, path, &["name", "protocol", "published", "target"], &[]),
            }
        }
        match target {
            Some(target) => Some(values::Publish { target, published }),
            None => self.reject(node.place, &format!("{path}.target"), "missing", "write the port in the workload"),
        }
    }

    fn expose(&mut self, node: &Node, path: &str) -> Option<()> {
        for node in self.list(node, path)? {
            self.scalar(node, path, |text| values::port(text.trim_end_matches("/tcp").trim_end_matches("/udp")));
        }
        Some(())
    }

    fn restart(&mut self, node: &Node, path: &str) {
        let Some(policy) = self.text(node, path) else { return };
        match policy.as_str() {
            "always" | "unless-stopped" => {}
            "on-failure" => {
                self.note(node.place, "a workload that ends is started again also when it ends with success")
            }
            "no" => {
                let why = "a workload that ends is always started again, with growing pauses";
                self.refuse(node.place, path, why, "remove it, or let the program wait when its work is done");
            }
            _ => {
                let why = format!("'{policy}' is no policy that can be honoured");
                self.refuse(node.place, path, why, "remove it, or write always or unless-stopped");
            }
        }
    }

    /// Whether the health check is switched off: the only thing that Compose's own form can say here.
    fn healthcheck(&mut self, entry: &Entry, path: &str) -> bool {
        let cure = "write `x-atoll: {health: {http: /PATH}}` or `x-atoll: {health: {tcp: PORT}}`";
        let mut off = false;
        for key in self.map(&entry.value, path).unwrap_or_default() {
            match (key.key.as_str(), &key.value.value) {
                ("disable", _) => off |= self.boolean(&key.value, &format!("{path}.disable")).unwrap_or_default(),
                ("test", Value::List(words)) if matches!(&words[..], [Node { value: Value::Scalar { text, .. }, .. }] if text == "NONE") =>
                {
                    off = true;
                }
                (name, _) => {
                    let why = "commands cannot be run inside the workload as health checks";
                    self.refuse(key.place, &format!("{path}.{name}"), why, cure);
                }
            }
        }
        off
    }

    fn health(&mut self, node: &Node, path: &str) -> Option<DraftHealth> {
        let mut health = DraftHealth { place: node.place, path: None, port: None };
        for entry in self.map(node, path)? {
            let path_key = format!("{path}.{}", entry.key);
            match entry.key.as_str() {
                "http" => health.path = Some(self.scalar(&entry.value, &path_key, values::absolute)?),
                "port" | "tcp" if health.port.is_none() => {
                    health.port = Some(self.scalar(&entry.value, &path_key, values::port)?);
                }
                "port" | "tcp" => return self.reject(entry.place, &path_key, "a second port", "keep one of them"),
                _ => self.unknown(entry, path, &["http", "port", "tcp"], &[]),
            }
        }
        Some(health)
    }

    fn constraints(&mut self, node: &Node, path: &str) -> Option<Vec<String>> {
        let nodes = self.list(node, path)?;
        if nodes.len() > LABELS_MAX {
            let why = format!("{} constraints, at most {LABELS_MAX} are allowed", nodes.len());
            return self.reject(node.place, path, why, "remove some");
        }
        Some(nodes.iter().filter_map(|node| self.scalar(node, path, values::constraint)).collect())
    }

    fn finish(&mut self, draft: Draft, image: (Image, Place), entry: &Entry, path: &str) -> Option<Service> {
        let isolation = draft.isolation.unwrap_or(Isolation::Container);
        let http = match draft.http {
            Some(Http::None) => None,
            Some(Http::Port(port)) => Some(port),
            None => draft.ports.first().copied(),
        };
        let needs = Capacity {
            cpu_milli: draft.cpu_milli.0.map_or(limits::CPU_MILLI_DEFAULT, |(value, _)| value),
            memory_bytes: draft.memory_bytes.0.map_or(limits::MEMORY_BYTES_DEFAULT, |(value, _)| value),
            disk_bytes: draft.disk_bytes.unwrap_or(limits::DISK_BYTES_DEFAULT),
        };
        self.check_memory(needs.memory_bytes, isolation, draft.memory_bytes.0.map_or(entry.place, |x| x.1), path);
        let health = self.finish_health(draft.health, http, draft.health_off, path);
        let mut ports = draft.ports;
        ports.extend(http);
        ports.sort_unstable();
        ports.dedup();
        Some(Service {
            name: entry.key.clone(),
            image: image.0,
            image_place: image.1,
            entrypoint: draft.entrypoint,
            command: draft.command,
            environment: draft.environment,
            working_dir: draft.working_dir,
            user: draft.user,
            ports,
            http,
            replicas: draft.replicas.unwrap_or(1),
            needs,
            pids_max: draft.pids_max.0.map_or(limits::PIDS_DEFAULT, |(value, _)| value),
            health,
            isolation,
            constraints: draft.constraints,
        })
    }

    fn check_memory(&mut self, bytes: u64, isolation: Isolation, place: Place, path: &str) {
        let (min, what) = match isolation {
            Isolation::Container => (limits::MEMORY_BYTES_MIN, "a container"),
            Isolation::MicroVm => (limits::MEMORY_BYTES_MIN_VM, "a virtual machine"),
        };
        if bytes < min {
            let why = format!("{bytes} bytes of memory are too few for {what}");
            self.refuse(place, &format!("{path}.mem_limit"), why, format!("write at least {}m", min >> 20));
        }
    }

    /// A service that answers HTTP is healthy once it accepts connections, unless the file says otherwise.
    fn finish_health(
        &mut self,
        draft: Option<DraftHealth>,
        http: Option<u16>,
        off: bool,
        path: &str,
    ) -> Option<Health> {
        let path = format!("{path}.x-atoll.health");
        let Some(health) = draft else {
            return if off { None } else { http.map(|port| Health::Tcp { port }) };
        };
        if off {
            let why = "the health check is switched off under `healthcheck`";
            return self.reject(health.place, &path, why, "remove one of them");
        }
        match (health.port.or(http), health.path) {
            (Some(port), Some(path)) => Some(Health::Http { port, path }),
            (Some(port), None) => Some(Health::Tcp { port }),
            (None, _) => self.reject(health.place, &path, "no port to check", "add `port: NUMBER`"),
        }
    }
}

fn path_parent(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(parent, _)| parent)
}

fn one_of(text: &str, allowed: &[&str]) -> Result<(), Wrong> {
    if allowed.contains(&text) {
        return Ok(());
    }
    Err((format!("'{text}' cannot be honoured"), format!("write {}, or remove it", allowed.join(" or "))))
}

fn isolation(text: &str) -> Result<Isolation, Wrong> {
    match text {
        "container" => Ok(Isolation::Container),
        "micro-vm" => Ok(Isolation::MicroVm),
        _ => Err((format!("'{text}' is no isolation"), "write container or micro-vm".to_owned())),
    }
}

fn http(text: &str) -> Result<Http, Wrong> {
    if text == "none" { Ok(Http::None) } else { values::port(text).map(Http::Port) }
}

fn replicas(text: &str) -> Result<u32, Wrong> {
    match text.parse() {
        Ok(replicas) if (1..=REPLICAS_MAX).contains(&replicas) => Ok(replicas),
        _ => Err((format!("'{text}' is no number of replicas"), format!("write a number from 1 to {REPLICAS_MAX}"))),
    }
}

fn pids(text: &str) -> Result<u32, Wrong> {
    match text.parse() {
        Ok(pids) if (1..=limits::PIDS_MAX).contains(&pids) => Ok(pids),
        _ => Err((
            format!("'{text}' is no number of processes that can be a limit"),
            format!("write a number from 1 to {}", limits::PIDS_MAX),
        )),
    }
}

fn user(text: &str) -> Result<String, Wrong> {
    let valid = |part: &str| {
        !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.'))
    };
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    if valid(user) && group.is_none_or(valid) {
        return Ok(text.to_owned());
    }
    Err((format!("'{text}' is no user"), "write a name or number, or USER:GROUP".to_owned()))
}
