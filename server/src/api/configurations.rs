//! What ConfigMapService and SecretService share: both keep keys with values under a name, and differ in who may see them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use longshore_model::configuration::{Configuration, Content, Kind, check_content};
use longshore_model::limits::MAX_PAGE;
use longshore_model::name::ConfigurationName;
use longshore_model::secret::SecretBytes;
use longshore_model::validate::{Path, Violations};
use longshore_proto::convert::FromWire;
use longshore_proto::v1;
use prost::Message;
use prost_types::FieldMask;
use tonic::Status;

use super::masks::{Fields, Named};
use super::pages::{Asked, Listing};
use super::repeats::Beside;
use super::scan::Found;
use super::{Context, filters, status, with_vault};
use crate::store::{Store, StoreError, StoredConfiguration};
use crate::vault::{Vault, VaultError};

/// The field of values.
pub(super) const DATA: &str = "data";
/// What there is of either; the values of a secret have their place beside it in requests, and none in answers.
pub(super) const FIELDS: Fields =
    Fields { changeable: &[DATA], maps: &[DATA], fixed: &["name", "keys", "create_time", "update_time", "etag"] };

/// Keeps and finds config maps and secrets.
pub(super) struct Desk {
    pub(super) kind: Kind,
    pub(super) context: Context,
    pub(super) vault: Arc<Vault>,
}

/// One with what people may see of what is in it: of a secret nothing.
pub(super) struct Held {
    pub(super) configuration: Configuration,
    pub(super) content: Content,
}

/// A request for a new one.
pub(super) struct New {
    pub(super) name: ConfigurationName,
    pub(super) content: Content,
    pub(super) beside: Beside,
}

/// A request to change one.
pub(super) struct Change {
    pub(super) name: ConfigurationName,
    pub(super) etag: String,
    pub(super) named: Vec<Named>,
    pub(super) content: Content,
    pub(super) beside: Beside,
}

/// Values as they come in.
pub(super) fn content<V: Into<Vec<u8>>>(data: BTreeMap<String, V>) -> Content {
    data.into_iter().map(|(key, value)| (key, SecretBytes::new(value.into()))).collect()
}

/// Reads a mask of a request that has this content.
pub(super) fn masked(mask: Option<&FieldMask>, content: &Content, bad: &mut Violations) -> Vec<Named> {
    FIELDS.read(mask, |_| !content.is_empty(), bad)
}

/// The place that a secret is sealed for: what was sealed for an earlier version does not open as this one.
fn place(secret: &Configuration) -> [String; 3] {
    [secret.kind.as_str().to_owned(), secret.name.to_string(), secret.etag()]
}

/// The form in which content is kept: as it goes to nodes.
pub(crate) fn pack(vault: &Vault, configuration: &Configuration, content: &Content) -> Result<Vec<u8>, VaultError> {
    let data = content.iter().map(|(key, value)| (key.clone(), value.reveal().to_vec())).collect();
    let packed = v1::FetchedConfiguration { data, ..Default::default() }.encode_to_vec();
    match configuration.kind {
        Kind::ConfigMap => Ok(packed),
        Kind::Secret => {
            let packed = SecretBytes::new(packed);
            vault.seal_bytes(&place(configuration).each_ref().map(String::as_str), packed.reveal())
        }
    }
}

/// What is in one.
///
/// # Errors
///
/// The key is gone, or the row was tampered with.
pub(crate) fn open(vault: &Vault, stored: &StoredConfiguration) -> Result<Content, VaultError> {
    let opened;
    let packed = match stored.configuration.kind {
        Kind::ConfigMap => stored.content.as_slice(),
        Kind::Secret => {
            let place = place(&stored.configuration);
            opened = vault.open_bytes(&place.each_ref().map(String::as_str), &stored.content)?;
            opened.reveal()
        }
    };
    let packed = v1::FetchedConfiguration::decode(packed).map_err(|_| VaultError::Damaged)?;
    Ok(content(packed.data))
}

/// The content of one, in the form in which it is kept, a secret sealed with the first key for the place that it is in.
///
/// # Errors
///
/// Those of [`open`].
pub(crate) fn reseal(vault: &Vault, stored: &StoredConfiguration) -> Result<Vec<u8>, VaultError> {
    pack(vault, &stored.configuration, &open(vault, stored)?)
}

fn keys(content: &Content) -> Vec<String> {
    content.keys().cloned().collect()
}

impl Desk {
    fn store(&self) -> &dyn Store {
        self.context.store.as_ref()
    }

    async fn open(&self, stored: &StoredConfiguration) -> Result<Content, Status> {
        let stored = stored.clone();
        with_vault(&self.vault, move |vault| open(vault, &stored)).await
    }

    /// What people may see: the values of config maps.
    async fn shown(&self, stored: StoredConfiguration) -> Result<Held, Status> {
        let content = match self.kind {
            Kind::ConfigMap => self.open(&stored).await?,
            Kind::Secret => Content::new(),
        };
        Ok(Held { configuration: stored.configuration, content })
    }

    /// What people may see of this content.
    fn told(&self, content: Content) -> Content {
        if self.kind == Kind::ConfigMap { content } else { Content::new() }
    }

