//! What the server tells Prometheus; docs/metrics.md lists it all.
//!
//! Counters belong to the modules that count. What the store, the fleet and the certificates know already is asked when
//! it is scraped.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use longshore_metrics::client::collector::Collector;
use longshore_metrics::client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use longshore_metrics::client::metrics::MetricType;
use longshore_metrics::client::registry::{Registry, Unit};
use longshore_metrics::{Scrape, gauge, process};
use tokio::sync::watch;

use crate::fleet::Fleet;
use crate::identity::Authority;
use crate::listen::ConnectionMetrics;
use crate::live::Live;
use crate::store::{Census, SqliteStore, Store};

/// Time for the store to count: a scrape that takes longer goes without.
const CENSUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that is scraped.
pub struct Sources {
    /// Counts jobs, and its own commits.
    pub store: Arc<SqliteStore>,
    /// Has the sessions.
    pub live: Arc<Live>,
    /// Calls of people and agents.
    pub calls: crate::api::observe::CallMetrics,
    /// Connections of people and agents.
    pub connections: ConnectionMetrics,
    /// The certificates that somebody must renew, by their use, and when each expires.
    pub certificates: Vec<(&'static str, watch::Receiver<Timestamp>)>,
}

impl Sources {
    /// What answers a scrape.
    #[must_use]
    pub fn into_scrape(self) -> Scrape {
        let mut registry = Registry::with_prefix("longshore");
        self.store.metrics().register(&mut registry);
        self.live.fleet.metrics().register(&mut registry);
        self.calls.register(&mut registry);
        self.connections.register(&mut registry);
        let standing = Standing { fleet: Arc::clone(&self.live.fleet), certificates: self.certificates };
        registry.register_collector(Box::new(standing));
        let mut own = Registry::default();
        process::register(&mut own);
        let both = Arc::new((registry, own));
        let store = self.store;
        Arc::new(move || -> BoxFuture<'static, String> {
            let (store, both) = (Arc::clone(&store), Arc::clone(&both));
            Box::pin(async move {
                let mut counted = Registry::with_prefix("longshore");
                match tokio::time::timeout(CENSUS_TIMEOUT, store.census()).await {
                    Ok(Ok(census)) => counted.register_collector(Box::new(Counted(census))),
                    _ => tracing::warn!("the store did not count for a scrape"),
                }
                let texts = [&both.0, &both.1, &counted].map(longshore_metrics::text);
                let mut all: String = texts.iter().map(|text| text.trim_end_matches("# EOF\n")).collect();
                all.push_str("# EOF\n");
                all
            })
        })
    }
}

/// When each certificate that the server depends on expires, its own being renewed now and then; what cannot be read is left
/// out.
#[must_use]
pub fn expiries(
    authority: &Authority,
    own: watch::Receiver<Timestamp>,
) -> Vec<(&'static str, watch::Receiver<Timestamp>)> {
    let root = || {
        let (_, pem) = x509_parser::pem::parse_x509_pem(authority.root_pem().as_bytes()).ok()?;
        longshore_tls::validity_of(&pem.contents).ok().map(|validity| validity.not_after)
    };
    let fixed = |end| watch::Sender::new(end).subscribe();
    let all = [("server", Some(own)), ("issuing", Some(fixed(authority.end()))), ("root", root().map(fixed))];
    all.into_iter().filter_map(|(name, end)| Some((name, end?))).collect()
}

/// What is known without counting.
#[derive(Debug)]
struct Standing {
    fleet: Arc<Fleet>,
    certificates: Vec<(&'static str, watch::Receiver<Timestamp>)>,
}

impl Collector for Standing {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let sessions = gauge(self.fleet.len());
        sessions.encode(encoder.encode_descriptor(
            "sessions",
            "Live sessions of agents",
            None,
            MetricType::Gauge,
        )?)?;
        let seconds = |end: &watch::Receiver<Timestamp>| end.borrow().as_second().unsigned_abs();
        let expiries = self.certificates.iter().map(|(name, end)| ([("certificate", *name)], seconds(end)));
        let help = "When a certificate of the server expires, since 1970";
        family(&mut encoder, "certificate_expiry_timestamp", help, Some(&Unit::Seconds), expiries)
    }
}

/// What the store counted for this scrape.
#[derive(Debug)]
struct Counted(Census);

impl Collector for Counted {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Census { jobs, tasks, nodes } = &self.0;
        let jobs = jobs.iter().map(|(state, count)| ([("state", state.as_str())], *count));
        family(&mut encoder, "jobs", "Jobs by state", None, jobs)?;
        let tasks = tasks.iter().map(|(kind, count)| ([("state", *kind)], *count));
        family(&mut encoder, "tasks", "Tasks by kind of state", None, tasks)?;
        gauge(*nodes).encode(encoder.encode_descriptor("nodes", "Enrolled nodes", None, MetricType::Gauge)?)
    }
}

fn family<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    values: impl Iterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut described = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (labels, value) in values {
        gauge(value).encode(described.encode_family(&labels)?)?;
    }
    Ok(())
}
