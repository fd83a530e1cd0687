//! Loads a built server with many agents and prints what that takes.
//!
//! Each agent is a task of this process with its own node certificate, its own TLS connection and its own session; see
//! `agent.rs` for what it leaves out. All of them and the server share this machine's cores, in a network namespace of
//! their own, so that the loopback's counters are theirs alone. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program whose output is its figures, and that should say where it cannot go on"
)]

mod agent;
mod board;
mod enroll;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use longshore_proto::v1;
use longshore_tests::client::{Client, seconds};
use longshore_tests::cluster::Cluster;
use longshore_tests::process::succeed;
use longshore_tests::spec;
use longshore_tests::usage::{self, Memory};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::watch;

use crate::agent::Agent;
use crate::board::Board;

/// Reports of one task.
const REPORTS_PER_TASK: usize = 3;
/// Bytes that make a spec one of some 1 KB.
const FILLER: usize = 900;

/// Loads a server with many agents and prints what that takes.
#[derive(Debug, Parser)]
struct Args {
    /// Agents; each takes a descriptor here and one in the server.
    #[arg(long, default_value_t = 1000)]
    agents: usize,
    /// Jobs for all agents, one after the other.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Seconds to watch the idle fleet.
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Seconds to leave the connected fleet alone before the jobs, for a profiler to be attached to the server.
    #[arg(long, default_value_t = 0)]
    pause: u64,
}

fn main() {
    let args = Args::parse();
    // Before any thread starts: a namespace belongs to a thread and those that it starts.
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace takes root");
    succeed(Command::new("ip").args(["link", "set", "lo", "up"]));
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(measure(&args));
    // Thousands of agents need not say good-bye one by one.
    runtime.shutdown_background();
}

async fn measure(args: &Args) {
    let count = args.agents;
    let cores = std::thread::available_parallelism().unwrap();
    println!("{count} agents and the server on {cores} cores; load before: {}", usage::load());
    println!("{:42} {:>9} {:>11}", "", "seconds", "server CPU");
    let mut cluster = Cluster::start().await;
    let phase = Phase::begin("enrol (real RPCs, not a base)", &cluster);
    let credentials = enroll::enroll(&cluster, count).await;
    phase.end(&cluster);

    // A fresh process, so that its memory before is that of a server that has done nothing yet.
    assert!(cluster.stop_server(), "the server ended badly:\n{}", cluster.server_log());
    cluster.start_server().await;
    let client = cluster.client().await;
    let before = Memory::of(cluster.server_pid());
    let fleet = Fleet::start(&cluster, credentials);
    fleet.connect(Phase::begin("connect, all at once", &cluster), &cluster).await;
    tokio::time::sleep(Duration::from_secs(args.pause)).await;
    for number in 1..=args.jobs {
        fleet.job(number, &cluster, &client).await;
    }
    fleet.memory(before, Memory::of(cluster.server_pid()));
    fleet.idle(Duration::from_secs(args.idle), &cluster).await;
    fleet.restart(&mut cluster).await;
    fleet.memory(before, Memory::of(cluster.server_pid()));
    println!("load after: {}", usage::load());
    fleet.dial.send_replace(false);
}

/// Something that takes time here and CPU in the server.
struct Phase {
    name: String,
    start: Instant,
    cpu: Duration,
}

impl Phase {
    fn begin(name: impl Into<String>, cluster: &Cluster) -> Self {
        Self { name: name.into(), start: Instant::now(), cpu: usage::cpu(cluster.server_pid()) }
    }

    fn end(self, cluster: &Cluster) -> Duration {
        let took = self.start.elapsed();
        let cpu = usage::cpu(cluster.server_pid()) - self.cpu;
        println!("{:42} {:9.3} {:9.2} s", self.name, took.as_secs_f64(), cpu.as_secs_f64());
        took
    }
}

/// The agents.
struct Fleet {
    count: usize,
    board: Arc<Board>,
    dial: watch::Sender<bool>,
}

impl Fleet {
    fn start(cluster: &Cluster, credentials: Vec<longshore_tls::Credentials>) -> Self {
        let (board, dial) = (Arc::<Board>::default(), watch::Sender::new(false));
        let (count, server) = (credentials.len(), Arc::<str>::from(cluster.agents_address()));
        for credentials in credentials {
            let agent = Agent { credentials, server: Arc::clone(&server), board: Arc::clone(&board) };
            tokio::spawn(agent.run(dial.subscribe()));
        }
        Self { count, board, dial }
    }

