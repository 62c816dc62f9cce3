//! The guest's first file system: this program, what it is linked to, kernel modules and the specification, in the
//! `newc` format of cpio (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
};

use super::{GuestKernel, protocol};
use crate::spec::ShimSpec;

/// Where programs say that their linker is; the linker looks for libraries in its own directory too.
const LINKER_DIR: &str = "lib64";

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const PRIVATE_FILE: u32 = 0o100_600;
const CONSOLE: u32 = 0o020_600;

/// Writes the initramfs and gives its size. Without a specification it makes the probe's guest.
pub(crate) fn write(path: &Path, kernel: &GuestKernel, spec: Option<&ShimSpec>) -> io::Result<u64> {
    // It holds the workload's environment.
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut archive =
        Archive { out: BufWriter::with_capacity(1 << 20, file), size: 0, entries: 0, known: BTreeSet::new() };
    for dir in ["dev", "proc", "sys", "root"] {
        archive.directory(Path::new(dir))?;
    }
    archive.entry("dev/console", CONSOLE, (5, 1), &[])?;
    let program = fs::read("/proc/self/exe")?;
    archive.file(Path::new("init"), PROGRAM, loaded_part(&program))?;
    for library in libraries()? {
        let content = fs::read(&library)?;
        archive.file(&library, PROGRAM, loaded_part(&content))?;
        if let Some(name) = library.file_name() {
            archive.file(&Path::new(LINKER_DIR).join(name), PROGRAM, loaded_part(&content))?;
        }
    }
    let mut list = String::new();
    for module in &kernel.modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
        archive.file(&Path::new("modules").join(&name), PRIVATE_FILE, &fs::read(module)?)?;
        list.push_str(&format!("/modules/{name}\n"));
    }
    archive.file(Path::new(protocol::MODULES_FILE), PRIVATE_FILE, list.as_bytes())?;
    if let Some(spec) = spec {
        archive.file(Path::new(protocol::SPEC_FILE), PRIVATE_FILE, &protocol::encode(spec)?)?;
    }
    archive.finish()
}

/// The shared libraries of this process with the linker: what a program that is the same file needs.
fn libraries() -> io::Result<BTreeSet<PathBuf>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let paths = maps.lines().filter_map(|line| line.split_ascii_whitespace().nth(5));
    Ok(paths.filter(|path| path.starts_with('/') && path.contains(".so")).map(PathBuf::from).collect())
}

/// A 64-bit ELF file without what lies behind its last loaded segment: symbols for debuggers, and the table of
/// sections, which only linkers and debuggers read. Anything else is left as it is.
fn loaded_part(file: &[u8]) -> &[u8] {
    let number = |at: usize, size: usize| {
        let bytes = file.get(at..at + size)?;
        Some(bytes.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte)))
    };
    let end = || {
        let is_elf64 = file.starts_with(b"\x7fELF\x02\x01");
        // e_phoff, e_phentsize, e_phnum; then p_offset and p_filesz of each program header.
        let (table, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
        let mut end = table + size * count;
        for index in 0..count {
            let at = usize::try_from(table + index * size).ok()?;
            end = end.max(number(at + 0x08, 8)?.checked_add(number(at + 0x20, 8)?)?);
        }
        is_elf64.then_some(end)
    };
    let end = end().and_then(|end| usize::try_from(end).ok()).unwrap_or(file.len());
    &file[..end.min(file.len())]
}

struct Archive<W> {
    out: W,
    size: u64,
    entries: u32,
    /// Names that are in it already.
    known: BTreeSet<PathBuf>,
}

impl<W: Write> Archive<W> {
    /// A directory and those above it.
    fn directory(&mut self, path: &Path) -> io::Result<()> {
        let mut walked = PathBuf::new();
        for component in path.components().filter(|component| matches!(component, Component::Normal(_))) {
            walked.push(component);
            if self.known.insert(walked.clone()) {
                self.entry(&walked.to_string_lossy(), DIRECTORY, (0, 0), &[])?;
            }
        }
        Ok(())
    }

    /// A file and the directories above it.
    fn file(&mut self, path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
        let path = path.strip_prefix("/").unwrap_or(path);
        if !self.known.insert(path.to_owned()) {
            return Ok(());
        }
        self.directory(path.parent().unwrap_or(Path::new("")))?;
        self.entry(&path.to_string_lossy(), mode, (0, 0), content)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let length = u32::try_from(content.len()).map_err(|_| io::Error::other("a file of 4 GiB or more"))?;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        // inode, mode, uid, gid, links, time, size, device of the file, device that it stands for, name size, check
        let name_size = name.len() as u32 + 1;
        let fields = [self.entries, mode, 0, 0, links, 0, length, 0, 0, device.0, device.1, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        header.push_str(name);
        header.push('\0');
        self.padded(header.as_bytes())?;
        self.padded(content)
    }

    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(4) - bytes.len();
        self.out.write_all(&[0; 3][..padding])?;
        self.size += (bytes.len() + padding) as u64;
        Ok(())
    }

    fn finish(mut self) -> io::Result<u64> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_each_directory_once_and_everything_aligned() {
        let mut archive = Archive { out: Vec::new(), size: 0, entries: 0, known: BTreeSet::new() };
        archive.file(Path::new("/a/b/one"), PROGRAM, b"12345").expect("write");
        archive.file(Path::new("a/b/two"), PRIVATE_FILE, b"").expect("write");
        archive.file(Path::new("a/b/two"), PRIVATE_FILE, b"again").expect("write");
        let bytes = archive.out;
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 4, "a, a/b and two files");
        assert_eq!(bytes.len() % 4, 0);
        let at = text.find("a/b/one").expect("the name");
        assert_eq!(&bytes[(at + 8).next_multiple_of(4)..][..5], b"12345");
    }

    #[test]
    fn what_is_never_loaded_is_left_out() {
        let program = fs::read("/proc/self/exe").expect("this program");
        let part = loaded_part(&program);
        assert!(part.len() < program.len() && part.len() > program.len() / 10, "{} of {}", part.len(), program.len());
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("program");
        fs::write(&path, part).expect("write");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&path, mode).expect("a mode");
        let output = std::process::Command::new(&path).arg("--list").output().expect("it still runs");
        assert!(String::from_utf8_lossy(&output.stdout).contains("what_is_never_loaded_is_left_out"));
        assert_eq!(loaded_part(b"#!/bin/sh"), b"#!/bin/sh");
        assert_eq!(loaded_part(b"\x7fELF\x02\x01"), b"\x7fELF\x02\x01");
    }

    #[test]
    fn this_program_is_linked_to_a_c_library() {
        let libraries = libraries().expect("maps");
        assert!(libraries.iter().any(|path| path.to_string_lossy().contains("libc.so")), "{libraries:?}");
        assert!(libraries.iter().any(|path| path.to_string_lossy().contains("ld-linux")), "{libraries:?}");
    }
}
