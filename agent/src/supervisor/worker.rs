//! One app's worker: asks [`App::next`] what to do, does it, writes down what came of it, and asks again.

use std::collections::HashMap;
use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::Arc;

use jiff::Timestamp;
use longshore_model::accelerator::Ask;
use longshore_model::app::{AppState, BoundPort};
use longshore_model::assignment::Order;
use longshore_model::backoff;
use longshore_model::capacity::Amounts;
use longshore_model::failure::FailureReason;
use longshore_model::node_value::{Facts, Missing};
use longshore_model::report::{AppReport, TaskReport};
use longshore_model::spec::AppSpec;
use longshore_model::task::TaskState;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::plan::{App, ContainerState, Ending, Next, Side};
use super::{Context, Orders, check, status};
use crate::accelerators::Attached;
use crate::configuration::Configuration;
use crate::environment;
use crate::ledger::LedgerError;
use crate::runtime::{FoundState, InstanceKey, Launch, RuntimeError};

mod addresses;
mod configuration;
mod exits;
mod prepare;
mod probes;
mod removal;

use addresses::Following;
use exits::Exit;
use prepare::Pulling;
use probes::Answered;

pub(super) struct Worker {
    context: Arc<Context>,
    app: App,
    orders: watch::Receiver<Orders>,
    exits: JoinSet<Exit>,
    watched: HashMap<u32, AbortHandle>,
    /// Questions of probes that are open.
    answers: JoinSet<Answered>,
    /// A pull that the containers of the revision before an update have interrupted.
    pulling: Option<Pulling>,
    published: Option<AppReport>,
    /// Tells that addresses of the node have changed.
    moves: watch::Receiver<()>,
    following: Following,
    /// The last of the server's words that was heard.
    said: u64,
    /// Attempts in a row at writing the ledger that failed.
    unwritten: u32,
}

impl Worker {
    pub(super) fn new(context: Arc<Context>, app: App, mut orders: watch::Receiver<Orders>) -> Self {
        orders.mark_changed();
        Self {
            moves: context.addresses.subscribe(),
            following: Following::begin(),
            context,
            app,
            orders,
            exits: JoinSet::new(),
            watched: HashMap::new(),
            answers: JoinSet::new(),
            pulling: None,
            published: None,
            said: 0,
            unwritten: 0,
        }
    }

    /// Runs until it is aborted, which it may be at any point.
    pub(super) async fn run(mut self) {
        self.begin().await;
        loop {
            self.take_orders().await;
            self.take_exits().await;
            self.take_answers().await;
            self.follow_addresses().await;
            self.publish();
            let next = self.app.next(self.context.clock.now());
            tracing::debug!(app = %self.app.entry.assignment.app, ?next, "next");
            match next {
                Next::Check => self.check().await,
                Next::Pull(image) => self.pull(image).await,
                Next::Clear(indices) => self.clear(indices).await,
                Next::Create(index) => self.create(index).await,
                Next::Start(index) => self.start(index).await,
                Next::Kill(indices) => self.kill(indices).await,
                Next::Admit(index, open) => self.admit(index, open).await,
                Next::Probe(index, kind) => self.probe(index, kind),
                Next::Succeed => self.succeed().await,
                Next::TearDown(ending) => self.tear_down(ending).await,
                Next::GoneBack(ending) => self.gone_back(ending).await,
                Next::Wait(until) => self.wait(until).await,
            }
        }
    }

    /// Goes on where an earlier worker left off.
    async fn begin(&mut self) {
        self.persist().await;
        let running = self.app.containers.iter().filter(|(_, c)| matches!(c.state, ContainerState::Running(_)));
        for index in running.map(|(index, _)| *index).collect::<Vec<_>>() {
            self.watch(index);
        }
        if let Some(outcome) = self.app.entry.outcome.as_ref().filter(|outcome| !outcome.acknowledged) {
            self.context.reporter.task(outcome.report.clone());
        }
    }

