//! What an engine has counted of its containers.

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker;
use bollard::models::ContainerStatsResponse;
use bollard::query_parameters::StatsOptionsBuilder;
use futures::{StreamExt, stream};
use longshore_model::usage::{Reading, working_set};

use super::containers::{Containers, Listed, REQUESTS_AT_ONCE, labelled};
use crate::runtime::{InstanceKey, RuntimeError};

impl Containers {
    /// As [`crate::runtime::Runtime::usage`].
    pub(super) async fn usage(&self, instances: &[InstanceKey]) -> Result<Vec<Reading>, RuntimeError> {
        let docker = self.engine.client().await?;
        let mut newest: HashMap<InstanceKey, Listed> = HashMap::new();
        for listed in labelled(&self.engine, &docker, &self.settings.node_uid, &[]).await? {
            let instance = &listed.labels.instance;
            let is_newer = newest.get(instance).is_none_or(|known| known.labels.run < listed.labels.run);
            if is_newer && instances.contains(instance) {
                newest.insert(instance.clone(), listed);
            }
        }
        let readings = newest.into_values().map(|listed| reading(&docker, listed));
        Ok(stream::iter(readings).buffer_unordered(REQUESTS_AT_ONCE).filter_map(std::future::ready).collect().await)
    }
}

/// Asks the engine for one look: not for two of them a second apart, by which it would work out rates itself.
async fn reading(docker: &Docker, listed: Listed) -> Option<Reading> {
    let options = StatsOptionsBuilder::default().stream(false).one_shot(true).build();
    let stats = match Box::pin(docker.stats(&listed.id, Some(options))).next().await? {
        Ok(stats) => stats,
        Err(error) => {
            // It may have ended in this moment.
            tracing::debug!(container = listed.id, %error, "a container cannot be measured");
            return None;
        }
    };
    let (cpu, memory) = counted(&stats)?;
    let (InstanceKey { app, index }, run) = (listed.labels.instance, (listed.labels.revision, listed.labels.run));
    Some(Reading { app, index, run, cpu: Some(cpu), memory })
}

/// CPU time and working set. An engine that does not say what part of the memory is files is believed that none is.
fn counted(stats: &ContainerStatsResponse) -> Option<(Duration, Option<u64>)> {
    let cpu = stats.cpu_stats.as_ref()?.cpu_usage.as_ref()?.total_usage?;
    let memory = stats.memory_stats.as_ref();
    let parts = memory.and_then(|memory| memory.stats.as_ref());
    // The first is of cgroups of version 1, where the second counts without what is below.
    let inactive = parts.and_then(|parts| parts.get("total_inactive_file").or_else(|| parts.get("inactive_file")));
    let used = memory.and_then(|memory| memory.usage);
    Some((Duration::from_nanos(cpu), used.map(|used| working_set(used, inactive.copied().unwrap_or(0)))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_engines_say_is_read() {
        let cpu = json!({ "cpu_usage": { "total_usage": 1_500_000_000 } });
        let v1 = json!({ "usage": 1000, "stats": { "inactive_file": 1, "total_inactive_file": 300 } });
        let v2 = json!({ "usage": 1000, "stats": { "inactive_file": 250 } });
        let cases = [
            (json!({ "cpu_stats": cpu, "memory_stats": v1 }), Some(Some(700))),
            (json!({ "cpu_stats": cpu, "memory_stats": v2 }), Some(Some(750))),
            (json!({ "cpu_stats": cpu, "memory_stats": { "usage": 1000 } }), Some(Some(1000))),
            (json!({ "cpu_stats": cpu, "memory_stats": {} }), Some(None)),
            (json!({ "cpu_stats": {} }), None),
        ];
        for (text, expected) in cases {
            let stats: ContainerStatsResponse = serde_json::from_value(text.clone()).unwrap();
            assert_eq!(counted(&stats), expected.map(|memory| (Duration::from_millis(1500), memory)), "{text}");
        }
    }
}
