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
use std::time::Duration;

use futures::future::join_all;
use longshore_model::name::AppName;
use longshore_model::sorting::{SortValue, Sorting};
use longshore_model::task::TaskState;
use tempfile::TempDir;

use super::pages::{self, Source};
use super::{OpenError, SqliteStore, schema};
use crate::store::conformance::{
    self, Bed, Factory, Recorder, at, conformance_suite, enrolling, info, job_id, lines, new_job, node_name, progress,
    session_id, spec_bytes, token,
};
use crate::store::sorting::{AppKey, EventKey, JobKey, NodeKey, Query, TaskKey, TokenKey};
use crate::store::{Change, EventsOf, JobRequest, NewJob, Observer, RequestKey, Seen, Store, StoreError, Terms};

mod crash;

/// Tries to open a database that is in use.
const TRIES: u32 = 1_000;
/// Pause between them.
const PAUSE: Duration = Duration::from_millis(10);

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
        (self.open_patiently(seen.clone()), seen)
    }

    /// Opens it as soon as nobody has it. A process that another test has just begun has the locks of this one, also those that are
    /// given up meanwhile, until it has become its program.
    fn open_patiently(&self, observer: Arc<dyn Observer>) -> SqliteStore {
        for _ in 0..TRIES {
            match SqliteStore::open(&self.path(), Arc::clone(&observer)) {
                Err(StoreError::Database(error)) if matches!(error.downcast_ref(), Some(OpenError::InUse(_))) => {
                    std::thread::sleep(PAUSE);
                }
                opened => return opened.unwrap(),
            }
        }
        panic!("the database is in use")
    }
}

impl Factory for Database {
    fn open(&self, observer: Arc<dyn Observer>) -> Arc<dyn Store> {
        Arc::new(self.open_patiently(observer))
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
    ];
    for (sql, index) in cases {
        let plan = plan(sql);
        assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
    }
}

/// A page of a long list must not cost what the whole list does: an index leads to its place, and nothing is sorted.
fn pages_are_found_by_an_index<K: pages::Column>(
    database: &Database,
    source: impl Fn() -> Source<'static>,
    cases: &[(&str, &str)],
) {
    let connection = schema::open_writer(&database.path()).unwrap();
    for (order_by, index) in cases {
        let sorting = Sorting::<K>::parse(order_by).unwrap();
        let after = sorting.position(|_| SortValue::Text(String::new()));
        for after in [None, Some(after)] {
            // The first page may begin at the beginning, the others must not.
            let wanted = if after.is_some() { format!("SEARCH {index}") } else { String::new() };
            let query = Query { sorting: sorting.clone(), after, limit: 10 };
            let (text, values) = pages::statement(source(), &query);
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {text}")).unwrap();
            let rows = statement.query_map(rusqlite::params_from_iter(values), |row| row.get::<_, String>(3)).unwrap();
            let plan = rows.map(Result::unwrap).collect::<Vec<_>>().join("; ");
            assert!(plan.contains(&wanted) && !plan.contains("TEMP B-TREE"), "{text}: {plan}");
        }
    }
}

