//! What agents call: the session, the upload of logs, and the renewal of their certificates.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt as _};
use jiff::Timestamp;
use longshore_model::name::{AppName, NodeName};
use longshore_model::node::{Node, NodeInfo};
use longshore_model::validate::Violations;
use longshore_proto::convert::{self, FromWire};
use longshore_proto::v1;
use tokio_util::task::TaskTracker;
use tonic::{Code, Request, Response, Status, Streaming};
use v1::agent_service_server::AgentService;
use v1::open_session_request::Message;

use crate::api::status;
use crate::fleet::Fleet;
use crate::identity::Authority;
use crate::identity::caller::Caller;
use crate::ids::Ids;
use crate::store::{Store, StoreError};
use crate::vault::Vault;

pub mod channels;
pub mod checks;
mod configurations;
mod credentials;
mod desk;
pub mod logs;
mod reports;
mod stream;

use channels::ChannelDesk;
use checks::CheckDesk;
use logs::LogDesk;
use stream::Session;

/// The protocol version that this server speaks, as its oldest and its newest.
const PROTOCOL: u32 = 1;
/// Time for an agent's first message on a stream: it has it ready when it dials.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// The agents' service.
pub struct AgentApi {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) logs: Arc<LogDesk>,
    pub(crate) channels: Arc<ChannelDesk>,
    pub(crate) checks: Arc<CheckDesk>,
    pub(crate) ids: Arc<Ids>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) vault: Arc<Vault>,
    /// Records of ended sessions that are still being written.
    pub(crate) closing: TaskTracker,
}

#[async_trait]
impl AgentService for AgentApi {
    type OpenSessionStream = Session;
    type OpenChannelStream = BoxStream<'static, Result<v1::OpenChannelResponse, Status>>;

    async fn open_session(
        &self,
        request: Request<Streaming<v1::OpenSessionRequest>>,
    ) -> Result<Response<Session>, Status> {
        let node = status::calling_node(&request)?;
        let caller = request.extensions().get::<Caller>().cloned();
        let mut inbound = request.into_inner();
        let hello = match first(&mut inbound).await?.message {
            Some(Message::Hello(hello)) => hello,
            _ => return Err(out_of_order("the first message of a session must be Hello")),
        };
        let (protocol, info) = read_hello(hello)?;
        let session = self.ids.session().map_err(|error| status::internal(&error))?;
        let welcome = v1::Welcome {
            session_id: session.to_string(),
            protocol,
            max_unacknowledged_reports: reports::MAX_UNACKNOWLEDGED,
            takes_usage: true,
        };
        // Entered first: what is committed from here on reaches the session, in commit order and after its full set.
        let entry =
            self.fleet.enter(node.clone(), session.clone(), welcome).map_err(|error| status::fleet(error, &node))?;
        // The caller was let in before its Hello came. Its node may have been deleted since, and another one of that name
        // have enrolled; a deletion from here on ends what has just been entered.
        let enrolled = self.still_enrolled(&node, caller.as_ref()).await?;
        if let Some(until) =
            caller.map(|caller| caller.valid_until()).filter(|until| enrolled.certificate_end != Some(*until))
        {
            self.store.certified_node(&node, until).await.map_err(|error| lost(error, &node))?;
        }
        self.store.open_session(&node, &session, info, Timestamp::now()).await.map_err(|error| lost(error, &node))?;
        tracing::info!(%node, %session, protocol, "session opened");
        Ok(Response::new(Session::new(entry, inbound, Arc::clone(&self.store), self.closing.clone())))
    }

    async fn open_channel(
        &self,
        request: Request<Streaming<v1::OpenChannelRequest>>,
    ) -> Result<Response<Self::OpenChannelStream>, Status> {
        let node = status::calling_node(&request)?;
        let passed_on = status::passed_on(&request);
        let mut inbound = request.into_inner();
        let first = first(&mut inbound).await?.message;
        let Some(v1::open_channel_request::Message::RequestId(id)) = first else {
            return Err(out_of_order("the first message of a channel must say which request it answers"));
        };
        let Some(end) = self.channels.arrive(&node, &id) else {
            return Err(status::plain(Code::NotFound, "NO_CALLER", "nobody waits for this channel any more"));
        };
        Ok(Response::new(end.run(inbound, passed_on).boxed()))
    }

    async fn upload_logs(
        &self,
        request: Request<Streaming<v1::UploadLogsRequest>>,
    ) -> Result<Response<v1::UploadLogsResponse>, Status> {
        let node = status::calling_node(&request)?;
        let mut inbound = request.into_inner();
        let first = first(&mut inbound).await?;
        let Some(upload) = self.logs.arrive(&node, &first.request_id) else {
            return Err(status::plain(Code::NotFound, "NO_READER", "nobody waits for these logs any more"));
        };
        upload.run(first, inbound).await?;
        Ok(Response::new(v1::UploadLogsResponse {}))
    }