    /// Makes one.
    pub(super) async fn create(&self, new: New) -> Result<Held, Status> {
        let New { name, content, beside } = new;
        let (kind, now) = (self.kind, Timestamp::now());
        let made = Configuration { kind, name, keys: keys(&content), create_time: now, update_time: now, version: 1 };
        let told = self.told(content.clone());
        let (new, terms) = with_vault(&self.vault, move |vault| {
            // Nothing that is only checked makes a key.
            let content = if beside.validate_only { Vec::new() } else { pack(vault, &made, &content)? };
            Ok((StoredConfiguration { configuration: made, content }, beside.sealed_terms(vault)?))
        })
        .await?;
        let validate_only = terms.validate_only;
        let made = self.store().create_configuration(new, terms).await.map_err(status::store)?;
        if !validate_only {
            tracing::info!(name = %made.name, keys = ?made.keys, "{} created", kind.as_str());
        }
        Ok(Held { configuration: made, content: told })
    }

    /// Finds one.
    pub(super) async fn get(&self, name: String) -> Result<Held, Status> {
        let name = ConfigurationName::read_field(name, "name").map_err(status::invalid)?;
        let stored = self.store().configuration(self.kind, &name).await.map_err(status::store)?;
        self.shown(stored).await
    }

    /// Finds a page of them.
    pub(super) async fn list(
        &self,
        listing: &Listing<'_>,
        asked: &Asked<'_>,
        filter: &str,
    ) -> Result<Found<Configuration>, Status> {
        let mut bad = Violations::default();
        let filter = filters::read(filter, filters::CONFIGURATIONS, &mut bad);
        let mut scan = listing.scan(asked, (!filter.is_empty()).then_some(MAX_PAGE), &mut bad);
        bad.or(()).map_err(status::invalid)?;
        while scan.goes_on() {
            let page = self.store().configurations(self.kind, scan.query()).await.map_err(status::store)?;
            scan.take(page, |found: &Configuration| filter.matches(|field| filters::configuration(found, field)));
        }
        Ok(scan.finish())
    }

    /// Changes one; `path` is that of the values, for what is wrong with them.
    pub(super) async fn update(&self, change: Change, path: Path<'_>) -> Result<Held, Status> {
        let Change { name, etag, named, content: mut given, beside } = change;
        let terms = with_vault(&self.vault, move |vault| beside.sealed_terms(vault)).await?;
        if let Some(request) = &terms.request
            && let Some(left) =
                self.store().answered_configuration(request, Timestamp::now()).await.map_err(status::store)?
        {
            return self.as_left(left).await;
        }
        let validate_only = terms.validate_only;
        let stored = self.store().configuration(self.kind, &name).await.map_err(status::store)?;
        let seen = stored.configuration.version;
        if !etag.is_empty() && etag != stored.configuration.etag() {
            return Err(status::store(StoreError::Changed { kind: self.kind.as_str(), name: name.to_string() }));
        }
        if named.is_empty() {
            return self.shown(stored).await;
        }
        let is_whole = named.iter().any(|named| matches!(named, Named::Field(_)));
        let content = if is_whole {
            given
        } else {
            let mut content = self.open(&stored).await?;
            for key in named.iter().filter_map(|named| match named {
                Named::Key(_, key) => Some(key),
                Named::Field(_) => None,
            }) {
                match given.remove(key) {
                    Some(value) => drop(content.insert(key.clone(), value)),
                    None => drop(content.remove(key)),
                }
            }
            content
        };
        let mut bad = Violations::default();
        check_content(&content, path, &mut bad);
        bad.or(()).map_err(status::invalid)?;
        let configuration = Configuration {
            keys: keys(&content),
            update_time: Timestamp::now(),
            version: seen + 1,
            ..stored.configuration
        };
        let new = if validate_only {
            StoredConfiguration { configuration, content: Vec::new() }
        } else {
            let content = content.clone();
            with_vault(&self.vault, move |vault| {
                let content = pack(vault, &configuration, &content)?;
                Ok(StoredConfiguration { configuration, content })
            })
            .await?
        };
        let changed = self.store().replace_configuration(new, seen, terms).await.map_err(status::store)?;
        if !validate_only {
            tracing::info!(%name, keys = ?changed.keys, "{} changed", self.kind.as_str());
        }
        Ok(Held { configuration: changed, content: self.told(content) })
    }

    /// One as a request left it that has come before; with its values where they are still those.
    async fn as_left(&self, left: Configuration) -> Result<Held, Status> {
        let content = match self.store().configuration(self.kind, &left.name).await {
            Ok(stored) if stored.configuration.etag() == left.etag() => self.shown(stored).await?.content,
            Ok(_) | Err(StoreError::NotFound { .. }) => Content::new(),
            Err(error) => return Err(status::store(error)),
        };
        Ok(Held { configuration: left, content })
    }

    /// Deletes one.
    pub(super) async fn delete(&self, name: ConfigurationName, beside: Beside) -> Result<(), Status> {
        let (validate_only, terms) = (beside.validate_only, beside.terms());
        let deleted = self.store().delete_configuration(self.kind, &name, terms, Timestamp::now()).await;
        deleted.map_err(status::store)?;
        if !validate_only {
            tracing::info!(%name, "{} deleted", self.kind.as_str());
        }
        Ok(())
    }
}
