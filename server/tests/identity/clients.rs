//! Clients that look closer at TLS than people and agents do.

use std::net::Ipv4Addr;

use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::UnixTime;
use tokio::net::TcpSocket;
use tonic::transport::Endpoint;

use super::*;

/// A TLS connection of a stranger who speaks no HTTP/2 and knows these ways to agree on a key.
pub(crate) async fn stranger(address: &str, groups: &[&'static dyn SupportedKxGroup]) -> TlsStream<TcpStream> {
    let provider = CryptoProvider { kx_groups: groups.to_vec(), ..rustls::crypto::aws_lc_rs::default_provider() };
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAnyone))
        .with_no_client_auth();
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.unwrap()
}

/// A TLS connection of a client that trusts anyone, wants to speak this protocol and shows this chain and key, if any.
pub(crate) async fn stranger_with(
    address: &str,
    alpn: &[u8],
    shown: Option<(&str, &str)>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAnyone));
    let mut tls = match shown {
        None => tls.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
            tls.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
        }
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(ServerName::try_from("localhost").unwrap(), tcp).await
}

/// A client that resumes its TLS sessions and can tell.
pub(crate) struct Resuming(tokio_rustls::TlsConnector);

impl Resuming {
    pub(crate) fn new(root: &str, chain: &str, key: &str) -> Self {
        let pem = |text: &str| CertificateDer::pem_slice_iter(text.as_bytes()).map(Result::unwrap).collect::<Vec<_>>();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(pem(root).remove(0)).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(pem(chain), PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Self(tokio_rustls::TlsConnector::from(Arc::new(tls)))
    }

    pub(crate) async fn connect(&self, address: &str) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(address).await.unwrap();
        self.0.connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap()
    }
}

/// A channel without a certificate, from one of the addresses of this machine's loopback.
pub(crate) async fn channel_from(address: &str, number: u32) -> Channel {
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAnyone))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let port: u16 = address.rsplit_once(':').unwrap().1.parse().unwrap();
    let from = Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + number);
    let tls = Arc::new(tls);
    let connector = tower::service_fn(move |_: http::Uri| {
        let tls = tokio_rustls::TlsConnector::from(Arc::clone(&tls));
        async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind((from, 0).into())?;
            let tcp = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await?;
            tcp.set_nodelay(true)?;
            tls.connect(ServerName::try_from("localhost").unwrap(), tcp).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

/// A channel over a connection that stands already; it is lost with that.
pub(crate) async fn channel_over(stream: TlsStream<TcpStream>) -> Channel {
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_: http::Uri| {
        let stream = stream.take().map(TokioIo::new).ok_or(std::io::ErrorKind::NotConnected);
        async move { stream.map_err(std::io::Error::from) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

#[derive(Debug)]
struct TrustAnyone;

impl ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
