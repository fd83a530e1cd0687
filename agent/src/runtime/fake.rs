//! A runtime without containers, scripted by what it is asked to run; after Nomad's mock driver.
//!
//! The script stands in the image reference, behind a question mark: `fake/app:1?pull=200ms&exit=1&after=50ms`.
//!
//! | word | meaning |
//! |---|---|
//! | `arch=arm64` | the image's architecture; [`FailureReason::ArchitectureMismatch`] where it is not the node's |
//! | `room=1000` | so many bytes are free on the disk, of which the image takes a million; enough when not said |
//! | `resolve=fail`, `pull=fail`, `create=fail`, `start=fail` | that step fails, by `reason` |
//! | `reason=DISK_FULL` | the reason of failing steps; `RUNTIME_ERROR` when not said |
//! | `pull=200ms` | how long the pull takes, with progress all along |
//! | `create=200ms`, `start=200ms`, `stop=200ms` | how long the step takes |
//! | `exit=1` | every container ends with this code |
//! | `after=50ms` | so long after its start; at once when not said |
//! | `runs=2` | only the first two runs of each instance end by themselves |
//! | `wait=fail` | the first wait for each container fails, though it runs |
//! | `admit=fail` | the first word to an instance on whether to let clients in is not heard |
//! | `cpu=250`, `memory=1048576` | what each container uses as long as it runs, in thousandths of a CPU and in bytes; 0 when not said |
//! | `oom=true` | they end by passing their memory limit |
//! | `opens=81:5s` | the port 81 takes no connection before that long after a container's start; all others do at once |
//! | `hangs=80:20s` | the port 80 does not answer any more from then on |
//! | `hangs_runs=1` | that is so of the first run of each instance only |
//!
//! Commands beside their programs are played too, as far as the demo image's program knows them: `/app cat`, `exit`, `print`
//! and `sleep`. Every port echoes what is sent to it, one connection or many.
//!
//! Containers live in a [`Machine`]. Several runtimes may share one, which is how an agent's restart is played: a second
//! agent finds the containers that the first one started.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use jiff::Timestamp;
use longshore_model::app::InstanceExit;
use longshore_model::capability;
use longshore_model::failure::FailureReason;
use longshore_model::health::Answer;
use longshore_model::name::AppName;
use longshore_model::probe::{Action, HttpGet, Probe, TcpSocket};
use longshore_model::spec::{Image, ImageSource};
use longshore_model::task::PullProgress;
use longshore_model::usage::Reading;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::image::{Collected, Collection};
use super::{
    Access, Command, Found, FoundState, InstanceKey, Launch, LogFile, LogLine, LogQuery, PortError, ProgressSink,
    Purpose, Resolution, ResolvedImage, Room, Running, Runtime, RuntimeError, command,
};
use crate::clock::{Clock, until};
use crate::{node, probe};

mod program;

/// Bytes of every image.
const IMAGE_BYTES: u64 = 1_000_000;
/// Steps in which a pull reports its progress.
const PULL_STEPS: u32 = 10;
/// Lines of output kept for an instance.
const MAX_LINES: usize = 1000;
/// Exit code of a container that was stopped: SIGTERM's.
const STOPPED: i32 = 143;

/// The machine that fake containers live on.
#[derive(Clone, Debug)]
pub struct Machine {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
    clock: Clock,
}

#[derive(Debug, Default)]
struct State {
    containers: BTreeMap<InstanceKey, Container>,
    output: HashMap<InstanceKey, VecDeque<LogLine>>,
    starts: BTreeMap<InstanceKey, u32>,
    graces: BTreeMap<InstanceKey, Duration>,
    admissions: BTreeMap<InstanceKey, Vec<bool>>,
}

#[derive(Clone, Debug)]
struct Container {
    launch: Launch,
    started: Option<Timestamp>,
    exit: Option<InstanceExit>,
    waited: bool,
}

/// What an image's reference tells the runtime to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Script(BTreeMap<String, String>);

/// See the module.
#[derive(Clone, Debug)]
pub struct FakeRuntime {
    machine: Machine,
    capabilities: Vec<String>,
}

