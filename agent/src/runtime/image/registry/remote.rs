//! Requests to one registry, or to a mirror of one, for what one image consists of.
//!
//! Everything goes over TLS. Redirections, by which registries send on to their storage, are followed by hand, so that what
//! a registry is told of who is asking is seen to go to that registry alone.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;

use super::auth::Auth;
use super::failure::{Failure, Tries};
use crate::bandwidth::Bandwidth;
use crate::runtime::image::digest::Digest;
use crate::runtime::image::disk::{ImageRecord, LayerRecord};
use crate::runtime::image::error::ImageError;
use crate::runtime::image::manifest::{self, Descriptor, Document, MAX_DOCUMENT};

/// Time for one manifest or configuration, which are small.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// Redirections of one request: one leads to a storage, one more to the place of it that is near.
const MAX_REDIRECTS: usize = 5;
/// Challenges of one request: a token that has expired, and one that ends while it is on its way.
const MAX_CHALLENGES: usize = 2;
/// Bytes read of a refusal: what is to be learned of it stands at its beginning.
const MAX_REFUSAL: u64 = 16 * 1024;

const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                              application/vnd.docker.distribution.manifest.v2+json, \
                              application/vnd.docker.distribution.manifest.list.v2+json";

/// A registry, or a mirror of one, as the place of one image.
pub(super) struct Remote {
    pub(super) http: reqwest::Client,
    /// Host and port, for messages.
    pub(super) name: String,
    /// `https://host:port/`.
    pub(super) base: Url,
    /// The image's repository there.
    pub(super) repository: String,
    /// What was asked for, for messages.
    pub(super) image: String,
    pub(super) auth: Auth,
    /// Tries of a request.
    pub(super) tries: u32,
    /// How long a layer may go without a byte.
    pub(super) stall_timeout: Duration,
    /// How fast layers may come, of all pulls together.
    pub(super) bandwidth: Arc<Bandwidth>,
}

/// Why a body could not be read.
pub(super) enum BodyError {
    /// It is longer than it may be.
    TooLong,
    /// It ended before its end.
    Broken(String),
}

/// What registries say of a refusal.
#[derive(Deserialize)]
struct Refusal {
    errors: Vec<RefusalReason>,
}

#[derive(Deserialize)]
struct RefusalReason {
    code: String,
    #[serde(default)]
    message: String,
}

impl Remote {
    /// Finds the image of this tag or digest for a node of this architecture, and what its layers are; fetches no layer.
    pub(super) async fn resolve(&self, wanted: &str, node: &str) -> Result<ImageRecord, ImageError> {
        let (mut digest, mut document) = self.manifest(wanted).await?;
        if let Document::Index(entries) = &document {
            let chosen = manifest::choose(entries, node)?;
            (digest, document) = self.manifest(&chosen.digest.to_string()).await?;
        }
        let Document::Manifest(image) = document else {
            return Err(ImageError::Invalid(format!("{} is an index that leads to another index", self.image)));
        };
        let config = self.config(&image.config).await?;
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

    async fn manifest(&self, wanted: &str) -> Result<(Digest, Document), ImageError> {
        let what = "the image's manifest";
        let mut tries = Tries::new(self.tries);
        let body = loop {
            let headers = [(ACCEPT, HeaderValue::from_static(MANIFEST_TYPES))].into_iter().collect();
            match self.document(what, &format!("manifests/{wanted}"), headers, MAX_DOCUMENT).await {
                Ok(body) => break body,
                Err(failure) => tries.wait_after(failure).await?,
            }
        };
        let digest = Digest::of(&body);
        if let Ok(wanted) = wanted.parse::<Digest>() {
            wanted.verify_digest(what, &digest)?;
        }
        Ok((digest, manifest::parse_document(what, &body)?))
    }

    async fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let what = "the image's configuration";
        let mut tries = Tries::new(self.tries);
        loop {
            let path = format!("blobs/{}", descriptor.digest);
            match self.document(what, &path, HeaderMap::new(), descriptor.size).await {
                Ok(content) => {
                    descriptor.digest.verify(what, &content)?;
                    return Ok(content);
                }
                Err(failure) => tries.wait_after(failure).await?,
            }
        }
    }

    /// Something small, in one piece.
    async fn document(&self, what: &str, path: &str, headers: HeaderMap, limit: u64) -> Result<Vec<u8>, Failure> {
        self.in_time(async {
            let response = self.get(path, headers).await?;
            body(response, limit).await.map_err(|error| match error {
                BodyError::TooLong => ImageError::Invalid(format!("{what} is larger than {limit} bytes")).into(),
                BodyError::Broken(why) => Failure::passing(self.unreachable(&format!("broke off: {why}"))),
            })
        })
        .await
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let late = || Err(Failure::passing(self.unreachable("takes too long to answer")));
        tokio::time::timeout(DOCUMENT_TIMEOUT, work).await.unwrap_or_else(|_| late())
    }

    /// The content of a blob from this byte on, or from its beginning if the registry knows no parts: its status says which.
    pub(super) async fn blob(&self, digest: &Digest, from: u64) -> Result<Response, Failure> {
        let mut headers = HeaderMap::new();
        if from > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={from}-"))
        {
            headers.insert(RANGE, range);
        }
        self.get(&format!("blobs/{digest}"), headers).await
    }

