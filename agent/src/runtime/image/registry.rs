//! Images in registries, over TLS, with a credential or without.

use std::fs::File;
use std::future::Future;
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use futures::StreamExt;
use longshore_model::backoff::Backoff;
use oci_client::client::{Certificate, CertificateEncoding, Client, ClientConfig};
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

pub(crate) use oci_client::Reference;

use super::digest::Digest;
use super::disk::{ImageRecord, LayerRecord};
use super::error::ImageError;
use super::flight::Progress;
use super::manifest::{self, Descriptor, Document, MAX_DOCUMENT};
use crate::runtime::RegistryCredential;

/// Time to reach a registry.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time without a byte after which a registry counts as gone.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for one manifest or configuration, which are small.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// Tries of one request: enough for a registry that restarts, and few enough to say soon that there is none.
const MAX_TRIES: u32 = 4;
/// Between tries.
const RETRY: Backoff = Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(5) };

const MANIFEST_TYPES: &[&str] = &[
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    /// PEM bundles of authorities to trust beside those of the system.
    pub ca_pems: Vec<Vec<u8>>,
}

/// All registries.
pub(crate) struct Registries {
    authorities: Vec<Certificate>,
    client: OnceLock<Client>,
}

/// A failed try.
struct Failure {
    error: ImageError,
    /// Whether another try may succeed.
    passing: bool,
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self { error, passing: false }
    }
}

impl Registries {
    /// Checks the configuration; connects to nothing.
    pub(crate) fn new(config: &RegistryConfig) -> Result<Self, ImageError> {
        let mut authorities = Vec::new();
        for bundle in &config.ca_pems {
            authorities.extend(certificates(bundle)?);
        }
        Ok(Self { authorities, client: OnceLock::new() })
    }

    /// What a registry is asked through, by whoever has this credential.
    ///
    /// With a credential it is a client of its own, which takes password and tokens with it when it is dropped; nothing of
    /// an older password is left to be used again.
    pub(crate) async fn visit(
        &self,
        reference: &Reference,
        credential: Option<RegistryCredential>,
    ) -> Result<Visit, ImageError> {
        let (client, auth, known_as) = match credential {
            None => (self.anonymous()?.clone(), RegistryAuth::Anonymous, None),
            Some(credential) => {
                let RegistryCredential { name, registry, username, password, ca_certificate_pem } = credential;
                // The server has looked, too; a password goes nowhere else, whoever is mistaken.
                if registry.fits(reference).is_none() {
                    let message = format!("the registry credential {name} is for {registry}, not for {reference}");
                    return Err(ImageError::AccessDenied(message));
                }
                let mut authorities = self.authorities.clone();
                if !ca_certificate_pem.is_empty() {
                    authorities.extend(certificates(ca_certificate_pem.as_bytes())?);
                }
                let auth = RegistryAuth::Basic(username, password.reveal().to_owned());
                (client(authorities)?, auth, Some(name))
            }
        };
        // Blobs are fetched with what is known by then.
        client.store_auth_if_needed(reference.resolve_registry(), &auth).await;
        Ok(Visit { client, auth, known_as })
    }

    /// The client of those without a credential, made at the first use: it needs the system's authorities, which a node
    /// that only knows archives may not have.
    fn anonymous(&self) -> Result<&Client, ImageError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = client(self.authorities.clone())?;
        Ok(self.client.get_or_init(|| client))
    }
}

