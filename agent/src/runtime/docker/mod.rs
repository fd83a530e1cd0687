//! The second runtime: an engine that the node has already, by the Docker Engine API. Docker and Podman speak it.
//!
//! The engine runs the containers; images, output and volumes are the agent's own, as with the embedded runtime, so that
//! both do the same. Containers bear labels, by which the next agent finds them; what does not bear this node's is never
//! touched. What each runtime can do is in `docs/runtimes.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use longshore_model::app::InstanceExit;
use longshore_model::backoff::Backoff;
use longshore_model::capability;
use longshore_model::failure::FailureReason;
use longshore_model::health::Answer;
use longshore_model::name::AppName;
use longshore_model::probe::Probe;
use longshore_model::spec::Image;
use longshore_model::usage::Reading;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::image::{Collected, Collection, ImageStore, RegistryConfig};
use super::layout::Layout;
use super::logs::{self, Rotation};
use super::{
    Access, Allowances, Command, Found, InstanceKey, Launch, LogFile, LogLine, LogQuery, PortError, ProgressSink,
    Purpose, Resolution, ResolvedImage, Running, Runtime, RuntimeError, failure, files, owner, removed, volumes,
};
use crate::durable;
use crate::host_path::HostPaths;

mod containers;
mod engine;
mod exec;
mod images;
mod kernel_log;
mod kin;
mod output;
mod refusal;
mod request;
mod usage;

pub use engine::{Address, AddressError};

use self::containers::Containers;
use self::engine::Engine;
use self::images::Images;

/// Between two looks for an engine that is not there.
const RECONNECT: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(15) };
/// How often output of removed apps is looked through for what is too old.
const SWEEP_PERIOD: Duration = Duration::from_secs(300);

/// How containers are run on this node.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The agent's data directory.
    pub data_dir: PathBuf,
    /// Names this node's containers and images in the engine: letters, digits and dashes.
    pub node_uid: String,
    /// Where the engine listens.
    pub address: Address,
    /// How output is rotated.
    pub rotation: Rotation,
    /// Which paths of the node containers may have; the engine's own are none of them in any case.
    pub host_paths: HostPaths,
    /// What apps may ask for.
    pub allowances: Allowances,
}

/// Runs containers in an engine.
pub struct DockerRuntime {
    containers: Arc<Containers>,
    tasks: [AbortHandle; 2],
}

