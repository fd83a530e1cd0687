//! Commands beside an app's program: as whom they run, and that nothing is left of them.

use std::fs;
use std::time::Duration;

use longshore_agent::runtime::{Command, Launch, Running, Runtime, WindowSize};
use longshore_demo_image::DemoImage;
use longshore_model::secret::Secret;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::conformance::{command, read};
use super::node::{Node, PATIENCE, eventually};

async fn serving(node: &Node, spec: Value) -> Launch {
    let launch = node.launch("a", DemoImage::new(), spec).await;
    node.run(&launch).await.unwrap();
    launch
}

async fn exec(node: &Node, launch: &Launch, command: Command) -> Running {
    node.runtime().exec(&launch.instance, command).await.unwrap()
}

/// What a command prints that ends well.
async fn output(node: &Node, launch: &Launch, words: &[&str]) -> String {
    let running = exec(node, launch, command(words)).await;
    let (stdout, stderr, code) = read(running).await;
    assert_eq!((stderr.as_str(), code), ("", 0), "{words:?}: {stdout}");
    stdout
}

/// Processes of the machine with such a word, which only one test has.
fn processes(word: &str) -> usize {
    let words = |pid: fs::DirEntry| fs::read(pid.path().join("cmdline")).unwrap_or_default();
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter(|pid| pid.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()))
        .map(words)
        .filter(|words| words.split(|byte| *byte == 0).any(|one| one == word.as_bytes()))
        .count()
}

/// A time to sleep for that no other test has.
fn long_time() -> String {
    format!("{}", 100_000_000 + rand::random::<u32>() % 100_000_000)
}

#[tokio::test]
async fn a_command_is_as_confined_as_the_program() {
    let node = Node::new();
    let spec = json!({
        "user": "4000:5000",
        "workingDir": "/srv",
        "capabilities": { "drop": ["CHOWN"] },
        "ulimits": [{ "name": "core", "soft": 0 }],
    });
    let launch = serving(&node, spec).await;
    let of =
        async |process: &str, file: &str| output(&node, &launch, &["cat", &format!("/proc/{process}/{file}")]).await;
    let fields = ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"];
    let pick = |status: String| {
        let lines = status.lines().filter(|line| line.split_once(':').is_some_and(|(name, _)| fields.contains(&name)));
        // Some engines name the first group among the others too.
        lines.map(|line| line.replace("Groups:\t5000", "Groups:").trim().to_owned()).collect::<Vec<_>>()
    };
    let own = pick(of("self", "status").await);
    assert_eq!((own.len(), &own), (fields.len(), &pick(of("1", "status").await)));
    assert_eq!(own[0], "Uid:\t4000\t4000\t4000\t4000");
    assert_eq!(of("self", "limits").await, of("1", "limits").await);
    assert_eq!(of("self", "net/dev").await.lines().count(), of("1", "net/dev").await.lines().count());
    // Relative, and so of the directory that the spec names.
    let made = output(&node, &launch, &["fill", "/tmp/here", "1"]).await;
    assert!(made.contains("wrote 1 bytes"), "{made}");
    node.end().await;
}

#[tokio::test]
async fn a_command_has_the_programs_environment_secrets_included_and_its_own() {
    let node = Node::new();
    let mut launch = node.launch("a", DemoImage::new(), json!({})).await;
    launch.env = vec![("PLAIN".to_owned(), "1".to_owned()), ("REPLACED".to_owned(), "old".to_owned())];
    let has_secrets = !node.lacks().contains(&longshore_model::capability::SECRETS_ENV);
    if has_secrets {
        launch.secret_env = vec![("PASSWORD".to_owned(), Secret::new("hidden".to_owned()))];
    }
    node.run(&launch).await.unwrap();
    let env = vec![("REPLACED".to_owned(), "new".to_owned())];
    let running = exec(&node, &launch, Command { env, ..command(&["cat", "/proc/self/environ"]) }).await;
    let (environment, _, _) = read(running).await;
    let variables: Vec<&str> = environment.split('\0').collect();
    let mut expected = vec!["PLAIN=1", "REPLACED=new"];
    if has_secrets {
        expected.push("PASSWORD=hidden");
    }
    for one in expected {
        assert!(variables.contains(&one), "{one}: {environment}");
    }
    assert!(!variables.contains(&"REPLACED=old"), "{environment}");
    node.end().await;
}

