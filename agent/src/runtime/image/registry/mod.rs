//! Images in registries, over TLS, with a credential or without, from mirrors first where the node has any.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::Url;
use reqwest::{Certificate, Client};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

mod auth;
mod download;
mod failure;
mod mirror;
mod remote;

pub use self::mirror::{Mirror, MirrorError};
pub(crate) use oci_spec::distribution::Reference;

use self::auth::{Auth, Login};
use self::download::Download;
use self::failure::MAX_TRIES;
use self::remote::Remote;
use super::digest::Digest;
use super::disk::ImageRecord;
use super::error::ImageError;
use super::flight::Progress;
use crate::bandwidth::Bandwidth;
use crate::runtime::RegistryCredential;

/// Time to reach a registry.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How registries are reached.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// PEM bundles of authorities to trust beside those of the system.
    pub ca_pems: Vec<Vec<u8>>,
    /// Asked in this order before the registries that they are of.
    pub mirrors: Vec<Mirror>,
    /// How long a layer may go without a byte before its pull fails.
    pub stall_timeout: Duration,
    /// Bytes a second that all pulls together may fetch; 0 means no limit.
    pub bandwidth: u64,
}

impl RegistryConfig {
    /// Long enough for a line that is switched over, and short enough to say within a job's time that nothing comes.
    pub const STALL_TIMEOUT: Duration = Duration::from_secs(60);
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self { ca_pems: Vec::new(), mirrors: Vec::new(), stall_timeout: Self::STALL_TIMEOUT, bandwidth: 0 }
    }
}

/// All registries.
pub(crate) struct Registries {
    authorities: Vec<Certificate>,
    mirrors: Vec<Mirror>,
    stall_timeout: Duration,
    bandwidth: Arc<Bandwidth>,
    client: OnceLock<Client>,
}

impl Registries {
    /// Checks the configuration; connects to nothing.
    pub(crate) fn new(config: &RegistryConfig) -> Result<Self, ImageError> {
        let RegistryConfig { ca_pems, mirrors, stall_timeout, bandwidth } = config;
        let mut authorities = Vec::new();
        for bundle in ca_pems {
            authorities.extend(certificates(bundle)?);
        }
        Ok(Self {
            authorities,
            mirrors: mirrors.clone(),
            stall_timeout: *stall_timeout,
            bandwidth: Arc::new(Bandwidth::per_second(*bandwidth)),
            client: OnceLock::new(),
        })
    }

    /// The ways to an image, for whoever has this credential.
    ///
    /// Passwords and tokens live in what is returned, and are gone with it; nothing of an older password is left to be used
    /// again. Mirrors are shown neither.
    pub(crate) fn visit(
        &self,
        reference: &Reference,
        credential: Option<RegistryCredential>,
    ) -> Result<Visit, ImageError> {
        let mut http = self.client()?.clone();
        let mut mirrors = Vec::new();
        for (host, repository) in self.mirrors.iter().filter_map(|mirror| mirror.place(reference)) {
            let remote = Remote { tries: 1, ..self.remote(http.clone(), host, host, repository, reference, None)? };
            mirrors.push((remote, AtomicBool::new(false)));
        }
        let mut login = None;
        if let Some(credential) = credential {
            let RegistryCredential { name, registry, username, password, ca_certificate_pem } = credential;
            // The server has looked, too; a password goes nowhere else, whoever is mistaken.
            if registry.fits(reference).is_none() {
                let message = format!("the registry credential {name} is for {registry}, not for {reference}");
                return Err(ImageError::AccessDenied(message));
            }
            if !ca_certificate_pem.is_empty() {
                let own = certificates(ca_certificate_pem.as_bytes())?;
                http = client(self.authorities.iter().cloned().chain(own))?;
            }
            login = Some(Login { name, username, password });
        }
        let repository = reference.repository().to_owned();
        let origin =
            self.remote(http, reference.registry(), reference.resolve_registry(), repository, reference, login)?;
        let wanted = reference.digest().or(reference.tag()).unwrap_or("latest").to_owned();
        Ok(Visit { mirrors, origin, wanted })
    }

    fn remote(
        &self,
        http: Client,
        name: &str,
        host: &str,
        repository: String,
        reference: &Reference,
        login: Option<Login>,
    ) -> Result<Remote, ImageError> {
        let base = Url::parse(&format!("https://{host}/"));
        let base = base.map_err(|error| ImageError::Invalid(format!("{host} is no registry: {error}")))?;
        let image = reference.to_string();
        let auth = Auth::new(name, &repository, &image, login);
        let (name, stall_timeout, bandwidth) = (name.to_owned(), self.stall_timeout, Arc::clone(&self.bandwidth));
        Ok(Remote { http, name, base, repository, image, auth, tries: MAX_TRIES, stall_timeout, bandwidth })
    }

