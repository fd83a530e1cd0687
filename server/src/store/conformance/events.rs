//! The history of what happened to apps: what is kept of it, and for how long.

use longshore_model::app::{AppState, AppStatus, InstanceExit, InstanceState, InstanceStatus};
use longshore_model::event::{AppEvent, EventKind};
use longshore_model::failure::{Failure, FailureReason};
use longshore_model::limits::MAX_APP_EVENTS;
use longshore_model::report::{AppReport, TaskReport};
use longshore_model::task::TaskState;

use super::{Bed, Factory, TIMEOUT, app_name, app_report, at, job_id, new_update, node_name, progress, session_id};
use crate::store::sorting::Query;
use crate::store::{EventsOf, JobRequest, NodeReport, Terms};

/// What a node says of revision `revision` of `web-1`, whose only instance was started so often and ended with these codes.
fn status(revision: u64, state: InstanceState, starts: u32, exit: Option<(i32, i64)>) -> NodeReport {
    let last_exit = exit.map(|(code, second)| InstanceExit { code, out_of_memory: false, time: at(second) });
    let instance = InstanceStatus {
        index: 0,
        state,
        starts,
        start_time: (starts > 0).then(|| at(i64::from(starts) + revision.cast_signed() * 1000)),
        last_exit,
        last_exit_reason: None,
        readiness: None,
    };
    let whole = if state == InstanceState::BackOff { AppState::BackOff } else { AppState::Running };
    let status = AppStatus { state: whole, instances: vec![instance], ports: Vec::new() };
    NodeReport::App(AppReport { app: app_name("web-1"), revision, attempt: 1, status })
}

/// Job 1 has brought app `web-1` up on these nodes, which have said that it runs.
async fn running(factory: &dyn Factory, nodes: &[&str]) -> Bed {
    let bed = Bed::with_nodes(factory, nodes).await;
    bed.assigned(1, nodes, 0).await;
    for (node, session) in nodes.iter().zip(1..) {
        bed.open_session(node, session).await;
        bed.report(node, progress(1, 1, TaskState::Succeeded), 2).await;
        bed.report(node, status(1, InstanceState::Running, 1, None), 3).await;
    }
    bed.seen.take();
    bed
}

impl Bed {
    async fn events(&self, of: EventsOf) -> Vec<AppEvent> {
        self.store.app_events(of, Query::first(1000)).await.unwrap().items
    }
}

/// One line for each: `a 2 EXITED x3: Ended with exit code 1.`
fn lines(events: &[AppEvent]) -> Vec<String> {
    let line = |event: &AppEvent| {
        let count = if event.what.count == 1 { String::new() } else { format!(" x{}", event.what.count) };
        format!("{} {} {}{count}: {}", event.node, event.number, event.what.kind.as_str(), event.what.message)
    };
    events.iter().map(line).collect()
}

pub(crate) async fn what_happens_again_is_counted(factory: &dyn Factory) {
    let bed = running(factory, &["a"]).await;
    for round in 1..=20u32 {
        let second = i64::from(round) * 10;
        bed.report("a", status(1, InstanceState::BackOff, round, Some((1, second))), second).await;
        bed.report("a", status(1, InstanceState::Running, round + 1, Some((1, second))), second + 5).await;
    }
    let expected = [
        "a 1 STARTED: Started with revision 1.",
        "a 2 EXITED x20: Ended with exit code 1.",
        "a 3 BACK_OFF x20: Its next start is delayed, by more the more often it ends.",
        "a 4 RESTARTED x20: Started again.",
    ];
    let events = bed.events(EventsOf::default()).await;
    assert_eq!(lines(&events), expected);
    let exited = &events[1];
    assert_eq!((exited.first_time, exited.last_time), (at(10), at(200)));
    assert_eq!((exited.what.node_time, exited.what.exit_code, exited.what.instance), (Some(at(200)), Some(1), Some(0)));
    assert_eq!((exited.app.as_str(), exited.what.revision), ("web-1", 1));
    assert!(bed.seen.take().is_empty(), "nobody is told of it");
    drop(bed);
    let bed = Bed::open(factory);
    assert_eq!(bed.events(EventsOf::default()).await, events);
}

