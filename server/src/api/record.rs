//! Puts every call that could change something into the audit log.
//!
//! The entry is written after the call was handled and before it is answered: who has an answer is in the log, and who did not
//! wait for one too. A server that is killed right between the two has done something that the log does not say. (Rejected: the same transaction. What a call
//! does is decided in a dozen places of the store, and what it was answered is decided after them.)

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http::{Request, Response};
use jiff::Timestamp;
use longshore_model::audit::{Deed, Head};
use longshore_model::validate::cut;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::request_id;
use super::status::name_of;
use crate::identity::caller::{Peer, PeerCredentials};
use crate::identity::roles;
use crate::store::Store;

/// First words of the calls that change nothing.
const LOOKS: [&str; 7] = ["Get", "Group", "List", "Plan", "Read", "Wait", "Watch"];
/// Services of which no call is recorded: an agent speaks for its node, in numbers that no log for people bears, and the others
/// change nothing.
const UNRECORDED: [&str; 2] = ["longshore.v1.AgentService", "grpc."];

tokio::task_local! {
    static NOTE: Arc<Mutex<Note>>;
}

/// What a handler says of the call that it handles.
#[derive(Clone, Debug, Default)]
struct Note {
    target: String,
    validate_only: bool,
}

/// Bytes of a target: two names of the longest kind and the words between them. What is longer is no name of anything.
const MAX_TARGET: usize = 256;

/// Tells the audit log what the call that is being handled is about, such as `jobs/01jd…`, and whether it only checks.
///
/// Call it as soon as the target is known, so that a refusal names it too. The last word counts. Targets may come from
/// requests as they are: their end is cut off.
pub fn about(target: impl Into<String>, validate_only: bool) {
    let mut target = target.into();
    cut(&mut target, MAX_TARGET);
    let note = Note { target, validate_only };
    // Outside of a recorded call there is nobody to be told.
    let _ = NOTE.try_with(|place| *place.lock().unwrap_or_else(PoisonError::into_inner) = note);
}

/// As [`about`], for a command line: all of it, whose length was checked.
pub(super) fn about_command(target: String) {
    let note = Note { target, validate_only: false };
    let _ = NOTE.try_with(|place| *place.lock().unwrap_or_else(PoisonError::into_inner) = note);
}

/// The end of what a call has begun and what goes on behind its answer, as an entry of its own: it bears the call's own
/// identifier.
pub(super) struct Sequel {
    peer: Option<Peer>,
    method: &'static str,
    request_id: String,
}

impl Sequel {
    /// That of this call.
    pub(super) fn of<T>(request: &tonic::Request<T>, method: &'static str) -> Self {
        let peer = request.extensions().get::<Peer>().cloned();
        Self { peer, method, request_id: request_id::current().unwrap_or_default() }
    }

    /// Writes it.
    pub(super) async fn write(self, store: &dyn Store, target: String, code: Code, reason: &str) {
        let note = Note { target, validate_only: false };
        let deed = deed_of(self.method.to_owned(), self.peer.as_ref(), note, code, reason.to_owned());
        if let Some(deed) = deed {
            write(store, Deed { request_id: self.request_id, ..deed }).await;
        }
    }
}

/// Whether the call with this path (`/package.Service/Method`) is one that the audit log has.
fn is_recorded(path: &str) -> bool {
    let Some((service, method)) = path.trim_start_matches('/').split_once('/') else { return false };
    let is_look = LOOKS.iter().any(|word| method.starts_with(word));
    roles::access(path).is_some() && !is_look && !UNRECORDED.iter().any(|prefix| service.starts_with(prefix))
}

/// See the module. It must be outside of whatever refuses calls by role, and inside of what names them.
#[derive(Clone)]
pub struct RecordLayer(pub Arc<dyn Store>);

impl<S> Layer<S> for RecordLayer {
    type Service = RecordService<S>;

    fn layer(&self, inner: S) -> RecordService<S> {
        RecordService { inner, store: Arc::clone(&self.0) }
    }
}

/// See [`RecordLayer`].
#[derive(Clone)]
pub struct RecordService<S> {
    inner: S,
    store: Arc<dyn Store>,
}

impl<S> Service<Request<Body>> for RecordService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if !is_recorded(path) {
            return Box::pin(self.inner.call(request));
        }
        let method = path.trim_start_matches('/').to_owned();
        let peer = request.extensions().get::<Peer>().cloned();
        let note = Arc::<Mutex<Note>>::default();
        let call = NOTE.scope(Arc::clone(&note), self.inner.call(request));
        let store = Arc::clone(&self.store);
        let recorded = async move {
            let response = call.await?;
            let note = note.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(deed) = deed(method, peer.as_ref(), note, &response) {
                write(store.as_ref(), deed).await;
            }
            Ok(response)
        };
        Box::pin(async move {
            // A task of its own, under the names that the call has: what a caller began who hung up, or whose deadline has
            // passed, happens all the same, and has to be in the log.
            let named = request_id::scope(request_id::current().unwrap_or_default(), recorded);
            match tokio::spawn(named.in_current_span()).await {
                Ok(response) => response,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime ends, and this future with it.
                    Err(_) => std::future::pending().await,
                },
            }
        })
    }
}

