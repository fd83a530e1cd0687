//! A server in this process, called over real mutual TLS.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod approval;
mod browsers;
mod clients;
mod connections;
mod deletion;
mod external;
mod own;
mod users;

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use clients::stranger;
use jiff::{SignedDuration, Timestamp};
use longshore_model::identity::{Identity, Role};
use longshore_proto::v1;
use longshore_server::config::{Command, CommandLine, Config};
use longshore_server::identity::attempts::MAX_FAILURES_OVERALL;
use longshore_server::identity::pki::{self, NewPki};
use longshore_server::identity::{Authority, authority::Issued};
use longshore_server::serve::{Listeners, ServeError, run};
use longshore_server::store::{Change, Observer, SqliteStore, Store, StoredToken, Terms};
use longshore_settings::Origins;
use longshore_tls::{
    ClientCertificates, ConnectError, Credentials, EnrollmentToken, KeepAlive, PeerCertificate, Pin, connect,
    connect_pinned, make_key_and_csr, server_config,
};
use rustls::NamedGroup;
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use v1::agent_service_client::AgentServiceClient;
use v1::enrollment_service_client::EnrollmentServiceClient;
use v1::job_service_client::JobServiceClient;
use v1::node_service_client::NodeServiceClient;
use v1::user_service_client::UserServiceClient;

/// A running server with a data directory of its own.
struct TestServer {
    dir: tempfile::TempDir,
    api: String,
    agents: String,
    authority: Authority,
    reload: Arc<Notify>,
    shutdown: CancellationToken,
    life: JoinHandle<Result<(), ServeError>>,
}

/// The configuration of a server in this directory, on ports that the system chooses.
fn config(data_dir: &Path, more: &[&str]) -> Config {
    let anywhere = "127.0.0.1:0";
    let words = ["longshore-server", "run", "--api-listen", anywhere, "--agent-listen", anywhere, "--data-dir"];
    let words = words.map(OsStr::new).into_iter().chain([data_dir.as_os_str()]);
    let line = CommandLine::parse_from(words.chain(more.iter().map(OsStr::new)));
    let Command::Run(args) = line.command else { unreachable!("run was asked for") };
    Config::check(&args, &Origins::default(), Timestamp::now()).unwrap()
}

impl TestServer {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A server with further flags.
    async fn start_with(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        pki::init(dir.path(), &NewPki::default(), Timestamp::now()).unwrap();
        Self::run(dir, flags).await
    }

    async fn start_in(dir: tempfile::TempDir) -> Self {
        Self::run(dir, &[]).await
    }

    async fn run(dir: tempfile::TempDir, flags: &[&str]) -> Self {
        let config = config(dir.path(), flags);
        let listeners = Listeners::bind(&config).await.unwrap();
        let address = |listener: &TcpListener| format!("localhost:{}", listener.local_addr().unwrap().port());
        let (api, agents) = (address(&listeners.api), address(&listeners.agents));
        let authority = pki::load(dir.path(), Timestamp::now()).unwrap().authority;
        let shutdown = CancellationToken::new();
        let reload = Arc::clone(&config.reload);
        let life = tokio::spawn(run(config, listeners, shutdown.clone()));
        Self { reload, dir, api, agents, authority, shutdown, life }
    }

    fn credentials(&self, issued: &Issued) -> Credentials {
        self.with_key(&issued.certificate, &issued.key)
    }

    fn with_key(&self, certificate: &str, key: &str) -> Credentials {
        let chain = self.authority.chain(certificate);
        Credentials::from_pem(self.authority.root_pem().as_bytes(), chain.as_bytes(), key.as_bytes()).unwrap()
    }

    /// Credentials of a node, as if issued at `moment`.
    fn node_credentials(&self, name: &str, moment: Timestamp) -> Credentials {
        let made = make_key_and_csr().unwrap();
        let certificate = self.authority.issue_node(&name.parse().unwrap(), &made.csr_der, moment).unwrap();
        self.with_key(&certificate, &made.key_pem)
    }

