//! What the kernel says of this process, under the names that Prometheus' own clients use.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

/// Registers the process's figures; they are read from /proc at each scrape.
pub fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(Process));
}

#[derive(Debug)]
struct Process;

/// One reading.
struct Reading {
    cpu_seconds: f64,
    start_seconds: f64,
    resident_bytes: i64,
    threads: i64,
    open_descriptors: i64,
    max_descriptors: i64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Some(reading) = read() else { return Ok(()) };
        let mut put = |name, help, unit: Option<&Unit>, metric: &dyn Encode| metric.put(&mut encoder, name, help, unit);
        put(
            "process_cpu",
            "CPU time that the process has used",
            Some(&Unit::Seconds),
            &ConstCounter::new(reading.cpu_seconds),
        )?;
        let start = ConstGauge::new(reading.start_seconds);
        put("process_start_time", "When the process began, since 1970", Some(&Unit::Seconds), &start)?;
        let gauges = [
            ("process_resident_memory", "Memory that is resident", Some(&Unit::Bytes), reading.resident_bytes),
            ("process_threads", "Threads", None, reading.threads),
            ("process_open_fds", "Open file descriptors", None, reading.open_descriptors),
            ("process_max_fds", "File descriptors that the process may have open", None, reading.max_descriptors),
        ];
        gauges.iter().try_for_each(|(name, help, unit, value)| put(name, help, *unit, &ConstGauge::new(*value)))
    }
}

/// A metric that can be written after its description.
trait Encode {
    fn put(&self, encoder: &mut DescriptorEncoder, name: &str, help: &str, unit: Option<&Unit>) -> fmt::Result;
}

impl<M: EncodeMetric> Encode for M {
    fn put(&self, encoder: &mut DescriptorEncoder, name: &str, help: &str, unit: Option<&Unit>) -> fmt::Result {
        self.encode(encoder.encode_descriptor(name, help, unit, self.metric_type())?)
    }
}

fn read() -> Option<Reading> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which may hold anything, and its parenthesis: the third field is the first.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let boot = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let ticks = rustix::param::clock_ticks_per_second();
    let seconds = |ticked: u64| ticked as f64 / ticks as f64;
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let max = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?;
    Some(Reading {
        cpu_seconds: seconds(field(14)? + field(15)?),
        start_seconds: boot as f64 + seconds(field(22)?),
        resident_bytes: i64::try_from(field(24)?.saturating_mul(rustix::param::page_size() as u64)).ok()?,
        threads: i64::try_from(field(20)?).ok()?,
        open_descriptors: i64::try_from(std::fs::read_dir("/proc/self/fd").ok()?.count()).ok()?,
        max_descriptors: max.parse().unwrap_or(i64::MAX),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_seen() {
        let reading = read().unwrap();
        assert!(reading.resident_bytes > 1024 * 1024 && reading.threads >= 1 && reading.open_descriptors >= 3);
        assert!(reading.max_descriptors >= reading.open_descriptors && reading.start_seconds > 1.0e9);
        let mut registry = Registry::default();
        register(&mut registry);
        let text = crate::text(&registry);
        for line in [
            "# TYPE process_cpu_seconds counter\n",
            "# UNIT process_resident_memory_bytes bytes\n",
            "\nprocess_cpu_seconds_total ",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
