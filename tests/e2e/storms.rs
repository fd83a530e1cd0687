//! Storms: people create, stop, resume, retry and remove while server and agents are killed at random moments. When the
//! storm is over, everything must come to rest, and what rests must be true.
//!
//! The seed is printed; `LONGSHORE_STORM_SEED` plays it again (what the machine does in between differs, so a seed leads
//! close to what it found, not always to it).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use longshore_proto::v1;
use longshore_tests::client::{Client, seconds};
use longshore_tests::cluster::{Cluster, Node};
use longshore_tests::http;
use longshore_tests::spec::{app, restart, tcp, with_ports};
use longshore_tests::wait;
use tonic::Code;
use v1::{AppState, JobState, TaskState};

/// Rounds of a storm: with its settling about half a minute on a small machine.
const ROUNDS: usize = 36;
/// How long a storm may blow; a slow machine sees fewer rounds.
const STORM: Duration = Duration::from_secs(15);
/// Jobs of a storm, so that the machine is not full of containers.
const MAX_JOBS: usize = 8;
const NODES: [&str; 2] = ["left", "right"];

/// A small generator (SplitMix64), so that a seed is all that there is to a storm.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(sides).unwrap()).unwrap()
    }
}

fn seed() -> u64 {
    match std::env::var("LONGSHORE_STORM_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            u64::try_from(now.as_nanos() % 1_000_000_000).unwrap()
        }
    }
}

/// What a job was made to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Serves HTTP, so that its process can be told from another.
    Serves { instances: u32 },
    /// Ends at once with 0: started once and never again.
    Ends,
    /// Ends at once with 1.
    Fails,
}

/// A job that the server has acknowledged.
#[derive(Clone, Debug)]
struct Made {
    kind: Kind,
    app_name: String,
    nodes: usize,
}

/// Everything that the server has acknowledged.
///
/// The nodes stand before the cluster, since fields are dropped in their order: a node is reset in the cluster's directory.
struct Storm {
    nodes: Vec<Node>,
    cluster: Cluster,
    client: Client,
    dice: Dice,
    jobs: BTreeMap<String, Made>,
    removed: BTreeSet<String>,
    /// The numbers of processes of apps that had succeeded: they must never change.
    started: BTreeMap<(String, String, u32), String>,
}

impl Storm {
    async fn new(seed: u64) -> Self {
        let cluster = Cluster::start().await;
        let mut nodes = Vec::new();
        for name in NODES {
            nodes.push(cluster.node(name).await);
        }
        let client = cluster.client().await;
        Self {
            cluster,
            nodes,
            client,
            dice: Dice(seed),
            jobs: BTreeMap::new(),
            removed: BTreeSet::new(),
            started: BTreeMap::new(),
        }
    }

    async fn round(&mut self) {
        match self.dice.roll(12) {
            0..=2 => self.create().await,
            3 => self.stop().await,
            4 => self.resume().await,
            5 => self.retry().await,
            6 => self.remove().await,
            7..=9 => self.kill_agent(),
            10 => self.kill_server().await,
            _ => self.look().await,
        }
        let pause = self.dice.roll(300);
        tokio::time::sleep(Duration::from_millis(u64::try_from(pause).unwrap())).await;
    }

    async fn create(&mut self) {
        if self.jobs.len() >= MAX_JOBS {
            return;
        }
        let image = self.cluster.image();
        let serves = |instances| v1::AppSpec { instances, ..with_ports(app(&image, &["serve"]), &[tcp(8080, 0)]) };
        let (kind, spec) = match self.dice.roll(6) {
            0 => (Kind::Ends, restart(app(&image, &["exit", "0"]), v1::RestartPolicy::Never)),
            1 => (Kind::Fails, restart(app(&image, &["exit", "1"]), v1::RestartPolicy::Never)),
            2 => (Kind::Serves { instances: 3 }, serves(3)),
            _ => (Kind::Serves { instances: 1 }, serves(1)),
        };
        let node_names = match self.dice.roll(4) {
            0 => vec![NODES[0].to_owned()],
            1 => vec![NODES[1].to_owned()],
            _ => NODES.map(str::to_owned).to_vec(),
        };
        let nodes = node_names.len();
        let job = self
            .client
            .create_with(v1::CreateJobRequest {
                spec: Some(spec),
                targets: Some(v1::Targets { node_names, ..Default::default() }),
                timeout: Some(seconds(300)),
                ..Default::default()
            })
            .await;
        self.jobs.insert(job.job_id, Made { kind, app_name: job.app_name, nodes });
    }

    /// A job of the storm.
    fn any_job(&mut self) -> Option<String> {
        if self.jobs.is_empty() {
            return None;
        }
        let at = self.dice.roll(self.jobs.len());
        self.jobs.keys().nth(at).cloned()
    }

    async fn stop(&mut self) {
        let Some(job_id) = self.any_job() else { return };
        let cancel_in_flight = self.dice.roll(2) == 0;
        permitted(
            self.client.jobs.stop_job(v1::StopJobRequest { job_id, cancel_in_flight, ..Default::default() }).await,
        );
    }

    async fn resume(&mut self) {
        let Some(job_id) = self.any_job() else { return };
        permitted(self.client.jobs.resume_job(v1::ResumeJobRequest { job_id, ..Default::default() }).await);
    }

    async fn retry(&mut self) {
        let Some(job_id) = self.any_job() else { return };
        permitted(self.client.jobs.retry_job(v1::RetryJobRequest { job_id, ..Default::default() }).await);
    }

