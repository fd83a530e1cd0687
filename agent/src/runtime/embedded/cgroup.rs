//! Control groups of containers: one path each, below a prefix of our own.
//!
//! An empty or foreign path is deadly here: the container library takes it for the caller's own cgroup and kills every
//! process in it. [`CgroupPath`] therefore cannot hold one.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};
use serde::{Deserialize, Serialize};

/// All our cgroups are below it, in every hierarchy.
const PREFIX: &str = "/longshore";
/// How long the kernel may take to bury the processes of a cgroup after SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two looks at a cgroup that is being emptied.
const KILL_POLL: Duration = Duration::from_millis(5);

/// Path of a container's cgroup: absolute and exactly `/longshore/<node uid>/<container>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct CgroupPath(String);

/// Not a path of ours.
#[derive(Debug, thiserror::Error)]
#[error("{path:?} is not a cgroup path of the form {PREFIX}/<node>/<container>")]
pub(super) struct NotOurs {
    path: String,
}

impl CgroupPath {
    /// The path of a container of a node.
    pub(super) fn new(node_uid: &str, container: &str) -> Result<Self, NotOurs> {
        Self::try_from(format!("{PREFIX}/{node_uid}/{container}"))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory of this cgroup in each mounted hierarchy, whether it exists or not.
    fn directories(&self) -> io::Result<Vec<PathBuf>> {
        Ok(self.within(&hierarchies()?))
    }

    /// The same of hierarchies that are known already.
    pub(super) fn within(&self, hierarchies: &[PathBuf]) -> Vec<PathBuf> {
        hierarchies.iter().map(|hierarchy| hierarchy.join(&self.0[1..])).collect()
    }
}

/// Whether `text` is one plain path segment.
fn is_segment(text: &str) -> bool {
    !text.is_empty()
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'.')
}

impl TryFrom<String> for CgroupPath {
    type Error = NotOurs;

    fn try_from(path: String) -> Result<Self, NotOurs> {
        let ours = path
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.strip_prefix('/'))
            .and_then(|rest| rest.split_once('/'))
            .is_some_and(|(node, container)| is_segment(node) && is_segment(container));
        if ours { Ok(Self(path)) } else { Err(NotOurs { path }) }
    }
}

impl From<CgroupPath> for String {
    fn from(path: CgroupPath) -> Self {
        path.0
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The cgroup of one command, below that of its container.
#[derive(Debug)]
pub(super) struct SubGroup {
    name: String,
    directories: Vec<PathBuf>,
}

impl SubGroup {
    /// The one of this name, whether it exists or not.
    pub(super) fn of(container: &CgroupPath, name: &str) -> io::Result<Self> {
        if !is_segment(name) {
            return Err(io::Error::other(format!("{name:?} cannot be a cgroup's name")));
        }
        let directories = container.directories()?.into_iter().map(|directory| directory.join(name)).collect();
        Ok(Self { name: name.to_owned(), directories })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Makes it where the container library must not: with version 2 that would hand controllers down to it, and a cgroup
    /// that does so may have no processes of its own, as the container's has.
    pub(super) fn prepare(&self) -> io::Result<()> {
        if !is_unified() {
            return Ok(());
        }
        self.directories.iter().try_for_each(|directory| match fs::create_dir(directory) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => other,
        })
    }

    /// Kills every process in it; some may be dying still when it returns.
    pub(super) fn kill(&self) -> io::Result<()> {
        self.directories.iter().try_for_each(|directory| kill_all(directory))
    }

    /// Removes it; an error as long as something in it lives.
    pub(super) fn remove(&self) -> io::Result<()> {
        self.directories.iter().try_for_each(|directory| remove_group(directory))
    }
}

/// Mount points of all cgroup hierarchies, v1 and v2.
pub(super) fn hierarchies() -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| {
            let (head, tail) = line.split_once(" - ")?;
            let kind = tail.split(' ').next()?;
            let mut fields = head.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            (matches!(kind, "cgroup" | "cgroup2") && root == "/").then(|| PathBuf::from(point))
        })
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// Whether this machine has nothing but cgroup v2.
pub(super) fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Whether limits by this controller (`cpu`, `memory`) are enforced: a kernel may be built or started without it.
pub(super) fn has_controller(name: &str) -> bool {
    if is_unified() {
        let offered = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        return offered.split_whitespace().any(|controller| controller == name);
    }
    fs::read_to_string("/proc/self/mountinfo").is_ok_and(|table| mounts_controller(&table, name))
}

/// Whether a mountinfo table has a v1 hierarchy of this controller.
fn mounts_controller(table: &str, name: &str) -> bool {
    let hierarchies = table.lines().filter_map(|line| line.split_once(" - cgroup "));
    hierarchies
        .filter_map(|(_, source_and_options)| source_and_options.split_once(' '))
        .any(|(_, options)| options.split(',').any(|option| option == name))
}

/// Whether a limit on swap can be set: without the controller the attempt would fail.
pub(super) fn limits_swap() -> bool {
    if !is_unified() {
        return Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists();
    }
    let Ok(groups) = fs::read_dir("/sys/fs/cgroup") else { return false };
    groups.flatten().any(|group| group.path().join("memory.swap.max").exists())
}

/// How often the kernel killed a process of the cgroup for want of memory.
pub(super) fn oom_kills(path: &CgroupPath) -> u64 {
    let Ok(directories) = path.directories() else { return 0 };
    directories
        .iter()
        .flat_map(|directory| ["memory.oom_control", "memory.events"].map(|file| directory.join(file)))
        .filter_map(|file| fs::read_to_string(file).ok())
        .filter_map(|text| text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()))
        .max()
        .unwrap_or(0)
}

