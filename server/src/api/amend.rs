//! Another spec for what a retry begins anew: checked as that of a new job is, beside what was settled when the job was made.

use std::collections::BTreeMap;
use std::sync::Arc;

use longshore_model::job::{Amendment, Job};
use longshore_model::kind::JobKind;
use longshore_model::limits::MAX_PAGE;
use longshore_model::name::NodeName;
use longshore_model::order::Work;
use longshore_model::spec::AppSpec;
use longshore_model::targets::Targets;
use longshore_model::task::TaskState;
use longshore_model::validate::{self, Path, Violations, quoted};
use longshore_proto::convert::FromWire;
use longshore_proto::v1;

use super::new_job::{self, Unmade};
use super::templates::{self, Asked};
use crate::store::sorting::Query;
use crate::store::{Chosen, NewSpec, Store, StoreError};

/// What a retry says of another spec.
pub(super) struct Amended {
    spec: Option<v1::AppSpec>,
    template: Option<v1::TemplateReference>,
}

impl Amended {
    /// `None` where it says nothing.
    pub(super) fn of(spec: Option<v1::AppSpec>, template: Option<v1::TemplateReference>) -> Option<Self> {
        (spec.is_some() || template.is_some()).then_some(Self { spec, template })
    }

    /// Checks it for the tasks of a job that have not succeeded, or those of them that are chosen.
    pub(super) async fn check(self, store: &dyn Store, job: &Job, chosen: Option<&Chosen>) -> Result<NewSpec, Unmade> {
        let mut bad = Violations::default();
        if job.kind == JobKind::Remove {
            let field = if self.spec.is_some() { "spec" } else { "template" };
            bad.add(Path::Root.field(field), "is not for REMOVE jobs, which run nothing; leave it out");
            return Err(Unmade::Invalid(bad));
        }
        let Self { spec, template } = self;
        let mut request =
            v1::CreateJobRequest { kind: v1::JobKind::from(job.kind).into(), spec, template, ..Default::default() };
        let mut made_of = None;
        match templates::Chosen::find(store, &mut request, &mut bad).await? {
            Asked::Nothing => {}
            Asked::InVain => return Err(Unmade::Invalid(bad)),
            Asked::For(template) => {
                let nodes = architectures(store, job, chosen).await?;
                let Some((spec, used)) = template.for_nodes(&nodes, &mut bad) else { return Err(Unmade::Invalid(bad)) };
                (request.spec, made_of) = (Some(spec), Some(used));
            }
        }
        let spec_path = Path::Root.field("spec");
        let spec = request.spec.map(|spec| v1::AppSpec { image_only: false, ..spec }).unwrap_or_default();
        if !job.kind.needs_app() && spec.name != job.app.prefix() {
            let (name, app, right) = (quoted(&spec.name), &job.app, job.app.prefix());
            bad.add(spec_path.field("name"), format!("is {name}; the name of the app {app} stays {right:?}"));
        }
        let spec = AppSpec::from_wire(spec, spec_path, &mut bad);
        let app = job.kind.needs_app().then(|| job.app.clone());
        let work = spec.and_then(|spec| Work::of(job.kind, app, Some(spec), Path::Root, &mut bad));
        let Some(spec) = work.as_ref().and_then(Work::spec).map(Arc::clone) else { return Err(Unmade::Invalid(bad)) };
        work.iter().for_each(|work| validate::work(work, &mut bad));
        let encoded = new_job::encode(&spec, &mut bad);
        new_job::check_references(store, &spec, &mut bad).await?;
        let amendment = Amendment { warnings: validate::advice(&spec), spec, template: made_of };
        bad.or(NewSpec { amendment, encoded }).map_err(Unmade::Invalid)
    }
}

/// The nodes that are to be tried again, by architecture, those that have said of which they are.
async fn architectures(
    store: &dyn Store,
    job: &Job,
    chosen: Option<&Chosen>,
) -> Result<BTreeMap<String, Vec<NodeName>>, StoreError> {
    let (mut targets, mut next) = (Targets::default(), Some(Query::first(MAX_PAGE)));
    while let Some(query) = next {
        let page = store.tasks(&job.id, query.clone()).await?;
        next = query.next(&page);
        let tasks = page.items.into_iter().filter(|task| {
            task.state != TaskState::Succeeded && chosen.is_none_or(|Chosen(is_chosen)| is_chosen(task))
        });
        targets.node_names.extend(tasks.map(|task| task.node.to_string()));
    }
    Ok(new_job::by_architecture(&new_job::candidates(store, &targets).await?))
}
