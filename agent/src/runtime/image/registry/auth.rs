//! What a registry is told of who is asking, and what nobody else is told.
//!
//! A registry that wants to know answers 401 with a challenge: for a password (`Basic`), or for a token that a service of its
//! choice gives out, for one repository and a few minutes (`Bearer`, as Docker Hub, GitHub and Harbor do). A password is
//! shown to the registry itself and to the token service that it names, over TLS and nowhere else; the answer to a
//! challenge goes to the registry alone. See <https://distribution.github.io/distribution/spec/auth/token/>.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_auth::parser::ChallengeParser;
use longshore_model::secret::Secret;
use reqwest::StatusCode;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::failure::Failure;
use super::remote::{self, BodyError};
use crate::runtime::image::error::ImageError;

/// Bytes of a token service's answer: tokens have some kilobytes.
const MAX_TOKEN_ANSWER: u64 = 128 * 1024;

/// User name and password, and how they are called.
pub(super) struct Login {
    /// Name of the registry credential, for messages.
    pub(super) name: String,
    pub(super) username: String,
    pub(super) password: Secret,
}

impl Login {
    fn basic(&self) -> Option<HeaderValue> {
        let pair = zeroize::Zeroizing::new(format!("{}:{}", self.username, self.password.reveal()));
        let header = zeroize::Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
        sensitive(&header)
    }
}

/// Answers a registry's challenges for one repository.
pub(super) struct Auth {
    registry: String,
    repository: String,
    /// What was asked for, for messages.
    image: String,
    login: Option<Login>,
    /// What the registry is told now; nothing before its first challenge.
    answer: Mutex<Option<HeaderValue>>,
}

/// What a registry wants.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    /// A password.
    Basic,
    /// A token of this service.
    Bearer { realm: String, service: Option<String> },
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Auth {
    pub(super) fn new(registry: &str, repository: &str, image: &str, login: Option<Login>) -> Self {
        let (registry, repository, image) = (registry.to_owned(), repository.to_owned(), image.to_owned());
        Self { registry, repository, image, login, answer: Mutex::new(None) }
    }

    /// What to tell the registry now.
    pub(super) async fn answer(&self) -> Option<HeaderValue> {
        self.answer.lock().await.clone()
    }

    /// Finds an answer to the challenge in `headers`, unless somebody has found another one than `told` meanwhile.
    pub(super) async fn take_challenge(
        &self,
        http: &reqwest::Client,
        headers: &HeaderMap,
        told: Option<&HeaderValue>,
    ) -> Result<(), Failure> {
        // One question to the token service, however many layers are under way.
        let mut answer = self.answer.lock().await;
        if answer.as_ref() != told {
            return Ok(());
        }
        let header = match challenge(headers) {
            Some(Challenge::Bearer { realm, service }) => self.token(http, &realm, service.as_deref()).await?,
            Some(Challenge::Basic) => {
                self.login.as_ref().and_then(Login::basic).ok_or_else(|| Failure::from(self.denied()))?
            }
            None => return Err(self.denied().into()),
        };
        // A password that was refused once is refused again.
        if told == Some(&header) {
            return Err(self.denied().into());
        }
        *answer = Some(header);
        Ok(())
    }

    /// The error of one who may not read the image.
    pub(super) fn denied(&self) -> ImageError {
        let Self { registry, image, .. } = self;
        ImageError::AccessDenied(match &self.login {
            Some(Login { name, .. }) => format!(
                "the registry {registry} does not let the registry credential {name} read {image}: its user name or \
                 password is wrong, it has no right to, or there is no such image"
            ),
            None => format!("the registry {registry} does not let everyone read {image}, or there is no such image"),
        })
    }

    /// Asks a token service for a token.
    async fn token(&self, http: &reqwest::Client, realm: &str, service: Option<&str>) -> Result<HeaderValue, Failure> {
        let registry = &self.registry;
        let mut url = Url::parse(realm).map_err(|_| {
            Failure::lasting(ImageError::Unreachable(format!(
                "the registry {registry} names no token service: {realm:?}"
            )))
        })?;
        if url.scheme() != "https" {
            let why = "which does without TLS: no password is shown to it, and no token is taken from it";
            let message = format!("the registry {registry} names the token service {realm:?}, {why}");
            return Err(Failure::lasting(ImageError::AccessDenied(message)));
        }
        url.query_pairs_mut()
            .extend_pairs(service.map(|service| ("service", service)))
            .append_pair("scope", &format!("repository:{}:pull", self.repository));
        let host = remote::place(&url);
        let unreachable =
            |why: String| ImageError::Unreachable(format!("the token service {host} of the registry {registry} {why}"));
        let mut request = http.get(url);
        if let Some(header) = self.login.as_ref().and_then(Login::basic) {
            request = request.header(AUTHORIZATION, header);
        }
        tracing::debug!(registry, host, repository = self.repository, "asking for a token");
        // Redirections are not followed: the registry has named this place and no other.
        let response = request.send().await.map_err(|error| {
            Failure::passing(unreachable(format!("cannot be reached: {}", remote::deepest(&error))))
        })?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.denied().into()),
            status => return Err(Failure::of_status(unreachable(format!("answers with status {status}")), status)),
        }
        let body = remote::body(response, MAX_TOKEN_ANSWER).await.map_err(|error| match error {
            BodyError::TooLong => Failure::lasting(unreachable("sends too much".to_owned())),
            BodyError::Broken(why) => Failure::passing(unreachable(format!("broke off: {why}"))),
        })?;
        let body = zeroize::Zeroizing::new(body);
        // Older services know the one name, newer ones both.
        let token = serde_json::from_slice(&body).ok().and_then(|Token { token, access_token }| token.or(access_token));
        let header = token.filter(|token| !token.is_empty()).and_then(|token| sensitive(&format!("Bearer {token}")));
        header.ok_or_else(|| Failure::lasting(unreachable("gives no token".to_owned())))
    }
}

