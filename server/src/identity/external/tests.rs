use jiff::SignedDuration;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PublicKeyData,
};
use time::OffsetDateTime;

use super::*;

/// An authority of somebody else, with its key.
pub(crate) type Authority = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

/// What most authorities look like: as many below it as one likes, good for ten years.
pub(crate) fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Shop");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.not_before = moment(now() - SignedDuration::from_hours(24));
    params.not_after = moment(now() + SignedDuration::from_hours(24 * 3650));
    params
}

pub(crate) fn moment(moment: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(moment.as_second()).unwrap()
}

pub(crate) fn root(params: CertificateParams) -> Authority {
    Authority::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

pub(crate) fn below(above: &Authority, params: CertificateParams) -> Authority {
    Authority::signed_by(params, KeyPair::generate().unwrap(), above).unwrap()
}

/// Reads these certificates as those of this authority.
fn read(of: &Authority, certificates: &[&Authority]) -> Result<AuthorityChain, Problem> {
    read_text(of, &certificates.iter().map(|certificate| certificate.pem()).collect::<String>())
}

fn read_text(of: &Authority, text: &str) -> Result<AuthorityChain, Problem> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.crt");
    std::fs::write(&path, text).unwrap();
    let key = of.key().subject_public_key_info();
    AuthorityChain::read(&path, &key, Path::new("/ca.key"), now()).map_err(|error| {
        assert!(error.to_string().contains("ca.crt"), "{error}");
        error.problem
    })
}

#[test]
fn a_chain_is_put_in_order_whatever_order_its_file_has() {
    let top = root(params("top"));
    let middle = below(&top, params("middle"));
    let last = below(&middle, params("last"));
    for order in [[&last, &middle, &top], [&top, &last, &middle], [&middle, &top, &last]] {
        let chain = read(&last, &order).unwrap();
        assert_eq!(chain.root_pem(), top.pem());
        assert_eq!(chain.authority_pem(), last.pem() + &middle.pem());
        assert!(chain.subject().contains("CN=last"), "{}", chain.subject());
        assert!(chain.may_certify_authorities());
    }
    let twice = read(&last, &[&last, &last, &middle, &top, &top]).unwrap();
    assert_eq!(twice.authority_pem(), last.pem() + &middle.pem());
    let alone = read(&top, &[&top]).unwrap();
    assert_eq!((alone.authority_pem(), alone.above_pem()), (top.pem(), String::new()));
    let commented = format!("# the authority\nsubject=CN = top\n{}\n", top.pem());
    read_text(&top, &commented).unwrap();
}

#[test]
fn an_authority_without_an_expiry_is_good() {
    let mut forever = params("top");
    // 9999-12-31T23:59:59Z, by which RFC 5280 says so.
    forever.not_after = OffsetDateTime::from_unix_timestamp(253_402_300_799).unwrap();
    let top = root(forever);
    let middle = below(&top, params("middle"));
    read(&middle, &[&middle, &top]).unwrap();
    assert_eq!(longshore_tls::validity_of(top.der()).unwrap().not_after, Timestamp::MAX);
}

#[test]
fn what_is_wrong_with_certificates_is_named() {
    let top = root(params("top"));
    let middle = below(&top, params("middle"));
    let edited = |name: &str, edit: fn(&mut CertificateParams)| {
        let mut params = params(name);
        edit(&mut params);
        below(&top, params)
    };
    let leaf = edited("leaf", |params| params.is_ca = IsCa::ExplicitNoCa);
    let signs = edited("signs", |params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    let mail = edited("mail", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection]);
    let over = edited("over", |params| params.not_after = moment(now() - SignedDuration::from_secs(1)));
    let early = edited("early", |params| params.not_before = moment(now() + SignedDuration::from_hours(1)));
    let stranger = root(params("stranger"));
    let namesake = root(params("top"));
    let chain: Vec<Authority> = (0..6).fold(vec![root(params("0"))], |mut chain, place| {
        let next = below(&chain[place], params(&format!("{}", place + 1)));
        chain.push(next);
        chain
    });
    let long: Vec<&Authority> = chain.iter().collect();
    let shallow = root({
        let mut params = params("shallow");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params
    });
    let deep = below(&shallow, params("deep"));
    let cases = [
        (read_text(&top, "no certificate"), "has no certificate in PEM"),
        (
            read_text(&top, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "certificate 1 in it cannot",
        ),
        (
            read_text(&top, &(top.pem() + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
            "certificate 2 in it cannot",
        ),
        (read_text(&top, &"x".repeat(70_000)), "longer than"),
        (read(&stranger, &[&middle, &top]), "none of its certificates is for the key in /ca.key"),
        (read(&leaf, &[&leaf, &top]), "\"O=Shop, CN=leaf\" is not a certificate authority"),
        (read(&signs, &[&signs, &top]), "keyCertSign"),
        (read(&mail, &[&mail, &top]), "serverAuth and clientAuth"),
        (read(&over, &[&over, &top]), "is valid only from"),
        (read(&early, &[&early, &top]), "is the clock right?"),
        (read(&middle, &[&middle]), "\"O=Shop, CN=middle\" is certified by \"O=Shop, CN=top\", which is not in it"),
        (read(&middle, &[&middle, &top, &stranger]), "CN=stranger\" is not on the way"),
        (read(&middle, &[&middle, &namesake]), "not signed with the key of"),
        (read(&chain[6], &long), "more than 5 certificates"),
        (read(&deep, &[&deep, &shallow]), "CN=shallow\" allows 0 authorities below it, and there are 1"),
    ];
    for (read, expected) in cases {
        let text = read.unwrap_err().to_string();
        assert!(text.contains(expected), "{text:?} says nothing of {expected:?}");
    }
    read(&middle, &[&middle, &namesake, &top]).unwrap_err();
    let none = edited("none", |params| params.key_usages = Vec::new());
    read(&none, &[&none, &top]).unwrap();
}

#[test]
fn one_more_authority_is_allowed_by_all_or_not_at_all() {
    let with = |name: &str, allowed: u8| {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(allowed));
        params
    };
    let (zero, one, two) = (root(with("zero", 0)), root(with("one", 1)), root(with("two", 2)));
    assert!(!read(&zero, &[&zero]).unwrap().may_certify_authorities());
    assert!(read(&one, &[&one]).unwrap().may_certify_authorities());
    for (above, allowed, expected) in [(&one, 1, false), (&one, 0, false), (&two, 1, true), (&two, 0, false)] {
        let authority = below(above, with("below", allowed));
        assert_eq!(read(&authority, &[&authority, above]).unwrap().may_certify_authorities(), expected, "{allowed}");
    }
}

#[test]
fn what_is_wrong_with_keys_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.key");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        read_key(&path).map_err(|error| {
            assert!(error.to_string().contains("ca.key"), "{error}");
            error.problem.to_string()
        })
    };
    for algorithm in KEYS {
        let key = KeyPair::generate_for(algorithm).unwrap().serialize_pem();
        read(&key).unwrap();
        read(&format!("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{key}")).unwrap();
    }
    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap().serialize_pem();
    let encrypted = other.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n\
               -----END RSA PRIVATE KEY-----\n";
    for text in [encrypted.as_str(), old] {
        let error = read(text).unwrap_err();
        assert!(error.contains("openssl pkey"), "{error}");
    }
    for text in ["", "nonsense", &other, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        let error = read(text).unwrap_err();
        assert!(error.contains("Ed25519, or RSA of 2048 to 8192 bits"), "{error}");
    }
    assert!(matches!(read_key(Path::new("/no/such/key")).unwrap_err().problem(), Problem::Read(_)));
}