impl Machine {
    /// A machine without containers, whose clock reads `wall`.
    #[must_use]
    pub fn new(wall: Timestamp) -> Self {
        Self { state: Arc::default(), changed: watch::Sender::default(), clock: Clock::starting_at(wall) }
    }

    /// How often an instance's containers were started, since the machine began.
    #[must_use]
    pub fn starts(&self, instance: &InstanceKey) -> u32 {
        self.state().starts.get(instance).copied().unwrap_or(0)
    }

    /// How long the instance's last container was given to end, if it was stopped.
    #[must_use]
    pub fn grace(&self, instance: &InstanceKey) -> Option<Duration> {
        self.state().graces.get(instance).copied()
    }

    /// What the runtime was told of the traffic to an instance, since the machine began: whether to let it in.
    #[must_use]
    pub fn admissions(&self, instance: &InstanceKey) -> Vec<bool> {
        self.state().admissions.get(instance).cloned().unwrap_or_default()
    }

    /// Ends every container and forgets it, as a reboot does.
    pub fn reboot(&self) {
        self.state().containers.clear();
        self.changed.send_replace(());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, instance: &InstanceKey, run: u32, exit: InstanceExit) {
        let mut state = self.state();
        let container = state.containers.get_mut(instance).filter(|c| c.launch.run == run && c.started.is_some());
        if let Some(container) = container {
            container.exit.get_or_insert(exit);
        }
        drop(state);
        self.changed.send_replace(());
    }
}

impl Script {
    fn of(image: &Image) -> Self {
        let text = match &image.source {
            ImageSource::Reference(text) | ImageSource::Archive(text) => text,
        };
        let words = text.split_once('?').map_or("", |(_, words)| words);
        let pairs = words.split('&').filter_map(|word| word.split_once('='));
        Self(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.get(key)?.parse().ok()
    }

    fn duration(&self, key: &str) -> Duration {
        duration(self.get(key).unwrap_or_default())
    }

    /// A port and a time, of `word=80:5s`.
    fn port_time(&self, key: &str) -> Option<(u16, Duration)> {
        let (port, time) = self.get(key)?.split_once(':')?;
        Some((port.parse().ok()?, duration(time)))
    }

    /// What a port answers to a probe, that long after the container's start.
    fn answer(&self, run: u32, port: u16, up_for: Duration, probe: &Probe) -> Answer {
        if self.port_time("opens").is_some_and(|(late, at)| late == port && up_for < at) {
            return Answer::failed("connection refused");
        }
        let hangs = self.port_time("hangs").is_some_and(|(ill, at)| ill == port && up_for >= at);
        if hangs && self.number("hangs_runs").is_none_or(|runs: u32| run <= runs) {
            return probe::silence(probe.timeout);
        }
        Answer::passed("HTTP 200")
    }

    fn fails_at(&self, step: &str) -> Result<(), RuntimeError> {
        if self.get(step) != Some("fail") {
            return Ok(());
        }
        let reason =
            self.get("reason").and_then(|word| serde_json::from_value(serde_json::Value::String(word.to_owned())).ok());
        Err(error(reason.unwrap_or(FailureReason::RuntimeError), format!("The script says that {step} fails.")))
    }

    /// How the run ends by itself, and how long after its start.
    fn end(&self, run: u32) -> Option<(Duration, i32, bool)> {
        if self.number("runs").is_some_and(|runs: u32| run > runs) {
            return None;
        }
        let out_of_memory = self.get("oom") == Some("true");
        let code = self.number("exit").or_else(|| out_of_memory.then_some(137))?;
        Some((self.duration("after"), code, out_of_memory))
    }
}

impl FakeRuntime {
    /// A runtime on that machine, which can do everything.
    #[must_use]
    pub fn new(machine: Machine) -> Self {
        Self::able_to(machine, &capability::ALL)
    }

    /// A runtime on that machine, which can do only so much.
    #[must_use]
    pub fn able_to(machine: Machine, capabilities: &[&str]) -> Self {
        Self { machine, capabilities: capabilities.iter().map(|&word| word.to_owned()).collect() }
    }

