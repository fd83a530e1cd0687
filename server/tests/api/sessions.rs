//! Sessions: their first words, their fences and their ends.

use longshore_model::name::NodeName;
use longshore_proto::v1;
use tonic::Code;
use v1::TaskState;
use v1::open_session_request::Message as ToServer;
use v1::open_session_response::Message as FromServer;

use crate::harness::{World, eventually, failure, hello, order, reached};

#[tokio::test]
async fn a_session_begins_with_hello_in_a_known_protocol_from_a_known_node() {
    let world = World::start().await;
    world.enroll("shop-1", &[]).await;
    let first = |node: &str, message| {
        let service = world.agent_service(node);
        world.dial_session(service, message)
    };
    let status = first("shop-1", ToServer::Report(v1::Report::default())).await.err().unwrap();
    assert_eq!(status.code(), Code::FailedPrecondition);

    let newer = ToServer::Hello(v1::Hello { min_protocol: 2, max_protocol: 3, info: None });
    let status = first("shop-1", newer).await.err().unwrap();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("2 to 3"), "{}", status.message());

    let bare = ToServer::Hello(v1::Hello { min_protocol: 1, max_protocol: 1, info: None });
    let (code, details) = failure(first("shop-1", bare).await.map(|_| ()));
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "hello.info");

    let status = first("stranger", hello("amd64")).await.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(!world.live.fleet.connected(&NodeName::parse("stranger").unwrap()));

    let person = v1::agent_service_client::AgentServiceClient::with_interceptor(
        world.channel(),
        crate::harness::As("user/admin/bob".to_owned()),
    );
    let status = world.dial_session(person, hello("amd64")).await.err().unwrap();
    assert_eq!(status.code(), Code::Unimplemented, "people's listener has no sessions");
}

#[tokio::test]
async fn a_new_session_fences_the_old_one() {
    let world = World::start().await;
    let mut old = world.fleet(&["shop-1"]).await.remove(0);
    let job = world.create(order(&["shop-1"])).await;
    let assignment = old.set().await;
    let (mut new, full) = world.connect_full("shop-1").await;
    assert_eq!(full, std::slice::from_ref(&assignment));
    assert_ne!(old.session, new.session);

    // Whatever the old one still says counts for nothing.
    old.send(reached(&assignment, TaskState::Succeeded)).await;
    assert_eq!(old.end().await.unwrap().code(), Code::Aborted);
    drop(old);
    new.reach(&assignment, TaskState::Pulling).await;
    assert_eq!(world.tasks(&job.job_id).await[0].state(), TaskState::Pulling);
    assert!(world.live.fleet.connected(&NodeName::parse("shop-1").unwrap()));
}

#[tokio::test]
async fn revisions_have_no_gap_however_many_commits_there_are() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1", "shop-2"]).await;
    let jobs = world.jobs();
    let mut work = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let mut jobs = jobs.clone();
        work.spawn(async move { jobs.create_job(order(&["shop-1", "shop-2"])).await.unwrap() });
    }
    for agent in &mut agents {
        let mut open = Vec::new();
        // `update` and `report` check each revision.
        while open.len() < 40 {
            let update = agent.update().await;
            open.extend(update.set);
        }
        for assignment in open {
            agent.reach(&assignment, TaskState::Checking).await;
        }
    }
    work.join_all().await;
}

#[tokio::test]
async fn an_agent_that_does_not_read_is_dropped_and_comes_back_to_everything() {
    const JOBS: usize = 300;
    let world = World::start().await;
    let mut agent = world.fleet(&["shop-1"]).await.remove(0);
    let mut request = order(&["shop-1"]);
    // Together they are more than the connection's windows and the outbox can hold.
    let word = "x".repeat(16 * 1024);
    request.spec.as_mut().unwrap().args = vec![word];
    let jobs = world.jobs();
    let mut work = tokio::task::JoinSet::new();
    for _ in 0..JOBS {
        let (mut jobs, request) = (jobs.clone(), request.clone());
        work.spawn(async move { jobs.create_job(request).await.unwrap() });
    }
    work.join_all().await;
    let node = NodeName::parse("shop-1").unwrap();
    eventually(|| async { Some(()).filter(|()| !world.live.fleet.connected(&node)) }).await;
    assert_eq!(agent.end().await.unwrap().code(), Code::ResourceExhausted);

    let service = world.agent_service("shop-1").max_decoding_message_size(64 * 1024 * 1024);
    let mut agent = world.dial_session(service, hello("amd64")).await.unwrap();
    assert!(matches!(agent.next().await, FromServer::Welcome(_)));
    let FromServer::Full(full) = agent.next().await else { panic!("not the full set") };
    // Those that were assigned before it was dropped; the others follow.
    let mut apps: std::collections::HashSet<String> =
        full.assignments.into_iter().map(|assignment| assignment.app_name).collect();
    assert!(!apps.is_empty());
    while apps.len() < JOBS {
        apps.extend(agent.update().await.set.into_iter().map(|assignment| assignment.app_name));
    }
}

