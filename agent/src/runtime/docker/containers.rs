//! Containers of this node in its engine: made, started, watched and removed.
//!
//! Nothing of them is kept in memory but what the engine itself may forget: what exists is told by its labels.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, ContainerState};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, WaitContainerOptionsBuilder,
};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use longshore_model::app::InstanceExit;
use longshore_model::command as commands;
use longshore_model::failure::FailureReason;
use longshore_model::health::Answer;
use longshore_model::name::AppName;
use longshore_model::probe::{Action, Probe};
use longshore_model::spec::Ulimit;
use nix::sys::resource::{Resource, getrlimit};
use tokio::net::TcpStream;
use tokio::sync::OwnedMutexGuard;

use super::engine::{Engine, Facts, is_absent, patiently};
use super::images::Images;
use super::kin::Kin;
use super::output::{Copies, Copy};
use super::request::{self, Labels, Parts};
use super::{RECONNECT, Settings, kernel_log};
use crate::host_path::HostPaths;
use crate::probe::{self, Network};
use crate::runtime::layout::Layout;
use crate::runtime::{
    Found, FoundState, InstanceKey, Launch, PortError, Rotation, RuntimeError, command, connect, failure, files,
    removed, volumes,
};

/// Requests about different containers that the engine gets at once: it is one program for all of them.
pub(super) const REQUESTS_AT_ONCE: usize = 8;
/// Pause between two looks at a container whose state an engine is slow to tell.
const POLL: Duration = Duration::from_millis(25);
/// Looks at a container that runs although the engine could not send it a signal.
const MAX_END_LOOKS: u32 = 80;
/// Looks at a container that the engine says it is removing.
const MAX_REMOVAL_LOOKS: u32 = 1200;
/// What asks a program to end where its image says nothing.
const STOP_SIGNAL: &str = "SIGTERM";

/// The containers of one node.
pub(super) struct Containers {
    pub(super) settings: Settings,
    pub(super) layout: Layout,
    pub(super) engine: Arc<Engine>,
    pub(super) images: Images,
    pub(super) copies: Copies,
    /// One change at a time to an instance: a request that its caller has given up goes on in the engine.
    pub(super) changes: Mutex<HashMap<InstanceKey, Weak<tokio::sync::Mutex<()>>>>,
    /// Whether containers that have ended passed their memory limit, since the kernel's log forgets.
    pub(super) memory: Mutex<HashMap<String, bool>>,
}

/// A container as the engine lists it.
pub(super) struct Listed {
    pub(super) id: String,
    pub(super) labels: Labels,
}

impl Containers {
    /// Waits until nothing else is being changed about an instance.
    pub(super) async fn change(&self, instance: &InstanceKey) -> OwnedMutexGuard<()> {
        let lock = {
            let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            changes.retain(|_, lock| lock.strong_count() > 0);
            let known = changes.get(instance).and_then(Weak::upgrade);
            let lock = known.unwrap_or_default();
            changes.insert(instance.clone(), Arc::downgrade(&lock));
            lock
        };
        lock.lock_owned().await
    }

