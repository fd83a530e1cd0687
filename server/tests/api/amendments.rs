//! Retries with another spec, as people and agents see them.

use longshore_proto::v1;
use tonic::Code;
use v1::{JobKind, JobState, TaskState};

use crate::harness::{Agent, World, failure, order};

const REQUEST: &str = "2b1c6a1e-58a5-4c0f-9d0e-6a6f3c1f7c11";

/// The spec of [`order`], with another image.
fn image(reference: &str) -> v1::AppSpec {
    let source = Some(v1::image::Source::Reference(format!("registry.example.com/{reference}")));
    v1::AppSpec { image: Some(v1::Image { source, ..Default::default() }), ..order(&[]).spec.unwrap() }
}

fn retry(job_id: &str, spec: v1::AppSpec) -> v1::RetryJobRequest {
    v1::RetryJobRequest { job_id: job_id.to_owned(), spec: Some(spec), ..Default::default() }
}

async fn retried(world: &World, request: v1::RetryJobRequest) -> v1::Job {
    world.jobs().retry_job(request).await.unwrap().into_inner().job.unwrap()
}

/// What is wrong with a request, by field.
async fn told(world: &World, request: v1::RetryJobRequest) -> Vec<String> {
    let (code, details) = failure(world.jobs().retry_job(request).await);
    assert_eq!(code, Code::InvalidArgument);
    let found = details.bad_request().unwrap().field_violations.clone();
    found.into_iter().map(|violation| format!("{}: {}", violation.field, violation.description)).collect()
}

/// A job of which the first node has succeeded, and the second failed.
async fn half_done(world: &World, agents: &mut [Agent]) -> v1::Job {
    let job = world.create(order(&["shop-1", "shop-2"])).await;
    for (agent, state) in agents.iter_mut().zip([TaskState::Succeeded, TaskState::Failed]) {
        let told = agent.set().await;
        agent.reach(&told, state).await;
    }
    world.job_in(&job.job_id, JobState::PartiallySucceeded).await
}

#[tokio::test]
async fn what_has_not_succeeded_gets_another_spec() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1", "shop-2"]).await;
    let job = half_done(&world, &mut agents).await;
    let request = v1::RetryJobRequest {
        etag: job.etag.clone(),
        request_id: REQUEST.to_owned(),
        ..retry(&job.job_id, image("till:latest"))
    };
    let checked = retried(&world, v1::RetryJobRequest { validate_only: true, ..request.clone() }).await;
    assert_eq!((checked.spec_revision, world.job(&job.job_id).await.spec_revision), (2, 1));
    let amended = retried(&world, request.clone()).await;
    assert_eq!((amended.spec_revision, amended.warnings.len()), (2, 1), "advice is about the newest spec");
    let source = |spec: &v1::AppSpec| spec.image.clone().unwrap().source;
    assert_eq!(source(amended.spec.as_ref().unwrap()), source(&image("till:latest")));
    assert_eq!(retried(&world, request).await.round, 2, "the same request again");
    let set = agents[1].set().await;
    assert_eq!((set.revision, set.attempt), (2, 2));
    agents[1].reach(&set, TaskState::Succeeded).await;
    world.job_in(&job.job_id, JobState::Succeeded).await;
    let specs: Vec<u32> = world.tasks(&job.job_id).await.iter().map(|task| task.spec_revision).collect();
    assert_eq!(specs, [1, 2]);
    for (node, spec, number) in [("shop-1", &job.spec, 1), ("shop-2", &amended.spec, 2)] {
        let request = v1::GetAppRequest { node_name: node.to_owned(), app_name: job.app_name.clone() };
        let app = world.apps().get_app(request).await.unwrap().into_inner().app.unwrap();
        assert_eq!((&app.spec, app.spec_revision), (spec, number), "{node}");
        let request = v1::GetJobRequest { job_id: job.job_id.clone(), spec_revision: number };
        let kept = world.jobs().get_job(request).await.unwrap().into_inner().job.unwrap();
        assert_eq!((&kept.spec, kept.spec_revision), (spec, number));
    }
    let unknown = v1::GetJobRequest { job_id: job.job_id.clone(), spec_revision: 3 };
    assert_eq!(failure(world.jobs().get_job(unknown).await).0, Code::NotFound);
    // A session that begins anew is told the same, each node its own.
    drop(agents);
    for (node, spec) in [("shop-1", &job.spec), ("shop-2", &amended.spec)] {
        let (_agent, full) = world.connect_full(node).await;
        let sent = longshore_proto::convert::decode_spec(&full[0].app_spec).unwrap();
        assert_eq!(&Some(v1::AppSpec::from(&sent)), spec, "{node}");
    }
}

