//! A node under test: a supervisor with the fake runtime, and a server that acknowledges everything.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use longshore_agent::accelerators::{AcceleratorTable, Sources};
use longshore_agent::capacity::CapacityTable;
use longshore_agent::clock::Clock;
use longshore_agent::ledger::Ledger;
use longshore_agent::ports::PortTable;
use longshore_agent::reporter::{Report, Reporter};
use longshore_agent::runtime::fake::{FakeRuntime, Machine};
use longshore_agent::runtime::image::Collection;
use longshore_agent::runtime::{Allowances, FoundState, InstanceKey};
use longshore_agent::supervisor::{Context, MAX_PROBES_AT_ONCE, Supervisor};
use longshore_model::app::{AppState, AppStatus};
use longshore_model::assignment::{Assignment, ImageAccess, Order};
use longshore_model::capability;
use longshore_model::capacity::Amounts;
use longshore_model::name::{AppName, JobId, NodeName};
use longshore_model::node::Labels;
use longshore_model::report::TaskReport;
use longshore_model::spec::{AppSpec, ImageSource, Startup};
use longshore_model::task::TaskState;
use tokio::sync::{Semaphore, watch};

/// Far more virtual time than any test needs: reaching it means that what is waited for never comes.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

pub(crate) struct Node {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) machine: Machine,
    pub(crate) supervisor: Supervisor,
    pub(crate) context: Arc<Context>,
    /// Every task report that arrived.
    pub(crate) tasks: Vec<TaskReport>,
    /// The newest status that arrived of each app.
    pub(crate) apps: Vec<(AppName, AppStatus)>,
    /// Revision and attempt of the newest status that arrived.
    pub(crate) said: (u64, u32),
}

impl Node {
    pub(crate) async fn new() -> Self {
        Self::able_to(&capability::ALL).await
    }

    /// With a runtime that can do only so much, until a restart.
    pub(crate) async fn able_to(capabilities: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::new(Timestamp::now());
        let runtime = FakeRuntime::able_to(machine.clone(), capabilities);
        let context = context_with(directory.path().join("ledger"), runtime);
        let supervisor = Supervisor::start(Arc::clone(&context)).await.unwrap();
        Self { directory, machine, supervisor, context, tasks: Vec::new(), apps: Vec::new(), said: (0, 0) }
    }

    /// The agent is killed and started again; its containers live on.
    pub(crate) async fn restart(&mut self) {
        self.kill().await;
        self.begin().await;
    }

