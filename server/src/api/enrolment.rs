//! The part of NodeService by which machines become nodes: tokens, and approval.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use longshore_model::admission::PendingNode;
use longshore_model::identity::Identity;
use longshore_model::label;
use longshore_model::limits::{DEFAULT_TOKEN_TTL, MAX_PAGE, MAX_TOKEN_USES};
use longshore_model::name::NodeName;
use longshore_model::node::{Labels, Node};
use longshore_model::validate::{self, Path, Violations};
use longshore_proto::convert::{self, FromWire};
use longshore_proto::v1;
use longshore_tls::EnrollmentToken;
use tonic::Status;

use super::nodes::NodeApi;
use super::pages::{Asked, Listing};
use super::repeats::Beside;
use super::{filters, optional_name, record, status};
use crate::store::StoredToken;

/// Bytes of the identifier of a token, of which those that we make have 12.
const MAX_TOKEN_ID: usize = 64;

impl NodeApi {
    pub(super) async fn create_token(
        &self,
        mut request: v1::CreateEnrollmentTokenRequest,
        caller: &Identity,
    ) -> Result<v1::CreateEnrollmentTokenResponse, Status> {
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, caller, &mut bad);
        let ttl = read_ttl(request.ttl, &mut bad);
        let labels = Labels::from_iter(request.labels);
        label::check(&labels, Path::Root.field("labels"), &mut bad);
        let node: Option<NodeName> = optional_name(request.node_name, "node_name", &mut bad);
        let uses = request.uses.max(1);
        if uses > MAX_TOKEN_USES {
            bad.add(Path::Root.field("uses"), format!("is {uses}; it must be from 1 to {MAX_TOKEN_USES}"));
        } else if uses > 1 && node.is_some() {
            bad.add(Path::Root.field("uses"), "must be 1 with a node_name: only one machine can have a name");
        }
        bad.or(()).map_err(status::invalid)?;
        let create_time = Timestamp::now();
        // The sum stays in range: the lifetime is at most 30 days.
        let lifetime = SignedDuration::try_from(ttl).unwrap_or(SignedDuration::ZERO);
        let expire_time = create_time.checked_add(lifetime).unwrap_or(Timestamp::MAX);
        let mut answer = v1::CreateEnrollmentTokenResponse {
            expire_time: Some(convert::timestamp(expire_time)),
            ..Default::default()
        };
        if beside.validate_only {
            return Ok(answer);
        }

