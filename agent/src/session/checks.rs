//! Answers the server's questions for plans: what would stand in the way of an app here.
//!
//! A check is made beside everything else and leaves nothing, see [`check::foresee`]; few are made at once, so that the node is not
//! busy with plans.

use std::sync::Arc;
use std::time::Duration;

use longshore_model::failure::FailureReason;
use longshore_model::plan::{Candidate, Look, Obstacle};
use longshore_proto::convert::{self, FromWire};
use longshore_proto::v1;
use longshore_proto::v1::agent_service_client::AgentServiceClient;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tonic::Request;
use tonic::transport::Channel;

use super::Link;
use crate::keyring::ServerKeyring;
use crate::supervisor::{Context, check};

/// Checks that are made at once: one for each of the plans that a server has this node asked for.
const MAX_CHECKS: usize = 2;
/// Checks that wait for their turn: those of plans that were given up are answered in vain, and soon over.
const MAX_WAITING_CHECKS: usize = 16;
/// Time for the server to take an answer, which it waits for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The checks of one session; they end with it.
pub(super) struct Checks {
    context: Arc<Context>,
    live: watch::Sender<Option<Channel>>,
    places: Arc<Semaphore>,
    running: JoinSet<()>,
}

impl Checks {
    pub(super) fn new(link: &Link) -> Self {
        Self {
            context: Arc::clone(&link.context),
            live: link.live.clone(),
            places: Arc::new(Semaphore::new(MAX_CHECKS)),
            running: JoinSet::new(),
        }
    }

    /// Begins a check, unless too many wait already: the server then gives it up after a while.
    pub(super) fn begin(&mut self, request: v1::CheckRequest) {
        while self.running.try_join_next().is_some() {}
        if self.running.len() >= MAX_CHECKS + MAX_WAITING_CHECKS {
            tracing::warn!(app = request.app_name, "too many plans ask this node: this one is not answered");
            return;
        }
        let (context, places) = (Arc::clone(&self.context), Arc::clone(&self.places));
        let live = self.live.subscribe();
        self.running.spawn(async move {
            // Never closed.
            let Ok(_place) = places.acquire().await else { return };
            answer(&context, live, request).await;
        });
    }
}

async fn answer(context: &Arc<Context>, live: watch::Receiver<Option<Channel>>, request: v1::CheckRequest) {
    let id = request.request_id.clone();
    let look = match Candidate::read(request) {
        Ok(candidate) => {
            tracing::info!(app = %candidate.app, check = id, "a plan asks what stands in the way of an app");
            check::foresee(context, &candidate, Arc::new(ServerKeyring::for_check(live.clone(), id.clone()))).await
        }
        Err(violations) => {
            let message = format!("This agent cannot read the app's spec: {violations}.");
            Look { obstacles: vec![Obstacle::new(FailureReason::Unsupported, &message)], fetch_bytes: None }
        }
    };
    let Some(channel) = live.borrow().clone() else { return };
    let mut request = Request::new(convert::answer_check(id, &look));
    request.set_timeout(ANSWER_TIMEOUT);
    if let Err(status) = AgentServiceClient::new(channel).answer_check(request).await {
        // Mostly a plan that was given up.
        tracing::debug!(code = ?status.code(), reason = status.message(), "nobody waits for what a check has found");
    }
}
