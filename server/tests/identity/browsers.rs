//! Pages in browsers, as the server sees them: gRPC-Web over HTTP/2 and HTTP/1.1, with and without a certificate.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use longshore_server::listen::{Accepting, Http1, accept};
use longshore_tls::browser_config;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_stream::StreamExt as _;
use tonic::body::Body;

use super::clients::stranger_with;
use super::*;

const CONSOLE: &str = "https://console.example";
const EVIL: &str = "https://evil.example";
const PAGES: [&str; 2] = ["--cors-origin", CONSOLE];
const H2: &[u8] = b"h2";
const H1: &[u8] = b"http/1.1";
const NATIVE: &str = "application/grpc";
const WEB: &str = "application/grpc-web+proto";
const WEB_TEXT: &str = "application/grpc-web-text+proto";

/// A certificate chain and its key, in PEM.
struct Shown {
    chain: String,
    key: String,
}

impl TestServer {
    fn shows_admin(&self) -> Shown {
        let file = |name: &str| std::fs::read_to_string(self.dir.path().join("admin").join(name)).unwrap();
        Shown { chain: file("client.crt"), key: file("client.key") }
    }

    /// A new user's.
    async fn shows(&self, name: &str, role: v1::UserRole) -> Shown {
        let made = make_key_and_csr().unwrap();
        let (name, csr_der) = (name.to_owned(), made.csr_der);
        let request = v1::CreateUserRequest { name, role: role.into(), csr_der, ..Default::default() };
        let answer = UserServiceClient::new(self.first_admin().await).create_user(request).await.unwrap().into_inner();
        Shown { chain: answer.certificate_chain_pem, key: made.key_pem }
    }

    fn shows_node(&self, name: &str) -> Shown {
        let made = make_key_and_csr().unwrap();
        let certificate = self.authority.issue_node(&name.parse().unwrap(), &made.csr_der, Timestamp::now()).unwrap();
        Shown { chain: self.authority.chain(&certificate), key: made.key_pem }
    }

    async fn browser(&self, alpn: &[u8], shown: Option<&Shown>) -> Browser {
        Browser::connect(&self.api, alpn, shown).await.unwrap()
    }

    async fn tokens(&self) -> usize {
        let mut nodes = NodeServiceClient::new(self.first_admin().await);
        let list = nodes.list_enrollment_tokens(v1::ListEnrollmentTokensRequest::default()).await.unwrap();
        list.into_inner().enrollment_tokens.len()
    }
}

/// A connection as a browser makes it.
enum Browser {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

/// An answer to the last byte.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Browser {
    /// Fails when the server does not want this protocol. That it does not want this certificate is heard of after the
    /// handshake, at the first request.
    async fn connect(address: &str, alpn: &[u8], shown: Option<&Shown>) -> std::io::Result<Self> {
        let pair = shown.map(|shown| (shown.chain.as_str(), shown.key.as_str()));
        let tls = stranger_with(address, alpn, pair).await?;
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(alpn));
        if alpn == H2 {
            let (send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
            tokio::spawn(connection);
            return Ok(Self::H2(send));
        }
        let (send, connection) = http1::handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        Ok(Self::H1(send))
    }

