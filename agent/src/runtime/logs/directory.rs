//! The directory in which an app writes files of logs by itself: bounded and listed, though the app is not trusted.
//!
//! What is in it is only ever reached from the open directory, one name at a time and past no link, and only regular files are
//! opened: so an app leads the agent nowhere else, whatever it puts there meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Whence, lseek64};

use super::Rotation;
use crate::runtime::files;

/// Ends of the names of files that are collected.
const ENDINGS: [&str; 2] = [".log", ".trace"];
/// Directories within each other that may be there; what is deeper is removed.
const MAX_DEPTH: usize = 4;
/// Files and directories that may be there; what is beyond is removed.
const MAX_ENTRIES: usize = 4096;
/// What file systems give away and take back at a time.
const BLOCK: u64 = 4096;

/// A file of logs that an app has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// Its name.
    pub name: String,
    /// Bytes that can be read of it.
    pub bytes: u64,
    /// When it was last written to.
    pub modified: Timestamp,
}

/// Whether a file of this name is collected.
fn is_collected(name: &str) -> bool {
    let is_plain = !name.contains(['/', '\0']) && !ENDINGS.contains(&name);
    is_plain && ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// An open directory.
#[derive(Debug)]
struct Place(OwnedFd);

impl Place {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(open(path, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?))
    }

    /// A path that leads to something in this very directory, wherever it has been moved.
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(name)
    }

    fn directory(&self, name: &str) -> io::Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(Self(openat(&self.0, name, flags, Mode::empty())?))
    }

    /// A regular file; `None` for everything else, which is not opened.
    fn file(&self, name: &str, options: &OpenOptions) -> io::Result<Option<File>> {
        let found = match openat(&self.0, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(None),
            found => File::from(found?),
        };
        if !found.metadata()?.is_file() {
            return Ok(None);
        }
        // The very file that was looked at.
        options.open(format!("/proc/self/fd/{}", found.as_raw_fd())).map(Some)
    }
}

/// A file, device or link that takes room.
struct Entry {
    place: Arc<Place>,
    name: String,
    is_log: bool,
    allocated: u64,
    modified: (i64, i64),
}

impl Entry {
    /// Gives the beginning of it back to the disk.
    fn shorten(&mut self, keep: u64) -> io::Result<()> {
        if let Some(file) = self.place.file(&self.name, OpenOptions::new().read(true).write(true))? {
            shorten(&file, keep)?;
            self.allocated = allocated(&file.metadata()?);
        }
        Ok(())
    }

    /// Frees what it takes, also while the app has it open.
    fn remove(&self) -> io::Result<()> {
        // A program that runs cannot be emptied, and goes with the last process that runs it.
        if let Ok(Some(file)) = self.place.file(&self.name, OpenOptions::new().write(true)) {
            let _ = file.set_len(0);
        }
        ignore_missing(fs::remove_file(self.place.path(&self.name)))
    }
}

/// Sees to it that a directory holds no more than is kept: of each file of logs the newest bytes stay, and where that is not
/// enough the oldest files go, those first that are no logs. Returns the bytes that were freed.
///
/// # Errors
///
/// The first of what could not be done; all else is done all the same, so that an app bars nothing by one of its files.
pub(crate) fn bound(directory: &Path, rotation: Rotation) -> io::Result<u64> {
    let mut contents = Contents::default();
    contents.collect(&Arc::new(Place::open(directory)?), 0);
    let Contents { mut entries, mut failed, .. } = contents;
    let before: u64 = entries.iter().map(|entry| entry.allocated).sum();
    for entry in entries.iter_mut().filter(|entry| entry.is_log && entry.allocated > rotation.max_bytes) {
        failed = failed.and(entry.shorten(rotation.max_bytes));
    }
    let limit = rotation.max_bytes.saturating_mul(rotation.max_files.into());
    let mut total: u64 = entries.iter().map(|entry| entry.allocated).sum();
    entries.sort_by_key(|entry| (entry.is_log, entry.modified));
    for entry in &entries {
        if total <= limit {
            break;
        }
        match entry.remove() {
            Ok(()) => total -= entry.allocated,
            error => failed = failed.and(error),
        }
    }
    failed.map(|()| before.saturating_sub(total))
}

/// What is in a directory.
struct Contents {
    entries: Vec<Entry>,
    /// Files and directories so far.
    seen: usize,
    failed: io::Result<()>,
}

