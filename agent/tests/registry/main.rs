//! Images from a real registry: Debian's `docker-registry`, over TLS with an authority of its own, on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod obstacles;
mod tokens;

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use longshore_agent::runtime::image::{ImageStore, RegistryConfig};
use longshore_agent::runtime::{
    Access, Keyring, ProgressSink, Purpose, RegistryCredential, ResolvedImage, RuntimeError,
};
use longshore_demo_image::{ARCHITECTURE, DemoImage, PROGRAM};
use longshore_model::assignment::ImageAccess;
use longshore_model::failure::FailureReason;
use longshore_model::name::AppName;
use longshore_model::registry::Scope;
use longshore_model::secret::Secret;
use longshore_model::spec::{Image, ImageSource, PullPolicy};
use longshore_model::task::PullProgress;
use longshore_tests::registry::{PASSWORD, Registry, USERNAME, certify};

fn open_store(registry: &Registry) -> ImageStore {
    store_trusting(registry, vec![registry.authority().to_vec()])
}

fn store_trusting(registry: &Registry, ca_pems: Vec<Vec<u8>>) -> ImageStore {
    store_with(registry, &RegistryConfig { ca_pems, ..RegistryConfig::default() })
}

fn store_with(registry: &Registry, config: &RegistryConfig) -> ImageStore {
    ImageStore::open(registry.directory().join("images"), config).unwrap()
}

fn has_no_layers(registry: &Registry) -> bool {
    fs::read_dir(registry.directory().join("images/layers")).unwrap().next().is_none()
}

fn image(reference: &str, pull_policy: Option<PullPolicy>) -> Image {
    Image { source: ImageSource::Reference(reference.to_owned()), pull_policy, credential: None, keep_for: None }
}

async fn deploy(store: &ImageStore, image: &Image) -> Result<ResolvedImage, RuntimeError> {
    deploy_as(store, image, &Access::anonymous()).await
}

async fn deploy_as(store: &ImageStore, image: &Image, access: &Access) -> Result<ResolvedImage, RuntimeError> {
    let resolved = store.resolve(image, access, Purpose::Pull).await?.image;
    store.pull(&resolved, access, Arc::new(|_| {})).await?;
    Ok(resolved)
}

#[tokio::test]
async fn an_image_is_pulled_by_tag_and_by_digest() {
    let registry = Registry::start(false);
    let demo = DemoImage::new().layer(&[("etc/motd", b"hello")]);
    let digest = registry.push("shore/demo:1", &demo).await;
    let store = open_store(&registry);

    let resolved = store
        .resolve(&image(&registry.reference("shore/demo:1"), None), &Access::anonymous(), Purpose::Pull)
        .await
        .unwrap()
        .image;
    assert_eq!(resolved.digest, digest);
    assert!(has_no_layers(&registry));
    let seen = Arc::new(Mutex::new(Vec::<PullProgress>::new()));
    let sink: ProgressSink = {
        let seen = Arc::clone(&seen);
        Arc::new(move |progress| seen.lock().unwrap().push(progress))
    };
    store.pull(&resolved, &Access::anonymous(), sink).await.unwrap();
    let layers = store.layer_dirs(&digest).await.unwrap();
    assert_eq!(fs::read(layers[0].join("app")).unwrap(), PROGRAM);
    assert_eq!(fs::read(layers[1].join("etc/motd")).unwrap(), b"hello");
    let packed: u64 = demo.parts().layers.iter().map(|layer| layer.content.len() as u64).sum();
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.first(), Some(&PullProgress { done: 0, total: packed }));
    assert_eq!(seen.last(), Some(&PullProgress { done: packed, total: packed }));
    assert!(seen.is_sorted_by_key(|progress| progress.done), "{seen:?}");

    let by_digest = image(&registry.reference(&format!("shore/demo@{digest}")), None);
    // As a task, since the agent's workers are tasks, too.
    let deployed = tokio::spawn(async move { deploy(&store, &by_digest).await });
    assert_eq!(deployed.await.unwrap().unwrap().digest, digest);
}

