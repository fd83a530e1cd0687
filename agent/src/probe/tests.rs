#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use longshore_model::probe::{Header, HttpGet, Scheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Answers one connection with these bytes, and returns what it sent.
async fn answering(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut buffer = [0; 1024];
            let length = stream.read(&mut buffer).await.unwrap();
            assert!(length > 0, "the request has no end");
            request.extend_from_slice(&buffer[..length]);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(request).unwrap()
    });
    (port, served)
}

fn get(port: u16) -> HttpGet {
    HttpGet { scheme: Scheme::Http, host: None, port, path: "/".to_owned(), http_headers: Vec::new() }
}

async fn asked(action: Action) -> Answer {
    ask(&Probe { timeout: Duration::from_secs(30), ..Probe::new(action) }, Network::Node).await
}

#[tokio::test]
async fn statuses_from_200_to_399_are_successes_and_redirects_are_not_followed() {
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", Answer::passed("HTTP 200")),
        ("HTTP/1.0 204 No Content\r\n\r\n", Answer::passed("HTTP 204")),
        ("HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n", Answer::passed("HTTP 302")),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 399 Odd\r\n\r\n", Answer::passed("HTTP 399")),
        ("HTTP/1.1 404 Not Found\r\n\r\n", Answer::failed("HTTP 404")),
        ("HTTP/1.1 503 Later\r\n\r\n", Answer::failed("HTTP 503")),
    ] {
        let (port, served) = answering(answer).await;
        assert_eq!(asked(Action::HttpGet(get(port))).await, expected, "{answer}");
        served.await.unwrap();
    }
    let (port, _served) = answering("SSH-2.0-x\r\n").await;
    let answer = asked(Action::HttpGet(get(port))).await;
    assert!(!answer.passed && answer.message.starts_with("no HTTP: "), "{answer:?}");
}

#[tokio::test]
async fn a_request_is_what_the_probe_says() {
    let (port, served) = answering("HTTP/1.1 200 OK\r\n\r\n").await;
    let header = |name: &str, value: &str| Header { name: name.to_owned(), value: value.to_owned() };
    let http_headers = vec![header("host", "till.example"), header("X-A", "1"), header("x-a", "2")];
    asked(Action::HttpGet(HttpGet { path: "/a?b=%20".to_owned(), http_headers, ..get(port) })).await;
    let request = served.await.unwrap();
    let mut lines: Vec<&str> = request.trim_end().lines().collect();
    assert_eq!(lines.remove(0), "GET /a?b=%20 HTTP/1.1");
    lines.sort_unstable();
    let agent = format!("user-agent: longshore-probe/{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(lines, ["connection: close", "host: till.example", &agent, "x-a: 1", "x-a: 2"]);
}

#[tokio::test]
async fn any_certificate_will_do() {
    let made = rcgen::generate_simple_self_signed(["somebody-else.example".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = rustls::ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
        // Held until the probe has gone, so that what it has not read does not reset the connection.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let https = HttpGet { scheme: Scheme::Https, ..get(port) };
    assert_eq!(asked(Action::HttpGet(https)).await, Answer::passed("HTTP 200"));
    served.await.unwrap();
    let (port, _served) = answering("HTTP/1.1 200 OK\r\n\r\n").await;
    let plain = asked(Action::HttpGet(HttpGet { scheme: Scheme::Https, ..get(port) }));
    assert!(!plain.await.passed, "a server in the clear speaks no TLS");
}

#[tokio::test]
async fn who_does_not_listen_refuses_and_who_is_silent_is_not_waited_for() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let socket = Action::TcpSocket(TcpSocket { host: None, port });
    assert_eq!(asked(socket.clone()).await, Answer::passed("connected"));
    let named = Action::TcpSocket(TcpSocket { host: Some("localhost".to_owned()), port });
    assert_eq!(asked(named).await, Answer::passed("connected"));
    let silent = Probe { timeout: Duration::from_millis(100), ..Probe::new(Action::HttpGet(get(port))) };
    assert_eq!(ask(&silent, Network::Node).await, Answer::failed("no answer within 100ms"));
    drop(listener);
    assert_eq!(asked(socket).await, Answer::failed("connection refused"));
    assert_eq!(asked(Action::HttpGet(get(port))).await, Answer::failed("connection refused"));
}