impl Default for Contents {
    fn default() -> Self {
        Self { entries: Vec::new(), seen: 0, failed: Ok(()) }
    }
}

impl Contents {
    /// Finds everything in a directory; what is too deep or too much is removed.
    fn collect(&mut self, place: &Arc<Place>, depth: usize) {
        let listed = match fs::read_dir(place.path("")) {
            Ok(listed) => listed,
            Err(error) => return self.note(Err(error)),
        };
        for found in listed.map_while(Result::ok) {
            let Ok(meta) = fs::symlink_metadata(found.path()) else { continue };
            self.seen += 1;
            let has_room = self.seen <= MAX_ENTRIES;
            match found.file_name().into_string() {
                Ok(name) if meta.is_dir() && has_room && depth < MAX_DEPTH => {
                    // Where it is another thing by now, the next look finds that.
                    if let Ok(below) = place.directory(&name) {
                        self.collect(&Arc::new(below), depth + 1);
                    }
                }
                _ if meta.is_dir() => self.note(files::remove_tree(&found.path())),
                Ok(name) if has_room => self.entries.push(Entry {
                    place: Arc::clone(place),
                    is_log: depth == 0 && meta.is_file() && is_collected(&name),
                    name,
                    allocated: allocated(&meta),
                    modified: (meta.mtime(), meta.mtime_nsec()),
                }),
                _ => self.note(ignore_missing(fs::remove_file(found.path()))),
            }
        }
    }

