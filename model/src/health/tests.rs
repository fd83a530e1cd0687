#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A spec whose probes are asked every 10 s, with these thresholds.
fn spec(successes: u32, failures: u32) -> AppSpec {
    let socket = json!({ "port": 80 });
    serde_json::from_value(json!({
        "name": "a",
        "image": { "reference": "a:1" },
        "livenessProbe": { "tcpSocket": socket, "initialDelay": "5s", "failureThreshold": failures },
        "readinessProbe": { "tcpSocket": socket, "successThreshold": successes, "failureThreshold": failures },
    }))
    .unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn begun(spec: &AppSpec) -> Health {
    Health::begin(spec, at(0), at(0), None)
}

/// Asks and answers at once.
fn answer(health: &mut Health, spec: &AppSpec, kind: Kind, answer: Answer, second: i64) -> bool {
    health.ask(spec, kind, at(second));
    health.hear(spec, kind, answer, at(second), at(second))
}

#[test]
fn answers_in_a_row_turn_readiness() {
    // Thresholds of successes and failures; answers, and whether it is ready after each.
    let table: [(u32, u32, &str, &str); 6] = [
        (1, 3, "+", "y"),
        (1, 3, "--+", "nny"),
        (3, 1, "++-+++", "nnnnny"),
        (1, 3, "+--+---", "yyyyyyn"),
        (2, 2, "++-+--+-++", "nyyyynnnny"),
        (1, 1, "+-+-", "ynyn"),
    ];
    for (successes, failures, answers, expected) in table {
        let spec = spec(successes, failures);
        let mut health = begun(&spec);
        assert!(!health.is_ready(), "nothing is ready before it has been asked");
        let mut seen = String::new();
        for (second, given) in (0..).zip(answers.chars()) {
            let was = health.is_ready();
            let given = if given == '+' { Answer::passed("yes") } else { Answer::failed("no") };
            let turned = answer(&mut health, &spec, Kind::Readiness, given, second);
            assert_eq!(turned, was != health.is_ready());
            seen.push(if health.is_ready() { 'y' } else { 'n' });
            let readiness = health.readiness().unwrap();
            assert!(!turned || readiness.since == at(second));
        }
        assert_eq!(seen, expected, "{successes} {failures} {answers}");
    }
}

#[test]
fn failures_in_a_row_are_a_death_and_nothing_is_asked_after_it() {
    let spec = spec(1, 2);
    let mut health = begun(&spec);
    for (second, given) in [Answer::failed("a"), Answer::passed("b"), Answer::failed("c")].into_iter().enumerate() {
        answer(&mut health, &spec, Kind::Liveness, given, second as i64);
        assert_eq!(health.death(), None);
    }
    assert!(answer(&mut health, &spec, Kind::Liveness, Answer::failed("HTTP\n500"), 3));
    assert_eq!(health.death(), Some("HTTP 500"));
    assert_eq!(health.due(at(1000)), Some(Kind::Readiness));
}

#[test]
fn questions_come_after_the_delay_and_then_once_a_period() {
    let spec = spec(1, 3);
    let mut health = begun(&spec);
    assert_eq!(health.due(at(0)), Some(Kind::Readiness));
    health.ask(&spec, Kind::Readiness, at(0));
    assert_eq!((health.due(at(4)), health.next_due()), (None, Some(at(5))), "an answer is awaited");
    assert_eq!(health.due(at(5)), Some(Kind::Liveness));
    health.ask(&spec, Kind::Liveness, at(5));
    assert_eq!(health.next_due(), None);
    health.hear(&spec, Kind::Readiness, Answer::passed(""), at(6), at(6));
    assert_eq!(health.next_due(), Some(at(10)));
    health.miss(&spec, Kind::Liveness);
    assert_eq!(health.due(at(15)), Some(Kind::Readiness), "the earlier one first");
    assert_eq!(health.death(), None, "what could not be asked says nothing");
}

#[test]
fn a_new_agent_goes_on_with_what_the_last_one_knew() {
    let spec = spec(1, 3);
    let known = Readiness { ready: true, since: at(7), message: "HTTP 200".to_owned() };
    let mut health = Health::begin(&spec, at(0), at(100), Some(&known));
    assert_eq!((health.readiness(), health.next_due()), (Some(&known), Some(at(100))));
    answer(&mut health, &spec, Kind::Readiness, Answer::failed("no"), 100);
    assert!(health.is_ready(), "one failure of three changes nothing");
    let none = AppSpec { liveness_probe: None, readiness_probe: None, ..spec };
    let health = Health::begin(&none, at(0), at(0), Some(&known));
    assert!(health.is_ready() && !health.is_probed());
    assert_eq!((health.readiness(), health.death(), health.next_due()), (None, None, None));
}

#[test]
fn words_that_change_all_the_time_are_told_now_and_then() {
    let spec = spec(1, 3);
    let mut health = begun(&spec);
    let mut told = Vec::new();
    for second in 0..25 {
        answer(&mut health, &spec, Kind::Readiness, Answer::failed(format!("after {second} s")), second);
        told.push(health.readiness().unwrap().message.clone());
    }
    told.dedup();
    assert_eq!(told, ["after 0 s", "after 10 s", "after 20 s"]);
    assert_eq!(Answer::failed("é".repeat(MAX_ANSWER)).message.len(), MAX_ANSWER);
}

proptest! {
    /// Readiness and life are what the last answers in a row say, whatever came before.
    #[test]
    fn only_answers_in_a_row_count(
        (successes, failures) in (1..5u32, 1..5u32),
        answers in proptest::collection::vec(any::<bool>(), 0..40),
    ) {
        let spec = spec(successes, failures);
        let mut health = begun(&spec);
        let mut ready = false;
        for (index, &passed) in answers.iter().enumerate() {
            let given = if passed { Answer::passed("") } else { Answer::failed("") };
            answer(&mut health, &spec, Kind::Readiness, given, index as i64);
            let threshold = if passed { successes } else { failures } as usize;
            let row = answers[..=index].iter().rev().take_while(|other| **other == passed).count();
            if row >= threshold {
                ready = passed;
            }
            prop_assert_eq!(health.is_ready(), ready);
        }
    }

    /// A probe is never put twice at once, never before its delay, and never more often than once a period.
    #[test]
    fn questions_keep_their_distance(steps in proptest::collection::vec((0..30i64, 0..30i64), 1..30)) {
        let spec = spec(1, 100);
        let mut health = begun(&spec);
        let (mut now, mut last) = (0, None::<i64>);
        for (wait, takes) in steps {
            now += wait;
            if health.due(at(now)) != Some(Kind::Liveness) {
                health.ask(&spec, Kind::Readiness, at(now));
                if health.due(at(now)) != Some(Kind::Liveness) {
                    continue;
                }
            }
            prop_assert!(now >= 5 && last.is_none_or(|last| now - last >= 10));
            health.ask(&spec, Kind::Liveness, at(now));
            last = Some(now);
            prop_assert!(health.due(at(now + 1000)) != Some(Kind::Liveness));
            now += takes;
            health.hear(&spec, Kind::Liveness, Answer::passed(""), at(now), at(now));
        }
    }
}
