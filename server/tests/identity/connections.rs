//! What a listener does with connections, one by one and by the hundred.

use longshore_server::listen::{Accepting, MAX_HANDSHAKES, accept, bind};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;

use super::clients::stranger;
use super::*;

/// A listener with short deadlines, and how many connections it handed out.
async fn impatient(handshake: Duration, preface: Duration, anonymous: Duration) -> (String, Pin, mpsc::Receiver<()>) {
    let dir = tempfile::tempdir().unwrap();
    pki::init(dir.path(), &NewPki::default(), Timestamp::now()).unwrap();
    let pki = pki::load(dir.path(), Timestamp::now()).unwrap();
    let tls = server_config(&pki.credentials, pki.authority.certificate(), ClientCertificates::Optional).unwrap();
    let accepting = Accepting {
        handshake_timeout: handshake,
        preface_timeout: preface,
        anonymous_life: anonymous,
        ..Accepting::new(watch::Sender::new(tls).subscribe(), pki.authority.trust_domain())
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let (accepted, seen) = mpsc::channel(8);
    tokio::spawn(async move {
        let mut connections = accept(listener, accepting);
        while let Some(connection) = connections.next().await {
            let mut connection = connection.unwrap();
            accepted.send(()).await.unwrap();
            // An empty SETTINGS frame, then whatever comes: as HTTP/2 would.
            connection.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            connection.flush().await.unwrap();
            tokio::spawn(async move { connection.read_to_end(&mut Vec::new()).await });
        }
    });
    (address, pki.pin, seen)
}

#[tokio::test]
async fn a_silent_tcp_connection_is_closed_at_the_handshakes_deadline() {
    let (address, pin, mut seen) = impatient(SHORT, LONG, LONG).await;
    let mut silent = TcpStream::connect(&address).await.unwrap();
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(seen.try_recv().is_err());
    // Others are served meanwhile and after.
    connect_pinned(&address, pin).await.unwrap();
    assert!(seen.recv().await.is_some());
}

#[tokio::test]
async fn a_client_that_does_not_speak_http_2_is_closed() {
    let (address, _, mut seen) = impatient(LONG, SHORT, LONG).await;
    let mut silent = stranger(&address, &[kx_group::X25519]).await;
    assert!(seen.recv().await.is_some());
    // The frame that it is greeted with, and then the end, clean or not.
    let mut greeting = Vec::new();
    let _ = silent.read_to_end(&mut greeting).await;
    assert_eq!(greeting.len(), 9);
}

#[tokio::test]
async fn a_client_that_nobody_knows_may_not_stay() {
    let (address, _, mut seen) = impatient(LONG, LONG, SHORT).await;
    let mut nobody = stranger(&address, &[kx_group::X25519]).await;
    nobody.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    assert!(seen.recv().await.is_some());
    let mut greeting = Vec::new();
    let _ = nobody.read_to_end(&mut greeting).await;
    assert_eq!(greeting.len(), 9);
}

#[tokio::test]
async fn a_request_larger_than_the_burst_of_a_connection_still_arrives() {
    let server = TestServer::start().await;
    let mut jobs = JobServiceClient::new(server.people(Role::Admin).await);
    let long = "x".repeat(1_300_000);
    let request = v1::GetJobRequest { job_id: long, ..Default::default() };
    let started = std::time::Instant::now();
    assert_eq!(jobs.get_job(request).await.unwrap_err().code(), Code::InvalidArgument);
    // 1.3 MB less a burst of 1 MiB, at 256 KiB a second.
    assert!(started.elapsed() > Duration::from_millis(700), "{:?}", started.elapsed());
    server.stop().await;
}

/// Lets this process have as many descriptors as it may: both ends of every connection are its own.
fn raise_descriptor_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

#[tokio::test]
async fn those_who_keep_quiet_keep_nobody_out() {
    raise_descriptor_limit();
    let (address, pin, mut seen) = impatient(LONG, LONG, LONG).await;
    let mut silent = Vec::new();
    for _ in 0..=MAX_HANDSHAKES {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    connect_pinned(&address, pin).await.unwrap();
    assert!(seen.recv().await.is_some());
}

#[tokio::test]
async fn a_fleet_may_dial_before_anybody_accepts() {
    raise_descriptor_limit();
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let limit: usize = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    // More than the usual backlog of 1024, where the kernel allows it.
    let count = limit.min(1500);
    let mut dialled = Vec::new();
    for _ in 0..count {
        dialled.push(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
    }
    for _ in 0..count {
        listener.accept().await.unwrap();
    }
}