#[tokio::test]
async fn what_a_pull_would_fetch_is_told_without_a_trace() {
    let registry = Registry::start(false);
    let base = DemoImage::new().layer(&[("a", b"the same in both")]);
    registry.push("shore/demo:1", &base).await;
    let further = base.clone().layer(&[("b", &[7; 5000])]);
    registry.push("shore/demo:2", &further).await;
    let store = open_store(&registry);
    let files = || {
        let mut found = Vec::new();
        for kind in ["layers", "images", "resolved", "names", "used", "tmp"] {
            let entries = fs::read_dir(registry.directory().join("images").join(kind)).unwrap();
            found.extend(entries.map(|entry| entry.unwrap().path()));
        }
        found
    };
    let look = async |name: &str| {
        let image = image(&registry.reference(name), None);
        store.resolve(&image, &Access::anonymous(), Purpose::Foresight).await
    };
    let packed: Vec<u64> = further.parts().layers.iter().map(|layer| layer.content.len() as u64).collect();
    let found = look("shore/demo:2").await.unwrap();
    assert_eq!((found.fetch, found.room[0].needed), (packed.iter().sum(), packed.iter().sum()));
    assert_eq!(look("shore/demo:3").await.unwrap_err().reason, FailureReason::ImageNotFound);
    assert!(files().is_empty(), "{:?}", files());

    deploy(&store, &image(&registry.reference("shore/demo:1"), None)).await.unwrap();
    let before = files();
    assert_eq!(look("shore/demo:2").await.unwrap().fetch, packed[2], "the layer that it has alone");
    assert_eq!(look("shore/demo:1").await.unwrap().fetch, 0);
    assert_eq!(files(), before);
}

#[tokio::test]
async fn the_platform_of_the_node_is_chosen_from_an_index() {
    let registry = Registry::start(false);
    let demo = DemoImage::new();
    let (digests, index) = registry.push_index("shore/demo:many", &[("sparc", &demo), (ARCHITECTURE, &demo)]).await;
    let store = open_store(&registry);
    for name in ["shore/demo:many".to_owned(), format!("shore/demo@{index}")] {
        let resolved = deploy(&store, &image(&registry.reference(&name), None)).await.unwrap();
        assert_eq!(resolved.digest, digests[1], "{name}");
    }
}

#[tokio::test]
async fn another_architecture_and_missing_images_are_refused() {
    let registry = Registry::start(false);
    registry.push("shore/demo:sparc", &DemoImage::new().architecture("sparc")).await;
    let store = open_store(&registry);

    let error = store
        .resolve(&image(&registry.reference("shore/demo:sparc"), None), &Access::anonymous(), Purpose::Pull)
        .await
        .unwrap_err();
    assert_eq!(error.reason, FailureReason::ArchitectureMismatch);
    assert_eq!(error.message, format!("the image is for sparc, and this node is {ARCHITECTURE}"));
    assert!(has_no_layers(&registry));

    for name in ["shore/demo:other", "shore/other:1", &format!("shore/demo@sha256:{}", "0".repeat(64))] {
        let error = store
            .resolve(&image(&registry.reference(name), None), &Access::anonymous(), Purpose::Pull)
            .await
            .unwrap_err();
        assert_eq!(error.reason, FailureReason::ImageNotFound, "{name}: {error}");
        assert!(error.message.contains(name), "{error}");
    }
}

