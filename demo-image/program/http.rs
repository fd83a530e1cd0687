//! A small HTTP/1.1 server: one request per connection, one thread per connection.
//!
//! ```text
//! GET  /                    who answers, in words
//! GET  /healthz             200
//! GET  /args                the program's words, one a line
//! GET  /started             when the server started, in nanoseconds since 1970: another number is another process
//! GET  /env/NAME            an environment variable, or 404
//! GET  /read?path=P         a file's content, or 404
//! GET  /fetch?from=IP:PORT  what another server answers to GET /, or 502
//! POST /write?path=P        writes the body to a file
//! POST /print?to=stderr     prints the body to standard error, or else to standard output
//! POST /exit?code=N         answers, then ends the process
//! POST /eat?bytes=N         takes that much memory, keeps it, then answers
//! ```

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of a request's first line and headers: far more than any client of a demo sends.
const MAX_HEAD: u64 = 16 * 1024;
/// Bytes of a request's body, which is held in memory.
const MAX_BODY: u64 = 1024 * 1024;
/// Time for a client to send its request and take its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time for another server to take a connection, and for each part of its answer.
const FETCH_PATIENCE: Duration = Duration::from_secs(2);

/// When the server started.
static STARTED: OnceLock<Duration> = OnceLock::new();

/// Answers requests for ever.
pub(crate) fn serve(listener: &TcpListener) {
    started();
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => {
                thread::spawn(move || {
                    // A client that breaks off is no trouble of ours.
                    let _ = converse(&stream);
                });
            }
            Err(error) => eprintln!("app: cannot accept: {error}"),
        }
    }
}

fn started() -> Duration {
    *STARTED.get_or_init(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn converse(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let answer = match Request::read(stream)? {
        Some(request) => answer(&request),
        None => Answer::text(400, "that is not a request"),
    };
    let mut to = stream;
    write!(
        to,
        "HTTP/1.1 {} {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        answer.status,
        reason(answer.status),
        answer.body.len(),
    )?;
    to.write_all(&answer.body)?;
    to.flush()?;
    if let Some(code) = answer.then_exit {
        std::process::exit(code);
    }
    Ok(())
}

#[derive(Debug, Default, PartialEq)]
struct Request {
    method: String,
    path: String,
    query: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// Reads one request; `None` when the client sends something else.
    fn read(from: impl Read) -> io::Result<Option<Self>> {
        let mut head = BufReader::new(from).take(MAX_HEAD);
        let mut line = String::new();
        head.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request = Self {
            method: method.to_owned(),
            path: decode(path),
            query: query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .map(|(k, v)| (decode(k), decode(v)))
                .collect(),
            body: Vec::new(),
        };

        let mut length = 0;
        loop {
            let mut line = String::new();
            head.read_line(&mut line)?;
            let Some((name, value)) = line.split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                let Ok(value) = value.trim().parse() else { return Ok(None) };
                length = value;
            }
        }
        if length > MAX_BODY {
            return Ok(None);
        }
        head.into_inner().take(length).read_to_end(&mut request.body)?;
        Ok(Some(request))
    }

    fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.query(name).and_then(|value| value.parse().ok())
    }
}

/// Undoes `%xx`; what is not valid stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match hex.filter(|_| first == b'%').and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

struct Answer {
    status: u16,
    body: Vec<u8>,
    then_exit: Option<i32>,
}

impl Answer {
    fn bytes(status: u16, body: Vec<u8>) -> Self {
        Self { status, body, then_exit: None }
    }

    fn text(status: u16, text: impl Into<String>) -> Self {
        Self::bytes(status, (text.into() + "\n").into_bytes())
    }

    fn of_io<T>(result: io::Result<T>, answer: impl FnOnce(T) -> Self) -> Self {
        match result {
            Ok(value) => answer(value),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::text(404, error.to_string()),
            Err(error) => Self::text(500, error.to_string()),
        }
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        502 => "Bad Gateway",
        _ => "Internal Server Error",
    }
}

fn answer(request: &Request) -> Answer {
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/") => Answer::text(200, greeting()),
        ("GET", "/healthz") => Answer::text(200, "ok"),
        ("GET", "/args") => Answer::text(200, std::env::args().collect::<Vec<_>>().join("\n")),
        ("GET", "/started") => Answer::text(200, started().as_nanos().to_string()),
        ("GET", "/read") => file(request, |path| Answer::of_io(fs::read(path), |content| Answer::bytes(200, content))),
        ("GET", "/fetch") => match request.number("from") {
            Some(address) => match fetch(address) {
                Ok(body) => Answer::bytes(200, body),
                Err(error) => Answer::text(502, error.to_string()),
            },
            None => Answer::text(400, "from is missing"),
        },
        ("POST", "/write") => {
            file(request, |path| Answer::of_io(fs::write(path, &request.body), |()| Answer::text(200, "written")))
        }
        ("POST", "/print") => {
            let line = String::from_utf8_lossy(&request.body);
            if request.query("to") == Some("stderr") {
                eprintln!("{line}")
            } else {
                println!("{line}")
            }
            Answer::text(200, "printed")
        }
        ("POST", "/exit") => match request.number("code") {
            Some(code) => Answer { then_exit: Some(code), ..Answer::text(200, "ending") },
            None => Answer::text(400, "code is missing"),
        },
        ("POST", "/eat") => match request.number("bytes") {
            Some(bytes) => {
                std::mem::forget(crate::eat(bytes));
                Answer::text(200, "eaten")
            }
            None => Answer::text(400, "bytes is missing"),
        },
        ("GET", path) => match path.strip_prefix("/env/") {
            Some(name) => match std::env::var(name) {
                Ok(value) => Answer::text(200, value),
                Err(_) => Answer::text(404, "not set"),
            },
            None => Answer::text(404, "nothing here"),
        },
        _ => Answer::text(404, "nothing here"),
    }
}

/// What another server says, with its headers.
fn fetch(address: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, FETCH_PATIENCE)?;
    stream.set_read_timeout(Some(FETCH_PATIENCE))?;
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut body = Vec::new();
    stream.take(MAX_BODY).read_to_end(&mut body)?;
    Ok(body)
}

fn file(request: &Request, act: impl FnOnce(&str) -> Answer) -> Answer {
    request.query("path").map_or_else(|| Answer::text(400, "path is missing"), act)
}

fn greeting() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let words: Vec<String> = std::env::args().collect();
    format!(
        "Hello from a Longshore container.\n\nhost    {}\nprocess {}\ncommand {}",
        host.trim(),
        std::process::id(),
        words.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_with_its_query_and_body() -> io::Result<()> {
        let text = "POST /write?path=%2Fdata%2Fa&x=1%zz HTTP/1.1\r\nHost: h\r\ncontent-length: 3\r\n\r\nabcdef";
        let request = Request::read(text.as_bytes())?.unwrap_or_default();
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/write"));
        assert_eq!(request.query("path"), Some("/data/a"));
        assert_eq!(request.query("x"), Some("1%zz"));
        assert_eq!(request.body, b"abc");
        Ok(())
    }

    #[test]
    fn nonsense_and_great_bodies_are_no_requests() -> io::Result<()> {
        let great = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", MAX_BODY + 1);
        for text in ["", "\r\n", "GET\r\n\r\n", &great, "GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"] {
            assert_eq!(Request::read(text.as_bytes())?, None, "{text:?}");
        }
        Ok(())
    }
}
