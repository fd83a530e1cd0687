//! What people ask of jobs that are there.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use longshore_model::job::Amendment;
use longshore_model::task::Task;

/// What people ask of a job.
#[derive(Clone, Debug)]
pub enum JobRequest {
    /// Assign nothing further.
    Stop {
        /// Give up the tasks in flight too.
        cancel_in_flight: bool,
    },
    /// Go on.
    Resume,
    /// Start anew what has not succeeded.
    Retry,
    /// Start those of them anew that are chosen.
    RetryOf(Chosen),
    /// The same, or all where nothing is chosen, with another spec.
    RetryWith {
        /// The spec.
        spec: Box<NewSpec>,
        /// Which of them.
        chosen: Option<Chosen>,
    },
}

impl JobRequest {
    /// Which of the tasks that it can be about are meant, where it says so.
    pub(super) fn chosen(&self) -> Option<&Chosen> {
        match self {
            Self::RetryOf(chosen) => Some(chosen),
            Self::RetryWith { chosen, .. } => chosen.as_ref(),
            Self::Stop { .. } | Self::Resume | Self::Retry => None,
        }
    }

    /// The spec that it brings.
    pub(super) fn spec(&self) -> Option<&NewSpec> {
        match self {
            Self::RetryWith { spec, .. } => Some(spec),
            Self::Stop { .. } | Self::Resume | Self::Retry | Self::RetryOf(_) => None,
        }
    }
}

/// Another spec of a job. Its `Debug` says nothing of what is in it, since requests are logged.
#[derive(Clone)]
pub struct NewSpec {
    /// The spec, and what belongs to it.
    pub amendment: Amendment,
    /// The spec, encoded once for all the nodes.
    pub encoded: Bytes,
}

impl fmt::Debug for NewSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewSpec")
    }
}

/// Answers whether a task is meant; called on the writer's thread, where it must not wait.
#[derive(Clone)]
pub struct Chosen(pub Arc<dyn Fn(&Task) -> bool + Send + Sync>);

impl fmt::Debug for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chosen")
    }
}
