#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use jiff::Timestamp;
use longshore_model::configuration::{Configuration, Content, Kind};
use longshore_model::name::{ConfigurationName, CredentialName};
use longshore_model::registry::{RegistryCredential, Scope};
use longshore_model::secret::{Secret, SecretBytes};
use tempfile::TempDir;

use super::*;
use crate::live::Live;
use crate::store::{SqliteStore, Store, StoredConfiguration, StoredCredential, Terms};

/// Tells the test below to be the child, and where the data directory is.
const DIRECTORY: &str = "LONGSHORE_TEST_ROTATION_DIRECTORY";
/// Kills, each after one step more than the one before: each step of a rotation is the last one several times.
const KILLS: usize = 16;
const CANARY: &str = "canary-4711";
/// Secrets, and as many credentials.
const COUNT: usize = 5;

/// Waits until nobody has the database open: a process that another test starts has all files of this one for a moment.
fn free(dir: &Path) -> &Path {
    while SqliteStore::is_in_use(&dir.join(STORE_FILE)) {
        std::thread::yield_now();
    }
    dir
}

fn store(dir: &Path) -> SqliteStore {
    free(dir);
    SqliteStore::open(&dir.join(STORE_FILE), Arc::new(Live::default())).unwrap()
}

fn configuration(kind: Kind, number: usize) -> Configuration {
    Configuration {
        kind,
        name: ConfigurationName::parse(&format!("c{number}")).unwrap(),
        keys: vec!["password".to_owned()],
        create_time: Timestamp::UNIX_EPOCH,
        update_time: Timestamp::UNIX_EPOCH,
        version: 1,
    }
}

fn content(number: usize) -> Content {
    BTreeMap::from([("password".to_owned(), SecretBytes::new(format!("{CANARY}-{number}").into_bytes()))])
}

/// A data directory with secrets, credentials and a config map.
async fn data_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (store, vault) = (store(dir.path()), Vault::new(dir.path()));
    for number in 0..COUNT {
        let made = configuration(Kind::Secret, number);
        let content = configurations::pack(&vault, &made, &content(number)).unwrap();
        let new = StoredConfiguration { configuration: made, content };
        store.create_configuration(new, Terms::default()).await.unwrap();
        let credential = RegistryCredential {
            name: CredentialName::parse(&format!("r{number}")).unwrap(),
            registry: Scope::parse("registry.example.com").unwrap(),
            username: "robot".to_owned(),
            ca_certificate_pem: String::new(),
            create_time: Timestamp::UNIX_EPOCH,
            update_time: Timestamp::UNIX_EPOCH,
            version: 1,
        };
        let password = Secret::new(format!("{CANARY}-{number}"));
        let sealed = credentials::seal(&vault, &credential, &password).unwrap();
        store.create_credential(StoredCredential { credential, sealed }, Terms::default()).await.unwrap();
    }
    let map = configuration(Kind::ConfigMap, 0);
    let content = configurations::pack(&vault, &map, &BTreeMap::new()).unwrap();
    store.create_configuration(StoredConfiguration { configuration: map, content }, Terms::default()).await.unwrap();
    dir
}

/// How many of the secrets and credentials open with these keys, all of which must hold what they held at first.
async fn opened(dir: &Path, vault: &Vault) -> usize {
    let store = store(dir);
    let mut count = 0;
    for number in 0..COUNT {
        let Configuration { name, .. } = configuration(Kind::Secret, number);
        let secret = store.configuration(Kind::Secret, &name).await.unwrap();
        if let Ok(opened) = configurations::open(vault, &secret) {
            assert_eq!(opened, content(number));
            count += 1;
        }
        let name = CredentialName::parse(&format!("r{number}")).unwrap();
        if let Ok(opened) = credentials::open(vault, &store.credential(&name).await.unwrap()) {
            assert_eq!(opened, Secret::new(format!("{CANARY}-{number}")));
            count += 1;
        }
    }
    count
}

fn rotate(dir: &Path, mut after_step: impl FnMut()) -> Result<(), Error> {
    let mut rotation = Rotation::begin(free(dir))?;
    after_step();
    rotation.add_key()?;
    after_step();
    assert_eq!(rotation.seal_anew()?, 2 * COUNT);
    after_step();
    rotation.purge()?;
    after_step();
    rotation.drop_old_keys()?;
    after_step();
    Ok(())
}

fn key_file(dir: &Path) -> String {
    fs::read_to_string(dir.join(KEY_FILE)).unwrap()
}

/// The files of a directory in which these bytes stand.
fn holding(dir: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|file| fs::read(file).unwrap().windows(bytes.len()).any(|part| part == bytes)).collect()
}