    fn script(&self, instance: &InstanceKey) -> Script {
        let state = self.machine.state();
        state.containers.get(instance).map(|c| Script::of(&c.launch.spec.image)).unwrap_or_default()
    }

    fn write(&self, instance: &InstanceKey, text: String) {
        let line = LogLine { time: self.machine.clock.now(), stderr: false, text: text.into() };
        let mut state = self.machine.state();
        let output = state.output.entry(instance.clone()).or_default();
        if output.len() == MAX_LINES {
            output.pop_front();
        }
        output.push_back(line);
        drop(state);
        self.machine.changed.send_replace(());
    }

    fn schedule_end(&self, instance: &InstanceKey, run: u32, script: &Script) {
        let Some((after, code, out_of_memory)) = script.end(run) else { return };
        let (machine, instance) = (self.machine.clone(), instance.clone());
        // The container's own life, which no runtime that looks at it owns.
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let time = machine.clock.now();
            machine.end(&instance, run, InstanceExit { code, out_of_memory, time });
        });
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn capabilities(&self) -> Vec<String> {
        self.capabilities.clone()
    }

    async fn resolve(&self, image: &Image, _: &Access, _: Purpose) -> Result<Resolution, RuntimeError> {
        let script = Script::of(image);
        script.fails_at("resolve")?;
        let node = node::architecture();
        if let Some(architecture) = script.get("arch").filter(|architecture| *architecture != node) {
            let message = format!("The image is for {architecture}, this node is {node}.");
            return Err(error(FailureReason::ArchitectureMismatch, message));
        }
        let resolved = ResolvedImage { digest: format!("sha256:{:064}", 0), image: image.clone() };
        let room = script.get("room").and_then(|room| room.parse().ok()).map(|available| Room {
            place: PathBuf::from("/"),
            needed: IMAGE_BYTES,
            available,
        });
        Ok(Resolution { image: resolved, fetch: IMAGE_BYTES, room: room.into_iter().collect() })
    }

    async fn pull(&self, image: &ResolvedImage, _: &Access, progress: ProgressSink) -> Result<(), RuntimeError> {
        let script = Script::of(&image.image);
        let step = script.duration("pull") / PULL_STEPS;
        for done in 0..=PULL_STEPS {
            progress(PullProgress { done: IMAGE_BYTES / u64::from(PULL_STEPS) * u64::from(done), total: IMAGE_BYTES });
            if done < PULL_STEPS && !step.is_zero() {
                tokio::time::sleep(step).await;
            }
        }
        script.fails_at("pull")
    }

    /// Its images take no room.
    async fn collect_images(&self, _: Collection, _: BTreeSet<String>) -> Result<Collected, RuntimeError> {
        Ok(Collected::default())
    }

    async fn idle_images(&self, _: BTreeSet<String>) -> Result<u64, RuntimeError> {
        Ok(0)
    }

    async fn create(&self, launch: &Launch) -> Result<(), RuntimeError> {
        let script = Script::of(&launch.spec.image);
        {
            let mut state = self.machine.state();
            if state.containers.contains_key(&launch.instance) {
                let message = format!("Instance {} has a container already.", launch.instance.index);
                return Err(error(FailureReason::RuntimeError, message));
            }
            // From the first moment on there is something to be deleted, as with a real container.
            let container = Container { launch: launch.clone(), started: None, exit: None, waited: false };
            state.containers.insert(launch.instance.clone(), container);
        }
        tokio::time::sleep(script.duration("create")).await;
        script.fails_at("create")
    }

    async fn start(&self, instance: &InstanceKey) -> Result<Timestamp, RuntimeError> {
        let script = self.script(instance);
        tokio::time::sleep(script.duration("start")).await;
        script.fails_at("start")?;
        let now = self.machine.clock.now();
        let run = {
            let mut state = self.machine.state();
            let container = state.containers.get_mut(instance).ok_or_else(|| absent(instance))?;
            if let Some(since) = container.started {
                return Ok(since);
            }
            container.started = Some(now);
            let run = container.launch.run;
            *state.starts.entry(instance.clone()).or_default() += 1;
            run
        };
        self.write(instance, format!("run {run} started"));
        self.schedule_end(instance, run, &script);
        Ok(now)
    }

