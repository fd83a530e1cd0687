//! Has agents look for themselves, as they would at the beginning of a task.
//!
//! How many are asked at once is bounded for all plans together; a node that does not answer in time is said not to, and holds
//! up nothing else. Whoever has asked for the plan and leaves ends it, since the plan is made while its answer is read.

use std::time::Duration;

use bytes::Bytes;
use longshore_model::assignment::ImageAccess;
use longshore_model::capability;
use longshore_model::job::Job;
use longshore_model::limits::MAX_REGISTRY_CREDENTIALS;
use longshore_model::node::Node;
use longshore_model::node_value;
use longshore_model::plan::{Action, Check};
use longshore_model::registry;
use longshore_proto::convert;
use longshore_proto::v1;
use tonic::{Code, Status};

use crate::api::{Context, status};
use crate::session::checks::DeskError;
use crate::store::StoreError;
use crate::store::sorting::Query;

/// How long an agent has to answer: it waits for no registry for longer than two thirds of that.
const NODE_TIMEOUT: Duration = Duration::from_secs(15);

/// What every node of a plan is asked.
pub(super) struct Inquiry {
    context: Context,
    job: Job,
    spec: Bytes,
    image_access: ImageAccess,
}

impl Inquiry {
    /// The question about a job.
    pub(super) async fn of(context: &Context, job: &Job) -> Result<Self, StoreError> {
        let all = context.store.credentials(Query::first(MAX_REGISTRY_CREDENTIALS)).await?.items;
        let image_access = registry::access(&job.spec.image, all, |stored| &stored.credential);
        Ok(Self { context: context.clone(), job: job.clone(), spec: convert::encode_spec(&job.spec), image_access })
    }

    /// Asks a node, if there is something to ask.
    ///
    /// # Errors
    ///
    /// The server goes away.
    pub(super) async fn ask(&self, node: &Node, action: Action) -> Result<Check, Status> {
        if matches!(action, Action::Remove | Action::Nothing) {
            return Ok(Check::Needless);
        }
        let live = &self.context.live;
        // What it can do is known once its session is open; until then it is not connected for anybody.
        let Some(info) = node.info.as_ref().filter(|_| live.fleet.is_open(&node.name)) else {
            return Ok(Check::NotConnected);
        };
        if !info.can(capability::PLANS_CHECK) {
            return Ok(Check::TooOld);
        }
        let question = live.checks.ask(&node.name, self.context.ids.text(), self.job.spec.image.clone()).await;
        let question = match question {
            Ok(question) => question,
            Err(DeskError::Closed) => return Err(shutting_down()),
            Err(DeskError::Full(_) | DeskError::NodeFull(_) | DeskError::BrokenOff) => return Ok(Check::NoAnswer),
        };
        let request = v1::CheckRequest {
            request_id: question.request_id().to_owned(),
            app_name: self.job.app.to_string(),
            app_spec: self.spec.clone(),
            image_access: v1::ImageAccess::from(self.image_access).into(),
            node_labels: node_value::labels_for(&self.job.spec, &node.labels),
        };
        if live.fleet.ask_for_check(&node.name, request).is_err() {
            return Ok(self.without_answer(node));
        }
        match tokio::time::timeout(NODE_TIMEOUT, question.answered()).await {
            Ok(Ok(look)) => Ok(Check::Done(look)),
            Ok(Err(_)) if live.checks.is_closed() => Err(shutting_down()),
            Ok(Err(_)) | Err(_) => Ok(self.without_answer(node)),
        }
    }

    fn without_answer(&self, node: &Node) -> Check {
        if self.context.live.fleet.connected(&node.name) { Check::NoAnswer } else { Check::NotConnected }
    }
}

fn shutting_down() -> Status {
    status::later(Code::Unavailable, "SHUTTING_DOWN", "the server is shutting down")
}
