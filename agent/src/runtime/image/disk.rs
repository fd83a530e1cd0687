//! The image store's directory.
//!
//! ```text
//! layers/<diff id>/         a layer, unpacked
//! images/<digest>.json      an image whose layers are all here; written last
//! resolved/<digest>.json    an image that was found in a registry, and what its layers are
//! names/<hash>.json         which image a name meant when it was last pulled
//! used/<digest>             when an image that a container engine keeps was last used
//! tmp/                      what is under way; emptied at start
//! ```
//!
//! Everything is made in `tmp/`, synced, and renamed to its place, so that whatever has a place is whole after a crash
//! at any moment. All of it can be deleted while no agent runs. Blocking: to be called on a thread of its own.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tempfile::{NamedTempFile, TempDir};

use super::digest::Digest;
use super::error::ImageError;
use super::unpack;
use crate::runtime::files;

/// What is kept of an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageRecord {
    /// Digest of its manifest, as [`crate::runtime::ResolvedImage::digest`].
    pub(crate) digest: Digest,
    /// Its configuration, as it came.
    pub(crate) config: String,
    /// Its layers, bottom first.
    pub(crate) layers: Vec<LayerRecord>,
}

/// What is kept of a layer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LayerRecord {
    /// Digest of the tar in it, by which it is stored.
    pub(crate) diff_id: Digest,
    /// Bytes of it as it is packed.
    pub(crate) size: u64,
    /// Digest of it as it is packed; `None` in archives, where it is found by its place.
    pub(crate) packed: Option<Digest>,
}

/// What a name meant.
#[derive(Debug, Serialize, Deserialize)]
struct NameRecord {
    name: String,
    digest: Digest,
}

/// The directory.
#[derive(Debug)]
pub(crate) struct Disk {
    root: PathBuf,
}

