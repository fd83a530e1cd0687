//! Registry credentials.

use longshore_model::registry::RegistryCredential;

use super::timestamp;
use crate::v1;

/// The wire form of a credential.
#[must_use]
pub fn registry_credential(credential: &RegistryCredential) -> v1::RegistryCredential {
    v1::RegistryCredential {
        name: credential.name.to_string(),
        registry: credential.registry.to_string(),
        username: credential.username.clone(),
        ca_certificate_pem: credential.ca_certificate_pem.clone(),
        create_time: Some(timestamp(credential.create_time)),
        update_time: Some(timestamp(credential.update_time)),
        etag: credential.etag(),
    }
}
