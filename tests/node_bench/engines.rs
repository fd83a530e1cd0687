//! Docker and Podman, by their own command lines.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use longshore_tests::engine::{Engine, Kind};
use longshore_tests::host::Host;
use longshore_tests::process::succeed;

use crate::trial::{MOUNT, PORT, Trial, TrialKind, between};
use crate::{Contender, IMAGE, Process};

/// An engine.
pub(crate) struct EngineContender {
    kind: Kind,
    engine: Engine,
    host: Host,
    containers: Vec<String>,
    idle: usize,
}

impl EngineContender {
    /// Starts it on a host, and gives it the image.
    pub(crate) fn new(kind: Kind, host: Host, archive: &Path) -> Self {
        let engine = Engine::start(kind, &host);
        succeed(engine.command().args(["load", "--input"]).arg(archive));
        Self { kind, engine, host, containers: Vec::new(), idle: 0 }
    }

    /// Starts a container with these options and words.
    fn run(&mut self, name: String, options: &[String], args: &[String]) {
        let mut command = self.engine.command();
        command.args(["run", "--detach", "--pull", "never", "--name", &name]).args(options).arg(IMAGE).args(args);
        succeed(&mut command);
        self.containers.push(name);
    }
}

/// An engine's name and version.
pub(crate) fn version(kind: Kind, engine: &Engine) -> String {
    let (_, said) = engine.request("GET", "/version", "");
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    format!("{} {}", if kind == Kind::Docker { "docker" } else { "podman" }, said["Version"].as_str().unwrap())
}

impl Contender for EngineContender {
    fn version(&self) -> String {
        version(self.kind, &self.engine)
    }

    fn start(&mut self, trial: &Trial) -> Vec<(&'static str, Duration)> {
        let options = match trial.kind {
            TrialKind::Process => ["--volume".to_owned(), format!("{}:{MOUNT}", trial.directory.display())],
            TrialKind::Port => ["--publish".to_owned(), format!("{PORT}:{PORT}")],
        };
        let row = if self.kind == Kind::Docker { "docker run --detach" } else { "podman run --detach" };
        let runs = trial.watch(self.host.address);
        let begun = Timestamp::now();
        self.run(format!("bench-{}", trial.number), &options, &trial.args());
        vec![(row, between(begun, runs.join().unwrap()))]
    }

    fn remove(&mut self) {
        for container in std::mem::take(&mut self.containers) {
            succeed(self.engine.command().args(["rm", "--force", &container]));
        }
    }

    fn start_idle(&mut self) {
        self.idle += 1;
        self.run(format!("idle-{}", self.idle), &[], &["sleep".to_owned()]);
    }

    fn processes(&self) -> Vec<Process> {
        let processes = self.engine.processes().into_iter();
        processes.map(|(pid, of_container)| Process { pid, of_container }).collect()
    }
}