    /// A channel with the credentials that `init` made.
    async fn first_admin(&self) -> Channel {
        let admin = self.dir.path().join("admin");
        let file = |name: &str| admin.join(name);
        let credentials = Credentials::load(&file("root.crt"), &file("client.crt"), &file("client.key")).unwrap();
        dial(&self.api, &credentials).await.unwrap()
    }

    /// Adds a user and returns their credentials.
    async fn user(&self, name: &str, role: v1::UserRole) -> Credentials {
        let made = make_key_and_csr().unwrap();
        let request = v1::CreateUserRequest {
            name: name.to_owned(),
            role: role.into(),
            csr_der: made.csr_der,
            ..Default::default()
        };
        let answer = UserServiceClient::new(self.first_admin().await).create_user(request).await.unwrap().into_inner();
        let (root, chain) = (answer.root_certificate_pem, answer.certificate_chain_pem);
        Credentials::from_pem(root.as_bytes(), chain.as_bytes(), made.key_pem.as_bytes()).unwrap()
    }

    /// A channel of some user with this role.
    async fn people(&self, role: Role) -> Channel {
        let name = format!("somebody-{:08x}", rand::random::<u32>());
        let credentials = self.user(&name, v1::UserRole::from(role)).await;
        dial(&self.api, &credentials).await.unwrap()
    }

    async fn token(&self, node: &str) -> EnrollmentToken {
        let request = v1::CreateEnrollmentTokenRequest { node_name: node.to_owned(), ..Default::default() };
        let mut nodes = NodeServiceClient::new(self.people(Role::Admin).await);
        nodes.create_enrollment_token(request).await.unwrap().into_inner().token.parse().unwrap()
    }

    async fn enroll(&self, token: &EnrollmentToken, name: &str) -> Result<Credentials, Status> {
        let made = make_key_and_csr().unwrap();
        let request = v1::EnrollRequest { token: token.to_string(), node_name: name.to_owned(), csr_der: made.csr_der };
        let channel = connect_pinned(&self.agents, token.pin()).await.unwrap();
        let enrolled = EnrollmentServiceClient::new(channel).enroll(request).await?.into_inner();
        assert_eq!(enrolled.node_name, name);
        assert_eq!(Pin::of_pem(&enrolled.root_certificate_pem).unwrap(), token.pin());
        let (root, chain) = (enrolled.root_certificate_pem, enrolled.certificate_chain_pem);
        Ok(Credentials::from_pem(root.as_bytes(), chain.as_bytes(), made.key_pem.as_bytes()).unwrap())
    }

    async fn open_session(&self, credentials: &Credentials) -> Result<Session, Status> {
        let channel = dial(&self.agents, credentials).await.unwrap();
        open_session(channel).await
    }

    async fn stop(self) -> tempfile::TempDir {
        self.shutdown.cancel();
        self.life.await.unwrap().unwrap();
        self.dir
    }
}

async fn dial(address: &str, credentials: &Credentials) -> Result<Channel, ConnectError> {
    connect(address, credentials, KeepAlive::default()).await
}

/// An agent's stream, open for as long as this lives.
struct Session {
    requests: mpsc::Sender<v1::OpenSessionRequest>,
    responses: tonic::Streaming<v1::OpenSessionResponse>,
}

impl Session {
    async fn next(&mut self) -> Option<v1::open_session_response::Message> {
        self.responses.message().await.unwrap().and_then(|response| response.message)
    }
}

fn hello() -> v1::open_session_request::Message {
    let info = v1::NodeInfo {
        agent_version: "0.1.0".to_owned(),
        architecture: "amd64".to_owned(),
        kernel_release: "6.1".to_owned(),
        cpus: 1,
        memory_bytes: 1 << 30,
        runtime: "fake".to_owned(),
        ..Default::default()
    };
    v1::open_session_request::Message::Hello(v1::Hello { min_protocol: 1, max_protocol: 1, info: Some(info) })
}

