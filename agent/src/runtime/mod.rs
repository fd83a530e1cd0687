//! What runs containers: one trait, several runtimes.
//!
//! A runtime knows images, containers and their output. It knows nothing of jobs, tasks, attempts or servers: the
//! supervisor decides what shall run and when, and speaks of apps and instances only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use longshore_model::app::{BoundPort, InstanceExit};
use longshore_model::failure::FailureReason;
use longshore_model::health::Answer;
use longshore_model::name::AppName;
use longshore_model::probe::Probe;
use longshore_model::secret::Secret;
use longshore_model::spec::{AppSpec, Image};
use longshore_model::task::PullProgress;
use longshore_model::usage::Reading;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use self::image::{Collected, Collection};
use crate::accelerators::Attached;
use crate::configuration::Configuration;

mod access;
mod allowances;
mod command;
mod connect;
pub mod docker;
pub mod embedded;
mod failure;
pub mod fake;
mod files;
pub mod image;
mod layout;
mod listeners;
mod logs;
pub mod measured;
mod owner;
mod privileges;
mod removed;
mod volumes;

pub use access::{Access, Keyring, RegistryCredential};
pub use allowances::Allowances;
pub use command::{Command, Input, Output, Resize, Running, WindowSize};
pub use connect::PortError;
pub use logs::{LogFile, Rotation, Selection};

/// One instance of an app on this node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceKey {
    /// The app.
    pub app: AppName,
    /// 0, 1, …
    pub index: u32,
}

/// An image that the runtime has found, though perhaps not fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedImage {
    /// Digest of its manifest for this node's architecture, `sha256:…`.
    pub digest: String,
    /// What was asked for, so that [`Runtime::pull`] knows where the bytes are.
    pub image: Image,
}

/// Why an image is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It is about to be pulled: what is found out is kept until then.
    Pull,
    /// Somebody wants to know: nothing is kept.
    Foresight,
}

/// An image that was found, and what it takes to have it here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// The image.
    pub image: ResolvedImage,
    /// Bytes of it that a registry has and this node has not: of layers, as they are packed.
    pub fetch: u64,
    /// What it takes of disks, where that is known.
    pub room: Vec<Room>,
}

/// What an image takes of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// A directory on it.
    pub place: PathBuf,
    /// Bytes that it takes at the least: unpacked layers are no smaller than packed ones.
    pub needed: u64,
    /// Bytes that are free.
    pub available: u64,
}

/// Everything needed to make the container of one run of an instance.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Which instance.
    pub instance: InstanceKey,
    /// Revision of the app, kept with the container so that it can be adopted.
    pub revision: u64,
    /// 1 for the instance's first start, and one more each time: restarts get a container of their own.
    pub run: u32,
    /// The image, pulled.
    pub image: ResolvedImage,
    /// What to run.
    pub spec: Arc<AppSpec>,
    /// The spec's environment, with all that it takes from elsewhere filled in; without what is from secrets.
    pub env: Vec<(String, String)>,
    /// Variables from secrets, none of which is in `env`: they must not reach a disk.
    pub secret_env: Vec<(String, Secret)>,
    /// What the spec's volumes take from config maps and secrets.
    pub configuration: Arc<Configuration>,
    /// Ports of the node that lead into this instance, each with its number.
    pub ports: Vec<BoundPort>,
    /// What comes with its accelerators; their variables are in `env` as well.
    pub attached: Attached,
}

/// A container that the runtime has, running or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which instance.
    pub instance: InstanceKey,
    /// Revision of the app that it was made for.
    pub revision: u64,
    /// Which run.
    pub run: u32,
    /// Where it is.
    pub state: FoundState,
    /// Ports that it holds.
    pub ports: Vec<BoundPort>,
}

/// Where a container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundState {
    /// Made and not started, or made half: to be deleted.
    Created,
    /// Up since then.
    Running(Timestamp),
    /// Ended so.
    Exited(InstanceExit),
}

/// Why a runtime could not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RuntimeError {
    /// For machines.
    pub reason: FailureReason,
    /// One sentence for people.
    pub message: String,
}

/// Which lines of an instance's output are wanted.
#[derive(Clone, Debug)]
pub struct LogQuery {
    /// Which instance.
    pub instance: InstanceKey,
    /// Which of its lines.
    pub wanted: Selection,
}

/// One line of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When the container wrote it.
    pub time: Timestamp,
    /// Whether it went to standard error.
    pub stderr: bool,
    /// The line without its line feed.
    pub text: Bytes,
}

/// Receives progress; called from the runtime's own tasks, must not block.
pub type ProgressSink = Arc<dyn Fn(PullProgress) + Send + Sync>;

