//! The store with archives of every kind. Registries have a test of their own in `tests/registry.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use longshore_demo_image::{Compression, DemoImage, PROGRAM, multi_platform_archive};
use longshore_model::failure::FailureReason;

use super::*;
use crate::runtime::Access;

struct Bench {
    store: ImageStore,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { store: open(&dir), dir }
    }

    /// Writes an archive to the node, and returns it as an image.
    fn archive(&self, bytes: &[u8]) -> Image {
        let path = self.dir.path().join("image.tar");
        fs::write(&path, bytes).unwrap();
        image(&path, None)
    }

    async fn deploy(&self, image: &Image) -> Result<ResolvedImage, RuntimeError> {
        let resolved = self.store.resolve(image, &Access::anonymous(), Purpose::Pull).await?.image;
        self.store.pull(&resolved, &Access::anonymous(), Arc::new(|_| {})).await?;
        Ok(resolved)
    }

    async fn refusal(&self, bytes: &[u8]) -> RuntimeError {
        let error = self.store.resolve(&self.archive(bytes), &Access::anonymous(), Purpose::Pull).await.unwrap_err();
        assert_eq!(names(&self.dir.path().join("images/layers")), [""; 0], "{error}");
        error
    }
}

fn open(dir: &tempfile::TempDir) -> ImageStore {
    ImageStore::open(dir.path().join("images"), &RegistryConfig::default()).unwrap()
}

