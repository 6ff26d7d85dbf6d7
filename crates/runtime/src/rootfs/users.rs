//! Users and groups by the files of an image, as Docker reads `--user`.

use std::path::PathBuf;

use super::Root;
use crate::{Error, Result};

/// Largest passwd or group file that is read, in bytes.
const FILE_LIMIT: u64 = 4 << 20;

/// Largest user or group number.
const MAX_ID: u32 = i32::MAX as u32;

/// Who a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// All groups, the first is `gid` (CVE-2022-36109: a negative group entry must not lose it).
    pub additional_gids: Vec<u32>,
    /// Login name, when the passwd file has it.
    pub name: Option<String>,
    /// Home directory, when the passwd file has it.
    pub home: Option<PathBuf>,
}

struct Entry<'a> {
    name: &'a str,
    id: u32,
    /// Primary group (passwd) or nothing (group).
    gid: u32,
    /// Home directory (passwd) or members (group).
    detail: &'a str,
}

/// Finds `name[:group]`, each a name or a number; an empty name is root.
///
/// Numbers need no entry. A name without an entry is [`Error::NoSuchUser`] or [`Error::NoSuchGroup`].
pub fn lookup_user(root: &Root, name: &str) -> Result<User> {
    let (user, group) = match name.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (name, None),
    };
    let passwd = read(root, "/etc/passwd")?;
    let groups = read(root, "/etc/group")?;
    let number = number(user)?;
    let wanted = |entry: &Entry<'_>| {
        if user.is_empty() { entry.id == 0 } else { entry.name == user || Some(entry.id) == number }
    };
    let found = passwd_entries(&passwd).find(wanted);
    let (uid, mut gid) = match (&found, number) {
        (Some(entry), _) => (entry.id, entry.gid),
        (None, Some(number)) => (number, 0),
        (None, None) if user.is_empty() => (0, 0),
        (None, None) => return Err(Error::NoSuchUser { name: user.into() }),
    };
    let login = found.as_ref().map(|entry| entry.name.to_owned());
    let mut additional_gids = Vec::new();
    match group {
        Some(group) => gid = find_group(&groups, group)?,
        None => {
            if let Some(login) = &login {
                additional_gids = group_entries(&groups)
                    .filter(|entry| entry.detail.split(',').any(|member| member == login))
                    .map(|entry| entry.id)
                    .collect();
            }
        }
    }
    additional_gids.retain(|&one| one != gid);
    additional_gids.insert(0, gid);
    for id in [uid, gid].iter().chain(&additional_gids) {
        if *id > MAX_ID {
            return Err(Error::IdOutOfRange { value: id.to_string() });
        }
    }
    let home = found.filter(|entry| !entry.detail.is_empty()).map(|entry| entry.detail.into());
    Ok(User { uid, gid, additional_gids, name: login, home })
}

/// Finds a group by name or number, as for `--group-add`.
pub fn lookup_group(root: &Root, name: &str) -> Result<u32> {
    find_group(&read(root, "/etc/group")?, name)
}

fn find_group(groups: &str, name: &str) -> Result<u32> {
    let number = number(name)?;
    let found = group_entries(groups).find(|entry| entry.name == name || Some(entry.id) == number);
    let id = found.map(|entry| entry.id).or(number).ok_or(Error::NoSuchGroup { name: name.into() })?;
    if id > MAX_ID { Err(Error::IdOutOfRange { value: name.into() }) } else { Ok(id) }
}

/// The number of a purely numeric name; one that is out of range is an error, never a wrapped value.
fn number(name: &str) -> Result<Option<u32>> {
    let digits = name.strip_prefix(['-', '+']).unwrap_or(name);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match name.parse::<u32>() {
        Ok(number) if number <= MAX_ID => Ok(Some(number)),
        _ => Err(Error::IdOutOfRange { value: name.into() }),
    }
}

/// A missing file has no entries.
fn read(root: &Root, path: &str) -> Result<String> {
    match root.read(path, FILE_LIMIT) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(Error::InRoot { source, .. })
            if matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) =>
        {
            Ok(String::new())
        }
        Err(error) => Err(error),
    }
}

fn passwd_entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let id = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Entry { name, id, gid, detail: fields.nth(1).unwrap_or("") })
    })
}

fn group_entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let id = fields.nth(1)?.parse().ok()?;
        Some(Entry { name, id, gid: id, detail: fields.next().unwrap_or("") })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(passwd: &str, group: &str) -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        std::fs::write(directory.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(directory.path().join("etc/group"), group).unwrap();
        let root = Root::open(directory.path()).unwrap();
        (directory, root)
    }

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:web\nlogs:x:50:root,web\nadm:x:4:web2\n";

    #[test]
    fn names_and_numbers_are_found() {
        let (_directory, root) = root(PASSWD, GROUP);
        let user = lookup_user(&root, "web").unwrap();
        assert_eq!((user.uid, user.gid), (33, 34));
        assert_eq!(user.additional_gids, [34, 50]);
        assert_eq!(user.home, Some("/srv".into()));
        assert_eq!(lookup_user(&root, "33").unwrap(), user);
        let user = lookup_user(&root, "web:logs").unwrap();
        assert_eq!((user.uid, user.gid, user.additional_gids), (33, 50, vec![50]));
        let user = lookup_user(&root, "1000:2000").unwrap();
        assert_eq!((user.uid, user.gid, user.additional_gids), (1000, 2000, vec![2000]));
        let user = lookup_user(&root, "").unwrap();
        assert_eq!((user.uid, user.gid, user.additional_gids), (0, 0, vec![0, 50]));
        assert_eq!(lookup_group(&root, "adm").unwrap(), 4);
    }

    #[test]
    fn unknown_names_say_so_as_docker_does() {
        let (_directory, root) = root(PASSWD, GROUP);
        assert_eq!(
            lookup_user(&root, "foo").unwrap_err().to_string(),
            "unable to find user foo: no matching entries in passwd file"
        );
        assert_eq!(
            lookup_user(&root, "web:foo").unwrap_err().to_string(),
            "unable to find group foo: no matching entries in group file"
        );
    }

    #[test]
    fn cve_2024_40635_numbers_never_wrap() {
        let (_directory, root) = root("big:x:4294967296:0::/:\nneg:x:-1:0::/:\nmax:x:4294967295:0::/:\n", "");
        for name in ["4294967296", "2147483648", "-1", "99999999999999999999", "0:4294967296", "max"] {
            assert!(matches!(lookup_user(&root, name), Err(Error::IdOutOfRange { .. })), "{name}");
        }
        for name in ["big", "neg"] {
            assert!(matches!(lookup_user(&root, name), Err(Error::NoSuchUser { .. })), "{name}");
        }
    }

    #[test]
    fn cve_2023_25153_huge_files_are_an_error() {
        let (directory, root) = root("", "");
        std::fs::File::create(directory.path().join("etc/passwd")).unwrap().set_len(FILE_LIMIT + 1).unwrap();
        assert!(matches!(lookup_user(&root, "0"), Err(Error::TooLarge { .. })));
    }
}
