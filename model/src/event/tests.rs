#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn instance(state: InstanceState, starts: u32) -> InstanceStatus {
    InstanceStatus {
        index: 0,
        state,
        starts,
        start_time: (starts > 0).then(|| at(i64::from(starts))),
        last_exit: None,
        last_exit_reason: None,
        readiness: None,
    }
}

fn ended(instance: InstanceStatus, code: i32, second: i64) -> InstanceStatus {
    let exit = InstanceExit { code, out_of_memory: false, time: at(second) };
    InstanceStatus { last_exit: Some(exit), ..instance }
}

fn ready(instance: InstanceStatus, ready: bool, since: i64, message: &str) -> InstanceStatus {
    let readiness = Readiness { ready, since: at(since), message: message.to_owned() };
    InstanceStatus { readiness: Some(readiness), ..instance }
}

fn app(instances: Vec<InstanceStatus>) -> AppStatus {
    AppStatus { state: AppState::Running, instances, ports: Vec::new() }
}

fn history(events: Vec<AppEvent>) -> History {
    History { app: AppName::parse("till").unwrap(), node: NodeName::parse("shop").unwrap(), events }
}

/// One line for each happening: `RESTARTED x2: Started again.`
fn told(before: &AppStatus, after: &AppStatus) -> Vec<String> {
    let line = |what: &Happening| match what.count {
        1 => format!("{}: {}", what.kind.as_str(), what.message),
        count => format!("{} x{count}: {}", what.kind.as_str(), what.message),
    };
    between(&history(Vec::new()), 7, before, after).iter().map(line).collect()
}

/// What a word is called, the word before it, it, and what lies between.
type Case<'a> = (&'a str, Option<InstanceStatus>, InstanceStatus, &'a [&'a str]);

