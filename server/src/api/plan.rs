//! What a job would do, node by node, without doing it.
//!
//! Everything comes from what is stored and from which sessions are live, and where that is asked for from the agents: see
//! [`live`]. The judgement is [`longshore_model::plan`]'s. Nodes are read and answered for in pieces, so that a plan for a large
//! fleet needs the memory of one piece.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use longshore_model::app::App;
use longshore_model::capacity::Amounts;
use longshore_model::failure::FailureReason;
use longshore_model::job::Job;
use longshore_model::limits::MAX_PAGE;
use longshore_model::name::{JobId, NodeName};
use longshore_model::node::Node;
use longshore_model::plan::{self, Check, Judgement, Known, Obstacle, Resident, Summary, Wanted};
use longshore_model::validate::{Violation, Violations};
use longshore_proto::convert;
use longshore_proto::v1;
use prost::Message;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use self::live::Inquiry;
use super::new_job::{self, Draft, Unmade};
use super::{Context, status};
use crate::store::sorting::Query;
use crate::store::{NewJob, StoreError};

mod live;

/// Nodes of one message.
const NODES_AT_ONCE: usize = 500;
/// Bytes after which a message gets no further node: with the whole of one more it stays far below gRPC's 4 MiB.
const FULL: usize = 1 << 20;

/// Nodes that are judged ahead of what is sent, while agents are asked: so many that one which does not answer holds up no
/// others until its time is over, and few enough that a plan needs the memory of some megabytes.
const NODES_AHEAD: usize = 1000;

/// A plan that is being made.
pub(super) struct Plan {
    context: Context,
    job: Job,
    nodes: std::vec::IntoIter<NodeName>,
    /// What stands in the way everywhere.
    common: Arc<[Obstacle]>,
    /// What is needed of each spec that an app on some node has.
    specs: HashMap<(JobId, u32), SpecFacts>,
    /// What agents are asked, if they are.
    inquiry: Option<Arc<Inquiry>>,
}

/// What is needed of the spec that an app has.
#[derive(Clone, Copy, Default)]
struct SpecFacts {
    asks: Amounts,
    is_same: bool,
}

/// A node with all that is known of it.
struct Planned {
    node: NodeName,
    judgement: Judgement,
    check: Option<Check>,
}

impl Plan {
    /// Checks the request as the creation of a job does.
    pub(super) async fn begin(context: &Context, request: v1::PlanJobRequest, creator: String) -> Result<Self, Status> {
        let store = context.store.as_ref();
        let v1::PlanJobRequest { job, live } = request;
        let Some(job) = job else { return Err(status::invalid(Violations::one("job", "is missing"))) };
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
        let inquiry = match live {
            true => Some(Arc::new(Inquiry::of(context, &job).await.map_err(status::store)?)),
            false => None,
        };
        Ok(Self {
            context: context.clone(),
            job,
            nodes: nodes.into_iter(),
            common: common.into(),
            specs: HashMap::new(),
            inquiry,
        })
    }

