//! Images in files of the node: OCI archives (a tar of an image layout) and Docker's (`docker save`), plain or packed.
//!
//! Blocking: to be called on a thread of its own.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;

use super::compression::{self, Packing};
use super::digest::Digest;
use super::error::ImageError;
use super::manifest::{self, Descriptor, Document, MAX_DOCUMENT, MAX_LAYERS, MAX_PACKED_LAYER};
use super::unpack::Bounded;

/// Entries of an archive: a layout has a handful of files per image.
const MAX_ARCHIVE_ENTRIES: usize = 10_000;
/// Bytes of all headers of an archive, which are what is read when it is looked through.
const MAX_ARCHIVE_HEADERS: u64 = 32 * 1024 * 1024;
/// Indexes in each other; real layouts have one below `index.json`.
const MAX_INDEX_DEPTH: usize = 3;

/// An archive that was opened and looked through.
pub(crate) struct Archive {
    file: File,
    members: HashMap<String, Member>,
}

/// Where the content of a file of the archive lies.
#[derive(Clone, Copy)]
struct Member {
    offset: u64,
    size: u64,
}

/// The image in an archive that suits this node.
pub(crate) struct ArchivedImage {
    /// Digest of its manifest; of its configuration in Docker's archives, which have no manifest.
    pub(crate) digest: Digest,
    /// Its configuration.
    pub(crate) config: Vec<u8>,
    /// Its layers, bottom first.
    pub(crate) layers: Vec<ArchivedLayer>,
}

/// One layer of an archived image.
pub(crate) struct ArchivedLayer {
    /// Digest of the tar in it.
    pub(crate) diff_id: Digest,
    /// Bytes in the archive.
    pub(crate) size: u64,
    member: Member,
}

impl Archive {
    /// Opens an archive; one that is packed itself is unpacked into an unnamed file in `spool` first.
    pub(crate) fn open(path: &Path, spool: &Path) -> Result<Self, ImageError> {
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                ImageError::NotFound(format!("there is no image archive {} on this node", path.display()))
            }
            _ => ImageError::io(format!("open the image archive {}", path.display()), error),
        })?;
        let what = format!("the image archive {}", path.display());
        if !file.metadata().map_err(|error| ImageError::io(format!("open {what}"), error))?.is_file() {
            return Err(ImageError::Invalid(format!("{} is no file", path.display())));
        }
        let spooled = {
            let (packing, content) = compression::detect(&file).map_err(|error| ImageError::content(&what, error))?;
            match packing {
                Packing::Plain => None,
                Packing::Gzip | Packing::Zstd => Some(spool_unpacked(&what, content, spool)?),
            }
        };
        let mut file = spooled.unwrap_or(file);
        file.rewind().map_err(|error| ImageError::io(format!("read {what}"), error))?;
        let members = members(&what, &file)?;
        Ok(Self { file, members })
    }

    /// Finds the image for a node of this architecture; reads no layer.
    pub(crate) fn image(&self, node: &str) -> Result<ArchivedImage, ImageError> {
        if self.members.contains_key("index.json") {
            return self.oci_image(node);
        }
        if self.members.contains_key("manifest.json") {
            return self.docker_image(node);
        }
        Err(ImageError::Invalid("the archive is neither an OCI image layout nor made by docker save".to_owned()))
    }

    fn oci_image(&self, node: &str) -> Result<ArchivedImage, ImageError> {
        let mut document = manifest::parse_document("index.json", &self.read("index.json")?)?;
        let mut digest = None;
        for _ in 0..=MAX_INDEX_DEPTH {
            match document {
                Document::Index(entries) => {
                    let chosen = manifest::choose(&entries, node)?;
                    document = manifest::parse_document("the image's manifest", &self.blob(chosen)?)?;
                    digest = Some(chosen.digest.clone());
                }
                Document::Manifest(image) => {
                    let Some(digest) = digest else { break };
                    let config = self.blob(&image.config)?;
                    let diff_ids = manifest::check_config(&config, image.layers.len(), node)?;
                    let layers = diff_ids
                        .into_iter()
                        .zip(&image.layers)
                        .map(|(diff_id, layer)| {
                            let member = self.member(&blob_path(&layer.digest))?;
                            Ok(ArchivedLayer { diff_id, size: member.size, member })
                        })
                        .collect::<Result<_, ImageError>>()?;
                    return Ok(ArchivedImage { digest, config, layers });
                }
            }
        }
        Err(ImageError::Invalid("the archive's index.json leads to no image".to_owned()))
    }

    fn docker_image(&self, node: &str) -> Result<ArchivedImage, ImageError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Saved {
            config: String,
            layers: Vec<String>,
        }
        let mut saved: Vec<Saved> = manifest::parse("manifest.json", &self.read("manifest.json")?)?;
        let image = match (saved.pop(), saved.is_empty()) {
            (Some(image), true) => image,
            (None, _) => return Err(ImageError::NotFound("there is no image in the archive".to_owned())),
            (Some(_), false) => {
                let count = saved.len() + 1;
                return Err(ImageError::Invalid(format!("there are {count} images in the archive instead of one")));
            }
        };
        if image.layers.len() > MAX_LAYERS {
            let count = image.layers.len();
            return Err(ImageError::Invalid(format!("the image has {count} layers, and {MAX_LAYERS} is the limit")));
        }
        let config = self.read(&image.config)?;
        let diff_ids = manifest::check_config(&config, image.layers.len(), node)?;
        let layers = diff_ids
            .into_iter()
            .zip(&image.layers)
            .map(|(diff_id, path)| {
                let member = self.member(path)?;
                Ok(ArchivedLayer { diff_id, size: member.size, member })
            })
            .collect::<Result<_, ImageError>>()?;
        Ok(ArchivedImage { digest: Digest::of(&config), config, layers })
    }

    /// A reader of a layer's packed bytes, independent of other readers.
    pub(crate) fn layer(&self, layer: &ArchivedLayer) -> Result<impl Read + Send + use<>, ImageError> {
        self.reader(layer.member)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let path = blob_path(&descriptor.digest);
        let content = self.read(&path)?;
        descriptor.digest.verify(&path, &content)?;
        Ok(content)
    }

    /// Reads a document.
    fn read(&self, path: &str) -> Result<Vec<u8>, ImageError> {
        let member = self.member(path)?;
        manifest::check_size(path, member.size, MAX_DOCUMENT)?;
        let mut content = Vec::new();
        self.reader(member)?.read_to_end(&mut content).map_err(|error| ImageError::content(path, error))?;
        Ok(content)
    }

    fn member(&self, path: &str) -> Result<Member, ImageError> {
        let member = self.members.get(normal(path)).copied();
        let member = member.ok_or_else(|| ImageError::Invalid(format!("the archive lacks its file {path}")))?;
        manifest::check_size(path, member.size, MAX_PACKED_LAYER)?;
        Ok(member)
    }

    fn reader(&self, member: Member) -> Result<impl Read + Send + use<>, ImageError> {
        let file = self.file.try_clone().map_err(|error| ImageError::io("read the image archive", error))?;
        Ok(Section { file, at: member.offset, left: member.size })
    }
}

