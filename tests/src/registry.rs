//! Debian's `docker-registry`, over TLS with an authority of its own, on loopback.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use longshore_demo_image::{DemoImage, Parts};
use oci_client::Reference;
use oci_client::client::{Certificate, CertificateEncoding, Client, ClientConfig};
use oci_client::secrets::RegistryAuth;
use serde_json::json;

/// Who may use a registry with passwords.
pub const USERNAME: &str = "robot";
/// The password; it stands nowhere else, so that it can be searched for.
pub const PASSWORD: &str = "canary-Pq7>?~rT";
/// Its bcrypt hash.
const PASSWORD_HASH: &str = "$2b$05$NNNNNNNNNNNNNNNNNNNNNuXJtWy0y.lGoQ.tHrbNH9WrXPsbyrAdS";

/// A registry of one test alone.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    address: String,
    authority: Vec<u8>,
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
        let directory = tempfile::tempdir().unwrap();
        let authority = certify(directory.path());
        let mut config = json!({
            "version": "0.1",
            "log": { "level": "info", "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": directory.path().join("storage") } },
            "http": {
                "addr": "127.0.0.1:0",
                "tls": { "certificate": directory.path().join("server.crt"), "key": directory.path().join("server.key") },
            },
        });
        if with_passwords {
            let passwords = directory.path().join("passwords");
            fs::write(&passwords, format!("{USERNAME}:{PASSWORD_HASH}\n")).unwrap();
            config["auth"] = json!({ "htpasswd": { "realm": "test", "path": passwords } });
        }
        // JSON is YAML, which the registry reads.
        fs::write(directory.path().join("config.yml"), config.to_string()).unwrap();

        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(directory.path().join("config.yml"))
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
        let auth = if with_passwords {
            RegistryAuth::Basic(USERNAME.to_owned(), PASSWORD.to_owned())
        } else {
            RegistryAuth::Anonymous
        };
        Self { child, address, authority, directory, auth }
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
        let authority = Certificate { encoding: CertificateEncoding::Pem, data: self.authority.clone() };
        let config = ClientConfig { extra_root_certificates: vec![authority], ..ClientConfig::default() };
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

/// Makes an authority, and a certificate for loopback; returns the authority.
pub fn certify(dir: &Path) -> Vec<u8> {
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
