use std::os::unix::fs::PermissionsExt;

use longshore_model::identity::Identity;
use longshore_tls::PeerCertificate;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn initialised(new: &NewPki) -> (tempfile::TempDir, Pki) {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path(), new, now()).unwrap();
    let pki = load(dir.path(), now()).unwrap();
    (dir, pki)
}

fn admin(dir: &Path) -> Credentials {
    let dir = dir.join("admin");
    Credentials::load(&dir.join("root.crt"), &dir.join("client.crt"), &dir.join("client.key")).unwrap()
}

#[test]
fn init_makes_an_authority_that_load_reads() {
    let (dir, pki) = initialised(&NewPki::default());
    let domain = pki.authority.trust_domain();
    assert!(domain.starts_with("longshore-") && domain.len() == "longshore-".len() + 8, "{domain}");
    let own = PeerCertificate::from_der(pki.credentials.leaf()).unwrap();
    assert_eq!(own.identity(domain).unwrap(), Identity::Server);
    let admin = PeerCertificate::from_der(admin(dir.path()).leaf()).unwrap();
    assert_eq!(admin.identity(domain).unwrap(), Identity::User { name: "admin".to_owned(), role: Role::Admin });
    assert_eq!(Pin::of_pem(pki.authority.root_pem()).unwrap(), pki.pin);
}

#[test]
fn keys_are_private_and_nothing_else_is_left() {
    let (dir, _) = initialised(&NewPki::default());
    let mut seen = Vec::new();
    for part in ["pki", "admin"] {
        let path = dir.path().join(part);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        for entry in fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode == 0o600, name.ends_with(".key"), "{name} {mode:o}");
            seen.push(format!("{part}/{name}"));
        }
    }
    seen.sort();
    assert_eq!(
        seen,
        [
            "admin/client.crt",
            "admin/client.key",
            "admin/root.crt",
            "pki/issuing.crt",
            "pki/issuing.key",
            "pki/root.crt",
            "pki/root.key",
            "pki/server.crt",
            "pki/server.key",
            "pki/trust-domain"
        ]
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn init_overwrites_nothing() {
    let (dir, pki) = initialised(&NewPki::default());
    let error = init(dir.path(), &NewPki::default(), now()).unwrap_err();
    assert!(matches!(error, PkiError::Exists(_)), "{error}");
    assert_eq!(load(dir.path(), now()).unwrap().pin, pki.pin);

    let half = tempfile::tempdir().unwrap();
    fs::create_dir(half.path().join("admin")).unwrap();
    assert!(matches!(init(half.path(), &NewPki::default(), now()), Err(PkiError::Exists(_))));
    assert_eq!(fs::read_dir(half.path()).unwrap().count(), 1);
}

#[test]
fn bad_parameters_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let names = |name: &str| NewPki { names: vec![name.to_owned()], trust_domain: None };
    for bad in ["no spaces", "", "a..b", "under/slash", "*"] {
        let error = init(dir.path(), &names(bad), now()).unwrap_err();
        assert!(matches!(error, PkiError::Authority(AuthorityError::ServerName(_))), "{bad}: {error}");
    }
    for bad in ["", "Upper", "a/b", "a b"] {
        let new = NewPki { names: Vec::new(), trust_domain: Some(bad.to_owned()) };
        assert!(matches!(init(dir.path(), &new, now()), Err(PkiError::TrustDomain(_))), "{bad}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(matches!(load(dir.path(), now()), Err(PkiError::NotFound(_))));
}

#[test]
fn certificates_are_what_they_should_be() {
    let new = NewPki {
        names: vec!["longshore.example".to_owned(), "192.0.2.7".to_owned(), "localhost".to_owned()],
        trust_domain: Some("shop.example".to_owned()),
    };
    let (dir, pki) = initialised(&new);
    assert_eq!(pki.authority.trust_domain(), "shop.example");
    let (_, server) = X509Certificate::from_der(pki.credentials.leaf()).unwrap();
    let names = server.subject_alternative_name().unwrap().unwrap().value.to_owned();
    // Three local ones, two given ones (one of three was local already), and the URI.
    assert_eq!(names.general_names.len(), 6, "{names:?}");
    let usage = server.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth);
    assert!(!server.is_ca());
    assert_eq!(server.validity().not_before.timestamp(), now().as_second() - 300);

    let admin = admin(dir.path());
    let (_, client) = X509Certificate::from_der(admin.leaf()).unwrap();
    let usage = client.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth);
    assert_ne!(client.raw_serial(), server.raw_serial());
    assert_eq!(client.raw_serial().len(), 16);

    let (_, root) = X509Certificate::from_der(pki.credentials.root()).unwrap();
    assert_eq!(root.basic_constraints().unwrap().unwrap().value.path_len_constraint, Some(1));
    let issuing = fs::read(dir.path().join("pki/issuing.crt")).unwrap();
    let issuing = x509_parser::pem::parse_x509_pem(&issuing).unwrap().1;
    let issuing = issuing.parse_x509().unwrap();
    let constraints = issuing.basic_constraints().unwrap().unwrap().value;
    assert!(constraints.ca);
    assert_eq!(constraints.path_len_constraint, Some(0));
    issuing.verify_signature(Some(root.public_key())).unwrap();
    server.verify_signature(Some(issuing.public_key())).unwrap();
}

