//! The built program: what it says and how it exits.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::{Command, Output};

fn server(data_dir: &Path, command: &str, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_longshore-server"))
        .arg(command)
        .arg("--data-dir")
        .arg(data_dir)
        .args(args)
        .env_clear()
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn every_mistake_is_named_before_anything_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let output = server(dir.path(), "run", &["--api-listen", "here", "--agent-listen", "there", "--log", "a=b=c"]);
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    for mistake in ["4 mistakes", "--log", "\"here\"", "\"there\"", "longshore-server init"] {
        assert!(text.contains(mistake), "{mistake} is not in: {text}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn init_works_once() {
    let dir = tempfile::tempdir().unwrap();
    let output = server(dir.path(), "init", &["--san", "longshore.example", "--log-format", "json"]);
    assert!(output.status.success(), "{}", said(&output));
    for line in said(&output).lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    assert!(!said(&output).contains("PRIVATE"));
    let again = server(dir.path(), "init", &[]);
    assert_eq!(again.status.code(), Some(1));
    assert!(!said(&again).contains('\u{1b}'), "colours are for terminals");
    assert!(said(&again).contains("nothing was changed"), "{}", said(&again));
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(server(dir.path(), "run", &["--port", "1"]).status.code(), Some(2));
}

#[test]
fn the_file_is_read_and_its_mistakes_are_told_with_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("server.yaml");
    let (named, words) = (file.display().to_string(), ["--config", file.to_str().unwrap(), "--api-listen", "here"]);
    std::fs::write(&file, "log: warn\napi-listn: 127.0.0.1:1\nagent-listen: there\n").unwrap();
    for command in ["run", "config"] {
        let output = server(dir.path(), command, &words);
        assert_eq!(output.status.code(), Some(1));
        let text = said(&output);
        let mistakes = [
            format!("{named}:2:1: there is no setting \"api-listn\""),
            format!("{named}:3:1: agent-listen \"there\": not an IP address"),
            "--api-listen \"here\"".to_owned(),
        ];
        for mistake in mistakes {
            assert!(text.contains(&mistake), "{mistake} is not in: {text}");
        }
        assert_eq!(text.contains("longshore-server init"), command == "run", "{text}");
    }
}

#[test]
fn bad_origins_are_told_with_all_other_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("server.yaml");
    std::fs::write(&file, "cors-origin: [\"*\", https://console.example/app, http://console.example]\n").unwrap();
    let config = ["--config", file.to_str().unwrap(), "--api-listen", "here"];
    let text = said(&server(dir.path(), "run", &config));
    let place = format!("{}:1:", file.display());
    let reasons =
        ["\"*\": every page of anybody could act for its visitors", "you mean https://console.example", "use https"];
    for mistake in reasons.iter().chain(&["\"here\"", &place]) {
        assert!(text.contains(mistake), "{mistake} is not in: {text}");
    }
    let good = ["--cors-origin", "https://a.example", "--cors-origin", "http://localhost:5173"];
    let output = server(dir.path(), "config", &good);
    assert!(output.status.success(), "{}", said(&output));
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("cors-origin: [https://a.example, http://localhost:5173]  # --cors-origin"), "{shown}");
}

#[test]
fn the_settings_that_hold_are_shown_with_where_they_come_from() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("server.yaml");
    std::fs::write(&file, "log: warn\nnode-certificate-life: 60d\n").unwrap();
    let output = server(dir.path(), "config", &["--config", file.to_str().unwrap(), "--log", "debug"]);
    assert!(output.status.success(), "{}", said(&output));
    let shown = String::from_utf8(output.stdout).unwrap();
    let expected = [
        "log: debug  # --log".to_owned(),
        format!("node-certificate-life: 60d  # {}:2", file.display()),
        "api-listen: 127.0.0.1:7440  # default".to_owned(),
        format!("data-dir: {}  # --data-dir", dir.path().display()),
    ];
    for line in expected {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in: {shown}");
    }
}