async fn open_session(channel: Channel) -> Result<Session, Status> {
    let (requests, outbound) = mpsc::channel(1);
    requests.send(v1::OpenSessionRequest { message: Some(hello()) }).await.unwrap();
    let responses = AgentServiceClient::new(channel).open_session(ReceiverStream::new(outbound)).await?.into_inner();
    Ok(Session { requests, responses })
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

fn has_nodes(count: usize) -> impl Fn(v1::ListNodesResponse) -> bool {
    move |response| response.nodes.len() == count
}

#[tokio::test]
async fn roles_decide_what_people_may_do() {
    let server = TestServer::start().await;
    for role in [Role::Admin, Role::Operator, Role::Viewer] {
        let channel = server.people(role).await;
        let mut nodes = NodeServiceClient::new(channel.clone());
        let list = nodes.list_nodes(v1::ListNodesRequest::default()).await.unwrap().into_inner();
        assert!(has_nodes(0)(list));
        let token = nodes.create_enrollment_token(v1::CreateEnrollmentTokenRequest::default()).await;
        match role {
            Role::Admin => assert!(token.is_ok(), "{token:?}"),
            _ => {
                let status = token.unwrap_err();
                assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "ROLE_REQUIRED"));
                assert!(status.message().contains("admin"), "{status}");
            }
        }
        // An empty job is refused for what it lacks where it would be accepted at all.
        let job = JobServiceClient::new(channel).create_job(v1::CreateJobRequest::default()).await.unwrap_err();
        let expected = if role == Role::Viewer { Code::PermissionDenied } else { Code::InvalidArgument };
        assert_eq!(job.code(), expected, "{role}");
    }
    server.stop().await;
}

#[tokio::test]
async fn strangers_do_not_get_in() {
    let server = TestServer::start().await;
    let pin = Pin::of_pem(server.authority.root_pem()).unwrap();
    let error = connect_pinned(&server.api, pin).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");

    // On the agents' port everything but enrolment takes a certificate.
    let status = open_session(connect_pinned(&server.agents, pin).await.unwrap()).await.err().unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "CERTIFICATE_REQUIRED"));

    // A certificate of another installation, even one of the same trust domain.
    let other = Authority::found(server.authority.trust_domain(), Timestamp::now()).unwrap().authority;
    let issued = other.issue_user("eve", Role::Admin, Timestamp::now()).unwrap();
    let (root, chain) = (server.authority.root_pem(), other.chain(&issued.certificate));
    let eve = Credentials::from_pem(root.as_bytes(), chain.as_bytes(), issued.key.as_bytes()).unwrap();
    for address in [&server.api, &server.agents] {
        let error = dial(address, &eve).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    }

    // Expired.
    let long_ago = Timestamp::now() - SignedDuration::from_hours(24 * 366);
    let issued = server.authority.issue_user("ann", Role::Admin, long_ago).unwrap();
    let error = dial(&server.api, &server.credentials(&issued)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");

    // A certificate for servers is none for clients.
    let issued = server.authority.issue_server(&["localhost".to_owned()], Timestamp::now()).unwrap();
    let error = dial(&server.api, &server.credentials(&issued)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_machine_with_a_token_becomes_a_node() {
    let server = TestServer::start().await;
    let token = server.token("").await;
    let credentials = server.enroll(&token, "edge-1").await.unwrap();

    let mut session = server.open_session(&credentials).await.unwrap();
    assert!(matches!(session.next().await, Some(v1::open_session_response::Message::Welcome(_))));
    let mut nodes = NodeServiceClient::new(server.people(Role::Viewer).await);
    let node = nodes.get_node(v1::GetNodeRequest { name: "edge-1".to_owned() }).await.unwrap().into_inner();
    assert!(node.node.unwrap().connected);

    // A node does nothing that people do.
    let channel = dial(&server.api, &credentials).await.unwrap();
    let status = NodeServiceClient::new(channel).list_nodes(v1::ListNodesRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);

    // The token is spent, whoever asks.
    for name in ["edge-1", "edge-2"] {
        let status = server.enroll(&token, name).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "TOKEN_INVALID"));
    }
    server.stop().await;
}