#[tokio::test]
async fn a_rotated_key_opens_everything_and_the_old_one_nothing() {
    let dir = data_dir().await;
    let kept = dir.path().join("old");
    let rotation = Rotation::begin(free(dir.path())).unwrap();
    rotation.keep_old_keys(&kept).unwrap();
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    let again = rotation.keep_old_keys(&kept).unwrap_err();
    assert!(matches!(again, Error::Old { .. }), "{again}");
    drop(rotation);
    assert_eq!(fs::read_to_string(&kept).unwrap(), key_file(dir.path()), "nothing has changed yet");

    // Where the old copy of a row may lie that was changed since.
    let elsewhere = tempfile::tempdir().unwrap();
    fs::rename(&kept, elsewhere.path().join(KEY_FILE)).unwrap();
    let old_id = hex::decode(key_file(dir.path()).split_once(' ').unwrap().0).unwrap();
    assert_eq!(holding(dir.path(), &old_id), [dir.path().join(STORE_FILE)]);
    rotate(dir.path(), || {}).unwrap();
    assert_eq!(holding(dir.path(), &old_id), Vec::<PathBuf>::new(), "not even in free pages");
    assert_eq!(holding(dir.path(), CANARY.as_bytes()), Vec::<PathBuf>::new());
    assert_eq!(key_file(dir.path()).lines().count(), 1);
    assert_eq!(fs::metadata(dir.path().join(KEY_FILE)).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(opened(dir.path(), &Vault::new(dir.path())).await, 2 * COUNT);
    assert_eq!(opened(dir.path(), &Vault::new(elsewhere.path())).await, 0);

    // A database from before, as a backup holds it, wants the old key behind the new one.
    let before = data_dir().await;
    let old = key_file(before.path());
    let new = key_file(dir.path());
    fs::write(before.path().join(KEY_FILE), &new).unwrap();
    let closed = Rotation::begin(free(before.path())).unwrap_err();
    assert!(closed.to_string().starts_with("the registry credential r0 does not open"), "{closed}");
    fs::write(before.path().join(KEY_FILE), new.clone() + &old).unwrap();
    rotate(before.path(), || {}).unwrap();
    assert_eq!(opened(before.path(), &Vault::new(before.path())).await, 2 * COUNT);
}

#[tokio::test]
async fn nothing_is_rotated_beside_a_server_without_a_key_or_with_something_closed() {
    let dir = data_dir().await;
    let running = store(dir.path());
    let refused = Rotation::begin(dir.path()).unwrap_err();
    assert!(matches!(refused, Error::Running(_)), "{refused}");
    // Moved to another row, it does not open: whoever wrote to the database is told of, and not sealed anew.
    let secret = running.configuration(Kind::Secret, &configuration(Kind::Secret, 1).name).await.unwrap();
    let moved = configuration(Kind::Secret, 9);
    let moved = StoredConfiguration { configuration: moved, ..secret };
    running.create_configuration(moved, Terms::default()).await.unwrap();
    drop(running);
    let before = key_file(dir.path());
    let closed = Rotation::begin(free(dir.path())).unwrap_err();
    assert!(matches!(&closed, Error::Closed { what, .. } if what == "secret c9"), "{closed}");
    assert_eq!(key_file(dir.path()), before);

    fs::remove_file(dir.path().join(KEY_FILE)).unwrap();
    assert!(matches!(Rotation::begin(dir.path()).unwrap_err(), Error::NoKey(_)));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Rotation::begin(empty.path()).unwrap_err(), Error::NoDatabase(_)));
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
}

/// Rotates without end, one line on standard output for each step. Only the test below runs it in earnest.
#[test]
fn child_that_is_killed() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    loop {
        rotate(Path::new(&dir), step_done).unwrap();
    }
}

#[allow(clippy::print_stdout, reason = "the pipe to the parent")]
fn step_done() {
    let mut out = std::io::stdout().lock();
    out.write_all(b"step\n").unwrap();
    out.flush().unwrap();
}

#[tokio::test]
async fn a_rotation_that_is_killed_at_any_step_loses_nothing() {
    let dir = data_dir().await;
    for kill in 1..=KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "rotation::tests::child_that_is_killed", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let steps = lines.map(Result::unwrap).filter(|line| line.ends_with("step")).take(kill).count();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(steps, kill, "the child ended by itself");
        assert_eq!(opened(dir.path(), &Vault::new(dir.path())).await, 2 * COUNT, "after step {kill}");
    }
    rotate(dir.path(), || {}).unwrap();
    assert_eq!(key_file(dir.path()).lines().count(), 1);
    assert_eq!(opened(dir.path(), &Vault::new(dir.path())).await, 2 * COUNT);
}
