//! Connections over loopback, each side with real certificates.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;

use longshore_tls::{
    ClientCertificates, ConnectError, CredentialError, Credentials, KeepAlive, PeerCertificate, Pin, connect,
    connect_pinned, make_key_and_csr, server_config,
};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, SanType,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, NamedGroup, RootCertStore, ServerConfig};
use time::{Duration, OffsetDateTime};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// An empty HTTP/2 SETTINGS frame: what every server says first.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// A certificate authority of one level.
struct Authority {
    root: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test root");
        let root = params.self_signed(&key).unwrap();
        Self { root, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, names: &[&str], uri: &str, days: std::ops::Range<i64>) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        params.not_before = OffsetDateTime::now_utc() + Duration::days(days.start);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(days.end);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let chain = format!("{}{}", leaf.pem(), self.root.pem());
        Credentials::from_pem(self.root.pem().as_bytes(), chain.as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }

    fn server(&self) -> Credentials {
        self.issue(&["localhost"], "spiffe://test/server", -1..1)
    }

    fn client(&self) -> Credentials {
        self.issue(&[], "spiffe://test/user/admin/ann", -1..1)
    }
}

/// A listener that says SETTINGS to whomever it accepts, holds every connection, and tells how each was made.
async fn serve(config: Arc<ServerConfig>) -> (String, mpsc::UnboundedReceiver<HandshakeKind>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let (kinds, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(config);
        let mut held = Vec::new();
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
            let _ = kinds.send(tls.get_ref().1.handshake_kind().unwrap());
            let _ = tls.write_all(&SETTINGS).await;
            let _ = tls.flush().await;
            held.push(tls);
        }
    });
    (address, received)
}

async fn serve_as(server: &Credentials, clients: ClientCertificates) -> String {
    serve(server_config(server, server.root(), clients).unwrap()).await.0
}

async fn dial(address: &str, credentials: &Credentials) -> Result<(), ConnectError> {
    connect(address, credentials, KeepAlive::default()).await.map(drop)
}

#[tokio::test]
async fn good_credentials_connect() {
    let authority = Authority::new();
    let address = serve_as(&authority.server(), ClientCertificates::Required).await;
    dial(&address, &authority.client()).await.unwrap();
}

#[tokio::test]
async fn a_second_connection_resumes_the_session() {
    let authority = Authority::new();
    let server = authority.server();
    let config = server_config(&server, server.root(), ClientCertificates::Required).unwrap();
    let (address, mut kinds) = serve(config).await;
    let client = authority.client();
    dial(&address, &client).await.unwrap();
    dial(&address, &client.clone()).await.unwrap();
    assert_eq!(kinds.recv().await, Some(HandshakeKind::Full));
    assert_eq!(kinds.recv().await, Some(HandshakeKind::Resumed));
}

#[tokio::test]
async fn a_client_of_another_authority_is_refused() {
    let authority = Authority::new();
    let other = Authority::new();
    let address = serve_as(&authority.server(), ClientCertificates::Required).await;
    // It trusts the server, so that only the server has something against it.
    let stranger = other.client();
    let root = authority.root.pem();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::default().signed_by(&key, &other.issuer).unwrap();
    let mixed = Credentials::from_pem(root.as_bytes(), leaf.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let error = dial(&address, &mixed).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    // One that does not trust the server refuses first.
    let error = dial(&address, &stranger).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotTrusted { .. }), "{error:?}");
}

#[tokio::test]
async fn an_expired_client_certificate_is_refused() {
    let authority = Authority::new();
    let address = serve_as(&authority.server(), ClientCertificates::Required).await;
    let expired = authority.issue(&[], "spiffe://test/user/admin/ann", -2..-1);
    let error = dial(&address, &expired).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn an_expired_server_certificate_is_not_trusted() {
    let authority = Authority::new();
    let expired = authority.issue(&["localhost"], "spiffe://test/server", -2..-1);
    let address = serve_as(&expired, ClientCertificates::Required).await;
    let error = dial(&address, &authority.client()).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotTrusted { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_of_another_name_is_not_trusted() {
    let authority = Authority::new();
    let server = authority.issue(&["elsewhere.example"], "spiffe://test/server", -1..1);
    let address = serve_as(&server, ClientCertificates::Required).await;
    let error = dial(&address, &authority.client()).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotTrusted { .. }), "{error:?}");
}

#[tokio::test]
async fn a_missing_client_certificate_is_refused_only_where_one_is_required() {
    let authority = Authority::new();
    let pin = Pin::of(authority.root.der());
    let strict = serve_as(&authority.server(), ClientCertificates::Required).await;
    let error = connect_pinned(&strict, pin).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    let lenient = serve_as(&authority.server(), ClientCertificates::Optional).await;
    connect_pinned(&lenient, pin).await.unwrap();
}

#[tokio::test]
async fn a_pin_demands_that_root_and_that_name() {
    let authority = Authority::new();
    let address = serve_as(&authority.server(), ClientCertificates::Optional).await;
    let error = connect_pinned(&address, Pin::of(Authority::new().root.der())).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotTrusted { .. }), "{error:?}");

    let misnamed = authority.issue(&["elsewhere.example"], "spiffe://test/server", -1..1);
    let address = serve_as(&misnamed, ClientCertificates::Optional).await;
    let error = connect_pinned(&address, Pin::of(authority.root.der())).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotTrusted { .. }), "{error:?}");
}