#[tokio::test]
async fn enrolment_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    pki::init(dir.path(), &NewPki::default(), Timestamp::now()).unwrap();
    let expired = expired_token(dir.path()).await;
    let server = TestServer::start_in(dir).await;
    let status = server.enroll(&expired, "edge-1").await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "TOKEN_INVALID"));

    let only = server.token("edge-7").await;
    let status = server.enroll(&only, "edge-8").await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "TOKEN_FOR_OTHER_NODE"));
    assert!(status.message().contains("edge-7"), "{status}");
    let status = server.enroll(&only, "Edge_7").await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    server.enroll(&only, "edge-7").await.unwrap();

    let again = server.token("").await;
    let status = server.enroll(&again, "edge-7").await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "NODE_ALREADY_EXISTS"));

    let mut client = EnrollmentServiceClient::new(connect_pinned(&server.agents, again.pin()).await.unwrap());
    let request =
        v1::EnrollRequest { token: "let me in".to_owned(), node_name: "Edge".to_owned(), csr_der: Vec::new() };
    let status = client.enroll(request.clone()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
    let wrong = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(wrong.iter().map(|found| found.field.as_str()).collect::<Vec<_>>(), ["token", "node_name", "csr_der"]);
    assert!(!format!("{status:?}").contains("let me in"), "{status}");
    let request = v1::EnrollRequest { token: again.to_string(), node_name: "edge-9".to_owned(), ..request };
    let status = client.enroll(request).await.unwrap_err();
    assert!(status.code() == Code::InvalidArgument && status.message().contains("certificate request"), "{status}");
    // None of the refusals has spent the token.
    server.enroll(&again, "edge-9").await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_deleted_node_does_not_come_back() {
    let server = TestServer::start().await;
    let token = server.token("").await;
    let credentials = server.enroll(&token, "edge-1").await.unwrap();
    let mut nodes = NodeServiceClient::new(server.people(Role::Admin).await);
    nodes.delete_node(v1::DeleteNodeRequest { name: "edge-1".to_owned(), ..Default::default() }).await.unwrap();
    let refused = async |credentials: &Credentials| {
        let status = server.open_session(credentials).await.err().unwrap();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "NODE_DELETED"));
    };
    refused(&credentials).await;

    // Nor when another machine has taken its name.
    let predecessor = server.node_credentials("edge-1", Timestamp::now() - SignedDuration::from_hours(1));
    let successor = server.enroll(&server.token("").await, "edge-1").await.unwrap();
    refused(&predecessor).await;
    server.open_session(&successor).await.unwrap();
    server.stop().await;
}

async fn renew(channel: Channel) -> Result<(String, String), Status> {
    let made = make_key_and_csr().unwrap();
    let request = v1::RenewCertificateRequest { csr_der: made.csr_der };
    let answer = AgentServiceClient::new(channel).renew_certificate(request).await?.into_inner();
    Ok((answer.certificate_chain_pem, made.key_pem))
}

