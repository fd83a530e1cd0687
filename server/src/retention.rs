//! Forgets old jobs, now and then.

use std::convert::Infallible;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::store::Store;

/// Time between two looks; a job is kept for days, and nobody counts the minutes.
const PERIOD: Duration = Duration::from_secs(3600);
/// Pause between two writes that forget: whatever came meanwhile goes first.
const PAUSE: Duration = Duration::from_millis(200);

/// Forgets jobs that ended longer ago than `keep`, at once and then every hour, until it is dropped.
pub async fn run(store: &dyn Store, keep: SignedDuration) -> Infallible {
    loop {
        let now = Timestamp::now();
        let ended = now.checked_sub(keep).unwrap_or(Timestamp::MIN);
        let mut all = 0;
        loop {
            match store.forget_jobs(ended, now).await {
                Ok(0) => break,
                Ok(count) => all += count,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "old jobs cannot be forgotten now");
                    break;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        if all > 0 {
            tracing::info!(jobs = all, %ended, "forgot jobs that ended before that");
        }
        tokio::time::sleep(PERIOD).await;
    }
}
