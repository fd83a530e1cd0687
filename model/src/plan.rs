//! What a job would do on a node, and what stands in its way there, by what is known without doing anything.
//!
//! Each judgement is the one that server or agent makes when the job is really done: [`capability`], [`node_value`],
//! [`host_path`], [`port`], [`capacity`], [`accelerator`]. All obstacles are named, not only the first, so that one look is enough.
//!
//! What follows from the agent's last report is one part of a [`Judgement`]; where the agent itself has looked just now, what it
//! says takes that part's place: see [`Judgement::checked`].

use std::sync::Arc;

use crate::accelerator::{self, Ask};
use crate::app::{App, BoundPort, Desired};
use crate::assignment::ImageAccess;
use crate::capability;
use crate::capacity::{self, Amounts, Held};
use crate::cause::{Grouping, Groups};
use crate::failure::{Failure, FailureReason};
use crate::host_path;
use crate::kind::JobKind;
use crate::name::{AppName, NodeName};
use crate::node::{Labels, Node, NodeInfo};
use crate::node_value;
use crate::port;
use crate::spec::{AppSpec, VolumeSource};
use crate::task::TaskState;

/// Obstacles that an agent tells of one app: more than a person reads of one node, and a bound for what it sends.
pub const MAX_OBSTACLES: usize = 64;

/// What a job would do on a node, if nothing stands in its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Bring up a new app.
    Deploy,
    /// Replace what the app is now.
    Update {
        /// The revision that it has.
        from: u64,
        /// Whether that has the same spec, so that its containers are only made anew.
        is_same: bool,
    },
    /// Remove the app.
    Remove,
    /// Fetch the image, and run nothing.
    Pull,
    /// Nothing: what the job is for is so already, or on its way.
    Nothing,
}

/// Something that would keep a task from succeeding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What the task would fail for.
    pub reason: FailureReason,
    /// One sentence for people.
    pub message: String,
}

impl Obstacle {
    /// An obstacle, its message made one sentence.
    #[must_use]
    pub fn new(reason: FailureReason, message: &str) -> Self {
        Self { reason, message: Failure::new(reason, message, TaskState::Checking).message }
    }
}

/// An app that is on a node already.
#[derive(Clone, Debug)]
pub struct Resident {
    /// What is known of it.
    pub app: App,
    /// What it asks for of the node.
    pub holds: Amounts,
    /// Whether its spec is the one that is planned.
    pub is_same: bool,
}

/// What is known of a node.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// What is stored of it, and what its agent said last.
    pub node: &'a Node,
    /// Whether it has a session now.
    pub is_connected: bool,
    /// The apps on it.
    pub residents: &'a [Resident],
}

/// What is planned.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// What the job does.
    pub kind: JobKind,
    /// The app that it is about.
    pub app: &'a AppName,
    /// What shall run; of a removal, what ran.
    pub spec: &'a AppSpec,
}

/// What would happen on a node, and everything that is known to stand in its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What the job would do.
    pub action: Action,
    /// What the server knows by itself.
    pub own: Vec<Obstacle>,
    /// What follows from what the agent said last.
    pub reported: Vec<Obstacle>,
}

/// What an agent is asked to look at.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The app.
    pub app: AppName,
    /// What it is to run.
    pub spec: Arc<AppSpec>,
    /// Whether its image is read with a credential, as far as the server knows.
    pub image_access: ImageAccess,
    /// The node's labels that the spec asks for.
    pub node_labels: Labels,
}

/// What became of asking a node's agent to look for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// It has looked.
    Done(Look),
    /// There is nothing to look for.
    Needless,
    /// It has no session.
    NotConnected,
    /// It is older than such checks.
    TooOld,
    /// Nothing came of it in time.
    NoAnswer,
}

/// What an agent has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// What stands in the way.
    pub obstacles: Vec<Obstacle>,
    /// Bytes of the image that would be fetched from a registry; `None` where the image was not found.
    pub fetch_bytes: Option<u64>,
}

impl Judgement {
    /// Everything that stands in the way; `common` does so on every node.
    #[must_use]
    pub fn obstacles(self, common: &[Obstacle]) -> Vec<Obstacle> {
        self.own.into_iter().chain(self.reported).chain(common.iter().cloned()).collect()
    }

    /// As [`Judgement::obstacles`], after the agent was asked.
    #[must_use]
    pub fn checked(mut self, check: &Check, common: &[Obstacle]) -> Vec<Obstacle> {
        match check {
            Check::Done(look) => {
                // The node meets what stands in the way everywhere as well, in words of its own.
                let is_common = |found: &&Obstacle| common.iter().any(|one| one.reason == found.reason);
                self.reported = look.obstacles.iter().filter(|found| !is_common(found)).cloned().collect();
            }
            Check::NoAnswer => {
                let message = "The node is connected, and its agent did not answer in time: its task may wait in vain.";
                self.own.push(Obstacle::new(FailureReason::DeadlineExceeded, message));
            }
            Check::NotConnected if !self.own.iter().any(|one| one.reason == FailureReason::DeadlineExceeded) => {
                self.own.insert(0, Obstacle::new(FailureReason::DeadlineExceeded, NOT_CONNECTED));
            }
            Check::Needless | Check::NotConnected | Check::TooOld => {}
        }
        self.obstacles(common)
    }
}

const NOT_CONNECTED: &str = "The node is not connected: its task waits for it until the job's time is over.";

