//! A runtime whose operations are counted and timed.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use longshore_metrics::SECONDS;
use longshore_metrics::client::metrics::counter::Counter;
use longshore_metrics::client::metrics::family::Family;
use longshore_metrics::client::metrics::histogram::Histogram;
use longshore_metrics::client::registry::{Registry, Unit};
use longshore_model::app::InstanceExit;
use longshore_model::health::Answer;
use longshore_model::name::AppName;
use longshore_model::probe::Probe;
use longshore_model::spec::Image;
use longshore_model::task::PullProgress;
use longshore_model::usage::Reading;
use tokio::net::TcpStream;

use super::image::{Collected, Collection};
use super::{
    Access, Command, Found, InstanceKey, Launch, LogFile, LogLine, LogQuery, PortError, ProgressSink, Purpose,
    Resolution, ResolvedImage, Running, Runtime, RuntimeError,
};

type Operation = [(&'static str, &'static str); 2];

/// What is counted; clones share their counts.
#[derive(Clone, Debug)]
pub struct RuntimeMetrics {
    operations: Family<Operation, Histogram, fn() -> Histogram>,
    pulled: Counter,
    restarts: Counter,
    collected_images: Counter,
    collected: Counter,
}

impl Default for RuntimeMetrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        Self {
            operations: Family::new_with_constructor(histogram),
            pulled: Counter::default(),
            restarts: Counter::default(),
            collected_images: Counter::default(),
            collected: Counter::default(),
        }
    }
}

impl RuntimeMetrics {
    /// Registers everything.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Operations of the container runtime and the time that they took, by outcome";
        registry.register_with_unit("runtime_operation_duration", help, Unit::Seconds, self.operations.clone());
        let help = "Bytes of images that pulls got through, layers that were on the node already included";
        registry.register_with_unit("pulled", help, Unit::Bytes, self.pulled.clone());
        let help = "Images removed to make room on the disk";
        registry.register("collected_images", help, self.collected_images.clone());
        let help = "Bytes of disk that were free after that";
        registry.register_with_unit("collected_image", help, Unit::Bytes, self.collected.clone());
        registry.register("restarts", "Containers made for instances that had one before", self.restarts.clone());
    }

    async fn time<T, E>(&self, operation: &'static str, of: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let begun = Instant::now();
        let result = of.await;
        let outcome = if result.is_ok() { "ok" } else { "error" };
        let labels = [("operation", operation), ("outcome", outcome)];
        self.operations.get_or_create(&labels).observe(begun.elapsed().as_secs_f64());
        result
    }

    /// Counts what passes on its way to `sink`.
    fn counting(&self, sink: ProgressSink) -> ProgressSink {
        // The first word says where the pull stands when it begins.
        let (pulled, last) = (self.pulled.clone(), AtomicU64::new(u64::MAX));
        Arc::new(move |progress: PullProgress| {
            pulled.inc_by(progress.done.saturating_sub(last.swap(progress.done, Ordering::Relaxed)));
            sink(progress);
        })
    }
}

/// A runtime whose operations are counted and timed.
pub struct Measured {
    inner: Arc<dyn Runtime>,
    metrics: RuntimeMetrics,
}

impl Measured {
    /// Counts what `inner` does.
    #[must_use]
    pub fn new(inner: Arc<dyn Runtime>, metrics: RuntimeMetrics) -> Self {
        Self { inner, metrics }
    }
}

#[async_trait]
impl Runtime for Measured {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Vec<String> {
        self.inner.capabilities()
    }

    async fn resolve(&self, image: &Image, access: &Access, purpose: Purpose) -> Result<Resolution, RuntimeError> {
        self.metrics.time("resolve", self.inner.resolve(image, access, purpose)).await
    }

    async fn pull(&self, image: &ResolvedImage, access: &Access, progress: ProgressSink) -> Result<(), RuntimeError> {
        self.metrics.time("pull", self.inner.pull(image, access, self.metrics.counting(progress))).await
    }

    async fn collect_images(&self, policy: Collection, needed: BTreeSet<String>) -> Result<Collected, RuntimeError> {
        let collected = self.metrics.time("collect_images", self.inner.collect_images(policy, needed)).await?;
        self.metrics.collected_images.inc_by(collected.images);
        self.metrics.collected.inc_by(collected.bytes);
        Ok(collected)
    }

    async fn idle_images(&self, needed: BTreeSet<String>) -> Result<u64, RuntimeError> {
        self.inner.idle_images(needed).await
    }

    async fn create(&self, launch: &Launch) -> Result<(), RuntimeError> {
        if launch.run > 1 {
            self.metrics.restarts.inc();
        }
        self.metrics.time("create", self.inner.create(launch)).await
    }

    async fn start(&self, instance: &InstanceKey) -> Result<Timestamp, RuntimeError> {
        self.metrics.time("start", self.inner.start(instance)).await
    }

    /// Not timed: it takes as long as the container lives.
    async fn wait(&self, instance: &InstanceKey) -> Result<InstanceExit, RuntimeError> {
        self.inner.wait(instance).await
    }

    async fn stop(&self, instance: &InstanceKey, grace: Duration) -> Result<(), RuntimeError> {
        self.metrics.time("stop", self.inner.stop(instance, grace)).await
    }

    async fn delete(&self, instance: &InstanceKey) -> Result<(), RuntimeError> {
        self.metrics.time("delete", self.inner.delete(instance)).await
    }

    async fn remove_app(&self, app: &AppName) -> Result<(), RuntimeError> {
        self.metrics.time("remove_app", self.inner.remove_app(app)).await
    }

    async fn retain(&self, apps: &BTreeSet<AppName>) -> Result<(), RuntimeError> {
        self.inner.retain(apps).await
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        self.metrics.time("list", self.inner.list()).await
    }

    async fn usage(&self, instances: &[InstanceKey]) -> Result<Vec<Reading>, RuntimeError> {
        self.metrics.time("usage", self.inner.usage(instances)).await
    }

    async fn probe(&self, instance: &InstanceKey, probe: &Probe) -> Result<Answer, RuntimeError> {
        self.metrics.time("probe", self.inner.probe(instance, probe)).await
    }

    async fn admit(&self, instance: &InstanceKey, open: bool) -> Result<(), RuntimeError> {
        self.metrics.time("admit", self.inner.admit(instance, open)).await
    }

    async fn exec(&self, instance: &InstanceKey, command: Command) -> Result<Running, RuntimeError> {
        self.metrics.time("exec", self.inner.exec(instance, command)).await
    }

    async fn connect(&self, instance: &InstanceKey, port: u16) -> Result<TcpStream, PortError> {
        self.metrics.time("connect", self.inner.connect(instance, port)).await
    }

    async fn relocate(
        &self,
        instance: &InstanceKey,
        addresses: &BTreeMap<String, Ipv4Addr>,
    ) -> Result<(), RuntimeError> {
        self.metrics.time("relocate", self.inner.relocate(instance, addresses)).await
    }

    async fn logs(&self, query: LogQuery) -> Result<Option<BoxStream<'static, LogLine>>, RuntimeError> {
        self.metrics.time("logs", self.inner.logs(query)).await
    }

    async fn log_files(&self, instance: &InstanceKey) -> Result<Option<Vec<LogFile>>, RuntimeError> {
        self.metrics.time("log_files", self.inner.log_files(instance)).await
    }
}
