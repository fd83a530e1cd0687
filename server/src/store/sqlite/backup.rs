//! Copies of a database: taken while a server writes to it, and put in its place again.
//!
//! A backup is a database of its own with two tables more: what it is a backup of, and files that belong to it.

use std::fs::File;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OptionalExtension, params};

use super::{OpenError, rows, schema};

/// Pages of one step: all of them. A copy in several steps begins anew whenever the server commits in between, and would
/// never end under load; one step reads a snapshot, which in WAL mode holds up nobody.
const ALL_PAGES: i32 = -1;
/// Pause while somebody holds the whole database, such as a server in its last moment.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// The tables that a backup has and a database has not.
const TABLES: &str = "CREATE TABLE backup (time INTEGER NOT NULL, root_pin TEXT NOT NULL) STRICT; \
     CREATE TABLE backup_file (path TEXT PRIMARY KEY, content BLOB NOT NULL) STRICT;";

/// A file that goes with a database.
#[derive(Clone, PartialEq, Eq)]
pub struct BackupFile {
    /// Relative to the data directory.
    pub path: PathBuf,
    /// What is in it; keys, mostly.
    pub content: Vec<u8>,
}

/// What a backup says of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct BackupContents {
    /// When it was taken.
    pub time: Timestamp,
    /// Hash of the root certificate that its nodes trust.
    pub root_pin: String,
    /// Files that belong to it.
    pub files: Vec<BackupFile>,
}

/// Why a backup was not taken or cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is no such file.
    #[error("there is no file {}", .0.display())]
    Missing(PathBuf),
    /// Something is in the way.
    #[error("{} exists already; nothing was changed", .0.display())]
    Exists(PathBuf),
    /// It is none of ours.
    #[error("{} is not a backup of a Longshore server", .0.display())]
    NotABackup(PathBuf),
    /// SQLite finds faults in it.
    #[error("{} is damaged: {found}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first fault.
        found: String,
    },
    /// A database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// SQLite failed.
    #[error("SQLite failed on {}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: rusqlite::Error,
    },
    /// A file cannot be moved or made durable.
    #[error("cannot write {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: std::io::Error,
    },
}

/// Copies the database at `database`, as it is at one moment, with these files, to a new file `to` that only this user may
/// read. A server may go on writing to the database meanwhile. There is all of `to` in the end, checked, or nothing.
///
/// # Errors
///
/// See [`BackupError`].
pub fn back_up(database: &Path, to: &Path, contents: &BackupContents) -> Result<(), BackupError> {
    if !database.exists() {
        return Err(BackupError::Missing(database.to_owned()));
    }
    if to.exists() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let unfinished = beside(to, "unfinished");
    let made = copy(database, &unfinished).and_then(|copied| {
        let failed = sqlite(&unfinished);
        copied.execute_batch(TABLES).map_err(&failed)?;
        let time = rows::micros(contents.time);
        copied.execute("INSERT INTO backup VALUES (?1, ?2)", params![time, contents.root_pin]).map_err(&failed)?;
        for file in &contents.files {
            let path = file.path.to_string_lossy();
            copied.execute("INSERT INTO backup_file VALUES (?1, ?2)", params![path, file.content]).map_err(&failed)?;
        }
        check(&copied, &unfinished)?;
        drop(copied);
        publish(&unfinished, to)
    });
    discard_unless(made, &unfinished)
}

/// What a backup holds, after it was checked.
///
/// # Errors
///
/// It is none, or damaged.
pub fn read_backup(from: &Path) -> Result<BackupContents, BackupError> {
    if !from.exists() {
        return Err(BackupError::Missing(from.to_owned()));
    }
    let not_one = || BackupError::NotABackup(from.to_owned());
    let backup = schema::open_reader(from).map_err(|_| not_one())?;
    let described =
        backup.query_row("SELECT time, root_pin FROM backup", [], |row| Ok((rows::time(row, 0)?, row.get(1)?)));
    let (time, root_pin) = described.map_err(|_| not_one())?;
    check(&backup, from)?;
    let mut statement = backup.prepare("SELECT path, content FROM backup_file ORDER BY path").map_err(|_| not_one())?;
    let files = statement
        .query_map([], |row| Ok(BackupFile { path: row.get::<_, String>(0)?.into(), content: row.get(1)? }))
        .and_then(Iterator::collect)
        .map_err(sqlite(from))?;
    Ok(BackupContents { time, root_pin, files })
}

