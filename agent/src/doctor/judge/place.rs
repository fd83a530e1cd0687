//! The data directory, and what it is on.

use std::io;
use std::path::Path;

use longshore_doctor::Finding;

use crate::config::RuntimeKind;

/// Less free room than this is little for the next image.
const LITTLE: u64 = 1024 * 1024 * 1024;
/// Less than this is too little for the agent's own files.
const TOO_LITTLE: u64 = 64 * 1024 * 1024;
/// Free files, of which an unpacked image takes tens of thousands.
const FEW_FILES: u64 = 50_000;

/// File systems that cannot hold the writable layer of a container, and what is known of them.
const UNFIT: [(&str, &str); 10] = [
    ("9p", "the kernel takes no writable layer there"),
    ("cifs", "the kernel takes no writable layer there"),
    ("exfat", "it has no owners and no extended attributes"),
    ("fuse", "the kernel takes no writable layer there"),
    ("fuseblk", "it has no extended attributes of the kernel's own"),
    ("nfs", "the kernel takes no writable layer there"),
    ("nfs4", "the kernel takes no writable layer there"),
    ("ntfs3", "it has no owners as Linux has them"),
    ("overlay", "the kernel stacks no writable layer on another overlay"),
    ("vfat", "it has no owners and no extended attributes"),
];
/// File systems whose files are gone after a reboot.
const FLEETING: [&str; 2] = ["ramfs", "tmpfs"];

/// A data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::doctor) struct Directory {
    pub(in crate::doctor) mode: u32,
    pub(in crate::doctor) owner: u32,
    /// Type of its file system, where the kernel tells it.
    pub(in crate::doctor) kind: Option<String>,
    pub(in crate::doctor) is_read_only: bool,
    pub(in crate::doctor) space: Space,
}

/// Room on a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::doctor) struct Space {
    /// Bytes.
    pub(in crate::doctor) total: u64,
    /// Bytes.
    pub(in crate::doctor) free: u64,
    /// Files that it can hold; 0 where it does not count them.
    pub(in crate::doctor) files: u64,
    /// Files that can still be made.
    pub(in crate::doctor) free_files: u64,
}

/// There is none.
pub(in crate::doctor) fn no_directory(path: &Path) -> Finding {
    let hint = "Run `longshore-agent enroll`, which makes it, or name another one by --data-dir.";
    Finding::broken("data directory", format!("there is no {}", path.display()), hint)
}

/// It cannot be looked at.
pub(in crate::doctor) fn unreadable(path: &Path, error: &io::Error) -> Finding {
    let found = format!("{} cannot be read: {error}", path.display());
    Finding::broken("data directory", found, "Run it as root; look at the kernel's log if it is root already.")
}

/// Who may read it.
pub(in crate::doctor) fn directory(path: &Path, directory: &Directory) -> Finding {
    let (check, shown) = ("data directory", path.display());
    if directory.owner != 0 {
        let found = format!("{shown} belongs to the user with number {}, not to root", directory.owner);
        return Finding::degraded(check, found, format!("Run `chown root {shown}`."));
    }
    let mode = directory.mode & 0o7777;
    if mode & 0o077 != 0 {
        let found = format!("{shown} has mode {mode:04o}: others on this machine see what runs here");
        return Finding::degraded(check, found, format!("Run `chmod 700 {shown}`."));
    }
    Finding::fine(check, format!("{shown}, mode {mode:04o}"))
}

/// How much room there is.
pub(in crate::doctor) fn space(space: &Space) -> Vec<Finding> {
    let check = "room";
    let found = format!("{} of {} free", bytes(space.free), bytes(space.total));
    let hint = "Remove what is not needed, or move the data directory to a larger disk.";
    let mut findings = vec![if space.free < TOO_LITTLE {
        Finding::broken(check, found, hint)
    } else if space.free < LITTLE {
        Finding::degraded(check, found, hint)
    } else {
        Finding::fine(check, found)
    }];
    if space.files > 0 && space.free_files < FEW_FILES {
        let found = format!("{} of {} files can still be made", space.free_files, space.files);
        findings.push(Finding::degraded(check, found, "An image has tens of thousands: use a file system with more."));
    }
    findings
}

/// Whether containers' layers can be there.
pub(in crate::doctor) fn file_system(directory: &Directory, has_layers: bool) -> Finding {
    let check = "file system";
    let hint = "Put the data directory on ext4, xfs or btrfs: --data-dir, or a mount there.";
    let Some(kind) = directory.kind.as_deref() else {
        return Finding::degraded(check, "the kernel does not say which one it is", hint);
    };
    if directory.is_read_only {
        return Finding::broken(check, format!("{kind}, mounted read-only"), "Mount it for writing.");
    }
    // One of FUSE's tells which: `fuse.sshfs`.
    let family = kind.split('.').next().unwrap_or(kind);
    if let Some((_, why)) = UNFIT.iter().find(|(unfit, _)| *unfit == family && has_layers) {
        return Finding::broken(check, format!("{kind}: {why}"), hint);
    }
    if FLEETING.contains(&kind) {
        let found = format!("{kind}: after a reboot this machine is no node any more");
        return Finding::degraded(check, found, hint);
    }
    Finding::fine(check, kind)
}

