//! Looks at the machine, and changes nothing on it.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use longshore_doctor::{Finding, clock};
use longshore_proto::v1::FetchRegistryCredentialRequest;
use longshore_proto::v1::agent_service_client::AgentServiceClient;
use longshore_tls::{Credentials, KeepAlive};
use nix::sys::statvfs::{FsFlags, fstatvfs};

use super::judge::{self, Cgroups, Directory, Engine, Overlay, Space, Unit};
use crate::data_dir::DataDir;
use crate::mounts;
use crate::runtime::docker::{self, Address};
use crate::runtime::embedded;

/// What the kernel calls an agent's process.
const AGENT: &str = "longshore-agent";
/// The unit of the Debian package.
const UNIT: &str = "longshore-agent.service";
/// Where systemd looks for units, the first one first.
const UNIT_DIRECTORIES: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// Namespaces that containers have, by the names of their files in /proc and of their limits.
const NAMESPACES: [(&str, &str); 6] =
    [("mnt", "mount"), ("pid", "PID"), ("net", "network"), ("ipc", "IPC"), ("uts", "UTS"), ("cgroup", "cgroup")];

/// The process of the agent that runs on a data directory: the one that has its lock's file open. The lock itself is not
/// tried: an agent that starts at that moment would find it taken.
pub(super) fn agent(data: &DataDir) -> Option<i32> {
    let lock = fs::metadata(data.lock_file()).ok()?;
    let is_lock = |file: fs::Metadata| (file.dev(), file.ino()) == (lock.dev(), lock.ino());
    let own = i32::try_from(std::process::id()).ok()?;
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid: &i32| pid != own).find(|pid| {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        let files = || fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        name.trim_end() == AGENT && files().any(|file| fs::metadata(file.path()).is_ok_and(is_lock))
    })
}

/// A data directory; `None` if there is none.
pub(super) fn directory(path: &Path) -> io::Result<Option<Directory>> {
    let opened = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let metadata = opened.metadata()?;
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let room = fstatvfs(&opened)?;
    let block = room.fragment_size();
    Ok(Some(Directory {
        mode: metadata.mode(),
        owner: metadata.uid(),
        kind: mounts::of(&opened)?.map(|mount| mount.kind),
        is_read_only: room.flags().contains(FsFlags::ST_RDONLY),
        space: Space {
            total: room.blocks().saturating_mul(block),
            free: room.blocks_available().saturating_mul(block),
            files: room.files(),
            free_files: room.files_available(),
        },
    }))
}

/// Whether the directory's containers are with an engine.
pub(super) fn has_engine_mark(data: &DataDir) -> bool {
    data.runtime().join("engine").exists()
}

/// Whether the embedded runtime has containers there.
pub(super) fn has_containers(data: &DataDir) -> bool {
    fs::read_dir(data.runtime().join("containers")).is_ok_and(|mut entries| entries.next().is_some())
}

/// The file of the node's key, and its mode.
pub(super) fn key_mode(data: &DataDir) -> Option<(String, u32)> {
    let path = data.certificate_and_key();
    let mode = fs::metadata(&path).ok()?.permissions().mode();
    Some((path.display().to_string(), mode))
}

/// Goes to the server as the agent does, without a session: a second one would end that of an agent that runs.
pub(super) async fn server(address: &str, credentials: &Credentials) -> Vec<Finding> {
    let channel = match longshore_tls::connect(address, credentials, KeepAlive::default()).await {
        Ok(channel) => channel,
        Err(error) => return vec![judge::not_connected(&error)],
    };
    let mut findings = vec![judge::server(address)];
    // About no app at all: whoever is known is told that there is none, and whoever is not is told that.
    let asked = Timestamp::now();
    let mut client = AgentServiceClient::new(channel);
    let answer = client.fetch_registry_credential(FetchRegistryCredentialRequest::default()).await;
    let Err(status) = answer else { return findings };
    let answered = Timestamp::now();
    findings.push(judge::known(&status));
    let date = status.metadata().get("date").and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| DateTimeParser::new().parse_timestamp(date).ok());
    findings.push(clock(date, asked, answered));
    findings
}

