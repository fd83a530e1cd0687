//! The invariants, each said a second time and independently of the machine.

use longshore_model::app::Desired;
use longshore_model::clock::Clock;
use longshore_model::failure::FailureReason;
use longshore_model::job::{Control, JobState, TaskCounts};
use longshore_model::kind::JobKind;
use longshore_model::limits::MAX_TASK_HISTORY;
use longshore_model::machine::{AppEffect, Receipt, Request, Site};
use longshore_model::task::{Task, TaskClass, TaskState};

use super::{Answer, Event, TIMEOUT, World, is_allowed};

/// What holds at every moment.
pub(super) fn every_state(world: &World) {
    let World { job, tasks, .. } = world;
    let state = job.state();
    assert_eq!(job.counts, TaskCounts::tally(tasks), "the counts are those of the tasks");
    assert_eq!(state, state_of(world), "the state is that of the tasks");
    assert_eq!(job.end_time.is_some(), state.is_final(), "a final job has an end, another none");
    match job.clock {
        Clock::Over => assert!(state.is_final(), "the clock of a {state} job is over"),
        Clock::Paused(left) => {
            assert_eq!(state, JobState::Stopped, "the clock pauses while STOPPED only");
            assert_eq!(left, TIMEOUT - world.spent, "a paused clock keeps what was left");
        }
        Clock::Running(deadline) => {
            assert!(!state.is_at_rest(), "the clock of a {state} job runs");
            assert_eq!(deadline + world.spent, world.now + TIMEOUT, "the deadline follows from the time spent");
        }
    }
    for task in tasks {
        one_task(task);
        // So that nobody has to ask which spec is to be sent.
        let is_open = !task.state.is_end() || task.state == TaskState::Cancelled;
        assert!(task.spec_revision <= job.spec_revision, "{task:?}");
        assert!(!is_open || task.spec_revision == job.spec_revision, "what is open is for the newest spec: {task:?}");
    }
    let said = if job.spec_revision == 1 { Vec::new() } else { vec![job.spec_revision.to_string()] };
    assert_eq!(job.spec.args, said, "the newest spec is the job's");
}

fn one_task(task: &Task) {
    let state = task.state;
    assert_eq!(task.failure.is_some(), matches!(state, TaskState::Failed | TaskState::TimedOut), "{task:?}");
    assert_eq!(task.end_time.is_some(), state.is_end(), "{task:?}");
    assert!(task.pull.is_none() || state == TaskState::Pulling, "{task:?}");
    assert_eq!(task.pull_start.is_some(), task.pull.is_some(), "{task:?}");
    if let (Some(start), Some(pull)) = (task.pull_start, task.pull) {
        assert!(
            start.done <= pull.done && start.time <= task.update_time,
            "what came since is no less than nothing: {task:?}"
        );
    }
    assert!(task.history.len() <= MAX_TASK_HISTORY);
    assert!(task.history.iter().all(|event| event.state.is_end()), "only ends are remembered: {task:?}");
    assert!(task.absent_time.is_none() || state.class() == TaskClass::Active, "{task:?}");
    if state == TaskState::Pending {
        assert!(!task.cancel_requested && task.assign_time.is_none(), "{task:?}");
    }
}

/// The fold, from the tasks themselves and in DESIGN's words.
fn state_of(world: &World) -> JobState {
    let is = |class: TaskClass| world.tasks.iter().filter(|task| task.state.class() == class).count();
    let all = world.tasks.len();
    let unfinished = is(TaskClass::Pending) + is(TaskClass::Active) + is(TaskClass::Cancelled);
    if unfinished == 0 {
        return match (is(TaskClass::TimedOut), is(TaskClass::Succeeded)) {
            (1.., _) => JobState::TimedOut,
            (0, good) if good == all => JobState::Succeeded,
            (0, 0) => JobState::Failed,
            _ => JobState::PartiallySucceeded,
        };
    }
    match (world.job.control, is(TaskClass::Active), world.job.start_time) {
        (Control::Stop, 1.., _) => JobState::Stopping,
        (Control::Stop, 0, _) => JobState::Stopped,
        (Control::Run, _, Some(_)) => JobState::Running,
        (Control::Run, _, None) => JobState::Queued,
    }
}

