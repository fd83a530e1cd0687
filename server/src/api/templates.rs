//! TemplateService, and the specs that jobs are made of by it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use longshore_model::limits::{MAX_PAGE, MAX_SPEC};
use longshore_model::name::{NodeName, TemplateName};
use longshore_model::spec::AppSpec;
use longshore_model::template::{self, Template, TemplateKey, TemplateUse};
use longshore_model::validate::{self, Path, Violations, quoted};
use longshore_proto::convert::FromWire;
use longshore_proto::overrides::overridden;
use longshore_proto::v1;
use prost::Message;
use tonic::{Request, Response, Status};
use v1::template_service_server::TemplateService;

use super::pages::{self, Listing};
use super::repeats::Beside;
use super::{Context, filters, status};
use crate::store::{AliasChange, Store, StoreError, StoredTemplate};

/// TemplateService.
pub struct TemplateApi(pub Context);

/// What is stored can be read: it was checked when it came.
fn spec_of(stored: &StoredTemplate) -> Result<v1::AppSpec, Status> {
    v1::AppSpec::decode(stored.spec.clone()).map_err(|error| status::internal(&error))
}

/// Checks a spec as a job's is, beside what depends on what there is; answers advice.
fn check_spec(spec: Option<v1::AppSpec>, path: Path<'_>, bad: &mut Violations) -> (v1::AppSpec, Vec<String>) {
    let field = path.field("spec");
    let Some(spec) = spec else {
        bad.add(field, "is missing");
        return (v1::AppSpec::default(), Vec::new());
    };
    // A request does not say it: the kind of a job does.
    let spec = v1::AppSpec { image_only: false, ..spec };
    let encoded = spec.encoded_len();
    if encoded > MAX_SPEC {
        bad.add(field, format!("is {encoded} bytes long; at most {MAX_SPEC} are allowed"));
    }
    let read = AppSpec::from_wire(spec.clone(), field, bad);
    let warnings = read.map(|read| {
        validate::app_spec(&read, field, bad);
        validate::advice(&read)
    });
    (spec, warnings.unwrap_or_default())
}