#[tokio::test]
async fn a_command_that_nobody_listens_to_is_killed() {
    let node = Node::new();
    let launch = serving(&node, json!({})).await;
    let time = long_time();
    let running = exec(&node, &launch, command(&["sleep", &time])).await;
    eventually("the command runs", || processes(&time) == 1).await;
    drop(running);
    eventually("the command is gone", || processes(&time) == 0).await;
    // As is one that is given up before it has begun.
    let beginning = node.runtime().exec(&launch.instance, command(&["sleep", &time]));
    let _ = tokio::time::timeout(Duration::from_millis(20), beginning).await;
    eventually("the command is gone", || processes(&time) == 0).await;
    assert!(output(&node, &launch, &["args", "on"]).await.ends_with("on\n"), "the instance takes others");
    node.end().await;
}

#[tokio::test]
async fn a_command_is_killed_when_its_time_is_over_and_what_it_has_started_with_its_end() {
    let node = Node::new();
    let launch = serving(&node, json!({})).await;
    let time = long_time();
    let timeout = Some(Duration::from_millis(500));
    let running = exec(&node, &launch, Command { timeout, ..command(&["sleep", &time]) }).await;
    let (_, _, code) = read(running).await;
    assert_eq!((code, processes(&time)), (137, 0));
    // Its output stays open with whom it leaves behind, until that is killed.
    let left = long_time();
    let (stdout, _, code) = read(exec(&node, &launch, command(&["orphan", &left])).await).await;
    assert!(stdout.starts_with("left ") && code == 0, "{stdout}");
    assert_eq!(processes(&left), 0);
    node.end().await;
}

#[tokio::test]
async fn a_command_ends_with_its_container() {
    let node = Node::new();
    let launch = serving(&node, json!({})).await;
    let time = long_time();
    let running = exec(&node, &launch, command(&["sleep", &time])).await;
    node.runtime().stop(&launch.instance, PATIENCE).await.unwrap();
    // Whether its exit code is still told is a matter of moments.
    let _ = tokio::time::timeout(PATIENCE, running.end).await.expect("the command ends");
    eventually("the command is gone", || processes(&time) == 0).await;
    node.end().await;
}

#[tokio::test]
async fn a_command_may_have_a_terminal() {
    let node = Node::new();
    // As a user to whom the terminal has to belong.
    let launch = serving(&node, json!({ "user": "4000" })).await;
    let terminal = Some(WindowSize { columns: 132, rows: 43 });
    let whole = Command { terminal, stdin: true, ..command(&["window"]) };
    let Running { stdin, mut stdout, resize, end, .. } = exec(&node, &launch, whole).await;
    let (mut stdin, resize) = (stdin.unwrap(), resize.unwrap());
    let mut shown = String::new();
    // Asks until that is the answer: an engine may learn of the size after the program has begun.
    let mut until = async |text: &str| {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !shown.contains(text) {
            assert!(tokio::time::Instant::now() < deadline, "{text:?} is not in {shown:?}");
            stdin.write_all(b"ask\n").await.unwrap();
            let mut buffer = [0; 1024];
            if let Ok(read) = tokio::time::timeout(Duration::from_millis(200), stdout.read(&mut buffer)).await {
                let length = read.unwrap();
                assert!(length > 0, "{text:?} is not in {shown:?}");
                shown.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
            }
        }
        shown.clear();
    };
    until("132x43\r\n").await;
    resize(WindowSize { columns: 80, rows: 25 }).await;
    until("80x25\r\n").await;
    // Ctrl-C, which the terminal makes a signal of.
    stdin.write_all(b"\x03").await.unwrap();
    let code = tokio::time::timeout(PATIENCE, end).await.expect("the command ends").unwrap();
    assert_eq!(code, 0, "the program ends so by SIGINT");
    node.end().await;
}

#[tokio::test]
async fn output_waits_for_its_reader_and_input_for_the_command() {
    let node = Node::new();
    let launch = serving(&node, json!({})).await;
    let Running { stdin, mut stdout, end, .. } =
        exec(&node, &launch, Command { stdin: true, ..command(&["cat"]) }).await;
    let mut stdin = stdin.unwrap();
    let piece = vec![b'x'; 64 * 1024];
    // Far more than all buffers on the way: somebody has to wait for us.
    let mut written = 0;
    while tokio::time::timeout(Duration::from_millis(500), stdin.write_all(&piece)).await.is_ok() {
        written += piece.len();
        assert!(written < 64 * 1024 * 1024, "nobody waits for the reader");
    }
    let read = tokio::spawn(async move {
        let mut all = Vec::new();
        stdout.read_to_end(&mut all).await.unwrap();
        all.len()
    });
    stdin.write_all(b"end").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    assert_eq!(tokio::time::timeout(PATIENCE, end).await.expect("the command ends").unwrap(), 0);
    assert!(read.await.unwrap() >= written, "all that was written comes back");
    node.end().await;
}
