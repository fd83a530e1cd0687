//! Requests that may come again, as AIP-155 has them, and what else callers say beside the effect: `request_id`, `etag`,
//! `validate_only`.
//!
//! A request is known by its caller's name, its identifier, and a fingerprint of the call and of all that it says. The
//! store keeps these with the answer; whoever is asked again gives that.

use longshore_model::identity::Identity;
use longshore_model::validate::{Path, Violations};
use longshore_proto::v1;
use prost::Message;
use sha2::{Digest, Sha256};

use super::{record, request_id};
use crate::store::{RequestKey, Terms};
use crate::vault::{Vault, VaultError};

/// A request with an identifier.
pub(super) trait Repeatable: Message {
    /// What it is called: the same fields mean something else in another call.
    const NAME: &'static str;

    /// The fields for the identifier, and for whether it only asks.
    fn beside(&mut self) -> (&mut String, &mut bool);

    /// The etag that the thing shall have; empty for any.
    fn etag(&self) -> &str {
        ""
    }

    /// What it is about, as the audit log names it; empty for what has no name yet.
    fn target(&self) -> String {
        String::new()
    }
}

macro_rules! repeatable {
    ($($message:ident $($etag:ident)? $(=> $target:expr)?),+ $(,)?) => {
        $(impl Repeatable for v1::$message {
            const NAME: &'static str = stringify!($message);

            fn beside(&mut self) -> (&mut String, &mut bool) {
                (&mut self.request_id, &mut self.validate_only)
            }

            $(fn etag(&self) -> &str {
                &self.$etag
            })?

            $(fn target(&self) -> String {
                let target: fn(&Self) -> String = $target;
                target(self)
            })?
        })+
    };
}
repeatable! {
    CreateJobRequest,
    StopJobRequest etag => |request| format!("jobs/{}", request.job_id),
    ResumeJobRequest etag => |request| format!("jobs/{}", request.job_id),
    RetryJobRequest etag => |request| format!("jobs/{}", request.job_id),
    RemoveAppRequest => |request| match request.node_name.as_str() {
        "" => format!("apps/{}", request.app_name),
        node => format!("nodes/{node}/apps/{}", request.app_name),
    },
    UpdateNodeRequest => |request| format!("nodes/{}", request.node.as_ref().map_or("", |node| &node.name)),
    UpdateNodeLabelsRequest etag => |request| format!("nodes/{}", request.name),
    DeleteNodeRequest etag => |request| format!("nodes/{}", request.name),
    CreateEnrollmentTokenRequest,
    DeleteEnrollmentTokenRequest => |request| format!("tokens/{}", request.token_id),
    ApproveNodeRequest etag => |request| format!("nodes/{}", request.name),
    DenyNodeRequest etag => |request| format!("nodes/{}", request.name),
    CreateUserRequest => |request| format!("users/{}", request.name),
    RevokeUserRequest etag => |request| format!("users/{}", request.name),
    CreateRegistryCredentialRequest => |request| credential(request.registry_credential.as_ref()),
    UpdateRegistryCredentialRequest => |request| credential(request.registry_credential.as_ref()),
    DeleteRegistryCredentialRequest etag => |request| format!("registries/{}", request.name),
    CreateConfigMapRequest => |request| config_map(request.config_map.as_ref()),
    UpdateConfigMapRequest => |request| config_map(request.config_map.as_ref()),
    DeleteConfigMapRequest etag => |request| format!("configMaps/{}", request.name),
    CreateSecretRequest => |request| secret(request.secret.as_ref()),
    UpdateSecretRequest => |request| secret(request.secret.as_ref()),
    DeleteSecretRequest etag => |request| format!("secrets/{}", request.name),
    CreateTemplateRequest => |request| match &request.template {
        Some(template) => version(&template.name, &template.version, &template.architecture),
        None => version("", "", ""),
    },
    DeleteTemplateRequest etag => |request| version(&request.name, &request.version, &request.architecture),
    SetTemplateAliasRequest etag => |request| format!("templates/{}/aliases/{}", request.name, request.alias),
}