#[tokio::test]
async fn a_node_renews_its_certificate_and_nobody_elses() {
    let server = TestServer::start().await;
    let first = server.enroll(&server.token("").await, "edge-1").await.unwrap();
    let channel = dial(&server.agents, &first).await.unwrap();
    let mut session = open_session(channel.clone()).await.unwrap();
    assert!(matches!(session.next().await, Some(v1::open_session_response::Message::Welcome(_))));

    let (chain, key) = renew(channel.clone()).await.unwrap();
    let root = server.authority.root_pem();
    let second = Credentials::from_pem(root.as_bytes(), chain.as_bytes(), key.as_bytes()).unwrap();
    let read = |credentials: &Credentials| PeerCertificate::from_der(credentials.leaf()).unwrap();
    assert_eq!(read(&second).uri, read(&first).uri);
    assert_ne!(read(&second).key_hash, read(&first).key_hash);
    assert!(matches!(session.next().await, Some(v1::open_session_response::Message::Full(_))), "the session goes on");
    let bad = v1::RenewCertificateRequest { csr_der: b"junk".to_vec() };
    let status = AgentServiceClient::new(channel.clone()).renew_certificate(bad).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));

    // People have no node to renew, strangers nothing at all.
    let person = dial(&server.agents, &server.user("ann", v1::UserRole::Admin).await).await.unwrap();
    assert_eq!(renew(person).await.unwrap_err().code(), Code::PermissionDenied);
    let pin = Pin::of_pem(root).unwrap();
    let stranger = connect_pinned(&server.agents, pin).await.unwrap();
    assert_eq!(renew(stranger).await.unwrap_err().code(), Code::Unauthenticated);

    // A node that was deleted gets none, on the connection that it had.
    let mut nodes = NodeServiceClient::new(server.people(Role::Admin).await);
    nodes.delete_node(v1::DeleteNodeRequest { name: "edge-1".to_owned(), ..Default::default() }).await.unwrap();
    let status = renew(channel).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "NODE_DELETED"));
    server.stop().await;
}

#[tokio::test]
async fn a_token_for_its_name_brings_a_node_back_and_shuts_its_predecessor_out() {
    let server = TestServer::start().await;
    server.enroll(&server.token("").await, "edge-1").await.unwrap();
    let lapsed = server.node_credentials("edge-1", Timestamp::now() - SignedDuration::from_hours(24 * 31));
    let error = dial(&server.agents, &lapsed).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");

    // A certificate of before, still good, with a live session.
    let before = server.node_credentials("edge-1", Timestamp::now() + SignedDuration::from_secs(1));
    let mut session = server.open_session(&before).await.unwrap();
    assert!(matches!(session.next().await, Some(v1::open_session_response::Message::Welcome(_))));
    assert!(matches!(session.next().await, Some(v1::open_session_response::Message::Full(_))));
    let status = server.enroll(&server.token("").await, "edge-1").await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "a token for any name takes nobody's place");

    // The second in which that one was issued has to pass: certificates count whole seconds.
    let issued = PeerCertificate::from_der(before.leaf()).unwrap().validity.issued();
    let token = server.token("edge-1").await;
    while Timestamp::now().as_second() <= issued.as_second() {
        tokio::time::sleep(SHORT).await;
    }
    let back = server.enroll(&token, "edge-1").await.unwrap();
    let end = session.responses.message().await.unwrap_err();
    assert_eq!((end.code(), reason(&end).as_str()), (Code::Aborted, "FENCED"));
    let status = server.open_session(&before).await.err().unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "NODE_DELETED"));
    server.open_session(&back).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_node_that_is_deleted_while_it_opens_its_session_does_not_become_its_successor() {
    let server = TestServer::start().await;
    let credentials = server.enroll(&server.token("").await, "edge-1").await.unwrap();
    let issued = Timestamp::now().as_second();
    let channel = dial(&server.agents, &credentials).await.unwrap();
    let (requests, outbound) = mpsc::channel(1);
    let mut client = AgentServiceClient::new(channel.clone());
    let opening = tokio::spawn(async move { client.open_session(ReceiverStream::new(outbound)).await.map(|_| ()) });
    // A later call of the same connection has been let in: so has the session.
    let late = v1::UploadLogsRequest { request_id: "nobody".to_owned(), ..Default::default() };
    let status = AgentServiceClient::new(channel).upload_logs(tokio_stream::once(late)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);

    let mut nodes = NodeServiceClient::new(server.people(Role::Admin).await);
    nodes.delete_node(v1::DeleteNodeRequest { name: "edge-1".to_owned(), ..Default::default() }).await.unwrap();
    // Certificates count whole seconds.
    while Timestamp::now().as_second() <= issued {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.enroll(&server.token("").await, "edge-1").await.unwrap();
    requests.send(v1::OpenSessionRequest { message: Some(hello()) }).await.unwrap();
    let status = opening.await.unwrap().unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "NODE_DELETED"));
    server.stop().await;
}

