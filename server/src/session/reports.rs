//! Reports of one session on their way into the store.

use longshore_model::report::{AppReport, TaskReport};
use longshore_model::validate::Violations;
use longshore_proto::convert::FromWire;
use longshore_proto::v1;
use v1::report::Subject;

use crate::store::NodeReport;

/// Reports of a session that may wait for their acknowledgement. One commit takes them all, so that more would not make
/// an agent faster; the bound keeps an agent that ignores it from filling the server's memory.
pub(super) const MAX_UNACKNOWLEDGED: u32 = 128;

/// Reports that wait for the commit before theirs, only the newest of each subject.
#[derive(Debug, Default)]
pub(super) struct Batch {
    sequences: Vec<u64>,
    reports: Vec<NodeReport>,
}

impl Batch {
    /// Adds a report, in place of an older one of the same subject.
    pub(super) fn add(&mut self, sequence: u64, report: NodeReport) {
        self.sequences.push(sequence);
        self.reports.retain(|older| !same_subject(older, &report));
        self.reports.push(report);
    }

    /// Reports that were added, replaced ones included: each wants its acknowledgement.
    pub(super) fn len(&self) -> usize {
        self.sequences.len()
    }

    /// The sequences to acknowledge, and the reports to commit.
    pub(super) fn into_parts(self) -> (Vec<u64>, Vec<NodeReport>) {
        (self.sequences, self.reports)
    }
}

fn same_subject(a: &NodeReport, b: &NodeReport) -> bool {
    match (a, b) {
        (NodeReport::Task(a), NodeReport::Task(b)) => a.job == b.job && a.attempt == b.attempt,
        (NodeReport::App(a), NodeReport::App(b)) => a.app == b.app,
        _ => false,
    }
}

/// Reads a report's subject.
pub(super) fn read(subject: Option<Subject>) -> Result<NodeReport, Violations> {
    match subject {
        Some(Subject::Task(task)) => TaskReport::read_field(task, "report.task").map(NodeReport::Task),
        Some(Subject::App(app)) => AppReport::read_field(app, "report.app").map(NodeReport::App),
        None => Err(Violations::one("report.subject", "is missing")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A test may fail by panicking.
mod tests {
    use longshore_model::name::JobId;
    use longshore_model::task::TaskState;

    use super::*;

    fn task(attempt: u32, state: TaskState) -> NodeReport {
        let job = JobId::parse("01arz3ndektsv4rrffq69g5fav").unwrap();
        NodeReport::Task(TaskReport { job, attempt, state, pull: None, failure: None })
    }

    #[test]
    fn only_the_newest_of_a_subject_is_committed_and_all_are_acknowledged() {
        let mut batch = Batch::default();
        batch.add(1, task(1, TaskState::Checking));
        batch.add(2, task(2, TaskState::Checking));
        batch.add(5, task(1, TaskState::Pulling));
        assert_eq!(batch.len(), 3);
        let (sequences, reports) = batch.into_parts();
        assert_eq!(sequences, [1, 2, 5]);
        let states: Vec<_> = reports
            .iter()
            .map(|report| match report {
                NodeReport::Task(task) => (task.attempt, task.state),
                NodeReport::App(_) => unreachable!("no app was reported"),
            })
            .collect();
        assert_eq!(states, [(2, TaskState::Checking), (1, TaskState::Pulling)]);
    }

    #[test]
    fn a_report_without_a_subject_names_the_field() {
        assert_eq!(read(None).unwrap_err().0[0].field, "report.subject");
    }
}
