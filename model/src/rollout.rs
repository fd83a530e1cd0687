//! How a job is paced.

use serde::{Deserialize, Serialize};

use crate::job::TaskCounts;

/// How a job is paced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rollout {
    /// Tasks in flight at once; 0 means no limit.
    #[serde(default)]
    pub max_parallel: u32,
}

impl Rollout {
    /// How many more tasks may be assigned now.
    #[must_use]
    pub fn room(self, counts: &TaskCounts) -> u32 {
        if self.max_parallel == 0 {
            counts.pending
        } else {
            self.max_parallel.saturating_sub(counts.active).min(counts.pending)
        }
    }
}
