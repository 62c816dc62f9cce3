//! The root directory of a container: an image's content that the container may change without changing the image.
//!
//! On most file systems it is an overlay, made in no time; where that does not work (the directory is itself on an
//! overlay, as in another container) it is a copy.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, Metadata, Permissions},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink},
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2},
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{
        stat::{Mode, UtimensatFlags, mkdirat, utimensat},
        statfs::{OVERLAYFS_SUPER_MAGIC, statfs},
        time::TimeSpec,
    },
};

use crate::disk::{self, DiskError};

const ROOT: &str = "root";
const UPPER: &str = "upper";
const WORK: &str = "work";
const COPYING: &str = "root.new";
const PROBE: &str = "overlay-probe";

/// How a root directory was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An overlay over the image.
    Overlay,
    /// A copy of the image.
    Copy,
}

/// A root directory that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Where it is.
    pub path: PathBuf,
    /// How it was made.
    pub kind: Kind,
}

/// Makes `<dir>/root` from the extracted image in the directory `image`, which stays as it is and must stay where it
/// is. If it is there already, with what the workload changed in it, nothing happens: [`remove`] it for a fresh one.
pub fn prepare(image: &Path, dir: &Path) -> Result<Root, DiskError> {
    let path = dir.join(ROOT);
    if is_overlay_mount(&path) {
        return Ok(Root { path, kind: Kind::Overlay });
    }
    let has_copy = path.is_dir() && !dir.join(UPPER).exists();
    if !has_copy {
        fs::create_dir_all(dir).map_err(DiskError::io("create", dir))?;
        let image = fs::canonicalize(image).map_err(DiskError::io("find the image in", image))?;
        if overlay_works(dir).is_ok() {
            mount_overlay(&image, dir).map_err(DiskError::io("mount an overlay in", dir))?;
            return Ok(Root { path, kind: Kind::Overlay });
        }
        let unfinished = dir.join(COPYING);
        disk::remove(&unfinished)?;
        copy_tree(&image, &unfinished)?;
        fs::rename(&unfinished, &path).map_err(DiskError::io("name", &path))?;
    }
    Ok(Root { path, kind: Kind::Copy })
}

/// Unmounts what [`prepare`] mounted. What the workload changed stays, and [`prepare`] finds it again.
pub fn release(dir: &Path) -> Result<(), DiskError> {
    unmount(&dir.join(ROOT))
}

/// Unmounts and removes what [`prepare`] made, if it is there.
pub fn remove(dir: &Path) -> Result<(), DiskError> {
    unmount(&dir.join(ROOT))?;
    for name in [ROOT, COPYING, UPPER, WORK] {
        disk::remove(&dir.join(name))?;
    }
    Ok(())
}

/// Tries whether an overlay can be mounted in a directory; the error says why not.
pub fn overlay_works(dir: &Path) -> Result<(), DiskError> {
    let probe = dir.join(PROBE);
    let tried = fs::create_dir_all(probe.join("image"))
        .and_then(|()| fs::write(probe.join("image/file"), "image"))
        .and_then(|()| mount_overlay(&probe.join("image"), &probe))
        .and_then(|()| fs::write(probe.join(ROOT).join("file"), "changed"))
        .and_then(|()| fs::read(probe.join("image/file")).map(|content| content == b"image"));
    unmount(&probe.join(ROOT))?;
    disk::remove(&probe)?;
    match tried.map_err(DiskError::io("mount an overlay in", dir))? {
        true => Ok(()),
        false => Err(DiskError::io("trust an overlay in", dir)(io::Error::other("it changed what is below it"))),
    }
}

/// Makes a directory, and those above it, below `root`, following links as if `root` were `/`.
pub(crate) fn ensure_directory_inside(root: &Path, path: &str) -> io::Result<()> {
    let root = File::open(root)?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .mode(Mode::empty())
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let mut parent: OwnedFd = root.as_fd().try_clone_to_owned()?;
    let mut walked = PathBuf::new();
    for component in Path::new(path).components() {
        let Component::Normal(name) = component else { continue };
        walked.push(name);
        let found = match openat2(root.as_fd(), &walked, how) {
            Err(Errno::ENOENT) => {
                mkdirat(parent.as_fd(), name, Mode::from_bits_truncate(0o755))?;
                openat2(root.as_fd(), &walked, how)
            }
            other => other,
        };
        parent = found?;
    }
    Ok(())
}

