//! Checks and pulls: what comes before the first container of a revision is touched.
//!
//! While an update is prepared, the containers of the revision before go on: what they need comes first.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use longshore_model::capacity::Amounts;
use longshore_model::failure::FailureReason;
use longshore_model::report::TaskReport;
use longshore_model::task::TaskState;
use tokio_util::task::AbortOnDropHandle;

use super::{Worker, blocking, overtaken, refusal};
use crate::runtime::{Access, ProgressSink, Purpose, ResolvedImage, RuntimeError};
use crate::supervisor::check;
use crate::supervisor::plan::{Next, Side};
use crate::{accelerators, capacity, ports};

/// What became of something that takes long.
pub(super) enum Way<T> {
    /// It is done.
    Done(T),
    /// New orders make it pointless.
    Overtaken,
    /// Something else has to be done first.
    Disturbed,
}

/// A pull under way.
pub(super) struct Pulling {
    image: ResolvedImage,
    pull: AbortOnDropHandle<Result<(), RuntimeError>>,
    _progress: Progress,
}

impl Worker {
    #[tracing::instrument(
        skip_all,
        fields(
            app = %self.app.entry.assignment.app,
            job = %self.app.entry.assignment.job,
            attempt = self.app.entry.assignment.attempt
        )
    )]
    pub(super) async fn check(&mut self) {
        self.reach(TaskState::Checking);
        let side = self.app.prepared_side();
        let (spec, checked) = match self.filled(side) {
            Ok(filled) => (Arc::clone(&self.app.assignment_of(side).spec), filled),
            Err(error) => return self.unprepared(error),
        };
        let (context, asked) = (Arc::clone(&self.context), Amounts::of(&spec));
        let app = self.app.entry.assignment.app.clone();
        let check = move || {
            check::rights(&context, &checked)?;
            check::admit(&context, &app, asked)?;
            let accelerators = check::assign(&context, &app, &checked)?;
            // Last, for what is made stays.
            check::host_paths(&context, &checked)?;
            Ok(accelerators)
        };
        match blocking(check).await {
            // Written down with what else comes of this check, and before there is a container.
            Ok(accelerators) => self.app.entry.accelerators = accelerators,
            Err(error) => return self.unprepared(error),
        }
        if let Err(error) = self.reserve_ports(side).await {
            return self.unprepared(error);
        }
        match self.fetch_configuration(side).await {
            Way::Done(Ok(())) => {}
            Way::Done(Err(error)) => return self.unprepared(error),
            Way::Overtaken | Way::Disturbed => return,
        }
        let (context, access) = (Arc::clone(&self.context), self.access(side));
        let find = async move {
            let found = context.runtime.resolve(&spec.image, &access, Purpose::Pull).await?;
            check::room(&context, &found).await?;
            Ok(found.image)
        };
        match self.unless_disturbed(find).await {
            Way::Overtaken | Way::Disturbed => {}
            Way::Done(Ok(image)) => {
                self.app.resolved = Some(image);
                self.app.progressed();
                self.persist().await;
            }
            Way::Done(Err(error)) => self.unprepared(error),
        }
    }

    /// Reserves the app's ports. Addresses of interfaces are looked up each time: they change while apps stay.
    pub(super) async fn reserve_ports(&mut self, side: Side) -> Result<(), RuntimeError> {
        let (context, app) = (Arc::clone(&self.context), self.app.entry.assignment.app.clone());
        let spec = Arc::clone(&self.app.assignment_of(side).spec);
        let (kept, held, spare) = (self.app.kept_ports(side), self.held_ports(), self.app.spare_ports(side));
        let ports = blocking(move || {
            let interfaces = check::interfaces()?;
            let (app, spec, interfaces) = (&app, &*spec, &*interfaces);
            let request = ports::Request { app, spec, interfaces, kept: &kept, held: &held, spare: &spare };
            context.ports.reserve(&request, rand::random()).map_err(|error| refusal(error.reason(), error.to_string()))
        })
        .await?;
        self.app.set_ports(side, ports);
        Ok(())
    }

    /// As at the check, for one that comes without: what the containers to be made shall have.
    pub(super) async fn reserve_accelerators(&mut self) -> Result<(), RuntimeError> {
        let (context, app) = (Arc::clone(&self.context), self.app.entry.assignment.app.clone());
        let spec = Arc::clone(&self.app.target().spec);
        self.app.entry.accelerators = blocking(move || check::assign(&context, &app, &spec)).await?;
        Ok(())
    }

    /// Gives up what of the app's shares and accelerators it does not need any more.
    pub(super) fn give_back(&mut self) {
        let app = &self.app.entry.assignment.app;
        self.context.capacity.shrink(app, capacity::needed_by(&self.app.entry));
        let needed = accelerators::needed_by(&self.app.entry);
        self.context.accelerators.keep_only(app, &needed);
        self.app.entry.accelerators = needed;
    }

    /// The app's way to what its image is read with.
    fn access(&self, side: Side) -> Access {
        let assignment = self.app.assignment_of(side);
        Access::of(assignment.app.clone(), assignment.image_access, Arc::clone(&self.context.keyring))
    }

    #[tracing::instrument(
        skip_all,
        fields(
            app = %self.app.entry.assignment.app,
            job = %self.app.entry.assignment.job,
            attempt = self.app.entry.assignment.attempt
        )
    )]
    pub(super) async fn pull(&mut self, image: ResolvedImage) {
        self.reach(TaskState::Pulling);
        let mut pulling = match self.pulling.take().filter(|pulling| pulling.image == image) {
            Some(pulling) => pulling,
            None => self.begin_pull(&image),
        };
        match self.unless_disturbed(&mut pulling.pull).await {
            Way::Overtaken => {}
            Way::Disturbed => self.pulling = Some(pulling),
            Way::Done(result) => {
                drop(pulling);
                match result.unwrap_or_else(|error| Err(interrupted(&error))) {
                    Ok(()) => {
                        self.app.prepared(image);
                        self.persist().await;
                        self.forget_configurations().await;
                    }
                    Err(error) => self.unprepared(error),
                }
            }
        }
    }

    fn begin_pull(&self, image: &ResolvedImage) -> Pulling {
        let progress = self.progress();
        let (runtime, wanted, sink) = (Arc::clone(&self.context.runtime), image.clone(), Arc::clone(&progress.sink));
        let access = self.access(self.app.prepared_side());
        let pull = async move { runtime.pull(&wanted, &access, sink).await };
        // A task of its own: it goes on while the worker looks after containers.
        Pulling { image: image.clone(), pull: AbortOnDropHandle::new(tokio::spawn(pull)), _progress: progress }
    }

    /// As [`Worker::unless_overtaken`], for what takes long: while an update is checked or fetched, the containers of the
    /// revision before go on, and may end or be due to be started again. Their probes go on beside it.
    pub(super) async fn unless_disturbed<T>(&mut self, action: impl Future<Output = T>) -> Way<T> {
        let clock = self.context.clock;
        let is_beside = self.app.runs_proven();
        tokio::pin!(action);
        loop {
            self.publish();
            let due = match self.app.meanwhile(clock.now()) {
                Next::Wait(due) => due,
                Next::Probe(index, kind) => {
                    self.probe(index, kind);
                    continue;
                }
                _ => return Way::Disturbed,
            };
            let timer = async {
                match due {
                    Some(moment) => tokio::time::sleep_until(clock.instant(moment)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                done = &mut action => return Way::Done(done),
                () = overtaken(&self.app, self.orders.clone()) => return Way::Overtaken,
                () = timer => {}
                Ok(()) = self.moves.changed(), if is_beside => {
                    self.following.due = true;
                    return Way::Disturbed;
                }
                Some(exit) = self.exits.join_next(), if is_beside => {
                    if let Ok(exit) = exit {
                        self.ended(exit).await;
                    }
                    return Way::Disturbed;
                }
                Some(answer) = self.answers.join_next(), if is_beside => {
                    if let Ok(answer) = answer {
                        self.answered(answer).await;
                    }
                }
            }
        }
    }

    fn unprepared(&mut self, error: RuntimeError) {
        tracing::warn!(app = %self.app.entry.assignment.app, reason = ?error.reason, %error, "a check or a pull failed");
        self.app.unprepared(error.reason, error.message, self.context.clock.now());
    }

    fn progress(&self) -> Progress {
        let open = Arc::new(AtomicBool::new(self.app.is_deploying() && self.app.step == TaskState::Pulling));
        let (reporter, report, is_open) =
            (self.context.reporter.clone(), self.task_report(TaskState::Pulling), Arc::clone(&open));
        let sink: ProgressSink = Arc::new(move |pull| {
            if is_open.load(Ordering::Acquire) {
                reporter.task(TaskReport { pull: Some(pull), ..report.clone() });
            }
        });
        Progress { open, sink }
    }
}

/// A pull's way to report: closed when the pull is over, since a runtime's own tasks may outlive it.
struct Progress {
    open: Arc<AtomicBool>,
    sink: ProgressSink,
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.open.store(false, Ordering::Release);
    }
}

fn interrupted(error: &tokio::task::JoinError) -> RuntimeError {
    refusal(FailureReason::RuntimeError, format!("The pull was interrupted: {error}."))
}
