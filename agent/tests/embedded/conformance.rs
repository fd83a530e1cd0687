//! What every runtime promises, held against each of them: the contract of [`Runtime`], method by method.

use std::time::Duration;

use futures::StreamExt;
use longshore_agent::runtime::{
    Command, Found, FoundState, InstanceKey, Launch, LogQuery, Running, Runtime, Selection,
};
use longshore_demo_image::DemoImage;
use longshore_model::health::Answer;
use longshore_model::name::AppName;
use longshore_model::probe::Probe;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::node::{Node, PATIENCE};

/// What the program of a container does.
#[derive(Clone, Copy)]
pub enum Does {
    /// Runs until it is asked to end.
    Stays,
    /// Writes a line and ends with 0.
    Prints,
    /// Ends with 3.
    Fails,
}

/// A runtime under test.
pub trait Bench: Sized {
    fn new() -> Self;
    fn runtime(&self) -> &dyn Runtime;
    /// A launch of an instance's first run, its image pulled.
    async fn launch(&self, app: &str, does: Does) -> Launch;
    /// Fails the test if anything is left.
    async fn end(self);

    async fn started(&self, app: &str, does: Does) -> Launch {
        let launch = self.launch(app, does).await;
        self.runtime().create(&launch).await.unwrap();
        self.runtime().start(&launch.instance).await.unwrap();
        launch
    }

    async fn found(&self, instance: &InstanceKey) -> Option<Found> {
        self.runtime().list().await.unwrap().into_iter().find(|found| found.instance == *instance)
    }

    async fn lines(&self, instance: &InstanceKey, tail: Option<u32>) -> Option<usize> {
        let wanted = Selection { tail, ..Selection::default() };
        let query = LogQuery { instance: instance.clone(), wanted };
        match self.runtime().logs(query).await.unwrap() {
            Some(lines) => Some(lines.count().await),
            None => None,
        }
    }
}

impl Bench for Node {
    fn new() -> Self {
        Node::new()
    }

    fn runtime(&self) -> &dyn Runtime {
        self.runtime()
    }

    async fn launch(&self, app: &str, does: Does) -> Launch {
        let image = match does {
            Does::Stays => DemoImage::new(),
            Does::Prints => DemoImage::new().cmd(&["print", "1", "x"]),
            Does::Fails => DemoImage::new().cmd(&["exit", "3"]),
        };
        Launch { run: 1, ..self.launch(app, image, json!({})).await }
    }

    async fn end(self) {
        assert_eq!(self.runtime().list().await.unwrap(), []);
        assert!(self.leftovers().is_empty(), "{:?}", self.leftovers());
        self.end().await;
    }
}

pub fn key(app: &str) -> InstanceKey {
    InstanceKey { app: AppName::parse(app).unwrap(), index: 0 }
}

pub async fn list_knows_a_container_from_its_making_to_its_deletion(bench: impl Bench) {
    let runtime = bench.runtime();
    assert_eq!(runtime.list().await.unwrap(), []);
    let launch = bench.launch("a", Does::Stays).await;
    let key = &launch.instance;
    runtime.create(&launch).await.unwrap();
    let found = bench.found(key).await.unwrap();
    assert_eq!((found.revision, found.run, found.state), (7, 1, FoundState::Created));
    let since = runtime.start(key).await.unwrap();
    assert_eq!(bench.found(key).await.unwrap().state, FoundState::Running(since));
    runtime.stop(key, PATIENCE).await.unwrap();
    let FoundState::Exited(exit) = bench.found(key).await.unwrap().state else { panic!("stop returned too early") };
    assert_eq!(runtime.wait(key).await.unwrap(), exit);
    runtime.delete(key).await.unwrap();
    bench.end().await;
}

