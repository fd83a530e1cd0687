//! Images: found in archives on the node and in registries, kept as unpacked layers that containers share.
//!
//! The way of an image: [`ImageStore::resolve`] finds it and checks that it is for this node; [`ImageStore::pull`]
//! unpacks the layers that are missing and records the image last; [`ImageStore::config`] and
//! [`ImageStore::layer_dirs`] then give what a container needs.

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longshore_model::spec::{Image, ImageSource, PullPolicy};
use longshore_model::task::PullProgress;
use oci_spec::image::ImageConfiguration;
use tokio::sync::Semaphore;

mod archive;
mod collect;
mod compression;
mod digest;
mod disk;
mod error;
mod export;
mod flight;
mod manifest;
mod need;
mod registry;
mod rooted;
#[cfg(test)]
mod tests;
mod unpack;

pub(crate) use self::collect::Fill;
pub use self::collect::{Collected, Collection};
pub use self::registry::{Mirror, MirrorError, RegistryConfig};

use self::archive::{Archive, ArchivedImage};
use self::collect::{Busy, Held};
pub(crate) use self::digest::Digest;
use self::digest::HashingReader;
use self::disk::{Disk, ImageRecord, LayerRecord};
use self::error::ImageError;
use self::flight::{Flights, Interest, Progress, Watch};
use self::need::Found;
use self::registry::{Reference, Registries, Visit, parse_reference};
use crate::runtime::access::Tries;
use crate::runtime::{Access, ProgressSink, Purpose, RegistryCredential, Resolution, ResolvedImage, RuntimeError};

/// Layers fetched and unpacked at a time, over all pulls of the node: more would only share the same disk and line.
const MAX_LAYERS_AT_ONCE: usize = 3;

/// All images of a node. Clones share one store; two stores must not share a directory.
#[derive(Clone)]
pub struct ImageStore {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Disk,
    registries: Registries,
    /// One pull per image, one download per layer.
    images: Flights,
    layers: Flights,
    slots: Arc<Semaphore>,
    /// What collections leave alone.
    busy: Busy,
}

/// Where the layers of a pull come from.
enum Layers {
    Archive(Archive, ArchivedImage),
    Registry(Box<Visit>),
}

