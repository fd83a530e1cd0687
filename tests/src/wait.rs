//! Waiting for conditions, never for time.

use std::time::{Duration, Instant};

/// How long a condition may take before a test gives up: far above what is ever needed, so that only a real fault or a
/// machine that stands still reaches it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Time between two looks at a condition.
const INTERVAL: Duration = Duration::from_millis(20);

/// Looks until `look` returns a value, and panics with `what` when it never does.
pub async fn for_value<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        if let Some(value) = look().await {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for: {what}");
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Looks until `holds` returns true, and panics with `what` when it never does.
pub async fn until<F>(what: &str, mut holds: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    for_value(what, || {
        let look = holds();
        async move { look.await.then_some(()) }
    })
    .await;
}
