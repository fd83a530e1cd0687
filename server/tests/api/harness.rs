//! A server without TLS, people who call it, and agents that do as they are told.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use longshore_model::admission::Fingerprint;
use longshore_model::capability;
use longshore_model::identity::Identity;
use longshore_model::name::NodeName;
use longshore_model::node::Labels;
use longshore_proto::v1;
use longshore_server::api::calls::CallLayer;
use longshore_server::identity::Authority;
use longshore_server::live::Live;
use longshore_server::serve::with_streams;
use longshore_server::services::{Backstage, Services};
use longshore_server::store::{Enrolling, SqliteStore, Store, StoredToken, Terms};
use longshore_server::vault::Vault;
use longshore_tls::Pin;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::service::{Interceptor, Routes};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Status, Streaming};
use v1::agent_service_client::AgentServiceClient;
use v1::app_service_client::AppServiceClient;
use v1::config_map_service_client::ConfigMapServiceClient;
use v1::job_service_client::JobServiceClient;
use v1::node_service_client::NodeServiceClient;
pub use v1::open_session_request::Message as ToServer;
use v1::open_session_response::Message as FromServer;
use v1::registry_credential_service_client::RegistryCredentialServiceClient;
use v1::secret_service_client::SecretServiceClient;
use v1::template_service_client::TemplateServiceClient;
use v1::user_service_client::UserServiceClient;

/// Header from which the harness takes the caller's identity, as a certificate's URI without its scheme and domain.
const IDENTITY: &str = "test-identity";
/// What anything that is waited for may take: only a broken test gets there.
const PATIENCE: Duration = Duration::from_secs(30);
/// Streams of each connection.
const STREAMS: u32 = 100;

/// Waits for something that must happen.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("did not happen in time")
}

