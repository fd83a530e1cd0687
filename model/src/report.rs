//! What an agent reports of a task.

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::name::JobId;
use crate::task::{PullProgress, TaskState};

/// How far a task is, as its agent sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
    /// The state reached.
    pub state: TaskState,
    /// Bytes of the image, while PULLING.
    pub pull: Option<PullProgress>,
    /// Why it failed, when FAILED.
    pub failure: Option<Failure>,
}