pub(crate) async fn what_is_said_again_has_not_happened_again(factory: &dyn Factory) {
    let bed = running(factory, &["a", "b"]).await;
    bed.report("a", status(1, InstanceState::BackOff, 3, Some((1, 9))), 10).await;
    let before = bed.events(EventsOf::default()).await;
    for (round, node) in [(1, "a"), (2, "b"), (3, "a")] {
        bed.store.open_session(&node_name(node), &session_id(10 + round), super::info(), at(20)).await.unwrap();
    }
    bed.report("a", status(1, InstanceState::BackOff, 3, Some((1, 9))), 21).await;
    bed.report("b", status(1, InstanceState::Running, 1, None), 21).await;
    // Of an older deployment, of an app that nobody knows, and of one that is not there.
    bed.report("a", app_report("web-1", 0, 0, AppState::Running), 22).await;
    bed.report("a", app_report("web-9", 1, 1, AppState::Running), 22).await;
    bed.report("a", app_report("web-9", 0, 0, AppState::Removed), 22).await;
    assert_eq!(bed.events(EventsOf::default()).await, before);
}

pub(crate) async fn a_history_has_the_newest_only(factory: &dyn Factory) {
    let bed = running(factory, &["a", "b"]).await;
    let last = u32::try_from(MAX_APP_EVENTS).unwrap() + 20;
    for round in 1..=last {
        let (second, code) = (i64::from(round) * 10, i32::try_from(round).unwrap());
        bed.report("a", status(1, InstanceState::Running, round + 1, Some((code, second))), second).await;
    }
    let events = bed.events(EventsOf { node: Some(node_name("a")), ..EventsOf::default() }).await;
    assert_eq!(events.len(), MAX_APP_EVENTS);
    let again = events.iter().find(|event| event.what.kind == EventKind::Restarted).unwrap();
    assert_eq!((again.number, again.what.count), (3, last), "what goes on is kept, however long ago it began");
    let codes: Vec<i32> = events.iter().filter_map(|event| event.what.exit_code).collect();
    let oldest = i32::try_from(last).unwrap() - i32::try_from(codes.len()).unwrap() + 1;
    assert_eq!(codes, (oldest..).take(codes.len()).collect::<Vec<_>>());
    assert_eq!(bed.events(EventsOf { node: Some(node_name("b")), ..EventsOf::default() }).await.len(), 1);
}

pub(crate) async fn updates_and_their_ends_are_in_the_history(factory: &dyn Factory) {
    let bed = running(factory, &["a"]).await;
    bed.store.create_job(new_update(2, 1, &["a"], 0)).await.unwrap();
    bed.assign_all(10).await;
    bed.report("a", status(2, InstanceState::Running, 1, None), 11).await;
    bed.report("a", status(2, InstanceState::BackOff, 1, Some((3, 12))), 12).await;
    let failure = Failure::new(FailureReason::ContainerExited, "It ended.", TaskState::Settling);
    let report =
        TaskReport { job: job_id(2), attempt: 1, state: TaskState::Failed, pull: None, failure: Some(failure) };
    bed.report("a", NodeReport::Task(report), 13).await;
    // The node tells of the last end together with what it went back to.
    bed.report("a", status(1, InstanceState::Running, 2, Some((3, 13))), 14).await;
    bed.store.remove_app(&app_name("web-1"), None, Terms::default(), at(20)).await.unwrap();
    bed.report("a", app_report("web-1", 1, 1, AppState::Removed), 21).await;
    let (update, kinds) = (job_id(2), |events: &[AppEvent]| {
        events.iter().map(|event| (event.what.kind, event.what.revision)).collect::<Vec<_>>()
    });
    let events = bed.events(EventsOf { app: Some(app_name("web-1")), ..EventsOf::default() }).await;
    let expected = [
        (EventKind::Started, 1),
        (EventKind::Updating, 2),
        (EventKind::Started, 2),
        (EventKind::Exited, 2),
        (EventKind::BackOff, 2),
        (EventKind::WentBack, 1),
        (EventKind::Restarted, 1),
        (EventKind::Removed, 1),
    ];
    assert_eq!(kinds(&events), expected, "it outlives the app: {:?}", lines(&events));
    assert_eq!(events[3].what.count, 2, "the last end is that of the revision that ended");
    assert_eq!(events[1].what.message, format!("Job {update} updates it to revision 2."));
    let back = format!("Back to revision 1, for job {update} did not succeed: It ended.");
    assert_eq!((&events[5].what.message, events[5].what.instance), (&back, None));
}