impl DockerRuntime {
    /// Opens a data directory, and removes what removed apps have left in it. Connects to nothing yet: see
    /// [`DockerRuntime::await_engine`]. Blocks; call it inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// The disk refuses, or an authority in `registry` is no certificate.
    pub fn open(settings: Settings, registry: &RegistryConfig) -> Result<Self, RuntimeError> {
        let layout = Layout::new(&settings.data_dir);
        let make = |directory: &std::path::Path| {
            use std::os::unix::fs::DirBuilderExt;
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.map_err(|e| failure::io(format!("making {}", directory.display()), e))
        };
        for directory in [layout.root(), &layout.all_logs(), &layout.all_volumes()] {
            make(directory)?;
        }
        // The engine mounts by paths of its own, which are canonical ones.
        let data_dir =
            std::fs::canonicalize(&settings.data_dir).map_err(|e| failure::io("opening the data directory", e))?;
        let layout = Layout::new(&data_dir);
        let embedded = files::names(&layout.containers()).map_err(|e| failure::io("opening the data directory", e))?;
        if !embedded.is_empty() {
            let message = "the apps of this data directory are with the embedded runtime: run with --runtime embedded, \
                           or reset first";
            return Err(failure::other(message));
        }
        remember(&layout, &settings)?;
        removed::sweep(&layout, Timestamp::now()).map_err(|e| failure::io("removing old output", e))?;
        exec::kill_leftovers(&settings.node_uid);
        let images = ImageStore::open(layout.images(), registry)?;
        let engine = Arc::new(Engine::new(settings.address.clone()));
        let containers = Arc::new(Containers {
            images: Images::new(Arc::clone(&engine), images, &settings.node_uid),
            settings,
            layout,
            engine,
            copies: output::Copies::default(),
            changes: std::sync::Mutex::default(),
            memory: std::sync::Mutex::default(),
        });
        let swept = containers.layout.clone();
        let sweeper = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(SWEEP_PERIOD);
            loop {
                ticks.tick().await;
                let layout = swept.clone();
                let done = tokio::task::spawn_blocking(move || removed::sweep(&layout, Timestamp::now())).await;
                if let Ok(Err(error)) = done {
                    tracing::warn!(%error, "something of removed apps stays");
                }
            }
        });
        let bounding = tokio::spawn(logs::keep_bounded(containers.layout.clone()));
        Ok(Self { containers, tasks: [sweeper.abort_handle(), bounding.abort_handle()] })
    }

    /// Waits until the engine is there, and returns its name and version in words. An engine that comes up after the
    /// agent is no failure: both start at boot. Cancel-safe.
    pub async fn await_engine(&self) -> String {
        let mut failures: u32 = 0;
        loop {
            match self.containers.engine.connect().await {
                Ok((_, facts)) => {
                    if let Err(error) = remove_former(&self.containers).await {
                        tracing::warn!(%error, "something of a former node of this directory stays in the engine");
                    }
                    return facts.version;
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    let pause = RECONNECT.delay(failures);
                    tracing::error!(%error, "no apps can run; trying again in {} s", pause.as_secs());
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Runs a change to its end even if the caller gives it up: the engine would go on with it too, and the next change
    /// to the instance must not meet it half-way.
    async fn whole<T: Send + 'static>(
        &self,
        instance: &InstanceKey,
        change: impl AsyncChange<T>,
    ) -> Result<T, RuntimeError> {
        let (containers, instance) = (Arc::clone(&self.containers), instance.clone());
        let done = tokio::spawn(async move {
            let _alone = containers.change(&instance).await;
            change.make(&containers).await
        });
        done.await.unwrap_or_else(|_| Err(failure::other("a change to a container was given up")))
    }
}

/// A change to an instance.
trait AsyncChange<T>: Send + 'static {
    fn make(self, containers: &Containers) -> impl Future<Output = Result<T, RuntimeError>> + Send;
}

struct Create(Launch);
struct Start(InstanceKey);
struct Delete(InstanceKey);

impl AsyncChange<()> for Create {
    async fn make(self, containers: &Containers) -> Result<(), RuntimeError> {
        containers.create(&self.0).await
    }
}

impl AsyncChange<Timestamp> for Start {
    async fn make(self, containers: &Containers) -> Result<Timestamp, RuntimeError> {
        containers.start(&self.0).await
    }
}

impl AsyncChange<()> for Delete {
    async fn make(self, containers: &Containers) -> Result<(), RuntimeError> {
        containers.delete(&self.0).await
    }
}

impl Drop for DockerRuntime {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

#[async_trait]
impl Runtime for DockerRuntime {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn capabilities(&self) -> Vec<String> {
        let (facts, allowances) = (self.containers.engine.facts(), &self.containers.settings.allowances);
        // Named one by one: a word that comes up later is not offered before somebody has made it true.
        let always = [
            capability::NETWORK_HOST,
            capability::NETWORK_PORTS,
            // Not network.ports.shared: the engine leads a port of the node into one container.
            capability::NETWORK_PORTS_RANGES,
            capability::VOLUMES_HOST_PATH,
            capability::VOLUMES_EMPTY_DIR,
            capability::VOLUMES_EMPTY_DIR_MEMORY,
            capability::CONFIG_MAPS,
            // Not secrets.env: engines write the environment of their containers to their disks.
            capability::SECRETS_VOLUMES,
            capability::IMAGE_ARCHIVE,
            capability::IMAGE_REGISTRY,
            capability::CONTAINER_ULIMITS,
            capability::CONTAINER_SHM_SIZE,
            capability::CONTAINER_USER,
            capability::CONTAINER_WORKING_DIR,
            capability::CONTAINER_STOP,
            capability::CONTAINER_READ_ONLY_ROOT,
            capability::ACCELERATORS,
            capability::CONTAINER_DEVICES_PERMISSIONS,
            capability::CONTAINER_HOST_ALIASES,
            capability::CONTAINER_DNS,
            capability::LOGS,
            capability::LOGS_DIRECTORY,
            capability::SECURITY_CAPABILITIES,
            capability::PROBES,
            capability::PROBES_EXEC,
        ];
        let perhaps = [
            (facts.limits_cpu, capability::RESOURCES_CPU),
            (facts.limits_memory, capability::RESOURCES_MEMORY),
            (facts.limits_pids, capability::RESOURCES_PIDS),
            (facts.forwards, capability::NETWORK_EGRESS),
            (facts.filters_calls, capability::SECURITY_SECCOMP),
            (allowances.privileged && facts.gives_all, capability::SECURITY_PRIVILEGED),
            (allowances.host_pid, capability::SECURITY_HOST_PID),
            (allowances.allow(capability::CONTAINER_DEVICES), capability::CONTAINER_DEVICES),
            (allowances.allow(capability::SECURITY_CAPABILITIES_ADD), capability::SECURITY_CAPABILITIES_ADD),
        ];
        let offered = perhaps.into_iter().filter_map(|(is_so, word)| is_so.then_some(word));
        always.into_iter().chain(offered).map(str::to_owned).collect()
    }

    async fn resolve(&self, image: &Image, access: &Access, purpose: Purpose) -> Result<Resolution, RuntimeError> {
        self.containers.images.resolve(image, access, purpose).await
    }

    async fn pull(&self, image: &ResolvedImage, access: &Access, progress: ProgressSink) -> Result<(), RuntimeError> {
        self.containers.images.pull(image, access, progress).await
    }

    async fn collect_images(&self, policy: Collection, needed: BTreeSet<String>) -> Result<Collected, RuntimeError> {
        self.containers.images.collect(policy, &needed).await
    }

    async fn idle_images(&self, needed: BTreeSet<String>) -> Result<u64, RuntimeError> {
        self.containers.images.idle(&needed).await
    }

    async fn create(&self, launch: &Launch) -> Result<(), RuntimeError> {
        self.whole(&launch.instance, Create(launch.clone())).await
    }

    async fn start(&self, instance: &InstanceKey) -> Result<Timestamp, RuntimeError> {
        self.whole(instance, Start(instance.clone())).await
    }

    async fn wait(&self, instance: &InstanceKey) -> Result<InstanceExit, RuntimeError> {
        self.containers.wait(instance).await
    }

    async fn stop(&self, instance: &InstanceKey, grace: Duration) -> Result<(), RuntimeError> {
        self.containers.stop(instance, grace).await
    }

    async fn delete(&self, instance: &InstanceKey) -> Result<(), RuntimeError> {
        self.whole(instance, Delete(instance.clone())).await
    }

    async fn remove_app(&self, app: &AppName) -> Result<(), RuntimeError> {
        self.containers.remove_app(app).await
    }

    async fn retain(&self, apps: &BTreeSet<AppName>) -> Result<(), RuntimeError> {
        self.containers.retain(apps).await
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        self.containers.list().await
    }

    async fn usage(&self, instances: &[InstanceKey]) -> Result<Vec<Reading>, RuntimeError> {
        self.containers.usage(instances).await
    }

    async fn probe(&self, instance: &InstanceKey, probe: &Probe) -> Result<Answer, RuntimeError> {
        self.containers.probe(instance, probe).await
    }

    /// The engine leads ports into containers from their start to their end, and knows no readiness.
    async fn admit(&self, _: &InstanceKey, _: bool) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn exec(&self, instance: &InstanceKey, command: Command) -> Result<Running, RuntimeError> {
        self.containers.exec(instance, command).await
    }

    async fn connect(&self, instance: &InstanceKey, port: u16) -> Result<TcpStream, PortError> {
        self.containers.connect(instance, port).await
    }

    async fn relocate(&self, _: &InstanceKey, _: &BTreeMap<String, Ipv4Addr>) -> Result<(), RuntimeError> {
        let message = "a container engine cannot lead a container's ports to another address";
        Err(failure::because(FailureReason::Unsupported, message))
    }

    async fn logs(&self, query: LogQuery) -> Result<Option<BoxStream<'static, LogLine>>, RuntimeError> {
        if let Err(error) = self.containers.catch_up(&query.instance).await {
            // What is here already can be read without the engine.
            tracing::debug!(app = %query.instance.app, %error, "output may not be whole");
        }
        let directory = self.containers.layout.logs(&query.instance);
        if query.wanted.follow && !directory.exists() && self.containers.newest_run(&query.instance).await?.is_none() {
            return Ok(None);
        }
        // Without the engine the newest of what is here counts as the run that is there.
        let run = match query.wanted.previous {
            true => self.containers.newest_run(&query.instance).await.unwrap_or_default(),
            false => None,
        };
        let opened = tokio::task::spawn_blocking(move || logs::stream(directory, &query.wanted, run)).await;
        match opened {
            Ok(stream) => stream.map_err(|e| failure::io("reading output", e)),
            Err(_) => Err(failure::other("reading output was given up")),
        }
    }

    async fn log_files(&self, instance: &InstanceKey) -> Result<Option<Vec<LogFile>>, RuntimeError> {
        let directory = self.containers.layout.logs(instance);
        match tokio::task::spawn_blocking(move || logs::list_files(&directory)).await {
            Ok(files) => files.map_err(|e| failure::io("looking for files of logs", e)),
            Err(_) => Err(failure::other("looking for files of logs was given up")),
        }
    }
}

/// What an engine says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Name and version, such as `Docker 20.10.24, API 1.41`.
    pub version: String,
    /// Whether it runs as a user other than root.
    pub is_rootless: bool,
    /// Whether it enforces limits on CPU.
    pub limits_cpu: bool,
    /// Whether it enforces limits on memory.
    pub limits_memory: bool,
}

