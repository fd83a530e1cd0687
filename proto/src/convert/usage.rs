//! What instances use of their nodes, and how nodes are.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use longshore_model::limits::{MAX_INSTANCES, MAX_MEASURED_INSTANCES};
use longshore_model::name::AppName;
use longshore_model::refusal::Refusal;
use longshore_model::trouble::{Kind, Trouble};
use longshore_model::usage::{InstanceUsage, NodeFigures, Sample};
use longshore_model::validate::{Path, Violations};

use super::{FromWire, optional, required, timestamp};
use crate::v1;

/// The wire form of what was measured, sent at a moment of the node's clock.
#[must_use]
pub fn usage_report(sample: &Sample, node_time: Timestamp) -> v1::UsageReport {
    let mut room = MAX_MEASURED_INSTANCES;
    let app = |(name, instances): (&AppName, &Vec<InstanceUsage>)| {
        let taken = instances.len().min(room);
        room -= taken;
        let instances = instances.iter().take(taken).map(|usage| v1::MeasuredInstance {
            index: usage.index,
            cpu_millis: usage.cpu_millis,
            memory_bytes: usage.memory,
        });
        v1::AppUsage { app_name: name.to_string(), instances: instances.collect() }
    };
    v1::UsageReport {
        node_time: Some(timestamp(node_time)),
        figures: Some(v1::NodeFigures::from(sample.figures)),
        apps: sample.apps.iter().map(app).filter(|app| !app.instances.is_empty()).collect(),
    }
}

/// What an agent has measured, and when it said so by its own clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageReport {
    /// What.
    pub sample: Sample,
    /// When.
    pub node_time: Timestamp,
}

impl FromWire<v1::UsageReport> for UsageReport {
    fn from_wire(wire: v1::UsageReport, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let node_time = required(wire.node_time, path.field("node_time"), bad);
        let figures = optional(wire.figures, path.field("figures"), bad);
        let count: usize = wire.apps.iter().map(|app| app.instances.len().max(1)).sum();
        if count > MAX_MEASURED_INSTANCES {
            let limit = MAX_MEASURED_INSTANCES;
            bad.add(path.field("apps"), format!("has {count} instances and empty apps; at most {limit} are allowed"));
            return None;
        }
        let mut apps = BTreeMap::new();
        for (index, app) in wire.apps.into_iter().enumerate() {
            let at = path.field("apps");
            let at = at.index(index);
            let Some(name) = AppName::from_wire(app.app_name, at.field("app_name"), bad) else { continue };
            if app.instances.iter().any(|instance| instance.index >= MAX_INSTANCES) {
                bad.add(at.field("instances"), format!("has an index beyond {}", MAX_INSTANCES - 1));
            }
            apps.insert(name, app.instances.into_iter().map(InstanceUsage::from).collect());
        }
        Some(Self { sample: Sample { figures: figures?.unwrap_or_default(), apps }, node_time: node_time? })
    }
}

impl From<v1::MeasuredInstance> for InstanceUsage {
    fn from(wire: v1::MeasuredInstance) -> Self {
        Self { index: wire.index, cpu_millis: wire.cpu_millis, memory: wire.memory_bytes }
    }
}

/// The wire form of what an instance uses, as it was said at a moment.
#[must_use]
pub fn instance_usage(usage: InstanceUsage, sample_time: Timestamp) -> v1::InstanceUsage {
    v1::InstanceUsage {
        cpu_millis: usage.cpu_millis,
        memory_bytes: usage.memory,
        sample_time: Some(timestamp(sample_time)),
    }
}

impl From<NodeFigures> for v1::NodeFigures {
    fn from(figures: NodeFigures) -> Self {
        Self {
            disk_total_bytes: figures.disk_total,
            disk_free_bytes: figures.disk_free,
            memory_total_bytes: figures.memory_total,
            memory_available_bytes: figures.memory_available,
            load_millis: figures.load_millis,
        }
    }
}

