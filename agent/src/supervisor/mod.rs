//! Keeps on this node what the server wants on it: one worker for each app.

pub mod check;
pub mod plan;
pub mod status;
mod worker;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use jiff::Timestamp;
use longshore_model::app::{AppState, AppStatus};
use longshore_model::assignment::Assignment;
use longshore_model::name::{AppName, JobId, NodeName};
use longshore_model::report::AppReport;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::accelerators::AcceleratorTable;
use crate::capacity::CapacityTable;
use crate::clock::Clock;
use crate::configuration;
use crate::host_path::HostPaths;
use crate::ledger::{Entry, Ledger, LedgerError, Wish};
use crate::ports::PortTable;
use crate::reporter::{Reporter, Settled};
use crate::runtime::image::Collection;
use crate::runtime::{Allowances, Found, Keyring, Runtime, RuntimeError};
use plan::App;
use worker::Worker;

/// Probes that are put at once, of all apps together: each costs a connection, and a small machine is not to be busy with
/// asking. The others wait for their turn, and their timeouts begin with it.
pub const MAX_PROBES_AT_ONCE: usize = 16;

/// What all workers share.
pub struct Context {
    /// Runs the containers.
    pub runtime: Arc<dyn Runtime>,
    /// Knows what images are read with.
    pub keyring: Arc<dyn Keyring>,
    /// Knows what apps take from config maps and secrets.
    pub configurations: Arc<dyn configuration::Source>,
    /// Keeps what they took.
    pub kept: configuration::Cache,
    /// Remembers.
    pub ledger: Ledger,
    /// Takes the reports.
    pub reporter: Reporter,
    /// Knows what of the node apps may mount.
    pub host_paths: HostPaths,
    /// Knows what this node's configuration allows apps beyond the ordinary.
    pub allowances: Allowances,
    /// Knows what of this node apps hold.
    pub capacity: CapacityTable,
    /// When images are removed to make room.
    pub collection: Collection,
    /// Knows the accelerators of this node, and who holds them.
    pub accelerators: AcceleratorTable,
    /// Knows who has which port.
    pub ports: PortTable,
    /// Places for probes, of all apps together.
    pub probes: Semaphore,
    /// Decides when.
    pub clock: Clock,
    /// This node's name, for environments.
    pub node: NodeName,
    /// This node's address towards its server, while that is known.
    pub host_ip: watch::Sender<Option<Ipv4Addr>>,
    /// Tells that addresses of the node have changed.
    pub addresses: watch::Sender<()>,
}