    /// As [`crate::runtime::Runtime::create`].
    pub(super) async fn create(&self, launch: &Launch) -> Result<(), RuntimeError> {
        self.settings.allowances.check(&launch.spec)?;
        let image = self.images.config(&launch.image.digest).await?.ok_or_else(|| {
            let message = format!("the container engine does not have the image {} any more", launch.image.digest);
            failure::because(FailureReason::ImageNotFound, message)
        })?;
        self.images.note_use(&launch.image.digest).await?;
        let (entrypoint, cmd) = (image.entrypoint.unwrap_or_default(), image.cmd.unwrap_or_default());
        let argv = commands::argv(&launch.spec.command, &launch.spec.args, &entrypoint, &cmd)
            .map_err(|error| failure::because(FailureReason::CommandNotFound, error.to_string()))?;
        let (layout, instance, spec) = (self.layout.clone(), launch.instance.clone(), Arc::clone(&launch.spec));
        let configuration = Arc::clone(&launch.configuration);
        let (docker, facts) = self.engine.connect().await?;
        let host_paths = self.host_paths(&facts);
        let user = launch.spec.user.as_deref().or(image.user.as_deref()).unwrap_or_default();
        let numbers = request::numbers(user);
        let (allowances, attached) = (self.settings.allowances.clone(), launch.attached.clone());
        let kept = self.settings.rotation.as_said(&launch.spec.logs);
        let prepared = blocking(move || {
            let devices = volumes::with_attached(allowances.devices(&spec)?, &attached);
            let marker = layout.removed_mark(instance.app.as_str());
            files::remove_file(&marker).map_err(|e| failure::io("keeping the output", e))?;
            let mut mounts = volumes::prepare(&layout, &instance, &spec.volumes, &configuration, &host_paths)?;
            mounts.extend(volumes::attached(&attached));
            mounts.extend(volumes::log_directory(&layout, &instance, &spec.logs, kept)?);
            if let Some((uid, gid)) = numbers {
                for volume in mounts.iter().filter(|volume| volume.is_projection) {
                    volumes::hand_over(&volume.source, uid, gid)
                        .map_err(|e| failure::io(format!("handing over the files for {}", volume.target), e))?;
                }
            }
            Ok((mounts, devices))
        });
        let (volumes, devices) = prepared.await?;
        let parts = Parts {
            node_uid: &self.settings.node_uid,
            image: self.images.name(&launch.image.digest)?,
            argv,
            volumes,
            devices,
            rotation: engines_rotation(kept, &facts),
            limits_swap: facts.limits_swap,
            own_limits: if facts.arms_users { own_limits() } else { Vec::new() },
            capabilities: !facts.arms_users || request::is_root(user),
        };
        let name = request::name(&self.settings.node_uid, &launch.instance, launch.run);
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let created = docker.create_container(Some(options), request::create(launch, parts)).await;
        created.map(drop).map_err(|error| self.engine.failed("making the container", &error))
    }

    /// What of the node containers may have, beside what the engine itself has there.
    fn host_paths(&self, facts: &Facts) -> HostPaths {
        let guarded = self.settings.host_paths.clone().guarding(self.settings.address.path());
        match &facts.root {
            Some(root) => guarded.guarding(root),
            None => guarded,
        }
    }

    /// Looks at a container's host paths once more: the engine follows links in them when it starts the container, and
    /// only then.
    async fn recheck(&self, container: &ContainerInspectResponse, facts: &Facts) -> Result<(), RuntimeError> {
        let own = [self.layout.all_volumes(), self.layout.all_logs()];
        let bound = container.mounts.iter().flatten().filter(|mount| mount.typ.as_deref() == Some("bind"));
        let sources = bound.filter_map(|mount| mount.source.clone().map(PathBuf::from));
        // What comes with accelerators is the node's own word, and may well be of the system.
        let labels = container.config.as_ref().and_then(|config| config.labels.as_ref());
        let attached = labels.map(request::attached).unwrap_or_default();
        let sources: Vec<PathBuf> = sources
            .filter(|source| !own.iter().any(|own| source.starts_with(own)) && !attached.contains(source))
            .collect();
        let host_paths = self.host_paths(facts);
        blocking(move || {
            let checked = sources.iter().try_for_each(|source| host_paths.recheck(source));
            checked.map_err(|error| failure::because(error.reason(), error.to_string()))
        })
        .await
    }

    /// As [`crate::runtime::Runtime::start`].
    pub(super) async fn start(&self, instance: &InstanceKey) -> Result<Timestamp, RuntimeError> {
        let (docker, facts) = self.engine.connect().await?;
        let newest = self.newest(&docker, instance).await?;
        let id = &newest.id;
        let container = self.inspect(&docker, id).await?;
        if let Some(since) = started(&container) {
            return Ok(since);
        }
        self.recheck(&container, &facts).await?;
        docker.start_container(id, None).await.map_err(|e| self.engine.failed("starting the container", &e))?;
        let since = started(&self.inspect(&docker, id).await?);
        self.copies.begin(self.copy(&newest));
        since.ok_or_else(|| failure::other("the container engine started the container, and does not say when"))
    }

