//! The conformance suite on SQLite, and what only this store promises.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets the unexpected must fail"
)]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use futures::future::join_all;
use longshore_model::task::TaskState;
use tempfile::TempDir;

use super::{OpenError, SqliteStore, schema};
use crate::store::conformance::{
    self, Bed, Factory, Recorder, at, conformance_suite, enrolling, job_id, lines, new_job, node_name, progress, token,
};
use crate::store::{JobRequest, NewJob, Observer, Seen, Store, StoreError, Terms};

mod crash;

struct Database(TempDir);

impl Database {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("longshore.db")
    }

    fn store(&self) -> (SqliteStore, Arc<Recorder>) {
        let seen = Arc::new(Recorder::default());
        (SqliteStore::open(&self.path(), seen.clone()).unwrap(), seen)
    }
}

impl Factory for Database {
    fn open(&self, observer: Arc<dyn Observer>) -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(&self.path(), observer).unwrap())
    }
}

mod suite {
    use super::*;

    conformance_suite!(Database::new());
}

#[test]
fn histories_agree_with_the_model() {
    conformance::history::histories_agree_with_the_model(Database::new);
}

/// Why the database was not opened.
fn refusal(database: &Database) -> OpenError {
    let Err(StoreError::Database(error)) = SqliteStore::open(&database.path(), Arc::new(Recorder::default())) else {
        panic!("opened")
    };
    *error.downcast::<OpenError>().unwrap()
}

#[test]
fn a_newer_schema_is_refused() {
    let database = Database::new();
    drop(database.store());
    let connection = rusqlite::Connection::open(database.path()).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let refused = refusal(&database);
    assert!(matches!(refused, OpenError::NewerSchema { found: 99, .. }), "{refused:?}");
}

#[test]
fn a_database_has_one_server() {
    let database = Database::new();
    let first = database.store();
    let refused = refusal(&database);
    assert!(matches!(refused, OpenError::InUse(_)), "{refused:?}");
    drop(first);
    database.store();
}

