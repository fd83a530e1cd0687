//! The shapes of errors.

use longshore_model::limits::MAX_TARGETS;
use longshore_proto::v1;
use tonic::Code;
use tonic_types::ErrorDetails;

use crate::harness::{World, failure, hello, order};

const UNKNOWN_JOB: &str = "01arz3ndektsv4rrffq69g5fav";

fn fields(details: &ErrorDetails) -> Vec<&str> {
    details.bad_request().unwrap().field_violations.iter().map(|found| found.field.as_str()).collect()
}

fn reason(details: &ErrorDetails) -> &str {
    let info = details.error_info().unwrap();
    assert_eq!(info.domain, "longshore");
    &info.reason
}

#[tokio::test]
async fn everything_that_is_wrong_with_a_job_is_answered_at_once() {
    let world = World::start().await;
    let mut request = order(&["nowhere"]);
    request.timeout = Some(prost_types::Duration { seconds: 0, nanos: 1 });
    let spec = request.spec.as_mut().unwrap();
    spec.name = "Till".to_owned();
    spec.instances = 1000;
    spec.env = vec![v1::EnvVar { name: "1".to_owned(), source: Some(v1::env_var::Source::Value("x".to_owned())) }];
    let (code, details) = failure(world.jobs().create_job(request).await);
    assert_eq!((code, reason(&details)), (Code::InvalidArgument, "INVALID_REQUEST"));
    let found = fields(&details);
    for field in ["spec.name", "spec.instances", "spec.env[0].name", "timeout", "targets.node_names"] {
        assert!(found.contains(&field), "{field} is not among {found:?}");
    }

    let (code, details) = failure(world.jobs().create_job(v1::CreateJobRequest::default()).await);
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(fields(&details), ["spec", "targets"]);
}

/// A deployment with a mistake in every part.
fn all_wrong() -> v1::CreateJobRequest {
    let long = prost_types::Duration { seconds: i64::MAX, nanos: 0 };
    let port = |container_port, host_interface: &str| v1::Port {
        container_port,
        host_interface: host_interface.to_owned(),
        ..Default::default()
    };
    let mapping = v1::PortMapping { ports: vec![port(65_536, "a/b"), port(65_537, "eth0"), port(0, "")] };
    let empty = v1::EmptyDir { medium: 9, size_limit_bytes: 1 };
    v1::CreateJobRequest {
        request_id: "7".to_owned(),
        spec: Some(v1::AppSpec {
            name: "Till".to_owned(),
            image: None,
            env: vec![
                v1::EnvVar { name: "1".to_owned(), source: None },
                v1::EnvVar { name: "A".to_owned(), source: Some(v1::env_var::Source::NodeField(0)) },
                v1::EnvVar { name: "A".to_owned(), source: Some(v1::env_var::Source::Value("\0".to_owned())) },
            ],
            restart_policy: 9,
            instances: 1_000_000,
            volumes: vec![
                v1::Volume { mount_path: "data".to_owned(), ..Default::default() },
                v1::Volume {
                    mount_path: "/proc".to_owned(),
                    source: Some(v1::volume::Source::EmptyDir(empty)),
                    ..Default::default()
                },
            ],
            network: Some(v1::Network { mode: Some(v1::network::Mode::PortMapping(mapping)) }),
            startup: Some(v1::Startup {
                settle: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
                max_starts: 1_000_000,
            }),
            ..Default::default()
        }),
        targets: Some(v1::Targets { node_names: vec!["shop-1".to_owned(), "shop-9".to_owned()], ..Default::default() }),
        rollout: Some(v1::Rollout { absent_after: Some(long), ..Default::default() }),
        timeout: Some(long),
        ..Default::default()
    }
}

