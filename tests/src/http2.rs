//! HTTP/2 frame by frame, for what no well-behaved client sends.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::wait::PATIENCE;

/// With this every client begins.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
pub mod kind {
    /// A part of a body.
    pub const DATA: u8 = 0;
    /// The beginning of a request or an answer.
    pub const HEADERS: u8 = 1;
    /// Weights that nobody heeds any more.
    pub const PRIORITY: u8 = 2;
    /// The end of a stream by force.
    pub const RST_STREAM: u8 = 3;
    /// What the sender wants or bears.
    pub const SETTINGS: u8 = 4;
    /// A question that is answered with the same bytes.
    pub const PING: u8 = 6;
    /// The end of the connection.
    pub const GOAWAY: u8 = 7;
    /// More of the headers before.
    pub const CONTINUATION: u8 = 9;
}

/// Of a SETTINGS or PING frame: it answers one.
pub const ACK: u8 = 1;
/// Of a HEADERS or DATA frame: nothing more comes on this stream.
pub const END_STREAM: u8 = 1;
/// Of a HEADERS frame: no CONTINUATION comes.
pub const END_HEADERS: u8 = 4;
/// Error code: the stream was not looked at.
pub const REFUSED_STREAM: u32 = 7;
/// Setting: streams that may be open at once.
pub const MAX_CONCURRENT_STREAMS: u16 = 3;
/// Setting: bytes that may be sent on a stream unasked.
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// A frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
    /// What is in it.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame.
    pub fn new(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        Self { kind, flags, stream, payload: payload.to_vec() }
    }

    /// Settings.
    pub fn settings(settings: &[(u16, u32)]) -> Self {
        let entry = |(name, value): &(u16, u32)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
        Self::new(kind::SETTINGS, 0, 0, &settings.iter().flat_map(entry).collect::<Vec<_>>())
    }

    /// The beginning of a call.
    pub fn call(stream: u32, path: &str) -> Self {
        let mut headers = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "https"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            // A field as it is, that is not to be remembered (RFC 7541, 6.2.2).
            headers.push(0);
            for text in [name, value] {
                headers.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).unwrap());
                headers.extend_from_slice(text.as_bytes());
            }
        }
        Self::new(kind::HEADERS, END_HEADERS, stream, &headers)
    }

    /// A message of gRPC.
    pub fn message(stream: u32, message: &[u8]) -> Self {
        Self::new(kind::DATA, 0, stream, &framed(message))
    }

    /// The same frame, after which nothing more comes on its stream.
    #[must_use]
    pub fn last(mut self) -> Self {
        self.flags |= END_STREAM;
        self
    }

    /// As it is sent.
    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[self.kind, self.flags], &self.stream.to_be_bytes(), &self.payload].concat()
    }

    /// The value of a setting.
    pub fn setting(&self, name: u16) -> Option<u32> {
        let found = self.payload.chunks_exact(6).find(|entry| entry[..2] == name.to_be_bytes());
        found.map(|entry| u32::from_be_bytes(entry[2..].try_into().unwrap()))
    }

    /// The error code of a RST_STREAM.
    pub fn error(&self) -> u32 {
        u32::from_be_bytes(self.payload[..4].try_into().unwrap())
    }
}

/// A certificate chain, its key, and the root: paths of PEM files.
#[derive(Clone, Copy, Debug)]
pub struct Pem<'a> {
    /// The root.
    pub root: &'a Path,
    /// Chain and key, where a certificate is shown.
    pub pair: Option<(&'a Path, &'a Path)>,
}

/// Shakes hands, and says nothing after that.
///
/// # Errors
///
/// The server does not want to.
pub async fn tls(address: &str, pem: Pem<'_>) -> io::Result<TlsStream<TcpStream>> {
    let certificates = |path: &Path| -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect()
    };
    let mut roots = RootCertStore::empty();
    roots.add(certificates(pem.root).remove(0)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
    let config = config.unwrap().with_root_certificates(roots);
    let mut config = match pem.pair {
        None => config.with_no_client_auth(),
        Some((chain, key)) => {
            config.with_client_auth_cert(certificates(chain), PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let host = address.rsplit_once(':').unwrap().0.to_owned();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(host).unwrap(), tcp).await
}

/// What is sent.
#[derive(Debug)]
pub struct Sender(WriteHalf<TlsStream<TcpStream>>);

/// What is received.
#[derive(Debug)]
pub struct Receiver(ReadHalf<TlsStream<TcpStream>>);

/// A message as gRPC frames it: uncompressed, with its length.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat()
}

/// Takes the two directions apart; nothing is said before [`Sender::greet`].
pub fn begin(tls: TlsStream<TcpStream>) -> (Sender, Receiver) {
    let (receiver, sender) = tokio::io::split(tls);
    (Sender(sender), Receiver(receiver))
}

impl Sender {
    /// Sends the preface and settings.
    ///
    /// # Errors
    ///
    /// The connection is over.
    pub async fn greet(&mut self, settings: &[(u16, u32)]) -> io::Result<()> {
        self.send_bytes(&[PREFACE, &Frame::settings(settings).bytes()[..]].concat()).await
    }

    /// Sends a frame.
    ///
    /// # Errors
    ///
    /// The connection is over.
    pub async fn send(&mut self, frame: Frame) -> io::Result<()> {
        self.send_bytes(&frame.bytes()).await
    }

    /// Sends frames as they are.
    ///
    /// # Errors
    ///
    /// The connection is over.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }
}

impl Receiver {
    /// The next frame; `None` at the end of the connection, clean or not.
    ///
    /// # Panics
    ///
    /// Nothing comes, not even the end.
    pub async fn next(&mut self) -> Option<Frame> {
        timeout(PATIENCE, self.read()).await.expect("neither a frame nor the end came")
    }

    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame for which this holds; `None` when the connection ends before.
    pub async fn find(&mut self, is_it: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if is_it(&frame) {
                return Some(frame);
            }
        }
    }
}
