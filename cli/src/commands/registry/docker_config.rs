//! User names and passwords from Docker's `config.json`, which Podman and others write as well.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use longshore_model::registry::Scope;
use longshore_model::secret::Secret;
use serde::Deserialize;

use crate::error::Error;

/// A user name and a password.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) username: String,
    pub(super) password: Secret,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

/// What is kept of one registry. No `Debug`: it is the password.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// Reads what a file has for a registry.
///
/// # Errors
///
/// The file is none, has nothing for it, or only says which other program has it.
pub(super) fn read(file: &Path, registry: &str) -> Result<Login, Error> {
    let named = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| Error::io(format!("cannot read {named}"), error))?;
    find(&text, registry).map_err(|why| Error::new(format!("{named} {why}")))
}

fn find(text: &str, registry: &str) -> Result<Login, String> {
    let scope =
        Scope::parse(registry).map_err(|error| format!("cannot be searched: the registry {registry:?} {error}"))?;
    // Not what the parser says of it, which may quote what stands there.
    let config: Config = serde_json::from_str(text)
        .map_err(|error| format!("is no configuration of Docker: line {}, column {}", error.line(), error.column()))?;
    let helper = config.cred_helpers.iter().find(|(key, _)| of(key).is_some_and(|key| key.host() == scope.host()));
    if let Some((_, helper)) = helper {
        return Err(kept_by(helper, scope.host()));
    }
    // An entry for the repository, else for the whole registry.
    let entry =
        |wanted: &str| config.auths.iter().find(|(key, _)| of(key).is_some_and(|key| key.to_string() == wanted));
    let found = entry(&scope.to_string()).or_else(|| entry(scope.host()));
    let Some((key, auth)) = found else {
        if !config.creds_store.is_empty() {
            return Err(kept_by(&config.creds_store, scope.host()));
        }
        let known: Vec<&str> = config.auths.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
        return Err(format!("has nothing for {scope}, but for {known}"));
    };
    if !auth.identitytoken.is_empty() {
        return Err(format!("has an identity token for {key}, and no password: make one that may read, and give that"));
    }
    let (username, password) = match (auth.auth.as_str(), auth.password.as_str()) {
        ("", "") if !config.creds_store.is_empty() => return Err(kept_by(&config.creds_store, scope.host())),
        ("", password) => (auth.username.clone(), password.to_owned()),
        (encoded, _) => {
            decode(encoded).ok_or_else(|| format!("has an entry for {key} that is not USER:PASSWORD in base64"))?
        }
    };
    if username.is_empty() || password.is_empty() {
        return Err(format!("has no user name and password for {key}"));
    }
    Ok(Login { username, password: Secret::new(password) })
}

/// What a key of `auths` is for: keys are hosts, and were addresses once.
fn of(key: &str) -> Option<Scope> {
    let key = key.trim_start_matches("https://").trim_start_matches("http://");
    let key = ["/v1/", "/v2/", "/v1", "/v2", "/"].iter().find_map(|end| key.strip_suffix(end)).unwrap_or(key);
    Scope::parse(key).ok()
}

fn decode(encoded: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    // Docker fills up with zeros in old files.
    Some((username.to_owned(), password.trim_end_matches('\0').to_owned()))
}

fn kept_by(helper: &str, host: &str) -> String {
    format!(
        "leaves the password for {host} to the credential helper docker-credential-{helper}, which is not run: it may ask for \
         more than this command knows; run `echo {host} | docker-credential-{helper} get`, and give user name and password \
         with --username and --password-file"
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn found(text: &str, registry: &str) -> Result<(String, String), String> {
        find(text, registry).map(|login| (login.username, login.password.reveal().to_owned()))
    }

    fn encoded(text: &str) -> String {
        STANDARD.encode(text)
    }

    #[test]
    fn entries_are_found_under_every_name_that_they_may_have() {
        let auth = encoded("robot:pa:ss>?~");
        for (key, registry) in [
            ("registry.example.com", "registry.example.com"),
            ("https://registry.example.com", "registry.example.com/shop"),
            ("https://registry.example.com/v2/", "registry.example.com"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("docker.io", "index.docker.io/acme"),
            ("10.0.0.7:5000", "10.0.0.7:5000"),
        ] {
            let text = format!(r#"{{"auths":{{"other.example.com":{{}},"{key}":{{"auth":"{auth}"}}}}}}"#);
            assert_eq!(found(&text, registry).unwrap(), ("robot".to_owned(), "pa:ss>?~".to_owned()), "{key}");
        }
        let plain = r#"{"auths":{"a.test":{"username":"robot","password":"secret"}},"credsStore":"desktop"}"#;
        assert_eq!(found(plain, "a.test").unwrap().1, "secret");
        let (all, shop) = (encoded("all:1"), encoded("shop:2"));
        let both = format!(r#"{{"auths":{{"a.test":{{"auth":"{all}"}},"a.test/shop":{{"auth":"{shop}"}}}}}}"#);
        assert_eq!(found(&both, "a.test/shop").unwrap().0, "shop");
        assert_eq!(found(&both, "a.test/other").unwrap().0, "all");
        let padded = format!(r#"{{"auths":{{"a.test":{{"auth":"{}"}}}}}}"#, encoded("robot:secret\0\0"));
        assert_eq!(found(&padded, "a.test").unwrap().1, "secret");
    }

    #[test]
    fn what_is_not_there_is_said_and_where_it_may_be() {
        let auth = encoded("canary");
        for (text, words) in [
            ("canary", "is no configuration of Docker: line 1"),
            ("{}", "has nothing for a.test, but for nothing"),
            (r#"{"auths":{"b.test":{}}}"#, "has nothing for a.test, but for b.test"),
            (r#"{"auths":{"a.test.evil.test":{}}}"#, "has nothing for a.test"),
            (r#"{"auths":{"a.test":{}}}"#, "has no user name and password for a.test"),
            (r#"{"auths":{"a.test":{}},"credsStore":"desktop"}"#, "docker-credential-desktop get"),
            (r#"{"credHelpers":{"a.test":"ecr-login"}}"#, "docker-credential-ecr-login, which is not run"),
            (r#"{"auths":{"a.test":{"identitytoken":"canary"}}}"#, "an identity token"),
            (&format!(r#"{{"auths":{{"a.test":{{"auth":"{auth}"}}}}}}"#), "not USER:PASSWORD"),
            (r#"{"auths":{"a.test":{"auth":"canary!"}}}"#, "not USER:PASSWORD"),
        ] {
            let error = found(text, "a.test").unwrap_err();
            assert!(error.contains(words) && !error.contains("canary"), "{error}");
        }
    }
}
