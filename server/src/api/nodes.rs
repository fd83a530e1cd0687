//! NodeService.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use longshore_model::label;
use longshore_model::limits::MAX_PAGE;
use longshore_model::name::NodeName;
use longshore_model::node::{LabelChange, Labels, Node};
use longshore_model::selector::Selector;
use longshore_model::validate::{Path, Violations, quoted};
use longshore_proto::convert::FromWire;
use longshore_proto::v1;
use longshore_tls::Pin;
use tonic::{Request, Response, Status};
use v1::node_service_server::NodeService;

use super::masks::{Fields, Named};
use super::pages::{Asked, Listing};
use super::repeats::Beside;
use super::{Context, filters, measured, status};
use crate::store::{StoreError, Terms};

/// What there is of a node.
pub(super) const FIELDS: Fields = Fields {
    changeable: &["labels"],
    maps: &["labels"],
    fixed: &[
        "name",
        "connected",
        "enroll_time",
        "last_seen_time",
        "info",
        "certificate_expire_time",
        "status",
        "warnings",
        "refusals",
        "etag",
    ],
};

/// What is to become of a node's labels when those that are named shall be as in the request.
fn change_of(labels: Labels, named: &[Named]) -> LabelChange {
    if named.iter().any(|named| matches!(named, Named::Field(_))) {
        return LabelChange { clear: true, remove: Vec::new(), set: labels };
    }
    let keys = named.iter().filter_map(|named| match named {
        Named::Key(_, key) => Some(key.clone()),
        Named::Field(_) => None,
    });
    let (set, remove): (Vec<String>, Vec<String>) = keys.partition(|key| labels.contains_key(key));
    let set = labels.into_iter().filter(|(key, _)| set.contains(key)).collect();
    LabelChange { clear: false, remove, set }
}

/// NodeService.
pub struct NodeApi {
    /// What it works with.
    pub context: Context,
    /// The pin of the server's root certificate, for enrolment tokens.
    pub pin: Pin,
    /// How long before its end a node's certificate is overdue for renewal.
    pub renewal_margin: SignedDuration,
}

impl NodeApi {
    fn on_wire(&self, node: &Node) -> v1::Node {
        measured::node(&self.context.live.fleet, node, self.renewal_margin, Timestamp::now())
    }
}

