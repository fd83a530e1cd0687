//! The life of a job.

use longshore_proto::v1;
use v1::{JobState, Order, TaskState};

use crate::harness::{World, app_is, eventually, failure, order, reached};

#[tokio::test]
async fn a_job_goes_its_whole_way_to_healthy_apps_and_their_removal() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1", "shop-2"]).await;
    let mut request = order(&[]);
    request.targets = Some(v1::Targets { selector: "role=till".to_owned(), ..Default::default() });
    let job = world.create(request).await;
    assert_eq!(job.creator, "ann");
    assert!(job.app_name.starts_with("till-"));
    assert_eq!(job.counts.unwrap().pending, 2);

    for agent in &mut agents {
        let assignment = agent.set().await;
        assert_eq!((&assignment.app_name, &assignment.job_id), (&job.app_name, &job.job_id));
        assert_eq!((assignment.order(), assignment.attempt), (Order::Deploy, 1));
        for state in [TaskState::Checking, TaskState::Pulling, TaskState::Creating, TaskState::Settling] {
            agent.reach(&assignment, state).await;
        }
        agent.report(app_is(&assignment, v1::AppState::Running)).await;
        agent.reach(&assignment, TaskState::Succeeded).await;
    }
    let done = world.job_in(&job.job_id, JobState::Succeeded).await;
    assert!(done.end_time.is_some() && done.deadline.is_none());

    let request = v1::GetAppRequest { node_name: "shop-1".to_owned(), app_name: job.app_name.clone() };
    let app = world.apps().get_app(request).await.unwrap().into_inner().app.unwrap();
    assert_eq!(app.status.unwrap().state(), v1::AppState::Running);
    assert_eq!(app.spec, job.spec);

    let request = v1::RemoveAppRequest { app_name: job.app_name.clone(), ..Default::default() };
    assert_eq!(world.apps().remove_app(request).await.unwrap().into_inner().nodes, 2);
    for agent in &mut agents {
        let removed = loop {
            let update = agent.update().await;
            if let Some(removed) = update.remove.into_iter().next() {
                break removed;
            }
        };
        assert_eq!(removed, job.app_name);
        let gone = v1::Assignment { app_name: removed, revision: 1, attempt: 1, ..Default::default() };
        agent.report(app_is(&gone, v1::AppState::Removed)).await;
    }
    let apps = world.apps().list_apps(v1::ListAppsRequest::default()).await.unwrap().into_inner().apps;
    assert_eq!(apps, []);
}

#[tokio::test]
async fn a_node_that_is_away_gets_its_task_when_it_comes() {
    let world = World::start().await;
    world.enroll("shop-1", &[]).await;
    let job = world.create(order(&["shop-1"])).await;
    assert_eq!(world.job(&job.job_id).await.state(), JobState::Queued);
    let mut agent = world.connect("shop-1").await;
    let assignment = agent.set().await;
    assert_eq!(assignment.job_id, job.job_id);
    drop(agent);

    // Assigned already: now it is in the full set.
    let (mut agent, full) = world.connect_full("shop-1").await;
    assert_eq!(full, std::slice::from_ref(&assignment));
    agent.reach(&assignment, TaskState::Succeeded).await;
    world.job_in(&job.job_id, JobState::Succeeded).await;
}

#[tokio::test]
async fn after_the_deadline_nothing_flips_the_outcome_until_a_retry() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1"]).await;
    let agent = &mut agents[0];
    let mut request = order(&["shop-1"]);
    request.timeout = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let job = world.create(request).await;
    let assignment = agent.set().await;
    agent.reach(&assignment, TaskState::Pulling).await;
    assert_eq!(agent.removed().await, job.app_name, "the agent is told to give up");
    world.job_in(&job.job_id, JobState::TimedOut).await;

    agent.reach(&assignment, TaskState::Succeeded).await;
    assert_eq!(world.job(&job.job_id).await.state(), JobState::TimedOut);
    let task = world.tasks(&job.job_id).await.remove(0);
    assert_eq!(task.state(), TaskState::TimedOut);
    assert_eq!(task.failure.unwrap().reason(), v1::FailureReason::DeadlineExceeded);
    let last = task.history.last().unwrap();
    assert!(last.late);
    assert_eq!(last.state(), TaskState::Succeeded);

    let request = v1::RetryJobRequest { job_id: job.job_id.clone(), ..Default::default() };
    let retried = world.jobs().retry_job(request).await.unwrap().into_inner().job.unwrap();
    assert_eq!(retried.round, 2);
    let assignment = agent.set().await;
    assert_eq!((assignment.attempt, assignment.order()), (2, Order::Deploy));
    agent.reach(&assignment, TaskState::Succeeded).await;
    world.job_in(&job.job_id, JobState::Succeeded).await;
}

