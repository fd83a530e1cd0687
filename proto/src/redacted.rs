//! `Debug` of the messages that hold what no log is to show, without it.

use std::fmt;

use crate::v1;

const HIDDEN: &str = "[redacted]";

impl fmt::Debug for v1::CreateRegistryCredentialRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateRegistryCredentialRequest")
            .field("registry_credential", &self.registry_credential)
            .field("password", &HIDDEN)
            .field("request_id", &self.request_id)
            .field("validate_only", &self.validate_only)
            .finish()
    }
}

impl fmt::Debug for v1::UpdateRegistryCredentialRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpdateRegistryCredentialRequest")
            .field("registry_credential", &self.registry_credential)
            .field("password", &HIDDEN)
            .field("update_mask", &self.update_mask)
            .field("validate_only", &self.validate_only)
            .field("request_id", &self.request_id)
            .finish()
    }
}

impl fmt::Debug for v1::FetchRegistryCredentialResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchRegistryCredentialResponse")
            .field("name", &self.name)
            .field("registry", &self.registry)
            .field("username", &self.username)
            .field("password", &HIDDEN)
            .field("ca_certificate_pem", &self.ca_certificate_pem)
            .finish()
    }
}

impl fmt::Debug for v1::CreateSecretRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateSecretRequest")
            .field("secret", &self.secret)
            .field("data", &HIDDEN)
            .field("request_id", &self.request_id)
            .field("validate_only", &self.validate_only)
            .finish()
    }
}

impl fmt::Debug for v1::UpdateSecretRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpdateSecretRequest")
            .field("secret", &self.secret)
            .field("data", &HIDDEN)
            .field("update_mask", &self.update_mask)
            .field("request_id", &self.request_id)
            .field("validate_only", &self.validate_only)
            .finish()
    }
}

impl fmt::Debug for v1::FetchedConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchedConfiguration")
            .field("name", &self.name)
            .field("etag", &self.etag)
            .field("data", &HIDDEN)
            .finish()
    }
}

/// Its values are no secret, and no business of a log either: people put passwords there all the same.
impl fmt::Debug for v1::ConfigMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigMap")
            .field("name", &self.name)
            .field("data", &HIDDEN)
            .field("keys", &self.keys)
            .field("create_time", &self.create_time)
            .field("update_time", &self.update_time)
            .field("etag", &self.etag)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_shows_a_password() {
        let password = "canary-4711".to_owned();
        let shown = [
            format!("{:?}", v1::CreateRegistryCredentialRequest { password: password.clone(), ..Default::default() }),
            format!("{:?}", v1::UpdateRegistryCredentialRequest { password: password.clone(), ..Default::default() }),
            format!("{:?}", v1::FetchRegistryCredentialResponse { password: password.clone(), ..Default::default() }),
        ];
        let data = std::collections::BTreeMap::from([("key".to_owned(), password.clone().into_bytes())]);
        let texts = std::collections::BTreeMap::from([("key".to_owned(), password.clone())]);
        let maps = [
            format!("{:?}", v1::CreateSecretRequest { data: data.clone(), ..Default::default() }),
            format!("{:?}", v1::UpdateSecretRequest { data: data.clone(), ..Default::default() }),
            format!("{:?}", v1::FetchedConfiguration { data, ..Default::default() }),
            format!("{:?}", v1::ConfigMap { data: texts, ..Default::default() }),
        ];
        for text in shown.into_iter().chain(maps) {
            assert!(text.contains(HIDDEN) && !text.contains(&password), "{text}");
        }
    }
}