        let mut random = [0; EnrollmentToken::RANDOM_BYTES];
        rand::fill(&mut random);
        let token = EnrollmentToken::from_random(&random, self.pin);
        let creator = caller.name();
        let stored = StoredToken {
            labels,
            node,
            creator: creator.clone(),
            uses,
            uses_left: uses,
            requires_approval: request.requires_approval,
            ..StoredToken::single(token.id(), token.secret_hash(), create_time, expire_time)
        };
        self.context.store.create_token(stored, beside.terms()).await.map_err(status::store)?;
        tracing::info!(token = token.id(), %expire_time, uses, creator, "enrolment token created");
        record::about(format!("tokens/{}", token.id()), false);
        answer.token = token.to_string();
        answer.token_id = token.id().to_owned();
        Ok(answer)
    }

    pub(super) async fn list_tokens(
        &self,
        request: v1::ListEnrollmentTokensRequest,
    ) -> Result<v1::ListEnrollmentTokensResponse, Status> {
        let filters = [request.filter.as_str()];
        let listing = Listing::new("ListEnrollmentTokens", &filters);
        let mut bad = Violations::default();
        let filter = filters::read(&request.filter, filters::TOKENS, &mut bad);
        let asked = Asked::new(request.page_size, &request.page_token, &request.order_by);
        let mut scan = listing.scan(&asked, (!filter.is_empty()).then_some(MAX_PAGE), &mut bad);
        bad.or(()).map_err(status::invalid)?;
        let now = Timestamp::now();
        while scan.goes_on() {
            let page = self.context.store.tokens(scan.query(), now).await.map_err(status::store)?;
            scan.take(page, |token| filter.matches(|field| filters::token(token, field)));
        }
        let found = scan.finish();
        let (enrollment_tokens, next_page_token) =
            listing.close(&found, found.items.iter().map(token_on_wire).collect());
        Ok(v1::ListEnrollmentTokensResponse { enrollment_tokens, next_page_token })
    }

    pub(super) async fn delete_token(
        &self,
        mut request: v1::DeleteEnrollmentTokenRequest,
        caller: &Identity,
    ) -> Result<(), Status> {
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, caller, &mut bad);
        let token_id = request.token_id;
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if token_id.is_empty() || token_id.len() > MAX_TOKEN_ID || !token_id.chars().all(allowed) {
            // The text is not repeated: it may be a whole token.
            let description = "is not the identifier of a token, which is the second of its four parts";
            bad.add(Path::Root.field("token_id"), description);
        }
        bad.or(()).map_err(status::invalid)?;
        let (validate_only, terms) = (beside.validate_only, beside.terms());
        self.context.store.delete_token(&token_id, terms, Timestamp::now()).await.map_err(status::store)?;
        if !validate_only {
            tracing::info!(token = token_id, "enrolment token deleted");
        }
        Ok(())
    }

    pub(super) async fn list_pending(
        &self,
        request: v1::ListPendingNodesRequest,
    ) -> Result<v1::ListPendingNodesResponse, Status> {
        let filters = [request.filter.as_str()];
        let listing = Listing::new("ListPendingNodes", &filters);
        let mut bad = Violations::default();
        let filter = filters::read(&request.filter, filters::PENDING_NODES, &mut bad);
        let asked = Asked::new(request.page_size, &request.page_token, &request.order_by);
        let mut scan = listing.scan(&asked, (!filter.is_empty()).then_some(MAX_PAGE), &mut bad);
        bad.or(()).map_err(status::invalid)?;
        let now = Timestamp::now();
        let is_wanted = |machine: &PendingNode| {
            let texts = [machine.key.to_string(), machine.address.to_string()];
            filter.matches(|field| filters::pending_node(machine, &texts, field))
        };
        while scan.goes_on() {
            let page = self.context.store.pending(scan.query(), now).await.map_err(status::store)?;
            scan.take(page, is_wanted);
        }
        let found = scan.finish();
        let (pending_nodes, next_page_token) =
            listing.close(&found, found.items.iter().map(v1::PendingNode::from).collect());
        Ok(v1::ListPendingNodesResponse { pending_nodes, next_page_token })
    }

    pub(super) async fn approve(&self, mut request: v1::ApproveNodeRequest, caller: &Identity) -> Result<Node, Status> {
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, caller, &mut bad);
        let name = NodeName::from_wire(request.name, Path::Root.field("name"), &mut bad);
        let Some(name) = name.filter(|_| bad.0.is_empty()) else { return Err(status::invalid(bad)) };
        let (validate_only, terms) = (beside.validate_only, beside.terms());
        let node = self.context.store.approve(&name, terms, Timestamp::now()).await.map_err(status::store)?;
        if !validate_only {
            tracing::info!(node = %name, by = %caller, "a machine was approved");
        }
        Ok(node)
    }

    pub(super) async fn deny(&self, mut request: v1::DenyNodeRequest, caller: &Identity) -> Result<(), Status> {
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, caller, &mut bad);
        let name = NodeName::from_wire(request.name, Path::Root.field("name"), &mut bad);
        let Some(name) = name.filter(|_| bad.0.is_empty()) else { return Err(status::invalid(bad)) };
        let (validate_only, terms) = (beside.validate_only, beside.terms());
        self.context.store.deny(&name, terms, Timestamp::now()).await.map_err(status::store)?;
        if !validate_only {
            tracing::info!(node = %name, by = %caller, "a machine was denied");
        }
        Ok(())
    }
}

fn token_on_wire(token: &StoredToken) -> v1::EnrollmentToken {
    v1::EnrollmentToken {
        token_id: token.id.clone(),
        create_time: Some(convert::timestamp(token.create_time)),
        expire_time: Some(convert::timestamp(token.expire_time)),
        creator: token.creator.clone(),
        uses: token.uses,
        uses_left: token.uses_left,
        labels: token.labels.clone().into_iter().collect(),
        node_name: token.node.as_ref().map(ToString::to_string).unwrap_or_default(),
        requires_approval: token.requires_approval,
    }
}

fn read_ttl(ttl: Option<prost_types::Duration>, bad: &mut Violations) -> Duration {
    let ttl = match ttl.map(|ttl| Duration::read_field(ttl, "ttl")) {
        None => Ok(DEFAULT_TOKEN_TTL),
        Some(read) => read.and_then(|ttl| validate::token_ttl(ttl).map(|()| ttl)),
    };
    ttl.unwrap_or_else(|found| {
        bad.0.extend(found.0);
        DEFAULT_TOKEN_TTL
    })
}