/// What holds from one moment to the next.
pub(super) fn step(before: &World, after: &World, event: &Event, answer: &Answer) {
    let is_same = before.job == after.job && before.tasks == after.tasks;
    assert_eq!(is_same, before.job.version == after.job.version, "the version tells every change: {event:?}");
    assert!(before.job.version <= after.job.version);
    let (from, to) = (before.job.state(), after.job.state());
    if from.is_final() && from != to {
        assert!(matches!(event, Event::Retry | Event::RetryOf { .. }), "{from} became {to} by {event:?}");
    }
    let is_amended = matches!((event, answer), (Event::RetryOf { amended: true, .. }, Answer::Changed(_)));
    let specs = after.job.spec_revision - before.job.spec_revision;
    assert_eq!(specs, u32::from(is_amended), "a spec comes with a retry alone: {event:?}");
    for (old, new) in before.tasks.iter().zip(&after.tasks) {
        one_step(old, new, event);
        assert_eq!(old.node, new.node, "a task stays with its node");
        assert!(new.version <= after.job.version);
        if old == new {
            continue;
        }
        assert!(new.version > before.job.version, "the version tells every change of a task: {event:?}");
    }
    match event {
        Event::Assign(index, site) => assigned(before, after, *index, *site, answer),
        Event::RefuseFor(index) => refused_for(before, after, *index, answer),
        Event::Report { task, attempts_ago, .. } => reported(before, after, *task, *attempts_ago, answer),
        Event::Stop { cancel } => stopped(before, after, *cancel, answer),
        Event::Resume => again(before, after, Request::Resume, |_| true, answer),
        Event::Retry => again(before, after, Request::Retry, |_| true, answer),
        Event::RetryOf { .. } if *answer == Answer::Nothing => assert!(is_same, "there is nothing to retry"),
        Event::RetryOf { chosen, .. } => {
            again(before, after, Request::Retry, |index| chosen >> index & 1 == 1, answer);
        }
        Event::Deadline => timed_out(before, after, answer),
        Event::DeleteNode(index) => deleted(before, after, *index),
        Event::Wait(_) => assert!(is_same, "time alone changes nothing"),
        Event::Away(index, seconds) => went_away(before, after, *index, *seconds, answer),
        Event::Back(index) => came_back(before, after, *index, answer),
    }
    paced(before, after, event);
}

/// `max_parallel` is kept, except that nodes which come back take places that others have.
fn paced(before: &World, after: &World, event: &Event) {
    let (limit, had, have) = (after.job.rollout.max_parallel as usize, before.occupied(), after.occupied());
    let is_kept = limit == 0 || have <= limit || have <= had || matches!(event, Event::Back(_));
    assert!(is_kept, "{event:?} made {had} tasks {have}, and there are {limit} places");
}

fn went_away(before: &World, after: &World, index: usize, seconds: u64, answer: &Answer) {
    let (old, new) = (&before.tasks[index], &after.tasks[index]);
    let is_due = seconds >= before.job.rollout.absent_after.as_secs();
    let is_set_aside = old.state.class() == TaskClass::Active && old.absent_time.is_none() && is_due;
    assert_eq!(*answer, Answer::Waited(is_set_aside));
    if is_set_aside {
        assert_eq!(new.absent_time, Some(before.now - std::time::Duration::from_secs(seconds)));
        unmoved(old, new);
    } else {
        assert_eq!((&before.job, &before.tasks), (&after.job, &after.tasks));
    }
}

fn came_back(before: &World, after: &World, index: usize, answer: &Answer) {
    let (old, new) = (&before.tasks[index], &after.tasks[index]);
    assert_eq!(*answer, Answer::Waited(old.absent_time.is_some()));
    assert_eq!(new.absent_time, None);
    unmoved(old, new);
}

/// A node's absence changes nothing else of its task.
fn unmoved(old: &Task, new: &Task) {
    let Task { absent_time, update_time, version, .. } = new.clone();
    assert_eq!(*new, Task { absent_time, update_time, version, ..old.clone() });
}

