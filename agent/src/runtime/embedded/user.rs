//! Who a container runs as: the image's USER, looked up in the image's own files.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use longshore_model::failure::FailureReason;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

use super::failure;
use super::oci::Identity;
use crate::runtime::RuntimeError;

/// Bytes of passwd or group that are looked at: far above any real file, and a bound for a hostile image.
const MAX_FILE: u64 = 1024 * 1024;

/// Resolves `user[:group]`, names or numbers, with the texts of /etc/passwd and /etc/group.
pub(super) fn resolve(user: &str, passwd: &str, group: &str) -> Result<Identity, RuntimeError> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.len() >= 4 && (fields[0] == user || (user.parse::<u32>().is_ok() && fields[2] == user)));
    let uid = entry.as_ref().and_then(|fields| fields[2].parse().ok()).or_else(|| user.parse().ok());
    let uid = uid.ok_or_else(|| unknown("user", user))?;
    let own_group = entry.as_ref().and_then(|fields| fields[3].parse().ok());
    let name = entry.as_ref().map(|fields| fields[0]);
    let mut groups = Vec::new();
    let mut chosen = None;
    for fields in group.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() >= 4) {
        let Ok(gid) = fields[2].parse::<u32>() else { continue };
        if wanted_group == Some(fields[0]) {
            chosen = Some(gid);
        }
        if name.is_some_and(|name| fields[3].split(',').any(|member| member == name)) {
            groups.push(gid);
        }
    }
    let gid = match wanted_group {
        Some(wanted) => chosen.or_else(|| wanted.parse().ok()).ok_or_else(|| unknown("group", wanted))?,
        None => own_group.unwrap_or(0),
    };
    if wanted_group.is_some() {
        // Who names a group gets that one alone, as elsewhere.
        groups.clear();
    }
    groups.retain(|other| *other != gid);
    Ok(Identity { uid, gid, groups })
}

fn unknown(what: &str, name: &str) -> RuntimeError {
    failure::because(FailureReason::ImageInvalid, format!("the image has no {what} {name:?} to run as"))
}

fn inside(flags: OFlag) -> OpenHow {
    OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT)
}

/// Reads a text file of the image; symbolic links in it are followed inside the image only. Empty if there is none.
pub(super) fn read_inside(root: &OwnedFd, path: &str) -> io::Result<String> {
    // A FIFO in its place must not hold the shim up.
    let file = match openat2(root, path, inside(OFlag::O_RDONLY | OFlag::O_NONBLOCK)) {
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(String::new()),
        other => File::from(other?),
    };
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Makes a directory of the image and those above it, where they are missing.
pub(super) fn make_directory_inside(root: &OwnedFd, path: &str) -> io::Result<()> {
    let mut above = String::from("/");
    for segment in path.split('/').filter(|segment| !segment.is_empty() && *segment != ".") {
        let parent = openat2(root, above.as_str(), inside(OFlag::O_PATH | OFlag::O_DIRECTORY))?;
        match mkdirat(&parent, segment, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        above.push_str(segment);
        above.push('/');
    }
    openat2(root, above.as_str(), inside(OFlag::O_PATH | OFlag::O_DIRECTORY))?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nweb:x:1001:\nmedia:x:44:web,other\nlog:x:45:other,web\n";

    #[test]
    fn users_and_groups_by_name_and_number() {
        let table = [
            ("", 0, 0, vec![]),
            ("root", 0, 0, vec![]),
            ("web", 1000, 1001, vec![44, 45]),
            ("1000", 1000, 1001, vec![44, 45]),
            ("web:media", 1000, 44, vec![]),
            ("web:7", 1000, 7, vec![]),
            ("5:6", 5, 6, vec![]),
            ("5", 5, 0, vec![]),
            (":44", 0, 44, vec![]),
        ];
        for (text, uid, gid, groups) in table {
            assert_eq!(resolve(text, PASSWD, GROUP).unwrap(), Identity { uid, gid, groups }, "{text:?}");
        }
    }

    #[test]
    fn unknown_names_are_told() {
        for text in ["nobody", "web:nogroup", "-1"] {
            let error = resolve(text, PASSWD, GROUP).unwrap_err();
            assert_eq!(error.reason, FailureReason::ImageInvalid, "{text}");
        }
    }
}
