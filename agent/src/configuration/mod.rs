//! What apps take from config maps and secrets: asked of the server when a revision is checked, and kept with that revision.
//!
//! So a restart, a reboot and the way back from an update find what the revision was healthy with, without a server; a
//! changed config map or secret counts from the next revision or attempt on.

mod cache;
mod server;

use std::collections::BTreeMap;

use async_trait::async_trait;
use longshore_model::configuration::{Content, Kind};
use longshore_model::name::AppName;
use longshore_model::secret::SecretBytes;
use longshore_proto::v1;
use prost::Message;

pub use cache::{Cache, CacheError, Version};
pub use server::ServerSource;

use crate::runtime::RuntimeError;

/// What a revision of an app takes. Nothing of it is shown by `Debug` but names and keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration(BTreeMap<(Kind, String), Fetched>);

/// Of one config map or secret.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fetched {
    etag: String,
    content: Content,
}

impl Configuration {
    /// What a server answered, or what was packed.
    #[must_use]
    pub fn from_wire(wire: v1::FetchConfigurationResponse) -> Self {
        let read = |kind: Kind, all: Vec<v1::FetchedConfiguration>| {
            all.into_iter().map(move |one| {
                let content = one.data.into_iter().map(|(key, value)| (key, SecretBytes::new(value))).collect();
                ((kind, one.name), Fetched { etag: one.etag, content })
            })
        };
        Self(read(Kind::ConfigMap, wire.config_maps).chain(read(Kind::Secret, wire.secrets)).collect())
    }

    /// The keys and values of one; `None` where it is not among what the revision takes.
    #[must_use]
    pub fn content(&self, kind: Kind, name: &str) -> Option<&Content> {
        self.0.get(&(kind, name.to_owned())).map(|fetched| &fetched.content)
    }

    fn pack(&self) -> SecretBytes {
        let mut wire = v1::FetchConfigurationResponse::default();
        for ((kind, name), Fetched { etag, content }) in &self.0 {
            let data = content.iter().map(|(key, value)| (key.clone(), value.reveal().to_vec())).collect();
            let one = v1::FetchedConfiguration { name: name.clone(), etag: etag.clone(), data };
            match kind {
                Kind::ConfigMap => wire.config_maps.push(one),
                Kind::Secret => wire.secrets.push(one),
            }
        }
        SecretBytes::new(wire.encode_to_vec())
    }

    fn unpack(packed: &[u8]) -> Option<Self> {
        v1::FetchConfigurationResponse::decode(packed).ok().map(Self::from_wire)
    }
}

/// Knows what apps take.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// What a revision of an app takes, as it is now. Waits as long as it takes; may be dropped.
    ///
    /// # Errors
    ///
    /// Something of it is not there, or cannot be used.
    async fn fetch(&self, app: &AppName, revision: u64) -> Result<Configuration, RuntimeError>;
}