#[tokio::test]
async fn the_addresses_of_a_server_that_was_killed_are_gone_before_the_next_one_listens() {
    let server = TestServer::start().await;
    let config = config(server.dir.path(), &[]);
    let file = server.dir.path().join("addresses.json");
    server.open_session(&server.enroll(&server.token("").await, "edge-1").await.unwrap()).await.unwrap();
    Listeners::bind(&config).await.unwrap();
    assert!(file.exists(), "those of a server that runs are left alone");
    let dir = server.stop().await;
    let left = |dir: &tempfile::TempDir| -> Vec<_> {
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| !matches!(name.to_str(), Some("pki" | "admin"))).collect()
    };
    let mut files = left(&dir);
    files.sort();
    assert_eq!(files, ["longshore.db", "longshore.db.lock"], "nothing else is left by a clean exit");

    std::fs::write(&file, "{}").unwrap();
    Listeners::bind(&config).await.unwrap();
    assert!(!file.exists());
}

#[tokio::test]
async fn a_server_that_goes_away_says_so_and_leaves_nothing_open() {
    let server = TestServer::start().await;
    let credentials = server.enroll(&server.token("").await, "edge-1").await.unwrap();
    let mut session = server.open_session(&credentials).await.unwrap();
    assert!(matches!(session.next().await, Some(v1::open_session_response::Message::Welcome(_))));
    assert!(matches!(session.next().await, Some(v1::open_session_response::Message::Full(_))));
    let file = server.dir.path().join("addresses.json");
    let addresses: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let port = |address: &str| address.rsplit_once(':').unwrap().1.to_owned();
    assert_eq!(port(addresses["agents"].as_str().unwrap()), port(&server.agents));

    server.shutdown.cancel();
    assert!(matches!(session.next().await, Some(v1::open_session_response::Message::Drain(_))));
    drop(session.requests);
    let agents = server.agents.clone();
    let dir = server.stop().await;
    assert!(!file.exists());
    let error = dial(&agents, &credentials).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");

    // What was remembered is remembered: the node needs no new certificate.
    let server = TestServer::start_in(dir).await;
    server.open_session(&credentials).await.unwrap();
    server.stop().await;
}

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn both_ports_prefer_the_post_quantum_key_exchange() {
    let server = TestServer::start().await;
    for address in [&server.api, &server.agents] {
        let cases: [(&[&'static dyn SupportedKxGroup], NamedGroup); 3] = [
            (&[kx_group::X25519MLKEM768, kx_group::X25519], NamedGroup::X25519MLKEM768),
            (&[kx_group::X25519], NamedGroup::X25519),
            (&[kx_group::SECP256R1], NamedGroup::secp256r1),
        ];
        for (groups, expected) in cases {
            let tls = stranger(address, groups).await;
            assert_eq!(tls.get_ref().1.negotiated_key_exchange_group().unwrap().name(), expected);
        }
    }
    server.stop().await;
}

/// A token that was good for a moment long ago.
async fn expired_token(dir: &Path) -> EnrollmentToken {
    struct Nobody;
    impl Observer for Nobody {
        fn committed(&self, _changes: Vec<Change>) {}
    }
    let pin = pki::load(dir, Timestamp::now()).unwrap().pin;
    let token = EnrollmentToken::from_random(&[1; EnrollmentToken::RANDOM_BYTES], pin);
    let store = SqliteStore::open(&dir.join("longshore.db"), Arc::new(Nobody)).unwrap();
    let (hour, second) = (SignedDuration::from_hours(1), SignedDuration::from_secs(1));
    let now = Timestamp::now();
    let stored = StoredToken::single(token.id(), token.secret_hash(), now - hour, now - second);
    store.create_token(stored, Terms::default()).await.unwrap();
    token
}