    async fn take_orders(&mut self) {
        if !self.orders.has_changed().unwrap_or(false) {
            return;
        }
        let orders = self.orders.borrow_and_update().clone();
        let (job, attempt) = (self.app.entry.assignment.job.clone(), self.app.entry.assignment.attempt);
        let was_open = self.app.is_open();
        let mut changed = self.app.order(orders.wanted.as_ref());
        let is_same_attempt = (&self.app.entry.assignment.job, self.app.entry.assignment.attempt) == (&job, attempt);
        if changed {
            self.pulling = None;
        }
        if was_open && (!is_same_attempt || orders.wanted.is_none()) {
            self.context.reporter.drop_unfinished(&job, attempt);
        }
        let is_asked_again = orders.said != std::mem::replace(&mut self.said, orders.said)
            && orders.wanted.as_ref().is_some_and(|wanted| wanted.order != Order::Keep);
        if let Some(outcome) = &mut self.app.entry.outcome {
            let attempt = (&outcome.report.job, outcome.report.attempt);
            if orders.acknowledged.as_ref().is_some_and(|(job, number)| (job, *number) == attempt) {
                changed |= !outcome.acknowledged;
                outcome.acknowledged = true;
            }
            if is_asked_again {
                self.context.reporter.task(outcome.report.clone());
            }
        }
        if changed {
            // An update that came to nothing has no share any more.
            self.give_back();
            self.persist().await;
        }
    }

