//! The tables of `docs/states.md` against the machine, which is walked through every state that it can reach.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]

mod world;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use longshore_model::clock::Clock;
use longshore_model::job::{Control, JobState, TaskCounts, fold};
use longshore_model::kind::{JobKind, Turn};
use longshore_model::machine::{AppEffect, Request, Site};
use longshore_model::task::{Owner, TaskState};
use world::{ABSENT_AFTER, Event, READY, TIMEOUT, World, is_allowed};

const DOCUMENT: &str = include_str!("../../docs/states.md");

/// What decides how a world can go on; numbers that only grow are left out, so that there are finitely many.
type Shape = (Vec<(TaskState, bool, bool, bool)>, bool, bool, u8);

fn shape(world: &World) -> Shape {
    let tasks = world.tasks.iter().zip(&world.gone);
    let clock = match world.job.clock {
        Clock::Running(deadline) if deadline <= world.now => 0,
        Clock::Running(_) => 1,
        Clock::Paused(left) if left.is_zero() => 2,
        Clock::Paused(_) => 3,
        Clock::Over => 4,
    };
    (
        tasks.map(|(task, gone)| (task.state, task.cancel_requested, task.absent_time.is_some(), *gone)).collect(),
        world.job.control == Control::Stop,
        world.job.start_time.is_some(),
        clock,
    )
}

/// Everything that can happen, apart from numbers.
fn events(nodes: usize) -> Vec<Event> {
    let mut events = vec![
        Event::Stop { cancel: false },
        Event::Stop { cancel: true },
        Event::Resume,
        Event::Retry,
        Event::Deadline,
        Event::Wait(TIMEOUT.as_secs()),
    ];
    for task in 0..nodes {
        events.push(Event::Assign(task, READY));
        events.push(Event::Assign(task, Site { app: None, is_able: true }));
        events.push(Event::RefuseFor(task));
        events.push(Event::DeleteNode(task));
        events.push(Event::Away(task, ABSENT_AFTER.as_secs()));
        events.push(Event::Back(task));
        events.extend(TaskState::ALL.map(|state| Event::Report { task, attempts_ago: 0, state, done: 0 }));
    }
    events
}

/// Everything that was seen on the way through all shapes.
#[derive(Default)]
struct Seen {
    jobs: BTreeMap<(&'static str, &'static str), BTreeSet<&'static str>>,
    tasks: BTreeSet<(&'static str, &'static str)>,
    shapes: usize,
}

fn explore(kind: JobKind, nodes: usize, max_parallel: u32, seen: &mut Seen) {
    let start = World::new(kind, nodes, max_parallel);
    let mut known = HashSet::from([shape(&start)]);
    let mut queue = VecDeque::from([start]);
    let events = events(nodes);
    while let Some(world) = queue.pop_front() {
        for event in &events {
            let mut next = world.clone();
            next.apply(event);
            note(&world, &next, event, seen);
            if known.insert(shape(&next)) {
                queue.push_back(next);
            }
        }
    }
    seen.shapes += known.len();
}

fn note(before: &World, after: &World, event: &Event, seen: &mut Seen) {
    let (from, to) = (before.job.state(), after.job.state());
    if from != to {
        seen.jobs.entry((from.as_str(), to.as_str())).or_default().insert(event.cause());
    }
    for (old, new) in before.tasks.iter().zip(&after.tasks) {
        if new.attempt > old.attempt {
            seen.tasks.insert((old.state.as_str(), TaskState::Pending.as_str()));
        } else if old.state != new.state {
            seen.tasks.insert((old.state.as_str(), new.state.as_str()));
        }
    }
}

/// Rows of the table under a heading of the document, without header and rule.
fn table(heading: &str) -> Vec<Vec<String>> {
    let section = DOCUMENT.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
    section.lines().filter(|line| line.starts_with('|')).skip(2).map(cells).collect()
}

fn owner(letter: &str) -> Option<Owner> {
    match letter {
        "" => None,
        "R" => Some(Owner::Reconciler),
        "N" => Some(Owner::Node),
        "C" => Some(Owner::Clock),
        "O" => Some(Owner::Operator),
        other => panic!("{other:?} is no owner"),
    }
}

#[test]
fn the_document_has_the_table_of_every_pair_of_task_states() {
    let rows = table("Tasks: who may change what");
    assert_eq!(rows.len(), TaskState::ALL.len());
    for (row, from) in rows.iter().zip(TaskState::ALL) {
        assert_eq!(row[0], from.as_str());
        assert_eq!(row.len(), 1 + TaskState::ALL.len());
        for (cell, to) in row[1..].iter().zip(TaskState::ALL) {
            assert_eq!(owner(cell), from.arrow(to), "{from} to {to}");
        }
    }
}

#[test]
fn the_document_names_every_state() {
    let names = |heading| table(heading).into_iter().map(|row| row[0].clone()).collect::<Vec<_>>();
    assert_eq!(names("Task states"), TaskState::ALL.map(|state| state.to_string()));
    assert_eq!(names("Job states"), JobState::ALL.map(|state| state.to_string()));
}