pub async fn an_end_is_told_to_all_who_wait_before_and_after_it(bench: impl Bench) {
    let runtime = bench.runtime();
    let launch = bench.started("a", Does::Stays).await;
    let key = &launch.instance;
    let stop = async { runtime.stop(key, PATIENCE).await.unwrap() };
    let (first, second, ()) = tokio::join!(runtime.wait(key), runtime.wait(key), stop);
    assert_eq!(first.clone().unwrap(), second.unwrap());
    assert_eq!(runtime.wait(key).await.unwrap(), first.unwrap());
    runtime.delete(key).await.unwrap();

    let launch = bench.started("b", Does::Fails).await;
    let exit = runtime.wait(&launch.instance).await.unwrap();
    assert_eq!((exit.code, exit.out_of_memory), (3, false));
    runtime.delete(&launch.instance).await.unwrap();
    bench.end().await;
}

pub async fn what_removes_may_be_called_again_and_for_what_never_was(bench: impl Bench) {
    let runtime = bench.runtime();
    let never = key("never");
    runtime.stop(&never, PATIENCE).await.unwrap();
    runtime.delete(&never).await.unwrap();
    runtime.remove_app(&never.app).await.unwrap();
    let launch = bench.started("a", Does::Fails).await;
    let key = &launch.instance;
    runtime.wait(key).await.unwrap();
    for _ in 0..2 {
        runtime.stop(key, PATIENCE).await.unwrap();
    }
    for _ in 0..2 {
        runtime.delete(key).await.unwrap();
    }
    for _ in 0..2 {
        runtime.remove_app(&key.app).await.unwrap();
    }
    bench.end().await;
}

pub async fn what_is_not_there_cannot_be_started_or_waited_for(bench: impl Bench) {
    let runtime = bench.runtime();
    runtime.start(&key("never")).await.unwrap_err();
    runtime.wait(&key("never")).await.unwrap_err();
    bench.end().await;
}

pub async fn a_second_start_is_answered_like_the_first(bench: impl Bench) {
    let runtime = bench.runtime();
    let launch = bench.launch("a", Does::Stays).await;
    runtime.create(&launch).await.unwrap();
    let since = runtime.start(&launch.instance).await.unwrap();
    assert_eq!(runtime.start(&launch.instance).await.unwrap(), since);
    assert_eq!(bench.found(&launch.instance).await.unwrap().state, FoundState::Running(since));
    runtime.delete(&launch.instance).await.unwrap();
    bench.end().await;
}

pub async fn a_container_is_not_made_twice(bench: impl Bench) {
    let runtime = bench.runtime();
    let launch = bench.started("a", Does::Stays).await;
    let before = bench.found(&launch.instance).await;
    runtime.create(&launch).await.unwrap_err();
    assert_eq!(bench.found(&launch.instance).await, before, "the one that is there is not touched");
    runtime.delete(&launch.instance).await.unwrap();
    bench.end().await;
}

pub async fn deletion_kills_what_runs_and_leaves_others_alone(bench: impl Bench) {
    let runtime = bench.runtime();
    let (one, other) = (bench.started("a", Does::Stays).await, bench.started("b", Does::Stays).await);
    let waiting = tokio::time::timeout(PATIENCE, runtime.wait(&one.instance));
    let delete = async { runtime.delete(&one.instance).await.unwrap() };
    let (waited, ()) = tokio::join!(waiting, delete);
    // Whether it still saw the end or found nothing any more is a matter of moments.
    drop(waited.expect("a wait hangs on a container that is gone"));
    assert_eq!(bench.found(&one.instance).await, None);
    assert!(matches!(bench.found(&other.instance).await.unwrap().state, FoundState::Running(_)));
    runtime.delete(&other.instance).await.unwrap();
    bench.end().await;
}