#[tokio::test]
async fn presenting_the_pinned_root_beside_a_foreign_certificate_is_not_enough() {
    let authority = Authority::new();
    let impostor = Authority::new();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &impostor.issuer).unwrap();
    let chain = format!("{}{}", leaf.pem(), authority.root.pem());
    let server =
        Credentials::from_pem(authority.root.pem().as_bytes(), chain.as_bytes(), key.serialize_pem().as_bytes())
            .unwrap();
    let address = serve_as(&server, ClientCertificates::Optional).await;
    let error = connect_pinned(&address, Pin::of(authority.root.der())).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotTrusted { .. }), "{error:?}");
}

#[tokio::test]
async fn a_client_of_tls_1_2_is_refused() {
    let authority = Authority::new();
    let address = serve_as(&authority.server(), ClientCertificates::Optional).await;
    let mut roots = RootCertStore::empty();
    roots.add(authority.root.der().clone()).unwrap();
    let old = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(&address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let error = TlsConnector::from(Arc::new(old)).connect(name, tcp).await.unwrap_err();
    let alert = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).unwrap();
    assert_eq!(*alert, rustls::Error::AlertReceived(rustls::AlertDescription::ProtocolVersion));
}

#[tokio::test]
async fn other_failures_have_their_own_names() {
    let client = Authority::new().client();
    for bad in ["localhost", "localhost:", "localhost:0", "localhost:70000", "::1:7440", "[::1:7440", ":7440", ""] {
        let error = dial(bad, &client).await.unwrap_err();
        assert!(matches!(error, ConnectError::Address(_)), "{bad}: {error:?}");
    }

    // A port that was free a moment ago.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    drop(listener);
    let error = dial(&address, &client).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");

    // Somebody else's protocol.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let error = dial(&address, &client).await.unwrap_err();
    assert!(matches!(error, ConnectError::Handshake { .. }), "{error:?}");
}

#[test]
fn a_key_that_is_not_the_certificates_is_refused_at_once() {
    let authority = Authority::new();
    let leaf = CertificateParams::default().signed_by(&KeyPair::generate().unwrap(), &authority.issuer).unwrap();
    let other = KeyPair::generate().unwrap().serialize_pem();
    let error =
        Credentials::from_pem(authority.root.pem().as_bytes(), leaf.pem().as_bytes(), other.as_bytes()).unwrap_err();
    assert!(matches!(error, CredentialError::Unusable(_)), "{error:?}");
    let error = Credentials::from_pem(b"", leaf.pem().as_bytes(), other.as_bytes()).unwrap_err();
    assert!(matches!(error, CredentialError::NoCertificate(_)), "{error:?}");
}

#[test]
fn a_request_is_signed_by_the_key_that_comes_with_it() {
    let made = make_key_and_csr().unwrap();
    CertificateSigningRequestParams::from_der(&made.csr_der.as_slice().into()).unwrap();
    assert!(KeyPair::from_pem(&made.key_pem).is_ok());
    assert!(!format!("{made:?}").contains("PRIVATE"));
}

#[test]
fn a_certificate_tells_whose_it_is() {
    let authority = Authority::new();
    let client = authority.client();
    let peer = PeerCertificate::from_der(client.leaf()).unwrap();
    assert_eq!(peer.identity("test").unwrap().to_string(), "admin ann");
    assert!(peer.identity("elsewhere").is_err());
    assert!(peer.is_valid_at(peer.validity.not_after));
    assert!(!peer.is_valid_at(peer.validity.not_after + jiff::SignedDuration::from_secs(1)));
    assert!(!peer.is_valid_at(peer.validity.not_before - jiff::SignedDuration::from_secs(1)));
    assert!(PeerCertificate::from_der(authority.root.der()).is_err(), "a root names nobody");
    assert!(!format!("{client:?}").contains("key"));
}

#[tokio::test]
async fn every_client_agrees_on_a_key_by_the_post_quantum_group() {
    let authority = Authority::new();
    let server = authority.server();
    let config = server_config(&server, server.root(), ClientCertificates::Optional).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let server = tokio::spawn(async move {
        let mut groups = Vec::new();
        for _ in 0..2 {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut tls = TlsAcceptor::from(Arc::clone(&config)).accept(tcp).await.unwrap();
            groups.push(tls.get_ref().1.negotiated_key_exchange_group().unwrap().name());
            tls.write_all(&SETTINGS).await.unwrap();
            tls.flush().await.unwrap();
        }
        groups
    });
    let pin = Pin::of(authority.client().root());
    connect(&address, &authority.client(), KeepAlive::default()).await.unwrap();
    connect_pinned(&address, pin).await.unwrap();
    assert_eq!(server.await.unwrap(), [NamedGroup::X25519MLKEM768; 2]);
}
