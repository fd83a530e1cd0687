//! Containers of this node: made, started, watched and removed through their shims.
//!
//! Nothing is kept in memory: what exists is on disk, and whether it lives is told by locks. So a restarted agent knows
//! as much as the one before it.

mod composition;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::stream::BoxStream;
use jiff::Timestamp;
use longshore_model::app::InstanceExit;
use longshore_model::failure::FailureReason;
use longshore_model::health;
use longshore_model::name::AppName;
use longshore_model::probe::{Action, Probe};
use longshore_model::usage::Reading;
use nix::sys::signal::Signal;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

pub(super) use self::composition::Program;
use super::cgroup::{self, CgroupPath};
use super::client::{self, Heard, Patience};
use super::egress::{Choice, Egress};
use super::launch::{Label, LaunchFile};
use super::layout::{self, Layout};
use super::lock::KeptOut;
use super::logs::{self, Rotation};
use super::state::{self, Answer, Command, State};
use super::{exec, failure, files, owner, removed, sweep, usage};
use crate::host_path::HostPaths;
use crate::probe;
use crate::runtime::{
    Allowances, Found, FoundState, InstanceKey, Launch, LogFile, LogLine, LogQuery, PortError, Running, RuntimeError,
    command, connect,
};

/// Exit code that is told of a container whose end nobody saw: as after SIGKILL.
pub(super) const LOST: i32 = 128 + Signal::SIGKILL as i32;

/// How long a shim that is still making its container is waited for by whoever wants the container gone.
pub(super) const MAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two looks at a shim that is making its container.
const MAKE_POLL: Duration = Duration::from_millis(5);

/// How containers are run on this node.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The agent's data directory.
    pub data_dir: PathBuf,
    /// Names this node's cgroups: letters, digits and dashes.
    pub node_uid: String,
    /// Program that is started as `<program> shim <directory>`; the agent itself.
    pub shim: PathBuf,
    /// How output is rotated.
    pub rotation: Rotation,
    /// How containers with mapped ports reach the outside.
    pub egress: Choice,
    /// Which paths of the node containers may have.
    pub host_paths: HostPaths,
    /// How long shims are waited for.
    pub patience: Patience,
    /// What apps may ask for.
    pub allowances: Allowances,
}

impl Settings {
    /// With this very program as the shim, also after its file was replaced, and the usual rotation.
    #[must_use]
    pub fn of_this_program(data_dir: &Path, node_uid: &str) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            node_uid: node_uid.to_owned(),
            shim: PathBuf::from("/proc/self/exe"),
            rotation: Rotation::default(),
            egress: Choice::default(),
            host_paths: HostPaths::new(data_dir, Vec::new()),
            patience: Patience::default(),
            allowances: Allowances::default(),
        }
    }
}

/// The containers of one data directory.
#[derive(Debug)]
pub(super) struct Containers {
    settings: Settings,
    layout: Layout,
    egress: Option<Egress>,
}

impl Containers {
    /// Opens the data directory and removes what is left of containers that were never finished. Blocks.
    pub(super) fn open(settings: Settings) -> Result<Self, RuntimeError> {
        // A path that cannot be made is found out now and not at the first container.
        CgroupPath::new(&settings.node_uid, "probe").map_err(|e| failure::other(e.to_string()))?;
        let layout = Layout::new(&settings.data_dir);
        let make = |directory: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        for directory in [layout.root(), &layout.containers(), &layout.all_logs(), &layout.all_volumes()] {
            make(directory).map_err(|e| failure::io(format!("making {}", directory.display()), e))?;
        }
        // Mounts are compared by path, and the kernel tells canonical ones.
        let data_dir =
            fs::canonicalize(&settings.data_dir).map_err(|e| failure::io("opening the data directory", e))?;
        let layout = Layout::new(&data_dir);
        owner::claim(&layout, &settings.node_uid).map_err(|e| failure::io("writing the node's uid", e))?;
        if layout.engine().exists() {
            let message = "the apps of this data directory are with a container engine: run with --runtime docker, or \
                           reset first";
            return Err(failure::other(message));
        }
        sweep::containers(&layout).map_err(|e| failure::io("removing leftovers", e))?;
        removed::sweep(&layout, Timestamp::now()).map_err(|e| failure::io("removing old output", e))?;
        let egress = match Egress::find(settings.egress, &settings.node_uid) {
            Ok(egress) => {
                note_egress(&layout).map_err(|e| failure::io("noting that there is a way out", e))?;
                tracing::info!(range = %egress.range, "containers with mapped ports reach the outside");
                Some(egress)
            }
            Err(why) => {
                tracing::warn!(why, "containers with mapped ports do not reach the outside");
                None
            }
        };
        let containers = Self { settings: Settings { data_dir, ..settings }, layout, egress };
        let tidied = containers.tidy_network().and_then(|()| sweep::forget_former(&containers.layout));
        if let Err(error) = tidied {
            // Tried again at the next sweep or start; no reason not to come up.
            tracing::warn!(%error, "leftovers of removed apps or former nodes stay");
        }
        Ok(containers)
    }