impl Disk {
    /// Makes the directory where it is missing, and removes what an earlier agent left half done.
    pub(crate) fn open(root: PathBuf) -> Result<Self, ImageError> {
        let disk = Self { root };
        let tmp = disk.tmp();
        match fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ImageError::io(format!("empty {}", tmp.display()), error));
            }
            _ => {}
        }
        for name in ["layers", "images", "resolved", "names", "used", "tmp"] {
            let path = disk.root.join(name);
            // Layers have set-user-ID programs that no user of the node shall reach.
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|error| ImageError::io(format!("make {}", path.display()), error))?;
        }
        Ok(disk)
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where unfinished things are.
    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Where a layer is, or will be.
    pub(crate) fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    /// An unnamed file for a layer on its way.
    pub(crate) fn scratch_file(&self) -> Result<File, ImageError> {
        tempfile::tempfile_in(self.tmp()).map_err(|error| ImageError::io("make a temporary file", error))
    }

    /// An empty directory to unpack a layer into.
    pub(crate) fn staging(&self) -> Result<TempDir, ImageError> {
        let staging = tempfile::Builder::new().prefix("layer-").tempdir_in(self.tmp());
        let staging = staging.map_err(|error| ImageError::io("make a temporary directory", error))?;
        // The layer's root is the container's, unless the layer says otherwise.
        let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        fs::set_permissions(staging.path(), mode)
            .map_err(|error| ImageError::io("make a temporary directory", error))?;
        Ok(staging)
    }

    /// Gives an unpacked layer its place, for good.
    pub(crate) fn keep_layer(&self, staging: TempDir, diff_id: &Digest) -> Result<(), ImageError> {
        unpack::sync(staging.path())?;
        let place = self.layer(diff_id);
        let keep = |error| ImageError::io(format!("keep the layer {diff_id}"), error);
        fs::rename(staging.path(), &place).map_err(keep)?;
        // It is no longer there to be removed.
        let _ = staging.keep();
        sync_directory(&self.root.join("layers")).map_err(keep)
    }

    /// The image, if all of it is here.
    pub(crate) fn image(&self, digest: &Digest) -> Result<Option<ImageRecord>, ImageError> {
        let record: Option<ImageRecord> = self.read("images", digest.hex())?;
        Ok(record.filter(|image| image.layers.iter().all(|layer| self.layer(&layer.diff_id).is_dir())))
    }

    /// As [`Disk::image`]; the image counts as used from now on.
    pub(crate) fn use_image(&self, digest: &Digest) -> Result<Option<ImageRecord>, ImageError> {
        self.keep_for(digest, Duration::ZERO)?;
        self.image(digest)
    }

    /// Lets an image count as used until so much later, or longer if that was said before.
    pub(crate) fn keep_for(&self, digest: &Digest, time: Duration) -> Result<(), ImageError> {
        let path = self.path("images", digest.hex());
        let touch = || -> io::Result<()> {
            let file = File::options().write(true).open(&path)?;
            let Some(until) = SystemTime::now().checked_add(time) else { return Ok(()) };
            if file.metadata()?.modified()? < until { file.set_modified(until) } else { Ok(()) }
        };
        match touch() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ImageError::io(format!("note the use of {}", path.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// All images, whether all of them is here or not, and when each was last used.
    pub(crate) fn images(&self) -> Result<Vec<(ImageRecord, SystemTime)>, ImageError> {
        let mut images = Vec::new();
        for name in self.names("images")? {
            let Some(hex) = name.strip_suffix(".json") else { continue };
            let used = fs::metadata(self.path("images", hex)).and_then(|meta| meta.modified());
            let Ok(used) = used else { continue };
            if let Some(record) = self.read::<ImageRecord>("images", hex)? {
                images.push((record, used));
            }
        }
        Ok(images)
    }

    /// All layers, and when each came to its place.
    pub(crate) fn layers(&self) -> Result<Vec<(Digest, SystemTime)>, ImageError> {
        let mut layers = Vec::new();
        for hex in self.names("layers")? {
            let Ok(digest) = format!("sha256:{hex}").parse::<Digest>() else { continue };
            let Ok(meta) = fs::metadata(self.layer(&digest)) else { continue };
            // Its own times are those that the image says; this one is when it was renamed.
            let seconds = u64::try_from(meta.ctime()).unwrap_or_default();
            layers.push((digest, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)));
        }
        Ok(layers)
    }

    /// Removes the record of an image, unless it was used after `used`; its layers stay.
    pub(crate) fn forget_image(&self, digest: &Digest, used: SystemTime) -> Result<bool, ImageError> {
        let path = self.path("images", digest.hex());
        let forget = || -> io::Result<bool> {
            if fs::metadata(&path)?.modified()? > used {
                return Ok(false);
            }
            fs::remove_file(&path)?;
            sync_directory(&self.root.join("images"))?;
            Ok(true)
        };
        let forgotten = forget().map_err(|error| ImageError::io(format!("remove {}", path.display()), error));
        if matches!(forgotten, Ok(true)) {
            // Of no use without it, and in nobody's way.
            let _ = fs::remove_file(self.path("resolved", digest.hex()));
        }
        forgotten
    }

    /// Takes a layer from its place, for good; its files go with what is returned.
    pub(crate) fn take_away(&self, diff_id: &Digest) -> Result<TempDir, ImageError> {
        let failed = |error| ImageError::io(format!("remove the layer {diff_id}"), error);
        let aside = tempfile::Builder::new().prefix("gone-").tempdir_in(self.tmp()).map_err(failed)?;
        match fs::rename(self.layer(diff_id), aside.path().join("layer")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(aside),
        }
    }

    /// Notes that an image is used that a container engine keeps, until so much later or longer.
    pub(crate) fn note_use(&self, digest: &Digest, time: Duration) -> Result<(), ImageError> {
        let path = self.note_of_use(digest);
        let Some(until) = SystemTime::now().checked_add(time) else { return Ok(()) };
        if self.last_used(digest).is_some_and(|known| known > until) {
            return Ok(());
        }
        let note = || File::create(&path)?.set_modified(until);
        note().map_err(|error| ImageError::io(format!("write {}", path.display()), error))
    }

    /// When that was last noted; `None` if it never was.
    pub(crate) fn last_used(&self, digest: &Digest) -> Option<SystemTime> {
        fs::metadata(self.note_of_use(digest)).and_then(|meta| meta.modified()).ok()
    }

    /// Removes that note.
    pub(crate) fn forget_use(&self, digest: &Digest) -> Result<(), ImageError> {
        let path = self.note_of_use(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ImageError::io(format!("remove {}", path.display()), error))
            }
            _ => Ok(()),
        }
    }

    fn note_of_use(&self, digest: &Digest) -> PathBuf {
        self.root.join("used").join(digest.hex())
    }

    fn names(&self, kind: &str) -> Result<Vec<String>, ImageError> {
        let path = self.root.join(kind);
        files::names(&path).map_err(|error| ImageError::io(format!("list {}", path.display()), error))
    }

    fn path(&self, kind: &str, name: &str) -> PathBuf {
        self.root.join(kind).join(name).with_extension("json")
    }

    /// Records an image whose layers are all here.
    pub(crate) fn keep_image(&self, image: &ImageRecord) -> Result<(), ImageError> {
        self.write("images", image.digest.hex(), image)
    }

    /// What was resolved under this digest.
    pub(crate) fn resolved(&self, digest: &Digest) -> Result<Option<ImageRecord>, ImageError> {
        self.read("resolved", digest.hex())
    }

    /// Keeps what was resolved until it is pulled.
    pub(crate) fn keep_resolved(&self, image: &ImageRecord) -> Result<(), ImageError> {
        self.write("resolved", image.digest.hex(), image)
    }

    /// Which image a name meant when it was last pulled.
    pub(crate) fn recall(&self, name: &str) -> Result<Option<Digest>, ImageError> {
        let record: Option<NameRecord> = self.read("names", Digest::of(name.as_bytes()).hex())?;
        Ok(record.map(|record| record.digest))
    }

    /// Remembers what a name means.
    pub(crate) fn remember(&self, name: &str, digest: &Digest) -> Result<(), ImageError> {
        if self.recall(name)?.as_ref() == Some(digest) {
            return Ok(());
        }
        let record = NameRecord { name: name.to_owned(), digest: digest.clone() };
        self.write("names", Digest::of(name.as_bytes()).hex(), &record)
    }

    fn read<T: DeserializeOwned>(&self, kind: &str, name: &str) -> Result<Option<T>, ImageError> {
        let path = self.path(kind, name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ImageError::io(format!("read {}", path.display()), error)),
        };
        match serde_json::from_slice(&bytes) {
            Ok(record) => Ok(Some(record)),
            Err(error) => {
                // All of it can be fetched again, which is better than an app that never starts.
                tracing::warn!(path = %path.display(), %error, "ignored a damaged record of the image store");
                Ok(None)
            }
        }
    }

    fn write<T: Serialize>(&self, kind: &str, name: &str, record: &T) -> Result<(), ImageError> {
        let directory = self.root.join(kind);
        let path = self.path(kind, name);
        let attempt = || -> io::Result<()> {
            let mut file = NamedTempFile::new_in(self.tmp())?;
            serde_json::to_writer(&mut file, record)?;
            file.flush()?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            sync_directory(&directory)
        };
        attempt().map_err(|error| ImageError::io(format!("write {}", path.display()), error))
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
