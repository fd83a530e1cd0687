//! What instances use, for people.

use longshore_proto::v1::{App, InstanceStatus, InstanceUsage};

use crate::text;

/// CPU and memory of one instance, such as `250m` and `12.5 MiB`; `-` where they are not known.
pub(super) fn of_instance(instance: &InstanceStatus) -> [String; 2] {
    shown(instance.usage.iter())
}

/// The same of all instances of an app together, as far as it is known.
pub(super) fn of_app(app: &App) -> [String; 2] {
    shown(all(app))
}

/// When the newest of it was measured.
pub(super) fn time(app: &App) -> Option<&prost_types::Timestamp> {
    all(app).filter_map(|usage| usage.sample_time.as_ref()).max_by_key(|time| (time.seconds, time.nanos))
}

fn all(app: &App) -> impl Iterator<Item = &InstanceUsage> + Clone {
    app.status.iter().flat_map(|status| &status.instances).filter_map(|instance| instance.usage.as_ref())
}

fn shown<'a>(usage: impl Iterator<Item = &'a InstanceUsage> + Clone) -> [String; 2] {
    let sum = |known: fn(&InstanceUsage) -> Option<u64>| {
        usage.clone().filter_map(known).reduce(|sum, more| sum.saturating_add(more))
    };
    let (cpu, memory) = (sum(|usage| usage.cpu_millis), sum(|usage| usage.memory_bytes));
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [or_dash(cpu.map(|millis| format!("{millis}m"))), or_dash(memory.map(text::bytes))]
}