/// Makes the database at `database` out of a backup, held until [`accept`] is called. A database that is there already is
/// kept beside it, if `replace` allows that; no server may have it open.
///
/// # Errors
///
/// See [`BackupError`]; nothing has changed then.
pub fn restore(from: &Path, database: &Path, replace: bool, now: Timestamp) -> Result<(), BackupError> {
    let _claim = schema::claim(database)?;
    if database.exists() && !replace {
        return Err(BackupError::Exists(database.to_owned()));
    }
    let unfinished = beside(database, "unfinished");
    let made = copy(from, &unfinished).and_then(|copied| {
        drop(copied);
        let restored = schema::open_writer(&unfinished)?;
        let failed = sqlite(&unfinished);
        restored.execute_batch("DROP TABLE backup; DROP TABLE backup_file; DELETE FROM hold;").map_err(&failed)?;
        // What was seen of the newer database is no place to go on from in this one.
        restored.execute_batch("UPDATE history SET epoch = random()").map_err(&failed)?;
        restored.execute("INSERT INTO hold VALUES (?1)", [rows::micros(now)]).map_err(&failed)?;
        check(&restored, &unfinished)?;
        into_one_file(&restored).map_err(&failed)?;
        drop(restored);
        if database.exists() {
            // With what a server that was killed has left in its log.
            let old = schema::open_source(database)?;
            into_one_file(&old).map_err(sqlite(database))?;
            drop(old);
            publish(database, &beside(database, &format!("before-{}", now.as_millisecond())))?;
        }
        publish(&unfinished, database)
    });
    discard_unless(made, &unfinished)
}

/// Takes a restored database as what shall be from now on; returns whether it was held. No server may have it open.
///
/// # Errors
///
/// See [`BackupError`].
pub fn accept(database: &Path) -> Result<bool, BackupError> {
    if !database.exists() {
        return Err(BackupError::Missing(database.to_owned()));
    }
    let _claim = schema::claim(database)?;
    let accepted = schema::open_writer(database)?.execute("DELETE FROM hold", []).map_err(sqlite(database))?;
    Ok(accepted > 0)
}

/// Since when the database is held, if it is.
pub(super) fn held_since(sql: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    sql.prepare_cached("SELECT since FROM hold")?.query_row([], |row| rows::time(row, 0)).optional()
}

/// A copy of a database in a new file.
fn copy(from: &Path, to: &Path) -> Result<Connection, BackupError> {
    let source = schema::open_source(from)?;
    let mut target = schema::create(to)?;
    let failed = sqlite(to);
    let copied = Backup::new(&source, &mut target).and_then(|backup| {
        while backup.step(ALL_PAGES)? != StepResult::Done {
            std::thread::sleep(PAUSE);
        }
        Ok(())
    });
    copied.map_err(&failed)?;
    into_one_file(&target).map_err(&failed)?;
    Ok(target)
}

/// Puts a database's log into it and does without one, so that its one file is all of it.
fn into_one_file(sql: &Connection) -> rusqlite::Result<()> {
    sql.pragma_update(None, "journal_mode", "DELETE")
}

fn check(sql: &Connection, path: &Path) -> Result<(), BackupError> {
    let found: String = sql.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(sqlite(path))?;
    if found == "ok" { Ok(()) } else { Err(BackupError::Damaged { path: path.to_owned(), found }) }
}

/// Gives a finished file its name, durably.
fn publish(from: &Path, to: &Path) -> Result<(), BackupError> {
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let moved = File::open(from)
        .and_then(|file| file.sync_all())
        .and_then(|()| std::fs::rename(from, to))
        .and_then(|()| File::open(directory)?.sync_all());
    moved.map_err(|error| BackupError::File { path: to.to_owned(), error })
}

/// Leaves nothing half done behind.
fn discard_unless(made: Result<(), BackupError>, unfinished: &Path) -> Result<(), BackupError> {
    if made.is_err() {
        for ending in ["", "-wal", "-shm", "-journal"] {
            let mut path = unfinished.as_os_str().to_owned();
            path.push(ending);
            // What is not there need not go.
            let _ = std::fs::remove_file(path);
        }
    }
    made
}

/// The path with a word behind its name.
fn beside(path: &Path, word: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(word);
    name.into()
}

fn sqlite(path: &Path) -> impl Fn(rusqlite::Error) -> BackupError {
    let path = path.to_owned();
    move |error| BackupError::Sqlite { path: path.clone(), error }
}
