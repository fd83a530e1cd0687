//! Config maps and secrets.

use std::collections::BTreeMap;

use longshore_model::configuration::Configuration;

use super::timestamp;
use crate::v1;

/// The wire form of a config map with these texts.
#[must_use]
pub fn config_map(configuration: &Configuration, data: BTreeMap<String, String>) -> v1::ConfigMap {
    v1::ConfigMap {
        name: configuration.name.to_string(),
        data,
        keys: configuration.keys.clone(),
        create_time: Some(timestamp(configuration.create_time)),
        update_time: Some(timestamp(configuration.update_time)),
        etag: configuration.etag(),
    }
}

/// The wire form of a secret.
#[must_use]
pub fn secret(configuration: &Configuration) -> v1::Secret {
    v1::Secret {
        name: configuration.name.to_string(),
        keys: configuration.keys.clone(),
        create_time: Some(timestamp(configuration.create_time)),
        update_time: Some(timestamp(configuration.update_time)),
        etag: configuration.etag(),
    }
}
