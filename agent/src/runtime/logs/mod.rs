//! Output of containers: one file per instance in the CRI format, rotated by size, read back with tail and follow.
//!
//! A record is `<time> <stream> <tags> <text>`. Its tags say whether the line is whole (`F`) or goes on in the next record
//! (`P`), and which run of the instance has written it: `F:3`. So the files go on over restarts, under one limit, and what a
//! run has said can still be told from what the next one says.

mod reader;
mod writer;

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use longshore_model::limits;
use longshore_model::spec::Logs;
use serde::{Deserialize, Serialize};

pub(super) use reader::stream;
pub(super) use writer::{LogWriter, Splitter, record};

/// Name of the file that is written now.
const CURRENT: &str = "output.log";
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
}

/// The file that is written now.
fn current(directory: &Path) -> PathBuf {
    directory.join(CURRENT)
}

/// The file put aside `age` rotations ago.
fn aside(directory: &Path, age: u32) -> PathBuf {
    if age == 0 { current(directory) } else { directory.join(format!("{CURRENT}.{age}")) }
}
