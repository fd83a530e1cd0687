//! Unpacks one layer into a directory that overlayfs can take as it is.
//!
//! Whiteouts become what overlayfs understands: a character device 0:0 hides a name, and `trusted.overlay.opaque` on a
//! directory hides what lower layers have in it. Blocking: to be called on a thread of its own.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use tar::{Archive, Entry, EntryType};

use super::error::ImageError;
use super::rooted::{Root, entry_path};

/// Bytes that one layer may unpack to; a bomb is stopped here if the disk has not stopped it before.
pub(crate) const MAX_UNPACKED: u64 = 64 * 1024 * 1024 * 1024;
/// Entries of one layer; the largest images in use have some hundred thousand in all.
pub(crate) const MAX_ENTRIES: u64 = 2_000_000;
/// Bytes of one entry's headers, long names and attributes included, all of which are held in memory.
const MAX_HEADERS: u64 = 4 * 1024 * 1024;
/// Bytes read and written at a time.
const CHUNK: usize = 128 * 1024;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names that begin so were notes of the old AUFS driver to itself.
const AUFS: &[u8] = b".wh..wh.";
const XATTR_RECORD: &str = "SCHILY.xattr.";
const OVERLAY_OPAQUE: &str = "trusted.overlay.opaque";

/// How much one layer may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of all files.
    pub(crate) bytes: u64,
    /// Files, directories, links and so on.
    pub(crate) entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: MAX_UNPACKED, entries: MAX_ENTRIES }
    }
}

/// Unpacks the tar in `content` into the empty directory `root`; reads it to its very end, so that digests are whole.
pub(crate) fn unpack(content: impl Read, root: &Path, limits: Limits) -> Result<(), ImageError> {
    let allowance = Cell::new(limits.bytes);
    let mut content = Bounded::new(content, &allowance);
    let mut unpacker =
        Unpacker { root: Root::new(root), limits, times: Vec::new(), buffer: vec![0; CHUNK].into_boxed_slice() };
    {
        let mut archive = Archive::new(&mut content);
        let mut entries = archive.entries().map_err(damaged)?;
        for number in 1.. {
            let left = allowance.get();
            let for_headers = left.min(MAX_HEADERS);
            allowance.set(for_headers);
            let entry = entries.next();
            allowance.set(left - (for_headers - allowance.get()));
            let Some(entry) = entry else { break };
            let mut entry = entry.map_err(damaged)?;
            if number > limits.entries {
                let limit = limits.entries;
                return Err(ImageError::Invalid(format!("a layer has more than {limit} entries")));
            }
            unpacker.entry(&mut entry)?;
            // What is left of it would count as the next entry's headers.
            io::copy(&mut entry, &mut io::sink()).map_err(damaged)?;
        }
    }
    io::copy(&mut content, &mut io::sink()).map_err(damaged)?;
    unpacker.finish()
}

fn damaged(error: io::Error) -> ImageError {
    ImageError::content("a layer", error)
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it has more bytes than the limit")
}

/// A reader that fails, rather than ends, when its allowance of bytes is used up.
pub(crate) struct Bounded<'a, R> {
    inner: R,
    allowance: &'a Cell<u64>,
}

impl<'a, R> Bounded<'a, R> {
    /// A reader of what `allowance` lets through, which can be changed between reads.
    pub(crate) fn new(inner: R, allowance: &'a Cell<u64>) -> Self {
        Self { inner, allowance }
    }
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.allowance.set(self.allowance.get().checked_sub(length as u64).ok_or_else(too_large)?);
        Ok(length)
    }
}

impl<R: Seek> Seek for Bounded<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

/// Owner, mode and time of an entry.
struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
    mtime: i64,
    xattrs: Vec<(String, Vec<u8>)>,
}

struct Unpacker<'a> {
    root: Root<'a>,
    limits: Limits,
    /// Directories change their times while they fill, so theirs are set last.
    times: Vec<(PathBuf, i64)>,
    buffer: Box<[u8]>,
}