    /// The client with the node's own authorities, made at the first use: it needs the system's, which a node that only
    /// knows archives may not have.
    fn client(&self) -> Result<&Client, ImageError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = client(self.authorities.iter().cloned())?;
        Ok(self.client.get_or_init(|| client))
    }
}

fn client(authorities: impl IntoIterator<Item = Certificate>) -> Result<Client, ImageError> {
    let client = Client::builder()
        .https_only(true)
        .redirect(reqwest::redirect::Policy::none())
        .tls_certs_merge(authorities)
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("longshore-agent/", env!("CARGO_PKG_VERSION")))
        .build();
    client.map_err(|error| {
        ImageError::Unreachable(format!("this node cannot verify any registry: {}", remote::deepest(&error)))
    })
}

/// The certificates of a PEM bundle, of which there must be one.
fn certificates(bundle: &[u8]) -> Result<Vec<Certificate>, ImageError> {
    let failed = |error: String| ImageError::io("read the registry authorities", io::Error::other(error));
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        found.push(Certificate::from_der(&certificate).map_err(|error| failed(remote::deepest(&error)))?);
    }
    if found.is_empty() { Err(failed("a file has no certificate".to_owned())) } else { Ok(found) }
}

/// One pull's ways to an image.
pub(crate) struct Visit {
    /// Those that failed once are not asked again.
    mirrors: Vec<(Remote, AtomicBool)>,
    origin: Remote,
    /// Tag or digest.
    wanted: String,
}

impl Visit {
    /// Finds the image for a node of this architecture, and what its layers are; fetches no layer.
    pub(crate) async fn resolve(&self, node: &str) -> Result<ImageRecord, ImageError> {
        self.resolve_as(&self.wanted, node).await
    }

    /// As [`Visit::resolve`], whatever its tag means by now.
    pub(crate) async fn resolve_digest(&self, digest: &Digest, node: &str) -> Result<ImageRecord, ImageError> {
        self.resolve_as(&digest.to_string(), node).await
    }

    async fn resolve_as(&self, wanted: &str, node: &str) -> Result<ImageRecord, ImageError> {
        for (mirror, has_failed) in self.usable_mirrors() {
            match mirror.resolve(wanted, node).await {
                Ok(found) => return Ok(found),
                Err(error) => leave(mirror, has_failed, error)?,
            }
        }
        self.origin.resolve(wanted, node).await
    }

    /// Fetches one layer into an empty file, and returns it from its beginning.
    pub(crate) async fn layer(
        &self,
        digest: &Digest,
        size: u64,
        file: File,
        progress: &Progress,
    ) -> Result<File, ImageError> {
        let mut download = Download::new(digest, size, file, progress);
        for (mirror, has_failed) in self.usable_mirrors() {
            match mirror.layer(&mut download).await {
                Ok(()) => return download.into_file().await,
                Err(error) => leave(mirror, has_failed, error)?,
            }
        }
        self.origin.layer(&mut download).await?;
        download.into_file().await
    }

    fn usable_mirrors(&self) -> impl Iterator<Item = (&Remote, &AtomicBool)> {
        let mirrors = self.mirrors.iter().map(|(mirror, has_failed)| (mirror, has_failed));
        mirrors.filter(|(_, has_failed)| !has_failed.load(Ordering::Relaxed))
    }
}

/// Goes on from a mirror to the next, unless the fault is the node's own.
fn leave(mirror: &Remote, has_failed: &AtomicBool, error: ImageError) -> Result<(), ImageError> {
    use ImageError as E;
    match error {
        E::DiskFull { .. } | E::Io { .. } | E::Cancelled => Err(error),
        E::NotFound(_)
        | E::AccessDenied(_)
        | E::Unreachable(_)
        | E::Stalled(_)
        | E::Architecture { .. }
        | E::Invalid(_) => {
            tracing::info!(mirror = mirror.name, %error, "a mirror does not have the image; asking further");
            has_failed.store(true, Ordering::Relaxed);
            Ok(())
        }
    }
}

/// Reads a reference as Docker does: `nginx` is `docker.io/library/nginx:latest`.
pub(crate) fn parse_reference(text: &str) -> Result<Reference, ImageError> {
    text.parse().map_err(|error| ImageError::Invalid(format!("{text:?} is not an image reference: {error}")))
}
