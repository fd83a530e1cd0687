//! The agent's session against a scripted server, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may stop at once")]

mod server;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use longshore_agent::bandwidth::Bandwidth;
use longshore_agent::clock::Clock;
use longshore_agent::ledger::Ledger;
use longshore_agent::ports::PortTable;
use longshore_agent::reporter::Reporter;
use longshore_agent::runtime::fake::{FakeRuntime, Machine};
use longshore_agent::runtime::{Allowances, InstanceKey};
use longshore_agent::session::{self, Link};
use longshore_agent::supervisor::{Context, Supervisor};
use longshore_model::name::{AppName, NodeName};
use longshore_model::usage::{NodeFigures, Sample};
use longshore_proto::v1;
use longshore_proto::v1::open_session_response::Message as Response;
use prost::Message as _;
use server::Scripted;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

struct Agent {
    machine: Machine,
    measured: watch::Sender<Option<Arc<Sample>>>,
    _directory: tempfile::TempDir,
    _end: tokio_util::sync::DropGuard,
}

impl Agent {
    async fn start(server: &Scripted) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::new(Timestamp::now());
        let context = Arc::new(Context {
            keyring: Arc::new(longshore_agent::keyring::ServerKeyring::new(watch::Sender::new(None).subscribe())),
            configurations: Arc::new(longshore_agent::configuration::ServerSource::new(
                watch::Sender::new(None).subscribe(),
            )),
            kept: longshore_agent::configuration::Cache::new(
                directory.path().join("configuration"),
                directory.path().join("configuration.key"),
            ),
            runtime: Arc::new(FakeRuntime::new(machine.clone())),
            ledger: Ledger::open(directory.path().join("ledger")).unwrap(),
            reporter: Reporter::default(),
            host_paths: longshore_agent::host_path::HostPaths::default(),
            allowances: Allowances::all(),
            accelerators: longshore_agent::accelerators::AcceleratorTable::new(Default::default()),
            capacity: longshore_agent::capacity::CapacityTable::default(),
            collection: longshore_agent::runtime::image::Collection::default(),
            ports: PortTable::default(),
            probes: Semaphore::new(1),
            clock: Clock::starting_at(Timestamp::now()),
            node: NodeName::parse("edge-1").unwrap(),
            host_ip: watch::Sender::new(None),
            addresses: watch::Sender::new(()),
        });
        let mut supervisor = Supervisor::start(Arc::clone(&context)).await.unwrap();
        let measured = watch::Sender::new(None);
        let link = Link {
            usage: measured.subscribe(),
            connect: server.connector(),
            host_ip: Arc::new(|| None),
            live: watch::Sender::new(None),
            log_bandwidth: Arc::new(Bandwidth::per_second(0)),
            openness: session::channels::Openness::default(),
            context,
        };
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        tokio::spawn(async move { session::run(&link, &mut supervisor, &token).await });
        Self { machine, measured, _directory: directory, _end: shutdown.drop_guard() }
    }

    fn starts(&self) -> u32 {
        self.machine.starts(&InstanceKey { app: AppName::parse("till-abc").unwrap(), index: 0 })
    }
}

fn deploy() -> v1::Assignment {
    let source = Some(v1::image::Source::Reference("fake/app:1".to_owned()));
    let spec = v1::AppSpec {
        name: "till".to_owned(),
        image: Some(v1::Image { source, ..v1::Image::default() }),
        instances: 1,
        ..v1::AppSpec::default()
    };
    v1::Assignment {
        app_name: "till-abc".to_owned(),
        revision: 1,
        job_id: "01jd0000000000000000000000".to_owned(),
        attempt: 1,
        order: v1::Order::Deploy.into(),
        app_spec: spec.encode_to_vec().into(),
        ..v1::Assignment::default()
    }
}

fn app_state(report: &v1::Report) -> Option<v1::AppState> {
    match report.subject.as_ref()? {
        v1::report::Subject::App(app) => Some(app.status.as_ref()?.state()),
        v1::report::Subject::Task(_) => None,
    }
}

