//! `Debug` of the messages that hold a password, without it.

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
        for text in shown {
            assert!(text.contains(HIDDEN) && !text.contains(&password), "{text}");
        }
    }
}