fn one_step(old: &Task, new: &Task, event: &Event) {
    let place = |task: &Task| (task.attempt, task.state.rank());
    assert!(place(old) <= place(new), "(attempt, rank) only grows: {old:?} became {new:?} by {event:?}");
    if old.state == TaskState::Succeeded {
        assert_eq!((new.state, new.attempt), (old.state, old.attempt), "a success stays: {event:?}");
    }
    if new.attempt == old.attempt {
        assert_eq!(new.spec_revision, old.spec_revision, "an attempt is for one spec: {event:?}");
    }
    match new.attempt - old.attempt {
        0 if old.state == new.state => {}
        0 => assert!(old.state.arrow(new.state).is_some(), "no arrow from {} to {}", old.state, new.state),
        1 => {
            let begins_anew =
                matches!(event, Event::Resume | Event::Retry | Event::RetryOf { .. } | Event::DeleteNode(_));
            assert!(begins_anew, "{event:?}");
            let reopened = old.state.arrow(TaskState::Pending).is_some();
            assert!(reopened && matches!(new.state, TaskState::Pending | TaskState::Failed), "{old:?} {new:?}");
            let kept = new.history.last().unwrap();
            assert_eq!((kept.attempt, kept.state, kept.late), (old.attempt, old.state, false), "the past is kept");
        }
        more => panic!("{more} attempts at once by {event:?}"),
    }
}

fn assigned(before: &World, after: &World, index: usize, site: Site, answer: &Answer) {
    let state = before.job.state();
    match answer {
        Answer::Assigned(Some(effect)) => {
            let expected = match (before.job.kind, site.app, site.is_able) {
                (JobKind::Deploy, ..) | (JobKind::Update, Some(Desired::Present), true) | (JobKind::Pull, _, true) => {
                    (AppEffect::Deploy, TaskState::Assigned)
                }
                (JobKind::Update | JobKind::Pull, ..) => (AppEffect::None, TaskState::Failed),
                (JobKind::Remove, Some(_), _) => (AppEffect::Remove, TaskState::Assigned),
                (JobKind::Remove, None, _) => (AppEffect::None, TaskState::Succeeded),
            };
            assert_eq!((*effect, after.tasks[index].state), expected);
            assert!(matches!(state, JobState::Queued | JobState::Running), "assigned while {state}");
            assert!(!before.job.clock.has_passed(before.now), "assigned after the deadline");
            assert_eq!(before.tasks[index].state, TaskState::Pending);
        }
        _ => assert_eq!((&before.job, &before.tasks), (&after.job, &after.tasks)),
    }
}

fn refused_for(before: &World, after: &World, index: usize, answer: &Answer) {
    let state = before.job.state();
    if *answer == Answer::NodeRefused(true) {
        assert!(matches!(state, JobState::Queued | JobState::Running), "refused while {state}");
        assert!(!before.job.clock.has_passed(before.now), "refused after the deadline");
        assert_eq!(before.tasks[index].state, TaskState::Pending);
        assert_ne!(before.job.kind, JobKind::Remove, "whatever is there can be removed");
        let failure = after.tasks[index].failure.as_ref().unwrap();
        assert_eq!((failure.reason, failure.step), (FailureReason::Unsupported, TaskState::Pending));
        assert_eq!(after.tasks[index].state, TaskState::Failed);
    } else {
        assert_eq!((&before.job, &before.tasks), (&after.job, &after.tasks));
    }
}

fn reported(before: &World, after: &World, index: usize, attempts_ago: i64, answer: &Answer) {
    let (old, new) = (&before.tasks[index], &after.tasks[index]);
    let Answer::Received(receipt) = answer else { panic!("{answer:?}") };
    if *receipt != Receipt::Stale && attempts_ago != 0 {
        assert_eq!(*receipt, Receipt::Late, "a report of another attempt never counts");
    }
    match receipt {
        Receipt::Counted(effect) => {
            assert_eq!(old.state.class(), TaskClass::Active);
            let gone = matches!(new.state, TaskState::Failed | TaskState::Cancelled);
            let expected = match before.job.kind {
                JobKind::Deploy | JobKind::Pull if gone => AppEffect::Forget,
                JobKind::Update if gone => AppEffect::GoBack,
                JobKind::Pull if new.state == TaskState::Succeeded => AppEffect::Remove,
                JobKind::Deploy | JobKind::Update | JobKind::Remove | JobKind::Pull => AppEffect::None,
            };
            assert_eq!(*effect, expected);
            assert_ne!(new.state, TaskState::TimedOut, "only the server decides that");
            assert!(new.state != TaskState::Cancelled || old.cancel_requested, "nobody asked for that");
        }
        Receipt::Late => {
            assert!(attempts_ago > 0 || old.state.is_end());
            let unchanged = Task { history: new.history.clone(), version: new.version, ..old.clone() };
            assert_eq!(*new, unchanged, "a late report is history");
            assert!(new.history.last().unwrap().late);
        }
        Receipt::Stale => assert_eq!(old, new),
    }
}