#[tokio::test]
async fn another_spec_is_checked_as_that_of_a_new_job() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1", "shop-2"]).await;
    let job = half_done(&world, &mut agents).await;
    let id = &job.job_id;
    let env_from =
        v1::EnvFrom { source: Some(v1::env_from::Source::ConfigMap("site".to_owned())), ..Default::default() };
    let wrong = v1::AppSpec { name: "tilt".to_owned(), env_from: vec![env_from], ..image("till:2") };
    let name = format!("spec.name: is \"tilt\"; the name of the app {} stays \"till\"", job.app_name);
    let missing = "spec.env_from[0].config_map: there is no config map \"site\"";
    assert_eq!(told(&world, retry(id, wrong)).await, [name.as_str(), missing]);
    let many = v1::AppSpec { instances: 1000, ..image("till:2") };
    assert!(told(&world, retry(id, many)).await[0].starts_with("spec.instances: "));
    let template =
        Some(v1::TemplateReference { name: "till".to_owned(), version: "1".to_owned(), ..Default::default() });
    let unknown = v1::RetryJobRequest { template, spec: None, ..retry(id, image("x")) };
    assert_eq!(told(&world, unknown).await, ["template.version: there is no version \"1\" of a template till"]);
    let none = v1::RetryJobRequest { filter: "node_name = shop-1".to_owned(), ..retry(id, image("till:2")) };
    assert!(told(&world, none).await[0].starts_with("filter: "), "that one has succeeded");
    let stale = v1::RetryJobRequest { etag: "1".to_owned(), ..retry(id, image("till:2")) };
    assert_eq!(failure(world.jobs().retry_job(stale).await).0, Code::Aborted);
    assert_eq!(world.job(id).await, job, "nothing has changed");

    let removal =
        v1::CreateJobRequest { kind: JobKind::Remove.into(), app_name: job.app_name.clone(), ..Default::default() };
    let removal = world.create(removal).await;
    let none = told(&world, retry(&removal.job_id, image("till:2"))).await;
    assert_eq!(none, ["spec: is not for REMOVE jobs, which run nothing; leave it out"]);
}

#[tokio::test]
async fn another_spec_can_be_made_of_a_template() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1", "shop-2"]).await;
    let job = half_done(&world, &mut agents).await;
    let template = v1::Template {
        name: "till".to_owned(),
        version: "2".to_owned(),
        architecture: "amd64".to_owned(),
        spec: Some(image("till:2")),
        ..Default::default()
    };
    let create = v1::CreateTemplateRequest { template: Some(template), ..Default::default() };
    world.templates("user/operator/ann").create_template(create).await.unwrap();
    let reference = v1::TemplateReference { name: "till".to_owned(), version: "2".to_owned(), ..Default::default() };
    let overrides = v1::AppSpec { instances: 2, ..Default::default() };
    let request = v1::RetryJobRequest { template: Some(reference), ..retry(&job.job_id, overrides) };
    let amended = retried(&world, request).await;
    let spec = amended.spec.unwrap();
    assert_eq!((spec.instances, amended.template.unwrap().version), (2, "2".to_owned()));
    let set = agents[1].set().await;
    let sent = longshore_proto::convert::decode_spec(&set.app_spec).unwrap();
    assert_eq!(v1::AppSpec::from(&sent), spec);
}