/// What the kernel offers.
pub(super) struct Machine {
    pub(super) kernel: String,
    pub(super) overlay: Overlay,
    pub(super) missing_namespaces: Vec<&'static str>,
    pub(super) cgroups: Cgroups,
    pub(super) has_seccomp: bool,
}

pub(super) fn machine() -> Machine {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let is_missing = |(file, _): &(&str, &str)| {
        let most = fs::read_to_string(format!("/proc/sys/user/max_{file}_namespaces"));
        !Path::new("/proc/self/ns").join(file).exists() || most.is_ok_and(|most| most.trim() == "0")
    };
    let cgroups = match embedded::missing_controllers() {
        Some((is_unified, missing)) => Cgroups { is_unified, is_mounted: true, missing },
        None => Cgroups::default(),
    };
    Machine {
        overlay: overlay(&kernel),
        kernel,
        missing_namespaces: NAMESPACES.into_iter().filter(is_missing).map(|(_, name)| name).collect(),
        cgroups,
        has_seccomp: embedded::filters_system_calls(),
    }
}

/// Whether the kernel knows overlayfs, or has a module that does: nothing is mounted to find out, since that would load it.
fn overlay(kernel: &str) -> Overlay {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay") {
        return Overlay::Loaded;
    }
    let modules = Path::new("/lib/modules").join(kernel);
    let lists =
        ["modules.builtin", "modules.dep"].map(|list| fs::read_to_string(modules.join(list)).unwrap_or_default());
    if lists.iter().any(|list| list.contains("/overlay.ko")) { Overlay::Module } else { Overlay::Missing }
}

/// What a process may do.
#[derive(Default)]
pub(super) struct Process {
    pub(super) bounding: Option<u64>,
    pub(super) open_files: Option<u64>,
}

/// The agent's, or where none runs our own.
pub(super) fn process(agent: Option<i32>) -> Process {
    let directory = agent.map_or_else(|| PathBuf::from("/proc/self"), |pid| PathBuf::from(format!("/proc/{pid}")));
    let status = fs::read_to_string(directory.join("status")).unwrap_or_default();
    let limits = fs::read_to_string(directory.join("limits")).unwrap_or_default();
    let hard = |rest: &str| match rest.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    };
    Process {
        bounding: status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapBnd:")?.trim(), 16).ok()),
        open_files: limits.lines().find_map(|line| hard(line.strip_prefix("Max open files")?)),
    }
}

/// The engine at an address.
pub(super) async fn engine(address: &Address) -> Result<Engine, String> {
    let about = docker::about(address).await.map_err(|error| error.message)?;
    let limits = [(about.limits_cpu, "CPU"), (about.limits_memory, "memory")];
    Ok(Engine {
        version: about.version,
        is_rootless: about.is_rootless,
        unlimited: limits.into_iter().filter_map(|(is_limited, what)| (!is_limited).then_some(what)).collect(),
    })
}

/// The agent's unit, if one is installed.
pub(super) fn unit() -> Option<Unit> {
    let path =
        UNIT_DIRECTORIES.into_iter().map(|directory| Path::new(directory).join(UNIT)).find(|path| path.exists())?;
    let mut text = fs::read_to_string(&path).ok()?;
    // A drop-in hides those of its name in later directories, and all are read in the order of their names.
    let mut drop_ins: Vec<PathBuf> = Vec::new();
    for directory in UNIT_DIRECTORIES {
        let entries = fs::read_dir(Path::new(directory).join(format!("{UNIT}.d"))).into_iter().flatten().flatten();
        let files = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "conf"));
        for file in files.collect::<Vec<_>>() {
            if drop_ins.iter().all(|known| known.file_name() != file.file_name()) {
                drop_ins.push(file);
            }
        }
    }
    drop_ins.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    for file in drop_ins {
        text.push('\n');
        text.push_str(&fs::read_to_string(file).unwrap_or_default());
    }
    let wants = ["/etc/systemd/system", "/run/systemd/system"]
        .map(|directory| Path::new(directory).join("multi-user.target.wants"));
    let is_enabled = wants.iter().any(|wants| wants.join(UNIT).is_symlink());
    Some(Unit { path: path.display().to_string(), text, is_enabled })
}
