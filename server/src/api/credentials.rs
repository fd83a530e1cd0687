//! RegistryCredentialService.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use longshore_model::limits::{MAX_CA_PEM, MAX_PAGE};
use longshore_model::name::CredentialName;
use longshore_model::registry::{RegistryCredential, Scope, check_password, check_username};
use longshore_model::secret::Secret;
use longshore_model::validate::{Path, Violations, quoted};
use longshore_proto::convert::{self, FromWire};
use longshore_proto::v1;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tonic::{Request, Response, Status};
use v1::registry_credential_service_server::RegistryCredentialService;

use super::masks::{Fields, Named};
use super::pages::{Asked, Listing};
use super::repeats::Beside;
use super::{Context, filters, status, with_vault};
use crate::store::{StoreError, StoredCredential};
use crate::vault::{Vault, VaultError};

const RESOURCE: &str = "registry_credential";
const PASSWORD: &str = "password";
/// What there is of a credential; the password has its place beside it.
pub(super) const FIELDS: Fields = Fields {
    changeable: &["registry", "username", "ca_certificate_pem", PASSWORD],
    maps: &[],
    fixed: &["name", "create_time", "update_time", "etag"],
};

/// RegistryCredentialService.
pub struct CredentialApi {
    /// What it works with.
    pub context: Context,
    /// Seals the passwords.
    pub vault: Arc<Vault>,
}

/// The place that a credential's password is sealed for. Everything that decides to whom it is sent is part of it.
fn place(credential: &RegistryCredential) -> [String; 5] {
    [
        "registry credential".to_owned(),
        credential.name.to_string(),
        credential.registry.to_string(),
        credential.username.clone(),
        credential.ca_certificate_pem.clone(),
    ]
}

pub(crate) fn seal(vault: &Vault, credential: &RegistryCredential, password: &Secret) -> Result<Vec<u8>, VaultError> {
    vault.seal(&place(credential).each_ref().map(String::as_str), password)
}

/// The password of a credential.
///
/// # Errors
///
/// The key is gone, or the row was tampered with.
pub(crate) fn open(vault: &Vault, stored: &StoredCredential) -> Result<Secret, VaultError> {
    vault.open(&place(&stored.credential).each_ref().map(String::as_str), &stored.sealed)
}

/// A credential's password, sealed with the first key for the place that it is in.
///
/// # Errors
///
/// Those of [`open`].
pub(crate) fn reseal(vault: &Vault, stored: &StoredCredential) -> Result<Vec<u8>, VaultError> {
    seal(vault, &stored.credential, &open(vault, stored)?)
}

fn registry(text: &str, bad: &mut Violations) -> Option<Scope> {
    let path = Path::Root.field(RESOURCE);
    Scope::parse(text).map_err(|error| bad.add(path.field("registry"), format!("{} {error}", quoted(text)))).ok()
}

fn authorities(pem: &str, bad: &mut Violations) {
    let resource = Path::Root.field(RESOURCE);
    let path = resource.field("ca_certificate_pem");
    if pem.is_empty() {
        return;
    }
    if pem.len() > MAX_CA_PEM {
        return bad.add(path, format!("is {} bytes long; at most {MAX_CA_PEM} are allowed", pem.len()));
    }
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let whole = certificate
            .ok()
            .filter(|der| x509_parser::parse_x509_certificate(der).is_ok_and(|(rest, _)| rest.is_empty()));
        if whole.is_none() {
            return bad.add(path, format!("has a certificate that cannot be read, after {count} that can"));
        }
        count += 1;
    }
    if count == 0 {
        bad.add(path, "has no certificate; -----BEGIN CERTIFICATE----- is expected");
    }
    if pem.contains("PRIVATE KEY") {
        bad.add(path, "has a private key, which belongs to the registry alone; give the certificate only");
    }
}

/// The fields that an update is about.
fn masked(request: &v1::UpdateRegistryCredentialRequest, bad: &mut Violations) -> Vec<&'static str> {
    let new = request.registry_credential.clone().unwrap_or_default();
    let is_given = |field: &str| match field {
        "registry" => !new.registry.is_empty(),
        "username" => !new.username.is_empty(),
        "ca_certificate_pem" => !new.ca_certificate_pem.is_empty(),
        _ => !request.password.is_empty(),
    };
    FIELDS.read(request.update_mask.as_ref(), is_given, bad).iter().map(Named::field).collect()
}

