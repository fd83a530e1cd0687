//! What happens to apps on their nodes: told from what a node says before and after, and kept in a bounded history.
//!
//! Agents say how an app is and not what has happened to it, so that nothing has to be repeated when a connection breaks.
//! [`between`] finds what lies between two such words; where several things happened in between, counters and the last end
//! tell of them. A [`History`] counts what happens again, so that a crash loop fills nothing.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::app::{AppState, AppStatus, InstanceExit, InstanceState, InstanceStatus};
use crate::failure::Failure;
use crate::health::Readiness;
use crate::limits::{MAX_APP_EVENTS, MAX_EVENT_MESSAGE};
use crate::linux;
use crate::name::{AppName, JobId, NodeName};
use crate::validate::{cut, one_line};

/// Time since something last happened within which the same again is counted with it. Longer than the longest pause between two
/// starts of a crash loop, and short enough that another day's trouble has a line of its own.
const REPEAT_WITHIN: SignedDuration = SignedDuration::from_hours(1);
/// For how long an event is kept after it last happened: until somebody has looked, also after a holiday.
pub const EVENT_LIFE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EventKind {
    /// An instance was started for the first time since its revision was deployed.
    Started,
    /// An instance was started again.
    Restarted,
    /// An instance's readiness probe says that it is ready.
    Ready,
    /// An instance's readiness probe says that it is not ready.
    NotReady,
    /// An instance ended by itself.
    Exited,
    /// The kernel killed an instance for passing its memory limit.
    OutOfMemory,
    /// The agent ended an instance that its liveness probe has found dead.
    ProbeFailed,
    /// An instance's next start is delayed.
    BackOff,
    /// The node was given another revision.
    Updating,
    /// The node went back to the revision before an update.
    WentBack,
    /// A deployment did not succeed, and the app was brought down.
    Failed,
    /// The app is gone from the node.
    Removed,
}

impl EventKind {
    /// All of them, in the order of the wire.
    pub const ALL: [Self; 12] = [
        Self::Started,
        Self::Restarted,
        Self::Ready,
        Self::NotReady,
        Self::Exited,
        Self::OutOfMemory,
        Self::ProbeFailed,
        Self::BackOff,
        Self::Updating,
        Self::WentBack,
        Self::Failed,
        Self::Removed,
    ];

    /// Its word, in capital letters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "STARTED",
            Self::Restarted => "RESTARTED",
            Self::Ready => "READY",
            Self::NotReady => "NOT_READY",
            Self::Exited => "EXITED",
            Self::OutOfMemory => "OUT_OF_MEMORY",
            Self::ProbeFailed => "PROBE_FAILED",
            Self::BackOff => "BACK_OFF",
            Self::Updating => "UPDATING",
            Self::WentBack => "WENT_BACK",
            Self::Failed => "FAILED",
            Self::Removed => "REMOVED",
        }
    }
}

/// Something that has happened to an app on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// What.
    pub kind: EventKind,
    /// To which instance; `None` for the whole app.
    pub instance: Option<u32>,
    /// The revision that this is about.
    pub revision: u64,
    /// Exit code of an instance that ended.
    pub exit_code: Option<i32>,
    /// One sentence for people, of at most [`MAX_EVENT_MESSAGE`] bytes. The same each time that the same happens.
    pub message: String,
    /// When it last happened, by the node's clock; `None` where the node does not say.
    pub node_time: Option<Timestamp>,
    /// How often it has happened, at least once.
    pub count: u32,
}

impl Happening {
    fn new(kind: EventKind, revision: u64, message: &str) -> Self {
        let mut message = one_line(message);
        cut(&mut message, MAX_EVENT_MESSAGE);
        Self { kind, instance: None, revision, exit_code: None, message, node_time: None, count: 1 }
    }

    /// The node was told to run a revision for a job, in the place of another.
    #[must_use]
    pub fn updating(revision: u64, job: &JobId) -> Self {
        Self::new(EventKind::Updating, revision, &format!("Job {job} updates it to revision {revision}."))
    }

    /// The node was told to go back to a revision, since the update by a job did not succeed.
    #[must_use]
    pub fn went_back(revision: u64, job: &JobId, failure: Option<&Failure>) -> Self {
        let message = format!("Back to revision {revision}, for job {job} did not succeed: {}", why(failure));
        Self::new(EventKind::WentBack, revision, &message)
    }