#[test]
fn an_expired_server_is_named_at_the_start() {
    let (dir, _) = initialised(&NewPki::default());
    let later = now() + jiff::SignedDuration::from_hours(24 * 366);
    assert!(load(dir.path(), later).is_ok(), "one of our own can be renewed");
    let earlier = now() - jiff::SignedDuration::from_hours(1);
    assert!(matches!(load(dir.path(), earlier), Err(PkiError::NotValid { .. })), "whatever a wrong clock says");

    // One that another authority has issued cannot.
    let other =
        Authority::found("other", now()).unwrap().authority.issue_server(&["localhost".to_owned()], now()).unwrap();
    fs::write(dir.path().join("pki/server.crt"), &other.certificate).unwrap();
    fs::write(dir.path().join("pki/server.key"), &other.key).unwrap();
    assert!(matches!(load(dir.path(), later), Err(PkiError::NotValid { .. })));
}

#[test]
fn a_request_is_certified_for_its_key_alone() {
    let (_dir, pki) = initialised(&NewPki::default());
    let node = "edge-1".parse().unwrap();
    // A request that claims to be somebody else.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let claim = Identity::User { name: "eve".to_owned(), role: Role::Admin }.to_uri(pki.authority.trust_domain());
    params.subject_alt_names.push(rcgen::SanType::URI(claim.as_str().try_into().unwrap()));
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let csr = params.serialize_request(&key).unwrap().der().to_vec();

    let certificate = pki.authority.issue_node(&node, &csr, now()).unwrap();
    let der = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).unwrap().1.contents;
    let peer = PeerCertificate::from_der(&der).unwrap();
    assert_eq!(peer.identity(pki.authority.trust_domain()).unwrap(), Identity::Node(node.clone()));
    let (_, parsed) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(parsed.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth);
    assert_eq!(peer.validity.not_after, now() + jiff::SignedDuration::from_hours(24 * 30));

    // One whose signature is not of its key.
    let mut forged = csr.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert!(matches!(pki.authority.issue_node(&node, &forged, now()), Err(AuthorityError::Request(_))));
    assert!(matches!(pki.authority.issue_node(&node, b"junk", now()), Err(AuthorityError::Request(_))));
    assert!(matches!(pki.authority.issue_node(&node, &[0; 5000], now()), Err(AuthorityError::RequestTooLong)));
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&other).unwrap();
    assert!(matches!(pki.authority.issue_node(&node, csr.der(), now()), Err(AuthorityError::KeyKind)));
}