#[tokio::test]
async fn pull_policies_say_when_the_registry_is_asked() {
    let mut registry = Registry::start(false);
    let first = registry.push("shore/demo:1", &DemoImage::new()).await;
    let store = open_store(&registry);
    let reference = registry.reference("shore/demo:1");
    let with = |policy| image(&reference, Some(policy));

    let error = store.resolve(&with(PullPolicy::Never), &Access::anonymous(), Purpose::Pull).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::ImageNotFound);
    assert_eq!(deploy(&store, &with(PullPolicy::IfNotPresent)).await.unwrap().digest, first);

    let second = registry.push("shore/demo:1", &DemoImage::new().env("VERSION", "2")).await;
    assert_ne!(first, second);
    assert_eq!(
        store.resolve(&with(PullPolicy::IfNotPresent), &Access::anonymous(), Purpose::Pull).await.unwrap().image.digest,
        first
    );
    assert_eq!(
        store.resolve(&with(PullPolicy::Never), &Access::anonymous(), Purpose::Pull).await.unwrap().image.digest,
        first
    );
    // What is only resolved is not on the node.
    assert_eq!(
        store.resolve(&with(PullPolicy::Always), &Access::anonymous(), Purpose::Pull).await.unwrap().image.digest,
        second
    );
    assert_eq!(
        store.resolve(&with(PullPolicy::Never), &Access::anonymous(), Purpose::Pull).await.unwrap().image.digest,
        first
    );
    assert_eq!(deploy(&store, &with(PullPolicy::Always)).await.unwrap().digest, second);
    assert_eq!(
        store.resolve(&with(PullPolicy::Never), &Access::anonymous(), Purpose::Pull).await.unwrap().image.digest,
        second
    );

    registry.stop();
    drop(store);
    let store = open_store(&registry);
    assert_eq!(deploy(&store, &with(PullPolicy::IfNotPresent)).await.unwrap().digest, second);
    let error = store.resolve(&with(PullPolicy::Always), &Access::anonymous(), Purpose::Pull).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::RegistryUnreachable);
    assert!(error.message.contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn only_trusted_registries_are_talked_to() {
    let registry = Registry::start(false);
    registry.push("shore/demo:1", &DemoImage::new()).await;
    let wanted = image(&registry.reference("shore/demo:1"), None);
    let other = certify(tempfile::tempdir().unwrap().path(), &["127.0.0.1"]);
    let error =
        store_trusting(&registry, vec![other]).resolve(&wanted, &Access::anonymous(), Purpose::Pull).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::RegistryUnreachable);
    assert!(error.message.contains("certificate"), "{error}");
    let nonsense = RegistryConfig { ca_pems: vec![b"no certificate".to_vec()], ..RegistryConfig::default() };
    assert!(ImageStore::open(registry.directory().join("other"), &nonsense).is_err());
}

#[tokio::test]
async fn a_registry_that_wants_a_password_denies_access() {
    let registry = Registry::start(true);
    let error = open_store(&registry)
        .resolve(&image(&registry.reference("shore/demo:1"), None), &Access::anonymous(), Purpose::Pull)
        .await
        .unwrap_err();
    assert_eq!(error.reason, FailureReason::ImageAccessDenied, "{error}");
}

#[tokio::test]
async fn a_damaged_layer_is_refused_and_can_be_pulled_when_mended() {
    let registry = Registry::start(false);
    let demo = DemoImage::new();
    registry.push("shore/demo:1", &demo).await;
    let store = open_store(&registry);
    let resolved = store
        .resolve(&image(&registry.reference("shore/demo:1"), None), &Access::anonymous(), Purpose::Pull)
        .await
        .unwrap()
        .image;

    let layer = demo.parts().layers[0].digest.replace("sha256:", "");
    let blobs = registry.directory().join("storage/docker/registry/v2/blobs/sha256");
    let blob = blobs.join(&layer[..2]).join(&layer).join("data");
    let whole = fs::read(&blob).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&blob, damaged).unwrap();
    let error = store.pull(&resolved, &Access::anonymous(), Arc::new(|_| {})).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::ImageInvalid, "{error}");
    assert!(has_no_layers(&registry));

    fs::write(&blob, whole).unwrap();
    store.pull(&resolved, &Access::anonymous(), Arc::new(|_| {})).await.unwrap();
}

/// Gives everybody the same credential, and counts how often it was asked.
struct Ring(RegistryCredential, AtomicUsize);

#[async_trait::async_trait]
impl Keyring for Ring {
    async fn credential(&self, _: &AppName) -> Result<Option<RegistryCredential>, RuntimeError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Ok(Some(self.0.clone()))
    }
}

fn ring(registry: &Registry, password: &str) -> (Arc<Ring>, Access) {
    ring_for(registry.address(), password, registry.authority())
}

