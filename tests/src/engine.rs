//! Debian's container engines, each in a host's network and in a directory of its own.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::host::Host;
use crate::process::{Running, output};
use crate::wait::PATIENCE;

/// Time between two looks at an engine.
const INTERVAL: Duration = Duration::from_millis(20);

/// Names of capabilities, in the order of the kernel's numbers.
const CAPABILITIES: &str = "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable \
     net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace \
     sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control \
     setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore";
/// runc, without the capabilities that are MISSING.
const BOUNDED_RUNC: &str = r#"#!/bin/sh
set -e
for word in "$@"; do
  if [ "$previous" = --bundle ]; then bundle=$word; fi
  previous=$word
done
if [ -n "$bundle" ]; then
  jq '.process.capabilities |= map_values(. - MISSING)' "$bundle/config.json" >"$bundle/bounded.json"
  mv "$bundle/bounded.json" "$bundle/config.json"
fi
exec runc "$@"
"#;

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Docker's daemon, with a containerd of its own.
    Docker,
    /// Podman's service.
    Podman,
}

/// An engine that runs. Dropping it ends it with its containers, and removes what it has made.
#[derive(Debug)]
pub struct Engine {
    kind: Kind,
    namespace: String,
    cgroup: String,
    directory: tempfile::TempDir,
    running: Option<Running>,
}

impl Engine {
    /// Starts it, and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it is not installed, or does not come up.
    pub fn start(kind: Kind, host: &Host) -> Self {
        let directory = tempfile::Builder::new().prefix("ls-engine-").tempdir().unwrap();
        // Beside the default ones, since those of several engines would be the same.
        let cgroup = format!("/{}", directory.path().file_name().unwrap().to_str().unwrap());
        let mut engine = Self { kind, namespace: host.namespace().to_owned(), cgroup, directory, running: None };
        if kind == Kind::Podman {
            engine.configure_podman();
        }
        engine.begin();
        engine
    }

    /// Starts it again.
    pub fn begin(&mut self) {
        let mut command = match self.kind {
            Kind::Docker => self.dockerd(),
            Kind::Podman => {
                let mut command = self.podman();
                command.args(["system", "service", "--time", "0"]).arg(self.address());
                command
            }
        };
        let mut running = Running::start(&mut command, &self.directory.path().join("log"));
        let deadline = Instant::now() + PATIENCE;
        while !self.answers() {
            assert!(running.ended().is_none() && Instant::now() < deadline, "no engine:\n{}", running.output());
            std::thread::sleep(INTERVAL);
        }
        self.running = Some(running);
    }

    /// Ends it in good order. Docker's containers end with it, Podman's do not.
    pub fn stop(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        // `nsenter` became the engine itself.
        kill(running.pid(), Signal::SIGTERM).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while running.ended().is_none() && Instant::now() < deadline {
            std::thread::sleep(INTERVAL);
        }
        drop(running);
        // Only where it had to be killed is there something left of it.
        for pid in ["docker.pid", "exec/containerd/containerd.pid"] {
            let pid = fs::read_to_string(self.directory.path().join(pid)).ok().and_then(|pid| pid.trim().parse().ok());
            if let Some(pid) = pid.filter(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = fs::remove_file(self.socket());
    }

    /// Where it listens, for the agent's `--docker-socket`.
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Where it keeps images and containers.
    pub fn root(&self) -> PathBuf {
        let name = match self.kind {
            Kind::Docker => "data",
            Kind::Podman => "root",
        };
        self.directory.path().join(name)
    }

    /// Sends it a request by hand, and returns the status and the body of the answer.
    pub fn request(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        self.try_request(method, path, body).unwrap()
    }

    fn try_request(&self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let length = body.len();
        // HTTP/1.0: an answer in one piece, and its end is the end.
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        Ok((status.ok_or(std::io::ErrorKind::InvalidData)?, body.to_owned()))
    }

    /// Its own command line, with what leads to this engine.
    pub fn command(&self) -> Command {
        match self.kind {
            Kind::Podman => self.podman(),
            Kind::Docker => {
                let mut command = self.in_namespace("docker");
                command.args(["--host", &self.address()]);
                command
            }
        }
    }

    /// Its processes, and of each whether there is one for each container.
    pub fn processes(&self) -> Vec<(Pid, bool)> {
        let here = self.directory.path().to_str().unwrap();
        let process = |entry: fs::DirEntry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?);
            let words = fs::read(entry.path().join("cmdline")).ok()?;
            let words = String::from_utf8_lossy(&words).into_owned();
            let program = words.split('\0').next()?.rsplit('/').next()?;
            let of_container = program.starts_with("conmon") || program.starts_with("containerd-shim");
            words.contains(here).then_some((pid, of_container))
        };
        fs::read_dir("/proc").unwrap().flatten().filter_map(process).collect()
    }