impl ImageStore {
    /// Opens the store in this directory, making what is missing and sweeping what a killed agent left. Blocking.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made or swept, or an authority in `registry` is no certificate.
    pub fn open(directory: PathBuf, registry: &RegistryConfig) -> Result<Self, RuntimeError> {
        let shared = Shared {
            registries: Registries::new(registry)?,
            disk: Disk::open(directory)?,
            images: Flights::default(),
            layers: Flights::default(),
            slots: Arc::new(Semaphore::new(MAX_LAYERS_AT_ONCE)),
            busy: Busy::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Finds the image by its pull policy and checks that it is for this node's architecture; fetches no layer.
    ///
    /// An archive is read whenever it is there. If it was taken away since its image was pulled, that image is found
    /// unless the policy is `Always`: apps must come up after a reboot without the medium that brought them.
    ///
    /// # Errors
    ///
    /// With the reason that says who is at fault, and a sentence.
    pub async fn resolve(&self, image: &Image, access: &Access, purpose: Purpose) -> Result<Resolution, RuntimeError> {
        let known = self.known(&name(&image.source)?).await?;
        let found = self.find(image, known, access, purpose).await?;
        let needed = self.missing(&found).await?;
        let fetch = if found.is_remote { needed } else { 0 };
        let image = ResolvedImage { digest: found.digest.to_string(), image: image.clone() };
        let room = if needed > 0 { vec![self.room(needed).await?] } else { Vec::new() };
        Ok(Resolution { image, fetch, room })
    }

    /// As [`ImageStore::resolve`]; `known` is what the image meant when it was pulled last, if the node still has it.
    pub(crate) async fn find(
        &self,
        image: &Image,
        known: Option<Digest>,
        access: &Access,
        purpose: Purpose,
    ) -> Result<Found, RuntimeError> {
        let policy = image.effective_pull_policy();
        let known = known.filter(|_| policy != PullPolicy::Always).map(Found::here);
        Ok(match &image.source {
            ImageSource::Archive(path) => match self.resolve_archive(PathBuf::from(path)).await {
                Err(error @ ImageError::NotFound(_)) => known.ok_or(error)?,
                resolved => resolved?,
            },
            ImageSource::Reference(text) => match (known, policy) {
                (Some(found), _) => found,
                (None, PullPolicy::Never) => return Err(never(text).into()),
                (None, _) => {
                    let reference = parse_reference(text)?;
                    let mut tries = access.tries();
                    loop {
                        match self.resolve_reference(&reference, tries.next().await?, purpose).await {
                            Ok(found) => break found,
                            Err(error) => tries.failed(error)?,
                        }
                    }
                }
            },
        })
    }

    /// Fetches and unpacks what is missing of the image; at most once at a time for the same image or layer.
    ///
    /// Dropping the call ends it; finished layers stay.
    ///
    /// # Errors
    ///
    /// With the reason that says who is at fault, and a sentence. Nothing half done is left to be mistaken for whole.
    pub async fn pull(
        &self,
        image: &ResolvedImage,
        access: &Access,
        progress: ProgressSink,
    ) -> Result<(), RuntimeError> {
        let digest: Digest = image.digest.parse()?;
        let name = name(&image.image.source)?;
        let _flight = self.shared.images.enter(&digest).await;
        let (record, held) = match self.use_image(&digest).await? {
            Some(record) => (record, None),
            None => {
                let mut tries = tries_at(&image.image.source, access);
                loop {
                    let credential = tries.next().await?;
                    match self.pull_layers(&digest, &image.image, credential, Arc::clone(&progress)).await {
                        Ok((record, held)) => break (record, Some(held)),
                        Err(error) => tries.failed(error)?,
                    }
                }
            }
        };
        let total = record.layers.iter().map(|layer| layer.size).sum();
        let (is_new, keep_for) = (held.is_some(), image.image.keep_for);
        self.blocking(move |disk| {
            if is_new {
                disk.keep_image(&record)?;
            }
            if let Some(keep_for) = keep_for {
                disk.keep_for(&record.digest, keep_for)?;
            }
            disk.remember(&name, &record.digest)
        })
        .await?;
        drop(held);
        progress(PullProgress { done: total, total });
        Ok(())
    }

    /// Configuration of an image that was pulled.
    ///
    /// # Errors
    ///
    /// `IMAGE_NOT_FOUND` when it is not on this node.
    pub async fn config(&self, digest: &str) -> Result<ImageConfiguration, RuntimeError> {
        Ok(manifest::parse_config(self.present(digest).await?.config.as_bytes())?)
    }

    /// Directories of the layers of an image that was pulled, bottom first, in the form that overlayfs takes.
    ///
    /// A layer that an image has twice is listed once, at its upper place: overlayfs takes each directory once, and the
    /// upper one hides all that the lower one would show.
    ///
    /// # Errors
    ///
    /// `IMAGE_NOT_FOUND` when it is not on this node.
    pub async fn layer_dirs(&self, digest: &str) -> Result<Vec<PathBuf>, RuntimeError> {
        let record = self.present(digest).await?;
        let mut seen = HashSet::new();
        let mut layers: Vec<_> = record.layers.iter().rev().filter(|layer| seen.insert(&layer.diff_id)).collect();
        layers.reverse();
        Ok(layers.into_iter().map(|layer| self.shared.disk.layer(&layer.diff_id)).collect())
    }

    async fn present(&self, digest: &str) -> Result<ImageRecord, ImageError> {
        let record = self.use_image(&digest.parse()?).await?;
        record.ok_or_else(|| ImageError::NotFound(format!("the image {digest} is not on this node")))
    }

    /// What a name meant at its last pull, if all of that is still here.
    async fn known(&self, name: &str) -> Result<Option<Digest>, ImageError> {
        let name = name.to_owned();
        self.blocking(move |disk| match disk.recall(&name)? {
            Some(digest) => Ok(disk.image(&digest)?.map(|image| image.digest)),
            None => Ok(None),
        })
        .await
    }

    /// The image, if it is here; from now on it counts as used.
    async fn use_image(&self, digest: &Digest) -> Result<Option<ImageRecord>, ImageError> {
        let (shared, digest) = (Arc::clone(&self.shared), digest.clone());
        self.blocking(move |disk| shared.busy.unless_collecting(|| disk.use_image(&digest))).await
    }

    async fn resolve_archive(&self, path: PathBuf) -> Result<Found, ImageError> {
        self.blocking(move |disk| Ok(Found::in_archive(record_of(&open_archive(disk, &path)?.1)))).await
    }

    async fn resolve_reference(
        &self,
        reference: &Reference,
        credential: Option<RegistryCredential>,
        purpose: Purpose,
    ) -> Result<Found, ImageError> {
        let visit = self.shared.registries.visit(reference, credential)?;
        let record = visit.resolve(manifest::node_architecture()).await?;
        if purpose == Purpose::Foresight {
            return Ok(Found::in_registry(record));
        }
        self.blocking(move |disk| {
            disk.keep_resolved(&record)?;
            Ok(Found::in_registry(record))
        })
        .await
    }

    async fn pull_layers(
        &self,
        digest: &Digest,
        image: &Image,
        credential: Option<RegistryCredential>,
        sink: ProgressSink,
    ) -> Result<(ImageRecord, Held<'_>), ImageError> {
        let (record, layers) = self.layers_of(digest, image, credential).await?;
        let held = self.shared.busy.hold(record.layers.iter().map(|layer| layer.diff_id.clone()).collect());
        let total = record.layers.iter().map(|layer| layer.size).sum();
        let progress = Arc::new(Progress::new(sink, total));
        let pulls = record.layers.iter().enumerate();
        // As many at once as there are slots.
        let pulls: Vec<_> = pulls.map(|(at, layer)| self.layer(at, layer, &layers, Arc::clone(&progress))).collect();
        futures::future::try_join_all(pulls).await?;
        Ok((record, held))
    }

    async fn layers_of(
        &self,
        digest: &Digest,
        image: &Image,
        credential: Option<RegistryCredential>,
    ) -> Result<(ImageRecord, Layers), ImageError> {
        match &image.source {
            ImageSource::Archive(path) => {
                let (path, digest) = (PathBuf::from(path), digest.clone());
                self.blocking(move |disk| {
                    let (archive, image) = open_archive(disk, &path)?;
                    if image.digest != digest {
                        let path = path.display();
                        return Err(ImageError::Invalid(format!("{path} was changed while it was being deployed")));
                    }
                    Ok((record_of(&image), Layers::Archive(archive, image)))
                })
                .await
            }
            ImageSource::Reference(text) => {
                if image.effective_pull_policy() == PullPolicy::Never {
                    return Err(never(text));
                }
                let reference = parse_reference(text)?;
                let visit = self.shared.registries.visit(&reference, credential)?;
                let record = {
                    let digest = digest.clone();
                    self.blocking(move |disk| disk.resolved(&digest)).await?
                };
                let record = match record {
                    Some(record) => record,
                    // What was found once is lost: whatever its tag means by now, this digest is what is wanted.
                    None => visit.resolve_digest(digest, manifest::node_architecture()).await?,
                };
                Ok((record, Layers::Registry(Box::new(visit))))
            }
        }
    }

    /// Brings one layer to its place.
    async fn layer(
        &self,
        index: usize,
        layer: &LayerRecord,
        layers: &Layers,
        progress: Arc<Progress>,
    ) -> Result<(), ImageError> {
        let diff_id = layer.diff_id.clone();
        let flight = self.shared.layers.enter(&diff_id).await;
        let place = self.shared.disk.layer(&diff_id);
        if self.blocking(move |_| Ok(place.is_dir())).await? {
            progress.add(layer.size);
            return Ok(());
        }
        let slot = Arc::clone(&self.shared.slots).acquire_owned().await;
        let slot = slot.map_err(|_| ImageError::Cancelled)?;

        let interest = Interest::default();
        let content = self.content(index, layer, layers, &progress, interest.watch()).await?;
        let unpacked = self.blocking(move |disk| {
            // Held to the end of the work, which a dropped call does not wait for.
            let _held = (flight, slot);
            unpack_layer(disk, &diff_id, content)
        });
        let result = unpacked.await;
        drop(interest);
        result
    }

    /// A layer's packed bytes, fetched if need be; they end early once nobody waits for them.
    async fn content(
        &self,
        index: usize,
        layer: &LayerRecord,
        layers: &Layers,
        progress: &Arc<Progress>,
        watch: Watch,
    ) -> Result<Box<dyn Read + Send>, ImageError> {
        match layers {
            Layers::Archive(archive, image) => {
                let Some(archived) = image.layers.get(index) else { return Err(ImageError::Cancelled) };
                let progress = Arc::clone(progress);
                Ok(Box::new(watch.reader(archive.layer(archived)?, move |bytes| progress.add(bytes))))
            }
            Layers::Registry(visit) => {
                let Some(packed) = &layer.packed else {
                    return Err(ImageError::Invalid("the image was resolved from an archive".to_owned()));
                };
                let file = self.blocking(Disk::scratch_file).await?;
                let file = visit.layer(packed, layer.size, file, progress).await?;
                Ok(Box::new(watch.reader(file, |_| {})))
            }
        }
    }

    /// Runs file system work on a thread for such work.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || work(&shared.disk))
            .await
            .map_err(|error| ImageError::io("finish work on an image", error.into()))?
    }
}

/// The error of an image that may not be fetched.
fn never(reference: &str) -> ImageError {
    ImageError::NotFound(format!("the image {reference} is not on this node, and its pull policy is Never"))
}

/// Tries at reading a source: archives need no credential.
fn tries_at<'a>(source: &ImageSource, access: &'a Access) -> Tries<'a> {
    match source {
        ImageSource::Reference(_) => access.tries(),
        ImageSource::Archive(_) => Tries::once(),
    }
}

