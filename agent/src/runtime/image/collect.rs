//! Gives disk space back: images that nothing needs go, those first that were not used for longest.
//!
//! Nothing but the directory itself says what is there and when it was used, so a crash at any moment leaves an image whole or
//! gone: its record goes first, and layers that no record names any more go like images that nobody uses.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use nix::sys::statvfs::statvfs;

use super::ImageStore;
use super::digest::Digest;
use super::disk::{Disk, ImageRecord};
use super::error::ImageError;
use crate::runtime::RuntimeError;

/// When images are removed to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collection {
    /// Per cent of the disk in use from which on images are removed; above 100 for never.
    pub high: u8,
    /// Until no more than this is in use, or nothing is left that may go.
    pub low: u8,
    /// Images that were used more recently stay.
    pub min_age: Duration,
}

impl Default for Collection {
    fn default() -> Self {
        Self { high: Self::HIGH, low: Self::LOW, min_age: Self::MIN_AGE }
    }
}

impl Collection {
    /// Leaves room for the largest image of an app that is being updated on most disks.
    pub const HIGH: u8 = 85;
    /// A little below, so that not every pull makes for another collection.
    pub const LOW: u8 = 75;
    /// Longer than it takes from the end of a pull until it is written down which app it was for.
    pub const MIN_AGE: Duration = Duration::from_secs(120);

    /// Whether no image is ever removed.
    #[must_use]
    pub fn is_off(self) -> bool {
        self.high > 100
    }
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Images.
    pub images: u64,
    /// Bytes of disk that are free since.
    pub bytes: u64,
}

/// Layers that pulls are about to use: they stay, whatever names them.
#[derive(Debug, Default)]
pub(super) struct Busy(Mutex<HashMap<Digest, usize>>);

/// Keeps the layers of one pull busy until it is dropped.
pub(super) struct Held<'a> {
    busy: &'a Busy,
    layers: Vec<Digest>,
}

impl Busy {
    /// Keeps these layers until the result is dropped. Whatever is found of them from then on stays.
    pub(super) fn hold(&self, layers: Vec<Digest>) -> Held<'_> {
        let mut counts = self.counts();
        for layer in &layers {
            *counts.entry(layer.clone()).or_default() += 1;
        }
        Held { busy: self, layers }
    }

    /// Does something that no removal comes in between of.
    pub(super) fn unless_collecting<T>(&self, work: impl FnOnce() -> T) -> T {
        let _counts = self.counts();
        work()
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut counts = self.busy.counts();
        for layer in &self.layers {
            if let Some(count) = counts.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(layer);
                }
            }
        }
    }
}

/// How full a disk is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    used: u64,
    available: u64,
}

impl Fill {
    /// Of the disk that a path is on.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let stat = statvfs(path)?;
        let block = stat.fragment_size();
        let used = stat.blocks().saturating_sub(stat.blocks_free()).saturating_mul(block);
        Ok(Self { used, available: stat.blocks_available().saturating_mul(block) })
    }

    /// Bytes of what users may have, and of what of it is available.
    pub(crate) fn sizes(self) -> (u64, u64) {
        (self.used.saturating_add(self.available), self.available)
    }

    /// Whether more than so many per cent of what users may have is in use.
    pub(crate) fn is_above(self, per_cent: u8) -> bool {
        let whole = u128::from(self.used) + u128::from(self.available);
        u128::from(self.used) * 100 > whole * u128::from(per_cent)
    }

    /// Bytes that can be written yet.
    pub(crate) fn available(self) -> u64 {
        self.available
    }

    /// Bytes that are available now, and were not before.
    pub(crate) fn freed_since(self, before: Self) -> u64 {
        self.available.saturating_sub(before.available)
    }
}

impl ImageStore {
    /// Removes images, where the disk is fuller than it shall be. `needed` are digests of images, and `mounted` directories of
    /// layers, that stay in any case.
    ///
    /// # Errors
    ///
    /// The disk refuses.
    pub(crate) async fn collect(
        &self,
        policy: Collection,
        needed: BTreeSet<String>,
        mounted: HashSet<PathBuf>,
    ) -> Result<Collected, RuntimeError> {
        let shared = std::sync::Arc::clone(&self.shared);
        let work = move || Sweep { disk: &shared.disk, busy: &shared.busy, policy, needed, mounted }.run();
        let done = tokio::task::spawn_blocking(work).await;
        Ok(done.map_err(|error| ImageError::io("finish removing images", error.into()))??)
    }
}