impl CredentialApi {
    /// The credential as it shall be after an update.
    async fn changed(&self, change: Change, stored: StoredCredential) -> Result<StoredCredential, Status> {
        let mut credential = stored.credential.clone();
        credential.registry = change.registry.unwrap_or(credential.registry);
        credential.username = change.username.unwrap_or(credential.username);
        credential.ca_certificate_pem = change.ca_certificate_pem.unwrap_or(credential.ca_certificate_pem);
        credential.update_time = Timestamp::now();
        credential.version += 1;
        let sealed = {
            let credential = credential.clone();
            with_vault(&self.vault, move |vault| {
                let password = change.password.map_or_else(|| open(vault, &stored), Ok)?;
                seal(vault, &credential, &password)
            })
            .await?
        };
        Ok(StoredCredential { credential, sealed })
    }
}

/// What an update gives new values.
#[derive(Default)]
struct Change {
    registry: Option<Scope>,
    username: Option<String>,
    ca_certificate_pem: Option<String>,
    password: Option<Secret>,
}

impl Change {
    fn read(fields: &[&str], new: v1::RegistryCredential, password: String, bad: &mut Violations) -> Self {
        let mut change = Self::default();
        let resource = Path::Root.field(RESOURCE);
        if fields.contains(&"registry") {
            change.registry = registry(&new.registry, bad);
        }
        if fields.contains(&"username") {
            check_username(&new.username, resource.field("username"), bad);
            change.username = Some(new.username);
        }
        if fields.contains(&"ca_certificate_pem") {
            authorities(&new.ca_certificate_pem, bad);
            change.ca_certificate_pem = Some(new.ca_certificate_pem);
        }
        if fields.contains(&PASSWORD) {
            let password = Secret::new(password);
            check_password(password.reveal(), Path::Root.field(PASSWORD), bad);
            change.password = Some(password);
        }
        change
    }
}

fn answer(credential: &RegistryCredential) -> Option<v1::RegistryCredential> {
    Some(convert::registry_credential(credential))
}