fn check(cases: &[Case<'_>]) {
    for (what, before, after, expected) in cases {
        let before = app(before.iter().cloned().collect());
        assert_eq!(told(&before, &app(vec![after.clone()])), *expected, "{what}");
    }
}

const STARTED: &str = "STARTED: Started with revision 7.";
const RESTARTED: &str = "RESTARTED: Started again.";
const DELAYED: &str = "BACK_OFF: Its next start is delayed, by more the more often it ends.";
const ENDED: &str = "EXITED: Ended with exit code 1.";

#[test]
fn starts_and_ends_are_told_also_those_between_two_words() {
    use InstanceState::{BackOff, Exited, Running, Waiting};
    let unseen = "EXITED x3: Ended in a way that the server was not told of.";
    check(&[
        ("not started yet", None, instance(Waiting, 0), &[]),
        ("started", Some(instance(Waiting, 0)), instance(Running, 1), &[STARTED]),
        ("started at once", None, instance(Running, 1), &[STARTED]),
        ("nothing new", Some(instance(Running, 1)), instance(Running, 1), &[]),
        ("ended, and waits", Some(instance(Running, 1)), ended(instance(BackOff, 1), 1, 9), &[ENDED, DELAYED]),
        ("again", Some(ended(instance(BackOff, 1), 1, 9)), ended(instance(Running, 2), 1, 9), &[RESTARTED]),
        (
            "ended and started between two words",
            Some(instance(Running, 1)),
            ended(instance(Running, 2), 139, 9),
            &["EXITED: Ended with exit code 139 (SIGSEGV).", RESTARTED],
        ),
        (
            "many ends between two words",
            Some(ended(instance(Running, 2), 1, 3)),
            ended(instance(BackOff, 5), 1, 9),
            &[unseen, "RESTARTED x3: Started again.", ENDED, DELAYED],
        ),
        (
            "another end, seen waiting both times",
            Some(ended(instance(BackOff, 2), 1, 3)),
            ended(instance(BackOff, 3), 1, 9),
            &[RESTARTED, ENDED, DELAYED],
        ),
        ("done", Some(instance(Running, 1)), ended(instance(Exited, 1), 1, 9), &[ENDED]),
    ]);
}

#[test]
fn ends_have_their_reason_and_counting_anew_is_no_start() {
    use InstanceState::{BackOff, Running};
    let out_of_memory = |instance: InstanceStatus| {
        let exit = InstanceExit { code: 137, out_of_memory: true, time: at(9) };
        InstanceStatus { last_exit: Some(exit), ..instance }
    };
    let dead = |instance: InstanceStatus| {
        let reason = Some("liveness probe failed: HTTP 500".to_owned());
        InstanceStatus { last_exit_reason: reason, ..ended(instance, 143, 9) }
    };
    let began = |second, instance: InstanceStatus| InstanceStatus { start_time: Some(at(second)), ..instance };
    let probe = "PROBE_FAILED: Stopped, for its liveness probe failed: HTTP 500; ended with exit code 143 (SIGTERM).";
    check(&[
        (
            "out of memory",
            Some(instance(Running, 1)),
            out_of_memory(instance(Running, 2)),
            &["OUT_OF_MEMORY: Passed its memory limit and was killed: exit code 137 (SIGKILL).", RESTARTED],
        ),
        ("found dead", Some(instance(Running, 1)), dead(instance(BackOff, 1)), &[probe, DELAYED]),
        (
            "a revision whose counting begins anew",
            Some(ended(instance(Running, 4), 1, 3)),
            began(500, ended(instance(Running, 1), 1, 3)),
            &[STARTED],
        ),
        ("the same container, counted anew", Some(instance(Running, 4)), began(4, instance(Running, 1)), &[]),
    ]);
}

#[test]
fn each_turn_of_readiness_is_told_once() {
    let up = || instance(InstanceState::Running, 1);
    let is_ready = || "READY: Ready.".to_owned();
    let not = |answer: &str| format!("NOT_READY: Not ready: {answer}.");
    let cases = [
        ("not asked yet", up(), ready(up(), false, 1, ""), vec![]),
        ("the first answer", ready(up(), false, 1, ""), ready(up(), false, 1, "HTTP 503"), vec![not("HTTP 503")]),
        ("the same", ready(up(), false, 1, "HTTP 503"), ready(up(), false, 1, "HTTP 503"), vec![]),
        ("another answer", ready(up(), false, 1, "HTTP 503"), ready(up(), false, 1, "HTTP 500"), vec![not("HTTP 500")]),
        ("ready", ready(up(), false, 1, "HTTP 503"), ready(up(), true, 5, "HTTP 200"), vec![is_ready()]),
        ("still ready", ready(up(), true, 5, "HTTP 200"), ready(up(), true, 5, "HTTP 204"), vec![]),
        (
            "again, and not seen between",
            ready(up(), true, 5, "HTTP 200"),
            ready(up(), true, 9, "HTTP 200"),
            vec![is_ready()],
        ),
        ("not any more", ready(up(), true, 5, "HTTP 200"), ready(up(), false, 9, "HTTP 404"), vec![not("HTTP 404")]),
        ("down", ready(up(), true, 5, "HTTP 200"), up(), vec![]),
    ];
    for (what, before, after, expected) in cases {
        assert_eq!(told(&app(vec![before]), &app(vec![after])), expected, "{what}");
    }
}

#[test]
fn instances_are_told_apart_and_a_removal_is_the_apps() {
    let second = |state, starts| InstanceStatus { index: 1, ..instance(state, starts) };
    let before = app(vec![instance(InstanceState::Running, 1), second(InstanceState::Running, 1)]);
    let after = app(vec![instance(InstanceState::Running, 1), ended(second(InstanceState::Running, 2), 1, 9)]);
    let events = between(&history(Vec::new()), 2, &before, &after);
    assert_eq!(events.iter().map(|event| event.instance).collect::<Vec<_>>(), [Some(1), Some(1)]);
    assert_eq!((events[0].exit_code, events[0].node_time), (Some(1), Some(at(9))));
    assert!(events.iter().all(|event| event.revision == 2));

    let removed = AppStatus { state: AppState::Removed, ..AppStatus::default() };
    assert_eq!(told(&after, &removed), ["REMOVED: Removed."]);
    assert_eq!(told(&removed, &removed), Vec::<String>::new());
    assert_eq!(told(&AppStatus::default(), &removed), Vec::<String>::new(), "nothing was ever there");
}

#[test]
fn a_sentence_is_one_short_line() {
    let long = format!("HTTP 500 \u{1b}[31m\n{}", "é".repeat(MAX_EVENT_MESSAGE));
    let up = || instance(InstanceState::Running, 1);
    let events = between(&history(Vec::new()), 1, &app(vec![up()]), &app(vec![ready(up(), false, 1, &long)]));
    assert!(events[0].message.len() <= MAX_EVENT_MESSAGE && !events[0].message.contains(char::is_control));
}

fn event(number: u64, message: &str, second: i64) -> AppEvent {
    AppEvent {
        app: AppName::parse("till").unwrap(),
        node: NodeName::parse("shop").unwrap(),
        number,
        what: Happening::new(EventKind::Exited, 1, message),
        first_time: at(second),
        last_time: at(second),
    }
}

#[test]
fn an_end_is_of_the_revision_that_ended() {
    use InstanceState::{BackOff, Running};
    let start = Happening { instance: Some(0), ..Happening::new(EventKind::Started, 5, "Started.") };
    let known = history(vec![AppEvent { what: start, ..event(1, "", 1) }, event(9, "", 2)]);
    let cases = [
        ("the node has gone back meanwhile", instance(Running, 1), ended(instance(BackOff, 1), 3, 9), 5),
        ("and started what it went back to", instance(Running, 1), ended(instance(Running, 2), 3, 9), 5),
        ("started and ended since", ended(instance(BackOff, 1), 3, 8), ended(instance(BackOff, 2), 3, 9), 4),
    ];
    for (what, before, after, expected) in cases {
        let events = between(&known, 4, &app(vec![before.clone()]), &app(vec![after.clone()]));
        let end = events.iter().find(|event| event.kind == EventKind::Exited).unwrap();
        assert_eq!(end.revision, expected, "{what}");
        let events = between(&history(Vec::new()), 4, &app(vec![before]), &app(vec![after]));
        assert!(events.iter().all(|event| event.revision == 4), "{what}: nothing is known of the start");
    }
}

#[test]
fn what_happens_again_soon_is_counted_and_all_else_is_new() {
    let (same, other) = (Happening::new(EventKind::Exited, 1, "a"), Happening::new(EventKind::Exited, 1, "b"));
    let before = || history(vec![event(4, "b", 50), event(2, "a", 100)]);
    let hour = 3600;
    let cases = [(&same, 100, 2), (&same, 100 + hour, 2), (&same, 101 + hour, 5), (&same, 0, 2), (&other, 100, 4)];
    for (what, now, number) in cases {
        let mut history = before();
        let taken = history.take(what.clone(), at(now));
        assert_eq!((taken.event.number, taken.instead_of), (number, None), "{what:?} at {now}");
        let count = if number == 5 { 1 } else { 2 };
        assert_eq!((taken.event.what.count, taken.event.last_time), (count, at(now).max(taken.event.first_time)));
        assert!(history.events.contains(&taken.event));
    }
    let differences = [
        Happening { kind: EventKind::BackOff, ..same.clone() },
        Happening { instance: Some(0), ..same.clone() },
        Happening { revision: 2, ..same.clone() },
        Happening { exit_code: Some(1), ..same.clone() },
        Happening { message: "c".to_owned(), ..same.clone() },
    ];
    for what in differences {
        assert_eq!(before().take(what.clone(), at(100)).event.number, 5, "{what:?}");
    }
    let counted = Happening { count: 9, node_time: Some(at(3)), ..same };
    let taken = before().take(counted.clone(), at(200)).event;
    assert_eq!((taken.what.count, taken.what.node_time), (10, Some(at(3))));
    assert_eq!((taken.first_time, taken.last_time), (at(100), at(200)));
    assert_eq!(history(Vec::new()).take(counted, at(200)).event.number, 1);
}

#[test]
fn a_full_history_loses_what_last_happened_longest_ago() {
    let count = i64::try_from(MAX_APP_EVENTS).unwrap();
    let events = (1..=count).map(|n| event(n.unsigned_abs(), &n.to_string(), 10 * n)).collect();
    let mut history = history(events);
    history.events[0].last_time = at(10 * count + 1);
    let taken = history.take(Happening::new(EventKind::Exited, 1, "new"), at(10 * count + 2));
    assert_eq!((taken.event.number, taken.instead_of), (count.unsigned_abs() + 1, Some(2)));
    assert_eq!(history.events.len(), MAX_APP_EVENTS);
}

fn any_instance() -> impl Strategy<Value = InstanceStatus> {
    let state = prop::sample::select(vec![
        InstanceState::Waiting,
        InstanceState::Running,
        InstanceState::BackOff,
        InstanceState::Exited,
    ]);
    let exit =
        prop::option::of((0..3i32, any::<bool>(), 0..4i64).prop_map(|(code, out_of_memory, second)| InstanceExit {
            code,
            out_of_memory,
            time: at(second),
        }));
    let readiness =
        prop::option::of((any::<bool>(), 0..3i64, "[ab]?").prop_map(|(ready, second, message)| Readiness {
            ready,
            since: at(second),
            message,
        }));
    (0..2u32, state, 0..5u32, prop::option::of((0..4i64).prop_map(at)), exit, readiness).prop_map(
        |(index, state, starts, start_time, last_exit, readiness)| InstanceStatus {
            index,
            state,
            starts,
            start_time,
            last_exit,
            last_exit_reason: None,
            readiness,
        },
    )
}

proptest! {
    /// Whatever nodes say, in whatever order: what did not change tells nothing, and everything told has happened at least once.
    #[test]
    fn what_did_not_change_tells_nothing(one in any_instance(), other in any_instance()) {
        let (one, other) = (app(vec![one]), app(vec![other]));
        prop_assert_eq!(between(&history(Vec::new()), 1, &other, &other), Vec::new());
        for what in between(&history(Vec::new()), 1, &one, &other) {
            prop_assert!(what.count > 0 && !what.message.is_empty());
        }
    }

    /// However much happens, a history stays within its bound, and its numbers only grow.
    #[test]
    fn a_history_stays_bounded(messages in prop::collection::vec(0..300u32, 0..600)) {
        let mut history = history(Vec::new());
        let mut newest = 0;
        for (second, message) in messages.into_iter().enumerate() {
            let what = Happening::new(EventKind::Exited, 1, &message.to_string());
            let taken = history.take(what, at(i64::try_from(second).unwrap()));
            let is_new = taken.event.what.count == 1;
            prop_assert!(!is_new || taken.event.number > newest);
            newest = newest.max(taken.event.number);
            prop_assert!(history.events.len() <= MAX_APP_EVENTS);
        }
    }
}
