//! Images in the engine: found and fetched as for every runtime, and loaded under a name of the node's own.
//!
//! The engine is never asked to pull: the agent checks the architecture before a layer is fetched, knows the registries'
//! authorities, and has the engine learn no password.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bollard::Docker;
use bollard::models::{ImageConfig, ImageSummary};
use bollard::query_parameters::{
    ImportImageOptions, ListImagesOptionsBuilder, RemoveImageOptions, RemoveImageOptionsBuilder,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use longshore_model::failure::FailureReason;
use longshore_model::spec::{Image, PullPolicy};
use longshore_model::task::PullProgress;

use super::engine::{self, Engine};
use crate::runtime::image::{Collected, Collection, Digest, Fill, ImageStore};
use crate::runtime::{Access, ProgressSink, Purpose, Resolution, ResolvedImage, Room, RuntimeError, failure};

/// Longest time until an engine has taken in an image: a large one on a slow disk.
const LOAD_TIMEOUT: Duration = Duration::from_secs(3600);
/// Attempts at having an engine take in an image, while it says one of [`REMOVED_MEANWHILE`].
const LOAD_ATTEMPTS: u32 = 3;
/// What Podman says when an image that is removed meanwhile had a layer that the new one was to share, or is the same image under
/// another name: the next attempt brings along what is missing.
const REMOVED_MEANWHILE: [&str; 3] =
    ["layer not known", "identifier is not a layer, image, or container", "locating item named"];
/// Bytes of an image that are read at once.
const CHUNK: usize = 256 * 1024;
/// Registry part of our images' names: `.invalid` is nobody's (RFC 2606), so that no engine ever asks a registry for one.
const REGISTRY: &str = "longshore.invalid";

/// The images of one node in its engine.
pub(super) struct Images {
    engine: Arc<Engine>,
    store: ImageStore,
    repository: String,
}

impl Images {
    pub(super) fn new(engine: Arc<Engine>, store: ImageStore, node_uid: &str) -> Self {
        Self { engine, store, repository: repository(node_uid) }
    }

    /// As [`crate::runtime::Runtime::resolve`].
    pub(super) async fn resolve(
        &self,
        image: &Image,
        access: &Access,
        purpose: Purpose,
    ) -> Result<Resolution, RuntimeError> {
        let mut known = None;
        if image.effective_pull_policy() != PullPolicy::Always
            && let Some(digest) = self.store.remembered(image).await?
            && self.config(&digest.to_string()).await?.is_some()
        {
            known = Some(digest);
        }
        let found = self.store.find(image, known, access, purpose).await?;
        let resolved = ResolvedImage { digest: found.digest.to_string(), image: image.clone() };
        // The engine has an image or has it not; layers that it has of others are fetched all the same.
        let is_here = found.record.is_none() || self.config(&resolved.digest).await?.is_some();
        let needed = if is_here { 0 } else { found.bytes() };
        if needed == 0 {
            return Ok(Resolution { image: resolved, fetch: 0, room: Vec::new() });
        }
        let mut room = vec![self.store.room(needed).await?];
        let (_, facts) = self.engine.connect().await?;
        // The engine may keep its things where this agent does not see them.
        if let Some(place) = facts.root.clone()
            && let Ok(fill) = Fill::of(&place)
        {
            room.push(Room { place, needed, available: fill.available() });
        }
        Ok(Resolution { image: resolved, fetch: if found.is_remote { needed } else { 0 }, room })
    }

    /// As [`crate::runtime::Runtime::idle_images`].
    pub(super) async fn idle(&self, needed: &BTreeSet<String>) -> Result<u64, RuntimeError> {
        let docker = self.engine.client().await?;
        let images = summaries(&self.engine, &docker, &self.repository).await?;
        let is_needed = |name: &String| digest_of(name).is_some_and(|digest| needed.contains(&digest));
        let idle = images.iter().filter(|image| !image.repo_tags.iter().any(is_needed));
        Ok(idle.map(|image| u64::try_from(image.size).unwrap_or_default()).sum())
    }

    /// As [`crate::runtime::Runtime::pull`].
    pub(super) async fn pull(
        &self,
        image: &ResolvedImage,
        access: &Access,
        progress: ProgressSink,
    ) -> Result<(), RuntimeError> {
        if self.config(&image.digest).await?.is_none() {
            let totals = Arc::new(std::sync::Mutex::new(0));
            let (seen, sink) = (Arc::clone(&totals), Arc::clone(&progress));
            let counting: ProgressSink = Arc::new(move |pull| {
                *seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = pull.total;
                sink(pull);
            });
            let name = self.name(&image.digest)?;
            let archive = self.store.export(image, name, access, counting).await?;
            self.load(&archive).await?;
            if self.config(&image.digest).await?.is_none() {
                return Err(RuntimeError {
                    reason: FailureReason::RuntimeError,
                    message: "the container engine took the image in, and does not have it".to_owned(),
                });
            }
            let total = *totals.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            progress(PullProgress { done: total, total });
        }
        self.store.note_use(&image.digest, image.image.keep_for.unwrap_or_default()).await?;
        self.store.remember(image).await
    }

    /// As [`crate::runtime::Runtime::collect_images`], of the disk that the engine says it keeps its things on. It removes no
    /// image that a container is made of, and leaves to others what they have under another name.
    pub(super) async fn collect(
        &self,
        policy: Collection,
        needed: &BTreeSet<String>,
    ) -> Result<Collected, RuntimeError> {
        let (docker, facts) = self.engine.connect().await?;
        let mut collected = Collected::default();
        let Some(root) = facts.root.clone() else { return Ok(collected) };
        let fill = || Fill::of(&root).map_err(|e| failure::io("seeing how full the engine's disk is", e));
        let before = fill()?;
        if !before.is_above(policy.high) {
            return Ok(collected);
        }
        let mut images = Vec::new();
        for name in names(&self.engine, &docker, &self.repository).await? {
            let digest = digest_of(&name).unwrap_or_default();
            if !needed.contains(&digest) {
                // A name that is not of our making has no note, and bars nothing.
                images.push((self.store.last_used(&digest).await.unwrap_or_default(), digest, name));
            }
        }
        images.sort();
        for (used, image, name) in images {
            // What lies ahead has not passed at all.
            let is_young = used
                .is_some_and(|used| used.elapsed().is_ok_and(|age| age < policy.min_age) || used > SystemTime::now());
            let before = fill()?;
            if is_young || !before.is_above(policy.low) {
                continue;
            }
            match docker.remove_image(&name, None::<RemoveImageOptions>, None).await {
                Ok(_) => {
                    let freed = fill()?.freed_since(before);
                    tracing::info!(image, freed, "removed an image that nothing needs from the engine, to make room");
                    collected.images += 1;
                    self.store.forget_use(&image).await?;
                }
                Err(error) => tracing::debug!(image, %error, "the engine keeps an image"),
            }
        }
        collected.bytes = fill()?.freed_since(before);
        Ok(collected)
    }

    /// Notes that an image is used.
    pub(super) async fn note_use(&self, digest: &str) -> Result<(), RuntimeError> {
        self.store.note_use(digest, Duration::ZERO).await
    }

    /// Name of an image in the engine.
    pub(super) fn name(&self, digest: &str) -> Result<String, RuntimeError> {
        let digest: Digest = digest.parse().map_err(RuntimeError::from)?;
        Ok(format!("{}:{}", self.repository, digest.hex()))
    }

    /// What an image says of its containers; `None` if the engine does not have it.
    pub(super) async fn config(&self, digest: &str) -> Result<Option<ImageConfig>, RuntimeError> {
        let name = self.name(digest)?;
        let docker = self.engine.client().await?;
        match docker.inspect_image(&name).await {
            Ok(image) => Ok(Some(image.config.unwrap_or_default())),
            Err(error) if engine::is_absent(&error) => Ok(None),
            Err(error) => Err(self.engine.failed("looking for an image", &error)),
        }
    }

    async fn load(&self, archive: &File) -> Result<(), RuntimeError> {
        let mut attempt = 1;
        loop {
            // Opened anew, so that each attempt reads from the beginning.
            let file = File::open(format!("/proc/self/fd/{}", archive.as_raw_fd()))
                .map_err(|error| failure::io("reading the image for the engine", error))?;
            match self.load_once(file).await {
                Err(error)
                    if attempt < LOAD_ATTEMPTS
                        && REMOVED_MEANWHILE.iter().any(|words| error.message.contains(words)) =>
                {
                    tracing::info!(attempt, "the engine lost a part of an image while it took it in; once more");
                    attempt += 1;
                }
                loaded => return loaded,
            }
        }
    }

    async fn load_once(&self, archive: File) -> Result<(), RuntimeError> {
        let docker = self.engine.client().await?.with_timeout(LOAD_TIMEOUT);
        let options = ImportImageOptions { quiet: true, ..ImportImageOptions::default() };
        let mut answer = Box::pin(docker.import_image_stream(options, chunks(archive), None));
        while let Some(part) = answer.next().await {
            part.map_err(|error| self.engine.failed("taking in the image", &error))?;
        }
        Ok(())
    }
}

/// The bytes of a file, read on threads for such work.
fn chunks(file: File) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream::try_unfold(file, |mut file| async move {
        let read = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; CHUNK];
            let length = file.read(&mut buffer)?;
            buffer.truncate(length);
            Ok::<_, std::io::Error>((buffer, file))
        });
        let (buffer, file) = read.await.map_err(std::io::Error::other)??;
        Ok((!buffer.is_empty()).then(|| (Bytes::from(buffer), file)))
    })
    .into_stream()
}