/// Whether the directory's apps are with the runtime that is to run.
pub(in crate::doctor) fn kind_of_runtime(
    runtime: RuntimeKind,
    has_engine: bool,
    has_containers: bool,
) -> Option<Finding> {
    let found = match runtime {
        RuntimeKind::Embedded if has_engine => "the apps of this data directory are with a container engine",
        RuntimeKind::Docker if has_containers => "the apps of this data directory are with the embedded runtime",
        _ => return None,
    };
    let hint = "Run with the other --runtime, or remove the apps by `longshore-agent reset` first.";
    Some(Finding::broken("runtime", found, hint))
}

/// Bytes with a binary unit.
fn bytes(count: u64) -> String {
    let units = [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, size)| count >= *size) {
        Some((name, size)) => format!("{}.{} {name}", count / size, count % size * 10 / size),
        None => format!("{count} B"),
    }
}

#[cfg(test)]
mod tests {
    use longshore_doctor::Verdict;

    use super::*;

    fn plain() -> Directory {
        let space = Space { total: 100 << 30, free: 10 << 30, files: 1_000_000, free_files: 900_000 };
        Directory { mode: 0o40_700, owner: 0, kind: Some("ext4".to_owned()), is_read_only: false, space }
    }

    #[test]
    fn a_directory_is_roots_alone() {
        let path = Path::new("/d");
        assert_eq!(directory(path, &plain()).verdict, Verdict::Fine);
        let open = directory(path, &Directory { mode: 0o40_755, ..plain() });
        assert_eq!((open.verdict, open.hint.as_str()), (Verdict::Degraded, "Run `chmod 700 /d`."));
        assert_eq!(directory(path, &Directory { owner: 7, ..plain() }).verdict, Verdict::Degraded);
        assert_eq!(no_directory(path).verdict, Verdict::Broken);
    }

    #[test]
    fn room_runs_out_by_bytes_and_by_files() {
        let with = |free, free_files| space(&Space { free, free_files, ..plain().space });
        let verdicts = |findings: Vec<Finding>| findings.iter().map(|f| f.verdict).collect::<Vec<_>>();
        assert_eq!(with(10 << 30, 900_000)[0].found, "10.0 GiB of 100.0 GiB free");
        assert_eq!(verdicts(with(1 << 30, 900_000)), [Verdict::Fine]);
        assert_eq!(verdicts(with((1 << 30) - 1, 900_000)), [Verdict::Degraded]);
        assert_eq!(verdicts(with(1 << 20, 900_000)), [Verdict::Broken]);
        assert_eq!(verdicts(with(10 << 30, 10)), [Verdict::Fine, Verdict::Degraded]);
        assert_eq!(
            verdicts(space(&Space { files: 0, free_files: 0, ..plain().space })),
            [Verdict::Fine],
            "not counted"
        );
        assert_eq!(bytes(512), "512 B");
    }

    #[test]
    fn layers_need_a_file_system_of_a_disk() {
        let table = [
            ("ext4", false, true, Verdict::Fine),
            ("btrfs", false, true, Verdict::Fine),
            ("overlay", false, true, Verdict::Broken),
            ("overlay", false, false, Verdict::Fine),
            ("fuse.sshfs", false, true, Verdict::Broken),
            ("nfs4", false, true, Verdict::Broken),
            ("vfat", false, true, Verdict::Broken),
            ("tmpfs", false, true, Verdict::Degraded),
            ("ext4", true, false, Verdict::Broken),
        ];
        for (kind, is_read_only, has_layers, verdict) in table {
            let directory = Directory { kind: Some(kind.to_owned()), is_read_only, ..plain() };
            assert_eq!(file_system(&directory, has_layers).verdict, verdict, "{kind}");
        }
        assert_eq!(file_system(&Directory { kind: None, ..plain() }, true).verdict, Verdict::Degraded);
    }

    #[test]
    fn a_directory_keeps_to_its_runtime() {
        assert_eq!(kind_of_runtime(RuntimeKind::Embedded, false, true), None);
        assert_eq!(kind_of_runtime(RuntimeKind::Docker, true, false), None);
        assert!(kind_of_runtime(RuntimeKind::Embedded, true, false).is_some());
        assert!(kind_of_runtime(RuntimeKind::Docker, false, true).is_some());
    }
}
