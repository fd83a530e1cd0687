//! A server's life: from bound listeners to the last answer.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use longshore_model::user::User;
use longshore_proto::v1::enrollment_service_server::EnrollmentServiceServer;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tower::ServiceBuilder;
use tower::util::MapResponseLayer;

use crate::api::calls::CallLayer;
use crate::api::observe::{CallMetrics, ObserveLayer};
use crate::api::record::RecordLayer;
use crate::config::Config;
use crate::identity::own::{OwnCertificate, OwnError};
use crate::identity::users::Users;
use crate::identity::{AccessLayer, Enrollment};
use crate::listen::{self, Accepting, ConnectionMetrics, HEAD_TIMEOUT, Http1, accept};
use crate::live::Live;
use crate::metrics::{self, Sources};
use crate::retention;
use crate::services::{Backstage, Services};
use crate::store::{SqliteStore, Store, StoreError};
use crate::vault::Vault;
use crate::version::name_version;
use crate::web::{self, GuardLayer, Origin};

/// Time for everything to end after a signal; what has not ended then is cut off.
pub const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);
/// Part of it for sessions and watches; the rest is for the connections and the store.
const DRAIN_LIMIT: Duration = Duration::from_secs(6);
/// Streams of one connection of people: a CLI needs a few, a dashboard some dozens.
const MAX_API_STREAMS: u32 = 100;
/// Streams of one agent's connection: its session and short calls, or the logs that are read of it.
const MAX_AGENT_STREAMS: u32 = 16;
/// Bytes that a stream may have on its way while nobody takes them, so that one that stalls is bounded. A connection has room
/// for all of its streams at once: else a few that stall, such as logs that nobody reads on, would hold up all the others.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Bytes of a request's headers that HTTP/2 takes at all. What is above our own limit and below this one is answered as
/// gRPC answers; what is above both only by HTTP's status 431, which clients make UNKNOWN of.
const MAX_HEADER_LIST: u32 = 32 * 1024;
const _: () = assert!(MAX_HEADER_LIST as usize > web::MAX_HEADERS);
/// Bytes of an enrolment request: a token, a name, and a certificate request.
const MAX_ENROLL_REQUEST: usize = 16 * 1024;
/// Time between HTTP/2 PINGs; each costs some 100 µs, and an agent's own notice a lost server sooner.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// Time for the answer to a PING.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// File in the data directory that tells where a running server listens.
const ADDRESSES_FILE: &str = "addresses.json";
/// File in the data directory that holds everything that is remembered.
pub(crate) const STORE_FILE: &str = "longshore.db";

