//! What the agent tells Prometheus; docs/metrics.md lists it all.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use longshore_metrics::client::collector::Collector;
use longshore_metrics::client::encoding::{DescriptorEncoder, EncodeMetric};
use longshore_metrics::client::metrics::MetricType;
use longshore_metrics::client::registry::{Registry, Unit};
use longshore_metrics::{Scrape, gauge, process};
use longshore_model::app::{AppState, InstanceState};
use longshore_model::usage::Sample;
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::identity::Identity;
use crate::reporter::Reporter;
use crate::runtime::measured::RuntimeMetrics;
use crate::usage::Newest;

/// Everything that is scraped.
pub struct Sources {
    /// Knows the apps, and what the server has not acknowledged.
    pub reporter: Reporter,
    /// Counts what the runtime does.
    pub runtime: RuntimeMetrics,
    /// What was measured last.
    pub usage: Newest,
    /// Holds the connection of the live session.
    pub live: watch::Receiver<Option<Channel>>,
    /// Has the node's certificate.
    pub identity: Arc<Identity>,
}

impl Sources {
    /// What answers a scrape.
    #[must_use]
    pub fn into_scrape(self) -> Scrape {
        let mut registry = Registry::with_prefix("longshore_agent");
        self.runtime.register(&mut registry);
        let Self { reporter, usage, live, identity, .. } = self;
        registry.register_collector(Box::new(Standing { reporter, usage, live, identity }));
        let mut own = Registry::default();
        process::register(&mut own);
        let both = Arc::new((registry, own));
        Arc::new(move || -> BoxFuture<'static, String> {
            let both = Arc::clone(&both);
            Box::pin(async move {
                let agent = longshore_metrics::text(&both.0);
                agent.trim_end_matches("# EOF\n").to_owned() + &longshore_metrics::text(&both.1)
            })
        })
    }
}

/// What is known without counting.
struct Standing {
    reporter: Reporter,
    usage: Newest,
    live: watch::Receiver<Option<Channel>>,
    identity: Arc<Identity>,
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Standing")
    }
}

/// Words of states, as on the wire.
const APPS: [(AppState, &str); 6] = [
    (AppState::Starting, "STARTING"),
    (AppState::Running, "RUNNING"),
    (AppState::NotReady, "NOT_READY"),
    (AppState::BackOff, "BACK_OFF"),
    (AppState::Completed, "COMPLETED"),
    (AppState::Failed, "FAILED"),
];
/// Words of states, as on the wire.
const INSTANCES: [(InstanceState, &str); 4] = [
    (InstanceState::Waiting, "WAITING"),
    (InstanceState::Running, "RUNNING"),
    (InstanceState::BackOff, "BACK_OFF"),
    (InstanceState::Exited, "EXITED"),
];

impl Collector for Standing {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let census = self.reporter.census();
        let apps = APPS.map(|(state, word)| (word, census.apps.iter().filter(|other| **other == state).count()));
        family(&mut encoder, "apps", "Apps on this node by state", &apps)?;
        let instances = census.instances;
        let instances =
            INSTANCES.map(|(state, word)| (word, instances.iter().filter(|other| **other == state).count()));
        family(&mut encoder, "instances", "Instances on this node by state", &instances)?;
        let mut put = |name, help, unit: Option<&Unit>, value: i64| {
            gauge(value).encode(encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?)
        };
        let live = i64::from(self.live.borrow().is_some());
        put("session_live", "1 while a session with the server is open, else 0", None, live)?;
        let unacknowledged = i64::try_from(census.unacknowledged).unwrap_or(i64::MAX);
        put("unacknowledged_reports", "Reports that the server has not acknowledged", None, unacknowledged)?;
        let help = "When the node's certificate expires, since 1970";
        let end = self.identity.validity().not_after.as_second();
        put("certificate_expiry_timestamp", help, Some(&Unit::Seconds), end)?;
        let sample = self.usage.borrow().clone();
        sample.map_or(Ok(()), |sample| measured(&mut encoder, &sample))
    }
}

/// What instances use together, and how full the disk is.
fn measured(encoder: &mut DescriptorEncoder, sample: &Sample) -> fmt::Result {
    let instances = || sample.apps.values().flatten();
    let cpu: u64 = instances().filter_map(|usage| usage.cpu_millis).sum();
    let memory: u64 = instances().filter_map(|usage| usage.memory).sum();
    let help = "CPU that instances used together, as it was measured last";
    let described = encoder.encode_descriptor("instances_cpu_millicores", help, None, MetricType::Gauge)?;
    gauge(cpu).encode(described)?;
    let mut bytes = |name, help, value: u64| {
        gauge(value).encode(encoder.encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Gauge)?)
    };
    bytes("instances_memory_working_set", "Memory that instances needed together, as it was measured last", memory)?;
    bytes("disk_size", "Size of the disk that the data directory is on", sample.figures.disk_total)?;
    bytes("disk_free", "What of it is free", sample.figures.disk_free)
}

fn family(encoder: &mut DescriptorEncoder, name: &str, help: &str, values: &[(&'static str, usize)]) -> fmt::Result {
    let mut described = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    values.iter().try_for_each(|(state, count)| gauge(*count).encode(described.encode_family(&[("state", *state)])?))
}