fn client(authorities: Vec<Certificate>) -> Result<Client, ImageError> {
    let config = ClientConfig {
        extra_root_certificates: authorities,
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(STALL_TIMEOUT),
        user_agent: concat!("longshore-agent/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    Client::try_from(config)
        .map_err(|error| ImageError::Unreachable(format!("this node cannot verify any registry: {}", deepest(&error))))
}

/// The certificates of a PEM bundle, of which there must be one.
fn certificates(bundle: &[u8]) -> Result<Vec<Certificate>, ImageError> {
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        let certificate = certificate
            .map_err(|error| ImageError::io("read the registry authorities", io::Error::other(error.to_string())))?;
        found.push(Certificate { encoding: CertificateEncoding::Der, data: certificate.as_ref().to_vec() });
    }
    if found.is_empty() {
        return Err(ImageError::io("read the registry authorities", io::Error::other("a file has no certificate")));
    }
    Ok(found)
}

/// One pull's way to a registry.
pub(crate) struct Visit {
    client: Client,
    auth: RegistryAuth,
    /// Name of the credential, for messages.
    known_as: Option<String>,
}

impl Visit {
    /// Finds the image for a node of this architecture, and what its layers are; fetches no layer.
    pub(crate) async fn resolve(&self, reference: &Reference, node: &str) -> Result<ImageRecord, ImageError> {
        let mut place = reference.clone();
        let (mut digest, mut document) = self.manifest(&place).await?;
        if let Document::Index(entries) = &document {
            let chosen = manifest::choose(entries, node)?;
            place = reference.clone_with_digest(chosen.digest.to_string());
            (digest, document) = self.manifest(&place).await?;
        }
        let Document::Manifest(image) = document else {
            return Err(ImageError::Invalid(format!("{reference} is an index that leads to another index")));
        };
        let config = self.config(reference, &image.config).await?;
        let diff_ids = manifest::check_config(&config, image.layers.len(), node)?;
        let layers = diff_ids.into_iter().zip(image.layers);
        Ok(ImageRecord {
            digest,
            config: String::from_utf8_lossy(&config).into_owned(),
            layers: layers
                .map(|(diff_id, layer)| LayerRecord { diff_id, size: layer.size, packed: Some(layer.digest) })
                .collect(),
        })
    }

    async fn manifest(&self, reference: &Reference) -> Result<(Digest, Document), ImageError> {
        let mut tries = Tries::default();
        loop {
            match in_time(reference, self.fetch_manifest(reference)).await {
                Ok(found) => return Ok(found),
                Err(failure) => tries.wait_after(failure, reference).await?,
            }
        }
    }

    async fn fetch_manifest(&self, reference: &Reference) -> Result<(Digest, Document), Failure> {
        let fetch = self.client.pull_manifest_raw(reference, &self.auth, MANIFEST_TYPES);
        let (body, _) = fetch.await.map_err(|error| classify(reference, self.known_as.as_deref(), &error))?;
        // The client has read all of it by now; a registry that sends far more is cut off by the timeout.
        manifest::check_size("the image's manifest", body.len() as u64, MAX_DOCUMENT)?;
        let digest = Digest::of(&body);
        if let Some(wanted) = reference.digest() {
            wanted.parse::<Digest>()?.verify_digest("the image's manifest", &digest)?;
        }
        Ok((digest, manifest::parse_document("the image's manifest", &body)?))
    }

    async fn config(&self, reference: &Reference, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let mut tries = Tries::default();
        loop {
            match in_time(reference, self.fetch_config(reference, descriptor)).await {
                Ok(content) => return Ok(content),
                Err(failure) => tries.wait_after(failure, reference).await?,
            }
        }
    }

    async fn fetch_config(&self, reference: &Reference, descriptor: &Descriptor) -> Result<Vec<u8>, Failure> {
        let digest = descriptor.digest.to_string();
        let stream = self.client.pull_blob_stream(reference, digest.as_str()).await;
        let mut stream = stream.map_err(|error| classify(reference, self.known_as.as_deref(), &error))?;
        let mut content = Vec::new();
        while let Some(bytes) = stream.next().await {
            content.extend_from_slice(&bytes.map_err(|error| broken_off(reference, &error))?);
            manifest::check_size("the image's configuration", content.len() as u64, descriptor.size)?;
        }
        descriptor.digest.verify("the image's configuration", &content)?;
        Ok(content)
    }

    /// Fetches one layer into an empty file, and returns it from its beginning.
    pub(crate) async fn layer(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: u64,
        file: File,
        progress: &Progress,
    ) -> Result<File, ImageError> {
        let mut file = tokio::fs::File::from_std(file);
        let mut tries = Tries::default();
        loop {
            let mut counted = 0;
            match self.fetch_layer(reference, digest, size, &mut file, &mut counted, progress).await {
                Ok(()) => return Ok(file.into_std().await),
                Err(failure) => {
                    progress.take_back(counted);
                    tries.wait_after(failure, reference).await?;
                }
            }
        }
    }

    async fn fetch_layer(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: u64,
        file: &mut tokio::fs::File,
        counted: &mut u64,
        progress: &Progress,
    ) -> Result<(), Failure> {
        let write = |error| Failure::from(ImageError::io("write a layer", error));
        file.set_len(0).await.map_err(write)?;
        file.rewind().await.map_err(write)?;
        let name = digest.to_string();
        // The stream checks the digest before its end.
        let stream = self.client.pull_blob_stream(reference, name.as_str()).await;
        let mut stream = stream.map_err(|error| classify(reference, self.known_as.as_deref(), &error))?;
        while let Some(bytes) = stream.next().await {
            let bytes = bytes.map_err(|error| broken_off(reference, &error))?;
            manifest::check_size("a layer", *counted + bytes.len() as u64, size)?;
            file.write_all(&bytes).await.map_err(write)?;
            *counted += bytes.len() as u64;
            progress.add(bytes.len() as u64);
        }
        file.flush().await.map_err(write)?;
        file.rewind().await.map_err(write)?;
        Ok(())
    }
}

/// Reads a reference as Docker does: `nginx` is `docker.io/library/nginx:latest`.
pub(crate) fn parse_reference(text: &str) -> Result<Reference, ImageError> {
    text.parse().map_err(|error| ImageError::Invalid(format!("{text:?} is not an image reference: {error}")))
}

async fn in_time<T>(reference: &Reference, fetch: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(DOCUMENT_TIMEOUT, fetch).await.unwrap_or_else(|_| {
        let message = format!("the registry {} takes too long to answer", reference.registry());
        Err(Failure { error: ImageError::Unreachable(message), passing: true })
    })
}

/// The tries of one request.
#[derive(Default)]
struct Tries {
    failures: u32,
}

impl Tries {
    /// Waits until the next try, or returns the error when there is no point in one.
    async fn wait_after(&mut self, failure: Failure, reference: &Reference) -> Result<(), ImageError> {
        let Failure { error, passing } = failure;
        self.failures += 1;
        if !passing || self.failures >= MAX_TRIES {
            return Err(error);
        }
        tracing::debug!(%reference, %error, failures = self.failures, "a request to a registry failed");
        tokio::time::sleep(RETRY.jittered(self.failures, rand::random())).await;
        Ok(())
    }
}

/// What a registry's answer means.
fn classify(reference: &Reference, known_as: Option<&str>, error: &OciDistributionError) -> Failure {
    use OciDistributionError as Oci;
    let registry = reference.registry();
    let not_found = || ImageError::NotFound(format!("the registry {registry} has no image {reference}"));
    let denied = || {
        ImageError::AccessDenied(match known_as {
            Some(name) => format!(
                "the registry {registry} does not let the registry credential {name} read {reference}: its user name or \
                 password is wrong, it has no right to, or there is no such image"
            ),
            None => {
                format!("the registry {registry} does not let everyone read {reference}, or there is no such image")
            }
        })
    };
    let unreachable = |why: &str| ImageError::Unreachable(format!("the registry {registry} {why}"));
    let (error, passing) = match error {
        Oci::ImageManifestNotFoundError(_) => (not_found(), false),
        Oci::UnauthorizedError { .. } | Oci::AuthenticationFailure(_) => (denied(), false),
        Oci::RegistryError { envelope, .. } => {
            let has = |codes: &[OciErrorCode]| envelope.errors.iter().any(|error| codes.contains(&error.code));
            use OciErrorCode as Code;
            if has(&[
                Code::ManifestUnknown,
                Code::NameUnknown,
                Code::NotFound,
                Code::BlobUnknown,
                Code::ManifestBlobUnknown,
            ]) {
                (not_found(), false)
            } else if has(&[Code::Unauthorized, Code::Denied]) {
                (denied(), false)
            } else if has(&[Code::Toomanyrequests]) {
                (unreachable("has had too many requests from this node"), true)
            } else {
                (unreachable(&format!("refuses the request: {envelope}")), false)
            }
        }
        Oci::ServerError { code: 404, .. } => (not_found(), false),
        Oci::ServerError { code: 401 | 403, .. } => (denied(), false),
        Oci::ServerError { code, .. } => {
            (unreachable(&format!("answers with status {code}")), matches!(code, 408 | 429 | 500..=599))
        }
        Oci::RequestError(_) | Oci::IoError(_) => {
            (unreachable(&format!("cannot be reached: {}", deepest(error))), true)
        }
        other => (ImageError::Invalid(format!("{reference} is not a usable image: {other}")), false),
    };
    Failure { error, passing }
}

/// What it means when a blob's stream fails.
fn broken_off(reference: &Reference, error: &io::Error) -> Failure {
    let registry = reference.registry();
    if error.get_ref().is_some_and(|inner| inner.is::<DigestError>()) {
        return ImageError::Invalid(format!("the registry {registry} sent damaged content for {reference}")).into();
    }
    let why = error.get_ref().map_or_else(|| error.to_string(), |inner| deepest(inner));
    Failure { error: ImageError::Unreachable(format!("the registry {registry} broke off: {why}")), passing: true }
}

/// The first cause, which is the one that tells something.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