/// The name under which is remembered what a source meant.
fn name(source: &ImageSource) -> Result<String, ImageError> {
    match source {
        ImageSource::Archive(path) => Ok(format!("archive {path}")),
        ImageSource::Reference(text) => Ok(format!("reference {}", parse_reference(text)?.whole())),
    }
}

fn open_archive(disk: &Disk, path: &Path) -> Result<(Archive, ArchivedImage), ImageError> {
    let archive = Archive::open(path, &disk.tmp())?;
    let image = archive.image(manifest::node_architecture())?;
    Ok((archive, image))
}

fn record_of(image: &ArchivedImage) -> ImageRecord {
    ImageRecord {
        digest: image.digest.clone(),
        config: String::from_utf8_lossy(&image.config).into_owned(),
        layers: image
            .layers
            .iter()
            .map(|layer| LayerRecord { diff_id: layer.diff_id.clone(), size: layer.size, packed: None })
            .collect(),
    }
}

/// Unpacks a layer, checks that it is the one it should be, and gives it its place.
fn unpack_layer(disk: &Disk, diff_id: &Digest, content: impl Read + Send) -> Result<(), ImageError> {
    let staging = disk.staging()?;
    let plain = compression::unpacked(content).map_err(|error| ImageError::content("a layer", error))?;
    let mut plain = HashingReader::new(plain);
    unpack::unpack(&mut plain, staging.path(), unpack::Limits::default())?;
    diff_id.verify_digest("a layer", &plain.digest())?;
    disk.keep_layer(staging, diff_id)
}
