//! Images from a real registry: Debian's `docker-registry`, over TLS with an authority of its own, on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use longshore_agent::runtime::embedded::image::{ImageStore, RegistryConfig};
use longshore_agent::runtime::{ProgressSink, ResolvedImage, RuntimeError};
use longshore_demo_image::{ARCHITECTURE, DemoImage, PROGRAM, Parts};
use longshore_model::failure::FailureReason;
use longshore_model::spec::{Image, ImageSource, PullPolicy};
use longshore_model::task::PullProgress;
use oci_client::Reference;
use oci_client::client::{Certificate, CertificateEncoding, Client, ClientConfig};
use oci_client::secrets::RegistryAuth;
use serde_json::json;

/// A registry of one test alone.
struct Registry {
    child: Child,
    address: String,
    authority: Vec<u8>,
    dir: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Registry {
    fn start(with_passwords: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = certify(dir.path());
        let mut config = json!({
            "version": "0.1",
            "log": { "level": "info", "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": dir.path().join("storage") } },
            "http": {
                "addr": "127.0.0.1:0",
                "tls": { "certificate": dir.path().join("server.crt"), "key": dir.path().join("server.key") },
            },
        });
        if with_passwords {
            let passwords = dir.path().join("passwords");
            fs::write(&passwords, "nobody:$2y$05$abcdefghijklmnopqrstuuQhEXvWiHzGkDgVZGnwaWXVYiSpSLE3S\n").unwrap();
            config["auth"] = json!({ "htpasswd": { "realm": "test", "path": passwords } });
        }
        // JSON is YAML, which the registry reads.
        fs::write(dir.path().join("config.yml"), config.to_string()).unwrap();

        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("these tests need a registry: apt-get install docker-registry");
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = log
            .by_ref()
            .map(Result::unwrap)
            .find_map(|line| {
                let (_, rest) = line.split_once("listening on ")?;
                rest.split_once(", tls").map(|(address, _)| address.to_owned())
            })
            .expect("the registry ended instead of listening");
        // Somebody must read on, or the registry would end at its next line.
        std::thread::spawn(move || log.for_each(drop));
        Self { child, address, authority, dir }
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    fn client(&self) -> Client {
        let authority = Certificate { encoding: CertificateEncoding::Pem, data: self.authority.clone() };
        let config = ClientConfig { extra_root_certificates: vec![authority], ..ClientConfig::default() };
        Client::try_from(config).unwrap()
    }

    /// Pushes an image; returns the digest of its manifest.
    async fn push(&self, name: &str, image: &DemoImage) -> String {
        let parts = image.parts();
        let reference: Reference = self.reference(name).parse().unwrap();
        self.push_parts(&reference, &parts).await;
        push_document(&self.client(), &reference, parts.manifest.content, parts.manifest.media_type).await;
        parts.manifest.digest
    }

    async fn push_parts(&self, reference: &Reference, parts: &Parts) {
        let client = self.client();
        client.store_auth_if_needed(reference.resolve_registry(), &RegistryAuth::Anonymous).await;
        for blob in parts.layers.iter().chain([&parts.config]) {
            client.push_blob(reference, blob.content.clone(), &blob.digest).await.unwrap();
        }
    }

    fn store(&self) -> ImageStore {
        self.store_trusting(vec![self.authority.clone()])
    }

    fn store_trusting(&self, ca_pems: Vec<Vec<u8>>) -> ImageStore {
        ImageStore::open(self.dir.path().join("images"), &RegistryConfig { ca_pems }).unwrap()
    }

    fn has_no_layers(&self) -> bool {
        fs::read_dir(self.dir.path().join("images/layers")).unwrap().next().is_none()
    }
}

async fn push_document(client: &Client, reference: &Reference, content: Vec<u8>, media_type: &str) {
    client.push_manifest_raw(reference, content, media_type.parse().unwrap()).await.unwrap();
}

/// Makes an authority, and a certificate for loopback; returns the authority.
fn certify(dir: &Path) -> Vec<u8> {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let server = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    fs::write(dir.join("server.crt"), server.pem()).unwrap();
    fs::write(dir.join("server.key"), key.serialize_pem()).unwrap();
    authority.pem().into_bytes()
}

fn image(reference: &str, pull_policy: Option<PullPolicy>) -> Image {
    Image { source: ImageSource::Reference(reference.to_owned()), pull_policy }
}

async fn deploy(store: &ImageStore, image: &Image) -> Result<ResolvedImage, RuntimeError> {
    let resolved = store.resolve(image).await?;
    store.pull(&resolved, Arc::new(|_| {})).await?;
    Ok(resolved)
}

#[tokio::test]
async fn an_image_is_pulled_by_tag_and_by_digest() {
    let registry = Registry::start(false);
    let demo = DemoImage::new().layer(&[("etc/motd", b"hello")]);
    let digest = registry.push("shore/demo:1", &demo).await;
    let store = registry.store();

    let resolved = store.resolve(&image(&registry.reference("shore/demo:1"), None)).await.unwrap();
    assert_eq!(resolved.digest, digest);
    assert!(registry.has_no_layers());
    let seen = Arc::new(Mutex::new(Vec::<PullProgress>::new()));
    let sink: ProgressSink = {
        let seen = Arc::clone(&seen);
        Arc::new(move |progress| seen.lock().unwrap().push(progress))
    };
    store.pull(&resolved, sink).await.unwrap();
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
async fn the_platform_of_the_node_is_chosen_from_an_index() {
    let registry = Registry::start(false);
    let reference: Reference = registry.reference("shore/demo:many").parse().unwrap();
    let client = registry.client();
    let mut manifests = Vec::new();
    for architecture in ["sparc", ARCHITECTURE] {
        let parts = DemoImage::new().architecture(architecture).parts();
        registry.push_parts(&reference, &parts).await;
        let manifest = parts.manifest;
        manifests.push(json!({
            "mediaType": manifest.media_type,
            "digest": manifest.digest,
            "size": manifest.content.len(),
            "platform": { "architecture": architecture, "os": "linux" },
        }));
        let place = reference.clone_with_digest(manifest.digest);
        push_document(&client, &place, manifest.content, manifest.media_type).await;
    }
    let wanted = manifests[1]["digest"].as_str().unwrap().to_owned();
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests }).to_string();
    push_document(&client, &reference, index.into_bytes(), media_type).await;