impl FromWire<v1::NodeFigures> for NodeFigures {
    /// More that is free than there is counts as all of it.
    fn from_wire(wire: v1::NodeFigures, _: Path<'_>, _: &mut Violations) -> Option<Self> {
        Some(Self {
            disk_total: wire.disk_total_bytes,
            disk_free: wire.disk_free_bytes.min(wire.disk_total_bytes),
            memory_total: wire.memory_total_bytes,
            memory_available: wire.memory_available_bytes.min(wire.memory_total_bytes),
            load_millis: wire.load_millis,
        })
    }
}

impl From<&Trouble> for v1::NodeWarning {
    fn from(trouble: &Trouble) -> Self {
        let kind = match trouble.kind {
            Kind::CertificateExpiring => v1::NodeWarningKind::CertificateExpiring,
            Kind::DiskNearlyFull => v1::NodeWarningKind::DiskNearlyFull,
            Kind::ClockSkew => v1::NodeWarningKind::ClockSkew,
        };
        Self { kind: kind.into(), message: trouble.message.clone() }
    }
}

impl From<&Refusal> for v1::NodeRefusal {
    fn from(refusal: &Refusal) -> Self {
        Self { capability: refusal.word.to_owned(), message: refusal.message.clone() }
    }
}

/// The wire form of a difference of clocks.
#[must_use]
pub fn skew(ahead: SignedDuration) -> prost_types::Duration {
    prost_types::Duration { seconds: ahead.as_secs(), nanos: ahead.subsec_nanos() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn sample(apps: usize, instances: u32) -> Sample {
        let usage = |index| InstanceUsage { index, cpu_millis: Some(250), memory: None };
        let app = |number| (AppName::parse(&format!("till-{number}")).unwrap(), (0..instances).map(usage).collect());
        let figures =
            NodeFigures { disk_total: 9, disk_free: 3, memory_total: 8, memory_available: 2, load_millis: 1250 };
        Sample { figures, apps: (0..apps).map(app).collect() }
    }

    #[test]
    fn what_was_measured_arrives_up_to_the_limit() {
        let now = Timestamp::UNIX_EPOCH;
        let read = UsageReport::read(usage_report(&sample(2, 3), now));
        assert_eq!(read, Ok(UsageReport { sample: sample(2, 3), node_time: now }));
        let read = UsageReport::read(usage_report(&sample(100, 64), now)).unwrap();
        let told: usize = read.sample.apps.values().map(Vec::len).sum();
        assert_eq!(told, MAX_MEASURED_INSTANCES);
    }

    #[test]
    fn what_cannot_be_is_refused_by_the_path_of_its_field() {
        let good = usage_report(&sample(1, 1), Timestamp::UNIX_EPOCH);
        let instance = |index| v1::MeasuredInstance { index, ..Default::default() };
        let app = |name: &str, instances| v1::AppUsage { app_name: name.to_owned(), instances };
        let cases = [
            (v1::UsageReport { node_time: None, ..good.clone() }, "usage.node_time"),
            (v1::UsageReport { apps: vec![app("A!", vec![])], ..good.clone() }, "usage.apps[0].app_name"),
            (v1::UsageReport { apps: vec![app("a", vec![instance(64)])], ..good.clone() }, "usage.apps[0].instances"),
            (v1::UsageReport { apps: vec![app("a", vec![]); 1001], ..good.clone() }, "usage.apps"),
        ];
        for (wire, field) in cases {
            let violations = UsageReport::read_field(wire, "usage").unwrap_err();
            assert_eq!(violations.0[0].field, field);
        }
    }

    #[test]
    fn no_more_is_free_than_there_is() {
        let wire = v1::NodeFigures { disk_total_bytes: 5, disk_free_bytes: 9, ..Default::default() };
        assert_eq!(NodeFigures::read(wire).unwrap().disk_free, 5);
    }
}