#[test]
fn the_document_has_exactly_the_arrows_that_can_happen() {
    let mut seen = Seen::default();
    for kind in JobKind::ALL {
        explore(kind, 1, 0, &mut seen);
        explore(kind, 2, 0, &mut seen);
        explore(kind, 2, 1, &mut seen);
    }
    assert!(seen.shapes > 1000, "the walk went nowhere");

    let found: Vec<String> = seen
        .jobs
        .iter()
        .map(|((from, to), causes)| format!("{from} {to} {}", causes.iter().copied().collect::<Vec<_>>().join(", ")))
        .collect();
    let mut documented: Vec<String> = table("Jobs: every arrow").iter().map(|row| row.join(" ")).collect();
    documented.sort();
    assert_eq!(documented, found);

    let all = TaskState::ALL;
    let arrows: BTreeSet<_> = all
        .iter()
        .flat_map(|from| all.iter().filter(|to| from.arrow(**to).is_some()).map(|to| (from.as_str(), to.as_str())))
        .collect();
    assert_eq!(seen.tasks, arrows, "every arrow of the tasks' table happens, and no other");
}

#[test]
fn the_document_says_what_follows_on_the_node() {
    const TURNS: [(&str, Turn); 6] = [
        ("it is assigned", Turn::Assigned),
        ("it is asked to give up", Turn::CancelRequested),
        ("it succeeds", Turn::Succeeded),
        ("it fails", Turn::Failed),
        ("it is given up", Turn::Cancelled),
        ("its time is over", Turn::TimedOut),
    ];
    let word = |effect| match effect {
        AppEffect::None => "nothing",
        AppEffect::Deploy => "deploy",
        AppEffect::Cancel => "cancel",
        AppEffect::Remove => "remove",
        AppEffect::GoBack => "go back",
        AppEffect::Forget => "forget",
    };
    let expected: Vec<Vec<String>> = TURNS
        .iter()
        .map(|(name, turn)| {
            let effects = JobKind::ALL.iter().map(|kind| word(kind.effect(*turn)).to_owned());
            std::iter::once((*name).to_owned()).chain(effects).collect()
        })
        .collect();
    assert_eq!(table("Kinds of jobs"), expected);
}

#[test]
fn requests_are_allowed_in_their_states_only() {
    for state in JobState::ALL {
        for request in [Request::Stop, Request::Cancel, Request::Resume, Request::Retry] {
            assert_eq!(request.is_allowed_in(state), is_allowed(request, state), "{request:?} in {state}");
        }
    }
    let rows = table("Jobs: what people may ask for");
    for (row, request) in rows.iter().zip([Request::Stop, Request::Cancel, Request::Resume, Request::Retry]) {
        assert_eq!(row[0].to_uppercase(), format!("{request:?}").to_uppercase());
        let documented: BTreeSet<&str> = row[1].split(", ").collect();
        let allowed = JobState::ALL.into_iter().filter(|state| request.is_allowed_in(*state));
        assert_eq!(documented, allowed.map(JobState::as_str).collect());
    }
    assert_eq!(rows.len(), 4);
}

#[test]
fn the_fold_in_rows() {
    use JobState as J;
    // pending, active, succeeded, failed, timed out, cancelled, stop asked for, assigned in this round
    let rows = [
        ([3, 0, 0, 0, 0, 0], false, false, J::Queued),
        ([3, 0, 0, 0, 0, 0], true, false, J::Stopped),
        ([2, 1, 0, 0, 0, 0], false, true, J::Running),
        ([2, 1, 0, 0, 0, 0], true, true, J::Stopping),
        ([2, 0, 1, 0, 0, 0], false, true, J::Running),
        ([2, 0, 1, 0, 0, 0], true, true, J::Stopped),
        ([0, 0, 2, 0, 0, 1], true, true, J::Stopped),
        ([0, 1, 0, 0, 0, 2], true, true, J::Stopping),
        ([0, 0, 3, 0, 0, 0], false, true, J::Succeeded),
        ([0, 0, 3, 0, 0, 0], true, true, J::Succeeded),
        ([0, 0, 2, 1, 0, 0], false, true, J::PartiallySucceeded),
        ([0, 0, 2, 1, 0, 0], true, true, J::PartiallySucceeded),
        ([0, 0, 0, 3, 0, 0], false, true, J::Failed),
        ([0, 0, 0, 3, 0, 0], false, false, J::Failed),
        ([0, 0, 2, 0, 1, 0], false, true, J::TimedOut),
        ([0, 0, 0, 2, 1, 0], true, true, J::TimedOut),
        ([0, 0, 0, 0, 3, 0], false, false, J::TimedOut),
    ];
    for ([pending, active, succeeded, failed, timed_out, cancelled], stop, started, expected) in rows {
        let counts = TaskCounts { pending, active, absent: active, succeeded, failed, timed_out, cancelled };
        let control = if stop { Control::Stop } else { Control::Run };
        assert_eq!(fold(&counts, control, started), expected, "{counts:?} {control:?} {started}");
    }
}