/// Asks again and again until the answer is there.
pub async fn eventually<T, F: Future<Output = Option<T>>>(mut ask: impl FnMut() -> F) -> T {
    soon(async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// A running server.
pub struct World {
    pub store: Arc<dyn Store>,
    pub live: Arc<Live>,
    pub backstage: Backstage,
    pub shutdown: CancellationToken,
    people: SocketAddr,
    agents: SocketAddr,
    /// Kept until the end of the test.
    dir: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl World {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let live = Arc::new(Live::default());
        let observer: Arc<Live> = Arc::clone(&live);
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&dir.path().join("longshore.db"), observer).unwrap());
        let pin = Pin::of(&b"the root certificate".as_slice().into());
        let authority = Arc::new(Authority::found("test", jiff::Timestamp::now()).unwrap().authority);
        let vault = Arc::new(Vault::new(dir.path()));
        let services = Services::new(Arc::clone(&store), Arc::clone(&live), pin, authority, vault).unwrap();
        let shutdown = CancellationToken::new();
        let people = serve(services.people, shutdown.clone()).await;
        let agents = serve(services.agents, shutdown.clone()).await;
        let backstage = services.backstage.clone();
        let until = shutdown.clone();
        tokio::spawn(async move { services.backstage.run(until).await });
        Self { store, live, backstage, shutdown, people, agents, dir }
    }

    pub fn channel(&self) -> Channel {
        dial(self.people)
    }

    pub fn jobs(&self) -> JobServiceClient<InterceptedService<Channel, As>> {
        JobServiceClient::with_interceptor(self.channel(), As("user/operator/ann".to_owned()))
    }

    pub fn nodes(&self) -> NodeServiceClient<InterceptedService<Channel, As>> {
        NodeServiceClient::with_interceptor(self.channel(), As("user/admin/bob".to_owned()))
    }

    pub fn users(&self) -> UserServiceClient<InterceptedService<Channel, As>> {
        UserServiceClient::with_interceptor(self.channel(), As("user/admin/bob".to_owned()))
    }

    pub fn apps(&self) -> AppServiceClient<InterceptedService<Channel, As>> {
        AppServiceClient::with_interceptor(self.channel(), As("user/operator/ann".to_owned()))
    }

    pub fn credentials(&self, who: &str) -> RegistryCredentialServiceClient<InterceptedService<Channel, As>> {
        RegistryCredentialServiceClient::with_interceptor(self.channel(), As(who.to_owned()))
    }

    pub fn config_maps(&self, who: &str) -> ConfigMapServiceClient<InterceptedService<Channel, As>> {
        ConfigMapServiceClient::with_interceptor(self.channel(), As(who.to_owned()))
    }

    pub fn templates(&self, who: &str) -> TemplateServiceClient<InterceptedService<Channel, As>> {
        TemplateServiceClient::with_interceptor(self.channel(), As(who.to_owned()))
    }

    pub fn secrets(&self, who: &str) -> SecretServiceClient<InterceptedService<Channel, As>> {
        SecretServiceClient::with_interceptor(self.channel(), As(who.to_owned()))
    }

    /// The directory of the server.
    pub fn directory(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// The agents' service, as a node of this name sees it.
    pub fn agent_service(&self, node: &str) -> AgentServiceClient<InterceptedService<Channel, As>> {
        AgentServiceClient::with_interceptor(dial(self.agents), As(format!("node/{node}")))
    }

    /// Enrols a node, with a token of its own.
    pub async fn enroll(&self, node: &str, labels: &[(&str, &str)]) {
        let (id, now) = (format!("token-{node}"), Timestamp::now());
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Labels>();
        let hour = now + jiff::SignedDuration::from_hours(1);
        self.store
            .create_token(StoredToken { labels, ..StoredToken::single(&id, [7; 32], now, hour) }, Terms::default())
            .await
            .unwrap();
        self.store.enroll(enrolling(&id, [7; 32], node), now).await.unwrap();
    }

    /// Enrols nodes and connects their agents.
    pub async fn fleet(&self, nodes: &[&str]) -> Vec<Agent> {
        let mut agents = Vec::new();
        for node in nodes {
            self.enroll(node, &[("role", "till")]).await;
            agents.push(self.connect(node).await);
        }
        agents
    }

    /// Connects an agent, whose full set must be empty.
    pub async fn connect(&self, node: &str) -> Agent {
        let (agent, full) = self.connect_full(node).await;
        assert_eq!(full, []);
        agent
    }

    /// Connects an agent, and returns its full set as well.
    pub async fn connect_full(&self, node: &str) -> (Agent, Vec<v1::Assignment>) {
        let mut agent = self.dial_session(self.agent_service(node), hello("amd64")).await.unwrap();
        let FromServer::Welcome(welcome) = agent.next().await else { panic!("the first message is not Welcome") };
        assert_eq!(welcome.protocol, 1);
        agent.session = welcome.session_id;
        let FromServer::Full(full) = agent.next().await else { panic!("the second message is not the full set") };
        assert_eq!(full.revision, 1);
        (agent, full.assignments)
    }

    /// Opens a session with this first message.
    pub async fn dial_session(
        &self,
        mut service: AgentServiceClient<InterceptedService<Channel, As>>,
        first: ToServer,
    ) -> Result<Agent, Status> {
        let (sender, receiver) = mpsc::channel(256);
        sender.send(v1::OpenSessionRequest { message: Some(first) }).await.unwrap();
        let inbound = soon(service.open_session(ReceiverStream::new(receiver))).await?.into_inner();
        Ok(Agent { service, sender, inbound, session: String::new(), sequence: 0, revision: 1 })
    }

    /// Creates a job for these nodes.
    pub async fn create(&self, request: v1::CreateJobRequest) -> v1::Job {
        self.jobs().create_job(request).await.unwrap().into_inner().job.unwrap()
    }

    pub async fn job(&self, id: &str) -> v1::Job {
        let request = v1::GetJobRequest { job_id: id.to_owned(), ..Default::default() };
        self.jobs().get_job(request).await.unwrap().into_inner().job.unwrap()
    }

    /// Waits until the job is in this state.
    pub async fn job_in(&self, id: &str, state: v1::JobState) -> v1::Job {
        eventually(|| async { Some(self.job(id).await).filter(|job| job.state() == state) }).await
    }

    pub async fn tasks(&self, id: &str) -> Vec<v1::Task> {
        let request = v1::ListTasksRequest { job_id: id.to_owned(), page_size: 1000, ..Default::default() };
        self.jobs().list_tasks(request).await.unwrap().into_inner().tasks
    }
}

/// A machine that asks to become a node.
pub fn enrolling(token_id: &str, secret_hash: [u8; 32], node: &str) -> Enrolling {
    Enrolling {
        token_id: token_id.to_owned(),
        secret_hash,
        node: NodeName::parse(node).unwrap(),
        key: Fingerprint([1; 32]),
        address: [192, 0, 2, 1].into(),
    }
}

/// Calls under an identity.
#[derive(Clone)]
pub struct As(pub String);

impl Interceptor for As {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(IDENTITY, MetadataValue::try_from(&self.0).unwrap());
        Ok(request)
    }
}

fn dial(address: SocketAddr) -> Channel {
    // The smallest windows that HTTP/2 knows: an agent that does not read is noticed soon.
    Endpoint::from_shared(format!("http://{address}")).unwrap().initial_stream_window_size(65_535).connect_lazy()
}

async fn serve(routes: Routes, shutdown: CancellationToken) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = with_streams(Server::builder(), STREAMS);
    let server = server.layer(tonic::service::InterceptorLayer::new(identify)).layer(CallLayer).add_routes(routes);
    tokio::spawn(async move {
        // Without it each HTTP/2 window waits for a delayed acknowledgement.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        server.serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned()).await.unwrap();
    });
    address
}

fn identify(mut request: Request<()>) -> Result<Request<()>, Status> {
    if let Some(path) = request.metadata().get(IDENTITY).cloned() {
        let uri = format!("spiffe://test/{}", path.to_str().unwrap());
        request.extensions_mut().insert(Identity::from_uri(&uri, "test").unwrap());
    }
    Ok(request)
}