#[test]
fn pages_of_long_lists_are_found_by_an_index() {
    let database = Database::new();
    let jobs = [
        ("", "job USING COVERING INDEX sqlite_autoindex_job_1"),
        ("job_id", "job USING COVERING INDEX sqlite_autoindex_job_1"),
        ("create_time", "job USING COVERING INDEX job_by_creation"),
        ("create_time desc", "job USING COVERING INDEX job_by_creation"),
        ("app_name", "job USING COVERING INDEX job_by_app"),
        ("spec.name desc", "job USING COVERING INDEX job_by_spec_name"),
        ("spec.name, job_id", "job USING COVERING INDEX job_by_spec_name"),
    ];
    pages_are_found_by_an_index::<JobKey>(&database, || Source::all("SELECT job.key FROM job"), &jobs);
    let tasks = [("", "task USING PRIMARY KEY"), ("node_name desc", "task USING PRIMARY KEY")];
    pages_are_found_by_an_index::<TaskKey>(&database, || super::read::tasks_of(1), &tasks);
    let select = concat!("SELECT ", super::rows::node_columns!(), " FROM node");
    let nodes = [
        ("name desc", "node USING PRIMARY KEY"),
        ("enroll_time", "node USING INDEX node_by_enrolment"),
        ("enroll_time desc", "node USING INDEX node_by_enrolment"),
    ];
    pages_are_found_by_an_index::<NodeKey>(&database, || Source::all(select), &nodes);
    let apps = [
        ("", "app USING INDEX app_by_node"),
        ("node_name desc", "app USING INDEX app_by_node"),
        ("app_name", "app USING PRIMARY KEY"),
        ("app_name desc", "app USING PRIMARY KEY"),
    ];
    pages_are_found_by_an_index::<AppKey>(&database, || super::read::apps_of(None, None), &apps);
    let (node, app) = (node_name("a"), AppName::parse("web-1").unwrap());
    let one = [("", "app USING PRIMARY KEY"), ("app_name desc", "app USING PRIMARY KEY")];
    pages_are_found_by_an_index::<AppKey>(&database, || super::read::apps_of(None, Some(&app)), &one);
    let one = [("", "app USING INDEX app_by_node"), ("node_name desc", "app USING INDEX app_by_node")];
    pages_are_found_by_an_index::<AppKey>(&database, || super::read::apps_of(Some(&node), None), &one);
    let events = [("", "app_event USING PRIMARY KEY"), ("node_name desc", "app_event USING INDEX app_event_by_node")];
    let all = || EventsOf { since: Some(at(0)), ..EventsOf::default() };
    pages_are_found_by_an_index::<EventKey>(&database, || super::events::source(&all()), &events);
    let one = [("", "app_event USING PRIMARY KEY"), ("number desc", "app_event USING PRIMARY KEY")];
    let of_one = || EventsOf { app: Some(app.clone()), node: Some(node.clone()), ..all() };
    pages_are_found_by_an_index::<EventKey>(&database, || super::events::source(&of_one()), &one);
    let one =
        [("", "app_event USING INDEX app_event_by_node"), ("app_name desc", "app_event USING INDEX app_event_by_node")];
    let of_node = || EventsOf { node: Some(node.clone()), ..all() };
    pages_are_found_by_an_index::<EventKey>(&database, || super::events::source(&of_node()), &one);
    let tokens = [
        ("", "token USING PRIMARY KEY"),
        ("create_time desc", "token USING INDEX token_by_creation"),
        ("expire_time", "token USING INDEX token_by_expiry"),
    ];
    pages_are_found_by_an_index::<TokenKey>(&database, || super::read::tokens_at(at(0)), &tokens);
}

#[tokio::test]
async fn jobs_of_before_are_sorted_by_the_names_of_their_specs() {
    let database = Database::new();
    let (store, _) = database.store();
    nodes_of(&store, &["a"]).await;
    for (number, name) in [(1, "till"), (2, "gate"), (3, "till")] {
        let mut new = new_job(number, &["a"], 0);
        Arc::make_mut(&mut new.job.spec).name = name.to_owned();
        store.create_job(new).await.unwrap();
    }
    drop(store);
    // As it was before lists could be sorted.
    let connection = rusqlite::Connection::open(database.path()).unwrap();
    let back = "DROP INDEX job_by_creation; DROP INDEX job_by_app; DROP INDEX job_by_spec_name; \
                DROP INDEX node_by_enrolment; DROP INDEX token_by_creation; \
                ALTER TABLE job DROP COLUMN spec_name;";
    connection.execute_batch(back).unwrap();
    connection.execute_batch(include_str!("schema-11.sql")).unwrap();
    drop(connection);
    let (store, _) = database.store();
    let query = Query { sorting: Sorting::parse("spec.name desc").unwrap(), ..Query::first(10) };
    let jobs = store.jobs(query).await.unwrap().items;
    assert_eq!(jobs.iter().map(|job| job.id.clone()).collect::<Vec<_>>(), [job_id(3), job_id(1), job_id(2)]);
}

