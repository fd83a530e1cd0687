use std::os::unix::fs::PermissionsExt;

use longshore_model::identity::Identity;
use longshore_tls::PeerCertificate;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::identity::external::tests::{Authority as ExternalAuthority, below, moment, params, root};

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
            "pki/first-admin.crt",
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
    let names = |name: &str| NewPki { names: vec![name.to_owned()], ..NewPki::default() };
    for bad in ["no spaces", "", "a..b", "under/slash", "*"] {
        let error = init(dir.path(), &names(bad), now()).unwrap_err();
        assert!(matches!(error, PkiError::Authority(AuthorityError::ServerName(_))), "{bad}: {error}");
    }
    for bad in ["", "Upper", "a/b", "a b"] {
        let new = NewPki { trust_domain: Some(bad.to_owned()), ..NewPki::default() };
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
        ..NewPki::default()
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

/// A file with an authority of others, and one with its key.
fn given(dir: &Path, chain: &[&ExternalAuthority]) -> CertifiedBy {
    let by = CertifiedBy { certificates: dir.join("ca.crt"), key: dir.join("ca.key") };
    fs::write(&by.certificates, chain.iter().map(|part| part.pem()).collect::<String>()).unwrap();
    fs::write(&by.key, chain[0].key().serialize_pem()).unwrap();
    by
}

/// Certificates of a PEM text.
fn count(text: &str) -> usize {
    text.matches("BEGIN CERTIFICATE").count()
}

#[test]
fn an_installation_stands_below_an_authority_of_others() {
    let at_the_top = root(params("root"));
    let middle = below(&at_the_top, params("middle"));
    let last = below(&middle, {
        let mut params = params("last");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params
    });
    // Whether it certifies an authority of ours, and how many certificates are shown below the root.
    let cases: [(&[&ExternalAuthority], bool, usize); 3] =
        [(&[&at_the_top], true, 1), (&[&middle, &at_the_top], true, 2), (&[&last, &middle, &at_the_top], false, 2)];
    for (chain, has_own, shown) in cases {
        let files = tempfile::tempdir().unwrap();
        let by = given(files.path(), chain);
        let (dir, pki) = initialised(&NewPki { certified_by: Some(by.clone()), ..NewPki::default() });
        let read = |name: &str| fs::read_to_string(dir.path().join("pki").join(name)).unwrap();
        assert_eq!(pki.authority.root_pem(), at_the_top.pem());
        assert_eq!(count(&read("issuing.crt")), shown);
        assert_eq!(count(&read("server.crt")), shown + 2, "with its own and the root");
        assert_eq!(read("issuing.key") == fs::read_to_string(&by.key).unwrap(), !has_own, "the key stays where it was");
        assert!(!dir.path().join("pki/root.key").exists());
        let node = pki.authority.issue_node(&"edge-1".parse().unwrap(), &csr(), now()).unwrap();
        assert_eq!(count(&pki.authority.chain(&node)), shown + 1);
        assert_eq!(admin(dir.path()).root(), pki.credentials.root());
    }
}

fn csr() -> Vec<u8> {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
}

#[test]
fn every_kind_of_key_that_is_offered_certifies_what_is_accepted() {
    for algorithm in
        [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519, &rcgen::PKCS_RSA_SHA256]
    {
        for allowed in [None, Some(0)] {
            let mut params = params("root");
            if let Some(allowed) = allowed {
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(allowed));
            }
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let above = ExternalAuthority::self_signed(params, key).unwrap();
            let files = tempfile::tempdir().unwrap();
            let certified_by = Some(given(files.path(), &[&above]));
            // What was made is checked as agents and people would.
            let (_dir, pki) = initialised(&NewPki { certified_by, ..NewPki::default() });
            assert!(pki.authority.has_issued(pki.credentials.leaf()), "{algorithm:?}");
        }
    }
}

