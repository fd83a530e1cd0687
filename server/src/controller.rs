//! The reconciler: assigns what can be assigned, ends what is past its deadline, and sets aside what waits for absent nodes.
//!
//! It takes no input. Whatever wakes it, it looks at the store and does what is due, so that a lost or doubled wake-up
//! changes nothing but the moment.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use longshore_model::backoff::Backoff;
use longshore_model::limits::MIN_ABSENT_AFTER;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::fleet::Fleet;
use crate::store::{Store, StoreError};

/// Tasks assigned by one commit: large enough for the writer's group commit, small enough that reports get their turn.
const BATCH: usize = 1_000;
/// Picks in a row of which none could be assigned, before the rest is left to the next round.
const MAX_IN_VAIN: u32 = 2;
/// Longest sleep: bounds what a wake-up that was lost, or a clock that was set, can delay.
const TICK: Duration = Duration::from_secs(10);
/// Shortest pause between two rounds when a deadline is due already: the store's clock and ours read the same, and what
/// a round left undone it left for a reason.
const MIN_SLEEP: Duration = Duration::from_millis(20);
/// Shortest time from one round's end to the next: each looks at every task that waits, and thousands of nodes that
/// connect together wake it thousands of times.
const ROUND_SPACING: Duration = Duration::from_millis(20);
/// Pauses while the store fails. There is one reconciler, so that nothing needs to be spread by chance.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(10) };

/// Shortest time from one look for absent nodes to the next: each reads every task of the jobs that are not finished.
const ABSENCE_SPACING: Duration = Duration::from_secs(1);
// No node that goes away after a look can be absent before the next one: whatever becomes due is seen coming.
const _: () = assert!(TICK.as_millis() <= MIN_ABSENT_AFTER.as_millis());

/// The reconciler.
pub struct Controller {
    store: Arc<dyn Store>,
    fleet: Arc<Fleet>,
    wake: Arc<Notify>,
}

impl Controller {
    /// A reconciler that looks whenever `wake` is notified.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, fleet: Arc<Fleet>, wake: Arc<Notify>) -> Self {
        Self { store, fleet, wake }
    }

    /// Reconciles until `shutdown`; a round under way is finished first. Errors of the store are logged and tried again
    /// after a back-off.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut failures = 0_u32;
        let mut next_look = Instant::now();
        while !shutdown.is_cancelled() {
            match self.round(Timestamp::now(), &mut next_look).await {
                Ok(deadline) => {
                    failures = 0;
                    let sleep = until(deadline, Timestamp::now()).min(next_look.duration_since(Instant::now()));
                    let spacing = tokio::time::sleep(ROUND_SPACING);
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = self.wake.notified() => {}
                        () = tokio::time::sleep(sleep) => {}
                    }
                    spacing.await;
                }
                Err(StoreError::Closed) => return,
                Err(error) => {
                    failures = failures.saturating_add(1);
                    let pause = BACKOFF.delay(failures);
                    tracing::warn!(error = &error as &dyn std::error::Error, ?pause, "reconciling failed");
                    // Not woken early: a store that fails is not asked more often because more is waiting.
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
        }
    }

    /// Does everything that is due, and returns the next deadline. Looks for absent nodes when it is time for that, and
    /// decides when it will be again.
    async fn round(&self, now: Timestamp, next_look: &mut Instant) -> Result<Option<Timestamp>, StoreError> {
        let deadline = self.store.pass_deadlines(now).await?;
        if *next_look <= Instant::now() {
            let fleet = Arc::clone(&self.fleet);
            let next = self.store.set_aside(Arc::new(move |node| fleet.away(node)), now).await?;
            *next_look = Instant::now() + next.unwrap_or(TICK).clamp(ABSENCE_SPACING, TICK);
        }
        let mut in_vain = 0;
        while in_vain < MAX_IN_VAIN {
            let fleet = Arc::clone(&self.fleet);
            let picks = self.store.assignable(Arc::new(move |node| fleet.is_open(node)), BATCH).await?;
            if picks.is_empty() {
                break;
            }
            let asked = picks.len();
            let assigned = self.store.assign(picks, Timestamp::now()).await?;
            tracing::debug!(asked, assigned, "assigned tasks");
            // A job that was stopped since it was picked must not keep the others waiting; what is still picked then is
            // past a deadline, which the next round passes.
            in_vain = if assigned == 0 { in_vain + 1 } else { 0 };
        }
        Ok(deadline)
    }
}

/// How long to sleep when nothing else happens.
fn until(deadline: Option<Timestamp>, now: Timestamp) -> Duration {
    let Some(deadline) = deadline else { return TICK };
    Duration::try_from(deadline.duration_since(now)).unwrap_or(Duration::ZERO).clamp(MIN_SLEEP, TICK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failing_store::FailingStore;

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_is_asked_less_and_less_often_however_much_is_waiting() {
        let (store, wake) = (Arc::new(FailingStore::default()), Arc::new(Notify::new()));
        let controller = Controller::new(Arc::<FailingStore>::clone(&store), Arc::default(), Arc::clone(&wake));
        let shutdown = CancellationToken::new();
        let woken = async {
            for _ in 0..600 {
                wake.notify_one();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let while_failing = store.rounds();
            store.fail(false);
            wake.notify_one();
            tokio::time::sleep(BACKOFF.cap).await;
            let before = store.rounds();
            wake.notify_one();
            tokio::time::sleep(ROUND_SPACING * 2).await;
            shutdown.cancel();
            (while_failing, store.rounds() - before)
        };
        let ((), (while_failing, after)) = tokio::join!(controller.run(shutdown.clone()), woken);
        assert!((5..20).contains(&while_failing), "{while_failing} rounds in a minute");
        assert_eq!(after, 1, "a healthy store is asked at once");
    }

    #[test]
    fn the_sleep_ends_at_the_next_deadline_and_is_never_nothing() {
        let now = Timestamp::UNIX_EPOCH;
        let after = |seconds| Some(now + jiff::SignedDuration::from_secs(seconds));
        assert_eq!(until(None, now), TICK);
        assert_eq!(until(after(3600), now), TICK);
        assert_eq!(until(after(3), now), Duration::from_secs(3));
        assert_eq!(until(after(-3), now), MIN_SLEEP);
    }
}
