//! Layers, and content named by its digest.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use flate2::GzBuilder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{PROGRAM, PROGRAM_PATH};

/// How layers are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// By gzip.
    Gzip,
}

/// Content with its media type and digests.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Its media type.
    pub media_type: &'static str,
    /// Its digest, `sha256:…`.
    pub digest: String,
    /// Of a layer: the digest of the tar in it. Elsewhere equal to `digest`.
    pub diff_id: String,
    /// The bytes.
    pub content: Vec<u8>,
}

impl Blob {
    pub(crate) fn new(media_type: &'static str, content: Vec<u8>) -> Self {
        let digest = sha256(&content);
        Self { media_type, diff_id: digest.clone(), digest, content }
    }

    /// The hexadecimal part of the digest.
    pub(crate) fn hex(&self) -> &str {
        self.digest.strip_prefix("sha256:").unwrap_or(&self.digest)
    }

    pub(crate) fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.content.len() })
    }
}

pub(crate) fn sha256(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}

/// The layer below all: the program, a place for temporary files, and names for two users.
pub(crate) fn base(compression: Compression) -> io::Result<Blob> {
    let mut layer = tar::Builder::new(Vec::new());
    directory(&mut layer, "etc/", 0o755)?;
    file(&mut layer, "etc/group", 0o644, b"root:x:0:\ndemo:x:1000:\n")?;
    file(&mut layer, "etc/passwd", 0o644, b"root:x:0:0::/:/app\ndemo:x:1000:1000::/tmp:/app\n")?;
    directory(&mut layer, "tmp/", 0o1777)?;
    file(&mut layer, PROGRAM_PATH.trim_start_matches('/'), 0o755, PROGRAM)?;
    pack(&layer.into_inner()?, compression)
}

pub(crate) fn of_files(files: &[(String, Vec<u8>)], compression: Compression) -> io::Result<Blob> {
    let mut layer = tar::Builder::new(Vec::new());
    let mut made = BTreeSet::new();
    for (path, content) in files {
        let parents: Vec<_> = Path::new(path).ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).collect();
        for parent in parents.into_iter().rev() {
            if made.insert(parent) {
                directory(&mut layer, &format!("{}/", parent.display()), 0o755)?;
            }
        }
        file(&mut layer, path, 0o644, content)?;
    }
    pack(&layer.into_inner()?, compression)
}

fn pack(tar: &[u8], compression: Compression) -> io::Result<Blob> {
    let diff_id = sha256(tar);
    let blob = match compression {
        Compression::None => Blob::new("application/vnd.oci.image.layer.v1.tar", tar.to_owned()),
        Compression::Gzip => {
            // No name and time 0, so that the bytes depend on the content alone.
            let mut packer = GzBuilder::new().mtime(0).write(Vec::new(), flate2::Compression::fast());
            packer.write_all(tar)?;
            Blob::new("application/vnd.oci.image.layer.v1.tar+gzip", packer.finish()?)
        }
    };
    Ok(Blob { diff_id, ..blob })
}

pub(crate) fn directory(to: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32) -> io::Result<()> {
    let mut header = header(mode, 0);
    header.set_entry_type(tar::EntryType::Directory);
    to.append_data(&mut header, path, io::empty())
}

pub(crate) fn file(to: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
    to.append_data(&mut header(mode, content.len() as u64), path, content)
}

/// A header of root's, with time 0, so that the bytes depend on the content alone.
fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}