    /// What apps may ask for.
    pub(super) fn allowances(&self) -> &Allowances {
        &self.settings.allowances
    }

    /// Whether containers with mapped ports reach the outside.
    pub(super) fn has_egress(&self) -> bool {
        self.egress.is_some()
    }

    /// Removes what no container's network needs any more. Blocks.
    fn tidy_network(&self) -> std::io::Result<()> {
        sweep::network(&self.layout, self.egress.is_some())
    }

    /// As [`crate::runtime::Runtime::create`].
    pub(super) async fn create(&self, launch: &Launch, program: Program) -> Result<(), RuntimeError> {
        self.settings.allowances.check(&launch.spec)?;
        let directory = self.layout.container(&launch.instance, launch.run);
        let made = self.prepare(launch, program, &directory).and_then(|file| {
            fs::DirBuilder::new()
                .mode(0o700)
                .create(&directory)
                .and_then(|()| file.write(&directory))
                .map_err(|e| failure::io(format!("making {}", directory.display()), e))
        });
        made?;
        let spawned =
            client::spawn(&self.settings.shim, &directory, &launch.secret_env, self.settings.patience.make).await;
        if spawned.is_err() {
            // One that was killed has not tidied up after itself.
            self.bury(&directory).await?;
        }
        spawned
    }

    /// Directories of an instance's containers, the newest run first.
    fn runs(&self, instance: &InstanceKey) -> Result<Vec<PathBuf>, RuntimeError> {
        let names = files::names(&self.layout.containers()).map_err(|e| failure::io("listing containers", e))?;
        let mut runs: BTreeMap<u32, PathBuf> = BTreeMap::new();
        for (key, run) in names.iter().filter_map(|name| layout::parse_container_name(name)) {
            if key == *instance {
                runs.insert(run, self.layout.container(&key, run));
            }
        }
        Ok(runs.into_values().rev().collect())
    }

    fn newest(&self, instance: &InstanceKey) -> Result<PathBuf, RuntimeError> {
        let newest = self.runs(instance)?.into_iter().next();
        newest.ok_or_else(|| failure::other(format!("{}-{} has no container", instance.app, instance.index)))
    }

    /// As [`crate::runtime::Runtime::start`].
    pub(super) async fn start(&self, instance: &InstanceKey) -> Result<Timestamp, RuntimeError> {
        let container = self.newest(instance)?;
        let patience = self.settings.patience.start;
        match self.ask(&container, Command::Start, Some(patience)).await? {
            Heard::Answer(Answer::Done(State::Running { since })) => Ok(since),
            // So short a life that its end came first.
            Heard::Answer(Answer::Done(State::Exited(exit))) => Ok(exit.time),
            Heard::Answer(Answer::Done(State::Failed(why)) | Answer::Refused(why)) => Err(why.into()),
            Heard::Answer(Answer::Done(State::Created) | Answer::Begun | Answer::Ended(_)) => {
                Err(failure::other("the container was not started"))
            }
            Heard::Silence => {
                self.force(&container).await?;
                let seconds = patience.as_secs();
                let message = format!("starting the container was given up: its shim did not answer for {seconds} s");
                Err(failure::other(message))
            }
            Heard::Gone => match client::last_state(&container) {
                Some(State::Failed(why)) => Err(why.into()),
                Some(State::Exited(exit)) => Ok(exit.time),
                _ => Err(failure::other("the container's shim is gone")),
            },
        }
    }

    /// As [`crate::runtime::Runtime::wait`].
    pub(super) async fn wait(&self, instance: &InstanceKey) -> Result<InstanceExit, RuntimeError> {
        let container = self.newest(instance)?;
        let heard = self.ask(&container, Command::Wait, None).await?;
        if let Heard::Answer(Answer::Done(State::Exited(exit))) = heard {
            return Ok(exit);
        }
        if !self.ended(&container).await? {
            return Err(failure::other("the container's shim does not answer"));
        }
        self.settle(&container).await
    }

