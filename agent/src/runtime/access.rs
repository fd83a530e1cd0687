//! What a runtime reads a private image with.

use std::sync::Arc;

use async_trait::async_trait;
use longshore_model::name::AppName;
use longshore_model::registry::Scope;
use longshore_model::secret::Secret;

use super::RuntimeError;

/// User name and password for a registry. Kept in memory only, and for no longer than a pull.
#[derive(Clone, Debug)]
pub struct RegistryCredential {
    /// Its name, for messages to people.
    pub name: String,
    /// What it is for; it must not be shown to any other registry.
    pub registry: Scope,
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret,
    /// PEM of authorities to trust for this registry, beside those of the node; empty for none.
    pub ca_certificate_pem: String,
}

/// Knows what apps read their images with.
#[async_trait]
pub trait Keyring: Send + Sync + 'static {
    /// What an app reads its image with; `None` when everybody may read it. Waits as long as it takes; may be dropped.
    ///
    /// # Errors
    ///
    /// The app's credential cannot be used.
    async fn credential(&self, app: &AppName) -> Result<Option<RegistryCredential>, RuntimeError>;
}

/// An app's way to its credential, which is asked for only when a registry is.
#[derive(Clone)]
pub struct Access(Option<(Arc<dyn Keyring>, AppName)>);

impl Access {
    /// Nobody's: for images that everybody may read.
    #[must_use]
    pub fn anonymous() -> Self {
        Self(None)
    }

    /// That of an app.
    #[must_use]
    pub fn of(app: AppName, keyring: Arc<dyn Keyring>) -> Self {
        Self(Some((keyring, app)))
    }

    /// The credential, asked for anew each time.
    ///
    /// # Errors
    ///
    /// It cannot be used.
    pub async fn credential(&self) -> Result<Option<RegistryCredential>, RuntimeError> {
        match &self.0 {
            Some((keyring, app)) => keyring.credential(app).await,
            None => Ok(None),
        }
    }
}
