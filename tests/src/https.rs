//! An HTTPS server for what no real one does when asked: it gives tokens, sends elsewhere, or stands in front of a registry
//! and cuts, stalls and throttles what that one sends.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A request's head; bodies are not read.
#[derive(Clone, Debug)]
pub struct Request {
    /// Path and query.
    pub target: String,
    /// Headers as they came.
    pub head: String,
}

impl Request {
    /// The value of a header.
    pub fn header(&self, wanted: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
    }

    /// The value of a field of the query, decoded as far as registries need.
    pub fn query(&self, wanted: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        let (_, value) = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == wanted)?;
        Some(value.replace("%3A", ":").replace("%2F", "/").replace("%2C", ","))
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A status, headers and a body.
    Own(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// What the server behind says, by this way.
    Forward(Way),
}

/// How an answer's body comes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As fast as it comes.
    Free,
    /// Until so many bytes of it are through; then the connection is closed.
    Cut(u64),
    /// Until so many bytes of it are through; then nothing more comes.
    Stall(u64),
    /// So many bytes at once, with a pause after each.
    Drip(usize, Duration),
}

/// A server that answers as it is told, until it is dropped.
pub struct Https {
    address: SocketAddr,
    authority: Vec<u8>,
    seen: Arc<Mutex<Vec<Request>>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    _directory: tempfile::TempDir,
}

type Answer = Arc<dyn Fn(Request) -> BoxFuture<'static, Reply> + Send + Sync>;

struct Behind {
    address: String,
    connector: TlsConnector,
}

impl Https {
    /// Starts it on a free port of this address, with an authority of its own. `behind` is a registry's address and its
    /// authority, for answers that are forwarded.
    pub fn start<F>(
        address: IpAddr,
        behind: Option<(&str, &[u8])>,
        answer: impl Fn(Request) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        let directory = tempfile::tempdir().unwrap();
        let authority = crate::registry::certify(directory.path(), &[&address.to_string()]);
        let listener = TcpListener::bind((address, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = acceptor(directory.path());
        let behind = behind.map(|(address, authority)| {
            Arc::new(Behind { address: address.to_owned(), connector: connector(authority) })
        });
        let answer: Answer = Arc::new(move |request| Box::pin(answer(request)));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let requests = Arc::clone(&seen);
        // A thread of its own, which is in the same network as this one, and is not held up by what a test waits for.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = serve(listener, acceptor, behind, answer, requests) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, authority, seen, stop: Some(stop), _directory: directory }
    }

    /// Host and port.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The authority that its certificate is of, in PEM.
    pub fn authority(&self) -> &[u8] {
        &self.authority
    }

    /// The requests that have come, in order.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        // Its runtime, and with it every connection, ends with the thread.
        drop(self.stop.take());
    }
}

async fn serve(
    listener: tokio::net::TcpListener,
    acceptor: TlsAcceptor,
    behind: Option<Arc<Behind>>,
    answer: Answer,
    seen: Arc<Mutex<Vec<Request>>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, behind, answer, seen) =
            (acceptor.clone(), behind.clone(), Arc::clone(&answer), Arc::clone(&seen));
        // A client that hangs up is none of a test's business.
        tokio::spawn(async move {
            let mut stream = BufReader::new(acceptor.accept(stream).await?);
            let (line, head) = read_head(&mut stream).await?;
            let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
            let request = Request { target, head };
            seen.lock().unwrap().push(request.clone());
            match (answer(request.clone()).await, behind) {
                (Reply::Own(status, headers, body), _) => {
                    let mut text = format!("HTTP/1.1 {status} Said\r\nconnection: close\r\n");
                    text.push_str(&format!("content-length: {}\r\n", body.len()));
                    headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
                    stream.write_all(format!("{text}\r\n").as_bytes()).await?;
                    stream.write_all(&body).await?;
                }
                (Reply::Forward(way), Some(behind)) => forward(&mut stream, &behind, &line, &request, way).await?,
                (Reply::Forward(_), None) => panic!("there is nothing behind"),
            }
            stream.shutdown().await
        });
    }
}

/// The first line, and the headers, each with its end.
async fn read_head(stream: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<(String, String)> {
    let (mut line, mut head) = (String::new(), String::new());
    stream.read_line(&mut line).await?;
    loop {
        let start = head.len();
        if stream.read_line(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if head[start..].trim_end().is_empty() {
            head.truncate(start);
            return Ok((line.trim_end().to_owned(), head));
        }
    }
}

async fn forward(
    client: &mut (impl AsyncWriteExt + Unpin),
    behind: &Behind,
    line: &str,
    request: &Request,
    way: Way,
) -> io::Result<()> {
    let address: SocketAddr = behind.address.parse().map_err(io::Error::other)?;
    let name = ServerName::IpAddress(address.ip().into());
    let mut server = BufReader::new(behind.connector.connect(name, TcpStream::connect(address).await?).await?);
    let kept = request.head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let head: String = kept.map(|line| format!("{line}\r\n")).collect();
    server.write_all(format!("{line}\r\n{head}connection: close\r\n\r\n").as_bytes()).await?;
    let (status, head) = read_head(&mut server).await?;
    client.write_all(format!("{status}\r\n{head}\r\n").as_bytes()).await?;
    let mut buffer = vec![0; if let Way::Drip(bytes, _) = way { bytes } else { 64 * 1024 }];
    let mut through = 0;
    loop {
        let room = match way {
            Way::Cut(at) | Way::Stall(at) => usize::try_from(at - through).unwrap().min(buffer.len()),
            Way::Free | Way::Drip(..) => buffer.len(),
        };
        if room == 0 {
            client.flush().await?;
            if let Way::Stall(_) = way {
                std::future::pending::<()>().await;
            }
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let length = server.read(&mut buffer[..room]).await?;
        if length == 0 {
            return Ok(());
        }
        client.write_all(&buffer[..length]).await?;
        through += length as u64;
        if let Way::Drip(_, pause) = way {
            client.flush().await?;
            tokio::time::sleep(pause).await;
        }
    }
}

fn acceptor(directory: &Path) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(directory.join("server.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(directory.join("server.key")).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key);
    TlsAcceptor::from(Arc::new(config.unwrap()))
}

fn connector(authority: &[u8]) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}