struct Sweep<'a> {
    disk: &'a Disk,
    busy: &'a Busy,
    policy: Collection,
    needed: BTreeSet<String>,
    mounted: HashSet<PathBuf>,
}

impl Sweep<'_> {
    fn run(&self) -> Result<Collected, ImageError> {
        let mut collected = Collected::default();
        let before = self.fill()?;
        if !before.is_above(self.policy.high) {
            return Ok(collected);
        }
        let (mut images, until) = (self.disk.images()?, SystemTime::now().checked_sub(self.policy.min_age));
        let is_old = |used: SystemTime| until.is_some_and(|until| used <= until);
        images.sort_by_key(|(_, used)| *used);
        let named: HashSet<Digest> = images.iter().flat_map(|(image, _)| diff_ids(image)).collect();
        for (layer, made) in self.disk.layers()? {
            if !named.contains(&layer) && is_old(made) {
                self.remove_layer(&layer)?;
            }
        }
        let mut at = 0;
        while self.fill()?.is_above(self.policy.low) && at < images.len() {
            let (image, used) = &images[at];
            if !is_old(*used) || self.needed.contains(&image.digest.to_string()) || !self.forget(image, *used)? {
                at += 1;
                continue;
            }
            let (image, _) = images.remove(at);
            let before = self.fill()?;
            let still_named: HashSet<Digest> = images.iter().flat_map(|(image, _)| diff_ids(image)).collect();
            for layer in diff_ids(&image).filter(|layer| !still_named.contains(layer)) {
                self.remove_layer(&layer)?;
            }
            let freed = self.fill()?.freed_since(before);
            tracing::info!(image = %image.digest, freed, "removed an image that nothing needs, to make room");
            collected.images += 1;
        }
        let after = self.fill()?;
        collected.bytes = after.freed_since(before);
        if after.is_above(self.policy.high) {
            tracing::warn!(
                used = after.used,
                available = after.available,
                "the disk is fuller than it shall be, and no image is left that may go"
            );
        }
        Ok(collected)
    }

    fn fill(&self) -> Result<Fill, ImageError> {
        Fill::of(self.disk.root()).map_err(|error| ImageError::io("see how full the disk is", error))
    }

    /// Removes the record of an image, unless somebody has used it since.
    fn forget(&self, image: &ImageRecord, used: SystemTime) -> Result<bool, ImageError> {
        self.busy.unless_collecting(|| self.disk.forget_image(&image.digest, used))
    }

    /// Removes a layer that no record names, unless it is in use.
    fn remove_layer(&self, layer: &Digest) -> Result<(), ImageError> {
        let place = self.disk.layer(layer);
        if self.mounted.contains(&place) {
            return Ok(());
        }
        let aside = {
            let counts = self.busy.counts();
            if counts.contains_key(layer) {
                return Ok(());
            }
            self.disk.take_away(layer)?
        };
        match aside.close() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ImageError::io(format!("remove the layer {layer}"), error))
            }
            _ => Ok(()),
        }
    }
}

