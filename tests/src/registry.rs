//! Debian's `docker-registry`, over TLS with an authority of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use longshore_demo_image::{DemoImage, Parts};
use oci_client::Reference;
use oci_client::client::{Certificate, CertificateEncoding, Client, ClientConfig};
use oci_client::secrets::RegistryAuth;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::host::Host;
use crate::tokens::TokenService;

/// Who may use a registry with passwords.
pub const USERNAME: &str = "robot";
/// The password; it stands nowhere else, so that it can be searched for.
pub const PASSWORD: &str = "canary-Pq7>?~rT";
/// Its bcrypt hash.
const PASSWORD_HASH: &str = "$2b$05$NNNNNNNNNNNNNNNNNNNNNuXJtWy0y.lGoQ.tHrbNH9WrXPsbyrAdS";

/// What stands between a registry and everybody.
#[derive(Clone, Copy)]
pub enum Guard<'a> {
    /// Nothing.
    None,
    /// The password of [`USERNAME`].
    Passwords,
    /// The tokens of this service.
    Tokens(&'a TokenService),
}

/// A registry of one test alone.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    namespace: Option<String>,
    address: String,
    authority: Vec<u8>,
    /// The authorities of everything that its clients talk to.
    trusted: Vec<Vec<u8>>,
    directory: tempfile::TempDir,
    auth: RegistryAuth,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Registry {
    /// Starts it on a free port of loopback; `with_passwords` refuses everybody but [`USERNAME`].
    ///
    /// # Panics
    ///
    /// When `docker-registry` is not installed.
    pub fn start(with_passwords: bool) -> Self {
        Self::start_on(None, if with_passwords { Guard::Passwords } else { Guard::None })
    }

    /// Starts it on a host, which the calling thread reaches if it is on the same switch.
    ///
    /// # Panics
    ///
    /// When `docker-registry` is not installed.
    pub fn start_on(host: Option<&Host>, guard: Guard<'_>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = host.map_or(Ipv4Addr::LOCALHOST, |host| host.address).to_string();
        let authority = certify(directory.path(), &[&address, "localhost"]);
        let file = |name: &str| directory.path().join(name);
        let mut config = json!({
            "version": "0.1",
            "log": { "level": "info", "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": file("storage") } },
            "http": {
                "addr": format!("{address}:0"),
                "tls": { "certificate": file("server.crt"), "key": file("server.key") },
            },
        });
        let mut trusted = vec![authority.clone()];
        match guard {
            Guard::None => {}
            Guard::Passwords => {
                fs::write(file("passwords"), format!("{USERNAME}:{PASSWORD_HASH}\n")).unwrap();
                config["auth"] = json!({ "htpasswd": { "realm": "test", "path": file("passwords") } });
            }
            Guard::Tokens(service) => {
                config["auth"] = service.config(directory.path());
                trusted.push(service.server().authority().to_vec());
            }
        }
        let auth = match guard {
            Guard::None => RegistryAuth::Anonymous,
            Guard::Passwords | Guard::Tokens(_) => RegistryAuth::Basic(USERNAME.to_owned(), PASSWORD.to_owned()),
        };
        // JSON is YAML, which the registry reads.
        fs::write(file("config.yml"), config.to_string()).unwrap();
        let namespace = host.map(|host| host.namespace().to_owned());
        let (child, address) = serve(&file("config.yml"), namespace.as_deref());
        Self { child, namespace, address, authority, trusted, directory, auth }
    }

    /// Starts it again where it was.
    pub fn begin(&mut self) {
        let path = self.directory.path().join("config.yml");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["http"]["addr"] = json!(self.address);
        fs::write(&path, config.to_string()).unwrap();
        (self.child, _) = serve(&path, self.namespace.as_deref());
    }

    /// Ends it; what it holds stays until it is dropped.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The authority that its certificate is of, in PEM.
    pub fn authority(&self) -> &[u8] {
        &self.authority
    }

    /// Where it keeps its configuration, keys and blobs.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The whole reference of an image in it.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// A client that trusts it.
    pub fn client(&self) -> Client {
        let trusted = self.trusted.iter().cloned();
        let trusted = trusted.map(|data| Certificate { encoding: CertificateEncoding::Pem, data });
        let config = ClientConfig { extra_root_certificates: trusted.collect(), ..ClientConfig::default() };
        Client::try_from(config).unwrap()
    }

    /// Pushes an image; returns the digest of its manifest.
    pub async fn push(&self, name: &str, image: &DemoImage) -> String {
        let parts = image.parts();
        let reference: Reference = self.reference(name).parse().unwrap();
        self.push_parts(&reference, &parts).await;
        let client = self.client();
        client.store_auth_if_needed(reference.resolve_registry(), &self.auth).await;
        push_document(&client, &reference, parts.manifest.content, parts.manifest.media_type).await;
        parts.manifest.digest
    }

    /// Pushes images under one name, each for an architecture; returns the digests of their manifests and of the index.
    pub async fn push_index(&self, name: &str, images: &[(&str, &DemoImage)]) -> (Vec<String>, String) {
        let reference: Reference = self.reference(name).parse().unwrap();
        let client = self.client();
        client.store_auth_if_needed(reference.resolve_registry(), &self.auth).await;
        let mut manifests = Vec::new();
        for &(architecture, image) in images {
            let parts = image.clone().architecture(architecture).parts();
            self.push_parts(&reference, &parts).await;
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
        let digests = manifests.iter().map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect();
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests }).to_string();
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&index)));
        push_document(&client, &reference, index.into_bytes(), media_type).await;
        (digests, digest)
    }

    /// Pushes what an image's manifest speaks of.
    pub async fn push_parts(&self, reference: &Reference, parts: &Parts) {
        let client = self.client();
        client.store_auth_if_needed(reference.resolve_registry(), &self.auth).await;
        for blob in parts.layers.iter().chain([&parts.config]) {
            client.push_blob(reference, blob.content.clone(), &blob.digest).await.unwrap();
        }
    }
}

/// Pushes a manifest or an index as it stands.
pub async fn push_document(client: &Client, reference: &Reference, content: Vec<u8>, media_type: &str) {
    client.push_manifest_raw(reference, content, media_type.parse().unwrap()).await.unwrap();
}

/// Runs a registry until it listens; returns where.
fn serve(config: &Path, namespace: Option<&str>) -> (Child, String) {
    let mut command = match namespace {
        None => Command::new("docker-registry"),
        Some(namespace) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/run/netns/{namespace}")).arg("docker-registry");
            command
        }
    };
    command.arg("serve").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("these tests need a registry: apt-get install docker-registry");
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
    (child, address)
}

/// Makes an authority, and a server's certificate for these names and addresses; returns the authority.
pub fn certify(dir: &Path, names: &[&str]) -> Vec<u8> {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let server = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    fs::write(dir.join("server.crt"), server.pem()).unwrap();
    fs::write(dir.join("server.key"), key.serialize_pem()).unwrap();
    authority.pem().into_bytes()
}