    fn answers(&self) -> bool {
        self.try_request("GET", "/_ping", "").is_ok_and(|(status, _)| status == 200)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("engine.sock")
    }

    fn in_namespace(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace)).arg(program);
        // Podman's monitors leave files where they were started.
        command.current_dir(self.directory.path());
        command
    }

    fn dockerd(&self) -> Command {
        let directory = self.directory.path();
        let mut command = self.in_namespace("dockerd");
        command.arg("--data-root").arg(directory.join("data"));
        command.arg("--exec-root").arg(directory.join("exec"));
        command.arg("--pidfile").arg(directory.join("docker.pid"));
        command.args(["--host", &self.address(), "--cgroup-parent", &self.cgroup]);
        if let Some(runtime) = self.bounded_runtime() {
            command.arg("--add-runtime").arg(format!("bounded={}", runtime.display()));
            command.args(["--default-runtime", "bounded"]);
        }
        command
    }

    /// Debian's Docker gives a privileged container every capability that the kernel has, and fails on a machine that
    /// keeps one of them from root. There it gets a runtime that leaves out what is missing.
    fn bounded_runtime(&self) -> Option<PathBuf> {
        let read = |path: &str| fs::read_to_string(path).unwrap();
        let last: usize = read("/proc/sys/kernel/cap_last_cap").trim().parse().unwrap();
        let status = read("/proc/self/status");
        let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim();
        let bounding = u64::from_str_radix(bounding, 16).unwrap();
        let names = CAPABILITIES.split_whitespace().take(last + 1).enumerate();
        let missing: Vec<String> = names
            .filter(|(number, _)| bounding & (1 << number) == 0)
            .map(|(_, name)| format!("CAP_{}", name.to_uppercase()))
            .collect();
        if missing.is_empty() {
            return None;
        }
        let path = self.directory.path().join("bounded-runc");
        let text = BOUNDED_RUNC.replace("MISSING", &json!(missing).to_string());
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Some(path)
    }

    fn podman(&self) -> Command {
        let directory = self.directory.path();
        let mut command = self.in_namespace("podman");
        command.env("CONTAINERS_CONF", directory.join("containers.conf"));
        for (option, name) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(option).arg(directory.join(name));
        }
        command
    }

    /// Podman as it has to be where no systemd runs, and as a machine allows that lowers the limits of its root.
    fn configure_podman(&self) {
        let (_, files) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        let (_, processes) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NPROC).unwrap();
        let networks = self.directory.path().join("networks");
        let text = format!(
            "[containers]\ndefault_ulimits = [\"nofile={0}:{0}\", \"nproc={1}:{1}\"]\n\
             [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
             [network]\nnetwork_backend = \"cni\"\nnetwork_config_dir = \"{2}\"\n",
            files.min(1 << 20),
            processes.min(1 << 20),
            networks.display(),
        );
        fs::write(self.directory.path().join("containers.conf"), text).unwrap();
        let range = json!([[{ "subnet": "10.88.0.0/16", "gateway": "10.88.0.1" }]]);
        let addresses = json!({
            "type": "host-local",
            "dataDir": self.directory.path().join("addresses"),
            "routes": [{ "dst": "0.0.0.0/0" }],
            "ranges": range,
        });
        let bridge = json!({
            "type": "bridge", "bridge": "cni-podman0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
            "ipam": addresses,
        });
        let ports = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
        let network = json!({ "cniVersion": "0.4.0", "name": "podman", "plugins": [bridge, ports] });
        fs::create_dir(&networks).unwrap();
        fs::write(networks.join("87-podman.conflist"), network.to_string()).unwrap();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.kind == Kind::Podman {
            output(self.podman().args(["rm", "--all", "--force", "--time", "0"]));
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            let from = log.len().saturating_sub(4000);
            eprintln!("--- log of the engine:\n{}", log.get(from..).unwrap_or(&log));
        }
        self.stop();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        for point in points.filter(|point| Path::new(point).starts_with(self.directory.path())).rev() {
            let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_groups(&hierarchy.path().join(self.cgroup.trim_start_matches('/')));
        }
    }
}

/// Removes cgroups from the innermost on; the files in them are the kernel's.
pub fn remove_groups(group: &Path) {
    for inner in fs::read_dir(group).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove_groups(&inner.path());
    }
    let _ = fs::remove_dir(group);
}
