//! The embedded runtime: images, containers and their network without any other program on the node.
//!
//! Each container has a process of its own, the [`shim`], which outlives the agent: apps keep running while the agent is
//! down, and the next agent finds them again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use longshore_model::app::InstanceExit;
use longshore_model::capability;
use longshore_model::command;
use longshore_model::failure::FailureReason;
use longshore_model::health::Answer;
use longshore_model::name::AppName;
use longshore_model::probe::Probe;
use longshore_model::spec::Image;
use longshore_model::usage::Reading;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::image::{Collected, Collection, ImageStore, RegistryConfig};
use super::{
    Access, Command, Found, InstanceKey, Launch, LogFile, LogLine, LogQuery, PortError, ProgressSink, Purpose,
    Resolution, ResolvedImage, Running, Runtime, RuntimeError,
};
use super::{failure, files, layout, logs, owner, privileges, removed, volumes};

mod cgroup;
mod client;
mod containers;
mod descriptors;
mod egress;
mod exec;
mod launch;
mod lock;
mod oci;
mod seccomp;
pub mod shim;
mod state;
mod sweep;
mod sys;
mod terminal;
mod usage;
mod user;

pub use client::Patience;
pub use containers::Settings;
pub use egress::{Choice as EgressChoice, INTERFACE_PREFIX, Range as EgressRange, WayOut, look as look_at_egress};
pub use seccomp::is_offered as filters_system_calls;
pub use sweep::reset;

/// Which controllers of cgroups are not offered by this machine, of those that containers use; and whether it has version 2
/// only. `None` where no cgroups are mounted.
#[must_use]
pub fn missing_controllers() -> Option<(bool, Vec<&'static str>)> {
    let is_mounted = cgroup::hierarchies().is_ok_and(|hierarchies| !hierarchies.is_empty());
    let missing = || ["cpu", "memory", "pids"].into_iter().filter(|name| !cgroup::has_controller(name)).collect();
    is_mounted.then(|| (cgroup::is_unified(), missing()))
}

use self::containers::{Containers, Program};

/// How often output of removed apps is looked through for what is too old.
const SWEEP_PERIOD: Duration = Duration::from_secs(300);

/// Runs containers through shims of their own.
pub struct EmbeddedRuntime {
    images: ImageStore,
    containers: std::sync::Arc<Containers>,
    tasks: [AbortHandle; 2],
}

impl EmbeddedRuntime {
    /// Opens a data directory, and removes what crashes have left in it. Blocks; call it inside a tokio runtime.
    ///
    /// Containers that run are left alone. Two runtimes must not share a data directory.
    ///
    /// # Errors
    ///
    /// The disk or the kernel refuses, or an authority in `registry` is no certificate.
    pub fn open(settings: Settings, registry: &RegistryConfig) -> Result<Self, RuntimeError> {
        let containers = std::sync::Arc::new(Containers::open(settings)?);
        let images = ImageStore::open(containers.images_dir(), registry)?;
        let swept = std::sync::Arc::clone(&containers);
        let sweeper = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(SWEEP_PERIOD);
            loop {
                ticks.tick().await;
                std::sync::Arc::clone(&swept).sweep().await;
            }
        });
        let bounding = tokio::spawn(std::sync::Arc::clone(&containers).keep_logs_bounded());
        Ok(Self { images, containers, tasks: [sweeper.abort_handle(), bounding.abort_handle()] })
    }

    /// What the launch's image says of its containers.
    async fn program(&self, launch: &Launch) -> Result<Program, RuntimeError> {
        let digest = &launch.image.digest;
        let config = self.images.config(digest).await?;
        let config = config.config().clone().unwrap_or_default();
        let entrypoint = config.entrypoint().clone().unwrap_or_default();
        let cmd = config.cmd().clone().unwrap_or_default();
        let args = command::argv(&launch.spec.command, &launch.spec.args, &entrypoint, &cmd)
            .map_err(|error| failure::because(FailureReason::CommandNotFound, error.to_string()))?;
        let pair = |text: &String| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok(Program {
            layers: self.images.layer_dirs(digest).await?,
            args,
            env: config.env().iter().flatten().filter_map(pair).collect(),
            user: config.user().clone().unwrap_or_default(),
            cwd: config.working_dir().clone().unwrap_or_default(),
            stop_signal: config.stop_signal().clone(),
        })
    }
}

