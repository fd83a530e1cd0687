//! Kinds of jobs: what each does on its nodes, and what follows there from every turn that a task takes.

use serde::{Deserialize, Serialize};

use crate::capability;
use crate::machine::AppEffect;

/// What a job does on each of its nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum JobKind {
    /// Brings up a new app.
    #[default]
    Deploy,
    /// Brings up an app that is there with another spec, as a new revision.
    Update,
    /// Removes an app.
    Remove,
    /// Fetches an image ahead, and runs nothing.
    Pull,
}

/// What can happen to a task that its node must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Turn {
    /// It was assigned.
    Assigned,
    /// It was asked to give up.
    CancelRequested,
    /// It succeeded.
    Succeeded,
    /// It failed, by its agent's word.
    Failed,
    /// It was given up, by its agent's word.
    Cancelled,
    /// The deadline passed while it was in flight.
    TimedOut,
}

impl JobKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Deploy, Self::Update, Self::Remove, Self::Pull];

    /// What must follow on the node.
    ///
    /// What a pull leaves is an image; the app without instances that brought it is removed when it has succeeded. A removal has
    /// no way back: when its time is over it goes on, and it cannot be given up. An update that does not
    /// succeed leads back to what ran before.
    #[must_use]
    pub fn effect(self, turn: Turn) -> AppEffect {
        match (self, turn) {
            (Self::Deploy | Self::Update | Self::Pull, Turn::Assigned) => AppEffect::Deploy,
            (Self::Deploy | Self::Update | Self::Pull, Turn::CancelRequested) => AppEffect::Cancel,
            (Self::Update, Turn::Failed | Turn::Cancelled | Turn::TimedOut) => AppEffect::GoBack,
            (Self::Deploy | Self::Pull, Turn::Failed | Turn::Cancelled) => AppEffect::Forget,
            (Self::Deploy | Self::Pull, Turn::TimedOut)
            | (Self::Remove, Turn::Assigned)
            | (Self::Pull, Turn::Succeeded) => AppEffect::Remove,
            (Self::Deploy | Self::Update, Turn::Succeeded) | (Self::Remove, _) => AppEffect::None,
        }
    }

    /// Whether tasks in flight can be given up.
    #[must_use]
    pub fn can_be_cancelled(self) -> bool {
        self.effect(Turn::CancelRequested) != AppEffect::None
    }

    /// Whether the job is about an app that is there before it.
    #[must_use]
    pub fn needs_app(self) -> bool {
        match self {
            Self::Deploy | Self::Pull => false,
            Self::Update | Self::Remove => true,
        }
    }

    /// What an agent must be able to do for it, as a word of [`crate::capability`]: agents are older than
    /// some kinds.
    #[must_use]
    pub fn capability(self) -> Option<&'static str> {
        match self {
            Self::Deploy | Self::Remove => None,
            Self::Update => Some(capability::JOBS_UPDATE),
            Self::Pull => Some(capability::JOBS_PULL),
        }
    }

    /// The name used on the wire and in every text, such as `REMOVE`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deploy => "DEPLOY",
            Self::Update => "UPDATE",
            Self::Remove => "REMOVE",
            Self::Pull => "PULL",
        }
    }
}

impl std::fmt::Display for JobKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}
