//! Nodes: labels, sessions, deletion; the order of changes; restarts.

use std::collections::BTreeMap;

use longshore_model::accelerator::Stock;
use longshore_model::app::AppState;
use longshore_model::assignment::Order;
use longshore_model::failure::FailureReason;
use longshore_model::job::JobState;
use longshore_model::node::{LabelChange, NodeInfo};
use longshore_model::task::TaskState;

use super::{
    Bed, Factory, app_name, app_report, at, enroll, enrolling, info, is_not_found, job_id, lines, new_job, node_name,
    progress, session_id, setting, spec_bytes, token,
};
use crate::store::sorting::Query;
use crate::store::{Change, JobRequest, Seen, Store, StoreError, Terms};

pub(crate) async fn nodes_are_paged(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["c", "a", "e", "b", "d"]).await;
    let query = Query::first(3);
    let first = bed.store.nodes(query.clone()).await.unwrap();
    let rest = bed.store.nodes(query.next(&first).unwrap()).await.unwrap();
    assert_eq!((first.more, rest.more), (true, false));
    let seen: Vec<_> = first.items.iter().chain(&rest.items).map(|node| node.name.as_str()).collect();
    assert_eq!(seen, ["a", "b", "c", "d", "e"]);
}

pub(crate) async fn labels_change(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    let set = BTreeMap::from([("zone".to_owned(), "north".to_owned()), ("tier".to_owned(), "1".to_owned())]);
    let remove = vec!["role".to_owned(), "absent".to_owned()];
    let change = LabelChange { remove, ..setting(set.clone()) };
    let node = bed.store.update_labels(&node_name("a"), change, Terms::default(), at(0)).await.unwrap();
    assert_eq!(node.labels, set);
    assert_eq!(bed.store.node(&node_name("a")).await.unwrap(), node);
    let only = BTreeMap::from([("only".to_owned(), String::new())]);
    let change = LabelChange { clear: true, ..setting(only.clone()) };
    let node = bed.store.update_labels(&node_name("a"), change, Terms::default(), at(0)).await.unwrap();
    assert_eq!(node.labels, only);
    // Some of them come by two changes at once: each alone would do.
    let half = |letter: char| setting((0..40).map(|index| (format!("{letter}-{index}"), String::new())).collect());
    let name = node_name("a");
    let (one, other) = tokio::join!(
        bed.store.update_labels(&name, half('a'), Terms::default(), at(0)),
        bed.store.update_labels(&name, half('b'), Terms::default(), at(0))
    );
    let refused = one.and(other).unwrap_err();
    assert!(matches!(refused, StoreError::TooManyLabels(_)), "{refused:?}");
    assert_eq!(bed.node("a").await.labels.len(), 41);
    let unknown = bed.store.update_labels(&node_name("b"), setting(set), Terms::default(), at(0)).await.unwrap_err();
    assert!(is_not_found(&unknown, "node"));
}

pub(crate) async fn sessions_are_recorded(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    let name = node_name("a");
    bed.store.open_session(&name, &session_id(1), info(), at(5)).await.unwrap();
    let seen = bed.seen.take();
    let Some(Change::Opened { session, .. }) = seen.first() else { panic!("{seen:?}") };
    assert_eq!(*session, session_id(1));
    let node = bed.store.node(&name).await.unwrap();
    assert_eq!((node.last_seen, node.info, node.certificate_end), (Some(at(5)), Some(info()), None));
    bed.store.certified_node(&name, at(700)).await.unwrap();
    assert_eq!(bed.store.node(&name).await.unwrap().certificate_end, Some(at(700)));
    let unknown = bed.store.certified_node(&node_name("unknown"), at(700)).await.unwrap_err();
    assert!(is_not_found(&unknown, "node"), "{unknown:?}");
    let stocks = vec![Stock { kind: "a.b/c".to_owned(), model: String::new(), count: 2, free: 1 }];
    bed.store.report_accelerators(&name, stocks.clone()).await.unwrap();
    let told = bed.store.node(&name).await.unwrap().info;
    assert_eq!(told, Some(NodeInfo { accelerators: stocks, ..info() }));
    let unknown = bed.store.report_accelerators(&node_name("unknown"), Vec::new()).await.unwrap_err();
    assert!(is_not_found(&unknown, "node"), "{unknown:?}");
    bed.store.close_session(&name, at(9)).await.unwrap();
    assert_eq!(bed.store.node(&name).await.unwrap().last_seen, Some(at(9)));
    assert!(lines(&bed.seen.take()).is_empty());

    let other = node_name("b");
    let unknown = bed.store.open_session(&other, &session_id(2), info(), at(5)).await.unwrap_err();
    assert!(is_not_found(&unknown, "node"));
    bed.store.close_session(&other, at(9)).await.expect("a node that was deleted meanwhile needs no record");
    assert!(lines(&bed.seen.take()).is_empty());
}

