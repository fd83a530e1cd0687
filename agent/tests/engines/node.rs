//! Nodes whose runtime is an engine. All tests of an engine share it; whoever comes first starts it, and it ends with the
//! last of those that run at the time.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::marker::PhantomData;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use longshore_agent::host_path::HostPaths;
use longshore_agent::runtime::docker::{DockerRuntime, Settings, reset};
use longshore_agent::runtime::image::RegistryConfig;
use longshore_agent::runtime::{Allowances, Launch, Rotation};
use longshore_tests::engine::{Engine, Kind as EngineKind};
use longshore_tests::host::{Host, Switch};
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::bench::Backend;

/// An engine on a host of its own.
pub struct Machine {
    // Dropped in this order.
    engine: Mutex<Engine>,
    host: Host,
    _switch: Switch,
}

impl Machine {
    fn start(kind: EngineKind) -> Arc<Self> {
        let switch = Switch::new();
        let host = switch.host();
        let engine = Mutex::new(Engine::start(kind, &host));
        Arc::new(Self { engine, host, _switch: switch })
    }

    /// The engine; whoever stops it must have it alone.
    pub fn engine(&self) -> std::sync::MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves this thread to the engine's host, where its containers' ports are.
    fn enter(&self) {
        let namespace = File::open(format!("/run/netns/{}", self.host.namespace())).unwrap();
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    }
}

/// Which engine, as a type.
pub trait Which: Send + Sync + 'static {
    const KIND: EngineKind;
    /// Whether containers end with the engine.
    const CONTAINERS_END: bool;
    const LEFT_OF_A_FLOOD: usize;
    const UNKNOWN_CAPABILITIES: u64;
    fn shared() -> &'static Mutex<Weak<Machine>>;
}

pub struct Docker;
pub struct Podman;

impl Which for Docker {
    const KIND: EngineKind = EngineKind::Docker;
    const CONTAINERS_END: bool = true;
    const LEFT_OF_A_FLOOD: usize = 100_000;
    // 20.10 is older than PERFMON, BPF and CHECKPOINT_RESTORE.
    const UNKNOWN_CAPABILITIES: u64 = 0b111 << 38;

    fn shared() -> &'static Mutex<Weak<Machine>> {
        static SHARED: Mutex<Weak<Machine>> = Mutex::new(Weak::new());
        &SHARED
    }
}

impl Which for Podman {
    const KIND: EngineKind = EngineKind::Podman;
    const CONTAINERS_END: bool = false;
    // It empties a file that is full.
    const LEFT_OF_A_FLOOD: usize = 25_000;
    const UNKNOWN_CAPABILITIES: u64 = 0;

    fn shared() -> &'static Mutex<Weak<Machine>> {
        static SHARED: Mutex<Weak<Machine>> = Mutex::new(Weak::new());
        &SHARED
    }
}

/// Tests that may use engines at the same time: they answer through a few locks of their own, and more would only wait for
/// these until the agent takes the engine for dead.
static TURNS: Semaphore = Semaphore::const_new(2);

thread_local! {
    /// The turn of the test that this thread runs, so that its second node needs no other.
    static TURN: RefCell<Weak<SemaphorePermit<'static>>> = const { RefCell::new(Weak::new()) };
}

/// Waits for this test's turn, which ends with what is returned.
fn turn() -> Arc<SemaphorePermit<'static>> {
    TURN.with_borrow_mut(|turn| {
        turn.upgrade().unwrap_or_else(|| {
            let mut taken = None;
            apart(async { taken = Some(TURNS.acquire().await.unwrap()) });
            let taken = Arc::new(taken.unwrap());
            *turn = Arc::downgrade(&taken);
            taken
        })
    })
}

pub struct OnEngine<W> {
    machine: Arc<Machine>,
    /// After the engine, which a test that has one of its own ends in its turn.
    _turn: Arc<SemaphorePermit<'static>>,
    /// How registries are reached, from the next start of the agent on.
    pub registry: Mutex<RegistryConfig>,
    which: PhantomData<W>,
}