impl Drop for EmbeddedRuntime {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

#[async_trait]
impl Runtime for EmbeddedRuntime {
    fn name(&self) -> &'static str {
        "embedded"
    }

    fn capabilities(&self) -> Vec<String> {
        let is_there = |word: &&str| match *word {
            capability::RESOURCES_CPU => cgroup::has_controller("cpu"),
            capability::RESOURCES_MEMORY => cgroup::has_controller("memory"),
            capability::RESOURCES_PIDS => cgroup::has_controller("pids"),
            // Version 2 has none: what a container may do with a device that it has, it may do in every way.
            capability::CONTAINER_DEVICES_PERMISSIONS => cgroup::has_controller("devices"),
            // These are the runtime's own doing; a machine without what they need runs no container at all.
            other => self.containers.allowances().allow(other),
        };
        let mut words: Vec<String> = capability::ALL.into_iter().filter(is_there).map(str::to_owned).collect();
        let told = [
            (capability::NETWORK_EGRESS, self.containers.has_egress()),
            (capability::NETWORK_PORTS_FOLLOW, true),
            (capability::NETWORK_PORTS_READINESS, true),
            (capability::SECURITY_SECCOMP, seccomp::is_offered()),
        ];
        words.extend(told.into_iter().filter(|(_, is_so)| *is_so).map(|(word, _)| word.to_owned()));
        words
    }

    async fn resolve(&self, image: &Image, access: &Access, purpose: Purpose) -> Result<Resolution, RuntimeError> {
        self.images.resolve(image, access, purpose).await
    }

    async fn pull(&self, image: &ResolvedImage, access: &Access, progress: ProgressSink) -> Result<(), RuntimeError> {
        self.images.pull(image, access, progress).await
    }

    async fn collect_images(&self, policy: Collection, needed: BTreeSet<String>) -> Result<Collected, RuntimeError> {
        let mounted = self.containers.mounted_layers().await?;
        self.images.collect(policy, needed, mounted).await
    }

    async fn idle_images(&self, needed: BTreeSet<String>) -> Result<u64, RuntimeError> {
        self.images.idle(needed).await
    }

    async fn create(&self, launch: &Launch) -> Result<(), RuntimeError> {
        let program = self.program(launch).await?;
        self.containers.create(launch, program).await
    }

    async fn start(&self, instance: &InstanceKey) -> Result<Timestamp, RuntimeError> {
        self.containers.start(instance).await
    }

    async fn wait(&self, instance: &InstanceKey) -> Result<InstanceExit, RuntimeError> {
        self.containers.wait(instance).await
    }

    async fn stop(&self, instance: &InstanceKey, grace: Duration) -> Result<(), RuntimeError> {
        self.containers.stop(instance, grace).await
    }

    async fn delete(&self, instance: &InstanceKey) -> Result<(), RuntimeError> {
        self.containers.delete(instance).await
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

    async fn admit(&self, instance: &InstanceKey, open: bool) -> Result<(), RuntimeError> {
        self.containers.admit(instance, open).await
    }

    async fn exec(&self, instance: &InstanceKey, command: Command) -> Result<Running, RuntimeError> {
        self.containers.exec(instance, command).await
    }

    async fn connect(&self, instance: &InstanceKey, port: u16) -> Result<TcpStream, PortError> {
        self.containers.connect(instance, port).await
    }

    async fn relocate(
        &self,
        instance: &InstanceKey,
        addresses: &BTreeMap<String, Ipv4Addr>,
    ) -> Result<(), RuntimeError> {
        self.containers.relocate(instance, addresses).await
    }

    async fn logs(&self, query: LogQuery) -> Result<Option<BoxStream<'static, LogLine>>, RuntimeError> {
        self.containers.logs(query).await
    }

    async fn log_files(&self, instance: &InstanceKey) -> Result<Option<Vec<LogFile>>, RuntimeError> {
        self.containers.log_files(instance).await
    }
}
