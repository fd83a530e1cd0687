//! A server whose every message the test writes.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use hyper_util::rt::TokioIo;
use longshore_agent::session::Connector;
use longshore_proto::v1;
use longshore_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
pub(crate) use longshore_proto::v1::open_session_request::Message as Request;
use longshore_proto::v1::open_session_response::Message as Response;
use tokio::io::DuplexStream;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Status, Streaming};

/// Far more virtual time than any test needs.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// The server's end of one session.
pub(crate) struct Peer {
    inbound: Streaming<v1::OpenSessionRequest>,
    outbound: mpsc::Sender<Result<v1::OpenSessionResponse, Status>>,
}

impl Peer {
    pub(crate) async fn receive(&mut self) -> Option<Request> {
        let message = tokio::time::timeout(PATIENCE, self.inbound.message()).await.expect("the agent says nothing");
        message.ok().flatten().and_then(|request| request.message)
    }

    pub(crate) async fn report(&mut self) -> v1::Report {
        match self.receive().await {
            Some(Request::Report(report)) => report,
            other => panic!("a report was expected, not {other:?}"),
        }
    }

    /// Receives reports, acknowledging each, until the task is in that state.
    pub(crate) async fn until(&mut self, state: v1::TaskState) {
        loop {
            let report = self.report().await;
            self.acknowledge(report.sequence).await;
            if let Some(v1::report::Subject::Task(task)) = report.subject
                && task.state() == state
            {
                return;
            }
        }
    }

    pub(crate) async fn send(&self, message: Response) {
        // An agent that has hung up is seen by the next receive.
        let _ = self.outbound.send(Ok(v1::OpenSessionResponse { message: Some(message) })).await;
    }

    pub(crate) async fn acknowledge(&self, sequence: u64) {
        self.send(Response::Ack(v1::ReportAck { sequences: vec![sequence] })).await;
    }

    pub(crate) async fn full(&self, assignments: Vec<v1::Assignment>) {
        self.send(Response::Full(v1::FullAssignments { revision: 1, assignments, keep_others: false })).await;
    }

    pub(crate) async fn update(&self, revision: u64, set: Vec<v1::Assignment>, remove: Vec<String>) {
        self.send(Response::Update(v1::AssignmentUpdate { revision, set, remove })).await;
    }

    pub(crate) async fn end(&self, status: Status) {
        let _ = self.outbound.send(Err(status)).await;
    }
}

struct Service {
    peers: mpsc::Sender<Peer>,
    uploads: mpsc::Sender<v1::UploadLogsRequest>,
}

#[tonic::async_trait]
impl AgentService for Service {
    type OpenChannelStream = Pin<Box<dyn Stream<Item = Result<v1::OpenChannelResponse, Status>> + Send>>;
    type OpenSessionStream = Pin<Box<dyn Stream<Item = Result<v1::OpenSessionResponse, Status>> + Send>>;

    async fn open_session(
        &self,
        request: tonic::Request<Streaming<v1::OpenSessionRequest>>,
    ) -> Result<tonic::Response<Self::OpenSessionStream>, Status> {
        let (outbound, responses) = mpsc::channel(64);
        let peer = Peer { inbound: request.into_inner(), outbound };
        self.peers.send(peer).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(tonic::Response::new(Box::pin(ReceiverStream::new(responses))))
    }

    async fn open_channel(
        &self,
        _: tonic::Request<Streaming<v1::OpenChannelRequest>>,
    ) -> Result<tonic::Response<Self::OpenChannelStream>, Status> {
        Err(Status::unimplemented("no test of sessions opens channels"))
    }

    async fn upload_logs(
        &self,
        request: tonic::Request<Streaming<v1::UploadLogsRequest>>,
    ) -> Result<tonic::Response<v1::UploadLogsResponse>, Status> {
        let mut pieces = request.into_inner();
        while let Some(piece) = pieces.message().await? {
            let _ = self.uploads.send(piece).await;
        }
        Ok(tonic::Response::new(v1::UploadLogsResponse {}))
    }

