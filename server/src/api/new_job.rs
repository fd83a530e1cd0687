//! From a request to a job: everything that is decided once, at creation.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use longshore_model::clock::Clock;
use longshore_model::job::{Control, Job, TaskCounts};
use longshore_model::limits::{MAX_PAGE, MAX_SPEC};
use longshore_model::name::{AppName, JobId, NodeName};
use longshore_model::node::Node;
use longshore_model::order::JobOrder;
use longshore_model::selector::Selector;
use longshore_model::targets::Targets;
use longshore_model::validate::{self, Path, Violations};
use longshore_proto::convert::{FromWire, encode_spec};
use longshore_proto::v1;
use tonic::Status;

use super::status;
use crate::store::{NewJob, Store, StoreError};

/// Named targets up to which each is looked up by itself; for more, reading all nodes in pages is quicker.
const MAX_LOOKUPS: usize = 100;
/// Characters of the job's identifier in the app's name: 50 random bits, so that two apps of one prefix never share a
/// name, and short enough for a DNS label with the longest prefix and an instance number.
const SUFFIX: usize = 10;

/// Reads and checks a request, resolves its targets, and makes the job. All that is wrong is answered at once.
pub(super) async fn make(
    store: &dyn Store,
    request: v1::CreateJobRequest,
    id: JobId,
    creator: String,
    now: Timestamp,
) -> Result<NewJob, Status> {
    let targets = request.targets.clone().map(Targets::from).unwrap_or_default();
    let mut bad = Violations::default();
    let order = JobOrder::from_wire(request, Path::Root, &mut bad);
    let warnings = match &order {
        Some(order) => gather(validate::job_order(order), &mut bad),
        None => {
            targets.check(Path::Root.field("targets"), &mut bad);
            None
        }
    };
    let nodes = resolve(store, &targets, &mut bad).await.map_err(status::store)?;
    let spec = order.as_ref().map(|order| encode_spec(&order.spec));
    if let Some(spec) = spec.as_ref().filter(|spec| spec.len() > MAX_SPEC) {
        bad.add(Path::Root.field("spec"), format!("is {} bytes long; at most {MAX_SPEC} are allowed", spec.len()));
    }
    let bad = match (order, warnings, nodes, spec) {
        (Some(order), Some(warnings), Some(nodes), Some(spec)) if bad.0.is_empty() => {
            let app = app_name(&order.spec.name, &id).map_err(|error| status::internal(&error))?;
            let job = queued(order, id, app, nodes.len(), warnings, creator, now);
            return Ok(NewJob { job, spec, nodes });
        }
        _ => bad,
    };
    Err(status::invalid(bad))
}

/// The value, or its violations among the others.
fn gather<T>(result: Result<T, Violations>, bad: &mut Violations) -> Option<T> {
    result.map_err(|found| bad.append(found)).ok()
}

/// The nodes that are meant, if the targets say so in a way that can be understood.
async fn resolve(
    store: &dyn Store,
    targets: &Targets,
    bad: &mut Violations,
) -> Result<Option<Vec<NodeName>>, StoreError> {
    let mut own = Violations::default();
    targets.check(Path::Root.field("targets"), &mut own);
    if !own.0.is_empty() {
        return Ok(None);
    }
    let candidates = candidates(store, targets).await?;
    Ok(gather(targets.resolve(&candidates), bad))
}

/// The nodes that can be targets: a large fleet is read in pages, and only these are kept.
async fn candidates(store: &dyn Store, targets: &Targets) -> Result<Vec<Node>, StoreError> {
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
    let mut after: Option<NodeName> = None;
    loop {
        let page = store.nodes(after.as_ref(), MAX_PAGE).await?;
        after = page.items.last().map(|node| node.name.clone());
        let is_meant = |node: &Node| match &selector {
            Some(selector) => selector.matches(&node.labels),
            None => names.contains(node.name.as_str()),
        };
        found.extend(page.items.into_iter().filter(is_meant));
        if !page.more || after.is_none() {
            return Ok(found);
        }
    }
}

/// The app's whole name: the same for every attempt, and different for every job.
fn app_name(prefix: &str, id: &JobId) -> Result<AppName, longshore_model::name::NameError> {
    let suffix = id.as_str().get(id.as_str().len().saturating_sub(SUFFIX)..).unwrap_or_default();
    AppName::parse(&format!("{prefix}-{suffix}"))
}

fn queued(
    order: JobOrder,
    id: JobId,
    app: AppName,
    nodes: usize,
    warnings: Vec<String>,
    creator: String,
    now: Timestamp,
) -> Job {
    // Targets are bounded far below this.
    let pending = u32::try_from(nodes).unwrap_or(u32::MAX);
    Job {
        id,
        app,
        spec: Arc::new(order.spec),
        rollout: order.rollout,
        timeout: order.timeout,
        control: Control::Run,
        clock: Clock::start(now, order.timeout),
        round: 1,
        counts: TaskCounts { pending, ..TaskCounts::default() },
        create_time: now,
        start_time: None,
        end_time: None,
        creator,
        version: 1,
        warnings,
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