#[test]
fn an_authority_of_others_answers_a_request() {
    let (files, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let above = root(params("root"));
    let new = NewPki { names: vec!["longshore.example".to_owned()], ..NewPki::default() };
    let (path, holder) = request(dir.path(), &new).unwrap();
    assert_eq!(holder, Holder::New);
    assert!(matches!(request(dir.path(), &new), Err(PkiError::Requested(_))));
    assert!(matches!(init(dir.path(), &new, now()), Err(PkiError::Requested(_))));
    let mode = fs::metadata(dir.path().join("request/issuing.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let text = fs::read_to_string(&path).unwrap();
    let mut asked = rcgen::CertificateSigningRequestParams::from_pem(&text).unwrap();
    assert!(matches!(asked.params.is_ca, rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0))), "{asked:?}");
    asked.params.not_before = moment(now() - jiff::SignedDuration::from_hours(1));
    asked.params.not_after = moment(now() + jiff::SignedDuration::from_hours(24 * 100));
    let certificate = asked.signed_by(&above).unwrap().pem();
    let answer = files.path().join("answer.pem");

    fs::write(&answer, &certificate).unwrap();
    let error = install(dir.path(), &answer, now()).unwrap_err();
    assert!(longshore_tls::with_causes(&error).contains("add the certificates up to the self-signed root"), "{error}");
    fs::write(&answer, above.pem() + &root(params("other")).pem()).unwrap();
    let error = longshore_tls::with_causes(&install(dir.path(), &answer, now()).unwrap_err());
    assert!(error.contains("for the key in") && error.contains("request/issuing.key"), "{error}");
    assert!(!dir.path().join("pki").exists() && path.exists(), "the request stays");

    fs::write(&answer, above.pem() + &certificate).unwrap();
    assert_eq!(install(dir.path(), &answer, now()).unwrap(), Holder::New);
    assert!(!dir.path().join("request").exists());
    assert!(matches!(install(dir.path(), &answer, now()), Err(PkiError::NoRequest(_))));
    let pki = load(dir.path(), now()).unwrap();
    assert_eq!(pki.authority.root_pem(), above.pem());
    let names = ServerCertificate::from_der(pki.credentials.leaf()).unwrap().names;
    assert_eq!(names, ["localhost", "127.0.0.1", "::1", "longshore.example"]);

    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(install(empty.path(), &answer, now()), Err(PkiError::NoRequest(_))));
}

#[test]
fn an_authority_is_certified_for_longer_and_stays_who_it_is() {
    let (files, above) = (tempfile::tempdir().unwrap(), root(params("root")));
    let certified_by = Some(given(files.path(), &[&above]));
    let (dir, pki) = initialised(&NewPki { certified_by, ..NewPki::default() });
    let later = now() + jiff::SignedDuration::from_hours(24 * 1700);
    assert!(matches!(
        request(dir.path(), &NewPki { names: vec!["other".to_owned()], ..NewPki::default() }),
        Err(PkiError::Exists(_))
    ));
    let (path, holder) = request(dir.path(), &NewPki::default()).unwrap();
    assert_eq!(holder, Holder::Existing);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "the key stays where it is");
    let answer = files.path().join("answer.pem");
    let constrained = |names: &[&str]| rcgen::NameConstraints {
        permitted_subtrees: names.iter().map(|name| rcgen::GeneralSubtree::DnsName((*name).to_owned())).collect(),
        excluded_subtrees: Vec::new(),
    };
    let answered = |name: Option<&str>, by: &ExternalAuthority, allowed: &[&str]| {
        let text = fs::read_to_string(&path).unwrap();
        let mut asked = rcgen::CertificateSigningRequestParams::from_pem(&text).unwrap();
        if let Some(name) = name {
            asked.params.distinguished_name.push(rcgen::DnType::CommonName, name);
        }
        asked.params.name_constraints = (!allowed.is_empty()).then(|| constrained(allowed));
        asked.params.not_before = moment(now());
        asked.params.not_after = moment(later + jiff::SignedDuration::from_hours(24 * 900));
        fs::write(&answer, asked.signed_by(by).unwrap().pem() + &by.pem()).unwrap();
        install(dir.path(), &answer, later)
    };
    let other = root(params("other"));
    let wrong = [answered(None, &other, &[]).unwrap_err(), answered(Some("renamed"), &above, &[]).unwrap_err()];
    for error in wrong {
        let error = longshore_tls::with_causes(&error);
        assert!(error.contains("not for the authority that is here"), "{error}");
    }
    let key = fs::read(dir.path().join("pki/server.key")).unwrap();
    let files_before =
        || ["issuing.crt", "server.crt"].map(|name| fs::read(dir.path().join("pki").join(name)).unwrap());
    let before = files_before();
    let error = longshore_tls::with_causes(&answered(None, &above, &["shop.example"]).unwrap_err());
    assert!(error.contains("nobody would accept"), "the names of the server are not among those allowed: {error}");
    assert_eq!(files_before(), before, "nothing changed");
    assert!(path.exists(), "and the request stays");
    assert_eq!(answered(None, &above, &[]).unwrap(), Holder::Existing);
    assert!(!path.exists());
    let next = load(dir.path(), later).unwrap();
    assert!(next.authority.end() > pki.authority.end());
    assert!(next.authority.has_issued(admin(dir.path()).leaf()), "what was issued stays good");
    assert!(next.authority.has_issued(next.credentials.leaf()));
    let served = ServerCertificate::from_der(next.credentials.leaf()).unwrap();
    assert!(served.validity.contains(later + jiff::SignedDuration::from_hours(24 * 364)));
    assert_eq!(fs::read(dir.path().join("pki/server.key")).unwrap(), key);
}

