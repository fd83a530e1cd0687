//! What failures of a job have in common: the reason, and the sentence but for what differs from node to node.

use std::collections::HashMap;

use crate::failure::FailureReason;
use crate::fnv;
use crate::task::Task;

/// Groups that are told apart in one answer: far more than a person reads, and a bound for messages that no two nodes share.
pub const MAX_GROUPS: usize = 100;
/// What stands for what differs.
const GAP: &str = "…";

/// Failures with one cause, and an example of type `E`: a task, or the node of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group<E> {
    /// Stands for reason and shape: what [`of`] says of each of its tasks.
    pub cause: String,
    /// The reason.
    pub reason: FailureReason,
    /// The sentence that they share, with gaps.
    pub shape: String,
    /// How many there are.
    pub count: u32,
    /// One of them.
    pub example: E,
}

/// Failures by cause, the most frequent first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups<E> {
    /// At most [`MAX_GROUPS`].
    pub groups: Vec<Group<E>>,
    /// Those of other causes still.
    pub others: u32,
}

/// The cause of a task's failure, if it has one; the same for tasks that failed alike.
#[must_use]
pub fn of(task: &Task) -> Option<String> {
    let failure = task.failure.as_ref()?;
    Some(name(failure.reason, &shape(&failure.message, task.node.as_str())))
}

fn name(reason: FailureReason, shape: &str) -> String {
    fnv::hash(&format!("{reason:?}\n{shape}"))
}

/// A sentence with gaps where it speaks of one node: its name, and words with digits in them, such as addresses, sizes,
/// ports and digests. An exit code stays: programs mean something by it.
fn shape(message: &str, node: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    let mut before: [&str; 2] = [""; 2];
    for word in message.split_whitespace() {
        let is_exit_code = before == ["exit", "code"];
        let is_node = before[1] == "node" && word.trim_end_matches(['.', ',', ':', ';']) == node;
        let is_of_one = is_node || (!is_exit_code && word.contains(|c: char| c.is_ascii_digit()));
        before = [before[1], word];
        match words.last() {
            Some(&GAP) if is_of_one => {}
            _ => words.push(if is_of_one { GAP } else { word }),
        }
    }
    words.join(" ")
}

/// Gathers failures by cause.
#[derive(Debug)]
pub struct Grouping<E> {
    found: HashMap<String, Group<E>>,
    others: u32,
}

impl<E> Default for Grouping<E> {
    fn default() -> Self {
        Self { found: HashMap::new(), others: 0 }
    }
}

impl Grouping<Task> {
    /// Counts a task, if it has failed.
    pub fn add(&mut self, task: Task) {
        let Some(failure) = task.failure.clone() else { return };
        let node = task.node.clone();
        self.count(failure.reason, &failure.message, node.as_str(), task);
    }
}

impl<E> Grouping<E> {
    /// Counts what has happened on a node, or would.
    pub fn count(&mut self, reason: FailureReason, message: &str, node: &str, example: E) {
        let shape = shape(message, node);
        let cause = name(reason, &shape);
        if let Some(group) = self.found.get_mut(&cause) {
            group.count += 1;
        } else if self.found.len() < MAX_GROUPS {
            let group = Group { cause: cause.clone(), reason, shape, count: 1, example };
            self.found.insert(cause, group);
        } else {
            self.others += 1;
        }
    }

    /// What was gathered, the most frequent first.
    #[must_use]
    pub fn finish(self) -> Groups<E> {
        let mut groups: Vec<Group<E>> = self.found.into_values().collect();
        groups.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.cause.cmp(&b.cause)));
        Groups { groups, others: self.others }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::failure::Failure;
    use crate::name::{JobId, NodeName};
    use crate::task::TaskState;

    fn task(node: &str, reason: FailureReason, message: &str) -> Task {
        Task {
            job: JobId::parse("01arz3ndektsv4rrffq69g5fav").unwrap(),
            node: NodeName::parse(node).unwrap(),
            attempt: 1,
            spec_revision: 1,
            state: TaskState::Failed,
            pull: None,
            pull_start: None,
            failure: Some(Failure::new(reason, message, TaskState::Checking)),
            cancel_requested: false,
            absent_time: None,
            assign_time: None,
            update_time: Timestamp::UNIX_EPOCH,
            end_time: None,
            version: 1,
            history: Vec::new(),
        }
    }

    #[test]
    fn what_differs_from_node_to_node_does_not_count() {
        for (message, expected) in [
            ("The node berlin was deleted.", "The node … was deleted."),
            ("Port 8080/tcp on 10.0.0.7 is in use by process 4711.", "Port … on … is in use by process …"),
            (
                "Instance 0 ended with exit code 139, at the last of 3 starts.",
                "Instance … ended with exit code 139, at the last of … starts.",
            ),
            ("The disk has 5 GiB 17 MiB left.", "The disk has … GiB … MiB left."),
            ("berlin is no word after that of a node.", "berlin is no word after that of a node."),
            ("a1 b2  c3", "…"),
            ("", ""),
        ] {
            assert_eq!(shape(message, "berlin"), expected);
        }
    }

    #[test]
    fn failures_are_counted_by_cause_and_found_again() {
        let (busy, exited) = (FailureReason::PortInUse, FailureReason::ContainerExited);
        let tasks = [
            task("a", exited, "it ended with exit code 1"),
            task("b", busy, "port 80 on 10.0.0.1 is taken"),
            task("c", busy, "port 80 on 10.0.0.2 is taken"),
            task("d", exited, "it ended with exit code 2"),
            task("e", FailureReason::RuntimeError, "port 80 on 10.0.0.3 is taken"),
            Task { failure: None, ..task("f", busy, "") },
        ];
        let mut grouping = Grouping::default();
        tasks.iter().cloned().for_each(|task| grouping.add(task));
        let found = grouping.finish();
        assert_eq!((found.groups.len(), found.others), (4, 0));
        assert_eq!((found.groups[0].count, found.groups[0].example.node.as_str()), (2, "b"));
        assert_eq!(found.groups[0].shape, "Port … on … is taken.");
        for group in &found.groups {
            let count = tasks.iter().filter(|task| of(task).as_deref() == Some(group.cause.as_str())).count();
            assert_eq!(count, group.count as usize);
        }
    }

    #[test]
    fn causes_beyond_the_limit_are_counted_together() {
        let mut grouping = Grouping::default();
        for number in 0..MAX_GROUPS + 5 {
            let letters: String = number.to_string().bytes().map(|digit| char::from(digit + 49)).collect();
            grouping.add(task("a", FailureReason::RuntimeError, &letters));
        }
        let found = grouping.finish();
        assert_eq!((found.groups.len(), found.others), (MAX_GROUPS, 5));
    }
}