/// What is to be recorded of a call; nothing of strangers who were turned away, who could fill the log with what they like.
fn deed(method: String, peer: Option<&Peer>, note: Note, response: &Response<Body>) -> Option<Deed> {
    let status = response.extensions().get::<Status>();
    let code = status.map_or(Code::Ok, Status::code);
    let reason = status.and_then(|status| status.get_details_error_info()).map(|info| info.reason);
    deed_of(method, peer, note, code, reason.unwrap_or_default())
}

fn deed_of(method: String, peer: Option<&Peer>, note: Note, code: Code, reason: String) -> Option<Deed> {
    let caller = match peer.map(|peer| &peer.credentials) {
        Some(PeerCredentials::Known(caller)) => Some(caller),
        _ if note.target.is_empty() => return None,
        _ => None,
    };
    Some(Deed {
        time: Timestamp::now(),
        caller: caller.map(|caller| caller.identity().to_string()).unwrap_or_default(),
        key_fingerprint: caller.map(|caller| hex::encode(caller.certificate().key_hash)).unwrap_or_default(),
        address: peer.map(|peer| peer.address.to_string()).unwrap_or_default(),
        method,
        target: note.target,
        validate_only: note.validate_only,
        code: name_of(code).to_owned(),
        reason,
        request_id: request_id::current().unwrap_or_default(),
    })
}

/// The log has the entry too, with its hash: whoever keeps logs elsewhere can tell whether the database was touched.
async fn write(store: &dyn Store, deed: Deed) {
    match store.record(deed.clone()).await {
        Ok(entry) => {
            let head = Head { number: entry.number, hash: entry.hash };
            let Deed { caller, address, method, target, code, reason, .. } = deed;
            tracing::info!(caller, address, method, target, code, reason, %head, "recorded a call");
        }
        // It has happened: an answer that denies it would be another untruth.
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, ?deed, "a call is not in the audit log")
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use std::collections::BTreeSet;
    use std::convert::Infallible;

    use prost::Message;
    use prost_types::FileDescriptorSet;
    use tokio::sync::Semaphore;
    use tower::service_fn;

    use super::*;
    use crate::live::Live;
    use crate::store::SqliteStore;
    use crate::store::sorting::Query;

    #[tokio::test]
    async fn a_caller_who_hangs_up_is_recorded_too() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&directory.path().join("test.db"), Arc::new(Live::default())).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let (begun, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let handler = service_fn({
            let (begun, go) = (Arc::clone(&begun), Arc::clone(&go));
            move |_: Request<Body>| {
                let (begun, go) = (Arc::clone(&begun), Arc::clone(&go));
                async move {
                    about("jobs/j", false);
                    begun.add_permits(1);
                    go.acquire().await.unwrap().forget();
                    Ok::<_, Infallible>(Response::new(Body::empty()))
                }
            }
        });
        let request = Request::builder().uri("/longshore.v1.JobService/StopJob").body(Body::empty()).unwrap();
        let call = RecordLayer(Arc::clone(&store)).layer(handler).call(request);
        let call = tokio::spawn(request_id::scope("r".to_owned(), call));
        begun.acquire().await.unwrap().forget();
        call.abort();
        call.await.unwrap_err();
        go.add_permits(1);

        let found = async {
            loop {
                let page = store.audit_log(Query::first(1)).await.unwrap().page;
                if let Some(entry) = page.items.into_iter().next() {
                    return entry.deed;
                }
                tokio::task::yield_now().await;
            }
        };
        let deed = tokio::time::timeout(std::time::Duration::from_secs(60), found).await.unwrap();
        assert_eq!((deed.target.as_str(), deed.code.as_str(), deed.request_id.as_str()), ("jobs/j", "OK", "r"));
    }

    #[test]
    fn what_looks_like_a_look_is_one_and_all_else_is_recorded() {
        let set = FileDescriptorSet::decode(longshore_proto::DESCRIPTORS).unwrap_or_default();
        let mut looks = BTreeSet::new();
        for file in &set.file {
            for service in file.service.iter().filter(|service| service.name() != "AgentService") {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    if !is_recorded(&path) {
                        looks.insert(method.name());
                    }
                }
            }
        }
        let expected = [
            "GetApp",
            "GetConfigMap",
            "GetJob",
            "GetLogFiles",
            "GetNode",
            "GetRegistryCredential",
            "GetSecret",
            "GetTemplate",
            "GroupFailures",
            "ListAppEvents",
            "ListApps",
            "ListAuditEntries",
            "ListConfigMaps",
            "ListEnrollmentTokens",
            "ListJobs",
            "ListNodes",
            "ListPendingNodes",
            "ListRegistryCredentials",
            "ListSecrets",
            "ListTasks",
            "ListTemplates",
            "ListUsers",
            "PlanJob",
            "ReadLogs",
            "WaitJob",
            "WatchJob",
        ];
        assert_eq!(looks, BTreeSet::from(expected), "a call that only looks has to begin with one of {LOOKS:?}");
    }

    #[test]
    fn what_nobody_serves_and_what_agents_say_is_not_recorded() {
        for path in [
            "/longshore.v1.JobService/Nonsense",
            "/longshore.v1.AgentService/OpenSession",
            "/",
            "",
            "/grpc.health.v1.Health/Check",
        ] {
            assert!(!is_recorded(path), "{path}");
        }
        assert!(is_recorded("/longshore.v1.JobService/StopJob"));
    }
}
