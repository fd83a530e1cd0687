//! `longshore port-forward`

mod carry;
mod ports;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use longshore_proto::v1;
use longshore_proto::v1::app_service_client::AppServiceClient;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use self::ports::Ports;
use super::Context;
use super::app::node_of;
use crate::client;
use crate::error::Error;
use crate::exit::Exit;
use crate::json::Json;

/// Connections at a time: half of what a server lets one node have, for somebody else to have some too. Those beyond wait.
const MAX_CONNECTIONS: u32 = 32;
/// Ports of one command line.
const MAX_PORTS: usize = 32;
/// Pause after the system refused a connection for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connect ports of this machine to ports of an instance of an app.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Connect TCP ports of this machine to ports of an instance of an app, until Ctrl-C, through the server and the \
                  agent's own connection to it: no port of the node need be open. Needs the role operator; each connection is \
                  in the audit log. Ports of the instance are those that its program listens on, whether they are mapped or \
                  not.",
    after_help = "Ports are spelled as kubectl has them: 8080:80 leads from 8080 here to 80 there, :80 takes a port here that is \
                  free, and 80 is the same on both sides."
)]
pub(crate) struct PortForward {
    /// The app's name.
    app: String,

    /// Which port here leads to which port there.
    #[arg(required = true, num_args = 1..=MAX_PORTS, value_name = "[LOCAL:]REMOTE")]
    ports: Vec<Ports>,

    /// The node; may be left out when only one has it.
    #[arg(long)]
    node: Option<String>,

    /// The instance, counted from 0.
    #[arg(long, default_value_t = 0)]
    instance: u32,

    /// Address of this machine to listen on; whoever reaches it reaches the app, as you.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    address: IpAddr,
}

/// A connection that somebody has made to a port of this machine.
struct Taken {
    stream: TcpStream,
    remote: u16,
    place: OwnedSemaphorePermit,
}

pub(super) async fn run(forward: PortForward, context: &mut Context<'_>) -> Result<Exit, Error> {
    let node_name = node_of(context, &forward.app, forward.node).await?;
    let start = v1::ForwardPortStart {
        node_name,
        app_name: forward.app,
        instance: forward.instance,
        port: 0,
        validate_only: true,
    };
    let apps = connect(context).await?;
    check(apps.clone(), &start).await?;
    let watch = |kind| signal(kind).map_err(|error| Error::io("cannot wait for signals", error));
    let (mut interrupt, mut terminate) = (watch(SignalKind::interrupt())?, watch(SignalKind::terminate())?);
    let listeners = listen(forward.address, &forward.ports).await?;
    let (taken, mut accepted) = mpsc::channel(1);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    let mut accepting = JoinSet::new();
    for (listener, local, remote) in listeners {
        show(context, local, remote)?;
        accepting.spawn(accept(listener, remote, Arc::clone(&places), taken.clone()));
    }
    // Everything is closed when these are dropped.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(Exit::Interrupted),
            _ = terminate.recv() => return Ok(Exit::Interrupted),
            Some(Taken { stream, remote, place }) = accepted.recv() => {
                let start = v1::ForwardPortStart { port: remote.into(), validate_only: false, ..start.clone() };
                let apps = apps.clone();
                connections.spawn(async move {
                    let carried = carry::carry(apps, start, stream).await;
                    drop(place);
                    (remote, carried)
                });
            }
            Some(ended) = connections.join_next() => {
                if let Ok((remote, Err(error))) = ended {
                    context.output.note(&format!("error: connection to port {remote}: {}", error.text()));
                }
            }
        }
    }
}

/// A connection to the server of its own, in which nobody who reads slowly here holds up the others.
async fn connect(context: &Context<'_>) -> Result<AppServiceClient<Channel>, Error> {
    let credentials = client::load(&context.connection.credentials())?;
    let channel = longshore_tls::connect_for_streams(&context.connection.server, &credentials, MAX_CONNECTIONS).await?;
    Ok(AppServiceClient::new(channel))
}

/// Lets the server say at once what would stand in the way of each connection.
async fn check(mut apps: AppServiceClient<Channel>, start: &v1::ForwardPortStart) -> Result<(), Error> {
    let message = Some(v1::forward_port_request::Message::Start(start.clone()));
    let asked = tokio_stream::once(v1::ForwardPortRequest { message });
    let mut answers = apps.forward_port(client::call(asked)).await?.into_inner();
    while answers.message().await?.is_some() {}
    Ok(())
}

/// Listens on all ports, and tells where each leads: one that is taken fails it, since scripts count on all of them.
async fn listen(address: IpAddr, ports: &[Ports]) -> Result<Vec<(TcpListener, SocketAddr, u16)>, Error> {
    let mut listeners = Vec::new();
    for Ports { local, remote } in ports {
        let wanted = SocketAddr::new(address, *local);
        let failed = |error| Error::io(format!("cannot listen on {wanted}"), error);
        let listener = TcpListener::bind(wanted).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        listeners.push((listener, local, *remote));
    }
    Ok(listeners)
}

fn show(context: &mut Context<'_>, local: SocketAddr, remote: u16) -> Result<(), Error> {
    let json = || {
        let fields = [("address", Json::Text(local.to_string())), ("port", Json::Unsigned(remote.into()))];
        Json::Object(fields.map(|(name, value)| (name.to_owned(), value)).into())
    };
    context.output.show_item(json, || format!("Forwarding from {local} -> {remote}").into_bytes())
}

async fn accept(listener: TcpListener, remote: u16, places: Arc<Semaphore>, taken: mpsc::Sender<Taken>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // One of each port waits here for a place, and the others in the system's queue.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        if taken.send(Taken { stream, remote, place }).await.is_err() {
            return;
        }
    }
}
