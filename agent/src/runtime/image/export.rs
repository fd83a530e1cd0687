//! Images for another program that keeps them: as archives in the form of `docker save`, which every engine reads.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use longshore_model::spec::Image;
use serde_json::json;

use super::digest::{Digest, HashingReader};
use super::disk::{Disk, ImageRecord};
use super::error::ImageError;
use super::flight::{Interest, Progress};
use super::{ImageStore, Layers, compression, name, tries_at};
use crate::runtime::{Access, ProgressSink, ResolvedImage, RuntimeError};

/// Size of a tar's blocks.
const BLOCK: u64 = 512;
/// Bytes copied at once.
const BUFFER: usize = 128 * 1024;

impl ImageStore {
    /// What an image meant when it was last pulled, whoever keeps it.
    ///
    /// # Errors
    ///
    /// The reference is none, or the disk refuses.
    pub(crate) async fn remembered(&self, image: &Image) -> Result<Option<Digest>, RuntimeError> {
        let name = name(&image.source)?;
        Ok(self.blocking(move |disk| disk.recall(&name)).await?)
    }

    /// Remembers what an image means, now that somebody keeps it.
    ///
    /// # Errors
    ///
    /// The disk refuses.
    pub(crate) async fn remember(&self, image: &ResolvedImage) -> Result<(), RuntimeError> {
        let (name, digest) = (name(&image.image.source)?, image.digest.parse::<Digest>()?);
        Ok(self.blocking(move |disk| disk.remember(&name, &digest)).await?)
    }

    /// Notes that an image is used that somebody else keeps, and for how long it shall be kept.
    ///
    /// # Errors
    ///
    /// The digest is none, or the disk refuses.
    pub(crate) async fn note_use(&self, digest: &str, keep_for: Duration) -> Result<(), RuntimeError> {
        let digest: Digest = digest.parse()?;
        Ok(self.blocking(move |disk| disk.note_use(&digest, keep_for)).await?)
    }

    /// When that was last noted.
    ///
    /// # Errors
    ///
    /// The digest is none, or the disk refuses.
    pub(crate) async fn last_used(&self, digest: &str) -> Result<Option<SystemTime>, RuntimeError> {
        let digest: Digest = digest.parse()?;
        Ok(self.blocking(move |disk| Ok(disk.last_used(&digest))).await?)
    }

    /// Removes that note: nobody keeps the image any more.
    ///
    /// # Errors
    ///
    /// The digest is none, or the disk refuses.
    pub(crate) async fn forget_use(&self, digest: &str) -> Result<(), RuntimeError> {
        let digest: Digest = digest.parse()?;
        Ok(self.blocking(move |disk| disk.forget_use(&digest)).await?)
    }

    /// Fetches the image into an unnamed file, as an archive in which it bears the name `tag`; every layer is checked on
    /// the way. `progress` counts the packed bytes that were fetched.
    ///
    /// Dropping the call ends it, and leaves nothing.
    ///
    /// # Errors
    ///
    /// With the reason that says who is at fault, and a sentence.
    pub(crate) async fn export(
        &self,
        image: &ResolvedImage,
        tag: String,
        access: &Access,
        progress: ProgressSink,
    ) -> Result<File, RuntimeError> {
        let digest: Digest = image.digest.parse()?;
        let flight = self.shared.images.enter(&digest).await;
        let interest = Interest::default();
        let mut tries = tries_at(&image.image.source, access);
        let (record, contents) = loop {
            let credential = tries.next().await?;
            let fetched = async {
                let (record, layers) = self.layers_of(&digest, &image.image, credential).await?;
                let total = record.layers.iter().map(|layer| layer.size).sum();
                let progress = Arc::new(Progress::new(Arc::clone(&progress), total));
                let contents = self.contents(&record, &layers, &progress, &interest).await?;
                Ok::<_, ImageError>((record, contents))
            };
            match fetched.await {
                Ok(fetched) => break fetched,
                Err(error) => tries.failed(error)?,
            }
        };
        let written = self.blocking(move |disk| {
            // Held to the end of the work, which a dropped call does not wait for.
            let _held = flight;
            write(disk, &tag, &record, contents)
        });
        let file = written.await;
        drop(interest);
        Ok(file?)
    }

    /// The packed bytes of all layers, bottom first.
    async fn contents(
        &self,
        record: &ImageRecord,
        layers: &Layers,
        progress: &Arc<Progress>,
        interest: &Interest,
    ) -> Result<Vec<Box<dyn Read + Send>>, ImageError> {
        let contents = record.layers.iter().enumerate().map(|(index, layer)| async move {
            let slot = self.shared.slots.acquire().await;
            let _slot = slot.map_err(|_| ImageError::Cancelled)?;
            self.content(index, layer, layers, progress, interest.watch()).await
        });
        // As many at once as there are slots.
        futures::future::try_join_all(contents).await
    }
}

fn write(disk: &Disk, tag: &str, image: &ImageRecord, layers: Vec<Box<dyn Read + Send>>) -> Result<File, ImageError> {
    let failed = |error| ImageError::io("write an image for the container engine", error);
    let mut file = disk.scratch_file()?;
    let config = format!("{}.json", Digest::of(image.config.as_bytes()).hex());
    let mut names = Vec::new();
    for (record, content) in image.layers.iter().zip(layers) {
        let name = format!("{}-{}.tar", names.len(), record.diff_id.hex());
        let plain = compression::unpacked(content).map_err(|error| ImageError::content("a layer", error))?;
        let mut plain = HashingReader::new(plain);
        member(&mut file, &name, &mut plain)?;
        record.diff_id.verify_digest("a layer", &plain.digest())?;
        names.push(name);
    }
    member(&mut file, &config, &mut image.config.as_bytes())?;
    let manifest = json!([{ "Config": config, "RepoTags": [tag], "Layers": names }]).to_string();
    member(&mut file, "manifest.json", &mut manifest.as_bytes())?;
    // Two empty blocks are the end.
    file.write_all(&[0; 2 * BLOCK as usize]).and_then(|()| file.rewind()).map_err(failed)?;
    Ok(file)
}

/// Appends a file whose size is known only once it is written: its header is filled in afterwards.
fn member(archive: &mut File, name: &str, content: &mut impl Read) -> Result<(), ImageError> {
    let failed = |error| ImageError::io("write an image for the container engine", error);
    let start = archive.stream_position().map_err(failed)?;
    archive.write_all(&[0; BLOCK as usize]).map_err(failed)?;
    let mut buffer = vec![0; BUFFER];
    let mut size = 0;
    loop {
        let length = match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ImageError::content(name, error)),
        };
        archive.write_all(&buffer[..length]).map_err(failed)?;
        size += length as u64;
    }
    let mut finish = || {
        let mut header = tar::Header::new_gnu();
        header.set_path(name)?;
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        archive.seek(SeekFrom::Start(start))?;
        archive.write_all(header.as_bytes())?;
        archive.seek(SeekFrom::End(0))?;
        let padding = size.next_multiple_of(BLOCK) - size;
        io::copy(&mut io::repeat(0).take(padding), archive)
    };
    finish().map(drop).map_err(failed)
}