#[async_trait]
impl TemplateService for TemplateApi {
    async fn create_template(
        &self,
        request: Request<v1::CreateTemplateRequest>,
    ) -> Result<Response<v1::CreateTemplateResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        let mut request = request.into_inner();
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, &caller, &mut bad);
        let given = request.template.unwrap_or_default();
        let resource = Path::Root.field("template");
        let key = TemplateKey::read(&given.name, given.version, given.architecture, resource, &mut bad);
        template::check_words(&given.description, &given.tags, resource, &mut bad);
        let (spec, warnings) = check_spec(given.spec, resource, &mut bad);
        let Some(key) = key.filter(|_| bad.0.is_empty()) else { return Err(status::invalid(bad)) };
        let template = Template {
            key,
            description: given.description,
            tags: given.tags,
            aliases: Vec::new(),
            creator: caller.name(),
            create_time: Timestamp::now(),
        };
        let validate_only = beside.validate_only;
        let new = StoredTemplate { template, spec: spec.encode_to_vec().into() };
        let made = self.0.store.create_template(new, beside.terms()).await.map_err(status::store)?;
        if !validate_only {
            tracing::info!(template = %made.key, creator = made.creator, "template created");
        }
        let template = v1::Template { spec: Some(spec), ..v1::Template::from(&made) };
        Ok(Response::new(v1::CreateTemplateResponse { template: Some(template), warnings }))
    }

    async fn list_templates(
        &self,
        request: Request<v1::ListTemplatesRequest>,
    ) -> Result<Response<v1::ListTemplatesResponse>, Status> {
        let request = request.into_inner();
        let texts = [request.filter.as_str()];
        let listing = Listing::new("ListTemplates", &texts);
        let mut bad = Violations::default();
        let filter = filters::read(&request.filter, filters::TEMPLATES, &mut bad);
        let asked = pages::Asked::new(request.page_size, &request.page_token, &request.order_by);
        let mut scan = listing.scan(&asked, (!filter.is_empty()).then_some(MAX_PAGE), &mut bad);
        bad.or(()).map_err(status::invalid)?;
        while scan.goes_on() {
            let page = self.0.store.templates(scan.query()).await.map_err(status::store)?;
            scan.take(page, |found: &Template| filter.matches(|field| filters::template(found, field)));
        }
        let found = scan.finish();
        let items = found.items.iter().map(v1::Template::from).collect();
        let (templates, next_page_token) = listing.close(&found, items);
        Ok(Response::new(v1::ListTemplatesResponse { templates, next_page_token }))
    }

    async fn get_template(
        &self,
        request: Request<v1::GetTemplateRequest>,
    ) -> Result<Response<v1::GetTemplateResponse>, Status> {
        let request = request.into_inner();
        let mut bad = Violations::default();
        let key = TemplateKey::read(&request.name, request.version, request.architecture, Path::Root, &mut bad);
        let Some(key) = key else { return Err(status::invalid(bad)) };
        let stored = self.0.store.template(&key).await.map_err(status::store)?;
        let template = v1::Template { spec: Some(spec_of(&stored)?), ..v1::Template::from(&stored.template) };
        Ok(Response::new(v1::GetTemplateResponse { template: Some(template) }))
    }

    async fn delete_template(
        &self,
        request: Request<v1::DeleteTemplateRequest>,
    ) -> Result<Response<v1::DeleteTemplateResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        let mut request = request.into_inner();
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, &caller, &mut bad);
        let key = TemplateKey::read(&request.name, request.version, request.architecture, Path::Root, &mut bad);
        let Some(key) = key.filter(|_| bad.0.is_empty()) else { return Err(status::invalid(bad)) };
        let validate_only = beside.validate_only;
        self.0.store.delete_template(&key, beside.terms(), Timestamp::now()).await.map_err(status::store)?;
        if !validate_only {
            tracing::info!(template = %key, "template deleted");
        }
        Ok(Response::new(v1::DeleteTemplateResponse {}))
    }

    async fn set_template_alias(
        &self,
        request: Request<v1::SetTemplateAliasRequest>,
    ) -> Result<Response<v1::SetTemplateAliasResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        let mut request = request.into_inner();
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, &caller, &mut bad);
        let name = TemplateName::from_wire(request.name, Path::Root.field("name"), &mut bad);
        let alias = TemplateName::from_wire(request.alias, Path::Root.field("alias"), &mut bad);
        let version = Some(request.version).filter(|version| !version.is_empty());
        if let Some(version) = &version {
            template::check_version(version, Path::Root.field("version"), &mut bad);
        }
        let names = name.zip(alias).filter(|_| bad.0.is_empty());
        let Some((name, alias)) = names else { return Err(status::invalid(bad)) };
        let validate_only = beside.validate_only;
        let change = AliasChange { name, alias, version };
        let changed = self.0.store.set_template_alias(change.clone(), beside.terms(), Timestamp::now()).await;
        let changed = changed.map_err(status::store)?;
        if !validate_only {
            let (version, previous) = (changed.version.as_deref(), changed.previous.as_deref());
            tracing::info!(template = %change.name, alias = %change.alias, version, previous, "template alias set");
        }
        Ok(Response::new(v1::SetTemplateAliasResponse {
            name: change.name.to_string(),
            alias: change.alias.to_string(),
            version: changed.version.unwrap_or_default(),
            previous_version: changed.previous.unwrap_or_default(),
        }))
    }
}

/// What a job asks for.
pub(super) enum Asked {
    /// No template.
    Nothing,
    /// This one.
    For(Box<Chosen>),
    /// One that there is not; what is wrong was added.
    InVain,
}

/// The version of a template that a job asks for, with all its variants, and what the job says otherwise.
pub(super) struct Chosen {
    alias: Option<TemplateName>,
    variants: Vec<StoredTemplate>,
    specs: Vec<v1::AppSpec>,
    overrides: v1::AppSpec,
}

