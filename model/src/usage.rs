//! What instances use of their node, and how the node itself is: measured now and then, and of interest only now.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::name::AppName;

/// What was measured at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Of the node.
    pub figures: NodeFigures,
    /// Of the instances of each app that were up.
    pub apps: BTreeMap<AppName, Vec<InstanceUsage>>,
}

/// What a node has, and how much of it is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeFigures {
    /// Bytes of the disk that the agent's data directory is on.
    pub disk_total: u64,
    /// Bytes of it that are free for the agent.
    pub disk_free: u64,
    /// Bytes of memory.
    pub memory_total: u64,
    /// Bytes of memory that programs can still get without swapping.
    pub memory_available: u64,
    /// The load average of the last minute, in thousandths.
    pub load_millis: u32,
}

impl NodeFigures {
    /// Reads what the kernel says: the texts of `/proc/meminfo` and `/proc/loadavg`, and bytes of a disk. What cannot be read is 0.
    #[must_use]
    pub fn of_kernel(meminfo: &str, loadavg: &str, disk_total: u64, disk_free: u64) -> Self {
        let memory = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
            kibibytes.unwrap_or(0).saturating_mul(1024)
        };
        Self {
            disk_total,
            disk_free,
            memory_total: memory("MemTotal"),
            memory_available: memory("MemAvailable"),
            load_millis: loadavg.split_whitespace().next().and_then(millis).unwrap_or(0),
        }
    }

    /// Per cent of the disk that are in use; `None` where nothing is known of it.
    #[must_use]
    pub fn disk_use(&self) -> Option<u64> {
        let used = u128::from(self.disk_total.saturating_sub(self.disk_free)) * 100;
        let per_cent = used.checked_div(u128::from(self.disk_total))?;
        u64::try_from(per_cent).ok()
    }
}

/// A decimal number such as `1.25` in thousandths.
fn millis(text: &str) -> Option<u32> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction: String = fraction.chars().chain("000".chars()).take(3).collect();
    whole.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(fraction.parse().ok()?)
}

/// What an instance uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceUsage {
    /// 0, 1, …
    pub index: u32,
    /// CPU in thousandths of one, on the average since the measurement before; `None` after the first one of a run.
    pub cpu_millis: Option<u64>,
    /// Bytes of its working set, where they can be measured.
    pub memory: Option<u64>,
}

/// What the kernel has counted of an instance since its container began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The app.
    pub app: AppName,
    /// 0, 1, …
    pub index: u32,
    /// Revision and run that its container is of: another one counts from 0 again.
    pub run: (u64, u32),
    /// CPU time so far.
    pub cpu: Option<Duration>,
    /// Bytes of its working set.
    pub memory: Option<u64>,
}

/// Memory that is needed to go on: what is in use without files that were not used lately, which the kernel drops before it runs
/// short. As Kubernetes has it.
#[must_use]
pub fn working_set(used: u64, inactive_files: u64) -> u64 {
    used.saturating_sub(inactive_files)
}

/// Makes rates of what was counted.
#[derive(Debug, Default)]
pub struct Meter {
    last: HashMap<(AppName, u32), Counted>,
    has_beginners: bool,
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    run: (u64, u32),
    cpu: Duration,
    at: Duration,
}

impl Meter {
    /// Takes what was read `at` a moment of a clock that only goes forward. Instances that are not in it are forgotten.
    pub fn take(&mut self, at: Duration, readings: Vec<Reading>) -> BTreeMap<AppName, Vec<InstanceUsage>> {
        let mut last = HashMap::with_capacity(readings.len());
        self.has_beginners = false;
        let mut apps: BTreeMap<AppName, Vec<InstanceUsage>> = BTreeMap::new();
        for Reading { app, index, run, cpu, memory } in readings {
            let key = (app.clone(), index);
            let now = cpu.map(|cpu| Counted { run, cpu, at });
            let before = self.last.get(&key).copied();
            self.has_beginners |= before.is_none() && now.is_some();
            let cpu_millis = before.zip(now).and_then(|(before, now)| rate(before, now));
            if let Some(now) = now {
                last.insert(key, now);
            }
            apps.entry(app).or_default().push(InstanceUsage { index, cpu_millis, memory });
        }
        self.last = last;
        apps
    }

    /// Whether an instance was counted for the first time: a second count soon makes a rate. Another run of one that was counted
    /// before is none, so that what is started again and again is not looked at more often than others.
    #[must_use]
    pub fn has_beginners(&self) -> bool {
        self.has_beginners
    }
}

/// Thousandths of a CPU between two counts; `None` where they are not of one run, or no time lies between them.
fn rate(before: Counted, now: Counted) -> Option<u64> {
    let used = now.cpu.checked_sub(before.cpu).filter(|_| before.run == now.run)?;
    let elapsed = now.at.checked_sub(before.at)?;
    let millis = (used.as_nanos() * 1000).checked_div(elapsed.as_nanos())?;
    u64::try_from(millis).ok()
}

