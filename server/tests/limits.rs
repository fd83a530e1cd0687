//! docs/limits.md against the code: each limit has a row with its value and a reason, and each row a limit.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::collections::BTreeMap;
use std::path::Path;

/// Where limits are that somebody can meet.
const SOURCES: [&str; 5] = ["model/src", "server/src", "agent/src", "cli/src", "doctor/src"];
/// How a constant's name begins that is a limit.
const PREFIXES: [&str; 3] = ["MAX_", "MIN_", "DEFAULT_"];

/// A limit: its file and its name.
type Limit = (String, String);

/// Files of Rust below a directory, without those that are tests.
fn sources(root: &Path, directory: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !matches!(name, "conformance" | "tests") {
            sources(root, &path, found);
        } else if name.ends_with(".rs") && !matches!(name, "tests.rs" | "failing_store.rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let file = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.push((file, text.split("\nmod tests {").next().unwrap().to_owned()));
        }
    }
}

/// The product that this says, if it is one of numbers.
fn product(text: &str) -> Option<u64> {
    text.split('*').map(|part| part.trim().replace('_', "").parse::<u64>().ok()).product()
}

/// A value as the page writes it: a number, a time with its unit, or the words of the code where it is neither.
fn written(expression: &str) -> String {
    let expression = expression.split_whitespace().collect::<Vec<_>>().join(" ");
    let time = expression.rsplit_once("Duration::from_").and_then(|(_, call)| {
        let (unit, number) = call.strip_suffix(')')?.split_once('(')?;
        let unit = match unit {
            "millis" => "ms",
            "secs" => "s",
            "mins" => "min",
            "hours" => "h",
            _ => return None,
        };
        Some(format!("{} {unit}", product(number)?))
    });
    let number = || product(&expression).map(|number| number.to_string());
    time.or_else(number).unwrap_or(format!("`{expression}`"))
}

/// Every limit of the code, with its value.
fn limits(root: &Path) -> BTreeMap<Limit, String> {
    let mut files = Vec::new();
    for directory in SOURCES {
        sources(root, &root.join(directory), &mut files);
    }
    let mut limits = BTreeMap::new();
    for (file, text) in files {
        for (at, _) in text.match_indices("const ") {
            let rest = &text[at + "const ".len()..];
            let Some((name, rest)) = rest.split_once(": ") else { continue };
            let is_name = name.bytes().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_');
            let is_text = rest.starts_with('&') || rest.starts_with('[');
            if !is_name || is_text || !PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
                continue;
            }
            let (_, value) = rest.split_once(" = ").unwrap();
            limits.insert((file.clone(), name.to_owned()), written(value.split_once(';').unwrap().0));
        }
    }
    limits
}

/// Every row of the page, with its value; the file is that of the heading above it.
fn rows(page: &str) -> BTreeMap<Limit, String> {
    let (mut file, mut rows) = (String::new(), BTreeMap::new());
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("### `") {
            file = heading.trim_end_matches('`').to_owned();
        } else if let Some(row) = line.strip_prefix("| `") {
            let (name, row) = row.split_once("` | ").unwrap();
            let (value, reason) = row.split_once(" | ").unwrap();
            assert!(reason.len() > " |".len(), "{file}: {name} has no reason");
            let twice = rows.insert((file.clone(), name.to_owned()), value.to_owned());
            assert_eq!(twice, None, "{file}: {name}");
        }
    }
    rows
}

#[test]
fn every_limit_is_on_the_page_with_its_value() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let (limits, rows) = (limits(root), rows(&std::fs::read_to_string(root.join("docs/limits.md")).unwrap()));
    assert!(limits.len() > 100, "the code was looked through");
    let row = |(limit, value): (&Limit, &String)| format!("{}: | `{}` | {value} |", limit.0, limit.1);
    let missing: Vec<String> = limits.iter().filter(|(at, value)| rows.get(*at) != Some(*value)).map(row).collect();
    assert_eq!(missing, Vec::<String>::new(), "not in docs/limits.md as they are in the code");
    let gone: Vec<String> = rows.iter().filter(|(at, _)| !limits.contains_key(*at)).map(row).collect();
    assert_eq!(gone, Vec::<String>::new(), "in docs/limits.md and not in the code");
}

#[test]
fn values_are_read_as_they_are_written() {
    let cases = [
        ("64", "64"),
        ("32 * 1024", "32768"),
        ("100_000", "100000"),
        ("Duration::from_secs(10 * 60)", "600 s"),
        ("std::time::Duration::from_millis(50)", "50 ms"),
        ("SignedDuration::from_hours(24)", "24 h"),
        ("limits::MAX_FULL_SET + 1024", "`limits::MAX_FULL_SET + 1024`"),
    ];
    for (expression, value) in cases {
        assert_eq!(written(expression), value);
    }
}
