//! Many measurements of each of several things, as rows of a table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Measurements by contender, and by what was measured of it.
#[derive(Debug, Default)]
pub(crate) struct Spreads(BTreeMap<(usize, &'static str), Vec<Duration>>);

impl Spreads {
    /// Adds a measurement.
    pub(crate) fn add(&mut self, contender: usize, name: &'static str, took: Duration) {
        self.0.entry((contender, name)).or_default().push(took);
    }

    /// The median of each, by contender.
    pub(crate) fn medians(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        self.0.iter().map(|((_, name), all)| (*name, at(all, 5)))
    }
}

/// The measurement that so many tenths of them are not above.
fn at(all: &[Duration], tenths: usize) -> Duration {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() - 1) * tenths / 10]
}

impl fmt::Display for Spreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {:44} {:>9} {:>9} {:>9}", "", "median", "least", "90 %")?;
        for ((_, name), all) in &self.0 {
            let at = |tenths: usize| at(all, tenths).as_secs_f64() * 1000.0;
            write!(f, "\n  {name:44} {:9.1} {:9.1} {:9.1}", at(5), at(0), at(9))?;
        }
        Ok(())
    }
}