    async fn remove(&mut self) {
        let Some(job_id) = self.any_job() else { return };
        // One that has succeeded is never begun again, so that what is removed stays away.
        if self.client.job(&job_id).await.state() != JobState::Succeeded {
            return;
        }
        let app_name = self.jobs[&job_id].app_name.clone();
        let request = v1::RemoveAppRequest { app_name: app_name.clone(), ..Default::default() };
        if permitted(self.client.apps.remove_app(request).await) {
            self.removed.insert(app_name);
        }
    }

    fn kill_agent(&mut self) {
        let at = self.dice.roll(self.nodes.len());
        let node = &mut self.nodes[at];
        if self.dice.roll(3) > 0 && node.is_running() {
            node.kill();
            node.start();
        } else if node.is_running() {
            // It stays away for some rounds.
            node.kill();
        } else {
            node.start();
        }
    }

    async fn kill_server(&mut self) {
        self.cluster.kill_server();
        self.cluster.start_server().await;
        self.client = self.cluster.client().await;
    }

    /// Looks at every app whose task has succeeded: its processes are the ones that were seen first.
    async fn look(&mut self) {
        for (job_id, job) in self.jobs.clone() {
            let Kind::Serves { .. } = job.kind else { continue };
            for task in self.client.tasks(&job_id).await {
                if task.state() != TaskState::Succeeded || self.removed.contains(&job.app_name) {
                    continue;
                }
                let app = self.client.app(&task.node_name, &job.app_name).await;
                for port in app.status.unwrap_or_default().ports {
                    let number = number(port.host_port).await;
                    let number = number.unwrap_or_else(|error| panic!("{} does not answer: {error}", job.app_name));
                    let key = (task.node_name.clone(), job.app_name.clone(), port.instance);
                    let first = self.started.entry(key.clone()).or_insert_with(|| number.clone());
                    assert_eq!(*first, number, "{key:?} was started again");
                }
            }
        }
    }

    /// The storm is over: everything runs again, and what was stopped goes on.
    async fn calm(&mut self) {
        for node in &mut self.nodes {
            if !node.is_running() {
                node.start();
            }
        }
        for job_id in self.jobs.keys().cloned().collect::<Vec<_>>() {
            while self.client.rest(&job_id).await.state() == JobState::Stopped {
                permitted(
                    self.client
                        .jobs
                        .resume_job(v1::ResumeJobRequest { job_id: job_id.clone(), ..Default::default() })
                        .await,
                );
            }
        }
    }

    /// Holds what the server says against what was asked for.
    async fn tasks_are_true(&self) {
        for (job_id, made) in &self.jobs {
            let job = self.client.job(job_id).await;
            let expected = if made.kind == Kind::Fails { JobState::Failed } else { JobState::Succeeded };
            let tasks = self.client.tasks(job_id).await;
            assert_eq!(job.state(), expected, "{made:?} {tasks:#?}");
            assert_eq!((&job.app_name, tasks.len()), (&made.app_name, made.nodes));
        }
    }

    /// Holds what runs against what shall run.
    async fn nodes_are_true(&self) {
        for node in &self.nodes {
            let mut wanted: BTreeSet<String> = BTreeSet::new();
            for (job_id, job) in &self.jobs {
                let Kind::Serves { instances } = job.kind else { continue };
                let is_here = self.client.tasks(job_id).await.iter().any(|task| task.node_name == node.name());
                if is_here && !self.removed.contains(&job.app_name) {
                    wanted.extend((0..instances).map(|index| format!("{}-{index}", job.app_name)));
                }
            }
            wait::until(&format!("exactly the wanted containers on {}: {wanted:?}", node.name()), || {
                let mut running: Vec<String> = node.containers();
                running.sort();
                let is_so = running.iter().eq(wanted.iter());
                async move { is_so }
            })
            .await;
            wait::until(&format!("the apps' entries of {}", node.name()), || async {
                let apps = self.client.apps_of(node.name()).await;
                let is_settled = |app: &v1::App| {
                    let state = app.status.as_ref().map_or(AppState::Unspecified, v1::AppStatus::state);
                    !self.removed.contains(&app.app_name) && matches!(state, AppState::Running | AppState::Completed)
                };
                apps.iter().all(is_settled)
            })
            .await;
        }
    }
}

/// Whether a request was taken; one that does not fit the state of things is refused, and nothing else is allowed.
fn permitted<T>(answer: Result<tonic::Response<T>, tonic::Status>) -> bool {
    match answer {
        Ok(_) => true,
        Err(status) => {
            assert!(matches!(status.code(), Code::FailedPrecondition | Code::NotFound), "{status:?}");
            false
        }
    }
}

/// When the process behind a port was started.
async fn number(host_port: u32) -> std::io::Result<String> {
    let address: SocketAddr = format!("127.0.0.1:{host_port}").parse().unwrap();
    Ok(http::get(address, "/started").await?.body)
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stderr, reason = "the seed is how a failure is played again")]
async fn after_a_storm_everything_rests_and_is_true() {
    let seed = seed();
    eprintln!("LONGSHORE_STORM_SEED={seed}");
    let mut storm = Storm::new(seed).await;
    let begin = Instant::now();
    for _ in 0..ROUNDS {
        if begin.elapsed() > STORM {
            break;
        }
        storm.round().await;
    }
    storm.calm().await;
    storm.tasks_are_true().await;
    storm.nodes_are_true().await;
    storm.look().await;
    // And once more from what is on the disks alone.
    storm.kill_server().await;
    for node in &mut storm.nodes {
        node.kill();
        node.start();
    }
    storm.tasks_are_true().await;
    storm.nodes_are_true().await;
    storm.look().await;
}