fn mount_overlay(image: &Path, dir: &Path) -> io::Result<()> {
    let parts = [(dir.join(ROOT), "the root"), (dir.join(UPPER), "upper"), (dir.join(WORK), "work")];
    for (path, _) in &parts {
        fs::create_dir_all(path)?;
    }
    // Commas end an option and colons a layer, unless escaped.
    let escaped = |path: &Path| {
        let text = path.to_str().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a path is not UTF-8"))?;
        Ok::<_, io::Error>(text.replace('\\', "\\\\").replace(',', "\\,").replace(':', "\\:"))
    };
    let image_mode = fs::metadata(image)?.permissions();
    fs::set_permissions(dir.join(UPPER), image_mode)?;
    let data = format!(
        "lowerdir={},upperdir={},workdir={}",
        escaped(image)?,
        escaped(&dir.join(UPPER))?,
        escaped(&dir.join(WORK))?
    );
    // Device files that came with an image must not work.
    mount(Some("overlay"), &dir.join(ROOT), Some("overlay"), MsFlags::MS_NODEV, Some(data.as_str()))?;
    Ok(())
}

fn is_overlay_mount(path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    let is_overlay = statfs(path).is_ok_and(|stat| stat.filesystem_type() == OVERLAYFS_SUPER_MAGIC);
    is_overlay && path.parent().is_some_and(|parent| device(parent) != device(path))
}

fn unmount(path: &Path) -> Result<(), DiskError> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Not a mount point, or not there at all.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(e) => return Err(DiskError::io("unmount", path)(e.into())),
        }
    }
}

/// Copies a tree with owners, modes, times, links and hard links. Device files are left out: they must not work in a
/// container, and it has its own `/dev`. Extended attributes are not copied: without new privileges a file's
/// capabilities have no effect.
fn copy_tree(source: &Path, target: &Path) -> Result<(), DiskError> {
    let mut links = BTreeMap::new();
    let mut open = vec![(source.to_owned(), target.to_owned())];
    let mut directories = Vec::new();
    while let Some((source, target)) = open.pop() {
        let fail = |e| DiskError::io("copy", &source)(e);
        let found = fs::symlink_metadata(&source).map_err(fail)?;
        if found.is_dir() {
            DirBuilder::new().mode(0o700).create(&target).map_err(fail)?;
            for entry in fs::read_dir(&source).map_err(fail)? {
                let name = entry.map_err(fail)?.file_name();
                open.push((source.join(&name), target.join(&name)));
            }
            // Their times change while they are filled, and their modes may forbid that.
            directories.push((target, found));
            continue;
        }
        let is_shared = found.nlink() > 1;
        if let Some(first) = links.get(&(found.dev(), found.ino())).filter(|_| is_shared) {
            fs::hard_link::<&PathBuf, _>(first, &target).map_err(fail)?;
            continue;
        }
        if copy_entry(&source, &target, &found).map_err(fail)? {
            copy_attributes(&target, &found).map_err(fail)?;
            if is_shared {
                links.insert((found.dev(), found.ino()), target);
            }
        }
    }
    for (target, found) in directories.iter().rev() {
        copy_attributes(target, found).map_err(DiskError::io("set the attributes of", target))?;
    }
    Ok(())
}

/// False for what is left out.
fn copy_entry(source: &Path, target: &Path, found: &Metadata) -> io::Result<bool> {
    let kind = found.file_type();
    if kind.is_symlink() {
        symlink(fs::read_link(source)?, target)?;
    } else if kind.is_file() {
        copy_content(source, target)?;
    } else if kind.is_fifo() {
        nix::unistd::mkfifo(target, Mode::from_bits_truncate(0o600))?;
    } else {
        return Ok(false);
    }
    Ok(true)
}