    #[tracing::instrument(
        skip_all,
        fields(
            app = %self.app.entry.assignment.app,
            job = %self.app.entry.assignment.job,
            attempt = self.app.entry.assignment.attempt,
            index
        )
    )]
    async fn create(&mut self, index: u32) {
        self.reach(TaskState::Creating);
        if let Err(error) = self.reserve_ports(self.app.target_side()).await {
            return self.stumbled(error);
        }
        // A retry may find its image prepared, and was not checked again.
        let app = &self.app.entry.assignment.app;
        if let Err(error) = check::admit(&self.context, app, Amounts::of(&self.app.target().spec)) {
            return self.stumbled(error);
        }
        if let Err(error) = self.reserve_accelerators().await {
            return self.stumbled(error);
        }
        let run = self.app.creating(index);
        if !self.persist().await {
            return;
        }
        let configuration = match self.configuration().await {
            None => return,
            Some(Ok(configuration)) => configuration,
            Some(Err(error)) => return self.stumbled(error),
        };
        let launch =
            match self.attached(index).await.and_then(|attached| self.launch(index, run, configuration, attached)) {
                Ok(launch) => launch,
                Err(error) => return self.stumbled(error),
            };
        let runtime = Arc::clone(&self.context.runtime);
        match self.unless_overtaken(async move { runtime.create(&launch).await }).await {
            None => {}
            Some(Ok(())) => self.app.created(index),
            Some(Err(error)) => self.stumbled(error),
        }
    }

    #[tracing::instrument(
        skip_all,
        fields(
            app = %self.app.entry.assignment.app,
            job = %self.app.entry.assignment.job,
            attempt = self.app.entry.assignment.attempt,
            index
        )
    )]
    async fn start(&mut self, index: u32) {
        self.reach(TaskState::Starting);
        self.app.starting(index);
        if !self.persist().await {
            return;
        }
        let (runtime, key) = (Arc::clone(&self.context.runtime), self.key(index));
        match self.unless_overtaken(async move { runtime.start(&key).await }).await {
            None => {}
            Some(Ok(wall)) => {
                self.app.started(index, self.context.clock.now(), wall);
                self.watch(index);
                // They may have changed since it was made.
                self.following.due = true;
                self.persist().await;
                if self.app.containers.values().all(|c| matches!(c.state, ContainerState::Running(_)))
                    && self.app.containers.len() == self.app.target().spec.instances as usize
                {
                    self.reach(TaskState::Settling);
                }
            }
            Some(Err(error)) => self.stumbled(error),
        }
    }

    /// Concludes an attempt that led back to the last healthy revision.
    async fn gone_back(&mut self, ending: Ending) {
        self.pulling = None;
        let (state, failure) = self.app.end_of_way_back(ending);
        self.conclude(state, failure).await;
        self.context.ports.keep_only(&self.app.entry.assignment.app, &self.app.entry.ports);
        self.give_back();
        self.forget_configurations().await;
    }

    /// Concludes, unless a look at the containers shows what their runtime has not told yet: that one of them has ended.
    async fn succeed(&mut self) {
        let found = match self.context.runtime.list().await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(app = %self.app.entry.assignment.app, %error, "cannot look at the app's containers");
                return self.app.try_later(self.context.clock.now());
            }
        };
        let is_up = |(index, container): (&u32, &super::plan::Container)| {
            matches!(container.state, ContainerState::Running(_)).then_some(*index)
        };
        for index in self.app.containers.iter().filter_map(is_up).collect::<Vec<_>>() {
            let run = self.run_of(index);
            let key = self.key(index);
            let container = found.iter().find(|found| found.instance == key && found.run == run);
            let exit = match container.map(|found| &found.state) {
                Some(FoundState::Running(_)) => continue,
                Some(FoundState::Exited(exit)) => Ok(*exit),
                Some(FoundState::Created) | None => {
                    Err(refusal(FailureReason::RuntimeError, "The container is gone.".to_owned()))
                }
            };
            // What follows from it is for the next look at the plan.
            return self.ended((index, run, exit)).await;
        }
        self.conclude(TaskState::Succeeded, None).await;
        if self.app.entry.outcome.is_some() {
            self.app.forget_proven();
            self.give_back();
            self.context.ports.keep_only(&self.app.entry.assignment.app, &self.app.entry.ports);
            self.forget_configurations().await;
        }
    }

    async fn conclude(&mut self, state: TaskState, failure: Option<longshore_model::failure::Failure>) {
        let report = self.app.conclude(state, failure);
        // Written first: after a crash in between the same end is reported again, and nothing is done twice.
        if let Err(error) = self.write().await
            && state == TaskState::Succeeded
        {
            // A later agent would not know that the app is to stay whatever becomes of its containers.
            return self.app.unconcluded(error.reason, error.message);
        }
        self.publish();
        let (app, job, why) =
            (&self.app.entry.assignment.app, &report.job, report.failure.as_ref().map(|f| &f.message));
        tracing::info!(%app, %job, attempt = report.attempt, state = %report.state, why, "the task has ended");
        self.context.reporter.task(report);
    }

    async fn wait(&mut self, until: Option<Timestamp>) {
        let clock = self.context.clock;
        let until = [until, self.following.again].into_iter().flatten().min();
        let timer = async {
            match until {
                Some(moment) => tokio::time::sleep_until(clock.instant(moment)).await,
                None => std::future::pending().await,
            }
        };
        let unwritten = self.unwritten;
        let rewrite = async {
            match unwritten {
                0 => std::future::pending().await,
                failures => tokio::time::sleep(backoff::RESTART.delay(failures)).await,
            }
        };
        tokio::select! {
            changed = self.orders.changed() => {
                if changed.is_err() {
                    // The supervisor is gone without a word: nothing more can come.
                    std::future::pending::<()>().await;
                }
                self.orders.mark_changed();
            }
            Some(exit) = self.exits.join_next() => {
                if let Ok(exit) = exit {
                    self.ended(exit).await;
                }
            }
            Some(answer) = self.answers.join_next() => {
                if let Ok(answer) = answer {
                    self.answered(answer).await;
                }
            }
            Ok(()) = self.moves.changed() => self.following.due = true,
            () = timer => {}
            () = rewrite => drop(self.persist().await),
        }
    }

    /// Does something that new orders may make pointless; it is dropped then.
    async fn unless_overtaken<T>(&mut self, action: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = action => Some(done),
            () = overtaken(&self.app, self.orders.clone()) => None,
        }
    }

    /// What an instance gets with its accelerators.
    async fn attached(&mut self, index: u32) -> Result<Attached, RuntimeError> {
        let Some(ask) = Ask::of(&self.app.target().spec) else { return Ok(Attached::default()) };
        let (context, ids) = (Arc::clone(&self.context), ask.of_instance(&self.app.entry.accelerators, index));
        blocking(move || context.accelerators.attach(&ids)).await
    }

    fn launch(
        &mut self,
        index: u32,
        run: u32,
        configuration: Arc<Configuration>,
        attached: Attached,
    ) -> Result<Launch, RuntimeError> {
        let side = self.app.target_side();
        let assignment = self.app.assignment_of(side);
        let host_ip = self.host_ip();
        let spec = self.filled(side)?;
        let mut environment = environment::resolve(&spec, &self.facts(side), &configuration)
            .map_err(|error| refusal(error.reason(), error.to_string()))?;
        // Which accelerators a container has is no choice of the spec's.
        environment.set_all(&attached.env);
        let image = self.app.image().map(|prepared| prepared.image.clone());
        let image =
            image.ok_or_else(|| refusal(FailureReason::RuntimeError, "The image is not prepared.".to_owned()))?;
        let ports = self.app.ports_of(side).iter().filter(|port| port.instance == index).cloned().collect();
        let launch = Launch {
            instance: self.key(index),
            revision: assignment.revision,
            run,
            image,
            spec,
            env: environment.plain,
            secret_env: environment.secret,
            configuration,
            ports,
            attached,
        };
        self.app.entry.host_ip = host_ip;
        Ok(launch)
    }

    /// The node's address when it was last known.
    fn host_ip(&self) -> Option<Ipv4Addr> {
        let known = *self.context.host_ip.borrow();
        known.or(self.app.entry.host_ip)
    }

    /// What this node fills a side's spec in with.
    fn facts(&self, side: Side) -> Facts<'_> {
        let labels = &self.app.assignment_of(side).node_labels;
        Facts { name: &self.context.node, host_ip: self.host_ip(), labels }
    }

    /// What a side is to run, with the facts of this node filled in; its environment is known to be complete in that regard.
    fn filled(&self, side: Side) -> Result<Arc<AppSpec>, RuntimeError> {
        let (spec, facts) = (&self.app.assignment_of(side).spec, self.facts(side));
        let missing = |missing: Missing| refusal(missing.reason(), missing.to_string());
        environment::check(spec, &facts).map_err(missing)?;
        environment::fill(spec, &facts).map_err(missing)
    }

    /// Ports that containers of this app have open now.
    fn held_ports(&self) -> Vec<BoundPort> {
        // A runtime may bind ports at creation already.
        let is_open = |state| matches!(state, ContainerState::Created | ContainerState::Running(_));
        let open = self.app.containers.iter().filter(|(_, container)| is_open(container.state));
        open.flat_map(|(index, container)| self.app.ports_of_container(*index, container)).cloned().collect()
    }

    fn key(&self, index: u32) -> InstanceKey {
        InstanceKey { app: self.app.entry.assignment.app.clone(), index }
    }

    fn stumbled(&mut self, error: RuntimeError) {
        tracing::warn!(app = %self.app.entry.assignment.app, reason = ?error.reason, %error, "a step failed");
        self.app.stumbled(error.reason, error.message, self.context.clock.now());
    }

    fn reach(&mut self, step: TaskState) {
        if self.app.reach(step) {
            self.context.reporter.task(self.task_report(step));
        }
    }

    fn task_report(&self, state: TaskState) -> TaskReport {
        let assignment = &self.app.entry.assignment;
        TaskReport { job: assignment.job.clone(), attempt: assignment.attempt, state, pull: None, failure: None }
    }

    fn publish(&mut self) {
        let status = status::of(&self.app, self.context.clock.now());
        // What an app that is gone was does not matter: the server waits for word of what it asked for last.
        let is_gone = status.state == AppState::Removed;
        let assignment = if is_gone { &self.app.entry.assignment } else { self.app.target() };
        let (app, revision, attempt) = (assignment.app.clone(), assignment.revision, assignment.attempt);
        let report = AppReport { app, revision, attempt, status };
        if self.published.as_ref() == Some(&report) {
            return;
        }
        self.context.reporter.app(report.clone());
        if is_gone {
            tracing::info!(app = %report.app, "removed");
        }
        self.published = Some(report);
    }

    /// Writes down what is known. Where that fails, an open task fails with it; what runs already runs on, and it is
    /// written later. Returns whether what comes next may be done.
    async fn persist(&mut self) -> bool {
        let Err(error) = self.write().await else { return true };
        let was_deploying = self.app.is_deploying();
        self.app.unwritten(error.reason, error.message);
        !was_deploying
    }

    async fn write(&mut self) -> Result<(), RuntimeError> {
        let (ledger, entry) = (self.context.ledger.clone(), self.app.entry.clone());
        // Interrupted only when the agent ends.
        let Ok(written) = tokio::task::spawn_blocking(move || ledger.write(&entry)).await else { return Ok(()) };
        let Err(error) = written else {
            self.unwritten = 0;
            return Ok(());
        };
        self.unwritten = self.unwritten.saturating_add(1);
        let source: &dyn std::error::Error = &error.source;
        tracing::error!(app = %self.app.entry.assignment.app, %error, source, "cannot write the ledger");
        Err(refusal(ledger_failure(&error), format!("The agent cannot write its ledger: {}.", error.source)))
    }
}

/// Waits until new orders make what is being done pointless.
async fn overtaken(app: &App, mut orders: watch::Receiver<Orders>) {
    loop {
        if app.is_overtaken_by(orders.borrow_and_update().wanted.as_ref()) {
            return;
        }
        if orders.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn ledger_failure(error: &LedgerError) -> FailureReason {
    if error.is_disk_full() { FailureReason::DiskFull } else { FailureReason::RuntimeError }
}

fn refusal(reason: FailureReason, message: String) -> RuntimeError {
    RuntimeError { reason, message }
}

async fn blocking<T: Send + 'static>(
    action: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    match tokio::task::spawn_blocking(action).await {
        Ok(done) => done,
        Err(error) => Err(refusal(FailureReason::RuntimeError, format!("A check was interrupted: {error}."))),
    }
}