#[test]
fn only_the_owner_reads_the_files() {
    let database = Database::new();
    std::fs::write(database.path(), "").unwrap();
    std::fs::set_permissions(database.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let _store = database.store();
    let mut files = 0;
    for entry in std::fs::read_dir(database.0.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        files += 1;
    }
    assert_eq!(files, 4, "database, WAL, shared memory, lock");
}

#[tokio::test]
async fn a_store_that_is_dropped_leaves_no_log_behind() {
    let database = Database::new();
    let (store, _) = database.store();
    nodes_of(&store, &["a"]).await;
    store.node(&node_name("a")).await.expect("a reader has a connection now");
    drop(store);
    let mut files: Vec<_> =
        std::fs::read_dir(database.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["longshore.db", "longshore.db.lock"]);
}

#[test]
fn commits_reach_the_disk() {
    let database = Database::new();
    let connection = schema::open_writer(&database.path()).unwrap();
    let pragma = |name: &str| -> String {
        connection.pragma_query_value(None, name, |row| row.get_ref(0).map(|value| format!("{value:?}"))).unwrap()
    };
    assert_eq!(pragma("synchronous"), "Integer(2)", "FULL");
    assert_eq!(pragma("foreign_keys"), "Integer(1)");
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

/// Statements whose cost must not grow with what is settled.
#[test]
fn open_work_is_found_by_its_index() {
    let database = Database::new();
    let connection = schema::open_writer(&database.path()).unwrap();
    let plan = |sql: &str| -> String {
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let rows = statement.query_map([], |row| row.get::<_, String>(3)).unwrap();
        rows.map(Result::unwrap).collect::<Vec<_>>().join("; ")
    };
    let cases = [
        ("SELECT node FROM task WHERE job = 1 AND state = 0 ORDER BY node", "INDEX task_pending"),
        ("SELECT key FROM job WHERE control = 0 AND pending > 0 ORDER BY id", "INDEX job_assignable"),
        ("SELECT min(deadline) FROM job WHERE deadline IS NOT NULL", "INDEX job_by_deadline"),
        (
            "SELECT job.id FROM job JOIN task ON task.job = job.key AND task.node = 'a' \
             WHERE job.pending + job.active + job.cancelled > 0 ORDER BY job.id",
            "INDEX job_unfinished",
        ),
        ("SELECT * FROM app WHERE node >= 'a' AND (node, name) > ('a', 'b') ORDER BY node, name", "INDEX app_by_node"),
    ];
    for (sql, index) in cases {
        let plan = plan(sql);
        assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
    }
}

#[test]
fn joins_are_prepared_once() {
    let database = Database::new();
    let connection = schema::open_writer(&database.path()).unwrap();
    let sql = "SELECT app.name, task.state FROM app JOIN job ON job.key = app.job \
               JOIN task ON task.job = app.job AND task.node = app.node WHERE app.node = ?1 AND app.desired = 0";
    for node in ["a", "b", "c"] {
        let mut join = connection.prepare_cached(sql).unwrap();
        assert!(!join.exists([node]).unwrap());
        assert_eq!(join.get_status(rusqlite::StatementStatus::RePrepare), 0);
    }
}

/// Keeps the writer busy until the sender is used, so that what is queued meanwhile shares one batch.
async fn hold(store: &SqliteStore) -> mpsc::SyncSender<()> {
    let (release, held) = mpsc::sync_channel(1);
    let (tell_started, started) = tokio::sync::oneshot::channel();
    let mut write = Box::pin(store.writer.write(move |_| {
        tell_started.send(()).unwrap();
        held.recv().unwrap();
        Ok(())
    }));
    assert!(futures::poll!(&mut write).is_pending());
    started.await.unwrap();
    release
}

async fn nodes_of(store: &SqliteStore, names: &[&str]) {
    for name in names {
        store.create_token(token(name, at(1000))).await.unwrap();
        store.enroll(enrolling(name, 7, name), at(0)).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_queued_together_is_one_commit() {
    let database = Database::new();
    let (store, seen) = database.store();
    nodes_of(&store, &["a", "b"]).await;
    store.create_job(new_job(1, &["a", "b"], 1)).await.unwrap();
    seen.take();
    let release = hold(&store).await;
    let (a, id) = (node_name("a"), job_id(1));
    let (assigned, checking, refused, succeeded, ()) = {
        let assigned = store.assign(vec![(job_id(1), a.clone())], at(1));
        let checking = store.report(&a, vec![progress(1, 1, TaskState::Checking)], at(2));
        let refused = store.request(&id, JobRequest::Retry, Terms::default(), at(3));
        let succeeded = store.report(&a, vec![progress(1, 1, TaskState::Succeeded)], at(4));
        let free = async { release.send(()).unwrap() };
        tokio::join!(assigned, checking, refused, succeeded, free)
    };
    assert_eq!(assigned.unwrap(), 1);
    assert!(matches!(refused, Err(StoreError::Refused(_))));
    checking.and(succeeded).unwrap();
    let told = ["job web-1 RUNNING: a SUCCEEDED", "set a web-1 Deploy attempt 1", "assignable"];
    assert_eq!(lines(&seen.take()), told);
}

#[tokio::test]
async fn a_full_queue_is_busy() {
    let database = Database::new();
    let (store, _) = database.store();
    let release = hold(&store).await;
    let writes = join_all((0..super::writer::MAX_QUEUED).map(|_| store.writer.write(|_| Ok(()))));
    let one_more = async {
        let answer = store.writer.write(|_| Ok(())).await;
        release.send(()).unwrap();
        answer
    };
    let (answers, one_more) = tokio::join!(writes, one_more);
    assert!(matches!(one_more, Err(StoreError::Busy)), "{one_more:?}");
    assert!(answers.iter().all(Result::is_ok));
    store.ping().await.unwrap();
}

#[tokio::test]
async fn a_fleet_that_calls_at_one_moment_is_looked_up_in_turn() {
    let database = Database::new();
    let (store, _) = database.store();
    nodes_of(&store, &["a"]).await;
    let name = node_name("a");
    // More than the reads that may wait.
    let found = join_all((0..2 * super::read::MAX_READS).map(|_| store.node(&name))).await;
    for node in found {
        node.unwrap();
    }
}

/// A job whose spec needs this many bytes.
fn bulky(number: u32, bytes: usize) -> NewJob {
    NewJob { spec: vec![0; bytes].into(), ..new_job(number, &["a"], 0) }
}

#[tokio::test]
async fn a_full_disk_fails_the_batch_and_nothing_else() {
    let database = Database::new();
    let (store, seen) = database.store();
    nodes_of(&store, &["a"]).await;
    store.create_job(new_job(1, &["a"], 0)).await.unwrap();
    store.assign(vec![(job_id(1), node_name("a"))], at(1)).await.unwrap();
    let limit = |pages: i64| {
        store.writer.write(move |batch| {
            let set = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
            Ok(batch.sql.query_row(&format!("PRAGMA max_page_count = {pages}"), [], set)?)
        })
    };
    limit(1).await.unwrap();
    seen.take();
    let before = store.job_with_tasks(&job_id(1), &Seen::default()).await.unwrap();

    let release = hold(&store).await;
    let (reported, created, ()) = tokio::join!(
        async { store.report(&node_name("a"), vec![progress(1, 1, TaskState::Succeeded)], at(2)).await },
        store.create_job(bulky(2, 1 << 20)),
        async { release.send(()).unwrap() }
    );
    for failed in [reported.unwrap_err(), created.unwrap_err()] {
        assert!(matches!(failed, StoreError::Database(_)), "{failed:?}");
    }
    assert!(lines(&seen.take()).is_empty(), "nothing is told that could be lost");
    assert_eq!(store.job_with_tasks(&job_id(1), &Seen::default()).await.unwrap(), before);

    limit(1 << 30).await.unwrap();
    store.create_job(bulky(2, 1 << 20)).await.unwrap();
    store.report(&node_name("a"), vec![progress(1, 1, TaskState::Succeeded)], at(3)).await.unwrap();
    let told = ["job web-2 QUEUED: a PENDING", "assignable", "job web-1 SUCCEEDED: a SUCCEEDED"];
    assert_eq!(lines(&seen.take()), told);
}

#[tokio::test]
async fn a_failed_commit_is_as_if_nothing_was_asked() {
    let database = Database::new();
    let (store, seen) = database.store();
    nodes_of(&store, &["a"]).await;
    store.create_job(new_job(1, &["a"], 0)).await.unwrap();
    seen.take();
    let release = hold(&store).await;
    let (assigned, broken, ()) = tokio::join!(
        store.assign(vec![(job_id(1), node_name("a"))], at(1)),
        // A broken reference that is looked at only when the transaction commits.
        store.writer.write(|batch| {
            batch.sql.pragma_update(None, "defer_foreign_keys", true)?;
            Ok(batch.sql.execute("INSERT INTO job_spec (job, model, encoded) VALUES (77, '', X'')", [])?)
        }),
        async { release.send(()).unwrap() }
    );
    assert!(matches!(assigned, Err(StoreError::Database(_))), "{assigned:?}");
    assert!(matches!(broken, Err(StoreError::Database(_))), "{broken:?}");
    assert!(lines(&seen.take()).is_empty());
    assert_eq!(store.job(&job_id(1)).await.unwrap().counts.pending, 1);
    let picks = store.assignable(Arc::new(|_| true), 10).await.unwrap();
    assert_eq!(store.assign(picks, at(2)).await.unwrap(), 1);
}

#[tokio::test]
async fn dropping_the_store_commits_what_is_queued() {
    let database = Database::new();
    let (store, _) = database.store();
    let release = hold(&store).await;
    let mut write = Box::pin(store.create_token(token("t", at(100))));
    assert!(futures::poll!(&mut write).is_pending());
    drop(write);
    release.send(()).unwrap();
    drop(store);
    let bed = Bed::open(&database);
    bed.store.create_token(token("t", at(100))).await.unwrap_err();
}