    async fn try_send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::H1(send) => send.send_request(request).await,
            Self::H2(send) => send.send_request(request).await,
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        self.try_send(request).await.unwrap()
    }

    fn request(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Request<Full<Bytes>> {
        let uri = if matches!(self, Self::H2(_)) { format!("https://localhost{path}") } else { path.to_owned() };
        let mut request = Request::builder().method(method).uri(uri).header("te", "trailers");
        if matches!(self, Self::H1(_)) {
            request = request.header("host", "localhost");
        }
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(Full::new(body)).unwrap()
    }

    async fn ask(&mut self, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        let request = self.request(method, path, headers, body);
        let (head, body) = self.send(request).await.into_parts();
        let collected = body.collect().await.unwrap();
        // What native gRPC says at its end, beside what it says at its beginning.
        let mut headers = head.headers;
        headers.extend(collected.trailers().cloned().unwrap_or_default());
        Answer { status: head.status, headers, body: collected.to_bytes() }
    }

    /// A call of a page.
    async fn call(&mut self, path: &str, content: &str, origin: Option<&str>, message: &impl prost::Message) -> Answer {
        let mut body = framed(message);
        if content == WEB_TEXT {
            body = STANDARD.encode(body).into();
        }
        let mut headers = vec![("content-type", content), ("accept", content)];
        headers.extend(origin.map(|origin| ("origin", origin)));
        self.ask(Method::POST, path, &headers, body).await
    }

    /// What a browser asks before it lets a page call.
    async fn preflight(&mut self, path: &str, origin: &str) -> Answer {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "content-type,x-grpc-web"),
        ];
        self.ask(Method::OPTIONS, path, &headers, Bytes::new()).await
    }
}

fn framed(message: &impl prost::Message) -> Bytes {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], length.as_slice(), &message].concat().into()
}

/// One frame of gRPC-Web: a message, or the trailers as lines.
fn unframed(body: &mut Bytes) -> Result<Bytes, String> {
    let (flags, length) = (body.get_u8(), body.get_u32());
    let content = body.split_to(usize::try_from(length).unwrap());
    if flags == 0 { Ok(content) } else { Err(String::from_utf8(content.to_vec()).unwrap()) }
}

impl Answer {
    /// The one message of a call that went well.
    fn message<M: prost::Message + Default>(&self) -> M {
        let text = self.headers["content-type"] == WEB_TEXT;
        let mut body = if text { decoded(&self.body) } else { self.body.clone() };
        let message = M::decode(unframed(&mut body).unwrap()).unwrap();
        let trailers = unframed(&mut body).unwrap_err();
        assert!(trailers.lines().any(|line| line == "grpc-status:0"), "{trailers}");
        assert!(body.is_empty());
        message
    }