#[async_trait]
impl NodeService for NodeApi {
    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let request = request.into_inner();
        let filters = [request.selector.as_str(), request.filter.as_str()];
        let listing = Listing::new("ListNodes", &filters);
        let mut bad = Violations::default();
        let selector = match request.selector.as_str() {
            "" => None,
            text => match Selector::parse(text) {
                Ok(selector) => Some(selector),
                Err(error) => {
                    bad.add(Path::Root.field("selector"), error.to_string());
                    None
                }
            },
        };
        let filter = filters::read(&request.filter, filters::NODES, &mut bad);
        let batch = (selector.is_some() || !filter.is_empty()).then_some(MAX_PAGE);
        let asked = Asked::new(request.page_size, &request.page_token, &request.order_by);
        let mut scan = listing.scan(&asked, batch, &mut bad);
        bad.or(()).map_err(status::invalid)?;
        let (live, now) = (&self.context.live.fleet, Timestamp::now());
        let is_wanted = |node: &Node| {
            selector.as_ref().is_none_or(|selector| selector.matches(&node.labels))
                && filter.matches(|field| filters::node(node, live.connected(&node.name), now, field))
        };
        while scan.goes_on() {
            let page = self.context.store.nodes(scan.query()).await.map_err(status::store)?;
            scan.take(page, is_wanted);
        }
        let found = scan.finish();
        let nodes = found.items.iter().map(|node| self.on_wire(node)).collect();
        let (nodes, next_page_token) = listing.close(&found, nodes);
        Ok(Response::new(v1::ListNodesResponse { nodes, next_page_token }))
    }

    async fn get_node(&self, request: Request<v1::GetNodeRequest>) -> Result<Response<v1::GetNodeResponse>, Status> {
        let name = NodeName::read_field(request.into_inner().name, "name").map_err(status::invalid)?;
        let node = self.context.store.node(&name).await.map_err(status::store)?;
        let fleet = &self.context.live.fleet;
        let node = measured::whole_node(fleet, &node, self.renewal_margin, Timestamp::now());
        Ok(Response::new(v1::GetNodeResponse { node: Some(node) }))
    }

    async fn update_node(
        &self,
        request: Request<v1::UpdateNodeRequest>,
    ) -> Result<Response<v1::UpdateNodeResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        let mut request = request.into_inner();
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, &caller, &mut bad);
        let v1::UpdateNodeRequest { node, update_mask, .. } = request;
        let given = node.unwrap_or_default();
        let resource = Path::Root.field("node");
        let name = NodeName::from_wire(given.name, resource.field("name"), &mut bad);
        let labels = Labels::from_iter(given.labels);
        label::check(&labels, resource.field("labels"), &mut bad);
        let named = FIELDS.read(update_mask.as_ref(), |_| !labels.is_empty(), &mut bad);
        for named in &named {
            if let Named::Key(_, key) = named
                && let Err(error) = label::check_key(key)
            {
                bad.add(Path::Root.field("update_mask"), format!("the key {} {error}", quoted(key)));
            }
        }
        let Some(name) = name.filter(|_| bad.0.is_empty()) else { return Err(status::invalid(bad)) };
        let change = change_of(labels, &named);
        let terms = Terms { etag: Some(given.etag).filter(|etag| !etag.is_empty()), ..beside.terms() };
        let changed = self.context.store.update_labels(&name, change, terms, Timestamp::now()).await;
        let node = changed.map_err(status::store)?;
        Ok(Response::new(v1::UpdateNodeResponse { node: Some(self.on_wire(&node)) }))
    }

    async fn update_node_labels(
        &self,
        request: Request<v1::UpdateNodeLabelsRequest>,
    ) -> Result<Response<v1::UpdateNodeLabelsResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        let mut request = request.into_inner();
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, &caller, &mut bad);
        let name = NodeName::from_wire(request.name, Path::Root.field("name"), &mut bad);
        let set = Labels::from_iter(request.set);
        label::check(&set, Path::Root.field("set"), &mut bad);
        for (index, key) in request.remove.iter().enumerate() {
            if set.contains_key(key) {
                let list = Path::Root.field("remove");
                bad.add(list.index(index), "is set by the same request; do one of the two");
            }
        }
        let Some(name) = name.filter(|_| bad.0.is_empty()) else { return Err(status::invalid(bad)) };
        let change = LabelChange { clear: false, remove: request.remove, set };
        let changed = self.context.store.update_labels(&name, change, beside.terms(), Timestamp::now()).await;
        let node = changed.map_err(|error| match error {
            StoreError::TooManyLabels(error) => status::invalid(Violations::one("set", error.to_string())),
            other => status::store(other),
        })?;
        Ok(Response::new(v1::UpdateNodeLabelsResponse { node: Some(self.on_wire(&node)) }))
    }

    async fn delete_node(
        &self,
        request: Request<v1::DeleteNodeRequest>,
    ) -> Result<Response<v1::DeleteNodeResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        let mut request = request.into_inner();
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, &caller, &mut bad);
        let name = NodeName::from_wire(request.name, Path::Root.field("name"), &mut bad);
        let Some(name) = name.filter(|_| bad.0.is_empty()) else { return Err(status::invalid(bad)) };
        let (validate_only, terms) = (beside.validate_only, beside.terms());
        self.context.store.delete_node(&name, terms, Timestamp::now()).await.map_err(status::store)?;
        if !validate_only {
            tracing::info!(node = %name, "node deleted");
        }
        Ok(Response::new(v1::DeleteNodeResponse {}))
    }

    async fn create_enrollment_token(
        &self,
        request: Request<v1::CreateEnrollmentTokenRequest>,
    ) -> Result<Response<v1::CreateEnrollmentTokenResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        Ok(Response::new(self.create_token(request.into_inner(), &caller).await?))
    }

    async fn list_enrollment_tokens(
        &self,
        request: Request<v1::ListEnrollmentTokensRequest>,
    ) -> Result<Response<v1::ListEnrollmentTokensResponse>, Status> {
        Ok(Response::new(self.list_tokens(request.into_inner()).await?))
    }

    async fn delete_enrollment_token(
        &self,
        request: Request<v1::DeleteEnrollmentTokenRequest>,
    ) -> Result<Response<v1::DeleteEnrollmentTokenResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        self.delete_token(request.into_inner(), &caller).await?;
        Ok(Response::new(v1::DeleteEnrollmentTokenResponse {}))
    }

    async fn list_pending_nodes(
        &self,
        request: Request<v1::ListPendingNodesRequest>,
    ) -> Result<Response<v1::ListPendingNodesResponse>, Status> {
        Ok(Response::new(self.list_pending(request.into_inner()).await?))
    }

    async fn approve_node(
        &self,
        request: Request<v1::ApproveNodeRequest>,
    ) -> Result<Response<v1::ApproveNodeResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        let node = self.approve(request.into_inner(), &caller).await?;
        Ok(Response::new(v1::ApproveNodeResponse { node: Some(self.on_wire(&node)) }))
    }

    async fn deny_node(&self, request: Request<v1::DenyNodeRequest>) -> Result<Response<v1::DenyNodeResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        self.deny(request.into_inner(), &caller).await?;
        Ok(Response::new(v1::DenyNodeResponse {}))
    }
}