fn stopped(before: &World, after: &World, cancel: bool, answer: &Answer) {
    let asked = if cancel { Request::Cancel } else { Request::Stop };
    let Some(changed) = request(before, after, asked, answer) else { return };
    assert_eq!(after.job.control, Control::Stop);
    assert_eq!(before.states(), after.states(), "a stop moves no task");
    let not_told = |task: &&Task| task.state.class() == TaskClass::Active && !task.cancel_requested;
    let can_be_told = cancel && before.job.kind != JobKind::Remove;
    assert_eq!(changed.len(), if can_be_told { before.tasks.iter().filter(not_told).count() } else { 0 });
    for (index, effect) in changed {
        assert_eq!(effect, AppEffect::Cancel);
        assert!(after.tasks[index].cancel_requested);
    }
}

fn again(before: &World, after: &World, what: Request, is_chosen: impl Fn(usize) -> bool, answer: &Answer) {
    let Some(changed) = request(before, after, what, answer) else { return };
    let redone = |index: usize, task: &Task| match what {
        Request::Retry => is_chosen(index) && task.state != TaskState::Succeeded,
        _ => task.state == TaskState::Cancelled,
    };
    for (index, (old, new)) in before.tasks.iter().zip(&after.tasks).enumerate() {
        assert_eq!(new.attempt - old.attempt, u32::from(redone(index, old)), "exactly these are redone");
        assert_eq!(old != new, changed.iter().any(|(at, _)| *at == index), "every change is told");
        let open = redone(index, old) || old.state == TaskState::Pending;
        let expected = if open && before.gone[index] { TaskState::Failed } else { TaskState::Pending };
        assert_eq!(new.state, if open { expected } else { old.state });
    }
    assert_eq!(after.job.round - before.job.round, u32::from(what == Request::Retry));
}

/// Whether a request was taken, which must follow from the job's state alone.
fn request(before: &World, after: &World, what: Request, answer: &Answer) -> Option<Vec<(usize, AppEffect)>> {
    let allowed = is_allowed(what, before.job.state());
    let Answer::Changed(changed) = answer else {
        assert!(!allowed, "{what:?} was refused while {}", before.job.state());
        assert_eq!((&before.job, &before.tasks), (&after.job, &after.tasks), "a refusal changes nothing");
        return None;
    };
    assert!(allowed, "{what:?} was taken while {}", before.job.state());
    Some(changed.iter().map(|change| (change.index, change.effect)).collect())
}

fn timed_out(before: &World, after: &World, answer: &Answer) {
    let passed = before.job.clock.has_passed(before.now);
    let Answer::Changed(changed) = answer else { panic!("{answer:?}") };
    for (index, (old, new)) in before.tasks.iter().zip(&after.tasks).enumerate() {
        let ends = match old.state.class() {
            TaskClass::Active => passed,
            TaskClass::Pending => passed && before.job.control == Control::Run,
            _ => false,
        };
        assert_eq!(new.state, if ends { TaskState::TimedOut } else { old.state });
        let told = changed.iter().find(|change| change.index == index).map(|change| change.effect);
        let expected = match (before.job.kind, old.state) {
            (_, TaskState::Pending) | (JobKind::Remove, _) => AppEffect::None,
            (JobKind::Deploy | JobKind::Pull, _) => AppEffect::Remove,
            (JobKind::Update, _) => AppEffect::GoBack,
        };
        assert_eq!(told, ends.then_some(expected));
    }
    if passed {
        assert!(after.job.state().is_at_rest(), "the deadline ends a job or leaves it STOPPED");
    }
}

fn deleted(before: &World, after: &World, index: usize) {
    let open = !before.tasks[index].state.is_end() || before.tasks[index].state == TaskState::Cancelled;
    if open {
        assert_eq!(after.tasks[index].state, TaskState::Failed, "the task of a deleted node fails");
    } else {
        assert_eq!((&before.job, &before.tasks), (&after.job, &after.tasks));
    }
}
