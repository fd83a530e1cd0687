//! Asking a deployed app over HTTP whether it is there.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::error::Error;
use crate::text;

/// How long an app may take to answer: it is up already and has nothing to do.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read: far more than the demo's program says.
const MAX_ANSWER: u64 = 64 * 1024;

/// Sends `GET /` to a port of this machine and answers who is there: the first two lines that are not empty.
pub(super) async fn ask(port: u16) -> Result<String, Error> {
    let failed = |why: &str| Error::new(format!("http://127.0.0.1:{port}/ does not answer as it should: {why}"));
    match timeout(PATIENCE, get(port)).await {
        Ok(Ok(answer)) => body(&answer).map_err(|why| failed(&why)),
        Ok(Err(error)) => Err(failed(&error.to_string())),
        Err(_) => Err(failed("no answer in time")),
    }
}

async fn get(port: u16) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// The first two lines of the body of an answer with status 200 that are not empty.
fn body(answer: &[u8]) -> Result<String, String> {
    let answer = String::from_utf8_lossy(answer);
    let status = answer.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(format!("it says {status:?}"));
    }
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    let lines = body.lines().filter(|line| !line.trim().is_empty()).take(2);
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    Ok(text::one_line(&words.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_200_is_an_answer() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nhello\n\nhost    a-0\nmore"), Ok("hello host a-0".to_owned()));
        assert_eq!(body(b"HTTP/1.1 404 Not Found\r\n\r\n"), Err("it says \"HTTP/1.1 404 Not Found\"".to_owned()));
        assert_eq!(body(b""), Err("it says \"\"".to_owned()));
    }
}
