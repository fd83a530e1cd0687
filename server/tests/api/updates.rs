//! Jobs that update apps, as people and agents see them.

use longshore_proto::v1;
use tonic::Code;
use v1::{AppState, FailureReason, JobKind, JobState, Order, TaskState};

use crate::harness::{ToServer, World, app_is, failure, hello, order};
use crate::removal::deployed;

fn update(app: &str, nodes: &[&str], image: &str) -> v1::CreateJobRequest {
    let mut request = order(nodes);
    let source = Some(v1::image::Source::Reference(format!("registry.example.com/{image}")));
    request.spec.as_mut().unwrap().image = Some(v1::Image { source, ..Default::default() });
    v1::CreateJobRequest { kind: JobKind::Update.into(), app_name: app.to_owned(), ..request }
}

async fn app_on(world: &World, node: &str, name: &str) -> v1::App {
    let request = v1::GetAppRequest { node_name: node.to_owned(), app_name: name.to_owned() };
    world.apps().get_app(request).await.unwrap().into_inner().app.unwrap()
}

#[tokio::test]
async fn an_update_goes_where_the_app_is_and_comes_back_where_it_fails() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1", "shop-2", "shop-3"]).await;
    let (app, first) = deployed(&world, &mut agents[..2], &["shop-1", "shop-2"]).await;
    let job = world.create(update(&app, &[], "till:2")).await;
    assert_eq!((job.kind(), &job.app_name, job.counts.unwrap().pending), (JobKind::Update, &app, 2));

    let told = agents[0].set().await;
    assert_eq!((&told.app_name, told.revision, told.order()), (&app, 2, Order::Deploy));
    agents[0].report(app_is(&first[0], AppState::Running)).await;
    let during = app_on(&world, "shop-1", &app).await;
    assert_eq!((during.revision, &during.job_id, &during.previous_job_id), (2, &job.job_id, &first[0].job_id));
    assert_eq!(during.status.unwrap().state(), AppState::Running, "what runs meanwhile");
    agents[0].reach(&told, TaskState::Succeeded).await;
    assert_eq!(app_on(&world, "shop-1", &app).await.spec, job.spec);

    let told = agents[1].set().await;
    let updates = agents[1].reach(&told, TaskState::Failed).await;
    let back = match updates.into_iter().flat_map(|update| update.set).next() {
        Some(back) => back,
        None => agents[1].set().await,
    };
    assert_eq!(back, v1::Assignment { order: Order::Keep.into(), ..first[1].clone() });
    world.job_in(&job.job_id, JobState::PartiallySucceeded).await;
    let after = app_on(&world, "shop-2", &app).await;
    assert_eq!((after.revision, &after.job_id, after.previous_job_id.as_str()), (1, &first[1].job_id, ""));
}

#[tokio::test]
async fn an_update_that_cannot_be_is_refused_by_name() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1", "shop-2"]).await;
    let (app, _) = deployed(&world, &mut agents[..1], &["shop-1"]).await;
    let mut request = update(&app, &["shop-1", "shop-2"], "till:2");
    request.spec.as_mut().unwrap().name = "tilt".to_owned();
    let (code, details) = failure(world.jobs().create_job(request).await);
    assert_eq!(code, Code::InvalidArgument);
    let found: Vec<(String, String)> = details
        .bad_request()
        .unwrap()
        .field_violations
        .iter()
        .map(|violation| (violation.field.clone(), violation.description.clone()))
        .collect();
    let name = format!("is \"tilt\"; the name of the app {app} stays \"till\"");
    let place = format!("the app {app} is not on shop-2");
    assert_eq!(found, [("spec.name".to_owned(), name), ("targets.node_names".to_owned(), place)]);
    let (_, details) =
        failure(world.jobs().create_job(v1::CreateJobRequest { spec: None, ..update(&app, &[], "x") }).await);
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "spec");

    world.create(update(&app, &[], "till:2")).await;
    let (code, details) = failure(world.jobs().create_job(update(&app, &[], "till:3")).await);
    assert_eq!((code, details.error_info().unwrap().reason.as_str()), (Code::FailedPrecondition, "APP_BUSY"));
    let removal = v1::RemoveAppRequest { app_name: app, ..Default::default() };
    let (code, details) = failure(world.apps().remove_app(removal).await);
    assert_eq!((code, details.error_info().unwrap().reason.as_str()), (Code::FailedPrecondition, "APP_BUSY"));
}

#[tokio::test]
async fn an_agent_that_is_too_old_is_not_asked() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1"]).await;
    let (app, first) = deployed(&world, &mut agents, &["shop-1"]).await;
    drop(agents);
    let ToServer::Hello(mut old) = hello("amd64") else { panic!("a Hello") };
    old.info.as_mut().unwrap().capabilities.clear();
    let _agent = world.dial_session(world.agent_service("shop-1"), ToServer::Hello(old)).await.unwrap();
    let job = world.create(update(&app, &[], "till:2")).await;
    world.job_in(&job.job_id, JobState::Failed).await;
    let failure = world.tasks(&job.job_id).await[0].failure.clone().unwrap();
    assert_eq!(failure.reason(), FailureReason::Unsupported);
    assert!(failure.message.contains("too old for UPDATE jobs"), "{failure:?}");
    assert_eq!(app_on(&world, "shop-1", &app).await.job_id, first[0].job_id);
}
