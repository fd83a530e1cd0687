//! Which revision of an app its containers shall have: the assignment's, or the last one that was healthy.
//!
//! While an update is checked and fetched, what was healthy before goes on, with its restarts. When the update fails or is
//! given up, that comes back. Everything that this depends on is written down, so that a new agent answers the same.

use longshore_model::app::BoundPort;
use longshore_model::assignment::{Assignment, Order};
use longshore_model::failure::Failure;
use longshore_model::task::TaskState;

use super::{App, Container, ContainerState, Ending};
use crate::ledger::{Prepared, Proven, Record};

/// Failed attempts at bringing the last healthy revision up again after which an update's end is reported all the same.
const MAX_STUMBLES: u32 = 5;

/// One of the two revisions that an app can have at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The assignment's.
    Assigned,
    /// The last healthy one.
    Proven,
}

impl App {
    /// The revision that the containers shall have.
    #[must_use]
    pub fn target(&self) -> &Assignment {
        self.assignment_of(self.target_side())
    }

    /// On which side that is.
    #[must_use]
    pub fn target_side(&self) -> Side {
        if self.runs_proven() { Side::Proven } else { Side::Assigned }
    }

    /// The revision that checks and pulls are for: the update's, while the containers have the one before.
    #[must_use]
    pub fn prepared_side(&self) -> Side {
        if self.is_going_back() { Side::Proven } else { Side::Assigned }
    }

    /// What a side is to run.
    #[must_use]
    pub fn assignment_of(&self, side: Side) -> &Assignment {
        match (&self.entry.proven, side) {
            (Some(proven), Side::Proven) => &proven.assignment,
            _ => &self.entry.assignment,
        }
    }

    /// Host ports of a side.
    #[must_use]
    pub fn ports_of(&self, side: Side) -> &[BoundPort] {
        match (&self.entry.proven, side) {
            (Some(proven), Side::Proven) => &proven.ports,
            _ => &self.entry.ports,
        }
    }

    /// Ports that a side shall get again where its spec has them: its own, and until an update has been checked, those of the
    /// revision before.
    #[must_use]
    pub fn kept_ports(&self, side: Side) -> Vec<BoundPort> {
        let side = if self.is_prepared() { side } else { Side::Proven };
        self.ports_of(side).to_vec()
    }

    /// Ports of the other side, which stay the app's until an update is over: whoever took them would bar the way back.
    #[must_use]
    pub fn spare_ports(&self, side: Side) -> Vec<BoundPort> {
        match side {
            Side::Assigned => self.entry.proven.iter().flat_map(|proven| &proven.ports).cloned().collect(),
            Side::Proven => self.entry.ports.clone(),
        }
    }

    /// Takes over the ports that a side was given.
    pub fn set_ports(&mut self, side: Side, ports: Vec<BoundPort>) {
        match (&mut self.entry.proven, side) {
            (Some(proven), Side::Proven) => proven.ports = ports,
            _ => self.entry.ports = ports,
        }
    }

