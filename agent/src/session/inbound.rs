//! Reads what the server sends, and holds it against the rules of the stream.

use longshore_model::assignment::{Assignment, Order};
use longshore_model::failure::{Failure, FailureReason};
use longshore_model::name::{AppName, JobId};
use longshore_model::report::TaskReport;
use longshore_model::task::TaskState;
use longshore_proto::convert::FromWire;
use longshore_proto::v1;

use super::End;

/// Where the stream of assignments is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Revision(Option<u64>);

impl Revision {
    /// Takes the full set: it comes once, as number 1.
    pub(super) fn full(&mut self, got: u64) -> Result<(), End> {
        match self.0 {
            None if got == 1 => {
                self.0 = Some(got);
                Ok(())
            }
            None => Err(End::Gap { had: 0, got }),
            Some(_) => Err(End::Protocol("a second full set came in one session")),
        }
    }

    /// Takes an update: each is one more than the message before.
    pub(super) fn update(&mut self, got: u64) -> Result<(), End> {
        let had = self.0.ok_or(End::Protocol("an update came before the full set"))?;
        if had.checked_add(1) != Some(got) {
            return Err(End::Gap { had, got });
        }
        self.0 = Some(got);
        Ok(())
    }
}

/// Assignments as read.
#[derive(Debug, Default)]
pub(super) struct Assignments {
    /// Those that can be acted on.
    pub(super) good: Vec<Assignment>,
    /// Apps whose assignment cannot be read, as from a newer server: whatever runs of them is left alone.
    pub(super) unreadable: Vec<AppName>,
    /// What is to be said of their tasks.
    pub(super) refusals: Vec<TaskReport>,
}

pub(super) fn assignments(wire: Vec<v1::Assignment>) -> Assignments {
    let mut read = Assignments::default();
    for assignment in wire {
        let app = AppName::parse(&assignment.app_name);
        let job = JobId::parse(&assignment.job_id);
        let (attempt, order) = (assignment.attempt, assignment.order);
        if order != i32::from(v1::Order::Keep) {
            let (app, job, request_id) = (&assignment.app_name, &assignment.job_id, &assignment.request_id);
            tracing::info!(app, job, attempt, request_id, order = ?assignment.order(), "assigned");
        }
        match Assignment::read(assignment) {
            Ok(assignment) => read.good.push(assignment),
            Err(violations) => {
                tracing::error!(?app, ?job, %violations, "an assignment cannot be read");
                read.unreadable.extend(app.ok());
                let is_open = order == i32::from(v1::Order::from(Order::Deploy));
                if let Some(job) = job.ok().filter(|_| is_open) {
                    let failure = Failure {
                        reason: FailureReason::Unsupported,
                        message: format!("This agent cannot read the app's spec: {violations}."),
                        step: TaskState::Checking,
                    };
                    let state = TaskState::Failed;
                    read.refusals.push(TaskReport { job, attempt, state, pull: None, failure: Some(failure) });
                }
            }
        }
    }
    read
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn only_the_full_set_may_come_first_and_only_once() {
        let mut revision = Revision::default();
        assert!(matches!(revision.update(1), Err(End::Protocol(_))));
        assert!(matches!(revision.full(2), Err(End::Gap { had: 0, got: 2 })));
        revision.full(1).unwrap();
        assert!(matches!(revision.full(1), Err(End::Protocol(_))));
    }

    #[test]
    fn a_gap_or_a_repetition_is_seen() {
        let mut revision = Revision::default();
        revision.full(1).unwrap();
        revision.update(2).unwrap();
        assert!(matches!(revision.update(2), Err(End::Gap { had: 2, got: 2 })));
        assert!(matches!(revision.update(4), Err(End::Gap { had: 2, got: 4 })));
        revision.update(3).unwrap();
    }

    #[test]
    fn an_unreadable_assignment_leaves_its_app_alone_and_fails_its_task() {
        let wire = v1::Assignment {
            app_name: "till-abc".to_owned(),
            revision: 1,
            job_id: "0123456789abcdefghjkmnpqrs".to_owned(),
            attempt: 2,
            order: v1::Order::Deploy.into(),
            app_spec: bytes::Bytes::from_static(b"\xff\xff"),
            ..v1::Assignment::default()
        };
        let read = assignments(vec![wire]);
        assert!(read.good.is_empty());
        assert_eq!(read.unreadable.len(), 1);
        assert_eq!(read.refusals[0].attempt, 2);
        assert_eq!(read.refusals[0].failure.as_ref().unwrap().reason, FailureReason::Unsupported);
    }
}
