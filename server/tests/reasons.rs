//! docs/errors.md against the code: each reason that the server can give has a row, each row a reason, and the codes agree.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should say where")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Where a reason is given: the text before its literal. With a code where that stands before it.
const GIVEN_AFTER: [&str; 4] = ["precondition(", "with_reason(", "with_error_info(", "Code::"];

/// Sources without their tests.
fn sources(directory: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !matches!(name, "conformance" | "tests") {
            sources(&path, found);
        } else if name.ends_with(".rs") && !matches!(name, "tests.rs" | "failing_store.rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push(text.split("#[cfg(test)]\n#[allow").next().unwrap().to_owned());
        }
    }
}

/// The reason at the start of this text, if one stands there.
fn reason(text: &str) -> Option<&str> {
    let (literal, _) = text.trim_start().strip_prefix('"')?.split_once('"')?;
    let is_reason = literal.len() > 2 && literal.bytes().all(|c| c.is_ascii_uppercase() || c == b'_');
    is_reason.then_some(literal)
}

/// A code's name as gRPC writes it.
fn screaming(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(c.to_ascii_uppercase());
    }
    text
}

/// Reasons that the code gives, with the code of each where it stands beside it.
fn given() -> BTreeMap<String, Option<String>> {
    let mut texts = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut texts);
    let mut given = BTreeMap::new();
    for text in &texts {
        for marker in GIVEN_AFTER {
            for (at, _) in text.match_indices(marker) {
                let rest = &text[at + marker.len()..];
                let code = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap();
                let (after, code) = match marker {
                    "Code::" => (rest[code.len()..].strip_prefix(','), Some(screaming(code))),
                    "precondition(" => (Some(rest), Some("FAILED_PRECONDITION".to_owned())),
                    _ => (Some(rest), None),
                };
                if let Some(reason) = after.and_then(reason) {
                    let known = given.entry(reason.to_owned()).or_insert(None);
                    *known = code.or(known.take());
                }
            }
        }
        // Composed of a kind of thing.
        for (marker, suffix) in [("NotFound { kind: \"", "NOT_FOUND"), ("AlreadyExists { kind: \"", "ALREADY_EXISTS")] {
            for (at, _) in text.match_indices(marker) {
                let kind = text[at + marker.len()..].split('"').next().unwrap();
                let kind = kind.to_ascii_uppercase().replace(' ', "_");
                given.insert(format!("{kind}_{suffix}"), Some(suffix.to_owned()));
            }
        }
    }
    given
}

/// Rows of the document: reason and code.
fn documented() -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/errors.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let reason = cells[1].trim_matches('`').to_owned();
        assert_eq!(rows.insert(reason, cells[2].to_owned()), None, "twice: {line}");
    }
    rows
}

#[test]
fn the_table_holds_every_reason_and_no_other() {
    let (given, documented) = (given(), documented());
    assert!(given.len() > 30, "the sources are not read as they should be: {given:?}");
    let reasons: BTreeSet<&String> = given.keys().collect();
    let rows: BTreeSet<&String> = documented.keys().collect();
    assert_eq!(reasons.difference(&rows).collect::<Vec<_>>(), Vec::<&&String>::new(), "without a row");
    assert_eq!(rows.difference(&reasons).collect::<Vec<_>>(), Vec::<&&String>::new(), "given nowhere");
    for (reason, code) in given {
        if let Some(code) = code {
            assert_eq!(documented[&reason], code, "the code of {reason}");
        }
    }
}

#[test]
fn the_table_is_sorted() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors.md")).unwrap();
    for section in text.split("\n## ").skip(1) {
        let reasons: Vec<&str> =
            section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        assert!(reasons.is_sorted(), "{reasons:?}");
    }
}