#[tokio::test(start_paused = true)]
async fn an_assignment_is_deployed_and_reported() {
    let mut server = Scripted::start();
    let agent = Agent::start(&server).await;
    let mut peer = server.session().await;
    peer.full(Vec::new()).await;
    peer.update(2, vec![deploy()], Vec::new()).await;
    peer.until(v1::TaskState::Succeeded).await;
    assert_eq!(agent.starts(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_measured_is_said_to_servers_that_take_it_and_only_what_is_new() {
    let measured = |disk_free| {
        let figures = NodeFigures { disk_total: 100, disk_free, ..NodeFigures::default() };
        Some(Arc::new(Sample { figures, ..Sample::default() }))
    };
    let mut server = Scripted::start();
    let agent = Agent::start(&server).await;
    let mut older = server.session().await;
    older.full(Vec::new()).await;
    agent.measured.send_replace(measured(1));
    // The first word is of the app, though there was something to say before.
    older.update(2, vec![deploy()], Vec::new()).await;
    older.until(v1::TaskState::Succeeded).await;
    older.end(Status::unavailable("the server goes away")).await;

    server.takes_usage = true;
    let mut newer = server.session().await;
    newer.full(vec![deploy()]).await;
    newer.until(v1::TaskState::Succeeded).await;
    agent.measured.send_replace(measured(2));
    let report = loop {
        match newer.receive().await {
            Some(server::Request::Usage(report)) => break report,
            Some(server::Request::Report(report)) => newer.acknowledge(report.sequence).await,
            other => panic!("unexpected: {other:?}"),
        }
    };
    assert!(report.node_time.is_some());
    assert_eq!(report.figures.unwrap().disk_free_bytes, 2);
}

#[tokio::test(start_paused = true)]
async fn a_gap_ends_the_stream_and_the_next_session_starts_over() {
    let mut server = Scripted::start();
    let agent = Agent::start(&server).await;
    let mut peer = server.session().await;
    peer.full(Vec::new()).await;
    peer.update(3, vec![deploy()], Vec::new()).await;
    while peer.receive().await.is_some() {}
    let mut peer = server.session().await;
    assert_eq!(agent.starts(), 0, "what came after the gap was not acted on");
    peer.full(vec![deploy()]).await;
    peer.until(v1::TaskState::Succeeded).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_not_acknowledged_is_sent_again() {
    let mut server = Scripted::start();
    let _agent = Agent::start(&server).await;
    let mut peer = server.session().await;
    peer.full(vec![deploy()]).await;
    let mut seen = Vec::new();
    // Nothing is acknowledged: the agent may not send more than eight, and keeps the newest of each subject.
    for _ in 0..3 {
        seen.push(peer.report().await.sequence);
    }
    assert_eq!(seen, [1, 2, 3]);
    drop(peer);
    // Nobody hears of what comes meanwhile, the success among it.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let mut peer = server.session().await;
    let again = [peer.report().await, peer.report().await];
    assert_eq!([again[0].sequence, again[1].sequence], [1, 2], "sequences begin anew");
    let is_success = |report: &v1::Report| match &report.subject {
        Some(v1::report::Subject::Task(task)) => task.state() == v1::TaskState::Succeeded,
        _ => false,
    };
    assert!(again.iter().any(is_success), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn silence_stops_nothing_and_an_empty_set_does() {
    let mut server = Scripted::start();
    let agent = Agent::start(&server).await;
    let mut peer = server.session().await;
    peer.full(vec![deploy()]).await;
    peer.until(v1::TaskState::Succeeded).await;
    drop(peer);
    let mut peer = server.session().await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(agent.starts(), 1);
    peer.full(Vec::new()).await;
    loop {
        let report = peer.report().await;
        peer.acknowledge(report.sequence).await;
        if app_state(&report) == Some(v1::AppState::Removed) {
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_followed_by_a_new_dial_within_the_time_told() {
    let mut server = Scripted::start();
    let _agent = Agent::start(&server).await;
    let peer = server.session().await;
    let begin = Instant::now();
    let within = Some(prost_types::Duration { seconds: 20, nanos: 0 });
    peer.send(Response::Drain(v1::Drain { reconnect_within: within })).await;
    server.session().await;
    assert!(begin.elapsed() <= Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn a_fenced_or_refused_agent_dials_slowly() {
    for status in [Status::aborted("fenced"), Status::unauthenticated("deleted")] {
        let mut server = Scripted::start();
        let _agent = Agent::start(&server).await;
        let peer = server.session().await;
        let begin = Instant::now();
        peer.end(status).await;
        server.session().await;
        assert!(begin.elapsed() >= Duration::from_secs(30));
    }
}

#[tokio::test(start_paused = true)]
async fn logs_are_uploaded_on_request_and_absent_ones_named_so() {
    let mut server = Scripted::start();
    let _agent = Agent::start(&server).await;
    let mut peer = server.session().await;
    peer.full(vec![deploy()]).await;
    peer.until(v1::TaskState::Succeeded).await;
    for (instance, found) in [(0, true), (7, false)] {
        let request_id = format!("reader-{instance}");
        let app_name = "till-abc".to_owned();
        let request =
            v1::LogRequest { request_id: request_id.clone(), app_name, instance, tail_lines: 5, ..Default::default() };
        peer.send(Response::Logs(request)).await;
        let first = server.uploads.recv().await.unwrap();
        assert_eq!((first.request_id, first.not_found), (request_id, !found));
        if found {
            let piece = server.uploads.recv().await.unwrap();
            assert_eq!(piece.lines[0].text.as_ref(), b"run 1 started");
            assert!(server.uploads.recv().await.unwrap().complete);
        }
    }
}