#[tokio::test]
async fn what_is_missing_hides_nothing_else() {
    let world = World::start().await;
    world.enroll("shop-1", &[]).await;
    let wrong = all_wrong();
    let of_spec = [
        "spec.env[0]",
        "spec.env[0].name",
        "spec.env[1].node_field",
        "spec.env[2].name",
        "spec.env[2].value",
        "spec.instances",
        "spec.name",
        "spec.network.port_mapping.ports[0].container_port",
        "spec.network.port_mapping.ports[0].host_interface",
        "spec.network.port_mapping.ports[1].container_port",
        "spec.network.port_mapping.ports[2].container_port",
        "spec.restart_policy",
        "spec.startup.max_starts",
        "spec.startup.settle",
        "spec.volumes[0]",
        "spec.volumes[0].mount_path",
        "spec.volumes[1].empty_dir.medium",
        "spec.volumes[1].empty_dir.size_limit_bytes",
        "spec.volumes[1].mount_path",
    ];
    let of_request = ["request_id", "rollout.absent_after", "targets.node_names", "timeout"];
    let found = |details: &ErrorDetails| -> Vec<String> {
        let mut found: Vec<String> = fields(details).into_iter().map(str::to_owned).collect();
        found.sort();
        found
    };
    let expected = |more: &[&str], with_spec: bool| {
        let spec = if with_spec { of_spec.as_slice() } else { &[] };
        let mut all: Vec<String> = [&of_request, more, spec].concat().into_iter().map(str::to_owned).collect();
        all.sort();
        all
    };
    let (code, details) = failure(world.jobs().create_job(wrong.clone()).await);
    assert_eq!((code, found(&details)), (Code::InvalidArgument, expected(&["spec.image"], true)));
    let image = Some(v1::Image { source: None, pull_policy: 9, credential: "No".to_owned(), ..Default::default() });
    let spec = Some(v1::AppSpec { image, ..wrong.spec.clone().unwrap() });
    let (_, details) = failure(world.jobs().create_job(v1::CreateJobRequest { spec, ..wrong.clone() }).await);
    let image = ["spec.image", "spec.image.pull_policy", "spec.image.credential"];
    assert_eq!(found(&details), expected(&image, true));
    let app_name = "till-1".to_owned();
    let (_, details) = failure(world.jobs().create_job(v1::CreateJobRequest { app_name, ..wrong.clone() }).await);
    assert_eq!(found(&details), expected(&["app_name", "spec.image"], true), "which a deployment has not");
    let (_, details) = failure(world.jobs().create_job(v1::CreateJobRequest { spec: None, ..wrong }).await);
    assert_eq!(found(&details), expected(&["spec"], false));
}

#[tokio::test]
async fn targets_must_share_an_architecture_unless_mixed_ones_are_meant() {
    let world = World::start().await;
    let _agents = world.fleet(&["shop-1", "shop-2"]).await;
    world.enroll("shop-3", &[]).await;
    let mut odd = world.dial_session(world.agent_service("shop-3"), hello("arm64")).await.unwrap();
    odd.next().await;
    let mut request = order(&["shop-1", "shop-2", "shop-3"]);
    let (code, details) = failure(world.jobs().create_job(request.clone()).await);
    assert_eq!((code, fields(&details)), (Code::InvalidArgument, vec!["targets"]));
    assert!(details.bad_request().unwrap().field_violations[0].description.contains("arm64: shop-3"));

    request.targets.as_mut().unwrap().mixed_architectures = true;
    let job = world.create(request).await;
    assert_eq!(job.counts.unwrap().pending, 3);
}

#[tokio::test]
async fn floating_tags_are_warned_of() {
    let world = World::start().await;
    world.enroll("shop-1", &[]).await;
    let mut request = order(&["shop-1"]);
    let source = v1::image::Source::Reference("registry.example.com/till:latest".to_owned());
    request.spec.as_mut().unwrap().image.as_mut().unwrap().source = Some(source);
    assert_eq!(world.create(request).await.warnings.len(), 1);
    assert_eq!(world.create(order(&["shop-1"])).await.warnings, Vec::<String>::new());
}

#[tokio::test]
async fn unknown_things_are_not_found_and_say_what_they_are() {
    let world = World::start().await;
    let job_id = UNKNOWN_JOB.to_owned();
    let (code, details) =
        failure(world.jobs().get_job(v1::GetJobRequest { job_id: job_id.clone(), ..Default::default() }).await);
    assert_eq!((code, reason(&details)), (Code::NotFound, "JOB_NOT_FOUND"));
    assert_eq!(details.resource_info().unwrap().resource_name, UNKNOWN_JOB);
    let watch = world.jobs().watch_job(v1::WatchJobRequest { job_id: job_id.clone(), ..Default::default() }).await;
    assert_eq!(failure(watch).0, Code::NotFound);
    let wait = world.jobs().wait_job(v1::WaitJobRequest { job_id: job_id.clone(), timeout: None }).await;
    assert_eq!(failure(wait).0, Code::NotFound);
    let tasks = v1::ListTasksRequest { job_id: job_id.clone(), ..Default::default() };
    assert_eq!(failure(world.jobs().list_tasks(tasks).await).0, Code::NotFound);
    let stop = v1::StopJobRequest { job_id, cancel_in_flight: false, ..Default::default() };
    assert_eq!(failure(world.jobs().stop_job(stop).await).0, Code::NotFound);
    let node = v1::GetNodeRequest { name: "nowhere".to_owned() };
    let (code, details) = failure(world.nodes().get_node(node).await);
    assert_eq!((code, reason(&details)), (Code::NotFound, "NODE_NOT_FOUND"));
    let app = v1::GetAppRequest { node_name: "nowhere".to_owned(), app_name: "till-1".to_owned() };
    let (code, details) = failure(world.apps().get_app(app).await);
    assert_eq!((code, reason(&details)), (Code::NotFound, "APP_NOT_FOUND"));
}

