//! How fast the store is on this machine: `cargo bench -p longshore-server --bench store [-- NODES]`.
//!
//! Prints one line for each measure. The disk's flush decides much of it, so its time is printed first. The database is
//! made in the target directory: a temporary directory in memory would flatter.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use jiff::Timestamp;
use longshore_model::admission::Fingerprint;
use longshore_model::clock::Clock;
use longshore_model::job::{Control, Job, TaskCounts};
use longshore_model::kind::JobKind;
use longshore_model::name::{AppName, JobId, NodeName, SessionId};
use longshore_model::node::NodeInfo;
use longshore_model::report::TaskReport;
use longshore_model::rollout::Rollout;
use longshore_model::spec::{AppSpec, ImageSource, Network};
use longshore_model::task::TaskState;
use longshore_server::store::{
    Change, Enrolling, NewJob, NodeReport, Observer, SqliteStore, Store, StoredToken, Terms,
};
use tokio::task::JoinSet;

/// Nodes when none are named: the fleet that one server process is built for.
const NODES: usize = 10_000;
/// Bytes of the encoded spec.
const SPEC: usize = 1024;
/// Tasks assigned by one write, as the controller does.
const ASSIGNED: usize = 1000;
/// What each node reports, one after the other.
const REPORTS: [TaskState; 3] = [TaskState::Pulling, TaskState::Starting, TaskState::Succeeded];
/// Flushes whose median is printed.
const FLUSHES: usize = 101;

#[derive(Default)]
struct Counter {
    commits: AtomicUsize,
    changes: AtomicUsize,
}

impl Observer for Counter {
    fn committed(&self, changes: Vec<Change>) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.changes.fetch_add(changes.len(), Ordering::Relaxed);
    }
}

fn main() -> Result<()> {
    // Cargo passes flags of its own, such as --bench.
    let nodes = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let nodes = nodes.map_or(Ok(NODES), |text| text.parse()).context("the number of nodes")?;
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    println!("median flush of the disk {:>14.2?}", median_flush(directory.path())?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(directory.path(), nodes))
}

fn median_flush(directory: &Path) -> Result<Duration> {
    let mut file = std::fs::File::create(directory.join("flush"))?;
    let mut times = Vec::new();
    for _ in 0..FLUSHES {
        file.write_all(&[0; 4096])?;
        let start = Instant::now();
        file.sync_data()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times.get(FLUSHES / 2).copied().context("no times")
}

async fn measure(directory: &Path, nodes: usize) -> Result<()> {
    let counter = Arc::new(Counter::default());
    let store = Arc::new(SqliteStore::open(&directory.join("bench.db"), counter.clone())?);
    let names =
        (0..nodes).map(|number| NodeName::parse(&format!("node-{number:05}"))).collect::<Result<Vec<_>, _>>()?;
    let measured = |what: &str, writes: usize, start: Instant| {
        let time = start.elapsed();
        let rate = writes as f64 / time.as_secs_f64();
        let commits = counter.commits.swap(0, Ordering::Relaxed);
        println!("{what:<24} {time:>14.2?} {rate:>10.0}/s in {commits} commits");
    };

    let start = Instant::now();
    enroll(&store, &names).await?;
    measured("enrol nodes", nodes, start);

    let job = new_job(&names)?;
    let (id, start) = (job.job.id.clone(), Instant::now());
    store.create_job(job).await?;
    measured("create a job for all", nodes, start);

    let start = Instant::now();
    loop {
        let picks = store.assignable(Arc::new(|_| true), ASSIGNED).await?;
        if picks.is_empty() {
            break;
        }
        store.assign(picks, Timestamp::now()).await?;
    }
    measured("assign all", nodes, start);

    let start = Instant::now();
    open_sessions(&store, &names).await?;
    measured("open sessions", nodes, start);

    let start = Instant::now();
    report(&store, &names, &id).await?;
    measured("three reports from each", nodes * REPORTS.len(), start);
    println!("the job is {}", store.job(&id).await?.state());
    Ok(())
}

/// Runs one write for each node, all of them at once.
async fn for_each_node<F>(names: &[NodeName], write: impl Fn(NodeName) -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let mut writes: JoinSet<Result<()>> = names.iter().cloned().map(write).collect();
    while let Some(ended) = writes.join_next().await {
        ended??;
    }
    Ok(())
}

async fn enroll(store: &Arc<SqliteStore>, names: &[NodeName]) -> Result<()> {
    for_each_node(names, |name| {
        let store = store.clone();
        async move {
            let expire_time = Timestamp::MAX;
            let id = name.to_string();
            let token = StoredToken::single(&id, [1; 32], Timestamp::now(), expire_time);
            store.create_token(token, Terms::default()).await?;
            let key = Fingerprint([0; 32]);
            let address = IpAddr::from([127, 0, 0, 1]);
            let request = Enrolling { token_id: id, secret_hash: [1; 32], node: name, key, address };
            store.enroll(request, Timestamp::now()).await?;
            Ok(())
        }
    })
    .await
}

async fn open_sessions(store: &Arc<SqliteStore>, names: &[NodeName]) -> Result<()> {
    let info = NodeInfo {
        agent_version: "0.1.0".to_owned(),
        architecture: "amd64".to_owned(),
        kernel_release: "6.1.0".to_owned(),
        cpus: 4,
        memory_bytes: 1 << 32,
        interfaces: Vec::new(),
        capabilities: Vec::new(),
        runtime: "embedded".to_owned(),
        host_ip: None,
        allocatable: None,
        host_paths: None,
        accelerators: Vec::new(),
    };
    let session = SessionId::parse(&"1".repeat(26))?;
    for_each_node(names, |name| {
        let (store, session, info) = (store.clone(), session.clone(), info.clone());
        async move { Ok(store.open_session(&name, &session, info, Timestamp::now()).await?) }
    })
    .await
}

async fn report(store: &Arc<SqliteStore>, names: &[NodeName], id: &JobId) -> Result<()> {
    for_each_node(names, |name| {
        let (store, id) = (store.clone(), id.clone());
        async move {
            for state in REPORTS {
                let report = TaskReport { job: id.clone(), attempt: 1, state, pull: None, failure: None };
                store.report(&name, vec![NodeReport::Task(report)], Timestamp::now()).await?;
            }
            Ok(())
        }
    })
    .await
}

fn new_job(nodes: &[NodeName]) -> Result<NewJob> {
    let source = ImageSource::Reference("registry.test/web:1".to_owned());
    let spec = AppSpec { network: Network::Host, ..AppSpec::new("web", source) };
    let (now, timeout) = (Timestamp::now(), Duration::from_secs(600));
    let job = Job {
        id: JobId::parse(&"1".repeat(26))?,
        kind: JobKind::Deploy,
        app: AppName::parse("web-1")?,
        spec: Arc::new(spec),
        spec_revision: 1,
        rollout: Rollout::default(),
        timeout,
        control: Control::Run,
        clock: Clock::start(now, timeout),
        round: 1,
        counts: TaskCounts { pending: u32::try_from(nodes.len())?, ..TaskCounts::default() },
        create_time: now,
        start_time: None,
        end_time: None,
        creator: "bench".to_owned(),
        version: 1,
        warnings: Vec::new(),
        template: None,
    };
    Ok(NewJob { job, spec: Bytes::from(vec![0; SPEC]), nodes: nodes.to_vec(), request: None, cause: None })
}