impl Chosen {
    /// Finds what a request names, if it does, and takes its spec out as what it says otherwise.
    pub(super) async fn find(
        store: &dyn Store,
        request: &mut v1::CreateJobRequest,
        bad: &mut Violations,
    ) -> Result<Asked, StoreError> {
        let Some(asked) = request.template.take() else { return Ok(Asked::Nothing) };
        let path = Path::Root.field("template");
        if request.kind == i32::from(v1::JobKind::Remove) {
            bad.add(path, "is not for REMOVE jobs; leave it out");
            return Ok(Asked::InVain);
        }
        let Some((name, alias, version)) = named(store, asked, path, bad).await? else { return Ok(Asked::InVain) };
        let variants = store.template_variants(&name, &version).await?;
        if variants.is_empty() {
            bad.add(path.field("version"), format!("there is no version {} of a template {name}", quoted(&version)));
            return Ok(Asked::InVain);
        }
        let decoded = variants.iter().map(|stored| v1::AppSpec::decode(stored.spec.clone())).collect();
        let specs: Result<Vec<_>, _> = decoded;
        let specs = specs.map_err(|error| StoreError::Database(Box::new(error)))?;
        let overrides = request.spec.take().unwrap_or_default();
        Ok(Asked::For(Box::new(Self { alias, variants, specs, overrides })))
    }

    /// The first variant's spec with what the job says otherwise: for what has to be known before one is chosen.
    pub(super) fn provisional(&self) -> v1::AppSpec {
        overridden(self.specs.first().cloned().unwrap_or_default(), self.overrides.clone())
    }

    /// The spec for these nodes, by architecture, and what the job is to remember of where it is from; `None`, with what is
    /// wrong added, where there is none.
    pub(super) fn for_nodes(
        self,
        nodes: &BTreeMap<String, Vec<NodeName>>,
        bad: &mut Violations,
    ) -> Option<(v1::AppSpec, TemplateUse)> {
        let templates: Vec<Template> = self.variants.iter().map(|stored| stored.template.clone()).collect();
        let chosen = match template::choose(&templates, nodes) {
            Ok(chosen) => chosen,
            Err(error) => {
                let first = templates.first().map(|first| format!("{} {} ", first.key.name, first.key.version));
                let path = Path::Root.field("template");
                bad.add(path, format!("{}{error}", first.unwrap_or_default()));
                return None;
            }
        };
        let at = templates.iter().position(|template| template.key == chosen.key)?;
        let overrides = self.overrides.encode_to_vec();
        let spec = overridden(self.specs.into_iter().nth(at)?, self.overrides);
        Some((spec, TemplateUse { key: chosen.key.clone(), alias: self.alias, overrides }))
    }
}

/// The template, the alias and the version that a reference means; `None`, with what is wrong added, where it means none.
async fn named(
    store: &dyn Store,
    asked: v1::TemplateReference,
    path: Path<'_>,
    bad: &mut Violations,
) -> Result<Option<(TemplateName, Option<TemplateName>, String)>, StoreError> {
    let before = bad.0.len();
    let name = TemplateName::from_wire(asked.name, path.field("name"), bad);
    let mut alias = None;
    match (asked.version.is_empty(), asked.alias.is_empty()) {
        (false, true) => template::check_version(&asked.version, path.field("version"), bad),
        (true, false) => alias = TemplateName::from_wire(asked.alias, path.field("alias"), bad),
        _ => bad.add(path, "must have a version or an alias, and not both"),
    }
    let Some(name) = name.filter(|_| bad.0.len() == before) else { return Ok(None) };
    let Some(alias) = alias else { return Ok(Some((name, None, asked.version))) };
    match store.template_alias(&name, &alias).await {
        Ok(version) => Ok(Some((name, Some(alias), version))),
        Err(StoreError::NotFound { .. }) => {
            bad.add(path.field("alias"), format!("the template {name} has no alias {alias}"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