    async fn renew_certificate(
        &self,
        request: Request<v1::RenewCertificateRequest>,
    ) -> Result<Response<v1::RenewCertificateResponse>, Status> {
        let node = status::calling_node(&request)?;
        let caller = status::certified(&request)?;
        // The moment is taken before the node is looked up: what is issued for it is older than any successor that enrols
        // after that look, and so not the successor's.
        let now = Timestamp::now();
        self.still_enrolled(&node, Some(caller)).await?;
        let csr = &request.get_ref().csr_der;
        let certificate = self.authority.issue_node(&node, csr, now).map_err(status::uncertified)?;
        let until = self.authority.node_end(now);
        self.store.certified_node(&node, until).await.map_err(|error| lost(error, &node))?;
        caller.renewed_until(until);
        tracing::info!(%node, %until, "certificate renewed");
        let certificate_chain_pem = self.authority.chain(&certificate);
        Ok(Response::new(v1::RenewCertificateResponse { certificate_chain_pem }))
    }

    async fn fetch_registry_credential(
        &self,
        request: Request<v1::FetchRegistryCredentialRequest>,
    ) -> Result<Response<v1::FetchRegistryCredentialResponse>, Status> {
        let node = status::calling_node(&request)?;
        // A connection may be older than its node's deletion.
        self.still_enrolled(&node, request.extensions().get::<Caller>()).await?;
        let v1::FetchRegistryCredentialRequest { app_name, check_id } = request.into_inner();
        if !check_id.is_empty() {
            return Ok(Response::new(self.credential_for_check(&node, &check_id).await?));
        }
        let app = AppName::read_field(app_name, "app_name").map_err(status::invalid)?;
        Ok(Response::new(self.credential_for(&node, &app).await?))
    }

    async fn answer_check(
        &self,
        request: Request<v1::AnswerCheckRequest>,
    ) -> Result<Response<v1::AnswerCheckResponse>, Status> {
        let node = status::calling_node(&request)?;
        let answer = request.into_inner();
        let id = answer.request_id.clone();
        if !self.checks.answer(&node, &id, convert::look(answer)) {
            return Err(no_plan());
        }
        Ok(Response::new(v1::AnswerCheckResponse {}))
    }

    async fn report_accelerators(
        &self,
        request: Request<v1::ReportAcceleratorsRequest>,
    ) -> Result<Response<v1::ReportAcceleratorsResponse>, Status> {
        let node = status::calling_node(&request)?;
        // A connection may be older than its node's deletion.
        self.still_enrolled(&node, request.extensions().get::<Caller>()).await?;
        let stocks = convert::stocks(request.into_inner().accelerators);
        self.store.report_accelerators(&node, stocks).await.map_err(|error| lost(error, &node))?;
        Ok(Response::new(v1::ReportAcceleratorsResponse {}))
    }

    async fn fetch_configuration(
        &self,
        request: Request<v1::FetchConfigurationRequest>,
    ) -> Result<Response<v1::FetchConfigurationResponse>, Status> {
        let node = status::calling_node(&request)?;
        // A connection may be older than its node's deletion.
        self.still_enrolled(&node, request.extensions().get::<Caller>()).await?;
        let v1::FetchConfigurationRequest { app_name, revision } = request.into_inner();
        let app = AppName::read_field(app_name, "app_name").map_err(status::invalid)?;
        Ok(Response::new(self.configuration_for(&node, &app, revision).await?))
    }
}

impl AgentApi {
    /// The calling node, if it is still the one that was let in.
    async fn still_enrolled(&self, name: &NodeName, caller: Option<&Caller>) -> Result<Node, Status> {
        match self.store.node(name).await {
            Ok(node) if caller.is_none_or(|caller| caller.is(&node)) => Ok(node),
            Ok(_) | Err(StoreError::NotFound { .. }) => Err(status::node_deleted(name)),
            Err(error) => Err(status::store(error)),
        }
    }
}

/// What an agent hears that is late.
fn no_plan() -> Status {
    status::plain(Code::NotFound, "NO_CALLER", "no plan waits for this check any more")
}

/// A write about a node that may have been deleted meanwhile.
fn lost(error: StoreError, node: &NodeName) -> Status {
    match error {
        StoreError::NotFound { .. } => status::node_deleted(node),
        other => status::store(other),
    }
}

/// The first message of a stream.
async fn first<T>(inbound: &mut Streaming<T>) -> Result<T, Status> {
    match tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, inbound.message()).await {
        Ok(message) => {
            message.map_err(status::of_stream)?.ok_or_else(|| out_of_order("the stream ended before its first message"))
        }
        Err(_) => Err(status::plain(Code::DeadlineExceeded, "NO_FIRST_MESSAGE", "no message came on the stream")),
    }
}

fn out_of_order(message: &str) -> Status {
    status::precondition("OUT_OF_ORDER", "message", message)
}

/// The protocol version to speak, and what the agent says of its machine.
fn read_hello(hello: v1::Hello) -> Result<(u32, NodeInfo), Status> {
    let (oldest, newest) = (hello.min_protocol, hello.max_protocol);
    if !(oldest..=newest).contains(&PROTOCOL) {
        let message = format!("the agent speaks protocol {oldest} to {newest}, this server {PROTOCOL}");
        return Err(status::precondition("PROTOCOL_VERSION", "protocol", &message));
    }
    let Some(info) = hello.info else {
        return Err(status::invalid(Violations::one("hello.info", "is missing")));
    };
    let info = NodeInfo::read_field(info, "hello.info").map_err(status::invalid)?;
    Ok((PROTOCOL, info))
}
