//! Backups: taken, refused, restored.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use longshore_model::name::NodeName;
use longshore_server::backup::{self, Error};
use longshore_server::identity::pki::{self, NewPki};
use longshore_server::live::Live;
use longshore_server::store::backup::BackupError;
use longshore_server::store::{Change, Enrolling, Observer, SqliteStore, Store, StoredToken, Terms};

fn open(data_dir: &Path, observer: Arc<dyn Observer>) -> SqliteStore {
    SqliteStore::open(&data_dir.join("longshore.db"), observer).unwrap()
}

/// A data directory with an authority and a database.
fn data_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    pki::init(dir.path(), &NewPki::default(), Timestamp::now()).unwrap();
    drop(open(dir.path(), Arc::new(Live::default())));
    dir
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_backup_holds_keys_only_when_it_is_asked_to() {
    let (from, now) = (data_dir(), Timestamp::now());
    let key = std::fs::read(from.path().join("pki/issuing.key")).unwrap();
    let out = tempfile::tempdir().unwrap();
    let (plain, whole) = (out.path().join("plain"), out.path().join("whole"));
    backup::back_up(from.path(), &plain, false, now).unwrap();
    backup::back_up(from.path(), &whole, true, now).unwrap();
    assert_eq!(names(out.path()), ["plain", "whole"], "one file each");
    let holds = |path: &Path| std::fs::read(path).unwrap().windows(64).any(|part| part == &key[key.len() - 64..]);
    assert!(holds(&whole) && !holds(&plain));
    for path in [&plain, &whole] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let again = backup::back_up(from.path(), &plain, false, now).unwrap_err();
    assert!(matches!(again, Error::Backup(BackupError::Exists(_))), "{again}");

    let target = out.path().join("new/server");
    let restored = backup::restore(&whole, &target, false, now).unwrap();
    assert!(restored.has_authority);
    assert_eq!(names(&target), ["admin", "longshore.db", "longshore.db.lock", "pki"]);
    for file in ["pki/issuing.key", "pki/server.crt", "admin/client.key"] {
        let mode = std::fs::metadata(target.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode, std::fs::read(target.join(file)).unwrap()),
            (0o600, std::fs::read(from.path().join(file)).unwrap())
        );
    }
    assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o700);
    let bare = out.path().join("bare");
    assert!(!backup::restore(&plain, &bare, false, now).unwrap().has_authority);
    assert_eq!(names(&bare), ["longshore.db", "longshore.db.lock"]);
}

