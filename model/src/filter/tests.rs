#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use proptest::prelude::*;

use super::*;

const FIELDS: [Field; 7] = [
    Field { name: "state", kind: Kind::Word { prefix: "JOB_STATE_", words: &["QUEUED", "RUNNING"] } },
    Field { name: "app_name", kind: Kind::Text },
    Field { name: "info.architecture", kind: Kind::Text },
    Field { name: "end_time", kind: Kind::Time },
    Field { name: "connected", kind: Kind::Flag },
    Field { name: "labels", kind: Kind::Labels },
    Field { name: "info.accelerators.kind", kind: Kind::Texts },
];

fn parse(text: &str) -> Result<Filter, FilterError> {
    Filter::parse(text, &FIELDS)
}

/// Whether a running job, app till-1, of a connected node with two labels, matches.
fn holds(text: &str) -> bool {
    let labels = [("role", "till"), ("example.com/site", "north")];
    let labels: Labels = labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let stocks = ["nvidia.com/gpu", "example.com/npu"].map(|kind| Stock {
        kind: kind.to_owned(),
        model: String::new(),
        count: 1,
        free: 1,
    });
    parse(text).unwrap().matches(|field| match field {
        "state" => Value::Text("RUNNING"),
        "app_name" => Value::Text("till-1"),
        "connected" => Value::Flag(true),
        "labels" => Value::Labels(&labels),
        "info.accelerators.kind" => Value::Stocks(&stocks, |stock| &stock.kind),
        "end_time" => Value::Time("2026-01-31T12:00:00Z".parse().unwrap()),
        _ => Value::Unset,
    })
}

#[test]
fn every_form_means_what_it_says() {
    let true_ones = [
        "",
        "  ",
        "state = RUNNING",
        "state=JOB_STATE_RUNNING",
        "state!=QUEUED",
        "app_name = till-1",
        "app_name = 'till-1'",
        r#"app_name = "till-*""#,
        "app_name = *-1",
        "app_name = *ill*",
        "app_name != tilt*",
        "end_time > 2026-01-31T11:59:59Z",
        r#"end_time >= "2026-01-31T12:00:00Z""#,
        "end_time <= 2026-01-31T13:00:00+01:00",
        "end_time = 2026-01-31T12:00:00Z",
        "end_time:*",
        "connected = true",
        "connected != false",
        "labels.role = till",
        "info.accelerators.kind = nvidia.com/gpu",
        "info.accelerators.kind:example.com/*",
        "info.accelerators.kind != amd.com/gpu",
        "NOT info.accelerators.kind = amd*",
        "NOT info.accelerators.kind != nvidia*",
        "labels:role",
        "NOT labels:absent",
        "labels.absent != till",
        "labels.example.com/site = north",
        r#"labels."example.com/site" = n*"#,
        "labels:example.com/site",
        "info.architecture != amd64",
        "state = RUNNING AND connected = true AND labels.role = till",
        "state = QUEUED OR connected = true",
        "state = QUEUED OR (connected = true AND NOT app_name = x)",
        "NOT (state = QUEUED AND connected = true)",
        "NOT NOT state = RUNNING",
        "(((state = RUNNING)))",
        "(state=RUNNING)AND(connected=true)",
    ];
    for text in true_ones {
        assert!(holds(text), "{text}");
    }
    let false_ones = [
        "state = QUEUED",
        "NOT state = RUNNING",
        "app_name = till",
        "app_name = Till-1",
        "end_time < 2026-01-31T12:00:00Z",
        "end_time != 2026-01-31T12:00:00Z",
        "connected = false",
        "labels.role = gateway",
        "labels.absent = ''",
        "labels:absent",
        "info.architecture = amd64",
        "info.architecture = *",
        "state = RUNNING AND connected = false",
        "state = QUEUED OR connected = false",
    ];
    for text in false_ones {
        assert!(!holds(text), "{text}");
    }
}

#[test]
fn errors_say_where_and_what() {
    let known = "state, app_name, info.architecture, end_time, connected, labels, info.accelerators.kind";
    let errors = [
        ("stat = RUNNING", format!("at position 1: there is no field \"stat\" to filter by; there are {known}")),
        (
            "state = RUNNING AND info = x",
            format!("at position 21: there is no field \"info\" to filter by; there are {known}"),
        ),
        ("state", "at position 6: expected one of = != < <= > >= :, found the end".to_owned()),
        ("state =", "at position 8: expected a value, found the end".to_owned()),
        ("state = )", "at position 9: expected a value, found ')'".to_owned()),
        ("state = DONE", "at position 9: \"DONE\" is not one of QUEUED, RUNNING".to_owned()),
        ("state > QUEUED", "at position 7: state cannot be compared by '>'".to_owned()),
        ("app_name:x", "at position 9: app_name cannot be compared by ':'".to_owned()),
        ("connected = yes", "at position 13: \"yes\" is not true or false".to_owned()),
        (
            "end_time > yesterday",
            "at position 12: \"yesterday\" is not a moment such as \"2026-01-31T12:00:00Z\"".to_owned(),
        ),
        ("labels = x", "at position 8: expected '.' and a label key, or ':' and one, found '='".to_owned()),
        ("labels.role > x", "at position 13: labels cannot be compared by '>'".to_owned()),
        ("labels:-", "at position 8: \"-\" is not a label key".to_owned()),
        ("app_name = 'é", "at position 12: the string has no end".to_owned()),
        ("app_name = é é", "at position 14: expected AND, OR or the end, found \"é\"".to_owned()),
        ("(state = RUNNING", "at position 17: expected AND, OR or ')', found the end".to_owned()),
        ("state = RUNNING AND", "at position 20: expected a field, found the end".to_owned()),
        ("'state' = RUNNING", "at position 1: expected a field, found \"state\"".to_owned()),
        (
            "connected = true AND connected = true OR state = RUNNING",
            "at position 39: AND and OR are mixed; parentheses must say what belongs together".to_owned(),
        ),
    ];
    for (text, message) in errors {
        assert_eq!(parse(text).unwrap_err().to_string(), message, "{text}");
    }
    assert!(matches!(parse("labels.- = x"), Err(FilterError::BadValue { position: 1, .. })));
    assert_eq!(parse(&"x".repeat(5000)), Err(FilterError::TooLong(5000)));
    let nest = |depth| format!("{}state = RUNNING{}", "(".repeat(depth), ")".repeat(depth));
    assert!(parse(&nest(MAX_DEPTH)).is_ok());
    assert_eq!(parse(&nest(MAX_DEPTH + 1)), Err(FilterError::TooDeep(MAX_DEPTH + 2)));
    assert!(matches!(parse(&"NOT ".repeat(1000)), Err(FilterError::TooDeep(_))));
}

proptest! {
    #[test]
    fn no_text_is_a_panic(text in r#"[a-z =!<>:().'"\\é]{0,40}|(state|labels|AND|OR|NOT|=|:|\(|\)|\.| |RUNNING){0,12}|.*"#) {
        let _ = parse(&text);
    }

    #[test]
    fn de_morgan(left in "(state = RUNNING|connected = false)", right in "(labels:role|app_name = x)") {
        let negated = holds(&format!("NOT ({left} AND {right})"));
        prop_assert_eq!(negated, holds(&format!("(NOT {left}) OR (NOT {right})")));
    }
}