    async fn wait(&self, instance: &InstanceKey) -> Result<InstanceExit, RuntimeError> {
        let mut changed = self.machine.changed.subscribe();
        let script = self.script(instance);
        let first =
            self.machine.state().containers.get_mut(instance).is_some_and(|c| !std::mem::replace(&mut c.waited, true));
        if first {
            script.fails_at("wait")?;
        }
        loop {
            let container = self.machine.state().containers.get(instance).cloned().ok_or_else(|| absent(instance))?;
            if let Some(exit) = container.exit {
                return Ok(exit);
            }
            if changed.changed().await.is_err() {
                return Err(absent(instance));
            }
        }
    }

    async fn stop(&self, instance: &InstanceKey, grace: Duration) -> Result<(), RuntimeError> {
        let container = self.machine.state().containers.get(instance).cloned();
        let Some(container) = container else { return Ok(()) };
        self.machine.state().graces.insert(instance.clone(), grace);
        let takes = self.script(instance).duration("stop");
        tokio::time::sleep(takes.min(grace)).await;
        let exit = InstanceExit { code: STOPPED, out_of_memory: false, time: self.machine.clock.now() };
        self.machine.end(instance, container.launch.run, exit);
        Ok(())
    }

    async fn delete(&self, instance: &InstanceKey) -> Result<(), RuntimeError> {
        self.machine.state().containers.remove(instance);
        self.machine.changed.send_replace(());
        Ok(())
    }