impl<W: Which> OnEngine<W> {
    /// The machine, for what tests do to it by hand.
    pub fn machine(&self) -> Arc<Machine> {
        Arc::clone(&self.machine)
    }

    /// Takes an engine that no other test shares.
    pub fn isolate(&mut self) {
        self.machine = Machine::start(W::KIND);
        self.machine.enter();
    }

    /// What the engine lists with these labels, ended ones too if `all`.
    fn listed(&self, labels: &[String], all: bool) -> Vec<Value> {
        let filters = serde_json::json!({ "label": labels }).to_string();
        let filters: String = filters.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = format!("/v1.40/containers/json?all={all}&filters={filters}");
        let (status, body) = self.machine.engine().request("GET", &path, "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

impl<W: Which> Backend for OnEngine<W> {
    type Runtime = DockerRuntime;
    const DEVICES: usize = 2;
    const LEFT_OF_A_FLOOD: usize = W::LEFT_OF_A_FLOOD;
    const UNKNOWN_CAPABILITIES: u64 = W::UNKNOWN_CAPABILITIES;
    // Engines write the environment of their containers to their disks.
    const LACKS: &'static [&'static str] =
        &[longshore_model::capability::NETWORK_PORTS_SHARED, longshore_model::capability::SECRETS_ENV];

    fn new() -> Self {
        let turn = turn();
        let machine = {
            let mut shared = W::shared().lock().unwrap_or_else(PoisonError::into_inner);
            shared.upgrade().unwrap_or_else(|| {
                let machine = Machine::start(W::KIND);
                *shared = Arc::downgrade(&machine);
                machine
            })
        };
        machine.enter();
        Self { machine, _turn: turn, registry: Mutex::default(), which: PhantomData }
    }

    fn open(&self, data_dir: &Path, uid: &str, rotation: Rotation, allowances: Allowances) -> DockerRuntime {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let address = self.machine.engine().address().parse().unwrap();
        let host_paths = HostPaths::new(data_dir, Vec::new());
        let (data_dir, node_uid) = (data_dir.to_owned(), uid.to_owned());
        let settings = Settings { data_dir, node_uid, address, rotation, host_paths, allowances };
        let runtime = DockerRuntime::open(settings, &registry).unwrap();
        apart(async {
            runtime.await_engine().await;
        });
        runtime
    }

    fn reset(&self, data_dir: &Path) {
        apart(async { reset(data_dir).await.unwrap() });
        let _ = fs::remove_dir_all(data_dir.join("runtime"));
    }

    fn leftovers(&self, uid: &str, _directory: &str) -> BTreeSet<String> {
        let listed = self.listed(&[format!("longshore.node={uid}")], false);
        listed.iter().map(|container| format!("container {}", container["Names"])).collect()
    }

    fn cgroup(&self, uid: &str, launch: &Launch) -> String {
        let labels = [format!("longshore.node={uid}"), format!("longshore.app={}", launch.instance.app)];
        let listed = self.listed(&labels, false);
        let id = listed[0]["Id"].as_str().unwrap();
        let root = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup"].map(Path::new).into_iter().find(|root| root.is_dir());
        let root = root.unwrap();
        let found = find(root, id).expect("the container's cgroup");
        found.strip_prefix(root).unwrap().to_str().unwrap().to_owned()
    }
}

fn find(directory: &Path, id: &str) -> Option<std::path::PathBuf> {
    let entries = fs::read_dir(directory).ok()?.flatten().filter(|entry| entry.path().is_dir());
    entries.map(|entry| entry.path()).find_map(|path| {
        let is_it = path.file_name()?.to_str()?.contains(id);
        if is_it { Some(path) } else { find(&path, id) }
    })
}

/// Runs work to its end on a thread of its own, from code that cannot wait.
fn apart(work: impl Future<Output = ()> + Send) {
    std::thread::scope(|threads| {
        let done = threads.spawn(|| {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
        });
        done.join().unwrap();
    });
}