#[tokio::test]
async fn malformed_reports_end_the_session_and_name_the_field() {
    let world = World::start().await;
    world.enroll("shop-1", &[]).await;
    let task = |job_id: &str, state: i32| {
        v1::report::Subject::Task(v1::TaskReport { job_id: job_id.to_owned(), attempt: 1, state, ..Default::default() })
    };
    let job = "01arz3ndektsv4rrffq69g5fav";
    let cases = [
        (None, "report.subject"),
        (Some(task("x", TaskState::Pulling.into())), "report.task.job_id"),
        (Some(task(job, TaskState::TimedOut.into())), "report.task.state"),
        (Some(task(job, 99)), "report.task.state"),
        (Some(v1::report::Subject::App(v1::AppReport::default())), "report.app.app_name"),
    ];
    for (subject, field) in cases {
        let mut agent = world.connect("shop-1").await;
        let report = ToServer::Report(v1::Report { sequence: 1, subject });
        agent.sender.send(v1::OpenSessionRequest { message: Some(report) }).await.unwrap();
        let (code, details) = failure(Err::<(), _>(agent.end().await.unwrap()));
        assert_eq!(code, Code::InvalidArgument);
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, field);
    }
    let mut agent = world.connect("shop-1").await;
    agent.sender.send(v1::OpenSessionRequest { message: Some(hello("amd64")) }).await.unwrap();
    assert_eq!(agent.end().await.unwrap().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn reports_of_unknown_jobs_are_acknowledged_and_dropped() {
    let world = World::start().await;
    let mut agent = world.fleet(&["shop-1"]).await.remove(0);
    let unknown = v1::Assignment { job_id: "01arz3ndektsv4rrffq69g5fav".to_owned(), attempt: 1, ..Default::default() };
    agent.reach(&unknown, TaskState::Succeeded).await;
}

#[tokio::test]
async fn every_report_of_a_burst_is_acknowledged_once() {
    const BURST: u64 = 100;
    let world = World::start().await;
    let mut agent = world.fleet(&["shop-1"]).await.remove(0);
    let job = world.create(order(&["shop-1"])).await;
    let assignment = agent.set().await;
    for done_bytes in 1..BURST {
        let v1::report::Subject::Task(mut report) = reached(&assignment, TaskState::Pulling) else { unreachable!() };
        report.pull = Some(v1::PullProgress { done_bytes, total_bytes: BURST });
        agent.send(v1::report::Subject::Task(report)).await;
    }
    agent.send(reached(&assignment, TaskState::Succeeded)).await;
    let mut acknowledged = Vec::new();
    while acknowledged.len() < BURST as usize {
        match agent.next().await {
            FromServer::Ack(ack) => acknowledged.extend(ack.sequences),
            FromServer::Update(_) => {}
            other => panic!("neither acknowledgement nor update: {other:?}"),
        }
    }
    assert_eq!(acknowledged, (1..=BURST).collect::<Vec<_>>());
    assert_eq!(world.job(&job.job_id).await.state(), v1::JobState::Succeeded);
}

#[tokio::test]
async fn the_end_of_a_session_is_remembered() {
    let world = World::start().await;
    let agent = world.fleet(&["shop-1"]).await.remove(0);
    let get = || async {
        let request = v1::GetNodeRequest { name: "shop-1".to_owned() };
        world.nodes().get_node(request).await.unwrap().into_inner().node.unwrap()
    };
    let node = get().await;
    assert!(node.connected);
    assert_eq!(node.info.unwrap().architecture, "amd64");
    drop(agent);
    let node = eventually(|| async { Some(get().await).filter(|node| !node.connected) }).await;
    assert!(node.last_seen_time.is_some());
}

#[tokio::test]
async fn a_report_that_is_too_large_ends_the_session_and_says_so() {
    let world = World::start().await;
    let mut agent = world.fleet(&["shop-1"]).await.remove(0);
    let failure = v1::Failure { message: "x".repeat(5 * 1024 * 1024), ..Default::default() };
    let report = v1::TaskReport { failure: Some(failure), ..Default::default() };
    agent.send(v1::report::Subject::Task(report)).await;
    let status = agent.end().await.unwrap();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
}

#[tokio::test]
async fn a_session_opens_however_many_apps_are_being_removed() {
    const APPS: usize = 300;
    let world = World::start().await;
    let agent = world.fleet(&["shop-1"]).await.remove(0);
    let mut jobs = Vec::new();
    for _ in 0..APPS {
        jobs.push(world.create(order(&["shop-1"])).await);
    }
    for job in &jobs {
        world.job_in(&job.job_id, v1::JobState::Running).await;
    }
    drop(agent);
    world.store.pass_deadlines(jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1)).await.unwrap();
    let mut agent = world.connect("shop-1").await;
    assert_eq!(agent.update().await.remove.len(), APPS);
}