#[tokio::test]
async fn a_retry_touches_exactly_what_has_not_succeeded() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1", "shop-2"]).await;
    let job = world.create(order(&["shop-1", "shop-2"])).await;
    let first = agents[0].set().await;
    let second = agents[1].set().await;
    agents[0].reach(&first, TaskState::Succeeded).await;
    agents[1].reach(&second, TaskState::Failed).await;
    world.job_in(&job.job_id, JobState::PartiallySucceeded).await;
    let tasks = world.tasks(&job.job_id).await;
    assert_eq!(tasks[1].failure.clone().unwrap().reason(), v1::FailureReason::PortInUse);

    world.jobs().retry_job(v1::RetryJobRequest { job_id: job.job_id.clone(), ..Default::default() }).await.unwrap();
    let again = eventually_deploy(&mut agents[1]).await;
    assert_eq!(again.attempt, 2);
    // A report of the first attempt is late.
    agents[1].report(reached(&second, TaskState::Succeeded)).await;
    assert_eq!(world.job(&job.job_id).await.state(), JobState::Running);
    agents[1].reach(&again, TaskState::Succeeded).await;
    world.job_in(&job.job_id, JobState::Succeeded).await;
    let attempts: Vec<u32> = world.tasks(&job.job_id).await.iter().map(|task| task.attempt).collect();
    assert_eq!(attempts, [1, 2]);
}

/// The next assignment to deploy, whatever is said before it of the attempt that ended.
async fn eventually_deploy(agent: &mut crate::harness::Agent) -> v1::Assignment {
    loop {
        let update = agent.update().await;
        if let Some(assignment) = update.set.into_iter().find(|assignment| assignment.order() == Order::Deploy) {
            return assignment;
        }
    }
}

#[tokio::test]
async fn a_stopped_job_waits_and_resumes_where_it_was() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1", "shop-2", "shop-3"]).await;
    let mut request = order(&["shop-1", "shop-2", "shop-3"]);
    request.rollout = Some(v1::Rollout { max_parallel: 1, ..Default::default() });
    let job = world.create(request).await;
    let first = agents[0].set().await;

    let stop = v1::StopJobRequest { job_id: job.job_id.clone(), cancel_in_flight: false, ..Default::default() };
    let stopping = world.jobs().stop_job(stop).await.unwrap().into_inner().job.unwrap();
    assert_eq!(stopping.state(), JobState::Stopping);
    agents[0].reach(&first, TaskState::Succeeded).await;
    let stopped = world.job_in(&job.job_id, JobState::Stopped).await;
    assert!(stopped.deadline.is_none() && stopped.remaining.is_some());
    assert_eq!(stopped.counts.unwrap().pending, 2);

    world.jobs().resume_job(v1::ResumeJobRequest { job_id: job.job_id.clone(), ..Default::default() }).await.unwrap();
    for agent in &mut agents[1..] {
        let assignment = agent.set().await;
        // One at a time, and never more.
        assert_eq!(world.job(&job.job_id).await.counts.unwrap().active, 1);
        agent.reach(&assignment, TaskState::Succeeded).await;
    }
    world.job_in(&job.job_id, JobState::Succeeded).await;
    let attempts: Vec<u32> = world.tasks(&job.job_id).await.iter().map(|task| task.attempt).collect();
    assert_eq!(attempts, [1, 1, 1], "a success is never redone");
}

#[tokio::test]
async fn tasks_in_flight_are_cancelled_when_that_is_asked_for() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1"]).await;
    let job = world.create(order(&["shop-1"])).await;
    let assignment = agents[0].set().await;
    let stop = v1::StopJobRequest { job_id: job.job_id.clone(), cancel_in_flight: true, ..Default::default() };
    world.jobs().stop_job(stop).await.unwrap();
    assert_eq!(agents[0].set().await.order(), Order::Cancel);
    agents[0].reach(&assignment, TaskState::Cancelled).await;
    world.job_in(&job.job_id, JobState::Stopped).await;

    world.jobs().resume_job(v1::ResumeJobRequest { job_id: job.job_id.clone(), ..Default::default() }).await.unwrap();
    let again = eventually_deploy(&mut agents[0]).await;
    assert_eq!(again.attempt, 2);
    agents[0].reach(&again, TaskState::Succeeded).await;
    world.job_in(&job.job_id, JobState::Succeeded).await;
}