pub async fn a_call_that_is_dropped_leaves_what_delete_removes(bench: impl Bench) {
    let runtime = bench.runtime();
    let mut launch = bench.launch("a", Does::Stays).await;
    let key = launch.instance.clone();
    for after in [0, 1, 2, 5, 10, 20, 40, 80].map(Duration::from_millis) {
        let _ = tokio::time::timeout(after, runtime.create(&launch)).await;
        runtime.delete(&key).await.unwrap();
        assert_eq!(bench.found(&key).await, None, "create dropped after {after:?}");
        launch.run += 1;
        runtime.create(&launch).await.unwrap();
        let _ = tokio::time::timeout(after / 10, runtime.start(&key)).await;
        runtime.delete(&key).await.unwrap();
        assert_eq!(bench.found(&key).await, None, "start dropped after {after:?}");
        launch.run += 1;
    }
    runtime.create(&launch).await.unwrap();
    runtime.start(&key).await.unwrap();
    assert_eq!(bench.found(&key).await.unwrap().run, launch.run);
    runtime.delete(&key).await.unwrap();
    bench.end().await;
}

pub async fn a_probe_is_put_inside_the_instance_and_what_does_not_run_has_no_answer(bench: impl Bench) {
    let runtime = bench.runtime();
    let probe = |action: serde_json::Value| -> Probe { serde_json::from_value(action).unwrap() };
    let served = probe(json!({ "httpGet": { "port": 8080, "path": "/healthz" }, "timeout": "10s" }));
    let connected = probe(json!({ "tcpSocket": { "port": 8080 }, "timeout": "10s" }));
    let refused = probe(json!({ "tcpSocket": { "port": 1 }, "timeout": "10s" }));
    runtime.probe(&key("never"), &served).await.unwrap_err();
    let launch = bench.started("a", Does::Stays).await;
    let key = &launch.instance;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !runtime.probe(key, &served).await.unwrap().passed {
        assert!(tokio::time::Instant::now() < deadline, "the instance never answers");
    }
    assert!(runtime.probe(key, &connected).await.unwrap().passed);
    assert_eq!(runtime.probe(key, &refused).await.unwrap(), Answer::failed("connection refused"));
    runtime.stop(key, PATIENCE).await.unwrap();
    runtime.probe(key, &served).await.unwrap_err();
    runtime.delete(key).await.unwrap();
    bench.end().await;
}

/// A command of the demo image's program, without input.
pub fn command(words: &[&str]) -> Command {
    let args = std::iter::once("/app").chain(words.iter().copied()).map(str::to_owned).collect();
    Command { args, env: Vec::new(), stdin: false, terminal: None, timeout: None }
}

/// All that a command writes to its standard output and error, and its exit code.
pub async fn read(running: Running) -> (String, String, i32) {
    let Running { stdin, mut stdout, mut stderr, end, .. } = running;
    drop(stdin);
    let (mut out, mut err) = (String::new(), String::new());
    let read = async { tokio::join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err), end) };
    let (_, _, code) = tokio::time::timeout(PATIENCE, read).await.expect("the command ends");
    (out, err, code.unwrap())
}

pub async fn a_command_runs_beside_the_program_and_tells_how_it_ends(bench: impl Bench) {
    let runtime = bench.runtime();
    runtime.exec(&key("never"), command(&["exit", "0"])).await.unwrap_err();
    let launch = bench.started("a", Does::Stays).await;
    let key = &launch.instance;
    let printed = read(runtime.exec(key, command(&["print", "1", "out", "err"])).await.unwrap()).await;
    assert_eq!(printed, ("out\n".to_owned(), "err\n".to_owned(), 0));
    assert_eq!(read(runtime.exec(key, command(&["exit", "7"])).await.unwrap()).await.2, 7);
    let mut cat = runtime.exec(key, Command { stdin: true, ..command(&["cat"]) }).await.unwrap();
    let mut input = cat.stdin.take().unwrap();
    input.write_all(b"to and fro").await.unwrap();
    input.shutdown().await.unwrap();
    drop(input);
    assert_eq!(read(cat).await, ("to and fro".to_owned(), String::new(), 0));
    let absent = Command { args: vec!["/no-such-program".to_owned()], ..command(&[]) };
    let (stdout, stderr, code) = read(runtime.exec(key, absent).await.unwrap()).await;
    assert_eq!((stdout.as_str(), code), ("", 127), "{stderr}");
    assert!(stderr.contains("/no-such-program"), "{stderr}");
    let killed = Command { timeout: Some(Duration::from_millis(300)), ..command(&["sleep"]) };
    assert_eq!(read(runtime.exec(key, killed).await.unwrap()).await.2, 137);
    assert!(matches!(bench.found(key).await.unwrap().state, FoundState::Running(_)), "the program does not notice");
    runtime.stop(key, PATIENCE).await.unwrap();
    runtime.exec(key, command(&["exit", "0"])).await.unwrap_err();
    runtime.delete(key).await.unwrap();
    bench.end().await;
}