pub fn hello(architecture: &str) -> ToServer {
    let info = v1::NodeInfo {
        architecture: architecture.to_owned(),
        runtime: "fake".to_owned(),
        capabilities: [capability::JOBS_UPDATE, capability::CONFIG_MAPS, capability::SECRETS_ENV]
            .map(str::to_owned)
            .into(),
        ..Default::default()
    };
    ToServer::Hello(v1::Hello { min_protocol: 1, max_protocol: 1, info: Some(info) })
}

/// A valid job for these nodes.
pub fn order(nodes: &[&str]) -> v1::CreateJobRequest {
    let image = v1::Image {
        source: Some(v1::image::Source::Reference("registry.example.com/till:1.4.2".to_owned())),
        ..Default::default()
    };
    let spec = v1::AppSpec { name: "till".to_owned(), image: Some(image), ..Default::default() };
    let node_names = nodes.iter().map(|node| (*node).to_owned()).collect();
    v1::CreateJobRequest {
        spec: Some(spec),
        targets: Some(v1::Targets { node_names, ..Default::default() }),
        ..Default::default()
    }
}

/// An agent that does as it is told.
pub struct Agent {
    pub service: AgentServiceClient<InterceptedService<Channel, As>>,
    pub sender: mpsc::Sender<v1::OpenSessionRequest>,
    pub inbound: Streaming<v1::OpenSessionResponse>,
    pub session: String,
    pub sequence: u64,
    revision: u64,
}

impl Agent {
    /// The next message.
    pub async fn next(&mut self) -> FromServer {
        soon(self.inbound.message()).await.unwrap().expect("the session ended").message.unwrap()
    }

    /// How the session ends, whatever comes before: `None` if it ends well.
    pub async fn end(&mut self) -> Option<Status> {
        soon(async {
            loop {
                match self.inbound.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return None,
                    Err(status) => return Some(status),
                }
            }
        })
        .await
    }

    /// The next update, whose revision must follow.
    pub async fn update(&mut self) -> v1::AssignmentUpdate {
        match self.next().await {
            FromServer::Update(update) => {
                self.revision += 1;
                assert_eq!(update.revision, self.revision, "a gap");
                update
            }
            other => panic!("not an update: {other:?}"),
        }
    }

    /// The next update, which must set one app.
    pub async fn set(&mut self) -> v1::Assignment {
        let mut update = self.update().await;
        assert_eq!((update.set.len(), update.remove.len()), (1, 0));
        update.set.remove(0)
    }

    /// The next update, which must remove one app.
    pub async fn removed(&mut self) -> String {
        let mut update = self.update().await;
        assert_eq!((update.set.len(), update.remove.len()), (0, 1));
        update.remove.remove(0)
    }

    /// Sends a report and does not wait for its acknowledgement.
    pub async fn send(&mut self, subject: v1::report::Subject) {
        self.sequence += 1;
        let report = v1::Report { sequence: self.sequence, subject: Some(subject) };
        // The server may have ended the session already.
        let _ = self.sender.send(v1::OpenSessionRequest { message: Some(ToServer::Report(report)) }).await;
    }

    /// Sends a report and waits until it is durable. Updates that come before the acknowledgement are returned.
    pub async fn report(&mut self, subject: v1::report::Subject) -> Vec<v1::AssignmentUpdate> {
        self.send(subject).await;
        let mut updates = Vec::new();
        loop {
            match self.next().await {
                FromServer::Ack(ack) if ack.sequences.contains(&self.sequence) => return updates,
                FromServer::Ack(_) => {}
                FromServer::Update(update) => {
                    self.revision += 1;
                    assert_eq!(update.revision, self.revision, "a gap");
                    updates.push(update);
                }
                other => panic!("neither acknowledgement nor update: {other:?}"),
            }
        }
    }

    /// Reports that the assignment's task came to this state.
    pub async fn reach(&mut self, assignment: &v1::Assignment, state: v1::TaskState) -> Vec<v1::AssignmentUpdate> {
        self.report(reached(assignment, state)).await
    }
}

/// A report that the assignment's task came to this state.
pub fn reached(assignment: &v1::Assignment, state: v1::TaskState) -> v1::report::Subject {
    let failure = (state == v1::TaskState::Failed).then(|| v1::Failure {
        reason: v1::FailureReason::PortInUse.into(),
        message: "Port 80 is taken.".to_owned(),
        step: v1::TaskState::Checking.into(),
        ..Default::default()
    });
    v1::report::Subject::Task(v1::TaskReport {
        job_id: assignment.job_id.clone(),
        attempt: assignment.attempt,
        state: state.into(),
        failure,
        ..Default::default()
    })
}

/// A report that the app came to this state.
pub fn app_is(assignment: &v1::Assignment, state: v1::AppState) -> v1::report::Subject {
    v1::report::Subject::App(v1::AppReport {
        app_name: assignment.app_name.clone(),
        revision: assignment.revision,
        attempt: assignment.attempt,
        status: Some(v1::AppStatus { state: state.into(), ..Default::default() }),
    })
}

/// The code of a call that must fail, and its details.
pub fn failure<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, tonic_types::ErrorDetails) {
    use tonic_types::StatusExt;
    let status = result.unwrap_err();
    (status.code(), status.get_error_details())
}