    async fn fetch_registry_credential(
        &self,
        _: tonic::Request<v1::FetchRegistryCredentialRequest>,
    ) -> Result<tonic::Response<v1::FetchRegistryCredentialResponse>, Status> {
        Ok(tonic::Response::new(v1::FetchRegistryCredentialResponse::default()))
    }

    async fn answer_check(
        &self,
        _: tonic::Request<v1::AnswerCheckRequest>,
    ) -> Result<tonic::Response<v1::AnswerCheckResponse>, Status> {
        Err(Status::unimplemented("no test of sessions asks for checks"))
    }

    async fn report_accelerators(
        &self,
        _: tonic::Request<v1::ReportAcceleratorsRequest>,
    ) -> Result<tonic::Response<v1::ReportAcceleratorsResponse>, Status> {
        Ok(tonic::Response::new(v1::ReportAcceleratorsResponse {}))
    }

    async fn fetch_configuration(
        &self,
        _: tonic::Request<v1::FetchConfigurationRequest>,
    ) -> Result<tonic::Response<v1::FetchConfigurationResponse>, Status> {
        Ok(tonic::Response::new(v1::FetchConfigurationResponse::default()))
    }

    async fn renew_certificate(
        &self,
        _request: tonic::Request<v1::RenewCertificateRequest>,
    ) -> Result<tonic::Response<v1::RenewCertificateResponse>, Status> {
        Err(Status::unimplemented("no test of sessions renews"))
    }
}

/// A server in this process, reached through memory, so that virtual time holds for it too.
pub(crate) struct Scripted {
    peers: mpsc::Receiver<Peer>,
    pub(crate) uploads: mpsc::Receiver<v1::UploadLogsRequest>,
    dials: mpsc::Sender<DuplexStream>,
    /// Whether Welcome says that usage is taken.
    pub(crate) takes_usage: bool,
}

impl Scripted {
    pub(crate) fn start() -> Self {
        let (peers, accepted) = mpsc::channel(8);
        let (uploads, uploaded) = mpsc::channel(64);
        let (dials, dialled) = mpsc::channel::<DuplexStream>(8);
        let incoming = futures::StreamExt::map(ReceiverStream::new(dialled), Ok::<_, std::io::Error>);
        let service = AgentServiceServer::new(Service { peers, uploads });
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        Self { peers: accepted, uploads: uploaded, dials, takes_usage: false }
    }

    pub(crate) fn connector(&self) -> Connector {
        let dials = self.dials.clone();
        Arc::new(move || {
            let dials = dials.clone();
            Box::pin(async move {
                let (ours, theirs) = tokio::io::duplex(1 << 20);
                dials.send(theirs).await.expect("the server runs");
                let ours = Arc::new(Mutex::new(Some(ours)));
                let connector = tower::service_fn(move |_| {
                    let ours = Arc::clone(&ours);
                    async move {
                        ours.lock()
                            .await
                            .take()
                            .map(TokioIo::new)
                            .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::BrokenPipe))
                    }
                });
                let endpoint = Endpoint::from_static("http://server.test");
                Ok(endpoint.connect_with_connector(connector).await.expect("the connection is memory"))
            })
        })
    }

    /// The next session, its Hello received and answered.
    pub(crate) async fn session(&mut self) -> Peer {
        let mut peer = tokio::time::timeout(PATIENCE, self.peers.recv()).await.expect("nobody dials").unwrap();
        let hello = peer.receive().await;
        let Some(Request::Hello(hello)) = hello else { panic!("Hello was expected, not {hello:?}") };
        assert_eq!(hello.info.unwrap().runtime, "fake");
        let session_id = "01jd0000000000000000000000".to_owned();
        let welcome =
            v1::Welcome { session_id, protocol: 1, max_unacknowledged_reports: 8, takes_usage: self.takes_usage };
        peer.send(Response::Welcome(welcome)).await;
        peer
    }
}