/// Why a server did not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The store cannot be opened.
    #[error("cannot open the store")]
    Store(#[source] StoreError),
    /// The server's own certificate cannot be used, or TLS not be set up.
    #[error("cannot set up TLS")]
    Tls(#[from] OwnError),
    /// Reflection cannot be set up.
    #[error("cannot set up reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The file of addresses cannot be written.
    #[error("cannot write {}", path.display())]
    Addresses {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A listener ended by itself.
    #[error("a listener failed")]
    Listener(#[from] tonic::transport::Error),
    /// The store's writer ended by itself: nothing can be kept any more.
    #[error("the store has ended")]
    StoreEnded,
    /// A task of the server panicked.
    #[error("a part of the server ended by a panic")]
    Panicked(#[from] tokio::task::JoinError),
}

/// The bound sockets: one for people, one for agents.
#[derive(Debug)]
pub struct Listeners {
    /// For people.
    pub api: TcpListener,
    /// For agents.
    pub agents: TcpListener,
    /// For Prometheus.
    pub metrics: Option<TcpListener>,
}

impl Listeners {
    /// Binds both, after it has removed the file in which a server that was killed says where it listened.
    ///
    /// # Errors
    ///
    /// An address is in use or not this machine's.
    pub async fn bind(config: &Config) -> Result<Self, ServeError> {
        Addresses::forget(&config.data_dir);
        let bind = |address| listen::bind(address).map_err(|source| ServeError::Bind { address, source });
        let metrics = match config.metrics_listen {
            Some(address) => Some(bind(address)?),
            None => None,
        };
        Ok(Self { api: bind(config.api_listen)?, agents: bind(config.agent_listen)?, metrics })
    }
}

/// Serves until `shutdown` is cancelled or a listener fails, then ends everything within [`SHUTDOWN_LIMIT`].
///
/// Dropping the future leaves connections to end by themselves.
///
/// # Errors
///
/// Whatever kept it from serving.
pub async fn run(config: Config, listeners: Listeners, shutdown: CancellationToken) -> Result<(), ServeError> {
    let live = Arc::new(Live::default());
    let observer = Arc::clone(&live);
    let store = SqliteStore::open(&config.data_dir.join(STORE_FILE), observer).map_err(ServeError::Store)?;
    let trust_domain = config.pki.authority.trust_domain().to_owned();
    let authority = Arc::new(config.pki.authority.with_node_life(config.node_certificate_life));
    let browsers = !config.cors_origins.is_empty();
    let own = OwnCertificate::load(&config.data_dir, Arc::clone(&authority), browsers, Timestamp::now())?;
    let sources = Sources {
        store: Arc::new(store),
        live: Arc::clone(&live),
        calls: CallMetrics::default(),
        connections: ConnectionMetrics::default(),
        certificates: metrics::expiries(&authority, own.expiry()),
    };
    let store: Arc<dyn Store> = Arc::<SqliteStore>::clone(&sources.store);
    let users = remember_users(&*store, &live, config.pki.first_admin).await?;
    let vault = Arc::new(Vault::new(&config.data_dir));
    let Services { people, agents, backstage } =
        Services::new(Arc::clone(&store), live, config.pki.pin, Arc::clone(&authority), vault)?;

    let enrollment = Enrollment::new(Arc::clone(&store), authority);
    let enrollment = EnrollmentServiceServer::new(enrollment).max_decoding_message_size(MAX_ENROLL_REQUEST);
    let accepting =
        |tls, name| Accepting { metrics: sources.connections.of(name), ..Accepting::new(tls, &trust_domain) };
    let api = Listening {
        listener: listeners.api,
        accepting: accepting(own.api(), "api"),
        routes: people,
        origins: config.cors_origins.into(),
        max_streams: MAX_API_STREAMS,
        calls: sources.calls.clone(),
    };
    let agents = Listening {
        listener: listeners.agents,
        accepting: accepting(own.agents(), "agents"),
        routes: agents.add_service(enrollment),
        // No page has anything to say here.
        origins: Arc::default(),
        max_streams: MAX_AGENT_STREAMS,
        calls: sources.calls.clone(),
    };
    let addresses = Addresses::write(&config.data_dir, &api.listener, &agents.listener, listeners.metrics.as_ref())?;

    let closing = CancellationToken::new();
    let mut parts = JoinSet::new();
    let gate = Gate { access: AccessLayer::new(Arc::clone(&store), users), record: RecordLayer(Arc::clone(&store)) };
    parts.spawn(api.serve(gate.clone(), closing.clone()));
    parts.spawn(agents.serve(gate, closing.clone()));
    if let Some(listener) = listeners.metrics {
        let serving = longshore_metrics::serve(listener, sources.into_scrape(), closing.clone());
        parts.spawn(async {
            serving.await;
            Ok(())
        });
    }
    parts.spawn({
        let (store, closing, reload) = (Arc::clone(&store), closing.clone(), config.reload);
        let keep = retention::Keep { jobs: config.job_retention, deeds: config.audit_retention };
        async move {
            tokio::select! {
                () = closing.cancelled() => Ok(()),
                never = retention::run(store.as_ref(), keep) => match never {},
                never = own.run(reload) => match never {},
            }
        }
    });
    parts.spawn({
        let (backstage, closing) = (backstage.clone(), closing.clone());
        async move {
            backstage.run(closing.clone()).await;
            if closing.is_cancelled() { Ok(()) } else { Err(ServeError::StoreEnded) }
        }
    });
    tracing::info!(%trust_domain, "serving");

    // All of these end only when they are told to, or when they fail.
    let early = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        Some(ended) = parts.join_next() => ended?,
    };
    addresses.remove();
    wind_down(&backstage, &closing, parts).await;
    early
}

/// Ends everything within [`SHUTDOWN_LIMIT`].
async fn wind_down(backstage: &Backstage, closing: &CancellationToken, mut parts: JoinSet<Result<(), ServeError>>) {
    let deadline = Instant::now() + SHUTDOWN_LIMIT;
    tracing::info!("shutting down");
    backstage.drain(DRAIN_LIMIT).await;
    closing.cancel();
    let ended = tokio::time::timeout_at(deadline, async { while parts.join_next().await.is_some() {} });
    if ended.await.is_err() {
        tracing::warn!("cutting off the connections that are left");
    }
}

/// Loads who may call, before anybody can; the first admin is a user from the first start on.
async fn remember_users(store: &dyn Store, live: &Live, first_admin: User) -> Result<Arc<Users>, ServeError> {
    store.adopt_first_user(first_admin).await.map_err(ServeError::Store)?;
    live.users.load(store).await.map_err(ServeError::Store)?;
    Ok(Arc::clone(&live.users))
}

/// Lets each connection have so many streams at once, none of which can hold up another by not being read.
#[must_use]
pub fn with_streams(server: Server, max_streams: u32) -> Server {
    server
        .max_concurrent_streams(max_streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW.saturating_mul(max_streams))
}

/// What a call passes before it is handled.
#[derive(Clone)]
struct Gate {
    access: AccessLayer,
    record: RecordLayer,
}

/// One listener and what it serves.
struct Listening {
    listener: TcpListener,
    accepting: Accepting,
    routes: Routes,
    /// Of pages that may call.
    origins: Arc<[Origin]>,
    max_streams: u32,
    calls: CallMetrics,
}

impl Listening {
    async fn serve(self, gate: Gate, closing: CancellationToken) -> Result<(), ServeError> {
        let service = ServiceBuilder::new()
            .option_layer(web::layer(&self.origins))
            .layer(ObserveLayer(self.calls, Arc::default()))
            .layer(CallLayer)
            .layer(GuardLayer(self.origins))
            .layer(gate.record)
            .layer(gate.access)
            // Only those who may call are told what serves them.
            .layer(MapResponseLayer::new(name_version))
            .service(self.routes.prepare());
        let http1 = Arc::new(Http1::new(service.clone(), HEAD_TIMEOUT, closing.clone()));
        let connections = accept(self.listener, self.accepting).filter_map({
            let http1 = Arc::clone(&http1);
            move |connection| match connection {
                Ok(connection) if connection.speaks_http1() => {
                    http1.serve(connection);
                    None
                }
                other => Some(other),
            }
        });
        with_streams(Server::builder(), self.max_streams)
            .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .http2_max_header_list_size(MAX_HEADER_LIST)
            .serve_with_incoming_shutdown(service, connections, closing.cancelled_owned())
            .await?;
        http1.ended().await;
        Ok(())
    }
}

/// The file that tells others where a running server listens.
struct Addresses {
    path: PathBuf,
}

/// What is in that file.
#[derive(Serialize)]
struct AddressesText {
    api: SocketAddr,
    agents: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<SocketAddr>,
}

impl Addresses {
    fn write(
        data_dir: &Path,
        api: &TcpListener,
        agents: &TcpListener,
        metrics: Option<&TcpListener>,
    ) -> Result<Self, ServeError> {
        let path = data_dir.join(ADDRESSES_FILE);
        let written = (|| {
            let text = AddressesText {
                api: api.local_addr()?,
                agents: agents.local_addr()?,
                metrics: metrics.map(TcpListener::local_addr).transpose()?,
            };
            tracing::info!(api = %text.api, agents = %text.agents, metrics = ?text.metrics, "listening");
            // Whoever reads it sees all of it or nothing.
            let unfinished = path.with_extension("json.new");
            std::fs::write(&unfinished, serde_json::to_vec(&text)?)?;
            std::fs::rename(&unfinished, &path)
        })();
        match written {
            Ok(()) => Ok(Self { path }),
            Err(source) => Err(ServeError::Addresses { path, source }),
        }
    }

    /// Removes what a server that was killed has left, unless another server is running in this directory.
    fn forget(data_dir: &Path) {
        let path = data_dir.join(ADDRESSES_FILE);
        if path.exists() && !SqliteStore::is_in_use(&data_dir.join(STORE_FILE)) {
            Self { path }.remove();
        }
    }

    fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the file of addresses");
        }
    }
}