    /// The code and reason of a call that was refused.
    fn refusal(&self) -> (Code, String) {
        let status = Status::from_header_map(&self.headers).unwrap_or_else(|| panic!("no status: {:?}", self.headers));
        (status.code(), reason(&status))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// Pieces of base64 one after the other, each of which may end in padding.
fn decoded(body: &[u8]) -> Bytes {
    body.chunks(4).flat_map(|four| STANDARD.decode(four).unwrap()).collect()
}

const LIST_NODES: &str = "/longshore.v1.NodeService/ListNodes";
const CREATE_TOKEN: &str = "/longshore.v1.NodeService/CreateEnrollmentToken";
const ENROLL: &str = "/longshore.v1.EnrollmentService/Enroll";
const GET_JOB: &str = "/longshore.v1.JobService/GetJob";

#[tokio::test]
async fn pages_of_an_allowed_origin_call_over_either_http() {
    let server = TestServer::start_with(&PAGES).await;
    server.enroll(&server.token("").await, "edge-1").await.unwrap();
    let admin = server.shows_admin();
    for alpn in [H2, H1] {
        // The browser asks first, without a certificate.
        let asked = server.browser(alpn, None).await.preflight(LIST_NODES, CONSOLE).await;
        assert_eq!(asked.status, StatusCode::OK);
        assert_eq!(asked.header("access-control-allow-origin"), Some(CONSOLE));
        assert_eq!(asked.header("access-control-allow-credentials"), Some("true"));
        assert_eq!(asked.header("access-control-allow-methods"), Some("POST"));
        let headers = asked.header("access-control-allow-headers").unwrap();
        for header in ["content-type", "x-grpc-web", "x-user-agent", "grpc-timeout", "x-request-id"] {
            assert!(headers.split(',').any(|allowed| allowed == header), "{headers}");
        }

        let mut page = server.browser(alpn, Some(&admin)).await;
        for content in [WEB, WEB_TEXT] {
            let listed = page.call(LIST_NODES, content, Some(CONSOLE), &v1::ListNodesRequest::default()).await;
            assert!(has_nodes(1)(listed.message()));
            assert_eq!(listed.header("access-control-allow-origin"), Some(CONSOLE));
            assert_eq!(listed.header("access-control-allow-credentials"), Some("true"));
            assert!(listed.headers.get_all("vary").iter().any(|vary| vary.to_str().unwrap().contains("origin")));
            let exposed = listed.header("access-control-expose-headers").unwrap();
            for header in ["grpc-status", "grpc-message", "grpc-status-details-bin", "x-request-id"] {
                assert!(exposed.split(',').any(|known| known == header), "{exposed}");
                assert!(header != "x-request-id" || listed.header(header).is_some());
            }
        }
        let unknown = v1::GetJobRequest { job_id: "0".repeat(26), ..Default::default() };
        let missing = page.call(GET_JOB, WEB, Some(CONSOLE), &unknown).await;
        assert_eq!(missing.refusal(), (Code::NotFound, "JOB_NOT_FOUND".to_owned()));
        assert_eq!(missing.header("access-control-allow-origin"), Some(CONSOLE));
        // Whoever is no browser speaks gRPC-Web as well.
        assert!(has_nodes(1)(page.call(LIST_NODES, WEB, None, &v1::ListNodesRequest::default()).await.message()));

        let garbage = [("content-type", WEB_TEXT), ("origin", CONSOLE)];
        let garbage = page.ask(Method::POST, GET_JOB, &garbage, Bytes::from_static(b"no base64")).await;
        assert_eq!(garbage.refusal(), (Code::InvalidArgument, "MESSAGE_UNREADABLE".to_owned()));
    }
    server.stop().await;
}

#[tokio::test]
async fn pages_watch_over_either_http_until_the_server_goes_away() {
    let server = TestServer::start_with(&PAGES).await;
    server.enroll(&server.token("").await, "edge-1").await.unwrap();
    let mut jobs = JobServiceClient::new(server.first_admin().await);
    let spec = v1::AppSpec {
        name: "till".to_owned(),
        image: Some(v1::Image {
            source: Some(v1::image::Source::Reference("registry.example.com/till:1".to_owned())),
            ..Default::default()
        }),
        ..Default::default()
    };
    let targets = v1::Targets { node_names: vec!["edge-1".to_owned()], ..Default::default() };
    let order = v1::CreateJobRequest { spec: Some(spec), targets: Some(targets), ..Default::default() };
    let job_id = jobs.create_job(order).await.unwrap().into_inner().job.unwrap().job_id;

    let mut watching = Vec::new();
    for alpn in [H2, H1] {
        let mut page = server.browser(alpn, Some(&server.shows_admin())).await;
        let watch = framed(&v1::WatchJobRequest { job_id: job_id.clone(), ..Default::default() });
        let headers = [("content-type", WEB), ("origin", CONSOLE)];
        let request = page.request(Method::POST, "/longshore.v1.JobService/WatchJob", &headers, watch);
        let mut body = page.send(request).await.into_body();
        let mut first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let first = v1::WatchJobResponse::decode(unframed(&mut first).unwrap()).unwrap();
        assert_eq!(first.job.unwrap().state(), v1::JobState::Queued);
        watching.push((page, body));
    }
    jobs.stop_job(v1::StopJobRequest { job_id: job_id.clone(), ..Default::default() }).await.unwrap();
    for (_, body) in watching {
        let mut rest = body.collect().await.unwrap().to_bytes();
        let last = v1::WatchJobResponse::decode(unframed(&mut rest).unwrap()).unwrap();
        assert_eq!(last.job.unwrap().state(), v1::JobState::Stopped);
        assert!(unframed(&mut rest).unwrap_err().contains("grpc-status:0"));
    }

    // One that is open when the server goes away is told so, and holds nothing up.
    jobs.resume_job(v1::ResumeJobRequest { job_id: job_id.clone(), ..Default::default() }).await.unwrap();
    let mut page = server.browser(H1, Some(&server.shows_admin())).await;
    let watch = framed(&v1::WatchJobRequest { job_id, ..Default::default() });
    let headers = [("content-type", WEB), ("origin", CONSOLE)];
    let request = page.request(Method::POST, "/longshore.v1.JobService/WatchJob", &headers, watch);
    let mut body = page.send(request).await.into_body();
    body.frame().await.unwrap().unwrap();
    let (dir, rest) = tokio::join!(server.stop(), body.collect());
    assert!(unframed(&mut rest.unwrap().to_bytes()).unwrap_err().contains("grpc-status:14"));
    drop(dir);
}

/// Everything that can be called on either port.
fn everything() -> Vec<String> {
    let sets = [
        longshore_proto::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let files = sets.into_iter().flat_map(|set| FileDescriptorSet::decode(set).unwrap().file);
    let paths = |file: prost_types::FileDescriptorProto| {
        let package = file.package().to_owned();
        file.service.into_iter().flat_map(move |service| {
            let name = format!("/{package}.{}", service.name());
            service.method.into_iter().map(move |method| format!("{name}/{}", method.name())).collect::<Vec<_>>()
        })
    };
    files.flat_map(paths).collect()
}

#[tokio::test]
async fn without_a_certificate_no_call_is_answered_on_a_port_for_browsers() {
    let server = TestServer::start_with(&PAGES).await;
    let calls = everything();
    assert!(calls.len() > 40 && calls.iter().any(|path| path == CREATE_TOKEN), "{calls:?}");
    // Before the server's certificate is changed, and after: the next configuration asks no less.
    for round in 0..2 {
        for (alpn, content) in [(H2, NATIVE), (H2, WEB), (H2, WEB_TEXT), (H1, WEB), (H1, WEB_TEXT)] {
            let mut nobody = server.browser(alpn, None).await;
            for path in &calls {
                for origin in [None, Some(CONSOLE)] {
                    let answer = nobody.call(path, content, origin, &()).await;
                    let (code, reason) = answer.refusal();
                    if path == ENROLL {
                        assert_eq!(code, Code::Unimplemented, "it needs no certificate, and is not on this port");
                    } else {
                        assert_eq!((code, reason.as_str()), (Code::Unauthenticated, "CERTIFICATE_REQUIRED"), "{path}");
                    }
                    assert_eq!(answer.header("server"), None, "strangers are not told what serves");
                }
            }
        }
        if round == 0 {
            let old = server.shown(&server.api).await;
            let key = std::fs::read_to_string(server.file("server.key")).unwrap();
            let next = server.authority.renew_server(&["localhost".to_owned()], &key, Timestamp::now()).unwrap();
            std::fs::write(server.file("server.crt"), server.authority.chain(&next)).unwrap();
            server.reload.notify_one();
            server.other_than(&old).await;
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_port_for_browsers_knows_callers_as_well_as_any_other() {
    let server = TestServer::start_with(&PAGES).await;
    // A certificate that does not hold is refused at once, though none would be let in.
    let other = Authority::found(server.authority.trust_domain(), Timestamp::now()).unwrap().authority;
    let eve = other.issue_user("admin", Role::Admin, Timestamp::now()).unwrap();
    let eve = Shown { chain: other.chain(&eve.certificate), key: eve.key };
    let long_ago = Timestamp::now() - SignedDuration::from_hours(24 * 366);
    let late = server.authority.issue_user("admin", Role::Admin, long_ago).unwrap();
    let late = Shown { chain: server.authority.chain(&late.certificate), key: late.key };
    for alpn in [H2, H1] {
        for bad in [&eve, &late] {
            let mut browser = server.browser(alpn, Some(bad)).await;
            let request = browser.request(Method::OPTIONS, LIST_NODES, &[("origin", CONSOLE)], Bytes::new());
            assert!(browser.try_send(request).await.is_err());
        }
    }

    let viewer = server.shows("vic", v1::UserRole::Viewer).await;
    let node = server.shows_node("edge-1");
    let token = v1::CreateEnrollmentTokenRequest::default();
    let mut open = Vec::new();
    for alpn in [H2, H1] {
        let mut page = server.browser(alpn, Some(&viewer)).await;
        assert!(has_nodes(0)(page.call(LIST_NODES, WEB, Some(CONSOLE), &()).await.message()));
        let refused = page.call(CREATE_TOKEN, WEB, Some(CONSOLE), &token).await.refusal();
        assert_eq!(refused, (Code::PermissionDenied, "ROLE_REQUIRED".to_owned()));
        open.push(page);

        let mut machine = server.browser(alpn, Some(&node)).await;
        let refused = machine.call(LIST_NODES, WEB, None, &()).await.refusal();
        assert_eq!(refused, (Code::PermissionDenied, "ROLE_REQUIRED".to_owned()));
        // What agents call is not here, whoever asks.
        for path in everything().iter().filter(|path| path.contains(".AgentService/")) {
            let (code, reason) = machine.call(path, WEB, None, &()).await.refusal();
            assert!(code == Code::Unauthenticated && reason == "NODE_DELETED", "{path}: {code} {reason}");
        }
    }
    let enrolled = server.token("").await;
    server.enroll(&enrolled, "edge-1").await.unwrap();
    let mut machine = server.browser(H1, Some(&server.shows_node("edge-1"))).await;
    for path in everything().iter().filter(|path| path.contains(".AgentService/")) {
        assert_eq!(machine.call(path, WEB, None, &()).await.refusal().0, Code::Unimplemented, "{path}");
    }

    let mut users = UserServiceClient::new(server.first_admin().await);
    users.revoke_user(v1::RevokeUserRequest { name: "vic".to_owned(), ..Default::default() }).await.unwrap();
    for page in &mut open {
        let refused = page.call(LIST_NODES, WEB, Some(CONSOLE), &()).await.refusal();
        assert_eq!(refused, (Code::Unauthenticated, "USER_REVOKED".to_owned()));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_page_of_another_origin_changes_nothing_with_its_visitors_certificate() {
    let token = v1::CreateEnrollmentTokenRequest::default();
    for flags in [&PAGES[..], &[]] {
        let server = TestServer::start_with(flags).await;
        let admin = server.shows_admin();
        let pages: &[&[u8]] = if flags.is_empty() { &[H2] } else { &[H2, H1] };
        for alpn in pages {
            let mut page = server.browser(alpn, Some(&admin)).await;
            for origin in [EVIL, "null", "https://localhost"] {
                // What is sent without asking first, and what a browser would ask for.
                for content in ["text/plain", "application/x-www-form-urlencoded", WEB, WEB_TEXT, NATIVE] {
                    let answer = page.call(CREATE_TOKEN, content, Some(origin), &token).await;
                    assert_eq!(answer.header("access-control-allow-origin"), None);
                    let is_translated = content.starts_with("application/grpc-web");
                    if *alpn == H1 && !is_translated {
                        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{content}");
                        continue;
                    }
                    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{content}");
                    assert_eq!(answer.refusal(), (Code::PermissionDenied, "ORIGIN_NOT_ALLOWED".to_owned()));
                }
                let asked = page.preflight(CREATE_TOKEN, origin).await;
                assert_eq!(asked.header("access-control-allow-origin"), None);
            }
            for content in ["text/plain", "multipart/form-data"] {
                let answer = page.call(CREATE_TOKEN, content, None, &token).await;
                assert!(answer.status.is_client_error(), "a browser that names no origin: {}", answer.status);
            }
        }
        assert_eq!(server.tokens().await, 0);
        // The same call, by whom it is meant for.
        let mut program = server.browser(H2, Some(&admin)).await;
        let answer = program.call(CREATE_TOKEN, NATIVE, None, &token).await;
        assert_eq!(answer.header("grpc-status"), Some("0"));
        assert_eq!(server.tokens().await, 1);
        server.stop().await;
    }
}

#[tokio::test]
async fn ports_that_are_not_for_browsers_know_nothing_of_them() {
    let (with, without) = (TestServer::start_with(&PAGES).await, TestServer::start().await);
    for address in [&with.agents, &without.api, &without.agents] {
        assert!(stranger_with(address, H1, None).await.is_err(), "HTTP/1.1 is not spoken");
    }
    let token = with.token("").await;
    let made = make_key_and_csr().unwrap();
    let enroll = v1::EnrollRequest { token: token.to_string(), node_name: "edge-1".to_owned(), csr_der: made.csr_der };
    let mut page = Browser::connect(&with.agents, H2, None).await.unwrap();
    for content in [WEB, WEB_TEXT] {
        let answer = page.call(ENROLL, content, None, &enroll).await;
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(answer.refusal(), (Code::Unimplemented, "CONTENT_TYPE_UNSUPPORTED".to_owned()));
        let answer = page.call(ENROLL, content, Some(CONSOLE), &enroll).await;
        assert_eq!(answer.refusal(), (Code::PermissionDenied, "ORIGIN_NOT_ALLOWED".to_owned()));
    }
    let asked = page.preflight(ENROLL, CONSOLE).await;
    assert_eq!((asked.status, asked.header("access-control-allow-origin")), (StatusCode::FORBIDDEN, None));
    // Nothing of it spent the token.
    with.enroll(&token, "edge-1").await.unwrap();
    with.stop().await;
    without.stop().await;
}

/// A listener for browsers whose handler answers everything, with short deadlines.
async fn impatient(preface: Duration, head: Duration, anonymous: Duration) -> String {
    let dir = tempfile::tempdir().unwrap();
    pki::init(dir.path(), &NewPki::default(), Timestamp::now()).unwrap();
    let pki = pki::load(dir.path(), Timestamp::now()).unwrap();
    let tls = watch::Sender::new(browser_config(&pki.credentials, pki.authority.certificate()).unwrap()).subscribe();
    let accepting = Accepting::new(tls, pki.authority.trust_domain());
    let accepting = Accepting { preface_timeout: preface, anonymous_life: anonymous, ..accepting };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let handler = tower::service_fn(|_: Request<Body>| async { Ok(Response::new(Body::empty())) });
    tokio::spawn(async move {
        let http1 = Http1::new(handler, head, CancellationToken::new());
        let mut connections = accept(listener, accepting);
        while let Some(connection) = connections.next().await {
            http1.serve(connection.unwrap());
        }
    });
    address
}

#[tokio::test]
async fn connections_of_http_1_1_have_deadlines_and_limits() {
    let whole = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
    let cases = [
        // What is sent, and the beginning of the answer.
        ((SHORT, LONG, LONG), String::new(), ""),
        ((LONG, SHORT, LONG), "POST / HTT".to_owned(), ""),
        ((LONG, SHORT, LONG), whole.to_owned(), "HTTP/1.1 200 OK"),
        ((LONG, LONG, SHORT), whole.to_owned(), "HTTP/1.1 200 OK"),
        ((LONG, LONG, LONG), format!("POST / HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(20_000)), "HTTP/1.1 431 "),
        ((LONG, LONG, LONG), "nonsense\r\n\r\n".to_owned(), "HTTP/1.1 400 "),
    ];
    for ((preface, head, anonymous), text, expected) in cases {
        let address = impatient(preface, head, anonymous).await;
        let mut client = stranger_with(&address, H1, None).await.unwrap();
        client.write_all(text.as_bytes()).await.unwrap();
        // And then the end, clean or not.
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let first = answer.get(..expected.len());
        assert_eq!(first, Some(expected), "to {text:.40?}");
        assert!(!expected.is_empty() || answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
}