    let resolved = deploy(&registry.store(), &image(&reference.whole(), None)).await.unwrap();
    assert_eq!(resolved.digest, wanted);
}

#[tokio::test]
async fn another_architecture_and_missing_images_are_refused() {
    let registry = Registry::start(false);
    registry.push("shore/demo:sparc", &DemoImage::new().architecture("sparc")).await;
    let store = registry.store();

    let error = store.resolve(&image(&registry.reference("shore/demo:sparc"), None)).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::ArchitectureMismatch);
    assert_eq!(error.message, format!("the image is for sparc, and this node is {ARCHITECTURE}"));
    assert!(registry.has_no_layers());

    for name in ["shore/demo:other", "shore/other:1", &format!("shore/demo@sha256:{}", "0".repeat(64))] {
        let error = store.resolve(&image(&registry.reference(name), None)).await.unwrap_err();
        assert_eq!(error.reason, FailureReason::ImageNotFound, "{name}: {error}");
        assert!(error.message.contains(name), "{error}");
    }
}

#[tokio::test]
async fn pull_policies_say_when_the_registry_is_asked() {
    let mut registry = Registry::start(false);
    let first = registry.push("shore/demo:1", &DemoImage::new()).await;
    let store = registry.store();
    let reference = registry.reference("shore/demo:1");
    let with = |policy| image(&reference, Some(policy));

    let error = store.resolve(&with(PullPolicy::Never)).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::ImageNotFound);
    assert_eq!(deploy(&store, &with(PullPolicy::IfNotPresent)).await.unwrap().digest, first);

    let second = registry.push("shore/demo:1", &DemoImage::new().env("VERSION", "2")).await;
    assert_ne!(first, second);
    assert_eq!(store.resolve(&with(PullPolicy::IfNotPresent)).await.unwrap().digest, first);
    assert_eq!(store.resolve(&with(PullPolicy::Never)).await.unwrap().digest, first);
    // What is only resolved is not on the node.
    assert_eq!(store.resolve(&with(PullPolicy::Always)).await.unwrap().digest, second);
    assert_eq!(store.resolve(&with(PullPolicy::Never)).await.unwrap().digest, first);
    assert_eq!(deploy(&store, &with(PullPolicy::Always)).await.unwrap().digest, second);
    assert_eq!(store.resolve(&with(PullPolicy::Never)).await.unwrap().digest, second);

    registry.stop();
    drop(store);
    let store = registry.store();
    assert_eq!(deploy(&store, &with(PullPolicy::IfNotPresent)).await.unwrap().digest, second);
    let error = store.resolve(&with(PullPolicy::Always)).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::RegistryUnreachable);
    assert!(error.message.contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn only_trusted_registries_are_talked_to() {
    let registry = Registry::start(false);
    registry.push("shore/demo:1", &DemoImage::new()).await;
    let wanted = image(&registry.reference("shore/demo:1"), None);
    let other = certify(tempfile::tempdir().unwrap().path());
    let error = registry.store_trusting(vec![other]).resolve(&wanted).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::RegistryUnreachable);
    assert!(error.message.contains("certificate"), "{error}");
    let nonsense = RegistryConfig { ca_pems: vec![b"no certificate".to_vec()] };
    assert!(ImageStore::open(registry.dir.path().join("other"), &nonsense).is_err());
}

#[tokio::test]
async fn a_registry_that_wants_a_password_denies_access() {
    let registry = Registry::start(true);
    let error = registry.store().resolve(&image(&registry.reference("shore/demo:1"), None)).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::ImageAccessDenied, "{error}");
}

#[tokio::test]
async fn a_damaged_layer_is_refused_and_can_be_pulled_when_mended() {
    let registry = Registry::start(false);
    let demo = DemoImage::new();
    registry.push("shore/demo:1", &demo).await;
    let store = registry.store();
    let resolved = store.resolve(&image(&registry.reference("shore/demo:1"), None)).await.unwrap();

    let layer = demo.parts().layers[0].digest.replace("sha256:", "");
    let blobs = registry.dir.path().join("storage/docker/registry/v2/blobs/sha256");
    let blob = blobs.join(&layer[..2]).join(&layer).join("data");
    let whole = fs::read(&blob).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&blob, damaged).unwrap();
    let error = store.pull(&resolved, Arc::new(|_| {})).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::ImageInvalid, "{error}");
    assert!(registry.has_no_layers());

    fs::write(&blob, whole).unwrap();
    store.pull(&resolved, Arc::new(|_| {})).await.unwrap();
}
