//! Directories that may not be there.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// How often a tree is removed into which something is put all the time.
const REMOVALS: usize = 10;

/// Removes a tree; one that is not there is no error.
///
/// Whoever made it may have been given up in this very moment, and still end the step that it is in: what that leaves is
/// removed as well.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let mut rest = REMOVALS;
    loop {
        rest -= 1;
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && rest > 0 => {}
            other => return other,
        }
    }
}

/// Names in a directory; none where there is no directory. Names that are no text are not ours and left out.
pub(super) fn names(path: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Removes a file; one that is not there is no error.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