pub(crate) async fn full_sets_follow_tasks(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    assert!(bed.open_session("a", 1).await.is_empty());
    for number in 1..=4 {
        bed.assigned(number, &["a", "b"], 0).await;
    }
    bed.report("a", progress(2, 1, TaskState::Succeeded), 2).await;
    bed.store.request(&job_id(3), JobRequest::Stop { cancel_in_flight: true }, Terms::default(), at(3)).await.unwrap();
    bed.report("a", progress(4, 1, TaskState::Succeeded), 2).await;
    bed.store.remove_app(&app_name("web-4"), Some(&node_name("a")), Terms::default(), at(4)).await.unwrap();
    let full = bed.open_session("a", 2).await;
    let seen: Vec<_> = full.iter().map(|one| (one.app.as_str(), one.order, one.spec.clone())).collect();
    let expected = [
        ("web-1", Order::Deploy, spec_bytes(1)),
        ("web-2", Order::Keep, spec_bytes(2)),
        ("web-3", Order::Cancel, spec_bytes(3)),
    ];
    assert_eq!(seen, expected);
    assert!(full.iter().all(|one| one.attempt == 1 && one.revision == 1));
}

pub(crate) async fn deletion_fails_open_tasks(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    let name = node_name("a");
    bed.assigned(1, &["a"], 0).await;
    bed.report("a", progress(1, 1, TaskState::Succeeded), 2).await;
    bed.assigned(2, &["a", "b"], 1).await;
    bed.assigned(3, &["a"], 0).await;
    bed.store.request(&job_id(3), JobRequest::Stop { cancel_in_flight: true }, Terms::default(), at(3)).await.unwrap();
    bed.report("a", progress(3, 1, TaskState::Cancelled), 4).await;
    assert_eq!(bed.job(3).await.state(), JobState::Stopped);
    bed.seen.take();

    bed.store.delete_node(&name, Terms::default(), at(5)).await.unwrap();
    assert_eq!(
        lines(&bed.seen.take()),
        ["job web-2 RUNNING: a FAILED", "job web-3 FAILED: a FAILED", "deleted a", "assignable"]
    );
    let failure = bed.task(2, "a").await.failure.unwrap();
    assert_eq!((failure.reason, failure.step), (FailureReason::NodeDeleted, TaskState::Assigned));
    assert_eq!(bed.task(1, "a").await.state, TaskState::Succeeded);
    assert!(is_not_found(&bed.store.node(&name).await.unwrap_err(), "node"));
    assert!(bed.store.apps(Some(&name), None, Query::first(10)).await.unwrap().items.is_empty());
    assert!(is_not_found(&bed.store.delete_node(&name, Terms::default(), at(6)).await.unwrap_err(), "node"));
    bed.report("a", app_report("web-1", 1, 1, AppState::Running), 7).await;
    assert!(lines(&bed.seen.take()).is_empty());
}

