//! A token service, as Docker Hub, GitHub and Harbor have one, for Debian's `docker-registry`, which trusts its signature.

use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::https::{Https, Reply, Request};
use crate::registry::{PASSWORD, USERNAME};

/// What the registry calls itself.
pub const SERVICE: &str = "registry.test";
/// Who signs.
const ISSUER: &str = "tokens.test";
/// Repositories below it can be read by everybody.
pub const PUBLIC: &str = "public/";
/// Seconds for which Debian's registry still takes a token that has expired.
pub const LEEWAY: i64 = 60;

/// Gives [`USERNAME`] tokens for everything, and everybody tokens for what is below [`PUBLIC`].
pub struct TokenService {
    server: Https,
    life: Arc<AtomicI64>,
    given: Arc<Mutex<Vec<String>>>,
    certificate: String,
}

struct Signer {
    key: EcdsaKeyPair,
    certificate: Vec<u8>,
}

impl TokenService {
    /// Starts it on a free port of this address.
    pub fn start(address: IpAddr) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![ISSUER.to_owned()]).unwrap().self_signed(&key).unwrap();
        let signer = Signer {
            key: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der()).unwrap(),
            certificate: certificate.der().to_vec(),
        };
        let (life, given) = (Arc::new(AtomicI64::new(300)), Arc::new(Mutex::new(Vec::new())));
        let (lives, tokens) = (Arc::clone(&life), Arc::clone(&given));
        let signer = Arc::new(signer);
        let server = Https::start(address, None, move |request| {
            let reply = signer.answer(&request, lives.load(Ordering::Relaxed), &tokens);
            async move { reply }
        });
        Self { server, life, given, certificate: certificate.pem() }
    }

    /// The server, for what it has seen.
    pub fn server(&self) -> &Https {
        &self.server
    }

    /// Tokens that were given so far.
    pub fn given(&self) -> Vec<String> {
        self.given.lock().unwrap().clone()
    }

    /// Sets for how many seconds its next tokens are good, to which the registry adds [`LEEWAY`].
    pub fn set_life(&self, seconds: i64) {
        self.life.store(seconds, Ordering::Relaxed);
    }

    /// What a registry's configuration says of it.
    pub(crate) fn config(&self, directory: &Path) -> Value {
        let bundle = directory.join("tokens.crt");
        std::fs::write(&bundle, &self.certificate).unwrap();
        let realm = format!("https://{}/token", self.server.address());
        json!({ "token": { "realm": realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": bundle } })
    }
}

impl Signer {
    fn answer(&self, request: &Request, life: i64, given: &Mutex<Vec<String>>) -> Reply {
        let refused = Reply::Own(401, Vec::new(), b"{}".to_vec());
        let right = format!("Basic {}", STANDARD.encode(format!("{USERNAME}:{PASSWORD}")));
        let is_known = match request.header("authorization") {
            Some(header) if header == right => true,
            Some(_) => return refused,
            None => false,
        };
        let (Some(scope), Some(service)) = (request.query("scope"), request.query("service")) else { return refused };
        let parts: Vec<&str> = scope.split(':').collect();
        let [kind, name, actions] = parts[..] else { return refused };
        let is_allowed = is_known || actions == "pull" && name.starts_with(PUBLIC);
        let actions: Vec<&str> = actions.split(',').filter(|_| is_allowed).collect();
        // Without any right a token is given all the same, as Docker Hub does.
        let token = self.sign(&service, life, &json!([{ "type": kind, "name": name, "actions": actions }]));
        given.lock().unwrap().push(token.clone());
        Reply::Own(
            200,
            vec![("content-type", "application/json".to_owned())],
            json!({ "token": token }).to_string().into(),
        )
    }

    fn sign(&self, service: &str, life: i64, access: &Value) -> String {
        let now = Timestamp::now().as_second();
        let header = json!({ "typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(&self.certificate)] });
        let claims = json!({
            "iss": ISSUER, "sub": "", "aud": service, "exp": now + life, "nbf": now - 3600, "iat": now - 3600,
            "jti": now.to_string(), "access": access,
        });
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{header}.{claims}");
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