    /// Gets something of the image's repository, answering challenges on the way.
    async fn get(&self, path: &str, headers: HeaderMap) -> Result<Response, Failure> {
        let url = self.base.join(&format!("v2/{}/{path}", self.repository));
        let url = url.map_err(|error| ImageError::Invalid(format!("{} has no address: {error}", self.image)))?;
        for _ in 0..MAX_CHALLENGES {
            let told = self.auth.answer().await;
            let response = self.follow(url.clone(), &headers, told.as_ref()).await?;
            if response.status() != StatusCode::UNAUTHORIZED || !self.is_own(response.url()) {
                return self.checked(response).await;
            }
            self.auth.take_challenge(&self.http, response.headers(), told.as_ref()).await?;
        }
        let told = self.auth.answer().await;
        let response = self.follow(url, &headers, told.as_ref()).await?;
        self.checked(response).await
    }

    /// Whether this is the registry itself, and no place that it sends on to.
    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// Sends a request, and sends it again where it is sent on; `told` goes to the registry itself alone.
    async fn follow(&self, mut url: Url, headers: &HeaderMap, told: Option<&HeaderValue>) -> Result<Response, Failure> {
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.http.get(url.clone()).headers(headers.clone());
            if let Some(told) = told.filter(|_| self.is_own(&url)) {
                request = request.header(AUTHORIZATION, told.clone());
            }
            let response = request.send().await.map_err(|error| {
                Failure::passing(self.unreachable(&format!("cannot be reached: {}", deepest(&error))))
            })?;
            use StatusCode as S;
            let is_sent_on = matches!(
                response.status(),
                S::MOVED_PERMANENTLY | S::FOUND | S::SEE_OTHER | S::TEMPORARY_REDIRECT | S::PERMANENT_REDIRECT
            );
            if !is_sent_on {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            let next = next.ok_or_else(|| Failure::lasting(self.unreachable("sends on to nowhere")))?;
            if next.scheme() != "https" {
                let place = place(&next);
                let message = format!("sends on to {place}, which does without TLS");
                return Err(Failure::lasting(self.unreachable(&message)));
            }
            url = next;
        }
        Err(Failure::lasting(self.unreachable("sends on and on")))
    }

    /// The response if it is a good one, else what it means.
    async fn checked(&self, response: Response) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if !self.is_own(response.url()) {
            // What leads to a storage is good for minutes only; the next try gets another.
            let place = place(response.url());
            return Err(Failure::passing(
                self.unreachable(&format!("sends on to {place}, which answers with {status}")),
            ));
        }
        if status == StatusCode::RANGE_NOT_SATISFIABLE {
            let message = format!("a layer of {} is shorter than its manifest says", self.image);
            return Err(ImageError::Invalid(message).into());
        }
        let body = body(response, MAX_REFUSAL).await.unwrap_or_default();
        let reasons = serde_json::from_slice::<Refusal>(&body).map_or_else(|_| Vec::new(), |refusal| refusal.errors);
        let has = |codes: &[&str]| reasons.iter().any(|reason| codes.contains(&reason.code.as_str()));
        let is_absent =
            has(&["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN", "NOT_FOUND"]);
        if is_absent || status == StatusCode::NOT_FOUND {
            let message = format!("the registry {} has no image {}", self.name, self.image);
            return Err(ImageError::NotFound(message).into());
        }
        if has(&["UNAUTHORIZED", "DENIED"]) || matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(self.auth.denied().into());
        }
        if has(&["TOOMANYREQUESTS"]) || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(Failure::passing(self.unreachable("has had too many requests from this node")));
        }
        let said = reasons.first().map_or_else(String::new, |reason| format!(": {} {}", reason.code, reason.message));
        Err(Failure::of_status(self.unreachable(&format!("answers with status {status}{said}")), status))
    }

    /// The error of a registry that does not do what it should.
    pub(super) fn unreachable(&self, why: &str) -> ImageError {
        ImageError::Unreachable(format!("the registry {} {why}", self.name))
    }
}

/// Reads a body of at most so many bytes.
pub(super) async fn body(mut response: Response, limit: u64) -> Result<Vec<u8>, BodyError> {
    let mut content = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(|error| BodyError::Broken(deepest(&error)))? {
        if (content.len() + bytes.len()) as u64 > limit {
            return Err(BodyError::TooLong);
        }
        content.extend_from_slice(&bytes);
    }
    Ok(content)
}

/// Host and port, for messages: the rest of an address may be somebody's secret.
pub(super) fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The first cause, which is the one that tells something.
pub(super) fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    let told = deepest.to_string();
    // As `openssl req -x509` makes them, which other clients take. The library has only the name of the mistake for it.
    if told.contains("CaUsedAsEndEntity") {
        return "its certificate is that of a certificate authority; it needs one that the authority has signed for it"
            .to_owned();
    }
    told
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use std::sync::Arc;

    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    #[test]
    fn an_authority_that_calls_itself_a_server_is_told_in_words() {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let error = verifier.verify_server_cert(certificate.der(), &[], &name, &[], UnixTime::now()).unwrap_err();
        assert!(deepest(&error).starts_with("its certificate is that of a certificate authority"), "{error}");
    }
}