#[async_trait]
impl RegistryCredentialService for CredentialApi {
    async fn create_registry_credential(
        &self,
        request: Request<v1::CreateRegistryCredentialRequest>,
    ) -> Result<Response<v1::CreateRegistryCredentialResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        let mut request = request.into_inner();
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, &caller, &mut bad);
        let given = request.registry_credential.unwrap_or_default();
        let resource = Path::Root.field(RESOURCE);
        let name = CredentialName::from_wire(given.name, resource.field("name"), &mut bad);
        let scope = registry(&given.registry, &mut bad);
        check_username(&given.username, resource.field("username"), &mut bad);
        authorities(&given.ca_certificate_pem, &mut bad);
        let password = Secret::new(request.password);
        check_password(password.reveal(), Path::Root.field(PASSWORD), &mut bad);
        let (Some(name), Some(registry), true) = (name, scope, bad.0.is_empty()) else {
            return Err(status::invalid(bad));
        };
        let now = Timestamp::now();
        let credential = RegistryCredential {
            name,
            registry,
            username: given.username,
            ca_certificate_pem: given.ca_certificate_pem,
            create_time: now,
            update_time: now,
            version: 1,
        };
        let seal_all = move |vault: &Vault| {
            // Nothing that is only checked makes a key.
            let sealed = if beside.validate_only { Vec::new() } else { seal(vault, &credential, &password)? };
            Ok((StoredCredential { credential, sealed }, beside.sealed_terms(vault)?))
        };
        let (new, terms) = with_vault(&self.vault, seal_all).await?;
        let validate_only = terms.validate_only;
        let made = self.context.store.create_credential(new, terms).await.map_err(status::store)?;
        if !validate_only {
            tracing::info!(name = %made.name, registry = %made.registry, "registry credential created");
        }
        Ok(Response::new(v1::CreateRegistryCredentialResponse { registry_credential: answer(&made) }))
    }

    async fn list_registry_credentials(
        &self,
        request: Request<v1::ListRegistryCredentialsRequest>,
    ) -> Result<Response<v1::ListRegistryCredentialsResponse>, Status> {
        let request = request.into_inner();
        let texts = [request.filter.as_str()];
        let listing = Listing::new("ListRegistryCredentials", &texts);
        let mut bad = Violations::default();
        let filter = filters::read(&request.filter, filters::CREDENTIALS, &mut bad);
        let asked = Asked::new(request.page_size, &request.page_token, &request.order_by);
        let mut scan = listing.scan(&asked, (!filter.is_empty()).then_some(MAX_PAGE), &mut bad);
        bad.or(()).map_err(status::invalid)?;
        let is_wanted = |stored: &StoredCredential| {
            let registry = stored.credential.registry.to_string();
            filter.matches(|field| filters::credential(&stored.credential, &registry, field))
        };
        while scan.goes_on() {
            let page = self.context.store.credentials(scan.query()).await.map_err(status::store)?;
            scan.take(page, is_wanted);
        }
        let found = scan.finish();
        let items = found.items.iter().map(|stored| convert::registry_credential(&stored.credential)).collect();
        let (registry_credentials, next_page_token) = listing.close(&found, items);
        Ok(Response::new(v1::ListRegistryCredentialsResponse { registry_credentials, next_page_token }))
    }

    async fn get_registry_credential(
        &self,
        request: Request<v1::GetRegistryCredentialRequest>,
    ) -> Result<Response<v1::GetRegistryCredentialResponse>, Status> {
        let name = CredentialName::read_field(request.into_inner().name, "name").map_err(status::invalid)?;
        let stored = self.context.store.credential(&name).await.map_err(status::store)?;
        Ok(Response::new(v1::GetRegistryCredentialResponse { registry_credential: answer(&stored.credential) }))
    }

    async fn update_registry_credential(
        &self,
        request: Request<v1::UpdateRegistryCredentialRequest>,
    ) -> Result<Response<v1::UpdateRegistryCredentialResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        let mut request = request.into_inner();
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, &caller, &mut bad);
        let fields = masked(&request, &mut bad);
        let given = request.registry_credential.unwrap_or_default();
        let resource = Path::Root.field(RESOURCE);
        let name = CredentialName::from_wire(given.name.clone(), resource.field("name"), &mut bad);
        let etag = given.etag.clone();
        let change = Change::read(&fields, given, request.password, &mut bad);
        let Some(name) = name.filter(|_| bad.0.is_empty()) else { return Err(status::invalid(bad)) };
        let terms = with_vault(&self.vault, move |vault| beside.sealed_terms(vault)).await?;
        let store = &self.context.store;
        if let Some(request) = &terms.request
            && let Some(left) = store.answered_credential(request, Timestamp::now()).await.map_err(status::store)?
        {
            return Ok(Response::new(v1::UpdateRegistryCredentialResponse { registry_credential: answer(&left) }));
        }
        let stored = store.credential(&name).await.map_err(status::store)?;
        let seen = stored.credential.version;
        if !etag.is_empty() && etag != stored.credential.etag() {
            let error = StoreError::Changed { kind: "registry credential", name: name.to_string() };
            return Err(status::store(error));
        }
        if fields.is_empty() {
            let registry_credential = answer(&stored.credential);
            return Ok(Response::new(v1::UpdateRegistryCredentialResponse { registry_credential }));
        }
        let validate_only = terms.validate_only;
        let new = self.changed(change, stored).await?;
        let changed = store.replace_credential(new, seen, terms).await.map_err(status::store)?;
        if !validate_only {
            tracing::info!(%name, ?fields, "registry credential changed");
        }
        Ok(Response::new(v1::UpdateRegistryCredentialResponse { registry_credential: answer(&changed) }))
    }

    async fn delete_registry_credential(
        &self,
        request: Request<v1::DeleteRegistryCredentialRequest>,
    ) -> Result<Response<v1::DeleteRegistryCredentialResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        let mut request = request.into_inner();
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, &caller, &mut bad);
        let name = CredentialName::from_wire(request.name, Path::Root.field("name"), &mut bad);
        let Some(name) = name.filter(|_| bad.0.is_empty()) else { return Err(status::invalid(bad)) };
        let (validate_only, terms) = (beside.validate_only, beside.terms());
        self.context.store.delete_credential(&name, terms, Timestamp::now()).await.map_err(status::store)?;
        if !validate_only {
            tracing::info!(%name, "registry credential deleted");
        }
        Ok(Response::new(v1::DeleteRegistryCredentialResponse {}))
    }
}
