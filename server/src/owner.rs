//! Files that root makes for a server that runs as somebody else.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

/// Gives a file to the owner of its directory. Root may look after a server that runs as somebody else, who could not use what
/// root left behind; anybody else makes files for themselves anyway.
pub(crate) fn keep_owner(file: &File, path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (own, wanted) = (file.metadata()?, std::fs::metadata(directory)?);
    if own.uid() == 0 && wanted.uid() != 0 { fchown(file, Some(wanted.uid()), Some(wanted.gid())) } else { Ok(()) }
}
