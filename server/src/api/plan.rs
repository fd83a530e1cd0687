//! What a job would do, node by node, without doing it.
//!
//! Everything comes from what is stored and from which sessions are live; the judgement is [`longshore_model::plan`]'s. Nodes
//! are read and answered for in pieces, so that a plan for a large fleet needs the memory of one piece.

use std::collections::HashMap;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use jiff::Timestamp;
use longshore_model::app::App;
use longshore_model::capacity::Amounts;
use longshore_model::failure::FailureReason;
use longshore_model::job::Job;
use longshore_model::limits::MAX_PAGE;
use longshore_model::name::{JobId, NodeName};
use longshore_model::plan::{self, Known, Obstacle, Resident, Summary, Wanted};
use longshore_model::validate::{Violation, Violations};
use longshore_proto::convert;
use longshore_proto::v1;
use prost::Message;
use tonic::Status;

use super::new_job::{self, Draft, Unmade};
use super::{Context, status};
use crate::store::sorting::Query;
use crate::store::{NewJob, StoreError};

/// Nodes of one message.
const NODES_AT_ONCE: usize = 500;
/// Bytes after which a message gets no further node: with the whole of one more it stays far below gRPC's 4 MiB.
const FULL: usize = 1 << 20;

/// A plan that is being made.
pub(super) struct Plan {
    context: Context,
    job: Job,
    nodes: std::vec::IntoIter<NodeName>,
    /// What stands in the way everywhere.
    common: Vec<Obstacle>,
    /// What is needed of each job that has an app on some node.
    jobs: HashMap<JobId, JobFacts>,
    summary: Summary,
    /// Whether the job has been sent.
    has_begun: bool,
}

/// What is needed of the job that an app comes from.
#[derive(Clone, Copy, Default)]
struct JobFacts {
    asks: Amounts,
    is_same: bool,
}

impl Plan {
    /// Checks the request as the creation of a job does.
    pub(super) async fn begin(context: &Context, request: v1::PlanJobRequest, creator: String) -> Result<Self, Status> {
        let store = context.store.as_ref();
        let Some(job) = request.job else { return Err(status::invalid(Violations::one("job", "is missing"))) };
        let id = context.ids.job().map_err(|error| status::internal(&error))?;
        let draft = new_job::draft(store, job, id, creator, Timestamp::now(), Violations::default()).await;
        let Draft { new, credential, configurations } = draft.map_err(in_job)?;
        let NewJob { job, nodes, .. } = new;
        if job.kind.needs_app() {
            store.check_not_busy(&job.app, nodes.clone()).await.map_err(status::store)?;
        }
        let missing = |reason, found: Violations| {
            let sentence = |violation: &Violation| format!("{} ({})", violation.description, violation.field);
            found.0.into_iter().map(move |violation| Obstacle::new(reason, &sentence(&violation)))
        };
        let mut common: Vec<Obstacle> = missing(FailureReason::ImageAccessDenied, credential).collect();
        common.extend(missing(FailureReason::ConfigurationMissing, configurations));
        Ok(Self {
            context: context.clone(),
            job,
            nodes: nodes.into_iter(),
            common,
            jobs: HashMap::new(),
            summary: Summary::default(),
            has_begun: false,
        })
    }

    /// The job, its nodes, and the summary.
    pub(super) fn messages(self) -> BoxStream<'static, Result<v1::PlanJobResponse, Status>> {
        let next = |plan: Option<Self>| async move {
            match plan {
                Some(plan) => plan.next().await.map(Some),
                None => Ok(None),
            }
        };
        stream::try_unfold(Some(self), next).boxed()
    }

    /// The next message, and the rest of the plan if there is one.
    async fn next(mut self) -> Result<(v1::PlanJobResponse, Option<Self>), Status> {
        let mut message = v1::PlanJobResponse::default();
        if !self.has_begun {
            self.has_begun = true;
            message.job = Some(new_job::preview(&self.job));
        }
        let mut bytes = 0;
        while message.nodes.len() < NODES_AT_ONCE && bytes < FULL {
            let Some(node) = self.nodes.next() else {
                message.summary = Some(convert::plan_summary(self.summary));
                return Ok((message, None));
            };
            if let Some(planned) = self.node(&node).await.map_err(status::store)? {
                bytes += planned.encoded_len();
                message.nodes.push(planned);
            }
        }
        Ok((message, Some(self)))
    }

    /// What is planned for a node; `None` if it was deleted meanwhile.
    async fn node(&mut self, name: &NodeName) -> Result<Option<v1::NodePlan>, StoreError> {
        let node = match self.context.store.node(name).await {
            Ok(node) => node,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let residents = self.residents(name).await?;
        let wanted = Wanted { kind: self.job.kind, app: &self.job.app, spec: &self.job.spec };
        let is_connected = self.context.live.fleet.connected(name);
        let (action, mut obstacles) = plan::judge(wanted, Known { node: &node, is_connected, residents: &residents });
        obstacles.extend(self.common.iter().cloned());
        self.summary.add(name, &obstacles);
        Ok(Some(convert::node_plan(name, action, &obstacles)))
    }

    /// The apps of a node, with what they hold.
    async fn residents(&mut self, node: &NodeName) -> Result<Vec<Resident>, StoreError> {
        let (mut apps, mut next): (Vec<App>, _) = (Vec::new(), Some(Query::first(MAX_PAGE)));
        while let Some(query) = next {
            let page = self.context.store.apps(Some(node), None, query.clone()).await?;
            next = query.next(&page);
            apps.extend(page.items);
        }
        let mut residents = Vec::with_capacity(apps.len());
        for app in apps {
            let JobFacts { asks, is_same } = self.facts(&app.job).await?;
            // The revision before an update may have to come back.
            let before = match &app.previous {
                Some(previous) => self.facts(&previous.job).await?.asks,
                None => Amounts::default(),
            };
            residents.push(Resident { app, holds: asks.max(before), is_same });
        }
        Ok(residents)
    }

    async fn facts(&mut self, id: &JobId) -> Result<JobFacts, StoreError> {
        if let Some(known) = self.jobs.get(id) {
            return Ok(*known);
        }
        let facts = match self.context.store.job(id).await {
            Ok(job) => JobFacts { asks: Amounts::of(&job.spec), is_same: job.spec == self.job.spec },
            Err(StoreError::NotFound { .. }) => JobFacts::default(),
            Err(error) => return Err(error),
        };
        self.jobs.insert(id.clone(), facts);
        Ok(facts)
    }
}

/// What is wrong with the job is in the field `job` of the request.
fn in_job(unmade: Unmade) -> Status {
    match unmade {
        Unmade::Invalid(mut bad) => {
            for violation in &mut bad.0 {
                let is_whole = violation.field.is_empty();
                violation.field = if is_whole { "job".to_owned() } else { format!("job.{}", violation.field) };
            }
            Unmade::Invalid(bad).into()
        }
        Unmade::Store(error) => Unmade::Store(error).into(),
    }
}