    /// As [`crate::runtime::Runtime::admit`].
    pub(super) async fn admit(&self, instance: &InstanceKey, open: bool) -> Result<(), RuntimeError> {
        let container = self.newest(instance)?;
        let label = Label::read(&container).map_err(|e| failure::io("reading a container's description", e))?;
        if !label.can_be_shut() {
            return Ok(());
        }
        self.move_ports(&container, Command::Ports { open }).await
    }

    /// As [`crate::runtime::Runtime::relocate`].
    pub(super) async fn relocate(
        &self,
        instance: &InstanceKey,
        addresses: &BTreeMap<String, Ipv4Addr>,
    ) -> Result<(), RuntimeError> {
        let container = self.newest(instance)?;
        let label = Label::read(&container).map_err(|e| failure::io("reading a container's description", e))?;
        if label.ports.iter().all(|port| port.host_interface.is_none()) {
            let message = "the container's shim is of an earlier agent, which cannot lead ports to another address";
            return Err(failure::because(FailureReason::Unsupported, message));
        }
        self.move_ports(&container, Command::Relocate { addresses: addresses.clone() }).await
    }

    /// Has a shim do something with its ports; one that is gone has none.
    async fn move_ports(&self, container: &Path, command: Command) -> Result<(), RuntimeError> {
        match self.ask(container, command, Some(self.settings.patience.ports)).await? {
            Heard::Answer(Answer::Done(_) | Answer::Begun | Answer::Ended(_)) | Heard::Gone => Ok(()),
            Heard::Answer(Answer::Refused(why)) => Err(why.into()),
            Heard::Silence => Err(failure::other("the container's shim does not answer")),
        }
    }

    /// As [`crate::runtime::Runtime::stop`].
    pub(super) async fn stop(&self, instance: &InstanceKey, grace: Duration) -> Result<(), RuntimeError> {
        let Some(container) = self.runs(instance)?.into_iter().next() else { return Ok(()) };
        let asks = Label::read(&container).map_or(Signal::SIGTERM as i32, |label| label.stop_signal);
        if let Err(error) = self.admit(instance, false).await {
            tracing::warn!(app = %instance.app, index = instance.index, %error, "clients may still come while it ends");
        }
        let mut heard = self.signal(&container, asks).await?;
        if matches!(heard, Heard::Answer(_)) {
            let over = tokio::time::timeout(grace, self.ask(&container, Command::Wait, None)).await;
            if over.is_err() {
                heard = self.signal(&container, Signal::SIGKILL as i32).await?;
            }
        }
        // Whoever does not answer does not end in good order either.
        if !matches!(heard, Heard::Silence) && self.ended(&container).await? {
            self.settle(&container).await?;
            return Ok(());
        }
        self.force(&container).await
    }

    /// As [`crate::runtime::Runtime::delete`].
    pub(super) async fn delete(&self, instance: &InstanceKey) -> Result<(), RuntimeError> {
        for container in self.runs(instance)? {
            // Kept until it is removed: a shim whose creation was given up in this moment must not begin meanwhile.
            let _kept_out = self.evict(&container).await?;
            self.bury(&container).await?;
            blocking(move || files::remove_tree(&container), "removing a container").await?;
        }
        Ok(())
    }

    /// As [`crate::runtime::Runtime::remove_app`].
    pub(super) async fn remove_app(&self, app: &AppName) -> Result<(), RuntimeError> {
        let (layout, has_egress, app) = (self.layout.clone(), self.egress.is_some(), app.clone());
        let remove = move || {
            removed::remove(&layout, &app, Timestamp::now())?;
            sweep::network(&layout, has_egress)
        };
        blocking(remove, "removing an app").await
    }

    /// As [`crate::runtime::Runtime::retain`].
    pub(super) async fn retain(&self, apps: &BTreeSet<AppName>) -> Result<(), RuntimeError> {
        let (layout, apps) = (self.layout.clone(), apps.clone());
        blocking(move || removed::retain(&layout, &apps, Timestamp::now()), "removing what removed apps have left")
            .await
    }

