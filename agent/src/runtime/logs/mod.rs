//! Output of containers: one file per instance in the CRI format, rotated by size, read back with tail and follow.
//!
//! A record is `<time> <stream> <tags> <text>`. Its tags say whether the line is whole (`F`) or goes on in the next record
//! (`P`), and which run of the instance has written it: `F:3`. So the files go on over restarts, under one limit, and what a
//! run has said can still be told from what the next one says.

mod directory;
mod file;
mod reader;
mod writer;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use jiff::Timestamp;
use longshore_model::limits;
use longshore_model::spec::Logs;
use serde::{Deserialize, Serialize};

use super::files;
use super::layout::{FILE_MODE, Layout};
use crate::durable;

pub use directory::LogFile;
pub(super) use reader::stream;
pub(super) use writer::{LogWriter, Splitter, record};

/// Name of the file that is written now.
const CURRENT: &str = "output.log";
/// In an instance's directory: the directory for its own files of logs.
const FILES: &str = "files";
/// Beside it: how much of them is kept, as JSON of [`Rotation`].
const KEPT: &str = "files.json";
/// How often log directories are looked through: what an app writes in this time may be more than is kept.
const BOUND_PERIOD: Duration = Duration::from_secs(5);
/// Bytes after which a line is cut in two: bounds what a container without line feeds makes the shim hold.
pub(super) const MAX_LINE: usize = 16 * 1024;

/// When output is put aside, and how much of it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// Bytes after which a file is put aside.
    pub max_bytes: u64,
    /// Files kept, the current one included.
    pub max_files: u32,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { max_bytes: limits::DEFAULT_LOG_SIZE, max_files: limits::DEFAULT_LOG_FILES }
    }
}

impl Rotation {
    /// What an app's spec says, and the rest as it is.
    #[must_use]
    pub fn as_said(self, logs: &Logs) -> Self {
        Self { max_bytes: logs.max_size.unwrap_or(self.max_bytes), max_files: logs.max_files.unwrap_or(self.max_files) }
    }
}

/// Which lines of what is kept are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Newest lines to start with; `None` means all that are kept.
    pub tail: Option<u32>,
    /// Only lines that were written then or later.
    pub since: Option<Timestamp>,
    /// Only lines of the run before the newest; not with `follow`.
    pub previous: bool,
    /// Whether to go on until the stream is dropped.
    pub follow: bool,
    /// Name of a file of the log directory, to be read instead of the output.
    pub file: Option<String>,
}

/// Makes the directory of the node for an instance's own files of logs, below that of its output: it stays as long as that.
pub(super) fn make_directory(logs: &Path, kept: Rotation) -> io::Result<PathBuf> {
    let files = logs.join(FILES);
    fs::create_dir_all(&files)?;
    // The container's user need not be root.
    fs::set_permissions(&files, fs::Permissions::from_mode(0o777))?;
    durable::replace(&logs.join(KEPT), &serde_json::to_vec(&kept)?, FILE_MODE)?;
    fs::canonicalize(&files)
}

/// Files of logs that an instance has written; `None` where it has no directory for them.
pub(super) fn list_files(logs: &Path) -> io::Result<Option<Vec<LogFile>>> {
    let files = logs.join(FILES);
    if files.is_dir() { directory::list(&files).map(Some) } else { Ok(None) }
}

/// Keeps the log directories of all apps within their bounds, for ever.
pub(super) async fn keep_bounded(layout: Layout) {
    let mut ticks = tokio::time::interval(BOUND_PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let layout = layout.clone();
        let done = tokio::task::spawn_blocking(move || bound_all(&layout)).await;
        if let Ok(Err(error)) = done {
            tracing::warn!(%error, "log directories of apps are not looked through");
        }
    }
}

fn bound_all(layout: &Layout) -> io::Result<()> {
    for app in files::names(&layout.all_logs())? {
        let app = layout.all_logs().join(app);
        // The mark of a removed app lies beside its instances.
        for instance in files::names(&app)?.into_iter().filter(|name| name.parse::<u32>().is_ok()) {
            let logs = app.join(instance);
            let Ok(kept) = fs::read(logs.join(KEPT)) else { continue };
            let kept = serde_json::from_slice(&kept).unwrap_or_default();
            match directory::bound(&logs.join(FILES), kept) {
                Ok(0) => {}
                Ok(freed) => tracing::debug!(logs = %logs.display(), freed, "a log directory was too full"),
                // It may just have been removed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(logs = %logs.display(), %error, "a log directory may grow too large"),
            }
        }
    }
    Ok(())
}

/// The file that is written now.
fn current(directory: &Path) -> PathBuf {
    directory.join(CURRENT)
}

/// The file put aside `age` rotations ago.
fn aside(directory: &Path, age: u32) -> PathBuf {
    if age == 0 { current(directory) } else { directory.join(format!("{CURRENT}.{age}")) }
}
