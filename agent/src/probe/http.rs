//! HTTP GET of probes: one request, of whose answer only the status is read.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use longshore_model::health::Answer;
use longshore_model::probe::{HttpGet, Scheme};
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::{Network, connect, in_words};

/// What the agent calls itself.
const AGENT: &str = concat!("longshore-probe/", env!("CARGO_PKG_VERSION"));
/// Bytes of an answer's head: hyper takes no less.
const MAX_HEAD: usize = 8 * 1024;

pub(super) async fn get(get: &HttpGet, network: Network) -> Answer {
    let request = match request(get) {
        Ok(request) => request,
        Err(error) => return Answer::failed(format!("the request cannot be made: {error}")),
    };
    let stream = match connect(get.host.as_deref(), get.port, network).await {
        Ok(stream) => stream,
        Err(error) => return Answer::failed(in_words(&error)),
    };
    let status = match get.scheme {
        Scheme::Http => exchange(stream, request).await,
        Scheme::Https => match server_name(get) {
            Err(error) => return Answer::failed(error.to_string()),
            Ok(name) => match TlsConnector::from(unverified()).connect(name, stream).await {
                Ok(stream) => exchange(stream, request).await,
                Err(error) => return Answer::failed(format!("no TLS: {}", in_words(&error))),
            },
        },
    };
    match status {
        Ok(status) if (200..400).contains(&status.as_u16()) => Answer::passed(format!("HTTP {}", status.as_u16())),
        Ok(status) => Answer::failed(format!("HTTP {}", status.as_u16())),
        Err(error) => Answer::failed(format!("no HTTP: {error}")),
    }
}

/// The name that the server's certificate could be for.
fn server_name(get: &HttpGet) -> Result<ServerName<'static>, rustls_pki_types::InvalidDnsNameError> {
    ServerName::try_from(get.host.clone().unwrap_or_else(|| "127.0.0.1".to_owned()))
}

fn request(get: &HttpGet) -> Result<Request<Empty<Bytes>>, http::Error> {
    let host = match get.host.as_deref() {
        None => format!("127.0.0.1:{}", get.port),
        Some(host) if host.contains(':') => format!("[{host}]:{}", get.port),
        Some(host) => format!("{host}:{}", get.port),
    };
    let mut request = Request::new(Empty::new());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = get.path.parse::<Uri>()?;
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(&host)?);
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let mut given = http::HeaderMap::new();
    for header in &get.http_headers {
        given.append(HeaderName::from_bytes(header.name.as_bytes())?, HeaderValue::from_str(&header.value)?);
    }
    // Replaces those of the same name.
    headers.extend(given);
    Ok(request)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<StatusCode, hyper::Error> {
    let (mut sender, connection) = http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    Ok(sender.send_request(request).await?.status())
}

/// TLS with whoever is there.
fn unverified() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let make = || {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        // The provider has cipher suites of every version.
        let builder = versions.unwrap_or_else(|_| ClientConfig::builder());
        let anybody = Arc::new(Anybody(provider));
        Arc::new(builder.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth())
    };
    Arc::clone(CONFIG.get_or_init(make))
}

/// Takes every certificate, as Kubernetes does: a probe asks whether something answers, and learns nothing but a status.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