/// The processes of the cgroup and of those below it. One that is not there has none.
pub(super) fn members(path: &CgroupPath) -> io::Result<Vec<i32>> {
    let mut found = BTreeSet::new();
    for directory in path.directories()? {
        gather(&directory, &mut found)?;
    }
    Ok(found.into_iter().collect())
}

fn gather(directory: &Path, found: &mut BTreeSet<i32>) -> io::Result<()> {
    for child in children(directory)? {
        gather(&child, found)?;
    }
    found.extend(processes(directory)?);
    Ok(())
}

/// Kills every process of the cgroup; some may be dying still when it returns.
pub(super) fn kill_members(path: &CgroupPath) -> io::Result<()> {
    path.directories()?.iter().try_for_each(|directory| kill_all(directory))
}

/// Kills every process of the cgroup, waits until they are gone, and removes it from every hierarchy.
///
/// Blocks for at most some seconds; a cgroup that is not there is no error. One that is frozen is thawed, after it was
/// killed: nothing in it runs on.
pub(super) fn destroy(path: &CgroupPath) -> io::Result<()> {
    let deadline = Instant::now() + KILL_TIMEOUT;
    let directories = path.directories()?;
    let each = |act: fn(&Path) -> io::Result<()>| directories.iter().try_for_each(|directory| act(directory));
    loop {
        each(kill_all)?;
        match each(remove_group) {
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) && Instant::now() < deadline => {
                // What is frozen in one hierarchy dies in none of them.
                each(thaw)?;
                std::thread::sleep(KILL_POLL);
            }
            other => return other,
        }
    }
}

/// Lets the processes of a cgroup and of those below it go on, or die of the signals that they were sent.
fn thaw(directory: &Path) -> io::Result<()> {
    for (file, word) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        // Each version has one of the two, and the freezer of the first is a hierarchy of its own.
        match OpenOptions::new()
            .write(true)
            .open(directory.join(file))
            .and_then(|mut file| file.write_all(word.as_bytes()))
        {
            Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32) => {
            }
            other => other?,
        }
    }
    children(directory)?.iter().try_for_each(|child| thaw(child))
}

/// Containers of a node that have a cgroup in some hierarchy.
pub(super) fn containers(node_uid: &str) -> io::Result<Vec<CgroupPath>> {
    let mut found = Vec::new();
    for hierarchy in hierarchies()? {
        let parent = hierarchy.join(&PREFIX[1..]).join(node_uid);
        let Ok(entries) = fs::read_dir(parent) else { continue };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if entry.path().is_dir()
                && let Ok(path) = CgroupPath::new(node_uid, &name)
                && !found.contains(&path)
            {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// Removes the node's own cgroup, and the common parent if no other node of this machine needs it.
pub(super) fn remove_node(node_uid: &str) -> io::Result<()> {
    if !is_segment(node_uid) {
        return Ok(());
    }
    for hierarchy in hierarchies()? {
        let prefix = hierarchy.join(&PREFIX[1..]);
        remove_empty(&prefix.join(node_uid))?;
        remove_empty(&prefix)?;
    }
    Ok(())
}

/// Removes a cgroup unless others still use it.
fn remove_empty(directory: &Path) -> io::Result<()> {
    match fs::remove_dir(directory) {
        Err(error)
            if error.kind() == ErrorKind::NotFound
                || error.kind() == ErrorKind::DirectoryNotEmpty
                || error.raw_os_error() == Some(Errno::EBUSY as i32) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Sends SIGKILL to every process of a cgroup and of those below it.
fn kill_all(directory: &Path) -> io::Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    let at_once = directory.join("cgroup.kill");
    if at_once.exists() {
        return fs::write(at_once, "1");
    }
    for child in children(directory)? {
        kill_all(&child)?;
    }
    for pid in processes(directory)? {
        if pid != getpid().as_raw() {
            // A process that went in the meantime is what we want.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    Ok(())
}

/// The processes of a cgroup.
fn processes(directory: &Path) -> io::Result<Vec<i32>> {
    let processes = match fs::read_to_string(directory.join("cgroup.procs")) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound) => return Ok(Vec::new()),
        other => other?,
    };
    // 0 stands for a process that our pid namespace cannot see, and kill(0) would hit our own process group.
    Ok(processes.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1).collect())
}

/// Removes a cgroup and those below it, deepest first.
fn remove_group(directory: &Path) -> io::Result<()> {
    for child in children(directory)? {
        remove_group(&child)?;
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_found_in_the_options_of_their_hierarchies() {
        let table = "30 25 0:26 / /sys/fs/cgroup/cpu rw,nosuid - cgroup cpu,cpuacct rw,cpu,cpuacct\n\
                     31 25 0:27 /memory /memory rw - tmpfs memory rw,memory\n\
                     32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert!(mounts_controller(table, "cpu"));
        assert!(!mounts_controller(table, "memory"));
    }

    #[test]
    fn only_paths_below_our_prefix_exist() {
        assert_eq!(CgroupPath::new("n1", "web-0-1").unwrap().as_str(), "/longshore/n1/web-0-1");
        for (node, container) in [("", "a"), ("a", ""), ("", ""), ("..", "a"), ("a", ".."), ("a/b", "c"), ("a", "b/c")]
        {
            assert!(CgroupPath::new(node, container).is_err(), "{node}/{container}");
        }
        for text in
            ["", "/", "/longshore", "/longshore/", "/longshore/a", "longshore/a/b", "/other/a/b", "/longshorea/b/c"]
        {
            assert!(CgroupPath::try_from(text.to_owned()).is_err(), "{text}");
            assert!(serde_json::from_value::<CgroupPath>(text.into()).is_err(), "{text}");
        }
    }
}
