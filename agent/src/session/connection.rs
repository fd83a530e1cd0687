//! Carries one connection to a port of an instance over a channel, byte by byte in both directions.

use std::io;
use std::time::Duration;

use longshore_model::limits;
use longshore_proto::v1;
use longshore_proto::v1::open_channel_request::Message as Said;
use longshore_proto::v1::open_channel_response::Message as Heard;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::oneshot;
use tonic::Streaming;
use v1::ChannelRefusalReason as Refusal;

use super::channels::Say;
use crate::runtime::{InstanceKey, PortError, Runtime};

/// Why a connection ends before both sides have said all.
enum Broken {
    /// The instance has reset it.
    Reset(io::Error),
    /// The server has hung up.
    HungUp,
}

/// Connects, and carries what comes until both sides have ended.
pub(super) async fn run(
    say: &Say,
    runtime: &dyn Runtime,
    instance: &InstanceKey,
    port: u32,
    inbound: &mut Streaming<v1::OpenChannelResponse>,
) -> Result<(), String> {
    let Ok(port) = u16::try_from(port) else {
        return say.refused(Refusal::NotListening, format!("{port} is no port")).await;
    };
    let mut stream = match runtime.connect(instance, port).await {
        Ok(stream) => stream,
        Err(PortError::NotRunning(error)) => return say.refused(Refusal::NotRunning, error.message).await,
        Err(PortError::NotListening(message)) => return say.refused(Refusal::NotListening, message).await,
    };
    // Until it ends well: the instance is to see a reset, and no orderly end, whatever happens to us.
    let linger = |stream: &TcpStream, time| SockRef::from(stream).set_linger(time);
    let _ = linger(&stream, Some(Duration::ZERO));
    // Small messages must not wait for the other side's acknowledgement twice.
    let _ = stream.set_nodelay(true);
    say.message(Said::Begun(v1::ChannelBegun {})).await?;
    match carry(&mut stream, say, inbound).await {
        Ok(()) => {
            let _ = linger(&stream, None);
            say.message(Said::Closed(v1::ConnectionClosed {})).await
        }
        Err(Broken::Reset(error)) => {
            say.refused(Refusal::Reset, format!("the instance broke the connection off: {error}")).await
        }
        Err(Broken::HungUp) => Err("the server has hung up".to_owned()),
    }
}

async fn carry(
    stream: &mut TcpStream,
    say: &Say,
    inbound: &mut Streaming<v1::OpenChannelResponse>,
) -> Result<(), Broken> {
    let (read, write) = stream.split();
    let (ended, has_ended) = oneshot::channel();
    let both = async {
        outwards(read, say).await?;
        has_ended.await.map_err(|_| Broken::HungUp)
    };
    tokio::select! {
        done = both => done,
        broken = inwards(write, inbound, ended) => Err(broken),
        // Also while the instance takes nothing, and nothing is listened to.
        () = say.closed() => Err(Broken::HungUp),
    }
}

/// Says what the instance sends, as fast as it is taken, until it sends no more.
async fn outwards(mut read: ReadHalf<'_>, say: &Say) -> Result<(), Broken> {
    let mut buffer = vec![0; limits::MAX_CHANNEL_PIECE];
    loop {
        let message = match read.read(&mut buffer).await.map_err(Broken::Reset)? {
            0 => Said::DataEnd(v1::DataEnd {}),
            length => Said::Data(buffer[..length].to_vec()),
        };
        let is_end = matches!(message, Said::DataEnd(_));
        say.message(message).await.map_err(|_| Broken::HungUp)?;
        if is_end {
            return Ok(());
        }
    }
}

/// Hands on what comes for the instance, and tells when that has ended; goes on listening until the server hangs up.
async fn inwards(
    mut write: WriteHalf<'_>,
    inbound: &mut Streaming<v1::OpenChannelResponse>,
    ended: oneshot::Sender<()>,
) -> Broken {
    let mut ended = Some(ended);
    while let Ok(Some(v1::OpenChannelResponse { message })) = inbound.message().await {
        let done = match message {
            Some(Heard::Data(bytes)) if ended.is_some() => write.write_all(&bytes).await,
            Some(Heard::DataEnd(_)) => match ended.take() {
                Some(ended) => {
                    let done = write.shutdown().await;
                    let _ = ended.send(());
                    done
                }
                None => Ok(()),
            },
            // Nothing comes behind the end, and other kinds of messages are not for connections.
            _ => Ok(()),
        };
        if let Err(error) = done {
            return Broken::Reset(error);
        }
    }
    Broken::HungUp
}
