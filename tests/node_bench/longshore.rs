//! Longshore itself: a server, and a node with the embedded runtime.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use longshore_proto::v1;
use longshore_tests::client::{Client, seconds};
use longshore_tests::cluster::{Cluster, Node};
use longshore_tests::host::Host;
use longshore_tests::spec::{app, restart, tcp, with_ports};
use longshore_tests::wait;
use nix::unistd::Pid;
use tokio::runtime::Runtime;

use crate::trial::{MOUNT, PORT, Trial, TrialKind, between};
use crate::{Contender, Process};

/// The node's name.
const NODE: &str = "bench";

/// A server and its node, which stands before it: fields are dropped in their order.
pub(crate) struct Longshore {
    node: Node,
    cluster: Cluster,
    client: Client,
    host: Host,
    runtime: Runtime,
}

impl Longshore {
    /// Starts a server on the host of this thread and an agent on another one, with these further arguments.
    pub(crate) fn new(home: &Host, host: Host, arguments: &[&str]) -> Self {
        // One thread, which is on this host.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (cluster, node, client) = runtime.block_on(async {
            let cluster = Cluster::start_on(Some(home)).await;
            let node = cluster.node_with(NODE, &[], Some(&host), arguments).await;
            let client = cluster.client().await;
            (cluster, node, client)
        });
        Self { node, cluster, client, host, runtime }
    }

    fn spec(&self, trial: &Trial) -> v1::AppSpec {
        let args = trial.args();
        let spec = app(&self.cluster.image(), &args.iter().map(String::as_str).collect::<Vec<_>>());
        if trial.kind == TrialKind::Port {
            return with_ports(spec, &[tcp(PORT.into(), PORT.into())]);
        }
        let path = trial.directory.display().to_string();
        let source = Some(v1::volume::Source::HostPath(v1::HostPath { path, create: false }));
        let volume = v1::Volume { mount_path: MOUNT.to_owned(), read_only: false, source };
        restart(v1::AppSpec { volumes: vec![volume], ..spec }, v1::RestartPolicy::Never)
    }

    /// When the agent said that the app was assigned to it.
    fn assigned(&self, app: &str) -> Timestamp {
        let log = self.node.log();
        let line = log.lines().rev().find(|line| line.contains(" assigned ") && line.contains(app)).unwrap();
        line.split(' ').next().unwrap().parse().unwrap()
    }

    /// Fetches an image by a job, and returns how long that took.
    pub(crate) fn pull(&self, reference: &str) -> Duration {
        let reference = reference.to_owned();
        let source = Some(v1::image::Source::Reference(reference));
        let request = v1::CreateJobRequest {
            kind: v1::JobKind::Pull.into(),
            spec: Some(v1::AppSpec {
                name: "bench".to_owned(),
                image: Some(v1::Image { source, ..Default::default() }),
                ..Default::default()
            }),
            targets: Some(v1::Targets { node_names: vec![NODE.to_owned()], ..Default::default() }),
            timeout: Some(seconds(600)),
            ..Default::default()
        };
        let begun = Instant::now();
        let job = self.runtime.block_on(self.client.create_with(request));
        self.finish(&job);
        begun.elapsed()
    }

    /// Waits until the job is over, which no app can be removed before.
    fn finish(&self, job: &v1::Job) {
        let job = self.runtime.block_on(self.client.rest(&job.job_id));
        assert_eq!(job.state(), v1::JobState::Succeeded, "{job:?}");
    }
}

impl Contender for Longshore {
    fn version(&self) -> String {
        format!("longshore {}", env!("CARGO_PKG_VERSION"))
    }

    fn start(&mut self, trial: &Trial) -> Vec<(&'static str, Duration)> {
        let spec = self.spec(trial);
        let runs = trial.watch(self.host.address);
        let submitted = Timestamp::now();
        let job = self.runtime.block_on(self.client.create(spec, &[NODE]));
        let runs = runs.join().unwrap();
        self.finish(&job);
        let assigned = self.assigned(&job.app_name);
        vec![
            ("longshore, from the assignment's arrival", between(assigned, runs)),
            ("longshore, from CreateJob", between(submitted, runs)),
        ]
    }

    fn remove(&mut self) {
        let (client, runtime) = (&self.client, &self.runtime);
        runtime.block_on(async {
            for app in client.apps_of(NODE).await {
                let request = v1::RemoveAppRequest { app_name: app.app_name, ..Default::default() };
                client.apps.clone().remove_app(request).await.unwrap();
            }
            wait::until("the apps to be gone", || async { client.apps_of(NODE).await.is_empty() }).await;
        });
    }

    fn start_idle(&mut self) {
        let job = self.runtime.block_on(self.client.create(app(&self.cluster.image(), &["sleep"]), &[NODE]));
        self.finish(&job);
    }

    fn processes(&self) -> Vec<Process> {
        let shims = self.node.shims().into_iter();
        let shims = shims.map(|pid| Process { pid: Pid::from_raw(pid.cast_signed()), of_container: true });
        shims.chain([Process { pid: self.node.pid(), of_container: false }]).collect()
    }
}
