//! What an agent that starts makes of its ledger and of the containers that it finds.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use longshore_model::app::InstanceExit;
use longshore_model::backoff;

use super::{App, Container, ContainerState, LOST};
use crate::clock::{later, until};
use crate::ledger::{Entry, Record};
use crate::runtime::{Found, FoundState};

impl App {
    /// What is known of an app at the agent's start: what was written down, and what the runtime has.
    #[must_use]
    pub fn adopt(entry: Entry, found: Vec<Found>, now: Timestamp, wall: Timestamp) -> Self {
        let mut app = Self::from_entry(entry);
        app.align();
        let revision = app.target().revision;
        let latest = later(now, backoff::RESTART.cap);
        for record in &mut app.entry.instances {
            // The clock may have gone back since it was written: no delay is longer than the longest.
            record.not_before = record.not_before.map(|moment| moment.min(latest));
        }
        let mut exits = Vec::new();
        for container in newest_runs(found) {
            let index = container.instance.index;
            // What a container of another revision did is not counted: it is only in the way.
            let is_current = container.revision == revision;
            let record = app.entry.instances.get_mut(index as usize);
            let was_told_to_start = record.as_ref().is_some_and(|record| record.live);
            let state = match container.state {
                // The two clocks may disagree; how long it has been up does not depend on either.
                FoundState::Running(since) => ContainerState::Running(earlier(now, until(since, wall))),
                // Perhaps it hears the word just now: the same word again starts it once, a deletion and a new run twice.
                FoundState::Created if was_told_to_start => ContainerState::Created,
                FoundState::Created | FoundState::Exited(_) => ContainerState::Spent,
            };
            app.containers.insert(index, Container { revision: container.revision, state });
            let Some(record) = record else { continue };
            record.run = record.run.max(container.run);
            if !is_current {
                continue;
            }
            match container.state {
                // Without that it was counted before, or is what our own deletion left of one that never ran.
                FoundState::Exited(exit) if record.live => exits.push((index, exit)),
                FoundState::Exited(_) => {}
                FoundState::Running(_) => {
                    record.live = true;
                    if let ContainerState::Running(since) = state {
                        app.begin_probing(index, since, now);
                    }
                }
                // The start is counted when it is told again.
                FoundState::Created if was_told_to_start => {
                    record.live = false;
                    record.starts = record.starts.saturating_sub(1);
                }
                FoundState::Created => {}
            }
        }
        for (index, exit) in exits {
            app.exited(index, exit, now);
        }
        let present = app.containers.keys().copied().collect::<Vec<_>>();
        let lost = |(index, record): (usize, &Record)| {
            u32::try_from(index).ok().filter(|index| record.live && !present.contains(index))
        };
        let lost: Vec<u32> = app.entry.instances.iter().enumerate().filter_map(lost).collect();
        for index in lost {
            app.exited(index, InstanceExit { code: LOST, out_of_memory: false, time: wall }, now);
        }
        app
    }
}

/// Of each instance the container of its last run.
fn newest_runs(found: Vec<Found>) -> impl Iterator<Item = Found> {
    let mut newest: BTreeMap<u32, Found> = BTreeMap::new();
    for container in found {
        let index = container.instance.index;
        if newest.get(&index).is_none_or(|known| known.run < container.run) {
            newest.insert(index, container);
        }
    }
    newest.into_values()
}

fn earlier(moment: Timestamp, duration: Duration) -> Timestamp {
    jiff::SignedDuration::try_from(duration).ok().and_then(|d| moment.checked_sub(d).ok()).unwrap_or(moment)
}
