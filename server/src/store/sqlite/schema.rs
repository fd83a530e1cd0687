//! The tables, their migrations, and how a connection is set up.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::OpenError;
use crate::owner::keep_owner;

/// Steps from each schema version to the next; the database's `user_version` counts those that were done.
///
/// A step that was released is never edited: a change is a further step.
const MIGRATIONS: &[&str] = &[
    include_str!("schema-1.sql"),
    include_str!("schema-2.sql"),
    include_str!("schema-3.sql"),
    include_str!("schema-4.sql"),
    include_str!("schema-5.sql"),
    include_str!("schema-6.sql"),
    include_str!("schema-7.sql"),
    include_str!("schema-8.sql"),
    include_str!("schema-9.sql"),
    include_str!("schema-10.sql"),
    include_str!("schema-11.sql"),
    include_str!("schema-12.sql"),
    include_str!("schema-13.sql"),
    include_str!("schema-14.sql"),
    include_str!("schema-15.sql"),
    include_str!("schema-16.sql"),
    include_str!("schema-17.sql"),
    include_str!("schema-18.sql"),
    include_str!("schema-19.sql"),
    include_str!("schema-20.sql"),
    include_str!("schema-21.sql"),
];

/// How long a connection waits for a lock: only a checkpoint or somebody's `sqlite3` shell can hold one for long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Prepared statements that a connection keeps: above the number of different ones in this module, lists in their usual
/// orders included.
const STATEMENTS: usize = 128;
/// Kibibytes of pages that the writer keeps: the tasks and apps of a few jobs of 10,000 nodes, so that a batch over one of
/// them neither reads from the disk nor spills before its commit.
const WRITER_CACHE: i64 = 32 * 1024;
/// Only the server's own user may read the database: it holds hashes of tokens, and specs may hold passwords.
const FILE_MODE: u32 = 0o600;

/// Claims the database for this process, until the file is dropped.
///
/// The writer keeps rows in memory, so a second server on the same file would work from a stale picture. The lock is on
/// a file of its own because closing any other descriptor of the database would drop SQLite's locks on it.
pub(super) fn claim(path: &Path) -> Result<File, OpenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let file = private_file(&lock_path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(OpenError::File { path: lock_path, error }),
    }
}

fn private_file(path: &Path) -> Result<File, OpenError> {
    let file_error = |error| OpenError::File { path: path.to_owned(), error };
    let file = OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path)
        .map_err(file_error)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE)).map_err(file_error)?;
    keep_owner(&file, path).map_err(file_error)?;
    Ok(file)
}

/// Opens the connection that writes, and brings the tables up to date.
pub(super) fn open_writer(path: &Path) -> Result<Connection, OpenError> {
    // SQLite would create it with the process's umask; its WAL and index take over the mode of the main file.
    drop(private_file(path)?);
    let mut connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    set_up(&connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // Each commit reaches the disk before it is acknowledged.
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Negative: kibibytes instead of pages.
    connection.pragma_update(None, "cache_size", -WRITER_CACHE)?;
    migrate(&mut connection)?;
    Ok(connection)
}

/// Opens a database that another process may be writing to, to copy it; it must exist. Not read-only: what a server that
/// was killed has left in the log is then put into the database.
pub(super) fn open_source(path: &Path) -> Result<Connection, OpenError> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

/// Makes an empty database that only this user may read; it must not exist.
pub(super) fn create(path: &Path) -> Result<Connection, OpenError> {
    let made = OpenOptions::new().create_new(true).write(true).mode(FILE_MODE).open(path);
    drop(made.map_err(|error| OpenError::File { path: path.to_owned(), error })?);
    open_source(path)
}

/// Opens a connection that can only read; the database must exist.
pub(super) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    set_up(&connection)?;
    Ok(connection)
}

fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Plans must not depend on bound values: otherwise SQLite prepares each join anew whenever a parameter changes, which
    // takes longer than running it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

fn migrate(connection: &mut Connection) -> Result<(), OpenError> {
    let transaction = connection.transaction()?;
    let found: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    if found > known {
        return Err(OpenError::NewerSchema { found, known });
    }
    for step in MIGRATIONS.iter().skip(found as usize) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}