pub(crate) async fn a_deleted_node_can_come_back(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    bed.assigned(1, &["a"], 0).await;
    bed.store.delete_node(&node_name("a"), Terms::default(), at(5)).await.unwrap();
    bed.store.create_token(token("new", at(100)), Terms::default()).await.unwrap();
    enroll(&*bed.store, enrolling("new", 7, "a"), 6).await.unwrap();
    assert!(bed.open_session("a", 1).await.is_empty());
    bed.store.request(&job_id(1), JobRequest::Retry, Terms::default(), at(7)).await.unwrap();
    assert_eq!(bed.assign_all(8).await, 1);
    bed.report("a", progress(1, 2, TaskState::Succeeded), 9).await;
    assert_eq!(bed.job(1).await.state(), JobState::Succeeded);
}

/// All at once, in whatever batches they fall: for each node, what is told after its full set starts from that set.
pub(crate) async fn changes_come_in_order(factory: &dyn Factory) {
    const NODES: usize = 50;
    let names: Vec<String> = (10..10 + NODES).map(|number| format!("n{number}")).collect();
    let nodes: Vec<&str> = names.iter().map(String::as_str).collect();
    let bed = Bed::with_nodes(factory, &nodes).await;
    bed.store.create_job(new_job(1, &nodes, 0)).await.unwrap();
    bed.seen.take();
    let picks: Vec<_> = nodes.iter().map(|node| (job_id(1), node_name(node))).collect();
    let opened = futures::future::join_all(nodes.iter().map(|node| {
        let store = bed.store.clone();
        let node = node_name(node);
        async move { store.open_session(&node, &session_id(1), info(), at(2)).await }
    }));
    let half = picks.split_at(NODES / 2);
    let (_, first, second) =
        tokio::join!(opened, bed.store.assign(half.0.to_vec(), at(1)), bed.store.assign(half.1.to_vec(), at(1)),);
    assert_eq!(first.unwrap() + second.unwrap(), NODES);

    let mut has_it: BTreeMap<String, bool> = BTreeMap::new();
    let mut opened = 0;
    for change in bed.seen.take() {
        match change {
            Change::Opened { node, assignments, .. } => {
                let told = has_it.insert(node.to_string(), !assignments.is_empty());
                assert_eq!(told.unwrap_or(false), !assignments.is_empty(), "a full set has what was set before it");
                opened += 1;
            }
            Change::Set { node, .. } => {
                assert_ne!(has_it.insert(node.to_string(), true), Some(true), "set twice");
            }
            _ => {}
        }
    }
    assert_eq!(opened, NODES);
    assert!(has_it.values().all(|has_it| *has_it));
}

pub(crate) async fn a_restart_keeps_everything(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b", "c"]).await;
    bed.assigned(1, &["a", "b", "c"], 2).await;
    bed.report("a", progress(1, 1, TaskState::Failed), 2).await;
    bed.report("b", progress(1, 1, TaskState::Starting), 2).await;
    bed.report("b", app_report("web-1", 1, 1, AppState::Running), 2).await;
    bed.store.create_token(token("t", at(100)), Terms::default()).await.unwrap();
    bed.store.open_session(&node_name("a"), &session_id(1), info(), at(3)).await.unwrap();
    let everything = async |store: &dyn Store| {
        let job = store.job_with_tasks(&job_id(1), &Seen::default()).await.unwrap();
        let nodes = store.nodes(Query::first(10)).await.unwrap().items;
        let apps = store.apps(None, None, Query::first(10)).await.unwrap().items;
        (job, nodes, apps, store.epoch())
    };
    let before = everything(&*bed.store).await;
    drop(bed);

    let bed = Bed::open(factory);
    assert_eq!(everything(&*bed.store).await, before);
    assert!(lines(&bed.seen.take()).is_empty());
    assert_eq!(bed.store.pass_deadlines(at(1)).await.unwrap(), Some(at(600)));
    enroll(&*bed.store, enrolling("t", 7, "d"), 4).await.unwrap();
    assert_eq!(bed.assign_all(5).await, 1);
    bed.report("b", progress(1, 1, TaskState::Succeeded), 6).await;
    bed.report("c", progress(1, 1, TaskState::Succeeded), 6).await;
    assert_eq!(bed.job(1).await.state(), JobState::PartiallySucceeded);
}
