//! The plain HTTP listener that Prometheus asks.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// What is answered.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Where it is answered.
const PATH: &str = "/metrics";
/// Connections at once: a Prometheus or two, and somebody who looks. The rest waits in the kernel's queue.
const MAX_CONNECTIONS: usize = 16;
/// Life of a connection: a scrape takes milliseconds, and Prometheus gives it up after 10 s by default.
const LIFE: Duration = Duration::from_secs(15);
/// Bytes of a request's line and headers.
const MAX_HEADERS: usize = 16 * 1024;
/// Pause after `accept` failed, as when descriptors run out.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Gives the text of a scrape.
pub type Scrape = Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>;

/// Answers `GET /metrics` until `shutdown`; what is being answered then is cut off.
pub async fn serve(listener: TcpListener, scrape: Scrape, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = async {
                let place = Arc::clone(&places).acquire_owned().await.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>((listener.accept().await?.0, place))
            } => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let (scrape, shutdown) = (Arc::clone(&scrape), shutdown.clone());
                tokio::spawn(async move {
                    let _place = place;
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        () = connection(stream, scrape) => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections for metrics");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, scrape: Scrape) {
    let service = service_fn(move |request| answer(request, Arc::clone(&scrape)));
    let mut server = http1::Builder::new();
    // One scrape for each connection: nothing is gained by keeping it, and it need not be watched.
    server.keep_alive(false).max_buf_size(MAX_HEADERS);
    let served = tokio::time::timeout(LIFE, server.serve_connection(TokioIo::new(stream), service)).await;
    match served {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a scrape failed"),
        Err(_) => tracing::debug!("a scrape took too long"),
    }
}

async fn answer(request: Request<Incoming>, scrape: Scrape) -> Result<Response<String>, Infallible> {
    let mut response = Response::new(String::new());
    match (request.method(), request.uri().path()) {
        (&Method::GET, PATH) => {
            *response.body_mut() = scrape().await;
            response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(CONTENT_TYPE));
        }
        (_, PATH) => *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED,
        _ => {
            *response.status_mut() = StatusCode::NOT_FOUND;
            *response.body_mut() = format!("metrics are at {PATH}\n");
        }
    }
    Ok(response)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn ask(request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let scrape: Scrape = Arc::new(|| Box::pin(async { "a 1\n# EOF\n".to_owned() }));
        let serving = tokio::spawn(serve(listener, scrape, shutdown.clone()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        shutdown.cancel();
        serving.await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_scrape_is_answered_and_nothing_else() {
        let answer = ask("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("a 1\n# EOF\n"), "{answer}");
        assert!(answer.contains(CONTENT_TYPE), "{answer}");
        assert!(ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
        assert!(
            ask("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await.starts_with("HTTP/1.1 405 ")
        );
        assert!(ask("\u{16}\u{3} this is no HTTP\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_closed() {
        assert_eq!(ask("GET /metr").await, "");
    }
}
