//! What an agent reports, of a task and of an app.

use serde::{Deserialize, Serialize};

use crate::app::AppStatus;
use crate::failure::Failure;
use crate::name::{AppName, JobId};
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

/// How an app is, as its agent sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppReport {
    /// The app.
    pub app: AppName,
    /// The revision that this is about.
    pub revision: u64,
    /// The attempt that the agent last acted on.
    pub attempt: u32,
    /// Its state.
    pub status: AppStatus,
}
