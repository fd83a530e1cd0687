//! One connection, from here to a port of an instance.

use std::time::Duration;

use longshore_proto::v1;
use longshore_proto::v1::app_service_client::AppServiceClient;
use longshore_tls::ConnectError;
use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tonic_types::StatusExt;
use v1::forward_port_request::Message as Asked;
use v1::forward_port_response::Message as Answered;

use crate::error::Error;
use crate::exit::Exit;

/// Bytes that are sent at once.
const PIECE: usize = 16 * 1024;
/// Messages that wait for the server.
const QUEUE: usize = 4;

/// Carries everything both ways until both sides have ended, or whoever has connected here is gone.
///
/// # Errors
///
/// There is no connection to the port, or it broke.
pub(super) async fn carry(
    mut apps: AppServiceClient<Channel>,
    start: v1::ForwardPortStart,
    mut stream: TcpStream,
) -> Result<(), Error> {
    // Until it ends well: whoever has connected here is to see a reset, and no orderly end, whatever happens to us.
    let _ = set_socket_linger(&stream, Some(Duration::ZERO));
    let _ = stream.set_nodelay(true);
    let (sender, requests) = mpsc::channel(QUEUE);
    let first = sender.send(v1::ForwardPortRequest { message: Some(Asked::Start(start)) });
    first.await.map_err(|_| Error::new("the call cannot begin"))?;
    let answers = apps.forward_port(ReceiverStream::new(requests)).await.map_err(broken)?.into_inner();
    let (read, write) = stream.split();
    tokio::select! {
        done = inwards(answers, write) => done?,
        () = outwards(read, sender) => return Ok(()),
    }
    let _ = set_socket_linger(&stream, None);
    Ok(())
}

/// What it means that a call does not go on. Each error of the server has a reason: what has none is a connection to it that broke.
fn broken(status: Status) -> Error {
    if status.get_details_error_info().is_some() || ConnectError::in_chain(&status).is_some() {
        return status.into();
    }
    Error::Plain { message: "the connection to the server broke".to_owned(), exit: Exit::Unreachable }
}

/// Hands on what the instance sends, as fast as it is taken here, until the call ends.
async fn inwards(mut answers: Streaming<v1::ForwardPortResponse>, mut write: WriteHalf<'_>) -> Result<(), Error> {
    while let Some(answer) = answers.message().await.map_err(broken)? {
        let done = match answer.message {
            Some(Answered::Data(bytes)) => write.write_all(&bytes).await,
            Some(Answered::DataEnd(_)) => write.shutdown().await,
            Some(Answered::Started(_)) | None => Ok(()),
        };
        if done.is_err() {
            // Whoever has connected here is gone, which is no error of ours.
            return Ok(());
        }
    }
    Ok(())
}

/// Sends what comes from here, as fast as the instance takes it, until no more does; returns only when the connection here broke.
async fn outwards(mut read: ReadHalf<'_>, sender: mpsc::Sender<v1::ForwardPortRequest>) {
    let mut buffer = vec![0; PIECE];
    loop {
        let length = match read.read(&mut buffer).await {
            Ok(length) => length,
            Err(_) => return,
        };
        let message = match length {
            0 => Asked::DataEnd(v1::DataEnd {}),
            length => Asked::Data(buffer[..length].to_vec()),
        };
        // A call that is over says so by its answers.
        if sender.send(v1::ForwardPortRequest { message: Some(message) }).await.is_err() || length == 0 {
            return std::future::pending().await;
        }
    }
}