#[tokio::test]
async fn malformed_names_are_named_by_their_fields() {
    let world = World::start().await;
    let (code, details) =
        failure(world.jobs().get_job(v1::GetJobRequest { job_id: "x".to_owned(), ..Default::default() }).await);
    assert_eq!((code, fields(&details)), (Code::InvalidArgument, vec!["job_id"]));
    let (_, details) = failure(world.apps().get_app(v1::GetAppRequest::default()).await);
    assert_eq!(fields(&details), ["node_name", "app_name"]);
    let request = v1::ListAppsRequest {
        page_size: -1,
        page_token: "?".to_owned(),
        node_name: "A".to_owned(),
        ..Default::default()
    };
    let (_, details) = failure(world.apps().list_apps(request).await);
    assert_eq!(fields(&details), ["node_name", "page_size", "page_token"]);
    let request = v1::ListNodesRequest { selector: "a in".to_owned(), ..Default::default() };
    let (_, details) = failure(world.nodes().list_nodes(request).await);
    assert_eq!(fields(&details), ["selector"]);
}

#[tokio::test]
async fn a_request_that_the_state_forbids_names_the_state() {
    let world = World::start().await;
    world.enroll("shop-1", &[]).await;
    let job = world.create(order(&["shop-1"])).await;
    let (code, details) =
        failure(world.jobs().retry_job(v1::RetryJobRequest { job_id: job.job_id.clone(), ..Default::default() }).await);
    assert_eq!((code, reason(&details)), (Code::FailedPrecondition, "JOB_STATE"));
    assert_eq!(details.precondition_failure().unwrap().violations[0].subject, "QUEUED");
    let resume = world.jobs().resume_job(v1::ResumeJobRequest { job_id: job.job_id, ..Default::default() }).await;
    assert_eq!(failure(resume).0, Code::FailedPrecondition);
}

#[tokio::test]
async fn messages_that_cannot_be_taken_are_the_callers_fault() {
    let world = World::start().await;
    let name = "x".repeat(5 * 1024 * 1024);
    let (code, details) = failure(world.nodes().get_node(v1::GetNodeRequest { name }).await);
    assert_eq!((code, reason(&details)), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));

    let mut raw = tonic::client::Grpc::new(world.channel());
    raw.ready().await.unwrap();
    // Its first field is a number, where a text is expected.
    let damaged = tonic::Request::new(v1::ListJobsRequest { page_size: 1, ..Default::default() });
    let codec = longshore_proto::codec::SmallCodec::<v1::ListJobsRequest, v1::GetJobResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/longshore.v1.JobService/GetJob");
    let (code, details) = failure(raw.unary(damaged, path, codec).await);
    assert_eq!((code, reason(&details)), (Code::InvalidArgument, "MESSAGE_UNREADABLE"));
}

#[tokio::test]
async fn as_many_targets_as_a_job_may_have_fit_into_one_request() {
    let world = World::start().await;
    for (count, expected) in [(MAX_TARGETS, "there are no nodes"), (MAX_TARGETS + 1, "at most 100000")] {
        let names: Vec<String> = (0..count).map(|number| format!("{number:063}")).collect();
        let mut request = order(&[]);
        request.targets.as_mut().unwrap().node_names = names;
        let (code, details) = failure(world.jobs().create_job(request).await);
        assert_eq!((code, fields(&details)), (Code::InvalidArgument, vec!["targets.node_names"]));
        let violations = &details.bad_request().unwrap().field_violations;
        assert!(violations[0].description.contains(expected), "{violations:?}");
    }
}

#[tokio::test]
async fn a_call_without_an_identity_is_refused() {
    let world = World::start().await;
    let mut jobs = v1::job_service_client::JobServiceClient::new(world.channel());
    world.enroll("shop-1", &[]).await;
    let (code, details) = failure(jobs.create_job(order(&["shop-1"])).await);
    assert_eq!((code, reason(&details)), (Code::Unauthenticated, "NO_IDENTITY"));
}