/// Part of a file, read by position, since clones of a file share their cursor.
struct Section {
    file: File,
    at: u64,
    left: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let length = std::os::unix::fs::FileExt::read_at(&self.file, &mut buffer[..wanted], self.at)?;
        if length == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += length as u64;
        self.left -= length as u64;
        Ok(length)
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn normal(path: &str) -> &str {
    path.trim_start_matches("./")
}

/// Looks through a tar without reading the files in it.
fn members(what: &str, file: &File) -> Result<HashMap<String, Member>, ImageError> {
    let damaged = |error| ImageError::content(what, error);
    let mut members: HashMap<String, Member> = HashMap::new();
    let allowance = Cell::new(MAX_ARCHIVE_HEADERS);
    let mut archive = tar::Archive::new(Bounded::new(BufReader::new(file), &allowance));
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        if members.len() >= MAX_ARCHIVE_ENTRIES {
            return Err(ImageError::Invalid(format!("{what} has more than {MAX_ARCHIVE_ENTRIES} files")));
        }
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = normal(&path).to_owned();
        let kind = entry.header().entry_type();
        if kind.is_file() {
            members.insert(path, Member { offset: entry.raw_file_position(), size: entry.size() });
        } else if kind.is_symlink() || kind.is_hard_link() {
            // docker save writes a layer that several images share once, and links to it.
            let target = entry.link_name_bytes().unwrap_or_default();
            let target = String::from_utf8_lossy(&target).into_owned();
            if let Some(member) = linked(&path, &target, kind.is_symlink()).and_then(|path| members.get(&path)).copied()
            {
                members.insert(path, member);
            }
        }
    }
    Ok(members)
}

/// The path that a link inside an archive means: symbolic ones start from their own directory.
fn linked(path: &str, target: &str, symbolic: bool) -> Option<String> {
    if !symbolic {
        return Some(normal(target).to_owned());
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

fn spool_unpacked(what: &str, content: impl Read + Send, spool: &Path) -> Result<File, ImageError> {
    let mut content =
        compression::unpacked(content).map_err(|error| ImageError::content(what, error))?.take(MAX_PACKED_LAYER);
    let unpack = |error| ImageError::io(format!("unpack {what}"), error);
    let mut file = tempfile::tempfile_in(spool).map_err(unpack)?;
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let length = content.read(&mut buffer).map_err(|error| ImageError::content(what, error))?;
        if length == 0 {
            break;
        }
        io::Write::write_all(&mut file, &buffer[..length]).map_err(unpack)?;
    }
    file.seek(SeekFrom::Start(0)).map_err(unpack)?;
    Ok(file)
}
