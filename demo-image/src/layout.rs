//! Archives: the files in which images travel without a registry.

use std::collections::BTreeSet;
use std::io;

use serde_json::json;

use crate::layer::{Blob, directory, file};
use crate::{DemoImage, INDEX_TYPE, Parts, in_memory};

/// Several images, each for its own architecture, as one OCI archive with an index.
///
/// # Panics
///
/// As [`DemoImage::parts`].
#[must_use]
pub fn multi_platform_archive(name: &str, images: &[DemoImage]) -> Vec<u8> {
    let images: Vec<Parts> = images.iter().map(DemoImage::parts).collect();
    in_memory(oci(name, &images))
}

/// An OCI archive; more than one image get an index of their own, which the name stands for.
pub(crate) fn oci(name: &str, images: &[Parts]) -> io::Result<Vec<u8>> {
    let mut archive = Archive::new()?;
    let mut manifests = Vec::new();
    for image in images {
        for blob in image.layers.iter().chain([&image.config, &image.manifest]) {
            archive.blob(blob)?;
        }
        let mut descriptor = image.manifest.descriptor();
        descriptor["platform"] = json!({ "architecture": image.architecture, "os": "linux" });
        manifests.push(descriptor);
    }
    if manifests.len() > 1 {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests });
        let index = Blob::new(INDEX_TYPE, index.to_string().into_bytes());
        archive.blob(&index)?;
        manifests = vec![index.descriptor()];
    }
    for manifest in &mut manifests {
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests });
    archive.finish(index.to_string().as_bytes())
}

/// What an OCI archive is made of, each blob once.
struct Archive {
    tar: tar::Builder<Vec<u8>>,
    written: BTreeSet<String>,
}

impl Archive {
    fn new() -> io::Result<Self> {
        let mut tar = tar::Builder::new(Vec::new());
        directory(&mut tar, "blobs/", 0o755)?;
        directory(&mut tar, "blobs/sha256/", 0o755)?;
        Ok(Self { tar, written: BTreeSet::new() })
    }

    fn blob(&mut self, blob: &Blob) -> io::Result<()> {
        if self.written.insert(blob.digest.clone()) {
            file(&mut self.tar, &format!("blobs/sha256/{}", blob.hex()), 0o644, &blob.content)?;
        }
        Ok(())
    }

    fn finish(mut self, index: &[u8]) -> io::Result<Vec<u8>> {
        file(&mut self.tar, "index.json", 0o644, index)?;
        file(&mut self.tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        self.tar.into_inner()
    }
}

pub(crate) fn docker(name: &str, image: &Parts) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut layers = Vec::new();
    let mut written = BTreeSet::new();
    for layer in &image.layers {
        let path = format!("{}/layer.tar", layer.hex());
        if written.insert(path.clone()) {
            directory(&mut tar, &format!("{}/", layer.hex()), 0o755)?;
            file(&mut tar, &path, 0o644, &layer.content)?;
        }
        layers.push(path);
    }
    let config = format!("{}.json", image.config.hex());
    file(&mut tar, &config, 0o644, &image.config.content)?;
    let manifest = json!([{ "Config": config, "RepoTags": [name], "Layers": layers }]);
    file(&mut tar, "manifest.json", 0o644, manifest.to_string().as_bytes())?;
    tar.into_inner()
}