fn repository(node_uid: &str) -> String {
    // Engines take small letters only.
    format!("{REGISTRY}/{}", node_uid.to_lowercase())
}

/// Removes every image of a node from its engine; what others use under other names stays there.
pub(super) async fn remove_all(engine: &Engine, node_uid: &str) -> Result<(), RuntimeError> {
    let docker = engine.client().await?;
    let wanted = repository(node_uid);
    for name in names(engine, &docker, &wanted).await? {
        let options = RemoveImageOptionsBuilder::default().force(true).build();
        match docker.remove_image(&name, Some(options), None).await {
            Err(error) if !engine::is_absent(&error) => return Err(engine.failed("removing an image", &error)),
            _ => {}
        }
    }
    Ok(())
}

/// The digest in a name of ours.
fn digest_of(name: &str) -> Option<String> {
    name.rsplit_once(':').map(|(_, hex)| format!("sha256:{hex}"))
}

/// A repository's images in an engine.
async fn summaries(engine: &Engine, docker: &Docker, wanted: &str) -> Result<Vec<ImageSummary>, RuntimeError> {
    let filters = [("reference".to_owned(), vec![wanted.to_owned()])].into();
    let options = ListImagesOptionsBuilder::default().filters(&filters).build();
    docker.list_images(Some(options)).await.map_err(|e| engine.failed("listing images", &e))
}

/// Their names.
async fn names(engine: &Engine, docker: &Docker, wanted: &str) -> Result<Vec<String>, RuntimeError> {
    let images = summaries(engine, docker, wanted).await?;
    let ours = |name: &String| name.rsplit_once(':').is_some_and(|(repository, _)| repository == wanted);
    Ok(images.into_iter().flat_map(|image| image.repo_tags).filter(ours).collect())
}