pub async fn a_probe_may_run_a_command(bench: impl Bench) {
    let runtime = bench.runtime();
    let probe = |words: &[&str], timeout: &str| -> Probe {
        serde_json::from_value(json!({ "exec": { "command": words }, "timeout": timeout })).unwrap()
    };
    let launch = bench.started("a", Does::Stays).await;
    let key = &launch.instance;
    let asked = async |words: &[&str], timeout: &str| runtime.probe(key, &probe(words, timeout)).await.unwrap();
    assert_eq!(asked(&["/app", "exit", "0"], "30s").await, Answer::passed("exit code 0"));
    assert_eq!(asked(&["/app", "exit", "3"], "30s").await, Answer::failed("exit code 3"));
    assert_eq!(asked(&["/app", "print", "1", "all is well"], "30s").await, Answer::passed("exit code 0: all is well"));
    let absent = asked(&["/no-such-program"], "30s").await;
    assert!(!absent.passed && absent.message.starts_with("exit code 127: "), "{absent:?}");
    assert_eq!(asked(&["/app", "sleep"], "300ms").await, Answer::failed("no answer within 300ms"));
    runtime.delete(key).await.unwrap();
    runtime.probe(key, &probe(&["/app", "exit", "0"], "30s")).await.unwrap_err();
    bench.end().await;
}

pub async fn output_outlives_the_container_and_the_app(bench: impl Bench) {
    let runtime = bench.runtime();
    assert_eq!(bench.lines(&key("a"), None).await, None, "no output where there never was any");
    for run in 1..=2 {
        let launch = Launch { run, ..bench.launch("a", Does::Prints).await };
        runtime.create(&launch).await.unwrap();
        runtime.start(&launch.instance).await.unwrap();
        runtime.wait(&launch.instance).await.unwrap();
        runtime.delete(&launch.instance).await.unwrap();
        assert_eq!(bench.lines(&launch.instance, None).await, Some(run as usize), "each run adds to it");
    }
    runtime.remove_app(&key("a").app).await.unwrap();
    assert_eq!(bench.lines(&key("a"), None).await, Some(2), "kept for a while");
    assert_eq!(bench.lines(&key("a"), Some(1)).await, Some(1));
    bench.end().await;
}

/// Holds a bench against every promise.
macro_rules! holds {
    ($bench:ty) => {
        holds! { $bench,
            list_knows_a_container_from_its_making_to_its_deletion
            an_end_is_told_to_all_who_wait_before_and_after_it
            what_removes_may_be_called_again_and_for_what_never_was
            what_is_not_there_cannot_be_started_or_waited_for
            a_second_start_is_answered_like_the_first
            a_container_is_not_made_twice
            deletion_kills_what_runs_and_leaves_others_alone
            a_call_that_is_dropped_leaves_what_delete_removes
            a_probe_is_put_inside_the_instance_and_what_does_not_run_has_no_answer
            a_command_runs_beside_the_program_and_tells_how_it_ends
            a_probe_may_run_a_command
            output_outlives_the_container_and_the_app
        }
    };
    ($bench:ty, $($promise:ident)*) => {
        $(#[tokio::test]
        async fn $promise() {
            super::conformance::$promise(<$bench as super::conformance::Bench>::new()).await;
        })*
    };
}
pub(crate) use holds;