/// A header that no log shows.
fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// The challenge that can be answered best: one for a token, which is good for little else, before one for a password.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut found = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        for challenge in ChallengeParser::new(text).map_while(Result::ok) {
            let parameter = |wanted: &str| {
                let mut parameters = challenge.params.iter();
                let found = parameters.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
                found.map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                let realm = parameter("realm")?;
                return Some(Challenge::Bearer { realm, service: parameter("service") });
            }
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                found = Some(Challenge::Basic);
            }
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Option<Challenge> {
        let pairs = values.iter().map(|value| (WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap()));
        challenge(&pairs.collect())
    }

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
    }

    #[test]
    fn challenges_are_read_as_registries_send_them() {
        let hub =
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull""#;
        assert_eq!(of(&[hub]), bearer("https://auth.docker.io/token", Some("registry.docker.io")));
        assert_eq!(of(&[r#"bearer realm="https://a.test/t""#]), bearer("https://a.test/t", None));
        assert_eq!(of(&[r#"Basic realm="here""#]), Some(Challenge::Basic));
        let token = bearer("https://a.test/t", None);
        assert_eq!(of(&[r#"Basic realm="here", Bearer realm="https://a.test/t""#]), token);
        assert_eq!(of(&[r#"Basic realm="here""#, r#"Bearer realm="https://a.test/t""#]), token);
        for nothing in [&[][..], &[""], &["Negotiate"], &["Bearer"], &[r#"Digest realm="a", nonce="b""#]] {
            assert_eq!(of(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn a_password_is_said_as_http_has_it_and_shown_to_no_log() {
        let login = Login {
            name: "shop".to_owned(),
            username: "robot".to_owned(),
            password: Secret::new("canary >?~:ü".to_owned()),
        };
        let header = login.basic().unwrap();
        let said = STANDARD.decode(header.to_str().unwrap().strip_prefix("Basic ").unwrap()).unwrap();
        assert_eq!(String::from_utf8(said).unwrap(), "robot:canary >?~:ü");
        assert_eq!(format!("{header:?}"), "Sensitive");
    }
}
