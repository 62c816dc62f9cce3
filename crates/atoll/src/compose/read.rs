//! From the tree to the model: the walk, and what stands at the top of the file.

use alloy_primitives::U256;
use atoll_base::{charter::is_dns_label, limits::SERVICES_MAX};

use super::{
    keys,
    model::{App, Service},
    refusal::{Note, Place, Refusal},
    values::{self, Wrong},
    yaml::{Entry, Node, Value},
};
use crate::amount;

/// Walks the tree and collects everything that is wrong with it. A function that returns `None` has said why.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) refusals: Vec<Refusal>,
    pub(super) notes: Vec<Note>,
}

/// Keys at the top that are honoured.
const TOP: &[&str] = &["name", "services", "version", "x-atoll"];

impl Reader {
    /// The whole file. The notes stay in the reader.
    pub(super) fn app(&mut self, root: &Node) -> Option<App> {
        let mut app = App { name: None, escrow: None, services: Vec::new(), notes: Vec::new() };
        let mut found = false;
        for entry in self.map(root, "")? {
            let path = entry.key.as_str();
            match path {
                "name" => app.name = self.label(&entry.value, path),
                "services" => {
                    found = true;
                    app.services = self.services(entry)?;
                }
                // Compose itself declares it obsolete and without effect.
                "version" => drop(self.text(&entry.value, path)),
                "x-atoll" => app.escrow = self.top_extension(&entry.value),
                extension if extension.starts_with("x-") => {}
                _ => self.unknown(entry, "", TOP, keys::TOP),
            }
        }
        if !found {
            self.refuse(root.place, "services", "missing", "write `services:` with at least one service");
        }
        Some(app)
    }

    fn top_extension(&mut self, node: &Node) -> Option<U256> {
        let mut escrow = None;
        for entry in self.map(node, "x-atoll")? {
            match entry.key.as_str() {
                "escrow" => {
                    let read = |text: &str| {
                        amount::parse(text)
                            .map_err(|e| (e.to_string(), "write a number of coins, such as 5".to_owned()))
                    };
                    escrow = self.scalar(&entry.value, "x-atoll.escrow", read);
                }
                _ => self.unknown(entry, "x-atoll", &["escrow"], &[]),
            }
        }
        escrow
    }

    fn services(&mut self, entry: &Entry) -> Option<Vec<Service>> {
        let entries = self.map(&entry.value, "services")?;
        if entries.is_empty() {
            self.refuse(entry.place, "services", "no service in it", "write at least one");
        }
        if let Some(first) = entries.get(SERVICES_MAX) {
            let why = format!("{} services, a deployment has at most {SERVICES_MAX}", entries.len());
            self.refuse(first.place, "services", why, "split it into several deployments");
            return None;
        }
        let mut services = Vec::new();
        for entry in entries {
            let path = format!("services.{}", entry.key);
            if !is_dns_label(&entry.key) {
                self.refuse(entry.place, &path, "cannot be the name of a service", LABEL);
            }
            services.extend(self.service(entry, &path));
        }
        Some(services)
    }

    /// A mapping; `key:` with nothing after it is an empty one.
    pub(super) fn map<'n>(&mut self, node: &'n Node, path: &str) -> Option<&'n [Entry]> {
        match &node.value {
            Value::Map(entries) => Some(entries),
            _ if node.is_null() => Some(&[]),
            _ => self.mismatch(node, path, "a mapping (`key: value` lines)"),
        }
    }

    /// A list.
    pub(super) fn list<'n>(&mut self, node: &'n Node, path: &str) -> Option<&'n [Node]> {
        match &node.value {
            Value::List(nodes) => Some(nodes),
            _ if node.is_null() => Some(&[]),
            _ => self.mismatch(node, path, "a list (`- value` lines)"),
        }
    }

    /// Text, with `$$` read as `$`.
    pub(super) fn text(&mut self, node: &Node, path: &str) -> Option<String> {
        match &node.value {
            Value::Scalar { text, .. } if !node.is_null() => {
                let text = self.keep(values::undollar(text), node.place, path)?;
                if text.contains('\0') {
                    return self.reject(node.place, path, "a NUL character in it", "remove it");
                }
                Some(text)
            }
            _ => self.mismatch(node, path, "a value"),
        }
    }

    /// Text in a small language of its own.
    pub(super) fn scalar<T>(
        &mut self,
        node: &Node,
        path: &str,
        read: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let text = self.text(node, path)?;
        self.keep(read(&text), node.place, path)
    }

    /// A name that DNS can carry.
    fn label(&mut self, node: &Node, path: &str) -> Option<String> {
        let name = self.text(node, path)?;
        if is_dns_label(&name) {
            return Some(name);
        }
        self.reject(node.place, path, format!("'{name}' cannot be a name"), LABEL)
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, node: &Node, path: &str) -> Option<bool> {
        match &node.value {
            Value::Scalar { text, .. } if text == "true" => Some(true),
            Value::Scalar { text, .. } if text == "false" => Some(false),
            _ => self.mismatch(node, path, "true or false"),
        }
    }

    /// Notes what is wrong with a value.
    pub(super) fn keep<T>(&mut self, value: Result<T, Wrong>, place: Place, path: &str) -> Option<T> {
        match value {
            Ok(value) => Some(value),
            Err((why, cure)) => self.reject(place, path, why, cure),
        }
    }

    fn mismatch<T>(&mut self, node: &Node, path: &str, wanted: &str) -> Option<T> {
        let why = format!("{} stands here", node.kind());
        self.reject(node.place, path, why, format!("write {wanted}"))
    }

    /// A key that is not honoured: known to Compose, mistyped, or neither.
    pub(super) fn unknown(
        &mut self,
        entry: &Entry,
        path: &str,
        known: &[&str],
        refused: &'static [(&'static str, &'static str, &'static str)],
    ) {
        let dot = if path.is_empty() { "" } else { "." };
        let key = format!("{path}{dot}{}", entry.key);
        if let Some((why, cure)) = keys::find(refused, &entry.key) {
            self.refuse(entry.place, &key, why, cure);
        } else if let Some(meant) = keys::nearest(known, &entry.key) {
            self.refuse(entry.place, &key, "unknown key", format!("did you mean `{meant}`?"));
        } else {
            let cure = format!("remove it; known here: {}", known.join(", "));
            self.refuse(entry.place, &key, "unknown key", cure);
        }
    }

    /// Notes a refusal.
    pub(super) fn refuse(&mut self, place: Place, path: &str, why: impl Into<String>, cure: impl Into<String>) {
        self.refusals.push(Refusal { place, key: path.to_owned(), why: why.into(), cure: cure.into() });
    }

    /// Notes a refusal of a value that is then missing: `return self.reject(…)`.
    pub(super) fn reject<T>(
        &mut self,
        place: Place,
        path: &str,
        why: impl Into<String>,
        cure: impl Into<String>,
    ) -> Option<T> {
        self.refuse(place, path, why, cure);
        None
    }

    /// Notes something that works differently.
    pub(super) fn note(&mut self, place: Place, text: impl Into<String>) {
        self.notes.push(Note { place, text: text.into() });
    }
}

const LABEL: &str = "use 1 to 63 of a-z, 0-9 and '-', with a letter first and no '-' last";
