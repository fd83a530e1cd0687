//! From a request to a job: everything that is decided once, at creation.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use longshore_model::app::{App, Desired};
use longshore_model::clock::Clock;
use longshore_model::configuration::{self, Configuration, Reference};
use longshore_model::job::{Control, Job, TaskCounts};
use longshore_model::kind::JobKind;
use longshore_model::limits::{DEFAULT_TIMEOUT, MAX_APP_CONFIGURATIONS, MAX_PAGE, MAX_SPEC};
use longshore_model::name::{AppName, ConfigurationName, CredentialName, JobId, NodeName};
use longshore_model::node::Node;
use longshore_model::order::{JobOrder, Work};
use longshore_model::registry;
use longshore_model::rollout::Rollout;
use longshore_model::selector::Selector;
use longshore_model::spec::{AppSpec, Image};
use longshore_model::targets::Targets;
use longshore_model::template::TemplateUse;
use longshore_model::validate::{self, Path, Violations, quoted};
use longshore_proto::convert::{FromWire, encode_spec};
use longshore_proto::v1;
use tonic::Status;

use super::status;
use super::templates::{Asked, Chosen};
use crate::store::sorting::Query;
use crate::store::{NewJob, Store, StoreError};

/// Named targets up to which each is looked up by itself; for more, reading all nodes in pages is quicker.
const MAX_LOOKUPS: usize = 100;
/// Characters of the job's identifier in the app's name: 50 random bits, so that two apps of one prefix never share a
/// name, and short enough for a DNS label with the longest prefix and an instance number.
const SUFFIX: usize = 10;

/// The answer to a request that creates nothing: a job without what only a created one has.
pub(super) fn preview(job: &Job) -> v1::Job {
    let mut preview = v1::Job { job_id: String::new(), etag: String::new(), ..v1::Job::from(job) };
    if !job.kind.needs_app() {
        preview.app_name.clear();
    }
    preview
}

/// Why no job can be made of a request.
pub(super) enum Unmade {
    /// It is wrong.
    Invalid(Violations),
    /// What is remembered cannot be read.
    Store(StoreError),
}

