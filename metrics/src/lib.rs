//! What Longshore's programs tell Prometheus: the listener that is scraped, and the process's own figures.
//!
//! Metrics belong to the modules that they are about, which count by atomics; a program registers them once and serves
//! them here. What is already known elsewhere, such as the number of sessions, is looked up when it is scraped and costs
//! nothing in between.

mod listener;
pub mod process;

pub use listener::{CONTENT_TYPE, Scrape, serve};
pub use prometheus_client as client;

use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// Upper bounds of buckets of durations, in seconds: from a commit on a good disk to a call that somebody gives up.
pub const SECONDS: [f64; 12] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// The text of a registry as OpenMetrics has it.
#[must_use]
pub fn text(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail; a collector that fails leaves what was written before it.
    if prometheus_client::encoding::text::encode(&mut text, registry).is_err() {
        tracing::error!("metrics cannot be written");
    }
    text
}

/// A gauge that is made for one scrape.
#[must_use]
pub fn gauge(value: impl TryInto<i64>) -> ConstGauge<i64> {
    ConstGauge::new(value.try_into().unwrap_or(i64::MAX))
}