#[tokio::test]
async fn a_paced_job_never_has_more_in_flight_than_it_may() {
    let world = World::start().await;
    let names: Vec<String> = (1..=9).map(|index| format!("shop-{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let agents = world.fleet(&names).await;
    let mut request = order(&names);
    request.rollout = Some(v1::Rollout { max_parallel: 3, ..Default::default() });
    let job = world.create(request).await;
    let mut work = tokio::task::JoinSet::new();
    for mut agent in agents {
        work.spawn(async move {
            let assignment = agent.set().await;
            agent.reach(&assignment, TaskState::Pulling).await;
            agent.reach(&assignment, TaskState::Succeeded).await;
            agent
        });
    }
    eventually(|| async {
        let job = world.job(&job.job_id).await;
        assert!(job.counts.unwrap().active <= 3);
        Some(()).filter(|()| job.state() == JobState::Succeeded)
    })
    .await;
    work.join_all().await;
}

#[tokio::test]
async fn failures_are_grouped_and_retried_by_cause() {
    let world = World::start().await;
    let names = ["shop-1", "shop-2", "shop-3", "shop-4"];
    let mut agents = world.fleet(&names).await;
    let job = world.create(order(&names)).await;
    for (number, agent) in agents.iter_mut().enumerate() {
        let assignment = agent.set().await;
        let (reason, message) = match number {
            0 | 1 => (v1::FailureReason::PortInUse, format!("Port 80 on 10.0.0.{number} is taken.")),
            2 => (v1::FailureReason::DiskFull, "The disk is full.".to_owned()),
            _ => {
                agent.reach(&assignment, TaskState::Succeeded).await;
                continue;
            }
        };
        let failure =
            v1::Failure { reason: reason.into(), message, step: TaskState::Checking.into(), ..Default::default() };
        let v1::report::Subject::Task(task) = reached(&assignment, TaskState::Failed) else { unreachable!("a task") };
        agent.report(v1::report::Subject::Task(v1::TaskReport { failure: Some(failure), ..task })).await;
    }
    world.job_in(&job.job_id, JobState::PartiallySucceeded).await;
    let request = v1::GroupFailuresRequest { job_id: job.job_id.clone() };
    let found = world.jobs().group_failures(request).await.unwrap().into_inner();
    let told: Vec<_> = found.groups.iter().map(|group| (group.reason(), group.tasks, group.pattern.as_str())).collect();
    let ports = (v1::FailureReason::PortInUse, 2, "Port … on … is taken.");
    assert_eq!(told, [ports, (v1::FailureReason::DiskFull, 1, "The disk is full.")]);
    let filter = found.groups[0].filter.clone();
    let request = v1::ListTasksRequest { job_id: job.job_id.clone(), filter: filter.clone(), ..Default::default() };
    let tasks = world.jobs().list_tasks(request).await.unwrap().into_inner().tasks;
    assert_eq!(tasks.iter().map(|task| task.node_name.as_str()).collect::<Vec<_>>(), ["shop-1", "shop-2"]);

    let retry = |filter: &str| v1::RetryJobRequest {
        job_id: job.job_id.clone(),
        filter: filter.to_owned(),
        ..Default::default()
    };
    for nothing in ["node_name = \"shop-4\"", "failure.cause = \"x\"", "no such"] {
        let (code, details) = failure(world.jobs().retry_job(retry(nothing)).await);
        assert_eq!(code, tonic::Code::InvalidArgument, "{nothing}");
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "filter", "{nothing}");
    }
    world.jobs().retry_job(v1::RetryJobRequest { validate_only: true, ..retry(&filter) }).await.unwrap();
    assert_eq!(world.job(&job.job_id).await.state(), JobState::PartiallySucceeded);
    world.jobs().retry_job(retry(&filter)).await.unwrap();
    for agent in agents.iter_mut().take(2) {
        let assignment = agent.set().await;
        assert_eq!(assignment.attempt, 2);
        agent.reach(&assignment, TaskState::Succeeded).await;
    }
    let done = world.job_in(&job.job_id, JobState::PartiallySucceeded).await;
    let counts = done.counts.unwrap();
    assert_eq!((counts.succeeded, counts.failed, done.round), (3, 1, 2));
    let attempts: Vec<_> = world.tasks(&job.job_id).await.iter().map(|task| task.attempt).collect();
    assert_eq!(attempts, [2, 2, 1, 1], "the others stay as they are");
}
