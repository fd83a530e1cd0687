//! Lists of what matches.

use longshore_proto::v1;
use tonic::Code;

use crate::harness::{World, app_is, failure, order};

impl World {
    async fn jobs_where(&self, filter: &str) -> Vec<String> {
        let request = v1::ListJobsRequest { filter: filter.to_owned(), ..Default::default() };
        let jobs = self.jobs().list_jobs(request).await.unwrap().into_inner().jobs;
        jobs.into_iter().map(|job| job.job_id).collect()
    }

    async fn nodes_where(&self, filter: &str) -> Vec<String> {
        let request = v1::ListNodesRequest { filter: filter.to_owned(), ..Default::default() };
        let nodes = self.nodes().list_nodes(request).await.unwrap().into_inner().nodes;
        nodes.into_iter().map(|node| node.name).collect()
    }

    async fn tasks_where(&self, job_id: &str, filter: &str) -> Vec<String> {
        let (job_id, filter) = (job_id.to_owned(), filter.to_owned());
        let request = v1::ListTasksRequest { job_id, filter, ..Default::default() };
        let tasks = self.jobs().list_tasks(request).await.unwrap().into_inner().tasks;
        tasks.into_iter().map(|task| task.node_name).collect()
    }

    async fn events_where(&self, request: v1::ListAppEventsRequest) -> Vec<String> {
        let events = self.apps().list_app_events(request).await.unwrap().into_inner().events;
        events.iter().map(|one| format!("{} {} {}", one.node_name, one.r#type().as_str_name(), one.message)).collect()
    }

    async fn apps_where(&self, filter: &str) -> Vec<String> {
        let request = v1::ListAppsRequest { filter: filter.to_owned(), ..Default::default() };
        let apps = self.apps().list_apps(request).await.unwrap().into_inner().apps;
        apps.into_iter().map(|app| app.node_name).collect()
    }
}

#[tokio::test]
async fn every_list_finds_what_matches() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1", "shop-2"]).await;
    world.enroll("shop-3", &[("role", "gateway")]).await;
    let nodes = ["shop-1", "shop-2", "shop-3"];
    assert_eq!(world.nodes_where("").await, nodes);
    assert_eq!(world.nodes_where("connected = true").await, ["shop-1", "shop-2"]);
    assert_eq!(world.nodes_where("labels.role = gateway OR name = shop-1").await, ["shop-1", "shop-3"]);
    assert_eq!(world.nodes_where("info.architecture = amd64 AND NOT name = *-1").await, ["shop-2"]);
    assert_eq!(world.nodes_where("NOT last_seen_time:*").await, ["shop-3"]);

    let old = world.create(order(&["shop-1"])).await;
    let new = world.create(order(&["shop-2", "shop-3"])).await;
    let first = agents[0].set().await;
    agents[0].reach(&first, v1::TaskState::Succeeded).await;
    agents[0].report(app_is(&first, v1::AppState::Running)).await;
    let second = agents[1].set().await;
    agents[1].reach(&second, v1::TaskState::Failed).await;
    assert_eq!(world.jobs_where("state = SUCCEEDED").await, [old.job_id.as_str()]);
    assert_eq!(world.jobs_where("state = RUNNING").await, [new.job_id.as_str()]);
    assert_eq!(world.jobs_where("creator = ann AND spec.name = till").await.len(), 2);
    assert_eq!(world.jobs_where(&format!("app_name = {}", old.app_name)).await, [old.job_id.as_str()]);
    assert_eq!(world.jobs_where("create_time < 2020-01-01T00:00:00Z").await, Vec::<String>::new());
    assert_eq!(world.jobs_where("end_time:*").await, [old.job_id.as_str()]);

    assert_eq!(world.tasks_where(&new.job_id, "state = FAILED").await, ["shop-2"]);
    assert_eq!(world.tasks_where(&new.job_id, "failure.reason = PORT_IN_USE").await, ["shop-2"]);
    assert_eq!(world.tasks_where(&new.job_id, "state = PENDING AND NOT assign_time:*").await, ["shop-3"]);

    assert_eq!(world.apps_where("status.state = RUNNING").await, ["shop-1"]);
    assert_eq!(world.apps_where(&format!("job_id = {}", new.job_id)).await, Vec::<String>::new());
    assert_eq!(world.apps_where("removing = false").await, ["shop-1"]);

    let failed = format!("shop-2 APP_EVENT_TYPE_FAILED Job {} did not succeed", new.job_id);
    let found = world.events_where(v1::ListAppEventsRequest::default()).await;
    assert!(found.len() == 1 && found[0].starts_with(&failed), "{found:?}");
    let request = |filter: &str| v1::ListAppEventsRequest { filter: filter.to_owned(), ..Default::default() };
    assert_eq!(world.events_where(request("type = FAILED AND NOT node_time:*")).await, found);
    assert_eq!(world.events_where(request("type = EXITED")).await, Vec::<String>::new());
    let of = |app_name: &str, instance| v1::ListAppEventsRequest {
        app_name: app_name.to_owned(),
        node_name: "shop-2".to_owned(),
        instance,
        ..Default::default()
    };
    assert_eq!(world.events_where(of(&new.app_name, None)).await, found);
    assert_eq!(world.events_where(of(&new.app_name, Some(0))).await, Vec::<String>::new(), "it is the whole app's");
    assert_eq!(world.events_where(of(&old.app_name, None)).await, Vec::<String>::new());
}

#[tokio::test]
async fn pages_of_what_matches_follow_on_from_each_other() {
    let world = World::start().await;
    world.enroll("shop-1", &[]).await;
    let mut expected = Vec::new();
    for index in 0..10 {
        let mut request = order(&["shop-1"]);
        let name = if index % 3 == 0 { "rare" } else { "till" };
        name.clone_into(&mut request.spec.as_mut().unwrap().name);
        let job = world.create(request).await;
        if name == "rare" {
            expected.insert(0, job.job_id);
        }
    }
    let list = |filter: &str, page_token| {
        let request = v1::ListJobsRequest { page_size: 2, page_token, filter: filter.to_owned(), ..Default::default() };
        let mut jobs = world.jobs();
        async move { jobs.list_jobs(request).await.map(tonic::Response::into_inner) }
    };
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let page = list("spec.name = rare", token).await.unwrap();
        found.extend(page.jobs.into_iter().map(|job| job.job_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
        let (code, _) = failure(list("spec.name = till", token.clone()).await);
        assert_eq!(code, Code::InvalidArgument, "the token belongs to another list");
    }
    assert_eq!(found, expected);
}

#[tokio::test]
async fn what_is_wrong_with_a_filter_is_named_with_its_position() {
    let world = World::start().await;
    let filter = "state = RUNNING AND size > 3".to_owned();
    let request = v1::ListJobsRequest { filter, page_size: -1, ..Default::default() };
    let (code, details) = failure(world.jobs().list_jobs(request).await);
    assert_eq!(code, Code::InvalidArgument);
    let found = details.bad_request().unwrap().field_violations.clone();
    assert_eq!(found.iter().map(|bad| bad.field.as_str()).collect::<Vec<_>>(), ["filter", "page_size"]);
    assert!(
        found[0].description.starts_with("at position 21: there is no field \"size\" to filter by; there are state,")
    );
}