/// How far a clock is ahead that said `said` in a message that came when ours said `received`; the way of the message makes it
/// seem a little more behind.
#[must_use]
pub fn clock_skew(said: Timestamp, received: Timestamp) -> SignedDuration {
    said.duration_since(received)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reading(index: u32, run: u32, cpu_millis: u64) -> Reading {
        let app = AppName::parse("till-x1").unwrap();
        Reading { app, index, run: (1, run), cpu: Some(Duration::from_millis(cpu_millis)), memory: Some(7) }
    }

    /// Takes readings one after the other, and returns what the last one says of the first instance.
    fn last(readings: &[(u64, Reading)]) -> Option<u64> {
        let mut meter = Meter::default();
        let mut usage = BTreeMap::new();
        for (seconds, reading) in readings {
            usage = meter.take(Duration::from_secs(*seconds), vec![reading.clone()]);
        }
        usage.into_values().next().unwrap()[0].cpu_millis
    }

    #[test]
    fn a_rate_is_of_two_counts_of_one_run() {
        let cases = [
            ("the first count", vec![(0, reading(0, 1, 500))], None),
            ("half a CPU", vec![(0, reading(0, 1, 500)), (10, reading(0, 1, 5500))], Some(500)),
            ("two CPUs", vec![(5, reading(0, 1, 0)), (10, reading(0, 1, 10_000))], Some(2000)),
            ("nothing", vec![(0, reading(0, 1, 500)), (10, reading(0, 1, 500))], Some(0)),
            ("another run, which has counted more", vec![(0, reading(0, 1, 500)), (10, reading(0, 2, 900))], None),
            ("a counter that was set back", vec![(0, reading(0, 1, 500)), (10, reading(0, 1, 100))], None),
            ("no time between", vec![(3, reading(0, 1, 500)), (3, reading(0, 1, 600))], None),
            ("time that went back", vec![(3, reading(0, 1, 500)), (2, reading(0, 1, 600))], None),
            (
                "the second count after a restart",
                vec![(0, reading(0, 1, 9000)), (10, reading(0, 2, 100)), (20, reading(0, 2, 1100))],
                Some(100),
            ),
        ];
        for (name, readings, expected) in cases {
            assert_eq!(last(&readings), expected, "{name}");
        }
    }

    #[test]
    fn an_instance_that_was_away_begins_anew_and_memory_alone_is_told_too() {
        let mut meter = Meter::default();
        meter.take(Duration::from_secs(1), vec![reading(0, 1, 0), reading(1, 1, 0)]);
        meter.take(Duration::from_secs(2), vec![reading(1, 1, 1000)]);
        assert!(!meter.has_beginners());
        let without = Reading { cpu: None, ..reading(1, 1, 0) };
        let usage = meter.take(Duration::from_secs(3), vec![reading(0, 1, 1000), without]);
        assert!(meter.has_beginners(), "the first one has come back");
        let of = |index| InstanceUsage { index, cpu_millis: None, memory: Some(7) };
        assert_eq!(usage.into_values().next().unwrap(), [of(0), of(1)]);
    }

    proptest! {
        /// Whatever is counted, in whatever order: nothing panics, and nobody has used more than was counted.
        #[test]
        fn rates_stay_within_what_was_counted(counts in prop::collection::vec((0..4u64, 1..3u32, any::<u64>()), 0..20)) {
            let (mut meter, mut at) = (Meter::default(), Duration::ZERO);
            for (seconds, run, cpu) in counts {
                at += Duration::from_secs(seconds);
                let usage = meter.take(at, vec![reading(0, run, cpu)]);
                let rate = usage.into_values().next().unwrap()[0].cpu_millis;
                prop_assert!(rate.is_none_or(|rate| rate <= cpu));
            }
        }
    }

    #[test]
    fn what_the_kernel_says_of_the_machine_is_read() {
        let meminfo = "MemTotal:       24000 kB\nMemFree:    1 kB\nMemAvailable:   12000 kB\n";
        let figures = NodeFigures::of_kernel(meminfo, "1.25 0.80 0.55 2/345 6789\n", 100, 7);
        let expected = NodeFigures {
            disk_total: 100,
            disk_free: 7,
            memory_total: 24_576_000,
            memory_available: 12_288_000,
            load_millis: 1250,
        };
        assert_eq!(figures, expected);
        assert_eq!(figures.disk_use(), Some(93));
        assert_eq!(NodeFigures::of_kernel("", "nonsense", 0, 0), NodeFigures::default());
        assert_eq!(NodeFigures::default().disk_use(), None);
        for (text, expected) in [("0.07", Some(70)), ("12", Some(12_000)), ("1.23456", Some(1234)), ("4294968", None)] {
            assert_eq!(millis(text), expected, "{text}");
        }
    }

    #[test]
    fn files_that_were_not_used_lately_do_not_count() {
        assert_eq!((working_set(10, 4), working_set(4, 10)), (6, 0));
    }

    #[test]
    fn a_clock_that_is_ahead_has_a_positive_skew() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(clock_skew(at(107), at(100)), SignedDuration::from_secs(7));
        assert_eq!(clock_skew(at(90), at(100)), SignedDuration::from_secs(-10));
    }
}