    /// A deployment by a job did not succeed.
    #[must_use]
    pub fn failed(revision: u64, job: &JobId, failure: Option<&Failure>) -> Self {
        Self::new(EventKind::Failed, revision, &format!("Job {job} did not succeed: {}", why(failure)))
    }

    fn is_as(&self, other: &Self) -> bool {
        let key = |one: &Self| (one.kind, one.instance, one.revision, one.exit_code);
        key(self) == key(other) && self.message == other.message
    }
}

/// Why a task did not succeed, in a sentence.
fn why(failure: Option<&Failure>) -> &str {
    failure.map_or("it was cancelled.", |failure| &failure.message)
}

/// An event of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppEvent {
    /// The app.
    pub app: AppName,
    /// The node.
    pub node: NodeName,
    /// Tells it from the others of this app on this node: 1, 2, … in the order in which they first happened.
    pub number: u64,
    /// What happened, the last time, and how often.
    pub what: Happening,
    /// When the server was first told of it.
    pub first_time: Timestamp,
    /// When the server was last told of it.
    pub last_time: Timestamp,
}

/// What has happened to an app on a node, as far as it is kept; in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The app.
    pub app: AppName,
    /// The node.
    pub node: NodeName,
    /// At most [`MAX_APP_EVENTS`].
    pub events: Vec<AppEvent>,
}

/// What of a history has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The event that a happening is now, or is counted with, as it is in the history.
    pub event: AppEvent,
    /// The number of the event that went for it, where there were as many as there may be.
    pub instead_of: Option<u64>,
}

impl History {
    /// Takes what has happened: counted with what it repeats, or as an event of its own, for which the one goes that last happened
    /// longest ago.
    pub fn take(&mut self, what: Happening, now: Timestamp) -> Taken {
        let is_again =
            |event: &&mut AppEvent| event.what.is_as(&what) && now.duration_since(event.last_time) <= REPEAT_WITHIN;
        if let Some(event) = self.events.iter_mut().filter(is_again).max_by_key(|event| event.number) {
            let count = event.what.count.saturating_add(what.count);
            event.what = Happening { count, ..what };
            event.last_time = event.last_time.max(now);
            return Taken { event: event.clone(), instead_of: None };
        }
        let number = self.events.iter().map(|event| event.number).max().unwrap_or_default().saturating_add(1);
        let oldest = self.events.iter().min_by_key(|event| (event.last_time, event.number)).map(|event| event.number);
        let instead_of = oldest.filter(|_| self.events.len() >= MAX_APP_EVENTS);
        self.events.retain(|event| Some(event.number) != instead_of);
        let (app, node) = (self.app.clone(), self.node.clone());
        let event = AppEvent { app, node, number, what, first_time: now, last_time: now };
        self.events.push(event.clone());
        Taken { event, instead_of }
    }

    /// The revision with which an instance was last started, as far as that is kept.
    fn started(&self, instance: u32) -> Option<u64> {
        let is_start = |event: &&AppEvent| {
            event.what.instance == Some(instance)
                && matches!(event.what.kind, EventKind::Started | EventKind::Restarted)
        };
        let last = self.events.iter().filter(is_start).max_by_key(|event| (event.last_time, event.number));
        last.map(|event| event.what.revision)
    }
}

/// What has happened to an app between two words of its node, of which the later is about `revision`; in order as far as that can
/// be told. Nothing where nothing changed. `history` is what was told of the app before.
#[must_use]
pub fn between(history: &History, revision: u64, before: &AppStatus, after: &AppStatus) -> Vec<Happening> {
    if after.state == AppState::Removed {
        // An app that nothing was ever seen of, such as that of a pull, cannot be missed.
        let was_there = before.state != AppState::Removed && !before.instances.is_empty();
        return was_there.then(|| Happening::new(EventKind::Removed, revision, "Removed.")).into_iter().collect();
    }
    let mut happened = Vec::new();
    for instance in &after.instances {
        let was = before.instances.iter().find(|was| was.index == instance.index);
        let mut note = |mut what: Happening| {
            what.instance = Some(instance.index);
            happened.push(what);
        };
        lives((history, revision), was, instance, &mut note);
        readiness(revision, was.and_then(|was| was.readiness.as_ref()), instance.readiness.as_ref(), &mut note);
    }
    happened
}