impl Unpacker<'_> {
    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), ImageError> {
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        let attributes = attributes(entry)?;
        let inside = entry_path(&entry.path_bytes())?;
        let Some(name) = inside.file_name() else {
            if kind.is_dir() {
                let root = self.root.path().to_owned();
                self.decorate(&root, &attributes, true)?;
                self.times.push((root, attributes.mtime));
            }
            return Ok(());
        };
        if name.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(&inside, name.as_bytes());
        }

        let path = self.resolve(&inside)?;
        match kind {
            EntryType::Directory => {
                make_directory(&path, true)?;
                self.decorate(&path, &attributes, true)?;
                self.times.push((path, attributes.mtime));
                return Ok(());
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                clear(&path)?;
                self.file(entry, &path)?;
            }
            EntryType::Symlink => {
                clear(&path)?;
                let target = PathBuf::from(std::ffi::OsString::from_vec(link_name(entry, &inside)?));
                std::os::unix::fs::symlink(&target, &path).map_err(|error| write_error(&path, error))?;
            }
            EntryType::Link => return self.hard_link(&link_name(entry, &inside)?, &path, &inside),
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                clear(&path)?;
                if !make_node(entry, &path)? {
                    return Ok(());
                }
            }
            other => {
                tracing::debug!(path = %inside.display(), kind = ?other, "skipped an entry of an unknown kind");
                return Ok(());
            }
        }
        self.decorate(&path, &attributes, !kind.is_symlink())?;
        set_time(&path, attributes.mtime)
    }

    fn resolve(&self, inside: &Path) -> Result<PathBuf, ImageError> {
        self.root.resolve(inside, &mut |parent| make_directory(parent, false))
    }

    fn file<R: Read>(&mut self, entry: &mut Entry<'_, R>, path: &Path) -> Result<(), ImageError> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| write_error(path, error))?;
        loop {
            let length = match entry.read(&mut self.buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(damaged(error)),
            };
            // Counted here as well as where the layer is read: holes of sparse files are in no stream.
            self.limits.bytes = self.limits.bytes.checked_sub(length as u64).ok_or_else(too_large).map_err(damaged)?;
            file.write_all(&self.buffer[..length]).map_err(|error| write_error(path, error))?;
        }
    }

    fn hard_link(&self, target: &[u8], path: &Path, inside: &Path) -> Result<(), ImageError> {
        let dangling =
            || ImageError::Invalid(format!("a layer links {} to something that is not in it", inside.display()));
        let target = entry_path(target)?;
        let target = self.root.resolve(&target, &mut |_| Err(dangling()))?;
        match fs::symlink_metadata(&target) {
            Ok(metadata) if !metadata.is_dir() => {}
            _ => return Err(dangling()),
        }
        if target != path {
            clear(path)?;
            fs::hard_link(&target, path).map_err(|error| write_error(path, error))?;
        }
        Ok(())
    }

    fn whiteout(&self, inside: &Path, name: &[u8]) -> Result<(), ImageError> {
        let marker = self.resolve(inside)?;
        let Some(parent) = marker.parent() else { return Ok(()) };
        if name == OPAQUE {
            return make_opaque(parent);
        }
        if name.starts_with(AUFS) {
            return Ok(());
        }
        let hidden = &name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(ImageError::Invalid(format!(
                "a layer has the whiteout {}, which hides nothing",
                inside.display()
            )));
        }
        let path = parent.join(std::ffi::OsStr::from_bytes(hidden));
        match fs::symlink_metadata(&path) {
            // A whiteout is about the layers below: what this layer itself has under that name stays.
            Ok(metadata) if metadata.is_dir() => make_opaque(&path),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                mknod(&path, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))
                    .map_err(|errno| write_error(&path, errno.into()))
            }
            Err(error) => Err(write_error(&path, error)),
        }
    }

    /// Sets owner, then mode, then attributes: a change of owner drops set-user-ID bits and capabilities.
    fn decorate(&self, path: &Path, attributes: &Attributes, with_mode: bool) -> Result<(), ImageError> {
        let fail = |error| write_error(path, error);
        std::os::unix::fs::lchown(path, Some(attributes.uid), Some(attributes.gid)).map_err(fail)?;
        if with_mode {
            fs::set_permissions(path, Permissions::from_mode(attributes.mode & 0o7777)).map_err(fail)?;
        }
        for (name, value) in &attributes.xattrs {
            match xattr::set(path, name, value) {
                Ok(()) => {}
                // Not every file system has them, and few programs need them.
                Err(error) if matches!(error.raw_os_error(), Some(EOPNOTSUPP | EPERM)) => {
                    tracing::debug!(path = %path.display(), name, "an extended attribute cannot be kept");
                }
                Err(error) => return Err(fail(error)),
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<(), ImageError> {
        for (path, mtime) in self.times.iter().rev() {
            match set_time(path, *mtime) {
                // A later entry has put something else in its place.
                Err(ImageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }
}

const EOPNOTSUPP: i32 = Errno::EOPNOTSUPP as i32;
const EPERM: i32 = Errno::EPERM as i32;

fn write_error(path: &Path, error: io::Error) -> ImageError {
    if error.kind() == io::ErrorKind::InvalidFilename || error.kind() == io::ErrorKind::InvalidInput {
        return ImageError::Invalid(format!("a layer has the name {}, which no file can have", path.display()));
    }
    ImageError::io(format!("write {}", path.display()), error)
}

fn attributes<R: Read>(entry: &mut Entry<'_, R>) -> Result<Attributes, ImageError> {
    let mut xattrs = Vec::new();
    if let Some(records) = entry.pax_extensions().map_err(damaged)? {
        for record in records {
            let record = record.map_err(damaged)?;
            let Some(name) = record.key().ok().and_then(|key| key.strip_prefix(XATTR_RECORD)) else { continue };
            if is_kept(name) {
                xattrs.push((name.to_owned(), record.value_bytes().to_owned()));
            }
        }
    }
    let header = entry.header();
    let id = |value: io::Result<u64>| {
        let value = value.map_err(damaged)?;
        u32::try_from(value).map_err(|_| ImageError::Invalid(format!("a layer has the owner {value}, which cannot be")))
    };
    Ok(Attributes {
        uid: id(header.uid())?,
        gid: id(header.gid())?,
        mode: header.mode().map_err(damaged)?,
        mtime: i64::try_from(header.mtime().map_err(damaged)?).unwrap_or(0),
        xattrs,
    })
}

/// Capabilities and what users set; never overlayfs's own, by which a layer could change the layers below.
fn is_kept(name: &str) -> bool {
    name == "security.capability" || (name.starts_with("user.") && !name.starts_with("user.overlay."))
}

fn link_name<R: Read>(entry: &Entry<'_, R>, inside: &Path) -> Result<Vec<u8>, ImageError> {
    match entry.link_name_bytes() {
        Some(name) if !name.is_empty() => Ok(name.into_owned()),
        _ => Err(ImageError::Invalid(format!("a layer has the link {}, which leads nowhere", inside.display()))),
    }
}

/// Makes a directory where there is none; `replace` lets it take the place of something else.
fn make_directory(path: &Path, replace: bool) -> Result<(), ImageError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(write_error(path, error)),
    };
    let mut opaque = false;
    match metadata {
        Some(metadata) if metadata.is_dir() => return Ok(()),
        Some(metadata) => {
            opaque = is_whiteout(&metadata);
            if !replace && !opaque {
                let path = path.display();
                return Err(ImageError::Invalid(format!("a layer uses {path} as a directory, which it is not")));
            }
            clear(path)?;
        }
        None => {}
    }
    fs::create_dir(path).map_err(|error| write_error(path, error))?;
    fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(|error| write_error(path, error))?;
    if opaque { make_opaque(path) } else { Ok(()) }
}

fn is_whiteout(metadata: &fs::Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

fn make_opaque(path: &Path) -> Result<(), ImageError> {
    xattr::set(path, OVERLAY_OPAQUE, b"y").map_err(|error| write_error(path, error))
}

/// Removes what an earlier entry put there.
fn clear(path: &Path) -> Result<(), ImageError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(write_error(path, error)),
        _ => Ok(()),
    }
}

/// Makes a device or a fifo; says whether it did.
fn make_node<R: Read>(entry: &Entry<'_, R>, path: &Path) -> Result<bool, ImageError> {
    let header = entry.header();
    let number = |value: io::Result<Option<u32>>| Ok(u64::from(value.map_err(damaged)?.unwrap_or(0)));
    let (kind, device) = match header.entry_type() {
        EntryType::Fifo => (SFlag::S_IFIFO, 0),
        kind => {
            let device = makedev(number(header.device_major())?, number(header.device_minor())?);
            // This one would be a whiteout, which a layer writes in another way.
            if kind.is_character_special() && device == 0 {
                return Ok(false);
            }
            (if kind.is_character_special() { SFlag::S_IFCHR } else { SFlag::S_IFBLK }, device)
        }
    };
    match mknod(path, kind, Mode::S_IRUSR | Mode::S_IWUSR, device) {
        Ok(()) => Ok(true),
        // Containers get their devices from the runtime: an image that brings some does not depend on them.
        Err(Errno::EPERM) => {
            tracing::debug!(path = %path.display(), "the kernel does not allow this device here");
            Ok(false)
        }
        Err(errno) => Err(write_error(path, errno.into())),
    }
}

fn set_time(path: &Path, mtime: i64) -> Result<(), ImageError> {
    let time = TimeSpec::new(mtime, 0);
    utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink)
        .map_err(|errno| write_error(path, errno.into()))
}

/// Writes everything below `root` to the disk, and the directory that holds it.
pub(crate) fn sync(root: &Path) -> Result<(), ImageError> {
    let fail = |error| write_error(root, error);
    let directory = File::open(root).map_err(fail)?;
    // One call for a whole layer, which can have a hundred thousand files.
    nix::unistd::syncfs(&directory).map_err(|errno| fail(errno.into()))
}

#[cfg(test)]
mod tests;
