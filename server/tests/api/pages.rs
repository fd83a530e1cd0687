//! Lists in pages, stable while things are written.

use longshore_proto::v1;
use tonic::Code;

use crate::harness::{World, failure, order};

#[tokio::test]
async fn jobs_come_newest_first_and_each_once_while_others_are_created() {
    let world = World::start().await;
    world.enroll("shop-1", &[]).await;
    let mut created = Vec::new();
    for _ in 0..10 {
        created.push(world.create(order(&["shop-1"])).await.job_id);
    }
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListJobsRequest { page_size: 3, page_token, ..Default::default() };
        let answer = world.jobs().list_jobs(request).await.unwrap().into_inner();
        listed.extend(answer.jobs.into_iter().map(|job| job.job_id));
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
        world.create(order(&["shop-1"])).await;
    }
    created.reverse();
    assert_eq!(listed, created);
}

#[tokio::test]
async fn nodes_come_by_name_also_when_few_match() {
    let world = World::start().await;
    for index in 0..25 {
        world.enroll(&format!("shop-{index:02}"), &[("even", if index % 2 == 0 { "yes" } else { "no" })]).await;
    }
    let list = |page_size, page_token, selector: &str| {
        let request =
            v1::ListNodesRequest { page_size, page_token, selector: selector.to_owned(), ..Default::default() };
        let mut nodes = world.nodes();
        async move { nodes.list_nodes(request).await.map(tonic::Response::into_inner) }
    };
    for (selector, count) in [("", 25), ("even=yes", 13), ("even=maybe", 0)] {
        let (mut names, mut token) = (Vec::new(), String::new());
        loop {
            let answer = list(4, token, selector).await.unwrap();
            assert!(answer.nodes.len() <= 4);
            names.extend(answer.nodes.into_iter().map(|node| node.name));
            token = answer.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(names.len(), count);
        assert!(names.is_sorted_by(|a, b| a < b));
    }
    let token = list(4, String::new(), "").await.unwrap().next_page_token;
    let (code, _) = failure(list(4, token.clone(), "even=yes").await);
    assert_eq!(code, Code::InvalidArgument, "the token belongs to another list");
    assert_eq!(list(5000, String::new(), "").await.unwrap().nodes.len(), 25);
    assert_eq!(failure(list(-1, token, "").await).0, Code::InvalidArgument);
}

#[tokio::test]
async fn tasks_come_by_node() {
    let world = World::start().await;
    let names: Vec<String> = (0..7).map(|index| format!("shop-{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &names {
        world.enroll(name, &[]).await;
    }
    let job_id = world.create(order(&names)).await.job_id;
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListTasksRequest { job_id: job_id.clone(), page_size: 3, page_token, ..Default::default() };
        let answer = world.jobs().list_tasks(request).await.unwrap().into_inner();
        listed.extend(answer.tasks.into_iter().map(|task| task.node_name));
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, names);
}

#[tokio::test]
async fn apps_come_by_node_and_name() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1", "shop-2"]).await;
    for _ in 0..3 {
        world.create(order(&["shop-1", "shop-2"])).await;
    }
    for agent in &mut agents {
        for _ in 0..3 {
            agent.set().await;
        }
    }
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListAppsRequest { page_size: 2, page_token, ..Default::default() };
        let answer = world.apps().list_apps(request).await.unwrap().into_inner();
        listed.extend(answer.apps.into_iter().map(|app| (app.node_name, app.app_name)));
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed.len(), 6);
    assert!(listed.is_sorted_by(|a, b| a < b));
    let request = v1::ListAppsRequest { node_name: "shop-2".to_owned(), ..Default::default() };
    assert_eq!(world.apps().list_apps(request).await.unwrap().into_inner().apps.len(), 3);
}
