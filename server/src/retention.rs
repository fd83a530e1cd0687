//! Forgets old jobs, old entries of the audit log and old events of apps, now and then.

use std::convert::Infallible;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use longshore_model::event::EVENT_LIFE;

use crate::store::Store;

/// Time between two looks; what is kept is kept for days, and nobody counts the minutes.
const PERIOD: Duration = Duration::from_secs(3600);
/// Pause between two writes that forget: whatever came meanwhile goes first.
const PAUSE: Duration = Duration::from_millis(200);

/// For how long what is kept.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Final jobs, from their end.
    pub jobs: SignedDuration,
    /// Entries of the audit log.
    pub deeds: SignedDuration,
}

/// Forgets what is older than `keep` says, at once and then every hour, until it is dropped.
pub async fn run(store: &dyn Store, keep: Keep) -> Infallible {
    loop {
        let now = Timestamp::now();
        let before = |keep: SignedDuration| now.checked_sub(keep).unwrap_or(Timestamp::MIN);
        let old = [
            Old::Jobs { ended: before(keep.jobs), now },
            Old::Deeds(before(keep.deeds)),
            Old::Events(before(EVENT_LIFE)),
        ];
        for old in old {
            let count = forget(store, old).await;
            if count > 0 {
                tracing::info!(count, ?old, "forgot what is old");
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// What is to be forgotten.
#[derive(Clone, Copy, Debug)]
enum Old {
    /// Final jobs that ended by then.
    Jobs { ended: Timestamp, now: Timestamp },
    /// Entries of the audit log from before.
    Deeds(Timestamp),
    /// Events of apps that last happened before.
    Events(Timestamp),
}

/// Forgets a part after the other until nothing is left to forget; returns how many it were.
async fn forget(store: &dyn Store, old: Old) -> usize {
    let mut all = 0;
    loop {
        let part = match old {
            Old::Jobs { ended, now } => store.forget_jobs(ended, now).await,
            Old::Deeds(before) => store.forget_deeds(before).await,
            Old::Events(before) => store.forget_app_events(before).await,
        };
        match part {
            Ok(0) => return all,
            Ok(count) => all += count,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, ?old, "what is old cannot be forgotten now");
                return all;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
