//! Makes room on the disk now and then, by removing images that no app needs.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::supervisor::Context;

/// How often it is looked how full the disk is: a large pull takes longer.
const PERIOD: Duration = Duration::from_secs(30);

/// Collects images for as long as it is polled.
pub async fn run(context: &Context) -> std::convert::Infallible {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let ledger = context.ledger.clone();
        match tokio::task::spawn_blocking(move || ledger.images()).await {
            Ok(Ok(needed)) => {
                if let Err(error) = context.runtime.collect_images(context.collection, needed).await {
                    tracing::warn!(%error, "images that nothing needs stay");
                }
            }
            // What cannot be read may need any of them.
            Ok(Err(error)) => {
                tracing::warn!(%error, source = %error.source, "images stay, whether they are needed or not");
            }
            // Only when the agent ends.
            Err(_) => {}
        }
    }
}
