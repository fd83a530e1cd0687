//! How a job is paced.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::job::TaskCounts;
use crate::limits;

/// How a job is paced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Rollout {
    /// Tasks in flight at once, those of absent nodes aside; 0 means no limit.
    pub max_parallel: u32,
    /// A node that has been away for this long is absent: its task in flight waits for it, but takes no place of
    /// `max_parallel` any more. Zero means that no node ever is; in YAML `60s`.
    #[serde(with = "crate::quantity::duration")]
    pub absent_after: Duration,
}

impl Default for Rollout {
    fn default() -> Self {
        Self { max_parallel: 0, absent_after: limits::DEFAULT_ABSENT_AFTER }
    }
}

impl Rollout {
    /// How many more tasks may be assigned now.
    #[must_use]
    pub fn room(self, counts: &TaskCounts) -> u32 {
        if self.max_parallel == 0 {
            counts.pending
        } else {
            // Nodes that come back take their places again, so that there may be more in flight than places.
            self.max_parallel.saturating_sub(counts.occupied()).min(counts.pending)
        }
    }

    /// How much longer a node that has been away for so long is waited for before it is absent: nothing when it is, `None`
    /// when it never will be.
    #[must_use]
    pub fn patience(self, away: Duration) -> Option<Duration> {
        (!self.absent_after.is_zero()).then(|| self.absent_after.saturating_sub(away))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_nodes_leave_their_places_to_others_and_take_them_again() {
        let rollout = Rollout { max_parallel: 2, ..Rollout::default() };
        let room =
            |pending, active, absent| rollout.room(&TaskCounts { pending, active, absent, ..TaskCounts::default() });
        assert_eq!(room(9, 2, 0), 0);
        assert_eq!(room(9, 2, 1), 1);
        assert_eq!(room(9, 2, 2), 2);
        assert_eq!(room(1, 2, 2), 1);
        assert_eq!(room(9, 4, 2), 0);
        assert_eq!(room(9, 4, 0), 0, "two came back, and two places are taken twice");
        assert_eq!(room(9, 3, 2), 1);
    }

    #[test]
    fn patience_ends() {
        let rollout = Rollout { absent_after: Duration::from_secs(60), ..Rollout::default() };
        let left = |seconds| rollout.patience(Duration::from_secs(seconds)).map(|left| left.as_secs());
        assert_eq!([0, 59, 60, 61].map(left), [60, 1, 0, 0].map(Some));
        let never = Rollout { absent_after: Duration::ZERO, ..rollout };
        assert_eq!(never.patience(Duration::MAX), None);
    }
}