fn diff_ids(image: &ImageRecord) -> impl Iterator<Item = Digest> {
    image.layers.iter().map(|layer| layer.diff_id.clone())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::super::disk::LayerRecord;
    use super::*;

    /// Every disk is fuller than that, and none can be made empty enough.
    const ALWAYS: Collection = Collection { high: 0, low: 0, min_age: Duration::ZERO };

    struct Store {
        _directory: tempfile::TempDir,
        disk: Disk,
        busy: Busy,
    }

    impl Store {
        /// A store of images with these layers, the first used longest ago.
        fn of(images: &[(&str, &[&str])]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let disk = Disk::open(directory.path().join("images")).unwrap();
            for (age, (name, layers)) in (1..).zip(images.iter().rev()) {
                for layer in *layers {
                    fs::create_dir_all(disk.layer(&Digest::of(layer.as_bytes())).join("etc")).unwrap();
                }
                let layers = layers.iter().map(|layer| LayerRecord {
                    diff_id: Digest::of(layer.as_bytes()),
                    size: 1,
                    packed: None,
                });
                let image = ImageRecord {
                    digest: Digest::of(name.as_bytes()),
                    config: String::new(),
                    layers: layers.collect(),
                };
                disk.keep_image(&image).unwrap();
                let record = disk.root().join("images").join(image.digest.hex()).with_extension("json");
                let used = SystemTime::now() - Duration::from_secs(3600 * age);
                fs::File::options().write(true).open(record).unwrap().set_modified(used).unwrap();
            }
            Self { _directory: directory, disk, busy: Busy::default() }
        }

        fn sweep(&self, policy: Collection, needed: &[&str]) -> Collected {
            let needed = needed.iter().map(|name| Digest::of(name.as_bytes()).to_string()).collect();
            Sweep { disk: &self.disk, busy: &self.busy, policy, needed, mounted: HashSet::new() }.run().unwrap()
        }

        fn has_image(&self, name: &str) -> bool {
            self.disk.image(&Digest::of(name.as_bytes())).unwrap().is_some()
        }

        fn has_layer(&self, name: &str) -> bool {
            self.disk.layer(&Digest::of(name.as_bytes())).is_dir()
        }
    }

    #[test]
    fn what_is_needed_stays_with_its_layers_and_what_was_half_pulled_goes() {
        let store = Store::of(&[("a", &["base", "a"]), ("b", &["base", "b"]), ("c", &["c"])]);
        fs::create_dir_all(store.disk.layer(&Digest::of(b"orphan"))).unwrap();
        assert_eq!(store.sweep(Collection { high: 101, ..ALWAYS }, &[]), Collected::default(), "there is room");
        assert!(store.has_layer("orphan"));
        assert_eq!(store.sweep(ALWAYS, &["b"]).images, 2);
        let left = ["a", "b", "c"].map(|name| (name, store.has_image(name)));
        assert_eq!(BTreeMap::from(left), BTreeMap::from([("a", false), ("b", true), ("c", false)]));
        let left = ["base", "a", "b", "c", "orphan"].map(|name| store.has_layer(name));
        assert_eq!(left, [true, false, true, false, false]);
        assert_eq!(fs::read_dir(store.disk.tmp()).unwrap().count(), 0);
        assert_eq!(store.sweep(ALWAYS, &["b"]).images, 0);
    }

    #[test]
    fn what_was_used_lately_or_is_being_pulled_stays() {
        let store = Store::of(&[("a", &["base", "a"]), ("b", &["b"]), ("c", &["c"])]);
        let policy = Collection { min_age: Duration::from_secs(5400), ..ALWAYS };
        assert_eq!(store.sweep(policy, &[]).images, 2, "c was used an hour ago");
        assert!(store.has_image("c"));

        let store = Store::of(&[("a", &["base", "a"]), ("b", &["b"])]);
        // As a pull does that finds the layer here.
        let held = store.busy.hold(vec![Digest::of(b"base")]);
        assert!(store.disk.use_image(&Digest::of(b"b")).unwrap().is_some());
        let policy = Collection { min_age: Duration::from_secs(60), ..ALWAYS };
        assert_eq!(store.sweep(policy, &[]).images, 1, "b has just been used");
        store.disk.keep_for(&Digest::of(b"b"), Duration::from_secs(3600)).unwrap();
        store.disk.use_image(&Digest::of(b"b")).unwrap();
        assert_eq!(store.sweep(ALWAYS, &[]).images, 0, "b is kept for an hour, and a use makes that no shorter");
        assert!(store.has_layer("base") && !store.has_layer("a"));
        drop(held);
        assert!(store.busy.counts().is_empty());
    }

    #[test]
    fn a_layer_of_a_container_stays_though_its_image_goes() {
        let store = Store::of(&[("a", &["a"])]);
        let mounted = HashSet::from([store.disk.layer(&Digest::of(b"a"))]);
        let sweep = Sweep { disk: &store.disk, busy: &store.busy, policy: ALWAYS, needed: BTreeSet::new(), mounted };
        assert_eq!(sweep.run().unwrap().images, 1);
        assert!(store.has_layer("a"));
    }
}