    /// The job, its nodes, and the summary.
    pub(super) fn messages(self) -> BoxStream<'static, Result<v1::PlanJobResponse, Status>> {
        let (job, common) = (new_job::preview(&self.job), Arc::clone(&self.common));
        let ahead = if self.inquiry.is_some() { NODES_AHEAD } else { 1 };
        let inquiry = self.inquiry.clone();
        let judged = stream::try_unfold(self, |mut plan| async move {
            let next = plan.next().await.map_err(status::store)?;
            Ok::<_, Status>(next.map(|judged| (judged, plan)))
        });
        let planned =
            judged.map_ok(move |(node, judgement)| planned(inquiry.clone(), node, judgement)).try_buffered(ahead);
        let pages = Pages { planned: planned.boxed(), job: Some(job), common, summary: Summary::default() };
        let next = |pages: Option<Pages>| async move {
            match pages {
                Some(pages) => pages.next().await.map(Some),
                None => Ok(None),
            }
        };
        stream::try_unfold(Some(pages), next).boxed()
    }

    /// The next node that was not deleted meanwhile, and what is planned for it.
    async fn next(&mut self) -> Result<Option<(Node, Judgement)>, StoreError> {
        for name in self.nodes.by_ref() {
            let node = match self.context.store.node(&name).await {
                Ok(node) => node,
                Err(StoreError::NotFound { .. }) => continue,
                Err(error) => return Err(error),
            };
            let residents = self.residents(&name).await?;
            let wanted = Wanted { kind: self.job.kind, app: &self.job.app, spec: &self.job.spec };
            let is_connected = self.context.live.fleet.connected(&name);
            let judgement = plan::judge(wanted, Known { node: &node, is_connected, residents: &residents });
            return Ok(Some((node, judgement)));
        }
        Ok(None)
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
            let SpecFacts { asks, is_same } = self.facts(&app.job, app.spec_revision).await?;
            // The revision before an update may have to come back.
            let before = match &app.previous {
                Some(previous) => self.facts(&previous.job, previous.spec_revision).await?.asks,
                None => Amounts::default(),
            };
            residents.push(Resident { app, holds: asks.max(before), is_same });
        }
        Ok(residents)
    }

    async fn facts(&mut self, id: &JobId, spec_revision: u32) -> Result<SpecFacts, StoreError> {
        let key = (id.clone(), spec_revision);
        if let Some(known) = self.specs.get(&key) {
            return Ok(*known);
        }
        let facts = match self.context.store.job_with_spec(id, spec_revision).await {
            Ok(job) => SpecFacts { asks: Amounts::of(&job.spec), is_same: job.spec == self.job.spec },
            Err(StoreError::NotFound { .. }) => SpecFacts::default(),
            Err(error) => return Err(error),
        };
        self.specs.insert(key, facts);
        Ok(facts)
    }
}

/// Has the node asked, if it is to be: by a task of its own, since whoever reads the plan slowly keeps no other plan from asking.
fn planned(
    inquiry: Option<Arc<Inquiry>>,
    node: Node,
    judgement: Judgement,
) -> impl Future<Output = Result<Planned, Status>> + Send {
    let (name, action) = (node.name.clone(), judgement.action);
    let asking =
        inquiry.map(|inquiry| AbortOnDropHandle::new(tokio::spawn(async move { inquiry.ask(&node, action).await })));
    async move {
        let check = match asking {
            Some(asking) => Some(asking.await.map_err(|error| status::internal(&error))??),
            None => None,
        };
        Ok(Planned { node: name, judgement, check })
    }
}

/// What is sent of a plan.
struct Pages {
    planned: BoxStream<'static, Result<Planned, Status>>,
    /// Until it is sent.
    job: Option<v1::Job>,
    common: Arc<[Obstacle]>,
    summary: Summary,
}

impl Pages {
    /// The next message, and what is left to send if there is something.
    async fn next(mut self) -> Result<(v1::PlanJobResponse, Option<Self>), Status> {
        let mut message = v1::PlanJobResponse { job: self.job.take(), ..Default::default() };
        let mut bytes = 0;
        while message.nodes.len() < NODES_AT_ONCE && bytes < FULL {
            let Some(planned) = self.planned.try_next().await? else {
                message.summary = Some(convert::plan_summary(self.summary));
                return Ok((message, None));
            };
            let node = self.add(planned);
            bytes += node.encoded_len();
            message.nodes.push(node);
        }
        Ok((message, Some(self)))
    }

    fn add(&mut self, planned: Planned) -> v1::NodePlan {
        let Planned { node, judgement, check } = planned;
        let action = judgement.action;
        let obstacles = match &check {
            Some(check) => judgement.checked(check, &self.common),
            None => judgement.obstacles(&self.common),
        };
        self.summary.add(&node, &obstacles);
        check.iter().for_each(|check| self.summary.count(check));
        convert::node_plan(&node, action, &obstacles, check.as_ref())
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
