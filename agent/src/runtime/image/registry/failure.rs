//! What becomes of a request that failed.

use std::time::Duration;

use longshore_model::backoff::Backoff;
use reqwest::StatusCode;

use crate::runtime::image::error::ImageError;

/// Tries of one request: enough for a registry that restarts, and few enough to say soon that there is none.
pub(super) const MAX_TRIES: u32 = 4;
/// Between tries.
const RETRY: Backoff = Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(5) };

/// A failed try.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: ImageError,
    /// Whether another try may succeed.
    pub(super) is_passing: bool,
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::lasting(error)
    }
}

impl Failure {
    /// One that will be there again.
    pub(super) fn lasting(error: ImageError) -> Self {
        Self { error, is_passing: false }
    }

    /// One that may be gone at the next try.
    pub(super) fn passing(error: ImageError) -> Self {
        Self { error, is_passing: true }
    }

    /// One that an answer with this status stands for.
    pub(super) fn of_status(error: ImageError, status: StatusCode) -> Self {
        use StatusCode as S;
        let is_passing =
            status.is_server_error() || matches!(status, S::REQUEST_TIMEOUT | S::TOO_MANY_REQUESTS | S::TOO_EARLY);
        Self { error, is_passing }
    }
}

/// The tries of one request.
pub(super) struct Tries {
    allowed: u32,
    failures: u32,
}

impl Tries {
    pub(super) fn new(allowed: u32) -> Self {
        Self { allowed, failures: 0 }
    }

    /// Something has come of the last try: the next ones count from the beginning.
    pub(super) fn progressed(&mut self) {
        self.failures = 0;
    }

    /// Waits until the next try, or returns the error when there is no point in one.
    pub(super) async fn wait_after(&mut self, failure: Failure) -> Result<(), ImageError> {
        let Failure { error, is_passing } = failure;
        self.failures += 1;
        if !is_passing || self.failures >= self.allowed {
            return Err(error);
        }
        tracing::debug!(%error, failures = self.failures, "a request to a registry failed");
        tokio::time::sleep(RETRY.jittered(self.failures, rand::random())).await;
        Ok(())
    }
}
