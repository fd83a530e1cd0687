//! Nodes with the embedded runtime.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use longshore_agent::host_path::HostPaths;
use longshore_agent::runtime::embedded::{EgressChoice, EmbeddedRuntime, Patience, Settings, reset};
use longshore_agent::runtime::image::RegistryConfig;
use longshore_agent::runtime::{Allowances, InstanceKey, Launch, Rotation};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use super::bench::*;

pub type Node = super::bench::Node<Embedded>;

#[derive(Default)]
pub struct Embedded {
    /// How long shims are waited for, from the next start of the agent on.
    pub patience: Mutex<Patience>,
}

impl Backend for Embedded {
    type Runtime = EmbeddedRuntime;
    const DEVICES: usize = 1;
    const LEFT_OF_A_FLOOD: usize = 100_000;
    const UNKNOWN_CAPABILITIES: u64 = 0;
    const LACKS: &'static [&'static str] = &[];

    fn new() -> Self {
        Self::default()
    }

    fn open(&self, data_dir: &Path, uid: &str, rotation: Rotation, allowances: Allowances) -> EmbeddedRuntime {
        let settings = Settings {
            data_dir: data_dir.to_owned(),
            node_uid: uid.to_owned(),
            shim: PathBuf::from(env!("CARGO_BIN_EXE_longshore-agent")),
            rotation,
            // These tests run in the machine's own network, whose packet filter is none of their business.
            egress: EgressChoice::Off,
            host_paths: HostPaths::new(data_dir, Vec::new()),
            patience: *self.patience.lock().unwrap(),
            allowances,
        };
        EmbeddedRuntime::open(settings, &RegistryConfig::default()).unwrap()
    }

    fn reset(&self, data_dir: &Path) {
        let uid = fs::read_to_string(data_dir.join("runtime/node-uid"));
        reset(data_dir).unwrap();
        if let Ok(uid) = uid {
            assert!(!Path::new("/sys/fs/cgroup/memory/longshore").join(uid).exists());
        }
    }

    fn leftovers(&self, uid: &str, directory: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let group = hierarchy.path().join("longshore").join(uid);
            let containers = fs::read_dir(&group).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
            found.extend(containers.map(|container| format!("cgroup {}", container.path().display())));
        }
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&words).contains(&format!("\0{directory}")) {
                found.insert(format!("process {}", process.path().display()));
            }
        }
        found
    }

    fn cgroup(&self, uid: &str, launch: &Launch) -> String {
        format!("longshore/{uid}/{}-{}-{}", launch.instance.app, launch.instance.index, launch.run)
    }
}

impl Node {
    /// The pid of the instance's shim, read from the lock's owner as the kernel tells it.
    pub fn shim_pid(&self, launch: &Launch) -> i32 {
        let directory = self.container(launch);
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .find(|pid: &i32| {
                let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let mut words = words.split(|&byte| byte == 0);
                words.nth(1) == Some(b"shim") && words.next() == Some(directory.as_os_str().as_encoded_bytes())
            })
            .expect("the shim lives")
    }

    /// Kills the instance's shim, and waits until it holds nothing any more, its lock neither: its memory goes earlier, and
    /// with that the name by which it is known.
    pub async fn kill_shim(&self, launch: &Launch) {
        let pid = self.shim_pid(launch);
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        let has_ended = || {
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
        };
        eventually("the shim has ended", has_ended).await;
    }

    pub fn container(&self, launch: &Launch) -> PathBuf {
        let InstanceKey { app, index } = &launch.instance;
        let data = fs::canonicalize(self.data_dir()).unwrap();
        data.join(format!("runtime/containers/{app}-{index}-{}", launch.run))
    }
}