    /// Remembers the first failure.
    fn note(&mut self, result: io::Result<()>) {
        if self.failed.is_ok() {
            self.failed = result;
        }
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn allocated(meta: &fs::Metadata) -> u64 {
    meta.blocks().saturating_mul(512)
}

/// Gives the beginning of a file back to the disk, so that its newest bytes are left, in whole blocks of which no more than
/// `keep` bytes. Whoever writes to it goes on where it was: its length stays. A file system that cannot do that loses the
/// whole content.
fn shorten(file: &File, keep: u64) -> io::Result<()> {
    let whole_blocks = keep / BLOCK * BLOCK;
    let gone = file.metadata()?.len().saturating_sub(whole_blocks).div_ceil(BLOCK) * BLOCK;
    // What takes more room than its length says is not longer for it.
    if gone == 0 {
        return Ok(());
    }
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(file, flags, 0, i64::try_from(gone).unwrap_or(i64::MAX)) {
        Err(Errno::EOPNOTSUPP) => file.set_len(0),
        done => Ok(done?),
    }
}

/// The first byte of a file from this one on that is still there; this very one where the file system does not tell, or
/// where none is.
pub(super) fn data_from(file: &File, from: u64) -> io::Result<u64> {
    let offset = i64::try_from(from).map_err(|_| ErrorKind::InvalidInput)?;
    Ok(lseek64(file, offset, Whence::SeekData).map_or(from, i64::cast_unsigned))
}

/// Goes to the first byte of a file that is still there.
fn begin(file: &mut File) -> io::Result<u64> {
    let start = data_from(file, 0)?;
    file.seek(SeekFrom::Start(start))
}

/// Files of logs in a directory, by name; none where there is no directory.
pub(crate) fn list(directory: &Path) -> io::Result<Vec<LogFile>> {
    let place = match Place::open(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        place => place?,
    };
    let mut files = Vec::new();
    for found in fs::read_dir(place.path(""))?.take(MAX_ENTRIES) {
        let Ok(name) = found?.file_name().into_string() else { continue };
        if !is_collected(&name) {
            continue;
        }
        let Some(mut file) = place.file(&name, OpenOptions::new().read(true))? else { continue };
        let meta = file.metadata()?;
        let bytes = meta.len().saturating_sub(begin(&mut file)?);
        let modified = Timestamp::try_from(meta.modified()?).unwrap_or(Timestamp::UNIX_EPOCH);
        files.push(LogFile { name, bytes, modified });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Opens a file of logs at its first byte that is still there; `None` where there is no such file.
pub(crate) fn open_file(directory: &Path, name: &str) -> io::Result<Option<File>> {
    if !is_collected(name) {
        return Ok(None);
    }
    let place = match Place::open(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        place => place?,
    };
    let Some(mut file) = place.file(name, OpenOptions::new().read(true))? else { return Ok(None) };
    begin(&mut file)?;
    Ok(Some(file))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;

    use super::*;

    const ROTATION: Rotation = Rotation { max_bytes: 64 * 1024, max_files: 3 };

    fn names(directory: &Path) -> Vec<String> {
        list(directory).unwrap().into_iter().map(|file| file.name).collect()
    }

    #[test]
    fn only_regular_files_with_such_names_are_collected() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret.log"), "secret").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for name in ["b.log", "a.trace", "c.txt", ".log"] {
            fs::write(path.join(name), "x\n").unwrap();
        }
        symlink(outside.path().join("secret.log"), path.join("link.log")).unwrap();
        symlink(outside.path(), path.join("up")).unwrap();
        nix::unistd::mkfifo(&path.join("pipe.log"), Mode::from_bits_truncate(0o666)).unwrap();
        fs::create_dir(path.join("dir.log")).unwrap();
        assert_eq!(names(path), ["a.trace", "b.log"]);
        for name in ["link.log", "up/secret.log", "../secret.log", "pipe.log", "dir.log", "c.txt", ".log", ""] {
            assert!(open_file(path, name).unwrap().is_none(), "{name}");
        }
        let mut text = String::new();
        open_file(path, "b.log").unwrap().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "x\n");
        assert!(list(&path.join("none")).unwrap().is_empty());
        // Nothing outside is touched, however little may stay.
        bound(path, Rotation { max_bytes: 0, max_files: 0 }).unwrap();
        assert_eq!(fs::read_to_string(outside.path().join("secret.log")).unwrap(), "secret");
    }

    #[test]
    fn a_file_that_grows_keeps_its_newest_bytes_and_its_writer_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        let mut writer = File::create(&path).unwrap();
        for round in 0..50 {
            writer.write_all(format!("{round:>9}\n").repeat(1000).as_bytes()).unwrap();
            bound(directory.path(), ROTATION).unwrap();
            assert!(allocated(&fs::metadata(&path).unwrap()) <= ROTATION.max_bytes, "{round}");
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), 500_000, "the writer's place is where it was");
        let mut left = String::new();
        open_file(directory.path(), "a.log").unwrap().unwrap().read_to_string(&mut left).unwrap();
        assert!((50_000..80_000).contains(&left.len()) && left.ends_with("       49\n"), "{}", left.len());
        let listed = list(directory.path()).unwrap();
        assert_eq!(listed[0].bytes, left.len() as u64);
    }

    #[test]
    fn what_is_too_much_goes_others_first_and_then_the_oldest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let file = |name: &str, age: u64| {
            let file = File::create(path.join(name)).unwrap();
            (&file).write_all(&[b'x'; 60 * 1024]).unwrap();
            file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
        };
        for (name, age) in [("new.log", 0), ("old.log", 30), ("older.trace", 40), ("oldest.log", 50), ("new.txt", 0)] {
            file(name, age);
        }
        fs::create_dir_all(path.join("1/2/3/4/5/6")).unwrap();
        file("1/deep.log", 0);
        file("1/2/3/4/5/deeper.log", 0);
        let freed = bound(path, ROTATION).unwrap();
        assert_eq!(names(path), ["new.log", "old.log", "older.trace"]);
        assert!(!path.join("new.txt").exists() && !path.join("1/deep.log").exists());
        assert!(!path.join("1/2/3/4/5").exists(), "what is too deep is not even looked at");
        assert!(freed >= 3 * 60 * 1024, "{freed}");
        assert_eq!(bound(path, ROTATION).unwrap(), 0);
    }

    #[test]
    fn neither_a_program_that_runs_nor_directories_without_end_bar_what_is_to_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::copy("/bin/sleep", path.join("busy")).unwrap();
        let mut busy = std::process::Command::new(path.join("busy")).arg("60").spawn().unwrap();
        fs::write(path.join("later.txt"), [b'x'; 60 * 1024]).unwrap();
        for number in 0..=MAX_ENTRIES {
            fs::create_dir(path.join(number.to_string())).unwrap();
        }
        let bounded = bound(path, Rotation { max_bytes: 0, max_files: 0 });
        busy.kill().unwrap();
        busy.wait().unwrap();
        bounded.unwrap();
        let left = fs::read_dir(path).unwrap().flatten();
        let left: Vec<_> = left.map(|entry| entry.file_type().unwrap().is_dir()).collect();
        assert!(left.iter().all(|is_dir| *is_dir) && left.len() <= MAX_ENTRIES, "{}", left.len());
    }
}