fn version(name: &str, version: &str, architecture: &str) -> String {
    let variant = if architecture.is_empty() { String::new() } else { format!("/{architecture}") };
    format!("templates/{name}/versions/{version}{variant}")
}

fn config_map(named: Option<&v1::ConfigMap>) -> String {
    format!("configMaps/{}", named.map_or("", |config_map| &config_map.name))
}

fn secret(named: Option<&v1::Secret>) -> String {
    format!("secrets/{}", named.map_or("", |secret| &secret.name))
}

fn credential(named: Option<&v1::RegistryCredential>) -> String {
    format!("registries/{}", named.map_or("", |credential| &credential.name))
}

/// What a caller says beside the effect.
pub(super) struct Beside {
    caller: String,
    /// The identifier, where the request has one that is a UUID.
    id: Option<String>,
    /// All else that it says, behind its name.
    content: Vec<u8>,
    etag: Option<String>,
    /// Whether it only asks.
    pub(super) validate_only: bool,
}

impl Beside {
    /// Takes it out of a request, and tells the audit log what that is about. An identifier that is none is wrong; the
    /// request is then not known by any.
    pub(super) fn read<R: Repeatable>(request: &mut R, caller: &Identity, bad: &mut Violations) -> Self {
        let target = request.target();
        let (id, validate_only) = request.beside();
        let (id, validate_only) = (std::mem::take(id), std::mem::take(validate_only));
        record::about(target, validate_only);
        let id = read_id(id, bad);
        let mut content = Vec::new();
        if id.is_some() {
            content.extend_from_slice(R::NAME.as_bytes());
            content.push(0);
            content.extend_from_slice(&request.encode_to_vec());
        }
        let etag = Some(request.etag().to_owned()).filter(|etag| !etag.is_empty());
        Self { caller: caller.name(), id, content, etag, validate_only }
    }

    /// The terms of a request that has no secret in it.
    pub(super) fn terms(self) -> Terms {
        let body = Sha256::digest(&self.content).into();
        self.with_body(body)
    }

    /// The terms of a request with a secret in it: nobody without the vault's key can try out guesses. Blocks for a moment.
    pub(super) fn sealed_terms(self, vault: &Vault) -> Result<Terms, VaultError> {
        // Nothing that is only checked makes a key.
        let is_known = self.id.is_some() && !self.validate_only;
        let body = if is_known { vault.fingerprint(&self.content)? } else { [0; 32] };
        Ok(self.with_body(body))
    }

    fn with_body(self, body: [u8; 32]) -> Terms {
        let Self { caller, id, etag, validate_only, .. } = self;
        let request = id.filter(|_| !validate_only).map(|id| RequestKey { caller, id, body });
        Terms { etag, validate_only, request, cause: request_id::current() }
    }
}

/// Reads an identifier; `None` when there is none, or one that is wrong.
fn read_id(mut id: String, bad: &mut Violations) -> Option<String> {
    if id.is_empty() {
        return None;
    }
    if !is_uuid(&id) {
        bad.add(Path::Root.field("request_id"), "is not a UUID such as 2b1c6a1e-58a5-4c0f-9d0e-6a6f3c1f7c11");
        return None;
    }
    id.make_ascii_lowercase();
    Some(id)
}