pub(crate) async fn deployments_without_success_are_in_the_history(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b", "c"]).await;
    bed.assigned(1, &["a", "b", "c"], 0).await;
    let failure = Failure::new(FailureReason::ContainerExited, "It ended.", TaskState::Settling);
    let report =
        TaskReport { job: job_id(1), attempt: 1, state: TaskState::Failed, pull: None, failure: Some(failure) };
    bed.report("a", NodeReport::Task(report), 2).await;
    let stop = JobRequest::Stop { cancel_in_flight: true };
    bed.store.request(&job_id(1), stop, Terms::default(), at(3)).await.unwrap();
    bed.report("b", progress(1, 1, TaskState::Cancelled), 4).await;
    bed.store.pass_deadlines(at(TIMEOUT)).await.unwrap();
    let job = job_id(1);
    let told = lines(&bed.events(EventsOf::default()).await);
    assert_eq!(told[0], format!("a 1 FAILED: Job {job} did not succeed: It ended."));
    assert_eq!(told[1], format!("b 1 FAILED: Job {job} did not succeed: it was cancelled."));
    assert!(told[2].starts_with(&format!("c 1 FAILED: Job {job} did not succeed: ")), "{told:?}");
    assert_eq!(told.len(), 3);
}

pub(crate) async fn events_are_found_by_what_they_are_about(factory: &dyn Factory) {
    let bed = running(factory, &["a", "b"]).await;
    bed.report("a", status(1, InstanceState::BackOff, 1, Some((1, 50))), 50).await;
    let found = async |of: EventsOf| lines(&bed.events(of).await).len();
    let all = EventsOf::default();
    assert_eq!(found(all.clone()).await, 4);
    assert_eq!(found(EventsOf { node: Some(node_name("b")), ..all.clone() }).await, 1);
    assert_eq!(found(EventsOf { app: Some(app_name("web-1")), ..all.clone() }).await, 4);
    assert_eq!(found(EventsOf { app: Some(app_name("web-2")), ..all.clone() }).await, 0);
    assert_eq!(found(EventsOf { instance: Some(0), ..all.clone() }).await, 4);
    assert_eq!(found(EventsOf { instance: Some(1), ..all.clone() }).await, 0);
    assert_eq!(found(EventsOf { since: Some(at(50)), ..all.clone() }).await, 2);
    assert_eq!(found(EventsOf { since: Some(at(51)), ..all.clone() }).await, 0);

    let (mut paged, mut next) = (Vec::new(), Some(Query::first(1)));
    while let Some(query) = next {
        let page = bed.store.app_events(all.clone(), query.clone()).await.unwrap();
        paged.extend(page.items.clone());
        next = query.next(&page);
    }
    assert_eq!(paged, bed.events(all).await);
}

pub(crate) async fn old_events_are_forgotten(factory: &dyn Factory) {
    let bed = running(factory, &["a", "b"]).await;
    bed.report("a", status(1, InstanceState::BackOff, 1, Some((1, 50))), 50).await;
    assert_eq!(bed.store.forget_app_events(at(3)).await.unwrap(), 0);
    assert_eq!(bed.store.forget_app_events(at(50)).await.unwrap(), 2);
    assert_eq!(bed.store.forget_app_events(at(50)).await.unwrap(), 0);
    let left = bed.events(EventsOf::default()).await;
    assert_eq!(left.iter().map(|event| event.number).collect::<Vec<_>>(), [2, 3]);
    bed.report("b", status(1, InstanceState::Running, 2, Some((1, 60))), 60).await;
    bed.store.delete_node(&node_name("a"), Terms::default(), at(70)).await.unwrap();
    let left = bed.events(EventsOf::default()).await;
    assert_eq!(left.iter().map(|event| event.node.as_str()).collect::<Vec<_>>(), ["b", "b"], "it goes with its node");
}
