//! Credentials of image registries, and which of them an image is read with.

use std::fmt;

use jiff::Timestamp;
use oci_spec::distribution::Reference;
use serde::{Deserialize, Serialize};

use crate::assignment::ImageAccess;
use crate::limits;
use crate::name::CredentialName;
use crate::spec::{Image, ImageSource};
use crate::validate::{Path, Violations};

/// The registry that references without a host mean, as in `nginx:1.27`.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Other names of it.
const DEFAULT_REGISTRY_ALIASES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

/// Which images a credential is for: all of a registry, or those below a repository of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope {
    host: String,
    prefix: String,
}

/// Why a text is no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// A scheme in front.
    #[error("must be a host without a scheme, such as registry.example.com:5000")]
    Scheme,
    /// Too long.
    #[error("is longer than {} characters", limits::MAX_REGISTRY)]
    TooLong,
    /// The host cannot be one.
    #[error(
        "must begin with a host that a reference can have, in lower case, such as registry.example.com, \
         registry.example.com:5000 or localhost"
    )]
    Host,
    /// The repository cannot be one.
    #[error("has a repository that is none: lower-case letters, digits, '.', '_', '-' and '/' are allowed")]
    Repository,
}

impl Scope {
    /// Reads `host[:port][/repository]`, in the words of image references.
    ///
    /// # Errors
    ///
    /// The first rule that `text` breaks.
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        if text.contains("://") {
            return Err(ScopeError::Scheme);
        }
        if text.len() > limits::MAX_REGISTRY {
            return Err(ScopeError::TooLong);
        }
        let (host, prefix) = text.split_once('/').unwrap_or((text, ""));
        if text.ends_with('/') && !prefix.is_empty() || text.contains("//") {
            return Err(ScopeError::Repository);
        }
        // What is a host in a reference is one here: names are compared with those.
        let probe: Reference = format!("{host}/probe").parse().map_err(|_| ScopeError::Host)?;
        if canonical(probe.registry()) != canonical(host) || host.bytes().any(|c| c.is_ascii_uppercase()) {
            return Err(ScopeError::Host);
        }
        if !prefix.is_empty() {
            let probe: Reference = format!("{host}/{prefix}").parse().map_err(|_| ScopeError::Repository)?;
            if probe.tag() != Some("latest") || probe.digest().is_some() || prefix.contains([':', '@']) {
                return Err(ScopeError::Repository);
            }
        }
        Ok(Self { host: canonical(host).to_owned(), prefix: prefix.to_owned() })
    }

    /// How well it fits an image: `None` where it does not cover it, else more the longer its repository is.
    #[must_use]
    pub fn fits(&self, reference: &Reference) -> Option<usize> {
        if canonical(reference.registry()) != self.host {
            return None;
        }
        let is_below = reference
            .repository()
            .strip_prefix(&self.prefix)
            .is_some_and(|rest| self.prefix.is_empty() || rest.is_empty() || rest.starts_with('/'));
        is_below.then_some(self.prefix.len())
    }

    /// Host and port, as in a reference.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository; empty for all of a registry.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl TryFrom<String> for Scope {
    type Error = ScopeError;

    fn try_from(text: String) -> Result<Self, ScopeError> {
        Self::parse(&text)
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

fn canonical(host: &str) -> &str {
    if DEFAULT_REGISTRY_ALIASES.contains(&host) { DEFAULT_REGISTRY } else { host }
}

/// What is known of a credential, without the password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryCredential {
    /// Its name.
    pub name: CredentialName,
    /// Which images it is for.
    pub registry: Scope,
    /// Who the registry is told is asking.
    pub username: String,
    /// PEM of the authorities that certify the registry, beside those that the node trusts; empty for none.
    pub ca_certificate_pem: String,
    /// When it was made.
    pub create_time: Timestamp,
    /// When it was last changed.
    pub update_time: Timestamp,
    /// Grows with each change.
    pub version: u64,
}

impl RegistryCredential {
    /// Changes with every change, the password's included.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("{:x}-{}", self.create_time.as_microsecond(), self.version)
    }
}

/// Why an image has no credential that it should have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// There is none of the name that the image asks for.
    #[error("there is no registry credential {0:?}")]
    Unknown(String),
    /// The one that it asks for is for other images: it must not be shown to this registry.
    #[error("the registry credential {name} is for {scope}, which the image {reference} is not in")]
    OtherRegistry {
        /// The credential.
        name: CredentialName,
        /// What it is for.
        scope: Scope,
        /// The image.
        reference: String,
    },
}

/// Whether an image is read with a credential. One that cannot be used is asked for as well, and the answer says why.
#[must_use]
pub fn access<T>(image: &Image, credentials: Vec<T>, of: impl Fn(&T) -> &RegistryCredential) -> ImageAccess {
    match choose(image, credentials, of) {
        Ok(None) => ImageAccess::Open,
        Ok(Some(_)) | Err(_) => ImageAccess::Credential,
    }
}

/// The credential that an image is read with: the one that it names; else, of those that cover its reference, the one
/// with the longest repository, and of two such the first by name. `None` where there is none, and for archives.
///
/// # Errors
///
/// The one that it names is not there, or is for another registry.
pub fn choose<T>(
    image: &Image,
    credentials: Vec<T>,
    of: impl Fn(&T) -> &RegistryCredential,
) -> Result<Option<T>, ChoiceError> {
    let ImageSource::Reference(text) = &image.source else { return Ok(None) };
    let Ok(reference) = text.parse::<Reference>() else { return Ok(None) };
    if let Some(name) = &image.credential {
        let named = credentials.into_iter().find(|item| of(item).name.as_str() == name);
        let item = named.ok_or_else(|| ChoiceError::Unknown(name.clone()))?;
        let found = of(&item);
        return match found.registry.fits(&reference) {
            Some(_) => Ok(Some(item)),
            None => Err(ChoiceError::OtherRegistry {
                name: found.name.clone(),
                scope: found.registry.clone(),
                reference: text.clone(),
            }),
        };
    }
    let fitting = credentials.into_iter().filter_map(|item| {
        let fit = of(&item).registry.fits(&reference)?;
        let name = of(&item).name.clone();
        Some((fit, std::cmp::Reverse(name), item))
    });
    Ok(fitting
        .max_by(|(fit, name, _), (other_fit, other_name, _)| (fit, name).cmp(&(other_fit, other_name)))
        .map(|(_, _, item)| item))
}

