//! What follows from the answers of probes: whether an instance is alive, whether it is ready, and when to ask it next.
//!
//! Pure: questions are put elsewhere, and every moment comes as an argument. One [`Health`] is for one run of an
//! instance, from its container's start to its end.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::later;
use crate::probe::Probe;
use crate::spec::AppSpec;
use crate::validate::{cut, one_line};

/// Between two changes of what is told of an answer while it counts for the same: answers may differ each time, and
/// every change goes to the server.
const RETELL_AFTER: Duration = Duration::from_secs(10);
/// Bytes kept of an answer: a status, or what the network said.
const MAX_ANSWER: usize = 256;

/// Which of its probes an instance is asked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Whether it has to be started anew.
    Liveness,
    /// Whether it gets traffic.
    Readiness,
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it is a success.
    pub passed: bool,
    /// The answer in a few words, such as `HTTP 503`.
    pub message: String,
}

impl Answer {
    /// A success.
    #[must_use]
    pub fn passed(message: impl Into<String>) -> Self {
        Self::new(true, message.into())
    }

    /// A failure.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(false, message.into())
    }

    /// In one line, since it is shown to people.
    fn new(passed: bool, message: String) -> Self {
        let mut message = one_line(&message);
        cut(&mut message, MAX_ANSWER);
        Self { passed, message }
    }
}

/// Whether an instance gets traffic, as its readiness probe says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether it is ready.
    pub ready: bool,
    /// Since when it is, or is not.
    pub since: Timestamp,
    /// The last answer, in a few words; empty before the first.
    pub message: String,
}

/// One probe of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Watch {
    /// When it is asked next.
    due: Timestamp,
    /// Whether an answer is awaited.
    is_asking: bool,
    /// What holds.
    holds: bool,
    /// Answers in a row that say the opposite.
    against: u32,
    /// The answer that is told, and when it came.
    told: Option<(Answer, Timestamp)>,
}

impl Watch {
    fn new(probe: &Probe, started: Timestamp, now: Timestamp, holds: bool) -> Self {
        let due = later(started, probe.initial_delay).max(now);
        Self { due, is_asking: false, holds, against: 0, told: None }
    }

    fn due(&self) -> Option<Timestamp> {
        (!self.is_asking).then_some(self.due)
    }

    fn ask(&mut self, probe: &Probe, now: Timestamp) {
        self.is_asking = true;
        self.due = later(now, probe.period);
    }

    /// Takes an answer; returns whether it changes what holds.
    fn hear(&mut self, probe: &Probe, answer: Answer, now: Timestamp) -> bool {
        self.is_asking = false;
        let threshold = if answer.passed { probe.success_threshold } else { probe.failure_threshold };
        self.against = if answer.passed == self.holds { 0 } else { self.against.saturating_add(1) };
        let turns = self.against >= threshold.max(1) && answer.passed != self.holds;
        if turns {
            self.holds = answer.passed;
            self.against = 0;
        }
        let is_told = self.told.as_ref().is_some_and(|(told, at)| {
            let is_same = told.passed == answer.passed;
            is_same && !turns && (told.message == answer.message || now < later(*at, RETELL_AFTER))
        });
        if !is_told {
            self.told = Some((answer, now));
        }
        turns
    }
}

/// What is known of an instance's health in one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    liveness: Option<Watch>,
    readiness: Option<(Watch, Readiness)>,
}

impl Health {
    /// What is known of a run that began at `started`. One that an earlier agent has probed goes on with what that last
    /// knew of it, so that an agent's restart takes no client away.
    #[must_use]
    pub fn begin(spec: &AppSpec, started: Timestamp, now: Timestamp, known: Option<&Readiness>) -> Self {
        let liveness = spec.liveness_probe.as_ref().map(|probe| Watch::new(probe, started, now, true));
        let readiness = spec.readiness_probe.as_ref().map(|probe| {
            let readiness = known.cloned();
            let readiness = readiness.unwrap_or_else(|| Readiness { ready: false, since: now, message: String::new() });
            (Watch::new(probe, started, now, readiness.ready), readiness)
        });
        Self { liveness, readiness }
    }

    /// Whether there is anything to ask.
    #[must_use]
    pub fn is_probed(&self) -> bool {
        self.liveness.is_some() || self.readiness.is_some()
    }

    /// The probe that is due now, if one is.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> Option<Kind> {
        self.dues().filter(|(due, _)| *due <= now).min().map(|(_, kind)| kind)
    }

    /// When the next probe is due; `None` while answers are awaited.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.dues().map(|(due, _)| due).min()
    }

    fn dues(&self) -> impl Iterator<Item = (Timestamp, Kind)> {
        let liveness = self.liveness.as_ref().filter(|watch| watch.holds).and_then(Watch::due);
        let readiness = self.readiness.as_ref().and_then(|(watch, _)| watch.due());
        let liveness = liveness.map(|due| (due, Kind::Liveness));
        liveness.into_iter().chain(readiness.map(|due| (due, Kind::Readiness)))
    }

    /// Notes that a probe is being put.
    pub fn ask(&mut self, spec: &AppSpec, kind: Kind, now: Timestamp) {
        if let Some((watch, probe)) = self.watch(spec, kind) {
            watch.ask(probe, now);
        }
    }

    /// Notes that a question could not be put: that says nothing of the instance.
    pub fn miss(&mut self, spec: &AppSpec, kind: Kind) {
        if let Some((watch, _)) = self.watch(spec, kind) {
            watch.is_asking = false;
        }
    }

    /// Takes an answer; `wall` is what people read as its time. Returns whether the instance became ready, or ceased to be
    /// ready or alive.
    pub fn hear(&mut self, spec: &AppSpec, kind: Kind, answer: Answer, now: Timestamp, wall: Timestamp) -> bool {
        let Some((watch, probe)) = self.watch(spec, kind) else { return false };
        let turns = watch.hear(probe, answer, now);
        if let (Kind::Readiness, Some((watch, readiness))) = (kind, &mut self.readiness) {
            if turns {
                (readiness.ready, readiness.since) = (watch.holds, wall);
            }
            if let Some((told, _)) = &watch.told {
                readiness.message.clone_from(&told.message);
            }
        }
        turns
    }

    fn watch<'a>(&mut self, spec: &'a AppSpec, kind: Kind) -> Option<(&mut Watch, &'a Probe)> {
        match kind {
            Kind::Liveness => self.liveness.as_mut().zip(spec.liveness_probe.as_ref()),
            Kind::Readiness => self.readiness.as_mut().map(|(watch, _)| watch).zip(spec.readiness_probe.as_ref()),
        }
    }

    /// Whether it may have traffic: always, where nothing was asked for.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.readiness.as_ref().is_none_or(|(_, readiness)| readiness.ready)
    }

    /// What its readiness probe says; `None` where it has none.
    #[must_use]
    pub fn readiness(&self) -> Option<&Readiness> {
        self.readiness.as_ref().map(|(_, readiness)| readiness)
    }

    /// The answer by which it counts as dead, if it does.
    #[must_use]
    pub fn death(&self) -> Option<&str> {
        let dead = self.liveness.as_ref().filter(|watch| !watch.holds)?;
        Some(dead.told.as_ref().map_or("", |(answer, _)| answer.message.as_str()))
    }
}

#[cfg(test)]
mod tests;
