//! Which instances get new clients by mapped ports: those that are ready.

use jiff::Timestamp;
use longshore_model::backoff;

use super::App;
use crate::clock::later;

/// What the runtime was told of an instance that has a readiness probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Whether new clients are let in; `None` before this agent has said so.
    open: Option<bool>,
    /// Attempts in a row at saying so that failed.
    stumbles: u32,
    /// It is not said again before.
    not_before: Option<Timestamp>,
}

impl Admission {
    /// Nobody has to be told to keep clients of a container out that was just started.
    pub(super) fn of_a_fresh_one() -> Self {
        Self { open: Some(false), ..Self::default() }
    }
}

impl App {
    /// The instances whose runtime has to be told, and what.
    fn untold(&self) -> impl Iterator<Item = (u32, bool, Option<Timestamp>)> {
        let probed = self.probed().filter_map(|(index, health)| Some((index, health.readiness()?.ready)));
        probed.filter_map(|(index, ready)| {
            let told = self.admissions.get(&index).copied().unwrap_or_default();
            (told.open != Some(ready)).then_some((index, ready, told.not_before))
        })
    }

    /// An instance whose runtime has to be told now, and what.
    pub(super) fn admission_due(&self, now: Timestamp) -> Option<(u32, bool)> {
        let is_due = |not_before: Option<Timestamp>| not_before.is_none_or(|moment| moment <= now);
        self.untold().find_map(|(index, open, not_before)| is_due(not_before).then_some((index, open)))
    }

    /// When a runtime that did not hear is told again.
    pub(super) fn next_admission(&self) -> Option<Timestamp> {
        self.untold().filter_map(|(_, _, not_before)| not_before).min()
    }

    /// Whether an instance that is ready has its clients.
    pub(super) fn is_admitted(&self, index: u32) -> bool {
        self.readiness(index).is_none() || self.admissions.get(&index).is_some_and(|told| told.open == Some(true))
    }

    /// Its runtime was told.
    pub fn admitted(&mut self, index: u32, open: bool) {
        self.admissions.insert(index, Admission { open: Some(open), ..Admission::default() });
    }

    /// Its runtime could not be told: how it is now is not known.
    pub fn not_admitted(&mut self, index: u32, now: Timestamp) {
        let told = self.admissions.entry(index).or_default();
        let stumbles = told.stumbles.saturating_add(1);
        let not_before = Some(later(now, backoff::RESTART.delay(stumbles)));
        *told = Admission { open: None, stumbles, not_before };
    }
}