/// Checks what a registry is told: a user name as HTTP has it.
pub fn check_username(username: &str, path: Path<'_>, bad: &mut Violations) {
    if username.is_empty() {
        bad.add(path, "must not be empty");
    } else if username.len() > limits::MAX_USERNAME {
        bad.add(path, format!("is {} bytes long; at most {} are allowed", username.len(), limits::MAX_USERNAME));
    } else if username.contains(':') || username.chars().any(char::is_control) {
        bad.add(path, "must not have ':' or control characters: HTTP has no way to say them");
    }
}

/// Checks a password, of which nothing is said but its length.
pub fn check_password(password: &str, path: Path<'_>, bad: &mut Violations) {
    if password.is_empty() {
        bad.add(path, "must not be empty");
    } else if password.len() > limits::MAX_PASSWORD {
        bad.add(path, format!("is {} bytes long; at most {} are allowed", password.len(), limits::MAX_PASSWORD));
    } else if password.chars().any(char::is_control) {
        bad.add(path, "must not have control characters, such as a line feed at its end");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn fits(scope: &str, reference: &str) -> Option<usize> {
        Scope::parse(scope).unwrap().fits(&reference.parse().unwrap())
    }

    #[test]
    fn a_scope_covers_its_registry_and_what_is_below_its_repository() {
        let host = "registry.example.com";
        assert_eq!(fits(host, "registry.example.com/shop/till:1"), Some(0));
        assert_eq!(fits(host, "registry.example.com:5000/shop/till:1"), None);
        assert_eq!(fits(host, "registry.example.com.evil.test/shop/till:1"), None);
        assert_eq!(fits("registry.example.com/shop", "registry.example.com/shop/till:1"), Some(4));
        assert_eq!(fits("registry.example.com/shop", "registry.example.com/shop:2"), Some(4));
        assert_eq!(fits("registry.example.com/shop", "registry.example.com/shopping/till"), None);
        assert_eq!(fits("docker.io", "nginx"), Some(0));
        assert_eq!(fits("index.docker.io", "docker.io/acme/till:1"), Some(0));
        assert_eq!(fits("docker.io/acme", "acme/till:1"), Some(4));
        assert_eq!(fits("10.0.0.7:5000", "10.0.0.7:5000/till:1"), Some(0));
    }

    #[test]
    fn what_no_reference_can_have_is_no_scope() {
        let cases = [
            ("https://registry.example.com", ScopeError::Scheme),
            ("", ScopeError::Host),
            ("registry", ScopeError::Host),
            ("Registry.example.com", ScopeError::Host),
            ("user@registry.example.com", ScopeError::Host),
            ("registry.example.com/Shop", ScopeError::Repository),
            ("registry.example.com/shop/", ScopeError::Repository),
            ("registry.example.com/shop:1", ScopeError::Repository),
        ];
        for (text, error) in cases {
            assert_eq!(Scope::parse(text), Err(error), "{text}");
        }
        assert_eq!(Scope::parse(&format!("{}.example.com", "a".repeat(600))), Err(ScopeError::TooLong));
        for text in ["registry.example.com:5000/shop/tills", "localhost", "localhost:5000"] {
            assert_eq!(Scope::parse(text).unwrap().to_string(), text);
        }
    }

    fn credential(name: &str, registry: &str) -> RegistryCredential {
        RegistryCredential {
            name: CredentialName::parse(name).unwrap(),
            registry: Scope::parse(registry).unwrap(),
            username: "ci".to_owned(),
            ca_certificate_pem: String::new(),
            create_time: Timestamp::UNIX_EPOCH,
            update_time: Timestamp::UNIX_EPOCH,
            version: 1,
        }
    }

    fn chosen(reference: &str, name: Option<&str>) -> Result<Option<String>, ChoiceError> {
        let all = vec![
            credential("b", "registry.example.com"),
            credential("a", "registry.example.com"),
            credential("shop", "registry.example.com/shop"),
            credential("other", "other.example.com"),
        ];
        let source = ImageSource::Reference(reference.to_owned());
        let image = Image { source, pull_policy: None, credential: name.map(str::to_owned), keep_for: None };
        choose(&image, all, |item| item).map(|found| found.map(|found| found.name.to_string()))
    }

    #[test]
    fn the_named_credential_is_used_else_the_closest() {
        assert_eq!(chosen("registry.example.com/shop/till:1", None).unwrap().as_deref(), Some("shop"));
        assert_eq!(chosen("registry.example.com/till:1", None).unwrap().as_deref(), Some("a"));
        assert_eq!(chosen("registry.example.com/shop/till:1", Some("b")).unwrap().as_deref(), Some("b"));
        assert_eq!(chosen("quay.io/till:1", None).unwrap(), None);
        assert!(matches!(chosen("quay.io/till:1", Some("c")), Err(ChoiceError::Unknown(_))));
        let error = chosen("evil.test/till:1", Some("other")).unwrap_err();
        let text = "the registry credential other is for other.example.com, which the image evil.test/till:1 is not in";
        assert_eq!(error.to_string(), text);
    }
}
