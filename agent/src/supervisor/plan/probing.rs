//! Which instances are asked by their probes, and what the answers mean for the app.

use jiff::Timestamp;
use longshore_model::health::{Answer, Health, Kind, Readiness};

use super::{App, ContainerState};

impl App {
    /// Begins to probe an instance whose container is up since `started`.
    pub(super) fn begin_probing(&mut self, index: u32, started: Timestamp, now: Timestamp) {
        let known = self.entry.instances.get(index as usize).and_then(|record| record.readiness.as_ref());
        let health = Health::begin(&self.target().spec, started, now, known);
        if health.is_probed() {
            self.health.insert(index, health);
        }
    }

    /// The instances that are asked: up, of the revision that the containers shall have, and with a probe.
    pub(super) fn probed(&self) -> impl Iterator<Item = (u32, &Health)> {
        let is_asked = |index: &u32| {
            self.containers.get(index).is_some_and(|container| {
                matches!(container.state, ContainerState::Running(_)) && !self.is_in_the_way(*index, container)
            })
        };
        self.health.iter().map(|(index, health)| (*index, health)).filter(move |(index, _)| is_asked(index))
    }

    /// The instances that do not live by their probe, and whose containers are still up.
    pub(super) fn dead(&self) -> Vec<u32> {
        self.probed().filter(|(_, health)| health.death().is_some()).map(|(index, _)| index).collect()
    }

    /// A question that is due now.
    pub(super) fn probe_due(&self, now: Timestamp) -> Option<(u32, Kind)> {
        self.probed().find_map(|(index, health)| Some((index, health.due(now)?)))
    }

    /// When the next question is due.
    pub(super) fn next_probe(&self) -> Option<Timestamp> {
        self.probed().filter_map(|(_, health)| health.next_due()).min()
    }

    /// A question is being put.
    pub fn asking(&mut self, index: u32, kind: Kind, now: Timestamp) {
        let spec = self.target().spec.clone();
        if let Some(health) = self.health.get_mut(&index) {
            health.ask(&spec, kind, now);
        }
    }

    /// A question could not be put.
    pub fn unasked(&mut self, index: u32, kind: Kind) {
        let spec = self.target().spec.clone();
        if let Some(health) = self.health.get_mut(&index) {
            health.miss(&spec, kind);
        }
    }

    /// An answer came, at `wall` by the wall clock. Returns whether it changes anything but words.
    pub fn answered(&mut self, index: u32, kind: Kind, answer: Answer, now: Timestamp, wall: Timestamp) -> bool {
        let spec = self.target().spec.clone();
        let Some(health) = self.health.get_mut(&index) else { return false };
        let turns = health.hear(&spec, kind, answer, now, wall);
        if let Some(record) = self.entry.instances.get_mut(index as usize).filter(|_| turns) {
            record.readiness = health.readiness().cloned();
        }
        turns
    }

    /// What an instance's readiness probe says; `None` where it has none or is not up.
    #[must_use]
    pub fn readiness(&self, index: u32) -> Option<&Readiness> {
        self.health.get(&index).and_then(Health::readiness)
    }

    /// Whether an instance may have traffic, as far as its probe is concerned.
    pub(super) fn is_ready(&self, index: u32) -> bool {
        self.health.get(&index).is_none_or(Health::is_ready)
    }
}
