//! Jobs for apps that are there already: removals.

use longshore_proto::v1;
use tonic::Code;
use v1::{AppState, JobKind, JobState, TaskState};

use crate::harness::{Agent, World, app_is, failure, order};

/// Deploys to these nodes and returns the app's name and what each agent was told.
pub(crate) async fn deployed(world: &World, agents: &mut [Agent], nodes: &[&str]) -> (String, Vec<v1::Assignment>) {
    let job = world.create(order(nodes)).await;
    let mut assignments = Vec::new();
    for agent in agents {
        let assignment = agent.set().await;
        agent.reach(&assignment, TaskState::Succeeded).await;
        assignments.push(assignment);
    }
    world.job_in(&job.job_id, JobState::Succeeded).await;
    (job.app_name, assignments)
}

fn removal(app: &str, nodes: &[&str]) -> v1::CreateJobRequest {
    let node_names = nodes.iter().map(|node| (*node).to_owned()).collect();
    v1::CreateJobRequest {
        kind: JobKind::Remove.into(),
        app_name: app.to_owned(),
        targets: Some(v1::Targets { node_names, ..Default::default() }),
        ..Default::default()
    }
}

#[tokio::test]
async fn an_app_is_removed_from_all_its_nodes_as_fast_as_the_job_says() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1", "shop-2", "shop-3"]).await;
    let (app, told) = deployed(&world, &mut agents[..2], &["shop-1", "shop-2"]).await;
    let one_by_one = v1::Rollout { max_parallel: 1, ..Default::default() };
    let request = v1::CreateJobRequest { rollout: Some(one_by_one), ..removal(&app, &[]) };
    let job = world.create(request).await;
    assert_eq!((job.kind(), &job.app_name, job.counts.unwrap().pending), (JobKind::Remove, &app, 2));
    assert_eq!(job.spec, order(&[]).spec.map(|spec| world_spec(&spec)), "what it ran");

    for (agent, assignment) in agents.iter_mut().zip(&told) {
        assert_eq!(agent.removed().await, app);
        let request = v1::ListAppsRequest { filter: "removing = true".to_owned(), ..Default::default() };
        let apps = world.apps().list_apps(request).await.unwrap().into_inner().apps;
        assert_eq!(apps.iter().map(|app| &app.removing_job_id).collect::<Vec<_>>(), [&job.job_id]);
        agent.report(app_is(assignment, AppState::Removed)).await;
    }
    world.job_in(&job.job_id, JobState::Succeeded).await;
    assert_eq!(world.apps().list_apps(v1::ListAppsRequest::default()).await.unwrap().into_inner().apps, []);
    let request = v1::ListJobsRequest { filter: "kind = REMOVE".to_owned(), ..Default::default() };
    let jobs = world.jobs().list_jobs(request).await.unwrap().into_inner().jobs;
    assert_eq!(jobs.iter().map(|job| &job.job_id).collect::<Vec<_>>(), [&job.job_id]);
}

/// A spec as the server gives it back, with what was left out filled in.
fn world_spec(spec: &v1::AppSpec) -> v1::AppSpec {
    use longshore_model::spec::AppSpec;
    use longshore_proto::convert::FromWire;
    v1::AppSpec::from(&AppSpec::read(spec.clone()).unwrap())
}

#[tokio::test]
async fn a_node_that_comes_back_is_told_again_and_ends_the_job() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1"]).await;
    let (app, _) = deployed(&world, &mut agents, &["shop-1"]).await;
    let job = world.create(removal(&app, &["shop-1"])).await;
    assert_eq!(agents[0].removed().await, app);
    drop(agents);
    let mut agent = world.connect("shop-1").await;
    assert_eq!(agent.removed().await, app);
    let never_heard = v1::Assignment { app_name: app, ..Default::default() };
    agent.report(app_is(&never_heard, AppState::Removed)).await;
    world.job_in(&job.job_id, JobState::Succeeded).await;
}

#[tokio::test]
async fn a_removal_that_cannot_be_is_refused_by_name() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1", "shop-2", "shop-3"]).await;
    let (app, _) = deployed(&world, &mut agents[..1], &["shop-1"]).await;
    let refused = async |request: v1::CreateJobRequest| {
        let (code, details) = failure(world.jobs().create_job(request).await);
        let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
        let found = violations.into_iter().map(|violation| format!("{}: {}", violation.field, violation.description));
        (code, details.error_info().unwrap().reason.clone(), found.collect::<Vec<_>>())
    };
    let (code, _, found) = refused(removal(&app, &["shop-1", "shop-2", "shop-3", "shop-9"])).await;
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(found, [format!("targets.node_names: the app {app} is not on shop-2, shop-3, shop-9")]);

    let targets = Some(v1::Targets { selector: "role=gateway".to_owned(), ..Default::default() });
    let (_, _, found) = refused(v1::CreateJobRequest { targets, ..removal(&app, &[]) }).await;
    assert_eq!(found, ["targets.selector: matches no node"]);
    world.enroll("shop-4", &[("role", "gateway")]).await;
    let targets = Some(v1::Targets { selector: "role=gateway".to_owned(), ..Default::default() });
    let (_, _, found) = refused(v1::CreateJobRequest { targets, ..removal(&app, &[]) }).await;
    assert_eq!(found, [format!("targets.selector: matches no node that has the app {app}")]);

    let (code, reason, _) = refused(removal("till-none", &[])).await;
    assert_eq!((code, reason.as_str()), (Code::NotFound, "APP_NOT_FOUND"));
    let (_, _, found) = refused(v1::CreateJobRequest { app_name: String::new(), ..removal("", &["shop-1"]) }).await;
    assert_eq!(found, ["app_name: is missing"]);
    let (_, _, found) = refused(v1::CreateJobRequest { spec: order(&[]).spec, ..removal(&app, &[]) }).await;
    assert_eq!(found, ["spec: is not for REMOVE jobs; leave it out"]);
    let (_, _, found) = refused(v1::CreateJobRequest { app_name: app.clone(), ..order(&["shop-1"]) }).await;
    assert_eq!(found, ["app_name: is not for DEPLOY jobs; leave it out"]);
    let (_, _, found) = refused(v1::CreateJobRequest { kind: 99, ..removal(&app, &[]) }).await;
    assert!(found[0].starts_with("kind: has the value 99"), "{found:?}");

    let job = world.create(removal(&app, &[])).await;
    for validate_only in [true, false] {
        let again = v1::CreateJobRequest { validate_only, ..removal(&app, &[]) };
        let (code, details) = failure(world.jobs().create_job(again).await);
        assert_eq!((code, details.error_info().unwrap().reason.as_str()), (Code::FailedPrecondition, "APP_BUSY"));
        let violation = &details.precondition_failure().unwrap().violations[0];
        assert_eq!(violation.subject, app);
        assert!(violation.description.contains(&job.job_id), "{violation:?}");
    }
}

#[tokio::test]
async fn what_is_only_validated_names_the_app_and_removes_nothing() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1"]).await;
    let (app, _) = deployed(&world, &mut agents, &["shop-1"]).await;
    let preview = world.create(v1::CreateJobRequest { validate_only: true, ..removal(&app, &[]) }).await;
    assert_eq!((preview.job_id.as_str(), &preview.app_name, preview.kind()), ("", &app, JobKind::Remove));
    let request = v1::GetAppRequest { node_name: "shop-1".to_owned(), app_name: app };
    assert!(!world.apps().get_app(request).await.unwrap().into_inner().app.unwrap().removing);
}
