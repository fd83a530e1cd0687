//! The bare low-level runtimes, from a bundle whose root file system is unpacked already.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use longshore_tests::engine::remove_groups;
use longshore_tests::process::output;
use serde_json::{Value, json};

use crate::trial::{MOUNT, Trial, TrialKind, between};
use crate::{Contender, Process};

/// A low-level runtime.
pub(crate) struct LowLevel {
    program: &'static str,
    row: &'static str,
    directory: PathBuf,
    /// Where its containers' cgroups are, in each hierarchy.
    cgroup: String,
    containers: Vec<String>,
}

impl LowLevel {
    /// Makes a bundle, and tries it.
    ///
    /// # Errors
    ///
    /// Why it does not work on this machine.
    pub(crate) fn new(program: &'static str, directory: &Path) -> Result<Self, String> {
        let row = if program == "crun" { "crun run --detach" } else { "runc run --detach" };
        let name = directory.file_name().unwrap().to_str().unwrap();
        let cgroup = format!("/{name}-{program}");
        let low_level = Self { program, row, directory: directory.join(program), cgroup, containers: Vec::new() };
        let root = low_level.directory.join("bundle/rootfs");
        for inner in ["proc", "sys", "dev", MOUNT.trim_start_matches('/')] {
            fs::create_dir_all(root.join(inner)).unwrap();
        }
        let entry = root.join(longshore_demo_image::PROGRAM_PATH.trim_start_matches('/'));
        fs::write(&entry, longshore_demo_image::PROGRAM).unwrap();
        fs::set_permissions(&entry, fs::Permissions::from_mode(0o755)).unwrap();
        // Files of the kernel's are not in it: the runtime's own proposal is the base.
        low_level.succeeds(low_level.command().arg("spec").current_dir(low_level.bundle()))?;
        low_level.configure(&["exit", "0"].map(str::to_owned), directory);
        low_level.succeeds(low_level.command().args(["run", "try"]).current_dir(low_level.bundle()))?;
        Ok(low_level)
    }

    fn bundle(&self) -> PathBuf {
        self.directory.join("bundle")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.arg("--root").arg(self.directory.join("state"));
        command
    }

    fn succeeds(&self, command: &mut Command) -> Result<(), String> {
        let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    fn configure(&self, args: &[String], directory: &Path) {
        let file = self.bundle().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let words = [longshore_demo_image::PROGRAM_PATH].into_iter().chain(args.iter().map(String::as_str));
        config["process"]["args"] = words.collect();
        config["process"]["terminal"] = json!(false);
        // Never empty: an empty one means the caller's own.
        config["linux"]["cgroupsPath"] = json!(format!("{}/app", self.cgroup));
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != MOUNT);
        mounts.push(json!({ "destination": MOUNT, "type": "bind", "source": directory, "options": ["bind", "rw"] }));
        fs::write(&file, config.to_string()).unwrap();
    }
}

impl Contender for LowLevel {
    fn version(&self) -> String {
        let said = output(Command::new(self.program).arg("--version")).stdout;
        String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned()
    }

    fn start(&mut self, trial: &Trial) -> Vec<(&'static str, Duration)> {
        if trial.kind != TrialKind::Process {
            return Vec::new();
        }
        self.configure(&trial.args(), &trial.directory);
        let name = format!("bench-{}", trial.number);
        let runs = trial.watch(std::net::Ipv4Addr::LOCALHOST);
        let begun = Timestamp::now();
        // Not to be waited for by its output: the container inherits it.
        let status = self
            .command()
            .args(["run", "--detach", "--bundle"])
            .arg(self.bundle())
            .arg(&name)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success());
        self.containers.push(name);
        vec![(self.row, between(begun, runs.join().unwrap()))]
    }

    fn remove(&mut self) {
        for container in std::mem::take(&mut self.containers) {
            self.succeeds(self.command().args(["delete", "--force", &container])).unwrap();
        }
    }

    fn start_idle(&mut self) {}

    fn processes(&self) -> Vec<Process> {
        Vec::new()
    }
}

impl Drop for LowLevel {
    fn drop(&mut self) {
        self.remove();
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_groups(&hierarchy.path().join(self.cgroup.trim_start_matches('/')));
        }
    }
}
