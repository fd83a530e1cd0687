//! What a call is called, from its caller to the nodes that it reaches.

use longshore_proto::v1;
use longshore_tests::cluster::Cluster;
use longshore_tests::{spec, wait};
use tonic::{Code, Request};
use tonic_types::StatusExt;

const HEADER: &str = "x-request-id";

fn named<T>(message: T, id: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(HEADER, id.parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn one_word_finds_what_a_call_led_to_on_all_machines() {
    let cluster = Cluster::start().await;
    let node = cluster.node_with("edge-1", &[], None, &["--runtime", "fake"]).await;
    let mut jobs = cluster.client().await.jobs;
    let mut app = spec::app("", &[]);
    app.image.as_mut().unwrap().source = Some(v1::image::Source::Reference("registry.example.com/app:1".to_owned()));
    let order = v1::CreateJobRequest {
        spec: Some(app),
        targets: Some(v1::Targets { node_names: vec!["edge-1".to_owned()], ..Default::default() }),
        ..Default::default()
    };
    let answer = jobs.create_job(named(order, "rollout-7.spring")).await.unwrap();
    assert_eq!(answer.metadata().get(HEADER).unwrap(), "rollout-7.spring");
    let job = answer.into_inner().job.unwrap().job_id;
    let wanted = "request_id=\"rollout-7.spring\"";
    wait::until("the agent's line", || async {
        node.log().lines().any(|line| line.contains(wanted) && line.contains(&job))
    })
    .await;
    let log = cluster.server_log();
    assert!(log.lines().any(|line| line.contains(wanted) && line.contains("job created")), "{log}");

    let unknown = v1::GetJobRequest { job_id: "0".repeat(26), ..Default::default() };
    let error = jobs.get_job(named(unknown.clone(), "lost")).await.unwrap_err();
    assert_eq!((error.code(), error.metadata().get(HEADER).unwrap().to_str().unwrap()), (Code::NotFound, "lost"));
    let details = error.get_error_details();
    assert_eq!(details.request_info().unwrap().request_id, "lost");
    assert_eq!(details.error_info().unwrap().reason, "JOB_NOT_FOUND", "the other details stay");

    // One that cannot stand in a log is replaced, and so is none at all.
    for request in [named(unknown.clone(), "a b"), Request::new(unknown)] {
        let error = jobs.get_job(request).await.unwrap_err();
        let made = error.metadata().get(HEADER).unwrap().to_str().unwrap().to_owned();
        assert!(made.len() == 26 && made.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{made}");
        assert_eq!(error.get_error_details().request_info().unwrap().request_id, made);
    }
}
