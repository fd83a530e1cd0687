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

/// The names on all pages of a list of nodes in an order.
async fn nodes_by(world: &World, order_by: &str) -> Vec<String> {
    let (mut names, mut page_token) = (Vec::new(), String::new());
    loop {
        let order_by = order_by.to_owned();
        let request = v1::ListNodesRequest { page_size: 2, page_token, order_by, ..Default::default() };
        let answer = world.nodes().list_nodes(request).await.unwrap().into_inner();
        names.extend(answer.nodes.into_iter().map(|node| node.name));
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return names;
        }
    }
}

#[tokio::test]
async fn lists_come_in_the_order_that_is_asked_for() {
    let world = World::start().await;
    for name in ["b", "d", "a", "c"] {
        world.enroll(name, &[]).await;
    }
    assert_eq!(nodes_by(&world, "").await, ["a", "b", "c", "d"]);
    assert_eq!(nodes_by(&world, "name desc").await, ["d", "c", "b", "a"]);
    assert_eq!(nodes_by(&world, "enroll_time").await, ["b", "d", "a", "c"]);
    assert_eq!(nodes_by(&world, " enroll_time  desc , name").await, ["c", "a", "d", "b"]);

    let mut created = Vec::new();
    for name in ["till", "gate", "till"] {
        let mut order = order(&["a", "b"]);
        order.spec.as_mut().unwrap().name = name.to_owned();
        created.push(world.create(order).await.job_id);
    }
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let order_by = "spec.name, create_time desc".to_owned();
        let request = v1::ListJobsRequest { page_size: 1, page_token, order_by, ..Default::default() };
        let answer = world.jobs().list_jobs(request).await.unwrap().into_inner();
        listed.extend(answer.jobs.into_iter().map(|job| job.job_id));
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, [created[1].clone(), created[2].clone(), created[0].clone()]);

    let (job_id, order_by) = (created[0].clone(), "node_name desc".to_owned());
    let request = v1::ListTasksRequest { job_id, order_by, ..Default::default() };
    let tasks = world.jobs().list_tasks(request).await.unwrap().into_inner().tasks;
    assert_eq!(tasks.iter().map(|task| task.node_name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
}

#[tokio::test]
async fn a_page_goes_on_in_the_order_that_it_began_with() {
    let world = World::start().await;
    for name in ["a", "b", "c"] {
        world.enroll(name, &[]).await;
    }
    let list = |page_token: &str, order_by: &str, filter: &str| {
        let (page_token, order_by, filter) = (page_token.to_owned(), order_by.to_owned(), filter.to_owned());
        let request = v1::ListNodesRequest { page_size: 1, page_token, order_by, filter, ..Default::default() };
        let mut nodes = world.nodes();
        async move { nodes.list_nodes(request).await.map(tonic::Response::into_inner) }
    };
    let token = list("", "name desc", "").await.unwrap().next_page_token;
    assert_eq!(list(&token, "name  desc", "").await.unwrap().nodes[0].name, "b", "the same order in other words");
    for (order_by, filter) in [("", ""), ("name", ""), ("enroll_time", ""), ("name desc", "connected = false")] {
        let (code, details) = failure(list(&token, order_by, filter).await);
        let fields: Vec<_> =
            details.bad_request().unwrap().field_violations.iter().map(|bad| bad.field.as_str()).collect();
        assert_eq!((code, fields), (Code::InvalidArgument, vec!["page_token"]));
    }
    let (code, details) = failure(list(&token, "name, color desc", "").await);
    assert_eq!(code, Code::InvalidArgument);
    let bad = &details.bad_request().unwrap().field_violations;
    let expected = "at position 7: there is no field \"color\" to sort by; there are name, enroll_time";
    assert_eq!((bad.len(), bad[0].field.as_str(), bad[0].description.as_str()), (1, "order_by", expected));
}
