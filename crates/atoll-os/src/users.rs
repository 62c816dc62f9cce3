//! Who a container's process is: `user[:group]` looked up in the container's own files.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::Mode,
};

use crate::{limits::ACCOUNT_FILE_BYTES_MAX, spec::SpecError};

/// A user as the kernel knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// User number.
    pub(crate) uid: u32,
    /// Main group.
    pub(crate) gid: u32,
    /// Other groups.
    pub(crate) groups: Vec<u32>,
    /// Home directory, if known.
    pub(crate) home: Option<String>,
}

/// Looks `user` up in the root directory of a container; none is root.
pub(crate) fn look_up(root: &Path, user: Option<&str>) -> Result<Account, SpecError> {
    let refuse = |why: String| SpecError { what: "user", why };
    let read = |path: &str| read_inside(root, path).map_err(|e| refuse(format!("cannot read the image's {path}: {e}")));
    resolve(&read("etc/passwd")?, &read("etc/group")?, user.unwrap_or("0")).map_err(refuse)
}

/// The lookup in the contents of `passwd` and `group`.
fn resolve(passwd: &str, group: &str, user: &str) -> Result<Account, String> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    // name:password:uid:gid:comment:home:shell
    let by_number = user.parse::<u32>().ok();
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.len() >= 6 && (fields[0] == user || by_number.is_some_and(|uid| fields[2].parse() == Ok(uid)))
    });
    let mut account = match (&entry, by_number) {
        (Some(fields), _) => {
            let number = |at: usize| {
                fields[at].parse::<u32>().map_err(|_| format!("the image's /etc/passwd has no number for '{user}'"))
            };
            Account { uid: number(2)?, gid: number(3)?, groups: vec![], home: Some(fields[5].to_owned()) }
        }
        (None, Some(uid)) => Account { uid, ..Account::default() },
        (None, None) => return Err(format!("the image's /etc/passwd has no '{user}'; name a number or another user")),
    };
    // name:password:gid:members
    let groups = || group.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() >= 4);
    if let Some(wanted) = wanted_group {
        let named = groups().find(|fields| fields[0] == wanted).and_then(|fields| fields[2].parse().ok());
        account.gid = wanted
            .parse()
            .ok()
            .or(named)
            .ok_or_else(|| format!("the image's /etc/group has no '{wanted}'; name a number or another group"))?;
    } else if let Some(fields) = &entry {
        let member = |group: &Vec<&str>| group[3].split(',').any(|name| name == fields[0]);
        account.groups = groups().filter(member).filter_map(|fields| fields[2].parse().ok()).collect();
    }
    Ok(account)
}

/// The text of a file below `root`, with links resolved as if `root` were `/`; empty when there is none.
fn read_inside(root: &Path, path: &str) -> io::Result<String> {
    let root = File::open(root)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .mode(Mode::empty())
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file: OwnedFd = match openat2(root.as_fd(), path, how) {
        Ok(file) => file,
        Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => return Ok(String::new()),
        Err(e) => return Err(e.into()),
    };
    let file = File::from(file);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file"));
    }
    let mut text = Vec::new();
    file.take(ACCOUNT_FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:web:/srv:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nssl:x:103:other,web\n";

    fn check(user: &str, expected: Result<(u32, u32, &[u32]), &str>) {
        match (resolve(PASSWD, GROUP, user), expected) {
            (Ok(found), Ok((uid, gid, groups))) => {
                assert_eq!((found.uid, found.gid, &found.groups[..]), (uid, gid, groups), "{user}");
            }
            (Err(why), Err(part)) => assert!(why.contains(part), "{user}: {why}"),
            (found, _) => panic!("{user}: {found:?}"),
        }
    }

    #[test]
    fn users_and_groups_by_name_and_number() {
        check("0", Ok((0, 0, &[])));
        check("web", Ok((101, 102, &[103])));
        check("101", Ok((101, 102, &[103])));
        check("web:ssl", Ok((101, 103, &[])));
        check("web:7", Ok((101, 7, &[])));
        check("4242", Ok((4242, 0, &[])));
        check("4242:102", Ok((4242, 102, &[])));
        check("nobody", Err("no 'nobody'"));
        check("web:none", Err("/etc/group has no 'none'"));
    }

    #[test]
    fn links_do_not_lead_out_of_the_container() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).expect("a directory");
        std::fs::write(dir.path().join("passwd"), PASSWD).expect("a file outside");
        std::os::unix::fs::symlink("../../passwd", root.join("etc/passwd")).expect("a link");
        assert_eq!(look_up(&root, None), Ok(Account::default()));
        assert!(look_up(&root, Some("web")).is_err(), "the file outside is not seen");
    }
}