    /// As [`crate::runtime::Runtime::list`].
    pub(super) async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        let mut found = Vec::new();
        for name in files::names(&self.layout.containers()).map_err(|e| failure::io("listing containers", e))? {
            let container = self.layout.containers().join(&name);
            let Ok(label) = Label::read(&container) else { continue };
            let state = if self.is_alive(&container)? {
                match state::read(&container) {
                    Some(State::Running { since }) => FoundState::Running(since),
                    Some(State::Exited(exit)) => FoundState::Exited(exit),
                    Some(State::Created | State::Failed(_)) | None => FoundState::Created,
                }
            } else {
                match state::read(&container) {
                    Some(State::Running { .. } | State::Exited(_)) => {
                        FoundState::Exited(self.settle(&container).await?)
                    }
                    Some(State::Created | State::Failed(_)) | None => FoundState::Created,
                }
            };
            found.push(Found {
                instance: InstanceKey { app: label.app, index: label.index },
                revision: label.revision,
                run: label.run,
                state,
                ports: label.ports,
            });
        }
        Ok(found)
    }

    /// As [`crate::runtime::Runtime::usage`].
    pub(super) async fn usage(&self, instances: &[InstanceKey]) -> Result<Vec<Reading>, RuntimeError> {
        let (layout, instances) = (self.layout.clone(), instances.to_vec());
        blocking(move || usage::of(&layout, &instances), "measuring containers").await
    }

    /// As [`crate::runtime::Runtime::probe`].
    pub(super) async fn probe(&self, instance: &InstanceKey, probe: &Probe) -> Result<health::Answer, RuntimeError> {
        if let Action::Exec(exec) = &probe.action {
            return command::probe(exec, probe.timeout, async |command| self.exec(instance, command).await).await;
        }
        let network = probe::Network::of(network_of(&self.newest(instance)?)?);
        let network = network.map_err(|e| failure::io("looking at the container's network", e))?;
        Ok(probe::ask(probe, network).await)
    }

    /// As [`crate::runtime::Runtime::connect`].
    pub(super) async fn connect(&self, instance: &InstanceKey, port: u16) -> Result<TcpStream, PortError> {
        let container = self.newest(instance)?;
        let label = Label::read(&container).map_err(|e| failure::io("reading a container's description", e))?;
        let network = connect::Network { namespace: network_of(&container)?, is_shared: label.host_network };
        connect::connect(port, network, move || cgroup::members(&label.cgroup)).await
    }

    /// As [`crate::runtime::Runtime::exec`].
    pub(super) async fn exec(
        &self,
        instance: &InstanceKey,
        command: crate::runtime::Command,
    ) -> Result<Running, RuntimeError> {
        exec::exec(&self.newest(instance)?, command, self.settings.patience.start).await
    }

    /// As [`crate::runtime::Runtime::logs`].
    pub(super) async fn logs(&self, query: LogQuery) -> Result<Option<BoxStream<'static, LogLine>>, RuntimeError> {
        let directory = self.layout.logs(&query.instance);
        let newest = self.runs(&query.instance)?.into_iter().next();
        if query.wanted.follow && !directory.exists() && newest.is_none() {
            return Ok(None);
        }
        let run = newest.and_then(|container| Label::read(&container).ok()).map(|label| label.run);
        blocking(move || logs::stream(directory, &query.wanted, run), "reading output").await
    }

    /// As [`crate::runtime::Runtime::log_files`].
    pub(super) async fn log_files(&self, instance: &InstanceKey) -> Result<Option<Vec<LogFile>>, RuntimeError> {
        let directory = self.layout.logs(instance);
        blocking(move || logs::list_files(&directory), "looking for files of logs").await
    }

    /// Keeps the log directories of apps within their bounds, for ever.
    pub(super) async fn keep_logs_bounded(self: std::sync::Arc<Self>) {
        logs::keep_bounded(self.layout.clone()).await;
    }

    /// Directories of layers that containers are made of, whether they run or not.
    pub(super) async fn mounted_layers(&self) -> Result<HashSet<PathBuf>, RuntimeError> {
        let containers = self.layout.containers();
        let read = move || {
            let mut layers = HashSet::new();
            for name in files::names(&containers)? {
                match LaunchFile::read(&containers.join(name)) {
                    Ok(launch) => layers.extend(launch.layers),
                    // Half made, or half removed.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(layers)
        };
        blocking(read, "looking at the layers of containers").await
    }

    /// Where the images of this data directory are.
    pub(super) fn images_dir(&self) -> PathBuf {
        self.layout.images()
    }

    /// Removes output of apps that were removed long ago, and what crashes have left of their network.
    pub(super) async fn sweep(self: std::sync::Arc<Self>) {
        let sweep = move || {
            self.tidy_network()?;
            removed::sweep(&self.layout, Timestamp::now())
        };
        if let Err(error) = blocking(sweep, "removing what removed apps have left").await {
            tracing::warn!(%error, "something of removed apps stays");
        }
    }

    async fn ask(&self, container: &Path, command: Command, patience: Option<Duration>) -> Result<Heard, RuntimeError> {
        client::ask(container, command, patience).await.map_err(|e| failure::io("talking to a shim", e))
    }

    async fn signal(&self, container: &Path, number: i32) -> Result<Heard, RuntimeError> {
        self.ask(container, Command::Kill(number), Some(self.settings.patience.signal)).await
    }

    fn is_alive(&self, container: &Path) -> Result<bool, RuntimeError> {
        client::is_alive(container).map_err(|e| failure::io("looking for a shim", e))
    }

    async fn ended(&self, container: &Path) -> Result<bool, RuntimeError> {
        client::await_end(container).await.map_err(|e| failure::io("waiting for a shim", e))
    }

    /// How a container whose shim is gone has ended; one whose shim died before it is killed now.
    async fn settle(&self, container: &Path) -> Result<InstanceExit, RuntimeError> {
        match client::last_state(container) {
            Some(State::Exited(exit)) => return Ok(exit),
            Some(State::Failed(why)) => return Err(why.into()),
            _ => {}
        }
        self.bury(container).await?;
        let exit = InstanceExit { code: LOST, out_of_memory: false, time: Timestamp::now() };
        if let Err(error) = state::write(container, &State::Exited(exit)) {
            // On a full disk the same is found out again the next time.
            tracing::warn!(%error, container = %container.display(), "the end of a container is not written down");
        }
        Ok(exit)
    }

    /// Kills a shim that does not obey, and its container.
    async fn force(&self, container: &Path) -> Result<(), RuntimeError> {
        let lock = container.join(layout::LOCK);
        super::lock::kill_holder(&lock).map_err(|e| failure::io("killing a shim", e))?;
        if !self.ended(container).await? {
            return Err(failure::other(format!("the shim of {} cannot be killed", container.display())));
        }
        self.bury(container).await
    }

    /// Ends a container's shim, and with it the container, and keeps others out.
    async fn evict(&self, container: &Path) -> Result<KeptOut, RuntimeError> {
        loop {
            let path = container.join(layout::LOCK);
            let kept_out = blocking(move || super::lock::keep_out(&path), "locking a container").await?;
            if let Some(kept_out) = kept_out {
                return Ok(kept_out);
            }
            // A shim that hears it goes in good order; one that does not is killed with its container.
            let heard = self.kill_once_made(container).await?;
            if !matches!(heard, Heard::Answer(_)) || !self.ended(container).await? {
                self.force(container).await?;
            }
        }
    }

    /// Kills a container whose shim may still be making it: killed in the middle, that would leave the container library's
    /// other processes behind, which go on with the making.
    async fn kill_once_made(&self, container: &Path) -> Result<Heard, RuntimeError> {
        let deadline = Instant::now() + MAKE_TIMEOUT;
        loop {
            let heard = self.signal(container, Signal::SIGKILL as i32).await?;
            if !matches!(heard, Heard::Gone) || !self.is_alive(container)? || Instant::now() >= deadline {
                return Ok(heard);
            }
            sleep(MAKE_POLL).await;
        }
    }

    /// Kills what is left of a container, and removes its cgroup.
    async fn bury(&self, container: &Path) -> Result<(), RuntimeError> {
        let Ok(label) = Label::read(container) else { return Ok(()) };
        blocking(move || cgroup::destroy(&label.cgroup), "removing a cgroup").await
    }
}

/// The network of a container, in which its shim lives.
fn network_of(container: &Path) -> Result<fs::File, RuntimeError> {
    let network = super::lock::network_of_holder(&container.join(layout::LOCK));
    let network = network.map_err(|e| failure::io("opening the container's network", e))?;
    network.ok_or_else(|| failure::other("the container's shim is gone"))
}

/// Leaves word that containers of this directory have a way out, for an agent that will not give them one.
fn note_egress(layout: &Layout) -> std::io::Result<()> {
    let mark = layout.has_had_egress();
    if mark.exists() { Ok(()) } else { fs::write(mark, "") }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    doing: &'static str,
) -> Result<T, RuntimeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|e| failure::io(doing, e)),
        Err(_) => Err(failure::other(format!("{doing} was given up"))),
    }
}
