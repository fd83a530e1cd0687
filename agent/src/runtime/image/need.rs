//! What an image takes before anything of it is fetched: bytes of the line, and of the disk.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::ImageStore;
use super::collect::Fill;
use super::digest::Digest;
use super::disk::{ImageRecord, LayerRecord};
use super::error::ImageError;
use crate::runtime::{Room, RuntimeError};

/// An image that was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Digest of its manifest.
    pub(crate) digest: Digest,
    /// What it consists of; `None` where all of it is here.
    pub(crate) record: Option<ImageRecord>,
    /// Whether its layers are in a registry.
    pub(crate) is_remote: bool,
}

impl Found {
    /// On this node.
    pub(super) fn here(digest: Digest) -> Self {
        Self { digest, record: None, is_remote: false }
    }

    /// In an archive on this node.
    pub(super) fn in_archive(record: ImageRecord) -> Self {
        Self { digest: record.digest.clone(), record: Some(record), is_remote: false }
    }

    /// In a registry.
    pub(super) fn in_registry(record: ImageRecord) -> Self {
        Self { is_remote: true, ..Self::in_archive(record) }
    }

    /// Bytes of its layers, as they are packed; 0 where all of it is here.
    pub(crate) fn bytes(&self) -> u64 {
        sizes(self.record.iter().flat_map(|record| &record.layers)).values().sum()
    }
}

/// Each layer once, with its packed bytes.
fn sizes<'a>(layers: impl Iterator<Item = &'a LayerRecord>) -> HashMap<Digest, u64> {
    layers.map(|layer| (layer.diff_id.clone(), layer.size)).collect()
}

impl ImageStore {
    /// Bytes of an image's layers that are not here, as they are packed.
    pub(super) async fn missing(&self, found: &Found) -> Result<u64, ImageError> {
        let layers = sizes(found.record.iter().flat_map(|record| &record.layers));
        let missing = move |disk: &super::Disk| {
            Ok(layers.iter().filter(|(layer, _)| !disk.layer(layer).is_dir()).map(|(_, size)| size).sum())
        };
        self.blocking(missing).await
    }

    /// What so many bytes more mean for the disk of the store.
    ///
    /// # Errors
    ///
    /// The disk does not say how full it is.
    pub(crate) async fn room(&self, needed: u64) -> Result<Room, RuntimeError> {
        let room = |disk: &super::Disk| {
            let fill = Fill::of(disk.root()).map_err(|error| ImageError::io("see how full the disk is", error))?;
            Ok((disk.root().to_owned(), fill.available()))
        };
        let (place, available) = self.blocking(room).await?;
        Ok(Room { place, needed, available })
    }

    /// Bytes at the least of layers that only images have which are none of `needed`.
    ///
    /// # Errors
    ///
    /// The disk refuses.
    pub(crate) async fn idle(&self, needed: BTreeSet<String>) -> Result<u64, RuntimeError> {
        let images = self.blocking(|disk| disk.images()).await?;
        let (kept, idle): (Vec<_>, Vec<_>) =
            images.into_iter().map(|(image, _)| image).partition(|image| needed.contains(&image.digest.to_string()));
        let kept: HashSet<&Digest> = kept.iter().flat_map(|image| &image.layers).map(|layer| &layer.diff_id).collect();
        let layers = idle.iter().flat_map(|image| &image.layers).filter(|layer| !kept.contains(&layer.diff_id));
        Ok(sizes(layers).values().sum())
    }
}