fn copy_content(source: &Path, target: &Path) -> io::Result<()> {
    let (mut from, mut to) = (File::open(source)?, File::create_new(target)?);
    // SAFETY: both descriptors are open for the duration of the call; FICLONE takes the source's by value.
    let cloned = unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE as _, from.as_raw_fd()) };
    if cloned == 0 { Ok(()) } else { io::copy(&mut from, &mut to).map(drop) }
}

fn copy_attributes(target: &Path, found: &Metadata) -> io::Result<()> {
    lchown(target, Some(found.uid()), Some(found.gid()))?;
    if !found.is_symlink() {
        fs::set_permissions(target, Permissions::from_mode(found.mode() & 0o7777))?;
    }
    let time = TimeSpec::new(found.mtime(), found.mtime_nsec());
    utimensat(
        AT_FDCWD,
        Path::new(std::ffi::OsStr::from_bytes(target.as_os_str().as_bytes())),
        &time,
        &time,
        UtimensatFlags::NoFollowSymlink,
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(dir: &Path) -> PathBuf {
        let image = dir.join("image");
        fs::create_dir_all(image.join("etc")).expect("directories");
        fs::write(image.join("etc/name"), "image").expect("a file");
        lchown(image.join("etc/name"), Some(5), Some(6)).expect("tests of this crate need root");
        fs::set_permissions(image.join("etc/name"), Permissions::from_mode(0o4750)).expect("a mode");
        fs::hard_link(image.join("etc/name"), image.join("etc/same")).expect("a hard link");
        symlink("/etc/name", image.join("link")).expect("a link");
        fs::set_permissions(image.join("etc"), Permissions::from_mode(0o555)).expect("a mode");
        image
    }

    #[test]
    fn a_copy_is_like_the_original_and_shares_nothing_with_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (image, copy) = (image(dir.path()), dir.path().join("copy"));
        copy_tree(&image, &copy).expect("copy");
        let found = fs::metadata(copy.join("etc/name")).expect("the file");
        assert_eq!((found.mode() & 0o7777, found.uid(), found.gid(), found.nlink()), (0o4750, 5, 6, 2));
        assert_eq!(found.mtime(), fs::metadata(image.join("etc/name")).expect("the file").mtime());
        assert_eq!(fs::metadata(copy.join("etc")).expect("the directory").mode() & 0o777, 0o555);
        assert_eq!(fs::read_link(copy.join("link")).expect("the link"), Path::new("/etc/name"));
        fs::write(copy.join("etc/name"), "changed").expect("write");
        assert_eq!(fs::read(copy.join("etc/same")).expect("read"), b"changed");
        assert_eq!(fs::read(image.join("etc/name")).expect("read"), b"image");
    }

    #[test]
    fn a_root_keeps_changes_until_it_is_removed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (image, work) = (image(dir.path()), dir.path().join("a,b:c"));
        let root = prepare(&image, &work).expect("prepare");
        let file = root.path.join("etc/name");
        assert_eq!(fs::read(&file).expect("read"), b"image");
        fs::write(&file, "changed").expect("write");
        assert_eq!(prepare(&image, &work).expect("prepare again"), root);
        assert_eq!(fs::read(&file).expect("read"), b"changed");
        // As after a restart of the machine: mounts are gone, files are not.
        unmount(&root.path).expect("unmount");
        prepare(&image, &work).expect("prepare after a restart");
        assert_eq!(fs::read(&file).expect("read"), b"changed");
        assert_eq!(fs::read(image.join("etc/name")).expect("read"), b"image");
        remove(&work).expect("remove");
        remove(&work).expect("remove again");
        assert!(fs::read_dir(&work).expect("list").next().is_none());
    }

    #[test]
    fn directories_are_made_inside_whatever_links_say() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("real")).expect("directories");
        symlink("/real", root.join("link")).expect("a link");
        symlink("../../..", root.join("out")).expect("a link");
        for path in ["/link/a/b", "/link/a/b", "/out/c", "/../d", "/"] {
            ensure_directory_inside(&root, path).expect(path);
        }
        assert!(root.join("real/a/b").is_dir() && root.join("c").is_dir());
        assert!(!dir.path().join("c").exists() && !dir.path().join("d").exists());
    }
}