#[tokio::test]
async fn requests_of_before_they_were_all_kept_in_one_place_are_still_known() {
    let database = Database::new();
    let (store, _) = database.store();
    store.create_token(token("a", at(100)), Terms::default()).await.unwrap();
    store.enroll(enrolling("a", 7, "a"), at(0)).await.unwrap();
    let request = RequestKey { caller: "ann".to_owned(), id: "1".to_owned(), body: [1; 32] };
    let made = store.create_job(NewJob { request: Some(request.clone()), ..new_job(1, &["a"], 0) }).await.unwrap();
    drop(store);
    let connection = rusqlite::Connection::open(database.path()).unwrap();
    connection.execute_batch(include_str!("schema-2.sql")).unwrap();
    let back = "INSERT INTO creation SELECT caller, id, body, job, expire_time FROM request; DROP TABLE request; \
                ALTER TABLE registry_credential ADD COLUMN caller TEXT; \
                ALTER TABLE registry_credential ADD COLUMN request TEXT; \
                ALTER TABLE registry_credential ADD COLUMN body BLOB; \
                ALTER TABLE registry_credential ADD COLUMN request_expiry INTEGER; \
                CREATE UNIQUE INDEX registry_credential_by_request ON registry_credential (caller, request) \
                WHERE request IS NOT NULL;";
    connection.execute_batch(back).unwrap();
    connection.execute_batch(include_str!("schema-16.sql")).unwrap();
    drop(connection);
    let (store, _) = database.store();
    assert_eq!(store.created(&request, at(1)).await.unwrap(), Some(made));
}

#[tokio::test]
async fn jobs_of_before_a_retry_could_bring_a_spec_have_one() {
    let database = Database::new();
    let (store, _) = database.store();
    nodes_of(&store, &["a"]).await;
    let made = store.create_job(new_job(1, &["a"], 0)).await.unwrap();
    let picks = store.assignable(Arc::new(|_| true), 10).await.unwrap();
    store.assign(picks, at(1)).await.unwrap();
    drop(store);
    let connection = rusqlite::Connection::open(database.path()).unwrap();
    let back = "CREATE TABLE before (job INTEGER PRIMARY KEY REFERENCES job (key), model TEXT NOT NULL, \
                encoded BLOB NOT NULL, cause TEXT, template TEXT, overrides BLOB); \
                INSERT INTO before SELECT job, model, encoded, cause, template, overrides FROM job_spec; \
                ALTER TABLE job ADD COLUMN warnings TEXT NOT NULL DEFAULT '[]'; \
                UPDATE job SET warnings = (SELECT warnings FROM job_spec WHERE job = job.key); \
                DROP TABLE job_spec; ALTER TABLE before RENAME TO job_spec; \
                ALTER TABLE job DROP COLUMN spec_revision; ALTER TABLE task DROP COLUMN spec_revision; \
                ALTER TABLE app DROP COLUMN spec_revision; ALTER TABLE app DROP COLUMN previous_spec_revision; \
                ALTER TABLE task DROP COLUMN pull_start_time; ALTER TABLE task DROP COLUMN pull_start_done;";
    connection.execute_batch(back).unwrap();
    connection.execute_batch(include_str!("schema-20.sql")).unwrap();
    drop(connection);
    let (store, seen) = database.store();
    let job = store.job(&job_id(1)).await.unwrap();
    assert_eq!((job.spec_revision, &job.spec, &job.warnings), (1, &made.spec, &made.warnings));
    seen.take();
    store.open_session(&node_name("a"), &session_id(1), info(), at(2)).await.unwrap();
    let told = seen.take();
    let [Change::Opened { assignments, .. }] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(assignments.first().unwrap().spec, spec_bytes(1));
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
        store.create_token(token(name, at(1000)), Terms::default()).await.unwrap();
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
            Ok(batch.sql.execute(
                "INSERT INTO job_spec (job, revision, model, encoded, warnings) VALUES (77, 1, '', X'', '')",
                [],
            )?)
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
    let mut write = Box::pin(store.create_token(token("t", at(100)), Terms::default()));
    assert!(futures::poll!(&mut write).is_pending());
    drop(write);
    release.send(()).unwrap();
    drop(store);
    let bed = Bed::open(&database);
    bed.store.create_token(token("t", at(100)), Terms::default()).await.unwrap_err();
}
