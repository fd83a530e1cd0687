//! kill -9 at any moment loses nothing that was acknowledged.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;
use crate::store::sorting::Query;

/// Tells the test below to be the child, and where the database is.
const DATABASE: &str = "LONGSHORE_TEST_CRASH_DATABASE";
/// Kills, each after a few more acknowledgements than the one before.
const KILLS: usize = 12;
/// Reports and jobs in flight at once in the child.
const WRITERS: u32 = 16;

/// Writes acknowledged rows without end, one line on standard output for each. Only the test below runs it in earnest.
#[test]
fn child_that_is_killed() {
    let Some(path) = std::env::var_os(DATABASE) else { return };
    let store = Arc::new(SqliteStore::open(path.as_ref(), Arc::new(Recorder::default())).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let first = store.jobs(Query::first(1)).await.unwrap().items.first().map_or(1, |job| {
            let number: u32 = job.id.as_str().parse().unwrap();
            number + 1
        });
        let writers = (0..WRITERS).map(|writer| {
            let store = store.clone();
            async move {
                let mut number = first + writer;
                loop {
                    store.create_job(new_job(number, &["a"], 0)).await.unwrap();
                    acknowledged(number, "created");
                    store.assign(vec![(job_id(number), node_name("a"))], at(1)).await.unwrap();
                    acknowledged(number, "assigned");
                    store
                        .report(&node_name("a"), vec![progress(number, 1, TaskState::Succeeded)], at(2))
                        .await
                        .unwrap();
                    acknowledged(number, "succeeded");
                    number += WRITERS;
                }
            }
        });
        join_all(writers).await;
    });
}

#[allow(clippy::print_stdout, reason = "the pipe to the parent")]
fn acknowledged(number: u32, what: &str) {
    // One write for each line, so that none is half there when the kill comes.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("ack {number} {what}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Lets the child write, kills it after `lines` acknowledgements, and returns all that it gave.
fn killed_after(database: &Database, lines: usize) -> Vec<(u32, String)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::sqlite::tests::crash::child_that_is_killed", "--nocapture", "--test-threads=1"])
        .env(DATABASE, database.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut acknowledgements = Vec::new();
    let reader = BufReader::new(child.stdout.take().unwrap());
    for line in reader.lines() {
        let line = line.unwrap();
        // The test harness writes the test's name in front of the first one.
        let Some((_, rest)) = line.split_once("ack ") else { continue };
        let (number, what) = rest.split_once(' ').unwrap();
        acknowledgements.push((number.parse().unwrap(), what.to_owned()));
        if acknowledgements.len() == lines {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(acknowledgements.len() >= lines, "the child ended by itself");
    acknowledgements
}

#[tokio::test]
async fn nothing_acknowledged_is_lost() {
    let database = Database::new();
    nodes_of(&database.store().0, &["a"]).await;
    let mut acknowledged = 0;
    for kill in 1..=KILLS {
        let acknowledgements = killed_after(&database, 40 + 7 * kill);
        let (store, _) = database.store();
        for (number, what) in acknowledgements {
            let (job, tasks) = store.job_with_tasks(&job_id(number), &Seen::default()).await.unwrap();
            let task = tasks.first().unwrap();
            let least = match what.as_str() {
                "created" => TaskState::Pending,
                "assigned" => TaskState::Assigned,
                _ => TaskState::Succeeded,
            };
            assert!(task.state.rank() >= least.rank(), "{number} {what}: {task:?}");
            let counts = longshore_model::job::TaskCounts::tally(&tasks);
            assert_eq!(job.counts, counts, "job and task are of one commit");
            acknowledged += 1;
        }
        let check: String = rusqlite::Connection::open(database.path())
            .unwrap()
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(check, "ok");
    }
    assert!(acknowledged > KILLS * 40);
}
