//! Named network namespaces, in the place where `ip netns` keeps them.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::AsFd,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{NSFS_MAGIC, statfs},
};

use crate::{limits::NAME_BYTES_MAX, tap};

/// Where named network namespaces are mounted, as `ip netns` does it.
pub const NETNS_DIR: &str = "/run/netns";

/// A network namespace could not be made, entered or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The name cannot be a file name.
    #[error(
        "'{0}' cannot be the name of a network namespace: use 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' or '.', not starting with '.'"
    )]
    Name(String),
    /// There is no such namespace.
    #[error("there is no network namespace '{0}' under {NETNS_DIR}: create it first")]
    Missing(String),
    /// A system call failed.
    #[error("network namespace '{name}': cannot {what}; this needs root and a kernel with network namespaces")]
    System {
        /// The namespace.
        name: String,
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The thread that worked inside the namespace panicked.
    #[error("the work inside network namespace '{0}' panicked")]
    Panicked(String),
}

/// A named network namespace that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetNs {
    name: String,
    path: PathBuf,
}

impl NetNs {
    /// Creates the namespace, with its loopback link up, unless it exists.
    pub fn ensure(name: &str) -> Result<Self, NetnsError> {
        let this = Self::named(name)?;
        let _lock = this.lock_directory()?;
        if this.exists() {
            return Ok(this);
        }
        let created = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&this.path)
            .map_err(this.error("create its file"))?;
        drop(created);
        let made = this.on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| ("unshare", e.into()))?;
            tap::bring_loopback_up().map_err(|e| ("bring its loopback link up", e))?;
            bind("/proc/thread-self/ns/net".as_ref(), &this.path).map_err(|e| ("mount it", e))
        })?;
        made.map_err(|(what, source)| {
            // What cannot be removed now is reused by the next attempt: an empty file is not a namespace.
            let _ = fs::remove_file(&this.path);
            NetnsError::System { name: this.name.clone(), what, source }
        })?;
        Ok(this)
    }

    /// The namespace of this name, which must exist.
    pub fn open(name: &str) -> Result<Self, NetnsError> {
        let this = Self::named(name)?;
        if this.exists() { Ok(this) } else { Err(NetnsError::Missing(name.to_owned())) }
    }

    /// Removes the namespace of this name if there is one. It lives on while processes are in it.
    pub fn remove(name: &str) -> Result<(), NetnsError> {
        let this = Self::named(name)?;
        if !this.path.exists() {
            return Ok(());
        }
        let _lock = this.lock_directory()?;
        while this.exists() {
            umount2(&this.path, MntFlags::MNT_DETACH).map_err(|e| this.error("unmount it")(e.into()))?;
        }
        match fs::remove_file(&this.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(this.error("remove its file")(e)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Names of all namespaces, sorted.
    pub fn list() -> Result<Vec<String>, NetnsError> {
        let entries = match fs::read_dir(NETNS_DIR) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(NetnsError::System { name: "*".into(), what: "list them", source }),
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| Self::open(name).is_ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it, for `setns` and for a container's specification.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` on a thread of its own inside the namespace: sockets that it opens belong there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let file = File::open(&self.path).map_err(self.error("open it"))?;
        self.on_thread(|| {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|e| self.error("enter it")(e.into()))?;
            Ok(work())
        })?
    }

    /// Makes `command` (also a tokio one, by `as_std_mut`) enter the namespace before it executes its program.
    pub fn enter_on_spawn(&self, command: &mut Command) -> Result<(), NetnsError> {
        let file = File::open(&self.path).map_err(self.error("open it"))?;
        // SAFETY: the closure runs between fork and exec and makes one async-signal-safe system call on a descriptor
        // that it owns; it neither allocates nor takes locks.
        unsafe {
            command.pre_exec(move || setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from));
        }
        Ok(())
    }

    fn named(name: &str) -> Result<Self, NetnsError> {
        let fits = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.starts_with('.');
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !(fits && plain) {
            return Err(NetnsError::Name(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), path: Path::new(NETNS_DIR).join(name) })
    }

    fn exists(&self) -> bool {
        statfs(&self.path).is_ok_and(|stat| stat.filesystem_type() == NSFS_MAGIC)
    }

    /// Makes the directory a shared mount, so that namespaces appear and vanish in all mount namespaces alike, and
    /// keeps others from changing it meanwhile.
    fn lock_directory(&self) -> Result<Flock<File>, NetnsError> {
        let dir = Path::new(NETNS_DIR);
        fs::create_dir_all(dir).map_err(self.error("create its directory"))?;
        let file = File::open(dir).map_err(self.error("open its directory"))?;
        let lock =
            Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| self.error("lock its directory")(e.into()))?;
        let share = || mount(None::<&Path>, dir, None::<&Path>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&Path>);
        if share().is_err() {
            bind(dir, dir).map_err(self.error("mount its directory"))?;
            share().map_err(|e| self.error("share its directory")(e.into()))?;
        }
        Ok(lock)
    }

    fn on_thread<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        thread::scope(|scope| scope.spawn(work).join()).map_err(|_| NetnsError::Panicked(self.name.clone()))
    }

    fn error(&self, what: &'static str) -> impl Fn(io::Error) -> NetnsError {
        let name = self.name.clone();
        move |source| NetnsError::System { name: name.clone(), what, source }
    }
}

fn bind(source: &Path, target: &Path) -> io::Result<()> {
    mount(Some(source), target, None::<&Path>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&Path>).map_err(Into::into)
}