/// What runs containers.
///
/// All methods may be called for different instances at once; for one instance the caller sends one at a time, except
/// [`Runtime::wait`], [`Runtime::logs`] and [`Runtime::usage`]. Every method is cancel-safe in this sense: a dropped call leaves something
/// that [`Runtime::delete`] removes. Calls that remove are idempotent.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// The word in [`longshore_model::node::NodeInfo::runtime`].
    fn name(&self) -> &'static str;

    /// What it can do on this machine, in the words of [`longshore_model::capability`]. Blocks for a moment.
    fn capabilities(&self) -> Vec<String>;

    /// Finds the image by its pull policy and checks that it is for this node's architecture; fetches no layer.
    /// A registry is shown the credential that `access` gives, which is asked for only when a registry is.
    async fn resolve(&self, image: &Image, access: &Access, purpose: Purpose) -> Result<Resolution, RuntimeError>;

    /// Fetches and unpacks what is missing of the image.
    async fn pull(&self, image: &ResolvedImage, access: &Access, progress: ProgressSink) -> Result<(), RuntimeError>;

    /// Removes images to make room, where the disk is fuller than it shall be: those first that were not used for longest, never
    /// one of which a container is, nor one of `needed`, which are digests.
    async fn collect_images(&self, policy: Collection, needed: BTreeSet<String>) -> Result<Collected, RuntimeError>;

    /// Bytes at the least of images that are none of `needed`, which are digests: what [`Runtime::collect_images`] could remove.
    async fn idle_images(&self, needed: BTreeSet<String>) -> Result<u64, RuntimeError>;

    /// Makes the container; nothing of the app runs yet. One that the instance has already is not touched, and an error.
    async fn create(&self, launch: &Launch) -> Result<(), RuntimeError>;

    /// Starts the container that was created last for this instance. A second start changes nothing and is answered like
    /// the first, so that an agent that did not hear the answer can ask again.
    async fn start(&self, instance: &InstanceKey) -> Result<Timestamp, RuntimeError>;

    /// Waits until the instance's container has ended; told again to whoever asks later, until it is deleted.
    async fn wait(&self, instance: &InstanceKey) -> Result<InstanceExit, RuntimeError>;

    /// Asks the container to end (SIGTERM, or the image's stop signal), kills it after `grace`, and waits until it ended.
    async fn stop(&self, instance: &InstanceKey, grace: Duration) -> Result<(), RuntimeError>;

    /// Deletes the instance's container, killing it if need be. Output and empty directories stay.
    async fn delete(&self, instance: &InstanceKey) -> Result<(), RuntimeError>;

    /// Removes what the app still holds beside its containers: empty directories, and output after a while.
    async fn remove_app(&self, app: &AppName) -> Result<(), RuntimeError>;

    /// Removes what is left of apps that are none of these, their output after a while. Called once, by an agent that has
    /// just learnt what its apps are.
    async fn retain(&self, apps: &BTreeSet<AppName>) -> Result<(), RuntimeError>;

    /// All containers of this node, and nothing of others.
    async fn list(&self) -> Result<Vec<Found>, RuntimeError>;

    /// What the kernel has counted of these instances, without those of which nothing can be read, such as one that has just
    /// ended.
    async fn usage(&self, instances: &[InstanceKey]) -> Result<Vec<Reading>, RuntimeError>;

    /// Asks a running instance what its probe asks. An error is no answer: the instance may well be alive and ready.
    async fn probe(&self, instance: &InstanceKey, probe: &Probe) -> Result<Answer, RuntimeError>;

    /// Lets new clients of a running instance's mapped ports in, or keeps them out; those that are there stay. An instance with a
    /// readiness probe begins with them kept out. Does nothing where the node does not say
    /// [`longshore_model::capability::NETWORK_PORTS_READINESS`].
    async fn admit(&self, instance: &InstanceKey, open: bool) -> Result<(), RuntimeError>;

    /// Starts a command beside the program of a running instance, with the program's user, environment, working directory,
    /// capabilities and limits. A command that cannot be executed ends with 127 or 126, and says why on its standard error.
    async fn exec(&self, instance: &InstanceKey, command: Command) -> Result<Running, RuntimeError>;

    /// Connects to a TCP port of a running instance, from inside its network. In the node's own network only ports are reached
    /// that the instance's own processes listen on, and nothing of the node's.
    async fn connect(&self, instance: &InstanceKey, port: u16) -> Result<TcpStream, PortError>;

    /// Binds those ports of a running instance anew that are of an interface named in `addresses`, where that has another address
    /// by now. TCP connections that are there stay.
    ///
    /// An error of the reason [`FailureReason::Unsupported`] says that the ports stay where they are until the next container.
    async fn relocate(
        &self,
        instance: &InstanceKey,
        addresses: &BTreeMap<String, Ipv4Addr>,
    ) -> Result<(), RuntimeError>;

    /// Streams an instance's output, whether it is still there or not; `None` where nothing of what is wanted is kept.
    async fn logs(&self, query: LogQuery) -> Result<Option<BoxStream<'static, LogLine>>, RuntimeError>;

    /// Files of logs that an instance has written by itself; `None` where it has no directory for them.
    async fn log_files(&self, instance: &InstanceKey) -> Result<Option<Vec<LogFile>>, RuntimeError>;
}