    async fn remove_app(&self, _app: &AppName) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Its containers hold nothing beside themselves.
    async fn retain(&self, _: &BTreeSet<AppName>) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        let found = |(instance, container): (&InstanceKey, &Container)| Found {
            instance: instance.clone(),
            revision: container.launch.revision,
            run: container.launch.run,
            state: match (container.exit, container.started) {
                (Some(exit), _) => FoundState::Exited(exit),
                (None, Some(started)) => FoundState::Running(started),
                (None, None) => FoundState::Created,
            },
            ports: container.launch.ports.clone(),
        };
        Ok(self.machine.state().containers.iter().map(found).collect())
    }

    async fn usage(&self, instances: &[InstanceKey]) -> Result<Vec<Reading>, RuntimeError> {
        let (state, now) = (self.machine.state(), self.machine.clock.now());
        let read = |instance: &InstanceKey| {
            let container = state.containers.get(instance).filter(|container| container.exit.is_none())?;
            let script = Script::of(&container.launch.spec.image);
            let cpu = until(container.started?, now) * script.number("cpu").unwrap_or(0) / 1000;
            Some(Reading {
                app: instance.app.clone(),
                index: instance.index,
                run: (container.launch.revision, container.launch.run),
                cpu: Some(cpu),
                memory: Some(script.number("memory").unwrap_or(0)),
            })
        };
        Ok(instances.iter().filter_map(read).collect())
    }

    async fn probe(&self, instance: &InstanceKey, probe: &Probe) -> Result<Answer, RuntimeError> {
        let container = self.machine.state().containers.get(instance).cloned().ok_or_else(|| absent(instance))?;
        let started = container.started.filter(|_| container.exit.is_none()).ok_or_else(|| absent(instance))?;
        let up_for = until(started, self.machine.clock.now());
        let port = match &probe.action {
            Action::HttpGet(HttpGet { port, .. }) | Action::TcpSocket(TcpSocket { port, .. }) => port,
            Action::Exec(exec) => {
                return command::probe(exec, probe.timeout, async |command| self.exec(instance, command).await).await;
            }
        };
        let answer = Script::of(&container.launch.spec.image).answer(container.launch.run, *port, up_for, probe);
        if answer == probe::silence(probe.timeout) {
            tokio::time::sleep(probe.timeout).await;
        }
        Ok(answer)
    }

    async fn admit(&self, instance: &InstanceKey, open: bool) -> Result<(), RuntimeError> {
        let script = self.script(instance);
        let told = {
            let mut state = self.machine.state();
            let told = state.admissions.entry(instance.clone()).or_default();
            told.push(open);
            told.len()
        };
        // Only the first time, so that it can be tried again.
        if told == 1 { script.fails_at("admit") } else { Ok(()) }
    }

    async fn exec(&self, instance: &InstanceKey, command: Command) -> Result<Running, RuntimeError> {
        let container = self.machine.state().containers.get(instance).cloned().ok_or_else(|| absent(instance))?;
        if container.started.is_none() || container.exit.is_some() {
            return Err(absent(instance));
        }
        let (machine, instance, run) = (self.machine.clone(), instance.clone(), container.launch.run);
        Ok(program::start(&command, async move {
            let mut changed = machine.changed.subscribe();
            let runs = |machine: &Machine| {
                let state = machine.state();
                state.containers.get(&instance).is_some_and(|c| c.launch.run == run && c.exit.is_none())
            };
            while runs(&machine) && changed.changed().await.is_ok() {}
        }))
    }

    async fn connect(&self, instance: &InstanceKey, port: u16) -> Result<TcpStream, PortError> {
        let container = self.machine.state().containers.get(instance).cloned().ok_or_else(|| absent(instance))?;
        let started = container.started.filter(|_| container.exit.is_none()).ok_or_else(|| absent(instance))?;
        let up_for = until(started, self.machine.clock.now());
        let opens = Script::of(&container.launch.spec.image).port_time("opens");
        if opens.is_some_and(|(late, at)| late == port && up_for < at) {
            return Err(PortError::NotListening(format!("nothing listens on port {port} of the instance")));
        }
        let echoed = program::echo().await;
        Ok(echoed.map_err(|cause| error(FailureReason::RuntimeError, format!("no connection: {cause}")))?)
    }

    /// Its containers hold no ports.
    async fn relocate(&self, _: &InstanceKey, _: &BTreeMap<String, Ipv4Addr>) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Its containers write nothing but output.
    async fn log_files(&self, _: &InstanceKey) -> Result<Option<Vec<LogFile>>, RuntimeError> {
        Ok(None)
    }

    async fn logs(&self, query: LogQuery) -> Result<Option<BoxStream<'static, LogLine>>, RuntimeError> {
        let machine = self.machine.clone();
        let kept: Vec<LogLine> = {
            let state = machine.state();
            let Some(output) = state.output.get(&query.instance) else { return Ok(None) };
            let skip = query.wanted.tail.map_or(0, |tail| output.len().saturating_sub(tail as usize));
            let is_wanted = |line: &&LogLine| query.wanted.since.is_none_or(|since| line.time >= since);
            output.iter().skip(skip).filter(is_wanted).cloned().collect()
        };
        let newest = kept.last().map(|line| line.time);
        let head = stream::iter(kept);
        if !query.wanted.follow {
            return Ok(Some(head.boxed()));
        }
        let changed = machine.changed.subscribe();
        let tail = stream::unfold((machine, changed, newest), move |(machine, mut changed, newest)| {
            let instance = query.instance.clone();
            async move {
                loop {
                    let line = {
                        let state = machine.state();
                        let lines = state.output.get(&instance);
                        lines.and_then(|lines| {
                            lines.iter().find(|line| newest.is_none_or(|seen| line.time > seen)).cloned()
                        })
                    };
                    if let Some(line) = line {
                        let time = Some(line.time);
                        return Some((line, (machine, changed, time)));
                    }
                    changed.changed().await.ok()?;
                }
            }
        });
        Ok(Some(head.chain(tail).boxed()))
    }
}

fn duration(text: &str) -> Duration {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number = digits.parse().unwrap_or(0);
    if unit == "s" { Duration::from_secs(number) } else { Duration::from_millis(number) }
}

fn absent(instance: &InstanceKey) -> RuntimeError {
    error(FailureReason::RuntimeError, format!("Instance {} of {} has no container.", instance.index, instance.app))
}

fn error(reason: FailureReason, message: String) -> RuntimeError {
    RuntimeError { reason, message }
}
