//! The few lines of HTTP that the tests need.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: String,
}

/// Sends one request, `GET` or `POST`, from this network namespace.
pub async fn request(method: &str, address: SocketAddr, path: &str, body: &str) -> std::io::Result<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        parse(&text).ok_or_else(|| Error::new(ErrorKind::InvalidData, format!("not an answer: {text:?}")))
    };
    tokio::time::timeout(Duration::from_secs(10), exchange).await?
}

/// Sends a GET request.
pub async fn get(address: SocketAddr, path: &str) -> std::io::Result<Answer> {
    request("GET", address, path, "").await
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, body: body.to_owned() })
}

/// Serves a directory's files to browsers, until the runtime ends; `/` is its `index.html`.
pub fn serve(listener: TcpListener, directory: &Path) {
    let directory = directory.to_owned();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A browser opens connections that it does not use.
            tokio::spawn(serve_one(stream, directory.clone()));
        }
    });
}

async fn serve_one(mut stream: TcpStream, directory: PathBuf) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let line = String::from_utf8_lossy(&head);
    let name = line.split(' ').nth(1).map(|path| path.trim_start_matches('/')).unwrap_or_default();
    let name = if name.is_empty() { "index.html" } else { name };
    let kind = if name.ends_with(".js") { "text/javascript" } else { "text/html" };
    let (status, body) = match tokio::fs::read(directory.join(name)).await {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await
}