/// Why the supervisor could not begin.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// What is remembered cannot be read.
    #[error("cannot read the ledger")]
    Ledger(#[from] LedgerError),
    /// What runs cannot be listed.
    #[error("cannot list the containers of this node")]
    Runtime(#[from] RuntimeError),
    /// The blocking task was lost.
    #[error("reading the ledger was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// What a worker is told: always the newest.
#[derive(Clone, Debug, Default)]
struct Orders {
    /// What shall run; `None` means that the app shall go.
    wanted: Option<Assignment>,
    /// How often the server has said so: it repeats itself when it has not heard, or has forgotten, how a task ended.
    said: u64,
    /// The attempt whose end the server has.
    acknowledged: Option<(JobId, u32)>,
}

struct Handle {
    orders: watch::Sender<Orders>,
    task: JoinHandle<()>,
}

/// Keeps on this node what the server wants on it.
///
/// Dropping it ends the workers and leaves the containers running.
pub struct Supervisor {
    context: Arc<Context>,
    workers: HashMap<AppName, Handle>,
    /// Containers of apps whose ledger file was damaged: they run on until the server says whether they shall.
    unclaimed: HashMap<AppName, Vec<Found>>,
}

impl Supervisor {
    /// Adopts what runs, deletes what nobody wants, and brings everything up that the ledger names. No server is needed.
    ///
    /// # Errors
    ///
    /// The ledger or the runtime cannot be read.
    pub async fn start(context: Arc<Context>) -> Result<Self, SupervisorError> {
        let ledger = context.ledger.clone();
        let loaded = tokio::task::spawn_blocking(move || ledger.load()).await??;
        let mut found: BTreeMap<AppName, Vec<Found>> = BTreeMap::new();
        for container in context.runtime.list().await? {
            found.entry(container.instance.app.clone()).or_default().push(container);
        }
        let entries = loaded.entries.iter().map(|entry| &entry.assignment.app);
        let apps: BTreeSet<AppName> = entries.chain(&loaded.damaged).chain(found.keys()).cloned().collect();
        if let Err(error) = context.runtime.retain(&apps).await {
            // Only room is lost; the next agent tries again.
            tracing::warn!(%error, "something of removed apps stays");
        }
        let (kept, known) = (context.kept.clone(), apps.clone());
        if let Err(error) = tokio::task::spawn_blocking(move || kept.retain_apps(&known)).await? {
            tracing::warn!(error = &error as &dyn std::error::Error, "configurations of removed apps stay");
        }
        let mut supervisor = Self { context, workers: HashMap::new(), unclaimed: HashMap::new() };
        // All ports, and shares of the node, are reserved before the first worker can ask for one.
        for entry in &loaded.entries {
            supervisor.context.capacity.adopt(entry);
            supervisor.context.accelerators.adopt(entry);
            supervisor.context.ports.adopt(&entry.assignment.app, &entry.ports);
            let before = entry.proven.iter().flat_map(|proven| proven.ports.iter().cloned()).collect::<Vec<_>>();
            supervisor.context.ports.adopt(&entry.assignment.app, &before);
        }
        for entry in loaded.entries {
            let containers = found.remove(&entry.assignment.app).unwrap_or_default();
            supervisor.adopt(entry, containers);
        }
        for app in loaded.damaged {
            let containers = found.remove(&app).unwrap_or_default();
            containers.iter().for_each(|container| supervisor.context.ports.adopt(&app, &container.ports));
            supervisor.unclaimed.insert(app, containers);
        }
        for (app, containers) in found {
            supervisor.delete_unwanted(&app, &containers).await;
        }
        Ok(supervisor)
    }

    /// Takes the full set: apps that are not in it go, but for those in `untouched`.
    pub async fn replace(&mut self, assignments: Vec<Assignment>, untouched: &[AppName]) {
        let mut gone: Vec<AppName> = self.workers.keys().cloned().collect();
        gone.retain(|app| !untouched.contains(app) && assignments.iter().all(|wanted| wanted.app != *app));
        for app in gone {
            self.remove(&app).await;
        }
        for assignment in assignments {
            self.set(assignment);
        }
        for (app, containers) in std::mem::take(&mut self.unclaimed) {
            if untouched.contains(&app) {
                self.unclaimed.insert(app, containers);
                continue;
            }
            self.give_up(&app, &containers).await;
        }
    }

    /// Takes out of a set that may be older than what this node runs what it has from a later assignment; returns that,
    /// and everything else that the set does not name.
    pub fn keep(&self, assignments: &mut Vec<Assignment>) -> Vec<AppName> {
        let age = |assignment: &Assignment| (assignment.revision, assignment.attempt);
        assignments.retain(|offered| {
            let handle = self.workers.get(&offered.app);
            handle.is_none_or(|handle| {
                handle.orders.borrow().wanted.as_ref().is_none_or(|wanted| age(wanted) <= age(offered))
            })
        });
        let mut kept: Vec<AppName> = self.workers.keys().chain(self.unclaimed.keys()).cloned().collect();
        kept.retain(|app| assignments.iter().all(|offered| offered.app != *app));
        kept.sort_unstable();
        kept
    }

    /// Takes a new or changed assignment.
    pub fn set(&mut self, assignment: Assignment) {
        if let Some(handle) = self.workers.get(&assignment.app) {
            handle.orders.send_modify(|orders| {
                orders.wanted = Some(assignment);
                orders.said = orders.said.wrapping_add(1);
            });
            return;
        }
        let found = self.unclaimed.remove(&assignment.app).unwrap_or_default();
        let ports = found.iter().flat_map(|container| container.ports.iter().cloned()).collect();
        let mut entry = Entry::new(assignment);
        entry.ports = ports;
        self.adopt(entry, found);
    }

    /// Takes word that an app shall go. One that is not here is reported gone at once.
    pub async fn remove(&mut self, app: &AppName) {
        if let Some(handle) = self.workers.get(app) {
            handle.orders.send_if_modified(|orders| orders.wanted.take().is_some());
            return;
        }
        if let Some(containers) = self.unclaimed.remove(app) {
            self.give_up(app, &containers).await;
        }
        self.context.reporter.app(AppReport {
            app: app.clone(),
            revision: 0,
            attempt: 0,
            status: AppStatus { state: AppState::Removed, ..AppStatus::default() },
        });
    }

    /// Takes word of what the server has on its disk.
    ///
    /// # Errors
    ///
    /// The ledger cannot forget an app that is gone.
    pub async fn settled(&mut self, settled: Settled) -> Result<(), LedgerError> {
        match settled {
            Settled::Ended(job, attempt) => {
                for handle in self.workers.values() {
                    let is_its = |orders: &Orders| orders.wanted.as_ref().is_some_and(|a| a.job == job);
                    handle.orders.send_if_modified(|orders| {
                        let is_its = is_its(orders);
                        if is_its {
                            orders.acknowledged = Some((job.clone(), attempt));
                        }
                        is_its
                    });
                }
                Ok(())
            }
            Settled::Removed(app) => self.forget(&app).await,
        }
    }

    /// Ends the workers; the containers run on.
    pub async fn shutdown(mut self) {
        for (_, handle) in self.workers.drain() {
            handle.task.abort();
            // Cancelled is what it is expected to be.
            let _ = handle.task.await;
        }
    }

    async fn forget(&mut self, app: &AppName) -> Result<(), LedgerError> {
        // It may be wanted again by now.
        if self.workers.get(app).is_none_or(|handle| handle.orders.borrow().wanted.is_some()) {
            return Ok(());
        }
        if let Some(handle) = self.workers.remove(app) {
            handle.task.abort();
            let _ = handle.task.await;
        }
        self.forget_file(app).await
    }

    async fn forget_file(&self, app: &AppName) -> Result<(), LedgerError> {
        let (ledger, name) = (self.context.ledger.clone(), app.clone());
        match tokio::task::spawn_blocking(move || ledger.forget(&name)).await {
            Ok(forgotten) => forgotten,
            // Only at shutdown; the tombstone is acknowledged again next time.
            Err(_) => Ok(()),
        }
    }

    fn adopt(&mut self, entry: Entry, found: Vec<Found>) {
        let name = entry.assignment.app.clone();
        let wanted = (entry.wish == Wish::Present).then(|| entry.assignment.clone());
        let app = App::adopt(entry, found, self.context.clock.now(), Timestamp::now());
        let (orders, receiver) = watch::channel(Orders { wanted, ..Orders::default() });
        let worker = Worker::new(Arc::clone(&self.context), app, receiver);
        self.workers.insert(name, Handle { orders, task: tokio::spawn(worker.run()) });
    }

    /// Deletes what is left of an app whose file was damaged, now that the server does not want it.
    async fn give_up(&self, app: &AppName, containers: &[Found]) {
        self.delete_unwanted(app, containers).await;
        self.context.ports.release(app);
        if let Err(error) = self.forget_file(app).await {
            tracing::error!(%app, %error, source = %error.source, "a damaged ledger file stays");
        }
    }

    async fn delete_unwanted(&self, app: &AppName, containers: &[Found]) {
        if !containers.is_empty() {
            let containers = containers.len();
            tracing::warn!(%app, containers, "no app of this node has these containers: deleting them");
        }
        for container in containers {
            if let Err(error) = self.context.runtime.delete(&container.instance).await {
                tracing::error!(%app, instance = container.instance.index, %error, "cannot delete a container");
            }
        }
        if let Err(error) = self.context.runtime.remove_app(app).await {
            tracing::error!(%app, %error, "cannot remove what the app left");
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.workers.values().for_each(|handle| handle.task.abort());
    }
}