fn is_uuid(text: &str) -> bool {
    let groups = [8, 4, 4, 4, 12];
    let is_group = |(part, length): (&str, usize)| part.len() == length && part.bytes().all(|c| c.is_ascii_hexdigit());
    text.split('-').count() == groups.len() && text.split('-').zip(groups).all(is_group)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A test may fail by panicking.
mod tests {
    use longshore_model::identity::Role;

    use super::*;

    const ONE: &str = "2b1c6a1e-58a5-4c0f-9d0e-6a6f3c1f7c11";

    fn key<R: Repeatable>(mut request: R, caller: &str) -> Result<Option<RequestKey>, Violations> {
        let mut bad = Violations::default();
        let caller = Identity::User { name: caller.to_owned(), role: Role::Admin };
        let terms = Beside::read(&mut request, &caller, &mut bad).terms();
        bad.or(terms.request)
    }

    fn order(id: &str, name: &str) -> v1::CreateJobRequest {
        let spec = Some(v1::AppSpec { name: name.to_owned(), ..Default::default() });
        v1::CreateJobRequest { request_id: id.to_owned(), spec, ..Default::default() }
    }

    #[test]
    fn requests_are_the_same_when_everything_but_their_identifier_is() {
        let known = key(order(ONE, "till"), "ann").unwrap().unwrap();
        let shouted = order(&ONE.to_ascii_uppercase(), "till");
        assert_eq!(key(shouted, "ann").unwrap().unwrap(), known, "letters of either case");
        assert_ne!(key(order(ONE, "tilt"), "ann").unwrap().unwrap().body, known.body);
        assert_ne!(key(order(ONE, "till"), "bob").unwrap().unwrap(), known);
        assert_eq!(key(order("", "till"), "ann").unwrap(), None);
        for wrong in ["1", "2b1c6a1e-58a5-4c0f-9d0e-6a6f3c1f7c1g", "2b1c6a1e58a54c0f9d0e6a6f3c1f7c11", "----", "é"] {
            assert_eq!(key(order(wrong, "till"), "ann").unwrap_err().0[0].field, "request_id", "{wrong}");
        }
        let asked = v1::CreateJobRequest { validate_only: true, ..order(ONE, "till") };
        assert_eq!(key(asked, "ann").unwrap(), None, "what is only checked uses nothing up");
    }

    /// Calls whose requests have the same fields are told apart, and maps are the same in whatever order they were written.
    #[test]
    fn a_request_is_of_its_call_and_has_no_order_of_its_own() {
        let (name, etag, request_id) = ("shop-1".to_owned(), "1".to_owned(), ONE.to_owned());
        let approve = v1::ApproveNodeRequest {
            name: name.clone(),
            etag: etag.clone(),
            request_id: request_id.clone(),
            validate_only: false,
        };
        let deny = v1::DenyNodeRequest { name, etag, request_id, validate_only: false };
        let (approve, deny) = (key(approve, "ann").unwrap().unwrap(), key(deny, "ann").unwrap().unwrap());
        assert_ne!(approve.body, deny.body);
        assert_eq!((approve.caller, approve.id), (deny.caller, deny.id));
        let labels = |keys: &[usize]| {
            let set = keys.iter().map(|key| (format!("key-{key}"), String::new())).collect();
            let request = v1::UpdateNodeLabelsRequest { set, request_id: ONE.to_owned(), ..Default::default() };
            key(request, "ann").unwrap()
        };
        let (up, down): (Vec<_>, Vec<_>) = ((0..20).collect(), (0..20).rev().collect());
        assert_eq!(labels(&up), labels(&down));
    }

    #[test]
    fn a_fingerprint_of_a_secret_needs_the_key() {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let body = |directory: &tempfile::TempDir, password: &str, validate_only| {
            let mut request = v1::CreateRegistryCredentialRequest {
                password: password.to_owned(),
                request_id: ONE.to_owned(),
                validate_only,
                ..Default::default()
            };
            let caller = Identity::User { name: "ann".to_owned(), role: Role::Admin };
            let beside = Beside::read(&mut request, &caller, &mut Violations::default());
            beside.sealed_terms(&Vault::new(directory.path())).unwrap().request.map(|request| request.body)
        };
        assert_eq!(body(&directories[0], "a", true), None);
        assert!(!directories[0].path().join(crate::vault::KEY_FILE).exists(), "what is only checked makes no key");
        assert_eq!(body(&directories[0], "a", false), body(&directories[0], "a", false));
        assert_ne!(body(&directories[0], "a", false), body(&directories[0], "b", false));
        assert_ne!(body(&directories[0], "a", false), body(&directories[1], "a", false));
    }
}
