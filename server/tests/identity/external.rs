//! A server below an authority of others: whom else that authority certifies is none of ours.

use longshore_server::identity::pki::CertifiedBy;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};

use super::*;

type Other = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// A server below this root, in a directory of its own.
async fn server_below(root: &Other) -> TestServer {
    let dir = tempfile::tempdir().unwrap();
    let files = tempfile::tempdir().unwrap();
    let certified_by = CertifiedBy { certificates: files.path().join("ca.crt"), key: files.path().join("ca.key") };
    std::fs::write(&certified_by.certificates, root.pem()).unwrap();
    std::fs::write(&certified_by.key, root.key().serialize_pem()).unwrap();
    let new = NewPki { certified_by: Some(certified_by), ..NewPki::default() };
    pki::init(dir.path(), &new, Timestamp::now()).unwrap();
    TestServer::start_in(dir).await
}

#[tokio::test]
async fn whom_the_root_certifies_by_another_way_is_nobody_here() {
    let root = Other::self_signed(authority("root"), KeyPair::generate().unwrap()).unwrap();
    let server = server_below(&root).await;
    let credentials = server.enroll(&server.token("").await, "edge-1").await.unwrap();
    server.open_session(&credentials).await.unwrap();

    // Somebody else's authority below the same root, and the root itself, with what an admin's certificate says.
    let beside = Other::signed_by(authority("beside"), KeyPair::generate().unwrap(), &root).unwrap();
    let admin = Identity::User { name: "admin".to_owned(), role: Role::Admin };
    let node = Identity::Node("edge-1".parse().unwrap());
    for (identity, issuer) in [(&admin, &beside), (&admin, &root), (&node, &beside)] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let uri = identity.to_uri(server.authority.trust_domain());
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().unwrap()));
        let chain = params.signed_by(&key, issuer).unwrap().pem() + &issuer.pem();
        let key = key.serialize_pem();
        let eve = Credentials::from_pem(root.pem().as_bytes(), chain.as_bytes(), key.as_bytes()).unwrap();
        for address in [&server.api, &server.agents] {
            let error = dial(address, &eve).await.unwrap_err();
            assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
        }
    }
    server.stop().await;
}