fn image(path: &Path, pull_policy: Option<PullPolicy>) -> Image {
    Image {
        source: ImageSource::Archive(path.to_str().unwrap().to_owned()),
        pull_policy,
        credential: None,
        keep_for: None,
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

#[tokio::test]
async fn archives_of_every_kind_are_unpacked() {
    let demo = DemoImage::new().layer(&[("etc/motd", b"hello")]).cmd(&["sleep"]);
    let native = longshore_demo_image::ARCHITECTURE;
    let kinds = [
        ("oci", demo.oci_archive()),
        ("oci with plain layers", demo.clone().compression(Compression::None).oci_archive()),
        ("docker", demo.docker_archive()),
        ("oci in gzip", gzip(&demo.oci_archive())),
        ("docker in gzip", gzip(&demo.docker_archive())),
        ("docker in zstd", zstd::encode_all(demo.docker_archive().as_slice(), 0).unwrap()),
        (
            "index",
            multi_platform_archive("x:1", &[demo.clone().architecture("sparc"), demo.clone().architecture(native)]),
        ),
    ];
    for (kind, bytes) in kinds {
        let bench = Bench::new();
        let resolved = bench.deploy(&bench.archive(&bytes)).await.unwrap_or_else(|error| panic!("{kind}: {error}"));
        let config = bench.store.config(&resolved.digest).await.unwrap();
        assert_eq!(config.config().as_ref().unwrap().cmd().as_ref().unwrap(), &["sleep"], "{kind}");
        let layers = bench.store.layer_dirs(&resolved.digest).await.unwrap();
        assert_eq!(layers.len(), 2, "{kind}");
        assert_eq!(fs::read(layers[0].join("app")).unwrap(), PROGRAM, "{kind}");
        assert_eq!(fs::metadata(layers[0].join("app")).unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(fs::metadata(layers[0].join("tmp")).unwrap().permissions().mode() & 0o7777, 0o1777);
        assert_eq!(fs::read(layers[1].join("etc/motd")).unwrap(), b"hello", "{kind}");
        assert_eq!(names(&bench.dir.path().join("images/tmp")), [""; 0], "{kind}");
    }
}

#[tokio::test]
async fn another_architecture_is_refused_before_any_layer_is_unpacked() {
    let bench = Bench::new();
    let native = longshore_demo_image::ARCHITECTURE;
    let sparc = DemoImage::new().architecture("sparc");
    let both = [DemoImage::new().architecture("vax"), sparc.clone()];
    for (bytes, named) in [
        (sparc.oci_archive(), "sparc"),
        (sparc.docker_archive(), "sparc"),
        (multi_platform_archive("x:1", &both), "sparc and vax"),
    ] {
        let error = bench.refusal(&bytes).await;
        assert_eq!(error.reason, FailureReason::ArchitectureMismatch);
        assert_eq!(error.message, format!("the image is for {named}, and this node is {native}"));
    }
}

#[tokio::test]
async fn what_is_no_image_is_refused() {
    let bench = Bench::new();
    let whole = DemoImage::new().docker_archive();
    let mut empty_tar = tar::Builder::new(Vec::new());
    empty_tar.finish().unwrap();
    let cases: [&[u8]; 6] =
        [b"", b"garbage", &[7; 100_000], &gzip(b"garbage"), &gzip(&whole)[..5000], &empty_tar.into_inner().unwrap()];
    for bytes in cases {
        assert_eq!(bench.refusal(bytes).await.reason, FailureReason::ImageInvalid);
    }

    let missing = bench
        .store
        .resolve(&image(Path::new("/no/such.tar"), None), &Access::anonymous(), Purpose::Pull)
        .await
        .unwrap_err();
    assert_eq!(missing.reason, FailureReason::ImageNotFound);
    assert_eq!(missing.message, "there is no image archive /no/such.tar on this node");
    let directory =
        bench.store.resolve(&image(bench.dir.path(), None), &Access::anonymous(), Purpose::Pull).await.unwrap_err();
    assert_eq!(directory.reason, FailureReason::ImageInvalid);
}

#[tokio::test]
async fn a_damaged_layer_is_refused_and_leaves_nothing() {
    let bench = Bench::new();
    let mut bytes = DemoImage::new().compression(Compression::None).oci_archive();
    let content = b"root:x:0:";
    let at = bytes.windows(content.len()).position(|window| window == content).unwrap();
    bytes[at] = b'x';
    let error = bench.deploy(&bench.archive(&bytes)).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::ImageInvalid, "{error}");
    for place in ["layers", "images", "tmp"] {
        assert_eq!(names(&bench.dir.path().join("images").join(place)), [""; 0], "{place}");
    }
}

#[tokio::test]
async fn an_image_outlives_its_archive_and_the_agent() {
    let bench = Bench::new();
    let archive = bench.archive(&DemoImage::new().oci_archive());
    let resolved = bench.deploy(&archive).await.unwrap();
    let ImageSource::Archive(path) = &archive.source else { panic!() };
    fs::remove_file(path).unwrap();
    fs::create_dir(bench.dir.path().join("images/tmp/layer-halfway")).unwrap();

    let store = open(&bench.dir);
    assert_eq!(names(&bench.dir.path().join("images/tmp")), [""; 0]);
    assert_eq!(store.resolve(&archive, &Access::anonymous(), Purpose::Pull).await.unwrap().image, resolved);
    store.pull(&resolved, &Access::anonymous(), Arc::new(|_| {})).await.unwrap();
    assert_eq!(store.layer_dirs(&resolved.digest).await.unwrap().len(), 1);
    let always = image(Path::new(path), Some(PullPolicy::Always));
    assert_eq!(
        store.resolve(&always, &Access::anonymous(), Purpose::Pull).await.unwrap_err().reason,
        FailureReason::ImageNotFound
    );
}

#[tokio::test]
async fn layers_are_shared_and_pulls_run_once() {
    let bench = Bench::new();
    let archive = bench.archive(&DemoImage::new().layer(&[("a", b"a")]).layer(&[("a", b"a")]).oci_archive());
    let resolved = bench.store.resolve(&archive, &Access::anonymous(), Purpose::Pull).await.unwrap().image;
    let seen = Arc::new(Mutex::new(Vec::<PullProgress>::new()));
    let sink: ProgressSink = {
        let seen = Arc::clone(&seen);
        Arc::new(move |progress| seen.lock().unwrap().push(progress))
    };
    let access = Access::anonymous();
    let pulls = (0..8).map(|_| bench.store.pull(&resolved, &access, Arc::clone(&sink)));
    futures::future::try_join_all(pulls).await.unwrap();

    assert_eq!(names(&bench.dir.path().join("images/layers")).len(), 2);
    assert_eq!(bench.store.layer_dirs(&resolved.digest).await.unwrap().len(), 2, "the same layer twice is one");
    let seen = seen.lock().unwrap().clone();
    assert!(seen.iter().all(|progress| progress.done <= progress.total && progress.total == seen[0].total));
    assert_eq!(seen.last().map(|progress| progress.done), seen.last().map(|progress| progress.total));

    // A pull that nobody waits for frees what it held.
    let other = bench.archive(&DemoImage::new().layer(&[("b", b"b")]).docker_archive());
    let resolved = bench.store.resolve(&other, &Access::anonymous(), Purpose::Pull).await.unwrap().image;
    drop(futures::poll!(Box::pin(bench.store.pull(&resolved, &Access::anonymous(), Arc::new(|_| {})))));
    bench.store.pull(&resolved, &Access::anonymous(), Arc::new(|_| {})).await.unwrap();
}

#[tokio::test]
async fn what_was_never_pulled_is_not_there() {
    let bench = Bench::new();
    let digest = Digest::of(b"x").to_string();
    assert_eq!(bench.store.config(&digest).await.unwrap_err().reason, FailureReason::ImageNotFound);
    let image = Image {
        source: ImageSource::Reference("localhost:1/x:1".to_owned()),
        pull_policy: Some(PullPolicy::Never),
        credential: None,
        keep_for: None,
    };
    let error = bench.store.resolve(&image, &Access::anonymous(), Purpose::Pull).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::ImageNotFound);
    let image = Image {
        source: ImageSource::Reference("Not A Reference".to_owned()),
        pull_policy: None,
        credential: None,
        keep_for: None,
    };
    assert_eq!(
        bench.store.resolve(&image, &Access::anonymous(), Purpose::Pull).await.unwrap_err().reason,
        FailureReason::ImageInvalid
    );
}

/// An overlay that is gone when dropped.
struct Overlay(tempfile::TempDir);

impl Overlay {
    fn mount(layers: &[PathBuf]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let lower: Vec<_> = layers.iter().rev().map(|layer| layer.to_str().unwrap()).collect();
        let options = format!("lowerdir={}", lower.join(":"));
        let flags = nix::mount::MsFlags::MS_RDONLY;
        nix::mount::mount(Some("overlay"), place.path(), Some("overlay"), flags, Some(options.as_str())).unwrap();
        Self(place)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = nix::mount::umount(self.0.path());
    }
}

#[tokio::test]
async fn overlayfs_shows_the_layers_as_one() {
    let bench = Bench::new();
    let demo = DemoImage::new()
        .layer(&[("d/old", b"1"), ("d/both", b"1"), ("e/old", b"1"), ("gone", b"1"), ("kept", b"1")])
        .layer(&[("d/.wh..wh..opq", b""), ("d/both", b"2"), (".wh.gone", b""), (".wh.e", b""), ("e/new", b"2")]);
    let resolved = bench.deploy(&bench.archive(&demo.oci_archive())).await.unwrap();
    let overlay = Overlay::mount(&bench.store.layer_dirs(&resolved.digest).await.unwrap());
    let root = overlay.0.path();
    assert_eq!(names(root), ["app", "d", "e", "etc", "kept", "tmp"]);
    assert_eq!(names(&root.join("d")), ["both"]);
    assert_eq!(fs::read(root.join("d/both")).unwrap(), b"2");
    assert_eq!(names(&root.join("e")), ["new"]);
    assert_eq!(fs::read(root.join("app")).unwrap(), PROGRAM);
}