/// Judges what would happen on a node.
#[must_use]
pub fn judge(wanted: Wanted<'_>, known: Known<'_>) -> Judgement {
    let (mut obstacles, mut reported) = (Vec::new(), Vec::new());
    if !known.is_connected {
        obstacles.push(absence(known.node));
    }
    let own = known.residents.iter().find(|resident| resident.app.name == *wanted.app);
    let action = match (wanted.kind, own) {
        (JobKind::Deploy, _) => Action::Deploy,
        (JobKind::Pull, _) => Action::Pull,
        (JobKind::Update, Some(own)) => Action::Update { from: own.app.revision, is_same: own.is_same },
        (JobKind::Remove, Some(own)) if own.app.desired == Desired::Present => Action::Remove,
        (JobKind::Remove, _) => Action::Nothing,
        (JobKind::Update, None) => {
            let message = format!("The app {} is not on this node.", wanted.app);
            obstacles.push(Obstacle::new(FailureReason::AppNotFound, &message));
            Action::Nothing
        }
    };
    // To remove an app nothing else is needed, and of a node that was never seen nothing else is known.
    if wanted.kind != JobKind::Remove
        && let Some(info) = &known.node.info
    {
        look(wanted, known, info, &mut reported);
    }
    Judgement { action, own: obstacles, reported }
}

fn absence(node: &Node) -> Obstacle {
    let message = match node.info {
        Some(_) => NOT_CONNECTED,
        None => {
            "The node has never been connected, and nothing is known of it: its task waits until the job's time is over."
        }
    };
    Obstacle::new(FailureReason::DeadlineExceeded, message)
}

fn look(wanted: Wanted<'_>, known: Known<'_>, info: &NodeInfo, obstacles: &mut Vec<Obstacle>) {
    let mut add = |reason, message: &dyn std::fmt::Display| obstacles.push(Obstacle::new(reason, &message.to_string()));
    if let Err(error) = capability::check(wanted.spec, &info.capabilities) {
        add(FailureReason::Unsupported, &error);
    }
    if let Some(word) = wanted.kind.capability()
        && !info.can(word)
    {
        let message = format!("The agent of this node is too old for {} jobs; upgrade it.", wanted.kind);
        add(FailureReason::Unsupported, &message);
    }
    let facts = node_value::Facts { name: &known.node.name, host_ip: info.host_ip, labels: &known.node.labels };
    let filled = facts.check_env(wanted.spec).and_then(|()| facts.words_and_paths(wanted.spec));
    match &filled {
        Err(missing) => add(missing.reason(), missing),
        Ok(spec) => host_paths(spec, info).iter().for_each(|message| add(FailureReason::HostPathUnavailable, message)),
    }
    let others = || known.residents.iter().filter(|resident| resident.app.name != *wanted.app);
    let taken: Vec<(&AppName, &BoundPort)> =
        others().flat_map(|other| other.app.status.ports.iter().map(|port| (&other.app.name, port))).collect();
    for refusal in port::refusals(wanted.spec, &info.interfaces, &taken) {
        add(refusal.reason(), &refusal);
    }
    if let Some(ask) = Ask::of(wanted.spec)
        && info.can(capability::ACCELERATORS)
        && let Err(error) = accelerator::foresee(&info.accelerators, ask, others().count() < known.residents.len())
    {
        add(error.reason(), &error);
    }
    if let Some(allocatable) = info.allocatable {
        let held: Held = known.residents.iter().map(|one| (one.app.name.clone(), one.holds)).collect();
        if let Err(error) = capacity::admit(allocatable, &held, wanted.app, Amounts::of(wanted.spec)) {
            add(FailureReason::InsufficientResources, &error);
        }
    }
}

/// Host paths that the node's own rules are against, each as a sentence: by their text, since only the node can follow links.
fn host_paths(spec: &AppSpec, info: &NodeInfo) -> Vec<String> {
    let Some(rules) = &info.host_paths else { return Vec::new() };
    let judged = spec.volumes.iter().filter_map(|volume| match &volume.source {
        VolumeSource::HostPath(path) => Some(match host_path::normalise(&path.path) {
            Ok(normal) => {
                rules.judge(&normal).err().map(|rule| format!("The host path {} leads to {normal}, {rule}.", path.path))
            }
            Err(error) => Some(format!("The host path {:?} {error}.", path.path)),
        }),
        VolumeSource::EmptyDir(_) | VolumeSource::Projection(_) => None,
    });
    judged.flatten().collect()
}

/// What a plan comes to, counted node by node.
#[derive(Debug, Default)]
pub struct Summary {
    /// Nodes on which nothing stands in the way.
    pub clear: u32,
    /// Nodes on which something does.
    pub obstructed: u32,
    /// Nodes whose agents have looked for themselves.
    pub checked: u32,
    /// Nodes whose agents were to look, and did not.
    pub unchecked: u32,
    /// Bytes that would be fetched, of all nodes that know.
    pub fetch_bytes: u64,
    /// Obstacles by cause, each with a node that has it.
    grouping: Grouping<NodeName>,
}

impl Summary {
    /// Counts a node with what stands in the way there.
    pub fn add(&mut self, node: &NodeName, obstacles: &[Obstacle]) {
        *(if obstacles.is_empty() { &mut self.clear } else { &mut self.obstructed }) += 1;
        for Obstacle { reason, message } in obstacles {
            self.grouping.count(*reason, message, node.as_str(), node.clone());
        }
    }

    /// Counts what became of asking a node.
    pub fn count(&mut self, check: &Check) {
        match check {
            Check::Done(look) => {
                self.checked += 1;
                self.fetch_bytes = self.fetch_bytes.saturating_add(look.fetch_bytes.unwrap_or_default());
            }
            Check::NotConnected | Check::TooOld | Check::NoAnswer => self.unchecked += 1,
            Check::Needless => {}
        }
    }

    /// The obstacles by cause, the most frequent first.
    #[must_use]
    pub fn into_groups(self) -> Groups<NodeName> {
        self.grouping.finish()
    }
}

#[cfg(test)]
mod tests;
