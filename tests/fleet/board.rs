//! What the agents have seen, counted for the one who measures.

use tokio::sync::watch;

/// A number that many change and one waits for.
#[derive(Debug)]
pub(crate) struct Count(watch::Sender<usize>);

impl Default for Count {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Count {
    pub(crate) fn add(&self, more: usize) {
        self.0.send_modify(|count| *count += more);
    }

    pub(crate) fn subtract(&self, less: usize) {
        self.0.send_modify(|count| *count -= less);
    }

    pub(crate) fn get(&self) -> usize {
        *self.0.borrow()
    }

    /// Starts again from nothing and returns what was there.
    pub(crate) fn take(&self) -> usize {
        self.0.send_replace(0)
    }

    pub(crate) async fn reaches(&self, wanted: usize) {
        self.is(|count| count >= wanted).await;
    }

    pub(crate) async fn is(&self, mut so: impl FnMut(usize) -> bool) {
        // The sender lives as long as `self`, so that the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|count| so(*count)).await;
    }
}

/// What the whole fleet has seen.
#[derive(Debug, Default)]
pub(crate) struct Board {
    /// Sessions that have their full set.
    pub(crate) connected: Count,
    /// Assignments to deploy.
    pub(crate) assigned: Count,
    /// Reports that the server acknowledged, after their commit.
    pub(crate) acknowledged: Count,
    /// Attempts to connect that failed, and were made again after the agents' back-off.
    pub(crate) failed: Count,
}
