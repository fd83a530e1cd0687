//! Measures now and then what instances use and how the node is, for the server and Prometheus.
//!
//! Only the newest is kept. Nothing is measured while nobody would hear of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use longshore_model::usage::{Meter, NodeFigures, Sample};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::runtime::image::Fill;
use crate::supervisor::Context;

/// Shortest interval that can be set: a shorter one would show the measuring itself.
pub const MIN_USAGE_INTERVAL: Duration = Duration::from_secs(1);
/// After the first look at an instance the second one comes so soon, if the interval is longer: a rate takes both.
const SECOND_LOOK: Duration = Duration::from_secs(5);
/// How long the runtime may take: an engine that is away must not hold up what is known of the node.
const RUNTIME_TIMEOUT: Duration = Duration::from_secs(10);

/// The newest of what was measured; `None` before the first.
pub type Newest = watch::Receiver<Option<Arc<Sample>>>;

/// What is measured, when, and who is told.
pub struct Sampling {
    /// Has the instances.
    pub context: Arc<Context>,
    /// The agent's, whose disk is looked at.
    pub data_dir: PathBuf,
    /// From one measurement to the next; zero for none at all.
    pub interval: Duration,
    /// Holds the connection of the live session: one that begins is told at once.
    pub live: watch::Receiver<Option<Channel>>,
    /// Whether there is somebody to tell without a session.
    pub scraped: bool,
    /// Who is told.
    pub newest: watch::Sender<Option<Arc<Sample>>>,
}

impl Sampling {
    /// Measures for as long as it is polled.
    pub async fn run(mut self) -> std::convert::Infallible {
        if self.interval.is_zero() {
            return std::future::pending().await;
        }
        let (mut meter, begun) = (Meter::default(), Instant::now());
        loop {
            if !self.scraped && self.live.wait_for(Option::is_some).await.is_err() {
                return std::future::pending().await;
            }
            let sample = self.measure(&mut meter, begun).await;
            self.newest.send_replace(Some(Arc::new(sample)));
            let pause = if meter.has_beginners() { self.interval.min(SECOND_LOOK) } else { self.interval };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = self.live.changed() => {}
            }
        }
    }

    async fn measure(&self, meter: &mut Meter, begun: Instant) -> Sample {
        let data_dir = self.data_dir.clone();
        let figures = tokio::task::spawn_blocking(move || figures(&data_dir)).await;
        let figures = figures.map_err(io::Error::from).and_then(|figures| figures).unwrap_or_else(|error| {
            tracing::warn!(%error, "the node cannot be measured");
            NodeFigures::default()
        });
        let running = self.context.reporter.running();
        let reading = tokio::time::timeout(RUNTIME_TIMEOUT, self.context.runtime.usage(&running)).await;
        let readings = match reading {
            Ok(Ok(readings)) => readings,
            Ok(Err(error)) => {
                tracing::warn!(%error, "instances cannot be measured");
                Vec::new()
            }
            Err(_) => {
                tracing::warn!("instances cannot be measured: the runtime does not answer");
                Vec::new()
            }
        };
        Sample { figures, apps: meter.take(begun.elapsed(), readings) }
    }
}

/// How the node is. Blocks for a moment.
fn figures(data_dir: &Path) -> io::Result<NodeFigures> {
    let (total, free) = Fill::of(data_dir)?.sizes();
    Ok(NodeFigures::of_kernel(
        &fs::read_to_string("/proc/meminfo")?,
        &fs::read_to_string("/proc/loadavg")?,
        total,
        free,
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_measured() {
        let directory = tempfile::tempdir().unwrap();
        let figures = figures(directory.path()).unwrap();
        assert!(figures.disk_total >= figures.disk_free && figures.disk_total > 0, "{figures:?}");
        assert!(figures.memory_total >= figures.memory_available && figures.memory_available > 0, "{figures:?}");
        assert!(figures_of_nothing().is_err());
    }

    fn figures_of_nothing() -> io::Result<NodeFigures> {
        figures(Path::new("/nowhere"))
    }
}