    /// As [`crate::runtime::Runtime::wait`]; an engine that goes away meanwhile is waited for too.
    pub(super) async fn wait(&self, instance: &InstanceKey) -> Result<InstanceExit, RuntimeError> {
        let mut failures: u32 = 0;
        loop {
            match self.wait_once(instance).await {
                Err(error) if self.engine.is_away() => {
                    failures = failures.saturating_add(1);
                    tracing::warn!(app = %instance.app, index = instance.index, %error, "cannot watch a container");
                    tokio::time::sleep(RECONNECT.delay(failures)).await;
                }
                done => return done,
            }
        }
    }

    async fn wait_once(&self, instance: &InstanceKey) -> Result<InstanceExit, RuntimeError> {
        let docker = self.engine.client().await?;
        let id = self.newest(&docker, instance).await?.id;
        self.end_of(&docker, &id).await
    }

    async fn end_of(&self, docker: &Docker, id: &str) -> Result<InstanceExit, RuntimeError> {
        loop {
            let container = self.inspect(docker, id).await?;
            if let FoundState::Exited(exit) = self.state(&container).await {
                return Ok(exit);
            }
            if is_running(&container) {
                let options = WaitContainerOptionsBuilder::default().condition("not-running").build();
                match Box::pin(docker.wait_container(id, Some(options))).next().await {
                    // An exit code other than 0 comes as an error, and how it ended is asked for in any case.
                    None | Some(Ok(_) | Err(Error::DockerContainerWaitError { .. } | Error::RequestTimeoutError)) => {}
                    Some(Err(error)) => return Err(self.engine.failed("waiting for the container", &error)),
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// As [`crate::runtime::Runtime::stop`].
    pub(super) async fn stop(&self, instance: &InstanceKey, grace: Duration) -> Result<(), RuntimeError> {
        let docker = self.engine.client().await?;
        let Some(Listed { id, .. }) = self.runs(&docker, instance).await?.into_iter().next() else { return Ok(()) };
        let container = self.inspect(&docker, &id).await?;
        if !is_running(&container) {
            return Ok(());
        }
        let asks = container.config.and_then(|config| config.stop_signal).filter(|signal| !signal.is_empty());
        self.kill(&docker, &id, asks.as_deref().unwrap_or(STOP_SIGNAL)).await?;
        if let Ok(ended) = tokio::time::timeout(grace, self.end_of(&docker, &id)).await {
            return ended.map(drop);
        }
        self.kill(&docker, &id, "SIGKILL").await?;
        self.end_of(&docker, &id).await.map(drop)
    }

    async fn kill(&self, docker: &Docker, id: &str, signal: &str) -> Result<(), RuntimeError> {
        let options = KillContainerOptionsBuilder::default().signal(signal).build();
        let Err(error) = docker.kill_container(id, Some(options)).await else { return Ok(()) };
        // It may just have ended by itself, which engines tell in different ways, and some of them late.
        for _ in 0..MAX_END_LOOKS {
            match look(docker, id).await {
                Ok(container) if is_running(&container) => tokio::time::sleep(POLL).await,
                _ => return Ok(()),
            }
        }
        Err(self.engine.failed("stopping the container", &error))
    }

    /// As [`crate::runtime::Runtime::delete`].
    pub(super) async fn delete(&self, instance: &InstanceKey) -> Result<(), RuntimeError> {
        let docker = self.engine.client().await?;
        for listed in self.runs(&docker, instance).await? {
            let id = &listed.id;
            let container = match look(&docker, id).await {
                Ok(container) => container,
                Err(error) if is_absent(&error) => continue,
                // One that nothing can be learnt of must not stay for that.
                Err(Error::JsonDataError { .. }) => ContainerInspectResponse::default(),
                Err(error) => return Err(self.engine.failed("looking at the container", &error)),
            };
            if is_running(&container) {
                self.kill(&docker, id, "SIGKILL").await?;
                self.end_of(&docker, id).await?;
            }
            if started(&container).is_some()
                && let Err(error) = self.copies.finish(self.copy(&listed)).await
            {
                // What cannot be kept is no reason to keep the container.
                tracing::warn!(app = %instance.app, %error, "some output of a container is lost");
            }
            remove(&self.engine, &docker, id).await?;
            self.memory.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        }
        Ok(())
    }

    /// As [`crate::runtime::Runtime::probe`].
    pub(super) async fn probe(&self, instance: &InstanceKey, probe: &Probe) -> Result<Answer, RuntimeError> {
        if let Action::Exec(exec) = &probe.action {
            return command::probe(exec, probe.timeout, async |command| self.exec(instance, command).await).await;
        }
        let network = Network::of(self.network(instance).await?.0.namespace);
        let network = network.map_err(|e| failure::io("looking at the container's network", e))?;
        Ok(probe::ask(probe, network).await)
    }

    /// As [`crate::runtime::Runtime::connect`].
    pub(super) async fn connect(&self, instance: &InstanceKey, port: u16) -> Result<TcpStream, PortError> {
        let (network, kin) = self.network(instance).await?;
        connect::connect(port, network, move || kin.members()).await
    }

    /// The network of an instance's container, and what its processes have in common.
    async fn network(&self, instance: &InstanceKey) -> Result<(connect::Network, Kin), RuntimeError> {
        let docker = self.engine.client().await?;
        let id = self.newest(&docker, instance).await?.id;
        let container = self.inspect(&docker, &id).await?;
        let pid = running_pid(&container)?;
        let network = File::open(format!("/proc/{pid}/ns/net"));
        let network = network.map_err(|e| failure::io("opening the container's network", e))?;
        let kin = Kin::of(pid).map_err(|e| failure::io("looking at the container's first process", e))?;
        // Looked at once more: it may have ended meanwhile, and its pid be another's.
        if running_pid(&self.inspect(&docker, &id).await?)? != pid {
            return Err(failure::other("the container has just ended"));
        }
        let mode = container.host_config.and_then(|host| host.network_mode);
        Ok((connect::Network { namespace: network, is_shared: mode.as_deref() != Some(request::OWN_NETWORK) }, kin))
    }

    /// As [`crate::runtime::Runtime::remove_app`].
    pub(super) async fn remove_app(&self, app: &AppName) -> Result<(), RuntimeError> {
        let (layout, app) = (self.layout.clone(), app.clone());
        blocking(move || {
            removed::remove(&layout, &app, Timestamp::now()).map_err(|e| failure::io("removing an app", e))
        })
        .await
    }

    /// As [`crate::runtime::Runtime::retain`].
    pub(super) async fn retain(&self, apps: &BTreeSet<AppName>) -> Result<(), RuntimeError> {
        let (layout, apps) = (self.layout.clone(), apps.clone());
        blocking(move || {
            let retained = removed::retain(&layout, &apps, Timestamp::now());
            retained.map_err(|e| failure::io("removing what removed apps have left", e))
        })
        .await
    }

    /// As [`crate::runtime::Runtime::list`]; goes on with copying the output of what runs.
    pub(super) async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        let docker = self.engine.client().await?;
        let listed = labelled(&self.engine, &docker, &self.settings.node_uid, &[]).await?;
        let looks = listed.into_iter().map(|listed| {
            let docker = &docker;
            async move {
                let container = match look(docker, &listed.id).await {
                    Ok(container) => container,
                    // Removed in this moment.
                    Err(error) if is_absent(&error) => return Ok(None),
                    Err(error) => return Err(self.engine.failed("looking at the containers", &error)),
                };
                let state = self.state(&container).await;
                if matches!(state, FoundState::Running(_)) {
                    self.copies.begin(self.copy(&listed));
                }
                let Labels { instance, revision, run, ports, .. } = listed.labels;
                Ok(Some(Found { instance, revision, run, state, ports }))
            }
        });
        let found: Vec<_> = stream::iter(looks).buffered(REQUESTS_AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The run of an instance's newest container; `None` if it has none.
    pub(super) async fn newest_run(&self, instance: &InstanceKey) -> Result<Option<u32>, RuntimeError> {
        let docker = self.engine.client().await?;
        Ok(self.runs(&docker, instance).await?.first().map(|listed| listed.labels.run))
    }

    /// Copies the rest of the output of an instance whose container has ended.
    pub(super) async fn catch_up(&self, instance: &InstanceKey) -> Result<(), RuntimeError> {
        let docker = self.engine.client().await?;
        let Some(listed) = self.runs(&docker, instance).await?.into_iter().next() else { return Ok(()) };
        let container = self.inspect(&docker, &listed.id).await?;
        if started(&container).is_some() && !is_running(&container) {
            self.copies.finish(self.copy(&listed)).await?;
        }
        Ok(())
    }

    /// Containers of an instance, the newest run first.
    async fn runs(&self, docker: &Docker, instance: &InstanceKey) -> Result<Vec<Listed>, RuntimeError> {
        let index = instance.index.to_string();
        let wanted = [(request::APP, instance.app.as_str()), (request::INSTANCE, index.as_str())];
        let mut runs = labelled(&self.engine, docker, &self.settings.node_uid, &wanted).await?;
        runs.sort_by_key(|listed| std::cmp::Reverse(listed.labels.run));
        Ok(runs)
    }

    pub(super) async fn newest(&self, docker: &Docker, instance: &InstanceKey) -> Result<Listed, RuntimeError> {
        let newest = self.runs(docker, instance).await?.into_iter().next();
        newest.ok_or_else(|| failure::other(format!("{}-{} has no container", instance.app, instance.index)))
    }

    pub(super) async fn inspect(&self, docker: &Docker, id: &str) -> Result<ContainerInspectResponse, RuntimeError> {
        let container = look(docker, id).await;
        container.map_err(|error| self.engine.failed("looking at the container", &error))
    }

    async fn state(&self, container: &ContainerInspectResponse) -> FoundState {
        let Some(since) = started(container) else { return FoundState::Created };
        if is_running(container) {
            return FoundState::Running(since);
        }
        let state = container.state.clone().unwrap_or_default();
        let code = i32::try_from(state.exit_code.unwrap_or_default()).unwrap_or(i32::MAX);
        let limit = container.host_config.as_ref().and_then(|host| host.memory).unwrap_or_default();
        let out_of_memory =
            code != 0 && (state.oom_killed == Some(true) || (limit > 0 && self.passed_memory_limit(container).await));
        let time = moment(state.finished_at.as_deref()).unwrap_or(since);
        FoundState::Exited(InstanceExit { code, out_of_memory, time })
    }

    /// Whether the kernel's log says so; what it said once holds.
    async fn passed_memory_limit(&self, container: &ContainerInspectResponse) -> bool {
        let Some(id) = container.id.clone() else { return false };
        let known = self.memory.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied();
        if let Some(known) = known {
            return known;
        }
        let wanted = id.clone();
        let passed = tokio::task::spawn_blocking(move || kernel_log::tells_of_memory(&wanted)).await.unwrap_or(false);
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).insert(id, passed);
        passed
    }

    fn copy(&self, listed: &Listed) -> Copy {
        let Listed { id, labels } = listed;
        Copy {
            engine: Arc::clone(&self.engine),
            container: id.clone(),
            run: labels.run,
            directory: self.layout.logs(&labels.instance),
            rotation: self.settings.rotation.as_said(&labels.logs),
        }
    }
}

/// Containers of a node with these labels.
pub(super) async fn labelled(
    engine: &Engine,
    docker: &Docker,
    node_uid: &str,
    labels: &[(&str, &str)],
) -> Result<Vec<Listed>, RuntimeError> {
    let node = (request::NODE, node_uid);
    let labels = std::iter::once(&node).chain(labels);
    let labels = labels.map(|(name, value)| format!("{name}={value}")).collect();
    let filters = HashMap::from([("label".to_owned(), labels)]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let listed = patiently(|| docker.list_containers(Some(options.clone()))).await;
    let listed = listed.map_err(|error| engine.failed("listing the containers", &error))?;
    // What bears our node's name and says nothing that we understand is left alone.
    let ours = |summary: bollard::models::ContainerSummary| {
        Some(Listed { id: summary.id?, labels: Labels::read(&summary.labels?)? })
    };
    Ok(listed.into_iter().filter_map(ours).collect())
}

/// Removes every container of a node from its engine.
pub(super) async fn remove_all(engine: &Engine, node_uid: &str) -> Result<(), RuntimeError> {
    let docker = engine.client().await?;
    for Listed { id, .. } in labelled(engine, &docker, node_uid, &[]).await? {
        remove(engine, &docker, &id).await?;
    }
    Ok(())
}

/// Removes a container, and waits until the engine does not know it any more.
async fn remove(engine: &Engine, docker: &Docker, id: &str) -> Result<(), RuntimeError> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    let Err(error) = docker.remove_container(id, Some(options)).await else { return Ok(()) };
    if is_absent(&error) {
        return Ok(());
    }
    if !matches!(error, Error::DockerResponseServerError { status_code: 409, .. }) {
        return Err(engine.failed("removing the container", &error));
    }
    // A removal that was given up goes on.
    for _ in 0..MAX_REMOVAL_LOOKS {
        match look(docker, id).await {
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(engine.failed("removing the container", &error)),
            Ok(_) => tokio::time::sleep(POLL).await,
        }
    }
    Err(engine.failed("removing the container", &error))
}

/// What Podman would raise in vain where the machine does not let it: see [`Parts::own_limits`].
fn own_limits() -> Vec<Ulimit> {
    let limits = [("nofile", Resource::RLIMIT_NOFILE), ("nproc", Resource::RLIMIT_NPROC)];
    let own = limits.into_iter().filter_map(|(name, resource)| {
        let (_, hard) = getrlimit(resource).ok()?;
        // No limit is -1 in both worlds.
        let hard = hard.cast_signed();
        Some(Ulimit { name: name.to_owned(), soft: hard, hard })
    });
    own.collect()
}

/// How an engine shall rotate: it keeps at least what the agent keeps, so that an agent that is away for a while misses
/// little.
fn engines_rotation(ours: Rotation, facts: &Facts) -> Rotation {
    if facts.rotates {
        return ours;
    }
    Rotation { max_bytes: ours.max_bytes.saturating_mul(u64::from(ours.max_files)), max_files: 1 }
}

/// What an engine knows of a container.
async fn look(docker: &Docker, id: &str) -> Result<ContainerInspectResponse, Error> {
    patiently(|| docker.inspect_container(id, None)).await
}

/// The first process of a container that runs.
pub(super) fn running_pid(container: &ContainerInspectResponse) -> Result<i64, RuntimeError> {
    let pid = container.state.as_ref().filter(|_| is_running(container)).and_then(|state| state.pid);
    pid.filter(|pid| *pid > 0).ok_or_else(|| failure::other("the container does not run"))
}

/// When a container was started; `None` if it never was.
fn started(container: &ContainerInspectResponse) -> Option<Timestamp> {
    moment(container.state.as_ref()?.started_at.as_deref())
}

/// A time that an engine tells; the year 1 stands for none.
fn moment(text: Option<&str>) -> Option<Timestamp> {
    text?.parse().ok().filter(|time: &Timestamp| *time > Timestamp::UNIX_EPOCH)
}

fn is_running(container: &ContainerInspectResponse) -> bool {
    let is = |state: &ContainerState| state.running == Some(true) || state.paused == Some(true);
    container.state.as_ref().is_some_and(is)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(failure::other("work on files was given up")),
    }
}