#[test]
fn nothing_is_overwritten_without_being_told_and_nothing_foreign_is_restored() {
    let (from, now) = (data_dir(), Timestamp::now());
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("backup");
    backup::back_up(from.path(), &file, true, now).unwrap();

    let same = backup::restore(&file, from.path(), false, now).unwrap_err();
    assert!(matches!(same, Error::Backup(BackupError::Exists(_))), "{same}");
    let running = open(from.path(), Arc::new(Live::default()));
    let busy = backup::restore(&file, from.path(), true, now).unwrap_err();
    assert!(busy.to_string().contains("in use by another server"), "{busy}");
    let busy = backup::accept(from.path()).unwrap_err();
    assert!(busy.to_string().contains("in use by another server"), "{busy}");
    drop(running);
    backup::restore(&file, from.path(), true, now).unwrap();
    let kept = names(from.path()).into_iter().filter(|name| name.starts_with("longshore.db.before-")).count();
    assert_eq!(kept, 1, "the old database is kept");

    let other = data_dir();
    let foreign = backup::restore(&file, other.path(), true, now).unwrap_err();
    assert!(matches!(foreign, Error::OtherAuthority(_)), "{foreign}");

    std::fs::write(out.path().join("text"), "no database").unwrap();
    for (bad, word) in [("text", "not a backup"), ("none", "no file")] {
        let error = backup::restore(&out.path().join(bad), &out.path().join("x"), false, now).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    let database = from.path().join("longshore.db");
    let error = backup::restore(&database, &out.path().join("x"), false, now).unwrap_err();
    assert!(error.to_string().contains("not a backup"), "a database is none: {error}");
    let mut bytes = std::fs::read(&file).unwrap();
    // The root of a table that is always there, in the middle of the file.
    bytes[8192..12_288].fill(0xff);
    std::fs::write(out.path().join("damaged"), bytes).unwrap();
    let error = backup::restore(&out.path().join("damaged"), &out.path().join("x"), false, now).unwrap_err();
    assert!(matches!(error, Error::Backup(BackupError::Damaged { .. } | BackupError::NotABackup(_))), "{error:?}");
    assert!(!out.path().join("x").exists(), "nothing was made");
}

/// Tells whether sets are to keep what they do not name.
#[derive(Default)]
struct Sets(std::sync::Mutex<Vec<bool>>);

impl Observer for Sets {
    fn committed(&self, changes: Vec<Change>) {
        let kept = changes.iter().filter_map(|change| match change {
            Change::Opened { keep_others, .. } => Some(*keep_others),
            _ => None,
        });
        self.0.lock().unwrap().extend(kept);
    }
}

#[tokio::test]
async fn a_restored_database_holds_removals_until_it_is_accepted() {
    let (from, now) = (data_dir(), Timestamp::now());
    let node = NodeName::parse("edge-1").unwrap();
    let info = longshore_model::node::NodeInfo {
        agent_version: String::new(),
        architecture: "amd64".to_owned(),
        kernel_release: String::new(),
        cpus: 1,
        memory_bytes: 1,
        interfaces: Vec::new(),
        capabilities: Vec::new(),
        runtime: "fake".to_owned(),
        host_ip: None,
        allocatable: None,
        host_paths: None,
        accelerators: Vec::new(),
    };
    let session = longshore_model::name::SessionId::parse(&"0".repeat(26)).unwrap();
    let opened = async |data_dir: &Path| {
        let sets = Arc::new(Sets::default());
        let store = open(data_dir, sets.clone());
        store.open_session(&node, &session, info.clone(), now).await.unwrap();
        drop(store);
        std::mem::take(&mut *sets.0.lock().unwrap())
    };
    {
        let store = open(from.path(), Arc::new(Live::default()));
        enroll(&store, &node, now).await;
    }
    assert_eq!(opened(from.path()).await, [false]);
    let out = tempfile::tempdir().unwrap();
    let (file, target) = (out.path().join("backup"), out.path().join("server"));
    backup::back_up(from.path(), &file, true, now).unwrap();
    backup::restore(&file, &target, false, now).unwrap();
    assert_eq!(opened(&target).await, [true]);
    assert_eq!(opened(&target).await, [true], "a restart does not end it");
    assert!(backup::accept(&target).unwrap());
    assert!(!backup::accept(&target).unwrap());
    assert_eq!(opened(&target).await, [false]);
}

async fn enroll(store: &SqliteStore, node: &NodeName, now: Timestamp) {
    let token = StoredToken::single("token", [7; 32], now, now + SignedDuration::from_hours(1));
    store.create_token(token, Terms::default()).await.unwrap();
    let request = Enrolling {
        token_id: "token".to_owned(),
        secret_hash: [7; 32],
        node: node.clone(),
        key: longshore_model::admission::Fingerprint([1; 32]),
        address: std::net::Ipv4Addr::LOCALHOST.into(),
    };
    store.enroll(request, now).await.unwrap();
}

#[tokio::test]
async fn what_was_seen_of_a_database_is_no_place_to_go_on_from_in_a_restored_one() {
    let (from, now) = (data_dir(), Timestamp::now());
    let epoch = |data_dir: &Path| open(data_dir, Arc::new(Live::default())).epoch();
    let original = epoch(from.path());
    assert_eq!(epoch(from.path()), original, "a restart keeps it");
    let out = tempfile::tempdir().unwrap();
    let (file, target) = (out.path().join("backup"), out.path().join("server"));
    backup::back_up(from.path(), &file, true, now).unwrap();
    backup::restore(&file, &target, false, now).unwrap();
    let restored = epoch(&target);
    assert_ne!(restored, original);
    assert_eq!(epoch(&target), restored);
}
