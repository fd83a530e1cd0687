//! Output of containers: one file per instance in the CRI format, rotated by size, read back with tail and follow.

mod reader;
mod writer;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(super) use reader::stream;
pub(super) use writer::{LogWriter, Splitter, record};

/// Bytes after which a file is put aside: four of them per instance fit on a small disk.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// Files kept per instance, the current one included.
const MAX_FILES: u32 = 4;
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
        Self { max_bytes: MAX_FILE_BYTES, max_files: MAX_FILES }
    }
}

/// The file that is written now.
fn current(directory: &Path) -> PathBuf {
    directory.join("output.log")
}

/// The file put aside `age` rotations ago.
fn aside(directory: &Path, age: u32) -> PathBuf {
    if age == 0 { current(directory) } else { directory.join(format!("output.log.{age}")) }
}
