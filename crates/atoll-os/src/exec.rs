//! Turning a prepared process into a workload, in a container and in a guest alike.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// A process starts with the signals that its maker blocked, and that Rust ignores, as it would from a shell.
pub(crate) fn restore_signals() -> nix::Result<()> {
    SigSet::all().thread_unblock()?;
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of ours.
    unsafe { sigaction(Signal::SIGPIPE, &default) }.map(drop)
}

/// The program's path, as a shell with this `PATH` would find it.
pub(crate) fn find_program(name: &str, path: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        return executable(Path::new(name)).map(|()| name.into());
    }
    let mut candidates = path.split(':').map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(name));
    candidates
        .find(|candidate| executable(candidate).is_ok())
        .ok_or_else(|| format!("the image has no program '{name}' in {path}; correct the command or the image"))
}

fn executable(path: &Path) -> Result<(), String> {
    let found = fs::metadata(path)
        .map_err(|e| format!("cannot execute {}: {e}; correct the command or the image", path.display()))?;
    if found.is_file() && found.permissions().mode() & 0o111 != 0 && found.size() > 0 {
        Ok(())
    } else {
        Err(format!("{} is not an executable file; correct the command or the image", path.display()))
    }
}