fn ring_for(registry: &str, password: &str, authority: &[u8]) -> (Arc<Ring>, Access) {
    let credential = RegistryCredential {
        name: "shop".to_owned(),
        registry: Scope::parse(registry).unwrap(),
        username: USERNAME.to_owned(),
        password: Secret::new(password.to_owned()),
        ca_certificate_pem: String::from_utf8(authority.to_vec()).unwrap(),
    };
    let ring = Arc::new(Ring(credential, AtomicUsize::new(0)));
    let access = Access::of(AppName::parse("till").unwrap(), ImageAccess::Credential, Arc::<Ring>::clone(&ring));
    (ring, access)
}

#[tokio::test]
async fn a_credential_opens_a_private_registry_by_tag_and_digest_and_brings_its_authority() {
    let registry = Registry::start(true);
    let digest = registry.push("shore/demo:1", &DemoImage::new()).await;
    // The node itself trusts nobody in particular: the authority comes with the credential.
    let store = store_trusting(&registry, Vec::new());
    let (ring, access) = ring(&registry, PASSWORD);
    for name in ["shore/demo:1".to_owned(), format!("shore/demo@{digest}")] {
        let wanted = image(&registry.reference(&name), Some(PullPolicy::Always));
        let resolved = store.resolve(&wanted, &access, Purpose::Pull).await.unwrap().image;
        store.pull(&resolved, &access, Arc::new(|_| {})).await.unwrap();
        assert_eq!(resolved.digest, digest);
    }
    let asked = ring.1.load(Ordering::Relaxed);
    let here = image(&registry.reference("shore/demo:1"), Some(PullPolicy::IfNotPresent));
    let resolved = store.resolve(&here, &access, Purpose::Pull).await.unwrap().image;
    store.pull(&resolved, &access, Arc::new(|_| {})).await.unwrap();
    assert_eq!(ring.1.load(Ordering::Relaxed), asked, "an image that is here needs no credential");
    let missing = image(&registry.reference("shore/demo:2"), None);
    let error = store.resolve(&missing, &access, Purpose::Pull).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::ImageNotFound, "{error}");
    let images = registry.directory().join("images");
    assert!(!holds(&images, PASSWORD.as_bytes()), "no password on the disk");
    assert!(holds(&images, b"shore/demo"), "the search finds what is there");
}

/// Whether any file below a directory holds these bytes.
fn holds(directory: &std::path::Path, wanted: &[u8]) -> bool {
    fs::read_dir(directory).unwrap().any(|entry| {
        let entry = entry.unwrap();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => holds(&entry.path(), wanted),
            kind if kind.is_file() => {
                fs::read(entry.path()).unwrap().windows(wanted.len()).any(|bytes| bytes == wanted)
            }
            _ => false,
        }
    })
}

#[tokio::test]
async fn a_wrong_password_names_registry_and_credential_and_is_shown_to_no_other_registry() {
    let registry = Registry::start(true);
    registry.push("shore/demo:1", &DemoImage::new()).await;
    let store = store_trusting(&registry, Vec::new());
    let wanted = image(&registry.reference("shore/demo:1"), None);
    let (_, wrong) = ring(&registry, "canary-wrong");
    let error = store.resolve(&wanted, &wrong, Purpose::Pull).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::ImageAccessDenied, "{error}");
    assert!(error.message.contains(registry.address()) && error.message.contains("credential shop"), "{error}");
    assert!(!format!("{error:?}").contains("canary"), "{error:?}");

    let (_, right) = ring(&registry, PASSWORD);
    let resolved = store.resolve(&wanted, &right, Purpose::Pull).await.unwrap().image;
    let error = store.pull(&resolved, &wrong, Arc::new(|_| {})).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::ImageAccessDenied, "no token of an earlier pull is used: {error}");
    let other = Registry::start(false);
    let error = store.resolve(&image(&other.reference("shore/demo:1"), None), &right, Purpose::Pull).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::ImageAccessDenied);
    assert!(error.message.contains("is for"), "{error}");
}
