//! What is mounted where, as the kernel's mountinfo tables tell it.

use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::{fs, io};

/// One mount of this process's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The kernel's number of it.
    pub(crate) id: u64,
    /// Where it is.
    pub(crate) point: PathBuf,
    /// Type of its file system.
    pub(crate) kind: String,
    /// What it is of, or what it is called.
    pub(crate) source: String,
}

/// All mounts, those on top after those that they cover.
pub(crate) fn table() -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// The mount that an open file is on, where the kernel tells it.
pub(crate) fn of(file: &impl AsRawFd) -> io::Result<Option<Mount>> {
    let id = id_of(file)?;
    Ok(table()?.into_iter().find(|mount| Some(mount.id) == id))
}

/// Its number only.
pub(crate) fn id_of(file: &impl AsRawFd) -> io::Result<Option<u64>> {
    let file = file.as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{file}"))?;
    Ok(info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok()))
}

fn parse(table: &str) -> Vec<Mount> {
    let read = |line: &str| {
        let (head, tail) = line.split_once(" - ")?;
        let mut fields = head.split(' ');
        let (id, point) = (fields.next()?.parse().ok()?, fields.nth(3)?);
        let mut tail = tail.split(' ');
        let (kind, source) = (tail.next()?.to_owned(), tail.next().unwrap_or_default().to_owned());
        Some(Mount { id, point: unescape(point).into(), kind, source })
    };
    table.lines().filter_map(read).collect()
}

/// Undoes the octal escapes of mountinfo.
fn unescape(field: &str) -> OsString {
    use std::os::unix::ffi::OsStringExt;
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        match octal.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let table = "1 2 0:1 / /a\\040b rw shared:1 - tmpfs tmpfs rw\nnonsense\n13 1 0:2 /x /c rw - proc proc rw\n";
        let mount = |id, point: &str, kind: &str| {
            let (point, kind) = (PathBuf::from(point), kind.to_owned());
            Mount { id, point, source: kind.clone(), kind }
        };
        assert_eq!(parse(table), [mount(1, "/a b", "tmpfs"), mount(13, "/c", "proc")]);
    }
}