#[test]
fn nothing_outlives_the_authority_above() {
    let days = |days: i64| jiff::SignedDuration::from_hours(24 * days);
    let end = now() + days(20);
    let above = root({
        let mut params = params("root");
        params.not_after = moment(end);
        params
    });
    let files = tempfile::tempdir().unwrap();
    let certified_by = Some(given(files.path(), &[&above]));
    let (dir, pki) = initialised(&NewPki { certified_by, ..NewPki::default() });
    let authority = &pki.authority;
    assert_eq!(authority.end(), end);
    let of = |pem: &str| longshore_tls::validity_of(&external::ders(pem)[0]).unwrap().not_after;
    assert_eq!(of(&fs::read_to_string(dir.path().join("pki/issuing.crt")).unwrap()), end);
    assert_eq!(ServerCertificate::from_der(pki.credentials.leaf()).unwrap().validity.not_after, end);
    assert_eq!(PeerCertificate::from_der(admin(dir.path()).leaf()).unwrap().validity.not_after, end);
    assert_eq!((pki.first_admin.issue_time, pki.first_admin.certificate_end), (now(), end), "as its certificate");
    let node = "edge-1".parse().unwrap();
    assert_eq!(of(&authority.issue_node(&node, &csr(), now()).unwrap()), end);
    assert_eq!(authority.node_end(now()), end);
    assert!(authority.outlasts(end - days(1), now()) && !authority.outlasts(end, now()));
    let late = authority.issue_node(&node, &csr(), end).unwrap_err();
    assert!(matches!(late, AuthorityError::Ended(found) if found == end), "{late}");
}

#[test]
fn an_authority_whose_name_cannot_be_repeated_has_to_sign_a_request() {
    // `DC=shop, DC=example`: two parts of one kind, which only the raw bytes can say.
    let (mut twice, once) = (params("root"), rcgen::DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 25]));
    let other = rcgen::DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 26]);
    for kind in [&once, &other] {
        twice.distinguished_name.push(kind.clone(), "shop");
    }
    let key = rcgen::KeyPair::generate().unwrap();
    let der = twice.self_signed(&key).unwrap().der().to_vec();
    // The one byte in which the two kinds differ, in subject and issuer.
    let oid = [0x06, 0x0a, 0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x1a];
    let mut changed = der.clone();
    let places: Vec<usize> = (0..der.len() - oid.len()).filter(|&at| der[at..].starts_with(&oid)).collect();
    assert_eq!(places.len(), 2);
    places.iter().for_each(|at| changed[at + oid.len() - 1] = 0x19);
    let files = tempfile::tempdir().unwrap();
    let by = CertifiedBy { certificates: files.path().join("ca.crt"), key: files.path().join("ca.key") };
    fs::write(&by.certificates, pem::encode(&pem::Pem::new("CERTIFICATE", changed))).unwrap();
    fs::write(&by.key, key.serialize_pem()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let error = init(dir.path(), &NewPki { certified_by: Some(by), ..NewPki::default() }, now()).unwrap_err();
    let error = longshore_tls::with_causes(&error);
    assert!(error.contains("DC=shop, DC=shop") && error.contains("--csr"), "{error}");
    assert!(!dir.path().join("pki").exists());
}
