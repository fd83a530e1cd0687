//! What the kernel has counted of containers, by their cgroups: version 1, version 2, or both side by side.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use longshore_model::usage::{Reading, working_set};

use super::cgroup;
use super::files;
use super::launch::Label;
use super::layout::{self, Layout};
use crate::runtime::InstanceKey;

/// What has been counted of each of these instances' newest containers. Blocks for a moment.
pub(super) fn of(layout: &Layout, instances: &[InstanceKey]) -> io::Result<Vec<Reading>> {
    let mut newest: HashMap<InstanceKey, u32> = HashMap::new();
    for (key, run) in files::names(&layout.containers())?.iter().filter_map(|name| layout::parse_container_name(name)) {
        if instances.contains(&key) {
            let known = newest.entry(key).or_default();
            *known = run.max(*known);
        }
    }
    let hierarchies = cgroup::hierarchies()?;
    let read = |(instance, run): (InstanceKey, u32)| {
        // One that is being removed has no description any more.
        let label = Label::read(&layout.container(&instance, run)).ok()?;
        let directories = label.cgroup.within(&hierarchies);
        let (cpu, memory) = (cpu_time(&directories), memory(&directories));
        let InstanceKey { app, index } = instance;
        (cpu.is_some() || memory.is_some()).then_some(Reading { app, index, run: (label.revision, run), cpu, memory })
    };
    Ok(newest.into_iter().filter_map(read).collect())
}

/// CPU time of a cgroup with its directory in each hierarchy. Version 2 counts also where it has no controllers, but only what is
/// in its own cgroup, which may be nothing where version 1 is there too: the greater count is the true one.
fn cpu_time(directories: &[PathBuf]) -> Option<Duration> {
    let first = directories.iter().filter_map(|directory| cpuacct_usage(&text(directory, "cpuacct.usage")?));
    let second = directories.iter().filter_map(|directory| cpu_stat(&text(directory, "cpu.stat")?));
    first.chain(second).max()
}

/// The working set of a cgroup with its directory in each hierarchy.
fn memory(directories: &[PathBuf]) -> Option<u64> {
    let files = [("memory.current", "inactive_file"), ("memory.usage_in_bytes", "total_inactive_file")];
    directories.iter().flat_map(|directory| files.map(|file| (directory, file))).find_map(
        |(directory, (used, name))| working_set_of(&text(directory, used)?, &text(directory, "memory.stat")?, name),
    )
}

fn text(directory: &Path, file: &str) -> Option<String> {
    fs::read_to_string(directory.join(file)).ok()
}

/// `cpuacct.usage` of version 1: nanoseconds.
fn cpuacct_usage(text: &str) -> Option<Duration> {
    text.trim().parse().map(Duration::from_nanos).ok()
}

/// `cpu.stat` of version 2. That of version 1 has no such line.
fn cpu_stat(text: &str) -> Option<Duration> {
    field(text, "usage_usec").map(Duration::from_micros)
}

/// A count of bytes in use, and `memory.stat`, where `name` is what counts files that were not used lately, in the cgroup and those
/// below it.
fn working_set_of(used: &str, stat: &str, name: &str) -> Option<u64> {
    Some(working_set(used.trim().parse().ok()?, field(stat, name)?))
}

/// The number behind a name in lines of names and numbers.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut fields = text.lines().filter_map(|line| line.split_once(' '));
    fields.find(|(key, _)| *key == name)?.1.trim().parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    /// What the files of one cgroup say, by hierarchy and name.
    fn cgroup(files: &[(&str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let root = tempfile::tempdir().unwrap();
        let mut directories = Vec::new();
        for (path, text) in files {
            let file = root.path().join(path);
            let directory = file.parent().unwrap().to_owned();
            fs::create_dir_all(&directory).unwrap();
            fs::write(file, text).unwrap();
            if !directories.contains(&directory) {
                directories.push(directory);
            }
        }
        (root, directories)
    }

    /// A name, the files, milliseconds of CPU and bytes of memory.
    type Case = (&'static str, &'static [(&'static str, &'static str)], Option<u64>, Option<u64>);

    const V1_STAT: &str = "cache 500\ninactive_file 1\ntotal_cache 700\ntotal_inactive_file 300\n";
    const V2_STAT: &str = "anon 400\nfile 600\ninactive_file 250\nactive_file 1\n";
    const V2_CPU: &str = "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n";

    #[test]
    fn files_of_both_versions_are_read() {
        let cases: [Case; 8] = [
            (
                "version 1",
                &[
                    ("cpu/cpuacct.usage", "2500000000\n"),
                    ("cpu/cpu.stat", "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n"),
                    ("memory/memory.usage_in_bytes", "1000\n"),
                    ("memory/memory.stat", V1_STAT),
                ],
                Some(2500),
                Some(700),
            ),
            (
                "version 2",
                &[("all/cpu.stat", V2_CPU), ("all/memory.current", "1000\n"), ("all/memory.stat", V2_STAT)],
                Some(1500),
                Some(750),
            ),
            (
                "version 1, and version 2 without controllers and processes",
                &[
                    ("cpu/cpuacct.usage", "2500000000\n"),
                    ("unified/cpu.stat", "usage_usec 0\nuser_usec 0\nsystem_usec 0\n"),
                    ("memory/memory.usage_in_bytes", "1000\n"),
                    ("memory/memory.stat", V1_STAT),
                ],
                Some(2500),
                Some(700),
            ),
            ("no controller of memory", &[("all/cpu.stat", V2_CPU)], Some(1500), None),
            ("no controller of CPU", &[("m/memory.current", "9"), ("m/memory.stat", V2_STAT)], None, Some(0)),
            ("usage without its parts", &[("m/memory.current", "9")], None, None),
            ("garbage", &[("a/cpu.stat", "usage_usec x\n"), ("a/cpuacct.usage", "-1\n")], None, None),
            ("nothing", &[], None, None),
        ];
        for (name, files, millis, bytes) in cases {
            let (_root, directories) = cgroup(files);
            assert_eq!(cpu_time(&directories), millis.map(Duration::from_millis), "{name}");
            assert_eq!(memory(&directories), bytes, "{name}");
        }
    }
}