    /// Lets all agents dial at this moment, and waits until each has its full set.
    async fn connect(&self, phase: Phase, cluster: &Cluster) {
        self.dial.send_replace(true);
        self.board.connected.reaches(self.count).await;
        phase.end(cluster);
        println!("{:42} {:9}", "  attempts that failed and were made again", self.board.failed.take());
    }

    async fn job(&self, number: usize, cluster: &Cluster, client: &Client) {
        let total = self.count * REPORTS_PER_TASK;
        self.board.assigned.take();
        self.board.acknowledged.take();
        let assigning = Phase::begin(format!("job {number}: submit to last assignment held"), cluster);
        let acknowledging = Phase::begin(format!("job {number}: submit to last report acknowledged"), cluster);
        let succeeding = Phase::begin(format!("job {number}: submit to SUCCEEDED"), cluster);
        let submitted = async {
            let job = client.create_with(everywhere()).await;
            let job = client.rest(&job.job_id).await;
            assert_eq!(job.state(), v1::JobState::Succeeded, "{job:?}");
            succeeding.end(cluster);
        };
        let assigned = async {
            self.board.assigned.reaches(self.count).await;
            assigning.end(cluster);
        };
        let acknowledged = async {
            self.board.acknowledged.reaches(total).await;
            acknowledging.end(cluster)
        };
        let ((), (), took) = tokio::join!(submitted, assigned, acknowledged);
        let rate = u32::try_from(total).map(f64::from).unwrap() / took.as_secs_f64();
        println!("{:42} {rate:9.0}", "  reports committed per second, from submit");
    }

    fn memory(&self, before: Memory, after: Memory) {
        let each = |before: u64, after: u64| after.saturating_sub(before) / u64::try_from(self.count).unwrap();
        let (rss, pss) = (each(before.rss, after.rss), each(before.pss, after.pss));
        println!("{:42} {pss:9} (RSS {rss}; the server alone has {})", "server bytes per agent (PSS)", before.pss);
    }

    async fn idle(&self, time: Duration, cluster: &Cluster) {
        if time.is_zero() {
            return;
        }
        let (cpu, wire) = (usage::cpu(cluster.server_pid()), usage::wire());
        tokio::time::sleep(time).await;
        let (cpu, wire) = (usage::cpu(cluster.server_pid()) - cpu, usage::wire() - wire);
        let agents = u32::try_from(self.count).unwrap();
        let per_second = |total: f64| total / time.as_secs_f64() / f64::from(agents);
        let microseconds = per_second(cpu.as_secs_f64()) * 1e6;
        println!("{:42} {microseconds:9.2} µs of CPU a second", "idle server, per agent");
        let bytes = per_second(f64::from(u32::try_from(wire).unwrap()));
        println!("{:42} {bytes:9.2} bytes a second, TCP/IP headers included", "idle wire, per agent");
        assert_eq!(self.board.connected.get(), self.count, "sessions were lost while the fleet was idle");
    }

    /// Kills the server, and lets all agents dial at the moment at which it listens again.
    async fn restart(&self, cluster: &mut Cluster) {
        self.dial.send_replace(false);
        cluster.kill_server();
        self.board.connected.is(|connected| connected == 0).await;
        cluster.start_server().await;
        let phase = Phase::begin("reconnect after SIGKILL, all at once", cluster);
        self.connect(phase, cluster).await;
    }
}

/// A job of some 1 KB for every node.
fn everywhere() -> v1::CreateJobRequest {
    let mut spec = spec::app("/srv/image.tar", &["serve"]);
    spec.env =
        vec![v1::EnvVar { name: "FILLER".to_owned(), source: Some(v1::env_var::Source::Value("x".repeat(FILLER))) }];
    let selector = format!("{}={}", enroll::LABEL.0, enroll::LABEL.1);
    v1::CreateJobRequest {
        spec: Some(spec),
        targets: Some(v1::Targets { selector, ..Default::default() }),
        timeout: Some(seconds(600)),
        ..Default::default()
    }
}