    /// The agent is killed in the middle of whatever it is doing.
    pub(crate) async fn kill(&mut self) {
        let idle = context(self.directory.path().join("unused"), &Machine::new(Timestamp::now()));
        drop(std::mem::replace(&mut self.supervisor, Supervisor::start(idle).await.unwrap()));
        // Virtual time stands while a thread still writes for the old agent: nothing of it runs on after this.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    /// A new agent starts on the old one's ledger.
    pub(crate) async fn begin(&mut self) {
        self.context = context(self.directory.path().join("ledger"), &self.machine);
        self.apps.clear();
        self.supervisor = Supervisor::start(Arc::clone(&self.context)).await.unwrap();
    }

    /// Receives and acknowledges reports until one makes `done` true.
    pub(crate) async fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !done(self) {
                self.receive().await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("what the test waits for never came");
    }

    /// Hears no report until the ledger's file of the app `till` has this word.
    pub(crate) async fn until_written(&self, word: &str) {
        let waiting = async {
            while !std::fs::read_to_string(self.ledger_file("till")).is_ok_and(|text| text.contains(word)) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("what the test waits for was never written down");
    }

    pub(crate) async fn receive(&mut self) {
        let (sequence, report) = self.context.reporter.next(1000).await;
        match report {
            Report::Task(report) => self.tasks.push(report),
            Report::App(report) => {
                self.apps.retain(|(app, _)| *app != report.app);
                self.said = (report.revision, report.attempt);
                self.apps.push((report.app, report.status));
            }
        }
        if let Some(settled) = self.context.reporter.acknowledge(sequence) {
            self.supervisor.settled(settled).await.unwrap();
        }
    }

    pub(crate) async fn until_task(&mut self, state: TaskState) -> TaskReport {
        self.until(|node| node.tasks.last().is_some_and(|report| report.state == state || report.state.is_end())).await;
        let report = self.tasks.last().unwrap().clone();
        assert_eq!(report.state, state, "{report:?}");
        report
    }

    pub(crate) async fn until_app(&mut self, state: AppState) -> AppStatus {
        self.until(|node| node.apps.last().is_some_and(|(_, status)| status.state == state)).await;
        self.apps.last().unwrap().1.clone()
    }

    pub(crate) fn starts(&self, index: u32) -> u32 {
        self.machine.starts(&self.key(index))
    }

    pub(crate) fn key(&self, index: u32) -> InstanceKey {
        InstanceKey { app: app("till"), index }
    }

    pub(crate) async fn containers(&self) -> usize {
        self.context.runtime.list().await.unwrap().len()
    }

    /// Revisions of the containers that run.
    pub(crate) async fn revisions(&self) -> Vec<u64> {
        let found = self.context.runtime.list().await.unwrap();
        found.iter().filter(|one| matches!(one.state, FoundState::Running(_))).map(|one| one.revision).collect()
    }

    pub(crate) fn ledger_file(&self, name: &str) -> PathBuf {
        self.directory.path().join("ledger").join(format!("{name}.json"))
    }
}

fn context(ledger: PathBuf, machine: &Machine) -> Arc<Context> {
    context_with(ledger, FakeRuntime::new(machine.clone()))
}

fn context_with(ledger: PathBuf, runtime: FakeRuntime) -> Arc<Context> {
    let machine = ledger.parent().unwrap().join("machine");
    Arc::new(Context {
        keyring: Arc::new(longshore_agent::keyring::ServerKeyring::new(watch::Sender::new(None).subscribe())),
        configurations: Arc::new(longshore_agent::configuration::ServerSource::new(
            watch::Sender::new(None).subscribe(),
        )),
        kept: longshore_agent::configuration::Cache::new(
            ledger.parent().unwrap().join("configuration"),
            ledger.parent().unwrap().join("configuration.key"),
        ),
        runtime: Arc::new(runtime),
        ledger: Ledger::open(ledger).unwrap(),
        reporter: Reporter::default(),
        host_paths: longshore_agent::host_path::HostPaths::default(),
        allowances: Allowances::all(),
        accelerators: AcceleratorTable::new(Sources { root: Some(machine), ..Sources::default() }),
        collection: Collection::default(),
        capacity: CapacityTable::new(Amounts { cpu: 1000, memory: 1 << 30 }),
        ports: PortTable::default(),
        probes: Semaphore::new(MAX_PROBES_AT_ONCE),
        clock: Clock::starting_at(Timestamp::now()),
        node: NodeName::parse("edge-1").unwrap(),
        host_ip: watch::Sender::new(None),
        addresses: watch::Sender::new(()),
    })
}

pub(crate) fn app(name: &str) -> AppName {
    AppName::parse(name).unwrap()
}

pub(crate) fn job() -> JobId {
    JobId::parse("01jd0000000000000000000000").unwrap()
}

/// Deploys one instance of the app `till` from a scripted image.
pub(crate) fn deploy(image: &str) -> Assignment {
    assignment(spec(image))
}

pub(crate) fn assignment(spec: AppSpec) -> Assignment {
    Assignment {
        app: app("till"),
        revision: 1,
        job: job(),
        attempt: 1,
        order: Order::Deploy,
        spec: Arc::new(spec),
        image_access: ImageAccess::Untold,
        node_labels: Labels::new(),
    }
}

/// Updates the app `till` to another image, as its second revision.
pub(crate) fn update(image: &str) -> Assignment {
    let job = JobId::parse("01jd0000000000000000000001").unwrap();
    Assignment { revision: 2, job, ..deploy(image) }
}

pub(crate) fn spec(image: &str) -> AppSpec {
    let startup = Startup { settle: Duration::from_secs(5), max_starts: 3 };
    AppSpec { startup, ..AppSpec::new("till", ImageSource::Reference(image.to_owned())) }
}

pub(crate) fn ordered(mut assignment: Assignment, order: Order) -> Assignment {
    assignment.order = order;
    assignment
}
