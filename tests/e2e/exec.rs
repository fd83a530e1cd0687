//! Commands of people inside apps, on real containers.

use std::io::{Read, Write};
use std::process::{ChildStdin, Stdio};

use longshore_proto::v1;
use longshore_tests::client::Client;
use longshore_tests::cluster::Cluster;
use longshore_tests::process::{output, succeed};
use longshore_tests::spec::app;
use longshore_tests::wait;
use serde_json::Value;
use v1::JobState;

async fn deployed(cluster: &Cluster, client: &Client) -> String {
    let job = client.create(app(&cluster.image(), &["serve"]), &["node"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    job.app_name
}

/// Processes of the demo image's program with such a word, which only one test has.
fn processes(word: &str) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.map(|process| std::fs::read(process.path().join("cmdline")).unwrap_or_default())
        .filter(|words| {
            words.starts_with(b"/app\0") && words.split(|byte| *byte == 0).any(|one| one == word.as_bytes())
        })
        .count()
}

/// Target, code, reason and request identifier of the commands in the audit log, oldest first.
fn recorded(cluster: &Cluster) -> Vec<[String; 4]> {
    let filter = "method = \"longshore.v1.AppService/ExecApp\"";
    let list = ["audit", "list", "--order-by", "number", "--filter", filter, "-o", "json"];
    let answer: Value = serde_json::from_str(&succeed(&mut cluster.cli(&list))).unwrap();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let row = |entry: &Value| ["target", "code", "reason", "requestId"].map(|field| text(entry, field));
    answer["entries"].as_array().map(|entries| entries.iter().map(row).collect()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_with_its_streams_and_exit_code_and_is_in_the_audit_log() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let client = cluster.client().await;
    let name = deployed(&cluster, &client).await;
    let exec = |words: &[&str]| output(&mut cluster.cli(&[&["exec", "node", &name, "--"], words].concat()));
    let printed = exec(&["/app", "print", "1", "out", "err"]);
    assert_eq!((printed.stdout.as_slice(), printed.status.code()), (&b"out\n"[..], Some(0)));
    assert!(String::from_utf8_lossy(&printed.stderr).ends_with("err\n"), "{printed:?}");
    assert_eq!(exec(&["/app", "exit", "42"]).status.code(), Some(42));
    let absent = exec(&["/nothing"]);
    assert_eq!(absent.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&absent.stderr).contains("\"/nothing\""), "{absent:?}");

    // Far more than all queues on the way, both ways at once.
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let mut cat = cluster.cli(&["exec", "-i", "node", &name, "--", "/app", "cat"]);
    let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut shown) = (cat.stdin.take().unwrap(), Vec::new());
    let to_send = sent.clone();
    let writing = std::thread::spawn(move || input.write_all(&to_send).unwrap());
    cat.stdout.take().unwrap().read_to_end(&mut shown).unwrap();
    writing.join().unwrap();
    assert!(cat.wait().unwrap().success());
    assert!(shown == sent, "{} bytes of {} came back", shown.len(), sent.len());

    let log = recorded(&cluster);
    let begun = format!("nodes/node/apps/{name}/instances/0 [\"/app\",\"exit\",\"42\"]");
    let find =
        |target: &str| log.iter().find(|entry| entry[0] == target).unwrap_or_else(|| panic!("{target}: {log:?}"));
    let (start, end) = (find(&begun), find(&format!("{begun} ended with exit code 42")));
    assert_eq!(start[1..], ["OK".to_owned(), String::new(), end[3].clone()]);
    assert_eq!(end[1..3], ["OK", ""]);
    succeed(&mut cluster.cli(&["audit", "verify"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_when_the_caller_the_server_or_the_agent_is_killed() {
    let mut cluster = Cluster::start().await;
    let mut node = cluster.node("node").await;
    let client = cluster.client().await;
    let name = deployed(&cluster, &client).await;
    for (time, victim) in [("715517001", "caller"), ("715517002", "server"), ("715517003", "agent")] {
        let mut cli = cluster.cli(&["exec", "-i", "node", &name, "--", "/app", "sleep", time]);
        let mut caller = cli.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait::until("the command", || async { processes(time) == 1 }).await;
        match victim {
            "caller" => caller.kill().unwrap(),
            "server" => cluster.kill_server(),
            _ => node.kill(),
        }
        wait::until("the command's end", || async { processes(time) == 0 }).await;
        let code = caller.wait().unwrap().code();
        match victim {
            "caller" => {
                wait::until("word of the end", || async {
                    let log = recorded(&cluster);
                    log.last().is_some_and(|entry| entry[0].ends_with(" was ended") && entry[2] == "CALLER_GONE")
                })
                .await;
            }
            "server" => {
                assert_eq!(code, Some(8), "it cannot be reached");
                cluster.start_server().await;
                let client = cluster.client().await;
                wait::until("the node's session", || client.is_connected("node")).await;
            }
            _ => assert_eq!(code, Some(8), "the node broke off"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_the_callers() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let client = cluster.client().await;
    let name = deployed(&cluster, &client).await;
    let cli = cluster.cli(&["exec", "-it", "node", &name, "--", "/app", "window"]);
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap());
    let words: Vec<String> = std::iter::once(cli.get_program()).chain(cli.get_args()).map(quoted).collect();
    // It has a terminal of its own, as a person has.
    let line = format!("stty cols 97 rows 31; exec {}", words.join(" "));
    let mut script = std::process::Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    script.envs(cli.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut keys, mut screen) = (script.stdin.take().unwrap(), script.stdout.take().unwrap());
    let mut shown = String::new();
    let mut until = |text: &str, keys: &mut ChildStdin, typed: &[u8]| {
        while !shown.contains(text) {
            keys.write_all(typed).unwrap();
            keys.flush().unwrap();
            let mut buffer = [0; 1024];
            let length = screen.read(&mut buffer).unwrap();
            assert!(length > 0, "{text:?} is not in {shown:?}");
            shown.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    };
    until("97x31", &mut keys, b"\n");
    // Ctrl-C is the command's, which ends well by it.
    keys.write_all(b"\x03").unwrap();
    keys.flush().unwrap();
    assert_eq!(tokio::task::spawn_blocking(move || script.wait()).await.unwrap().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_and_what_is_not_there_is_refused_with_the_reason() {
    let cluster = Cluster::start().await;
    let mut node = cluster.node("node").await;
    let client = cluster.client().await;
    let name = deployed(&cluster, &client).await;
    let vic = cluster.directory().join("vic");
    succeed(&mut cluster.cli(&["user", "create", "vic", "--role", "viewer", "--out", vic.to_str().unwrap()]));
    let refused = |words: &[&str]| {
        let found = output(&mut cluster.cli(&[&["exec"], words, &["--", "/app", "exit", "0"]].concat()));
        (found.status.code(), String::from_utf8_lossy(&found.stderr).into_owned())
    };
    let mut as_vic = cluster.cli(&["exec", "node", &name, "--", "/app", "exit", "0"]);
    assert_eq!(output(as_vic.env("LONGSHORE_CREDENTIALS", &vic)).status.code(), Some(7));
    for (words, code, text) in [
        (&["nowhere", &name][..], 6, "nowhere"),
        (&["node", "nothing-abcd"], 6, "nothing-abcd"),
        (&["node", &name, "--instance", "7"], 1, "has no container"),
    ] {
        let (found, said) = refused(words);
        assert!(found == Some(code) && said.contains(text), "{words:?}: {found:?} {said}");
    }
    assert!(node.stop());
    wait::until("the node being away", || async { !client.is_connected("node").await }).await;
    let (code, said) = refused(&["node", &name]);
    assert!(code == Some(8) && said.contains("is not connected"), "{code:?} {said}");
    node.set_arguments(&["--forbid-exec"]);
    node.start();
    wait::until("the node's session", || client.is_connected("node")).await;
    let (code, said) = refused(&["node", &name]);
    assert!(code == Some(1) && said.contains("--forbid-exec"), "{code:?} {said}");
}