/// Starts and ends of an instance.
fn lives(
    (history, revision): (&History, u64),
    was: Option<&InstanceStatus>,
    is: &InstanceStatus,
    note: &mut impl FnMut(Happening),
) {
    let new = |kind, message: &str| Happening::new(kind, revision, message);
    let starts = starts(was, is);
    let end = is.last_exit.filter(|exit| was.and_then(|was| was.last_exit) != Some(*exit));
    if end.is_some() {
        // Each start follows an end, but for that of an instance that was not up, and that of one that is.
        let up = |status: &InstanceStatus| u32::from(status.state == InstanceState::Running);
        let ends = (starts + was.map_or(0, up)).saturating_sub(up(is));
        let unseen = ends.saturating_sub(1);
        if unseen > 0 && was.is_some_and(|was| was.starts > 0) {
            let message = "Ended in a way that the server was not told of.";
            note(Happening { count: unseen, ..new(EventKind::Exited, message) });
        }
    }
    let is_up = is.state == InstanceState::Running;
    // A node that has gone back tells of the last end together with the revision that comes after it.
    let is_of_before = starts == 0 || is_up;
    let its_revision = history.started(is.index).filter(|_| is_of_before).unwrap_or(revision);
    let is_first = was.is_none_or(|was| was.starts == 0 || is.starts <= was.starts);
    if starts > 0 && is_first {
        let message = format!("Started with revision {revision}.");
        note(Happening { node_time: is.start_time, ..new(EventKind::Started, &message) });
    }
    let ended = end.map(|exit| ending(its_revision, exit, is.last_exit_reason.as_deref()));
    let again = starts - u32::from(starts > 0 && is_first);
    let again = (again > 0).then(|| Happening {
        node_time: is.start_time,
        count: again,
        ..new(EventKind::Restarted, "Started again.")
    });
    let order = if is_up { [ended, again] } else { [again, ended] };
    order.into_iter().flatten().for_each(&mut *note);
    let waits = is.state == InstanceState::BackOff;
    let is_another = end.is_some() || was.is_none_or(|was| was.state != InstanceState::BackOff);
    if waits && is_another {
        note(new(EventKind::BackOff, "Its next start is delayed, by more the more often it ends."));
    }
}

/// How often an instance was started. Counting begins anew with each attempt, where a start is only seen by its time.
fn starts(was: Option<&InstanceStatus>, is: &InstanceStatus) -> u32 {
    let Some(was) = was else { return is.starts };
    match is.starts.checked_sub(was.starts) {
        Some(more) if more > 0 => more,
        _ if is.start_time != was.start_time => is.starts,
        _ => 0,
    }
}

fn ending(revision: u64, exit: InstanceExit, reason: Option<&str>) -> Happening {
    let code = exit_code(exit.code);
    let (kind, message) = match reason {
        Some(reason) => (EventKind::ProbeFailed, format!("Stopped, for its {reason}; ended with {code}.")),
        None if exit.out_of_memory => {
            (EventKind::OutOfMemory, format!("Passed its memory limit and was killed: {code}."))
        }
        None => (EventKind::Exited, format!("Ended with {code}.")),
    };
    let happening = Happening::new(kind, revision, &message);
    Happening { exit_code: Some(exit.code), node_time: Some(exit.time), ..happening }
}

/// An exit code with the signal that it stands for: `exit code 137 (SIGKILL)`.
fn exit_code(code: i32) -> String {
    let signal = code.checked_sub(128).and_then(|number| u8::try_from(number).ok()).and_then(linux::signal);
    signal.map_or_else(|| format!("exit code {code}"), |signal| format!("exit code {code} ({signal})"))
}

/// Turns of an instance's readiness. Before the first answer there is nothing to tell.
fn readiness(revision: u64, was: Option<&Readiness>, is: Option<&Readiness>, note: &mut impl FnMut(Happening)) {
    let Some(is) = is else { return };
    let is_same = was.is_some_and(|was| was.ready == is.ready && was.since == is.since);
    let (kind, message) = if is.ready {
        (EventKind::Ready, "Ready.".to_owned())
    } else {
        (EventKind::NotReady, format!("Not ready: {}.", is.message))
    };
    let is_told = is.ready || was.is_some_and(|was| was.message == is.message);
    let has_answered = is.ready || !is.message.is_empty();
    if !has_answered || (is_same && is_told) {
        return;
    }
    note(Happening { node_time: Some(is.since), ..Happening::new(kind, revision, &message) });
}

#[cfg(test)]
mod tests;