    /// The host ports that a container of an instance has, by its revision.
    pub(crate) fn ports_of_container<'a>(
        &'a self,
        index: u32,
        container: &Container,
    ) -> impl Iterator<Item = &'a BoundPort> {
        self.ports_of(self.side_of(container)).iter().filter(move |port| port.instance == index)
    }

    /// What a container was made for: by its revision, where that is still known.
    pub(crate) fn assignment_of_container(&self, container: &Container) -> &Assignment {
        self.assignment_of(self.side_of(container))
    }

    fn side_of(&self, container: &Container) -> Side {
        let proven = self.entry.proven.as_ref();
        let is_proven = proven.is_some_and(|proven| proven.assignment.revision == container.revision);
        if is_proven { Side::Proven } else { Side::Assigned }
    }

    /// The image that the containers are made from, once it is here.
    #[must_use]
    pub fn image(&self) -> Option<&Prepared> {
        match (&self.entry.proven, self.target_side()) {
            (Some(proven), Side::Proven) => proven.prepared.as_ref(),
            _ => self.entry.prepared.as_ref().filter(|_| self.is_prepared()),
        }
    }

    /// Whether the containers have, or get back, the last healthy revision.
    #[must_use]
    pub fn runs_proven(&self) -> bool {
        let is_preparing = self.entry.outcome.is_none() && !self.is_prepared();
        self.entry.proven.is_some() && (is_preparing || self.is_going_back())
    }

    /// Whether the assignment's revision has failed, or was given up, and there is one to go back to.
    #[must_use]
    pub fn is_going_back(&self) -> bool {
        let has_failed = match &self.entry.outcome {
            Some(outcome) => !outcome.is_success(),
            None => self.entry.failure.is_some() || self.entry.assignment.order == Order::Cancel,
        };
        self.entry.proven.is_some() && has_failed
    }

    /// Whether the last healthy revision is back: every instance was started since, or has ended for good. What keeps it from
    /// that is given up on after a few attempts, for a task must not hang on it.
    pub(super) fn is_back(&self) -> bool {
        let is_foreign = |(index, container): (&u32, &Container)| self.is_in_the_way(*index, container);
        let was_started = |(index, record): (u32, &Record)| {
            let state = self.containers.get(&index).map(|container| container.state);
            record.ended || record.starts > 0 || matches!(state, Some(ContainerState::Running(_)))
        };
        let is_whole = !self.containers.iter().any(is_foreign) && self.instances().all(was_started);
        is_whole || self.stumbles >= MAX_STUMBLES
    }

    /// How the way back ends the attempt: with what went wrong and what runs now.
    #[must_use]
    pub fn end_of_way_back(&self, ending: Ending) -> (TaskState, Option<Failure>) {
        let Ending::Failed(failure) = ending else { return (TaskState::Cancelled, None) };
        let revision = self.target().revision;
        let outcome = if self.stumbles >= MAX_STUMBLES {
            format!("the node is still going back to revision {revision}")
        } else if self.is_prepared() {
            format!("the node went back to revision {revision}")
        } else {
            format!("the node kept revision {revision}")
        };
        (TaskState::Failed, Some(failure.with_outcome(&outcome)))
    }

    /// Begins an attempt at another revision than that of the `old` assignment, which `was_healthy` or not; or takes word
    /// that the node goes back.
    pub(super) fn change_revision(&mut self, old: Assignment, was_healthy: bool) {
        let revision = self.entry.assignment.revision;
        if let Some(proven) = self.entry.proven.take_if(|proven| proven.assignment.revision == revision) {
            self.entry.prepared = proven.prepared;
            self.entry.ports = proven.ports;
            return self.begin_beside();
        }
        let has_image = self.entry.prepared.as_ref().is_some_and(|prepared| prepared.revision == old.revision);
        if was_healthy && has_image {
            let (prepared, ports) = (self.entry.prepared.clone(), self.entry.ports.clone());
            let assignment = Assignment { order: Order::Keep, ..old };
            self.entry.proven = Some(Proven { assignment, prepared, ports });
        }
        if self.entry.proven.is_some() { self.begin_beside() } else { self.begin_attempt(false) }
    }

    /// Begins an attempt and leaves what runs as it is.
    fn begin_beside(&mut self) {
        self.entry.outcome = None;
        self.step = TaskState::Assigned;
        self.forget_trouble();
    }

    /// Whether the assignment's revision is one to come back to. An app that shall only be kept was healthy once.
    pub(super) fn was_healthy(&self) -> bool {
        match &self.entry.outcome {
            Some(outcome) => outcome.is_success(),
            None => self.entry.assignment.order == Order::Keep,
        }
    }

    /// The place of the image of one side.
    pub(super) fn prepared_mut(&mut self, side: Side) -> &mut Option<Prepared> {
        match (&mut self.entry.proven, side) {
            (Some(proven), Side::Proven) => &mut proven.prepared,
            _ => &mut self.entry.prepared,
        }
    }

    /// The update is over and written down: there is nothing to go back to any more.
    pub fn forget_proven(&mut self) {
        self.entry.proven = None;
    }

    /// Lets the instances be counted for the revision that the containers shall have: what was counted for another one says
    /// nothing of it, and how that one's containers end is nobody's business.
    pub(super) fn align(&mut self) {
        let (revision, instances) = (self.target().revision, self.target().spec.instances as usize);
        let is_other = self.entry.counted.replace(revision).is_some_and(|counted| counted != revision);
        if self.entry.instances.len() < instances {
            self.entry.instances.resize(instances, Record::default());
        }
        if !is_other {
            return;
        }
        for (index, record) in (0..).zip(&mut self.entry.instances) {
            let is_up = self.containers.get(&index).is_some_and(|container| {
                container.revision == revision && matches!(container.state, ContainerState::Running(_))
            });
            *record = record.counted_anew(is_up);
        }
    }
}