impl From<StoreError> for Unmade {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Unmade> for Status {
    fn from(unmade: Unmade) -> Self {
        match unmade {
            Unmade::Invalid(bad) => status::invalid(bad),
            Unmade::Store(error) => status::store(error),
        }
    }
}

/// A job that could be made, were it not for what it names that is not there.
pub(super) struct Draft {
    /// The job.
    pub(super) new: NewJob,
    /// A registry credential that is missing, or is for something else.
    pub(super) credential: Violations,
    /// Config maps and secrets that are missing, or lack a key.
    pub(super) configurations: Violations,
}

/// Reads and checks a request, resolves its targets, and makes the job. All that is wrong is answered at once, after what
/// was found before.
pub(super) async fn make(
    store: &dyn Store,
    request: v1::CreateJobRequest,
    id: JobId,
    creator: String,
    now: Timestamp,
    bad: Violations,
) -> Result<NewJob, Unmade> {
    let Draft { new, mut credential, configurations } = draft(store, request, id, creator, now, bad).await?;
    credential.append(configurations);
    credential.or(new).map_err(Unmade::Invalid)
}

/// As [`make`]; what the request names that is not there is told beside the job, unless something else is wrong as well.
pub(super) async fn draft(
    store: &dyn Store,
    mut request: v1::CreateJobRequest,
    id: JobId,
    creator: String,
    now: Timestamp,
    mut bad: Violations,
) -> Result<Draft, Unmade> {
    let template = match Chosen::find(store, &mut request, &mut bad).await? {
        Asked::Nothing => None,
        Asked::For(template) => Some(template),
        // Nothing else can be said of a spec that is not known.
        Asked::InVain => return Err(Unmade::Invalid(bad)),
    };
    if let Some(template) = &template {
        request.spec = Some(template.provisional());
    }
    let Some(mut order) = JobOrder::from_wire(request.clone(), Path::Root, &mut bad) else {
        check_parts(store, request, &mut bad).await?;
        return Err(Unmade::Invalid(bad));
    };
    let mut warnings = if template.is_none() { gather(validate::job_order(&order), &mut bad) } else { None };
    let placed = match order.work.app() {
        Some(app) => Some(Placed::find(store, app, order.work.kind()).await?),
        None => None,
    };
    let nodes = nodes(store, &order, placed.as_ref(), &mut bad).await?;
    let mut made_of = None;
    if let Some(template) = template {
        if let Some(nodes) = &nodes
            && let Some((spec, used)) = template.for_nodes(&nodes.architectures, &mut bad)
        {
            (made_of, request.spec) = (Some(used), Some(spec));
            let chosen = JobOrder::from_wire(request, Path::Root, &mut bad);
            order = chosen.ok_or_else(|| Unmade::Invalid(std::mem::take(&mut bad)))?;
        }
        warnings = gather(validate::job_order(&order), &mut bad);
    }
    let (mut credential, mut configurations) = (Violations::default(), Violations::default());
    if let Some(spec) = order.work.spec() {
        check_credential(store, &spec.image, &mut credential).await?;
        check_configurations(store, spec, &mut configurations).await?;
    }
    let (app, spec) = match (&order.work, placed) {
        (Work::Deploy(spec) | Work::Pull(spec), _) => (app_name(&spec.name, &id).ok(), Arc::clone(spec)),
        (Work::Update { app, spec }, _) => (Some(app.clone()), Arc::clone(spec)),
        (Work::Remove(app), Some(placed)) => (Some(app.clone()), placed.spec),
        (Work::Remove(_), None) => return Err(Unmade::Invalid(bad)),
    };
    let encoded = encode(&spec, &mut bad);
    match (app, warnings, nodes) {
        (Some(app), Some(warnings), Some(nodes)) if bad.0.is_empty() => {
            let what = What { id, app, spec, warnings, creator, template: made_of };
            let job = queued(&order, what, nodes.names.len(), now);
            let cause = super::request_id::current();
            let new = NewJob { job, spec: encoded, nodes: nodes.names, request: None, cause };
            Ok(Draft { new, credential, configurations })
        }
        _ => {
            bad.append(credential);
            bad.append(configurations);
            Err(Unmade::Invalid(bad))
        }
    }
}

/// A spec as it is sent to agents, which has a limit.
pub(super) fn encode(spec: &AppSpec, bad: &mut Violations) -> Bytes {
    let encoded = encode_spec(spec);
    if encoded.len() > MAX_SPEC {
        bad.add(Path::Root.field("spec"), format!("is {} bytes long; at most {MAX_SPEC} are allowed", encoded.len()));
    }
    encoded
}

/// Checks that what a spec names is there: a credential, config maps and secrets.
pub(super) async fn check_references(
    store: &dyn Store,
    spec: &AppSpec,
    bad: &mut Violations,
) -> Result<(), StoreError> {
    check_credential(store, &spec.image, bad).await?;
    check_configurations(store, spec, bad).await
}

/// What else is wrong with a request that makes no order, as far as it can be said without one.
async fn check_parts(store: &dyn Store, request: v1::CreateJobRequest, bad: &mut Violations) -> Result<(), StoreError> {
    // What cannot be read was said when the order was.
    let mut said = Violations::default();
    let spec = request.spec.and_then(|spec| AppSpec::from_wire(spec, Path::Root, &mut said));
    if let Some(spec) = spec {
        validate::app_spec(&spec, Path::Root.field("spec"), bad);
    }
    let rollout = request.rollout.and_then(|rollout| Rollout::from_wire(rollout, Path::Root, &mut said));
    let timeout = request.timeout.and_then(|timeout| Duration::from_wire(timeout, Path::Root, &mut said));
    validate::pace(rollout.unwrap_or_default(), timeout.unwrap_or(DEFAULT_TIMEOUT), Path::Root, bad);
    let targets = request.targets.map(Targets::from).unwrap_or_default();
    match JobKind::from_wire(request.kind, Path::Root, &mut said) {
        Some(kind) if !kind.needs_app() => {
            if check(&targets, bad) {
                resolve(store, &targets, bad).await?;
            }
        }
        _ => targets.check_choice(Path::Root.field("targets"), bad),
    }
    Ok(())
}

/// Checks that a credential that is asked for by name is there, and is for this image. Which one an image gets that names
/// none is decided at each pull: it may be made after the job.
async fn check_credential(store: &dyn Store, image: &Image, bad: &mut Violations) -> Result<(), StoreError> {
    let Some(Ok(name)) = image.credential.as_deref().map(CredentialName::parse) else { return Ok(()) };
    let found = match store.credential(&name).await {
        Ok(stored) => vec![stored],
        Err(StoreError::NotFound { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    if let Err(error) = registry::choose(image, found, |stored| &stored.credential) {
        let spec = Path::Root.field("spec");
        let image = spec.field("image");
        bad.add(image.field("credential"), error.to_string());
    }
    Ok(())
}

/// Checks that the config maps and secrets that a spec names are there, and have the keys that it takes.
async fn check_configurations(store: &dyn Store, spec: &AppSpec, bad: &mut Violations) -> Result<(), StoreError> {
    let mut known = BTreeMap::new();
    // What is beyond the limit was said by the check of the order.
    for (kind, text) in configuration::needs(spec).into_keys().take(MAX_APP_CONFIGURATIONS) {
        let Ok(name) = ConfigurationName::parse(text) else { continue };
        let found = match store.known_configuration(kind, &name).await {
            Ok(found) => Some(found),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        known.insert((kind, text), found);
    }
    let spec_path = Path::Root.field("spec");
    let mut said = BTreeSet::new();
    configuration::visit(spec, spec_path, |reference, name_path, key_path| {
        let (kind, name) = (reference.kind, reference.name);
        match known.get(&(kind, name)) {
            Some(None) if said.insert(name_path.to_string()) => {
                bad.add(name_path, format!("there is no {} {}", kind.as_str(), quoted(name)));
            }
            Some(Some(found)) => check_reference(reference, found, key_path, bad),
            _ => {}
        }
    });
    Ok(())
}

/// Checks the keys that are taken from one that is there.
fn check_reference(reference: Reference<'_>, found: &Configuration, path: Path<'_>, bad: &mut Violations) {
    let (kind, name) = (reference.kind.as_str(), &found.name);
    if let Some(key) = reference.key.filter(|key| !found.keys.iter().any(|known| known == key)) {
        bad.add(path, format!("the {kind} {name} has no key {}; it has {}", quoted(key), found.keys.join(", ")));
    }
    if let Some(prefix) = reference.prefix {
        for key in &found.keys {
            let mut wrong = Violations::default();
            validate::env_name(&format!("{prefix}{key}"), path, &mut wrong);
            if let Some(violation) = wrong.0.first() {
                bad.add(
                    path,
                    format!(
                        "with it the key {} of the {kind} {name} is no name: {}",
                        quoted(key),
                        violation.description
                    ),
                );
            }
        }
    }
}

/// The value, or its violations among the others.
fn gather<T>(result: Result<T, Violations>, bad: &mut Violations) -> Option<T> {
    result.map_err(|found| bad.append(found)).ok()
}

/// Where an app is that a job is about.
struct Placed {
    nodes: BTreeSet<NodeName>,
    /// The newest that some node runs.
    spec: Arc<AppSpec>,
}

impl Placed {
    /// Fails when no node has the app. What is being removed can be waited for by another removal, and not be updated.
    async fn find(store: &dyn Store, name: &AppName, kind: JobKind) -> Result<Self, StoreError> {
        let (mut nodes, mut newest, mut next) = (BTreeSet::new(), None, Some(Query::first(MAX_PAGE)));
        while let Some(query) = next {
            let page = store.apps(None, Some(name), query.clone()).await?;
            next = query.next(&page);
            let is_meant = |app: &App| kind == JobKind::Remove || app.desired == Desired::Present;
            for app in page.items.into_iter().filter(is_meant) {
                newest = newest.max(Some((app.job, app.spec_revision)));
                nodes.insert(app.node);
            }
        }
        let (job, spec_revision) =
            newest.ok_or_else(|| StoreError::NotFound { kind: "app", name: name.to_string() })?;
        Ok(Self { nodes, spec: Arc::clone(&store.job_with_spec(&job, spec_revision).await?.spec) })
    }
}

/// The nodes of a job.
struct Nodes {
    /// In the order of names.
    names: Vec<NodeName>,
    /// Those of them that have said which architecture they are of.
    architectures: BTreeMap<String, Vec<NodeName>>,
}

impl Nodes {
    fn retain(&mut self, is_meant: impl Fn(&NodeName) -> bool) {
        self.names.retain(&is_meant);
        self.architectures.values_mut().for_each(|nodes| nodes.retain(&is_meant));
        self.architectures.retain(|_, nodes| !nodes.is_empty());
    }
}

/// The job's nodes, if its targets say so in a way that can be understood.
async fn nodes(
    store: &dyn Store,
    order: &JobOrder,
    placed: Option<&Placed>,
    bad: &mut Violations,
) -> Result<Option<Nodes>, StoreError> {
    let (Some(placed), Some(app)) = (placed, order.work.app()) else {
        // What is wrong with them was said by the check of the order.
        let is_sound = check(&order.targets, &mut Violations::default());
        return if is_sound { resolve(store, &order.targets, bad).await } else { Ok(None) };
    };
    let mut found = Violations::default();
    order.targets.check_choice(Path::Root.field("targets"), &mut found);
    if !found.0.is_empty() {
        return Ok(None);
    }
    let Some(mut targets) = gather(order.targets.among(app, &placed.nodes), bad) else { return Ok(None) };
    targets.mixed_architectures |= order.work.kind() == JobKind::Remove;
    let Some(mut nodes) = resolve(store, &targets, bad).await? else { return Ok(None) };
    nodes.retain(|node| placed.nodes.contains(node));
    if nodes.names.is_empty() {
        let targets = Path::Root.field("targets");
        bad.add(targets.field("selector"), format!("matches no node that has the app {app}"));
        return Ok(None);
    }
    Ok(Some(nodes))
}

/// Whether targets can be resolved, as far as can be said without knowing the nodes.
fn check(targets: &Targets, bad: &mut Violations) -> bool {
    let before = bad.0.len();
    targets.check(Path::Root.field("targets"), bad);
    bad.0.len() == before
}

async fn resolve(store: &dyn Store, targets: &Targets, bad: &mut Violations) -> Result<Option<Nodes>, StoreError> {
    let candidates = candidates(store, targets).await?;
    let Some(names) = gather(targets.resolve(&candidates), bad) else { return Ok(None) };
    let mut nodes = Nodes { names: Vec::new(), architectures: by_architecture(&candidates) };
    nodes.retain(|node| names.binary_search(node).is_ok());
    Ok(Some(Nodes { names, ..nodes }))
}

/// Nodes by architecture, those that have said of which they are.
pub(super) fn by_architecture(nodes: &[Node]) -> BTreeMap<String, Vec<NodeName>> {
    let mut architectures: BTreeMap<String, Vec<NodeName>> = BTreeMap::new();
    for node in nodes {
        if let Some(info) = &node.info {
            architectures.entry(info.architecture.clone()).or_default().push(node.name.clone());
        }
    }
    architectures
}

/// The nodes that can be targets: a large fleet is read in pages, and only these are kept.
pub(super) async fn candidates(store: &dyn Store, targets: &Targets) -> Result<Vec<Node>, StoreError> {
    let mut found = Vec::new();
    if targets.selector.is_none() && targets.node_names.len() <= MAX_LOOKUPS {
        for name in targets.node_names.iter().filter_map(|name| NodeName::parse(name).ok()) {
            match store.node(&name).await {
                Ok(node) => found.push(node),
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        return Ok(found);
    }
    let selector = targets.selector.as_deref().and_then(|selector| Selector::parse(selector).ok());
    let names: HashSet<&str> = targets.node_names.iter().map(String::as_str).collect();
    let mut next = Some(Query::first(MAX_PAGE));
    while let Some(query) = next {
        let page = store.nodes(query.clone()).await?;
        next = query.next(&page);
        let is_meant = |node: &Node| match &selector {
            Some(selector) => selector.matches(&node.labels),
            None => names.contains(node.name.as_str()),
        };
        found.extend(page.items.into_iter().filter(is_meant));
    }
    Ok(found)
}

/// The app's whole name: the same for every attempt, and different for every job.
fn app_name(prefix: &str, id: &JobId) -> Result<AppName, longshore_model::name::NameError> {
    let suffix = id.as_str().get(id.as_str().len().saturating_sub(SUFFIX)..).unwrap_or_default();
    AppName::parse(&format!("{prefix}-{suffix}"))
}

/// What a job has that its order does not say.
struct What {
    id: JobId,
    app: AppName,
    spec: Arc<AppSpec>,
    warnings: Vec<String>,
    creator: String,
    template: Option<TemplateUse>,
}

fn queued(order: &JobOrder, what: What, nodes: usize, now: Timestamp) -> Job {
    // Targets are bounded far below this.
    let pending = u32::try_from(nodes).unwrap_or(u32::MAX);
    Job {
        id: what.id,
        kind: order.work.kind(),
        app: what.app,
        spec: what.spec,
        spec_revision: 1,
        rollout: order.rollout,
        timeout: order.timeout,
        control: Control::Run,
        clock: Clock::start(now, order.timeout),
        round: 1,
        counts: TaskCounts { pending, ..TaskCounts::default() },
        create_time: now,
        start_time: None,
        end_time: None,
        creator: what.creator,
        version: 1,
        warnings: what.warnings,
        template: what.template,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A test may fail by panicking.
mod tests {
    use super::*;

    #[test]
    fn an_apps_name_is_its_prefix_and_the_end_of_the_jobs_identifier() {
        let id = JobId::parse("01arz3ndektsv4rrffq69g5fav").unwrap();
        assert_eq!(app_name("till", &id).unwrap().as_str(), "till-ffq69g5fav");
        let longest = "a".repeat(longshore_model::limits::MAX_APP_PREFIX);
        assert!(app_name(&longest, &id).unwrap().as_str().len() + "-63".len() <= 63);
    }
}