/// Asks the engine at an address what it is; nothing else is asked of it.
///
/// # Errors
///
/// It cannot be reached, or does not answer as one does.
pub async fn about(address: &Address) -> Result<About, RuntimeError> {
    let (_, facts) = Engine::new(address.clone()).connect().await?;
    let engine::Facts { version, is_rootless, limits_cpu, limits_memory, .. } = facts;
    Ok(About { version, is_rootless, limits_cpu, limits_memory })
}

/// Leaves word of whose containers are where, for [`reset`].
fn remember(layout: &Layout, settings: &Settings) -> Result<(), RuntimeError> {
    owner::claim(layout, &settings.node_uid).map_err(|e| failure::io("writing the node's uid", e))?;
    let (path, word) = (layout.engine(), settings.address.to_string());
    // Only once: an agent must come up on a full disk.
    if std::fs::read_to_string(&path).is_ok_and(|known| known == word) {
        return Ok(());
    }
    durable::replace(&path, word.as_bytes(), super::layout::FILE_MODE)
        .map_err(|e| failure::io(format!("writing {}", path.display()), e))
}

/// Removes what the nodes have in the engine that a data directory was of before. What cannot be removed is tried again at
/// the agent's next start.
async fn remove_former(containers: &Containers) -> Result<(), RuntimeError> {
    let read = |e| failure::io("reading whose the data directory was", e);
    for former in owner::former(&containers.layout).map_err(read)? {
        tracing::info!(node_uid = former, "removing what is left of the node that this directory was of before");
        containers::remove_all(&containers.engine, &former).await?;
        images::remove_all(&containers.engine, &former).await?;
        owner::forget(&containers.layout, &[former]).map_err(|e| failure::io("forgetting a former node", e))?;
    }
    Ok(())
}

/// Removes every container and image that a data directory's agent has in an engine, and its volumes; safe to run again.
/// A directory whose agent never had an engine is left as it is.
///
/// The agent must not run.
///
/// # Errors
///
/// The engine cannot be reached or refuses, or the disk does; what was removed until then stays removed.
pub async fn reset(data_dir: &std::path::Path) -> Result<(), RuntimeError> {
    let layout = Layout::new(data_dir);
    let Ok(address) = std::fs::read_to_string(layout.engine()) else { return Ok(()) };
    let owners = owner::all(&layout).map_err(|e| failure::io("reading the node's uid", e))?;
    let address: Address = address.parse().map_err(|e: AddressError| failure::other(e.to_string()))?;
    let engine = Engine::new(address);
    for owner in &owners {
        containers::remove_all(&engine, owner).await?;
        images::remove_all(&engine, owner).await?;
    }
    volumes::unmount_below(layout.root()).map_err(|e| failure::io("removing volumes", e))
}
