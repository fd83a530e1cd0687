//! Lists in every order: each item once and in its place, whatever is written between two pages.

use std::cmp::Ordering;
use std::sync::Arc;

use longshore_model::configuration::Kind;
use longshore_model::identity::Role;
use longshore_model::job::Job;
use longshore_model::name::{CredentialName, JobId};
use longshore_model::registry::{RegistryCredential, Scope};
use longshore_model::sorting::{Direction, Position, SortKey, Sorting};
use longshore_model::task::TaskState;
use longshore_model::user::User;

use super::configurations::stored;
use super::{
    Bed, Factory, app_name, at, enroll, enrolling, job_id, new_job, node_name, progress, session_id, spec, token,
};
use crate::store::sorting::{AppKey, EventKey, JobKey, NameKey, NodeKey, Query, Sorted, TaskKey, TokenKey};
use crate::store::{EventsOf, NewJob, Page, StoreError, StoredCredential, StoredToken, Terms};

/// Every order of one or two fields.
fn orders<K: SortKey>() -> Vec<Sorting<K>> {
    let names: Vec<&str> = K::ALL.iter().map(|(name, _)| *name).collect();
    let mut texts = vec![String::new()];
    for first in &names {
        for direction in ["", " desc"] {
            texts.push(format!("{first}{direction}"));
            let others = names.iter().filter(|second| *second != first);
            texts.extend(
                others.flat_map(|second| ["", " desc"].map(|other| format!("{first}{direction}, {second}{other}"))),
            );
        }
    }
    texts.iter().map(|text| Sorting::parse(text).unwrap()).collect()
}

fn compare<K: SortKey>(sorting: &Sorting<K>, one: &Position, other: &Position) -> Ordering {
    let terms = sorting.terms().iter().zip(one.0.iter().zip(&other.0));
    terms.fold(Ordering::Equal, |order, (term, (one, other))| {
        order.then(match term.direction {
            Direction::Ascending => one.cmp(other),
            Direction::Descending => other.cmp(one),
        })
    })
}

/// Reads a list in every order, page after page. Whatever was there at first and stays comes once; `disturb` writes
/// something, and is told the number of the page that has been read.
async fn in_every_order<T: Sorted>(
    fetch: impl AsyncFn(Query<T::Key>) -> Result<Page<T>, StoreError>,
    disturb: impl AsyncFn(u32),
) {
    let mut count = 0;
    for sorting in orders::<T::Key>() {
        let whole = Query { sorting: sorting.clone(), after: None, limit: 10_000 };
        let before: Vec<Position> =
            fetch(whole.clone()).await.unwrap().items.iter().map(|item| whole.place(item)).collect();
        assert!(before.len() > 4 && before.is_sorted_by(|a, b| compare(&sorting, a, b).is_lt()), "{sorting}");
        // Few pages, so that what is written between them does not make the list longer and longer.
        let limit = before.len() / 3;
        let (mut seen, mut next) = (Vec::new(), Some(Query { limit, ..whole.clone() }));
        while let Some(query) = next {
            let page = fetch(query.clone()).await.unwrap();
            assert!(page.items.len() <= limit && (page.more || !page.items.is_empty()), "{sorting}");
            seen.extend(page.items.iter().map(|item| whole.place(item)));
            next = query.next(&page);
            count += 1;
            disturb(count).await;
        }
        assert!(seen.is_sorted_by(|a, b| compare(&sorting, a, b).is_lt()), "{sorting}: {seen:?}");
        let after = fetch(whole.clone()).await.unwrap();
        let stayed = after.items.iter().map(|item| whole.place(item)).filter(|item| before.contains(item));
        let missing: Vec<Position> = stayed.filter(|item| !seen.contains(item)).collect();
        assert_eq!(missing, [], "{sorting}");
    }
}

/// A job with one of three names and one of four moments of creation, among which the others' are spread.
fn job(number: u32) -> NewJob {
    let mut new = new_job(number, &["a"], 0);
    let name = ["till", "gate", "till-2"][number as usize % 3];
    let changed = Job {
        app: app_name(&format!("{name}-{number}")),
        spec: Arc::new(longshore_model::spec::AppSpec { name: name.to_owned(), ..spec() }),
        create_time: at(i64::from(number % 4)),
        ..new.job
    };
    new.job = changed;
    new
}

pub(crate) async fn jobs_are_sorted(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    for number in 100..110 {
        bed.store.create_job(job(number)).await.unwrap();
    }
    let disturb = async |count: u32| {
        // Before the others and after them.
        let number = if count.is_multiple_of(2) { 100 - count / 2 % 100 } else { 110 + count };
        match bed.store.create_job(job(number)).await {
            Ok(_) | Err(StoreError::AlreadyExists { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        bed.assign_all(5).await;
        bed.report("a", progress(100 + count % 10, 1, TaskState::Succeeded), 6).await;
    };
    in_every_order(async |query: Query<JobKey>| bed.store.jobs(query).await, disturb).await;
}

pub(crate) async fn tasks_are_sorted(factory: &dyn Factory) {
    let nodes = ["a", "b", "c", "d", "e", "f"];
    let bed = Bed::with_nodes(factory, &nodes).await;
    bed.store.create_job(new_job(1, &nodes, 0)).await.unwrap();
    let disturb = async |count: u32| {
        bed.assign_all(1).await;
        let node = nodes[count as usize % nodes.len()];
        bed.report(node, progress(1, 1, TaskState::Succeeded), 2).await;
    };
    in_every_order(async |query: Query<TaskKey>| bed.store.tasks(&job_id(1), query).await, disturb).await;
}

pub(crate) async fn nodes_are_sorted(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let enrolled = async |name: &str, second: i64| {
        bed.store.create_token(token(name, at(1000)), Terms::default()).await.unwrap();
        enroll(&*bed.store, enrolling(name, 7, name), second).await.unwrap();
    };
    for (name, second) in [("c", 1), ("a", 2), ("f", 1), ("b", 3), ("e", 1), ("d", 2)] {
        enrolled(name, second).await;
    }
    let disturb = async |count: u32| {
        enrolled(&format!("{}-{count}", ["a", "c", "f"][count as usize % 3]), i64::from(count % 4)).await;
        bed.store.open_session(&node_name("c"), &session_id(count), super::info(), at(500)).await.unwrap();
        if count == 3 {
            bed.store.delete_node(&node_name("b"), Terms::default(), at(600)).await.unwrap();
        }
    };
    in_every_order(async |query: Query<NodeKey>| bed.store.nodes(query).await, disturb).await;
}

pub(crate) async fn apps_are_sorted(factory: &dyn Factory) {
    let nodes = ["a", "b", "c"];
    let bed = Bed::with_nodes(factory, &nodes).await;
    for number in [5, 3, 4] {
        bed.assigned(number, &nodes, 0).await;
    }
    let disturb = async |count: u32| {
        let number = if count.is_multiple_of(2) { 10 + count } else { 1000 - count };
        bed.assigned(number, &nodes[..1 + count as usize % 3], 0).await;
        bed.report("b", progress(4, 1, TaskState::Succeeded), 2).await;
    };
    in_every_order(async |query: Query<AppKey>| bed.store.apps(None, None, query).await, disturb).await;
}

pub(crate) async fn events_are_sorted(factory: &dyn Factory) {
    let nodes = ["a", "b", "c"];
    let bed = Bed::with_nodes(factory, &nodes).await;
    let failed = async |number: u32, nodes: &[&str], second: i64| {
        bed.assigned(number, nodes, 0).await;
        for node in nodes {
            bed.report(node, progress(number, 1, TaskState::Failed), second).await;
        }
    };
    for number in [5, 3, 4] {
        failed(number, &nodes, 10).await;
    }
    let disturb = async |count: u32| {
        let number = if count.is_multiple_of(2) { 10 + count } else { 1000 - count };
        failed(number, &nodes[..1 + count as usize % 3], 20 + i64::from(count)).await;
    };
    let fetch = async |query: Query<EventKey>| bed.store.app_events(EventsOf::default(), query).await;
    in_every_order(fetch, disturb).await;
}

pub(crate) async fn tokens_are_sorted(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let made = async |id: &str, made: u32, life: u32| {
        let token = token(id, at(100 + i64::from(life)));
        bed.store
            .create_token(StoredToken { create_time: at(i64::from(made)), ..token }, Terms::default())
            .await
            .unwrap();
    };
    for (id, begin, life) in [("d", 1, 1), ("a", 2, 1), ("c", 1, 2), ("b", 2, 2), ("e", 3, 3), ("f", 1, 1)] {
        made(id, begin, life).await;
    }
    made("expired", 1, 0).await;
    let disturb = async |count: u32| {
        made(&format!("{}{count}", ["A", "c", "x"][count as usize % 3]), count % 4, 1 + count % 3).await;
        if count == 4 {
            bed.store.delete_token("c", Terms::default(), at(0)).await.unwrap();
        }
    };
    in_every_order(async |query: Query<TokenKey>| bed.store.tokens(query, at(100)).await, disturb).await;
}

pub(crate) async fn machines_that_wait_are_sorted(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let several = StoredToken { uses: 1000, uses_left: 1000, requires_approval: true, ..token("t", at(1000)) };
    bed.store.create_token(several, Terms::default()).await.unwrap();
    let waits = async |name: &str, second: u32| {
        bed.store.enroll(enrolling("t", 7, name), at(i64::from(second))).await.unwrap();
    };
    for (name, second) in [("c", 1), ("a", 2), ("f", 1), ("b", 3), ("e", 1), ("d", 2)] {
        waits(name, second).await;
    }
    let disturb = async |count: u32| {
        waits(&format!("{}-{count}", ["a", "c", "f"][count as usize % 3]), count % 4).await;
        if count == 2 {
            bed.store.approve(&node_name("d"), Terms::default(), at(10)).await.unwrap();
        }
    };
    in_every_order(async |query: Query<NameKey>| bed.store.pending(query, at(20)).await, disturb).await;
}

pub(crate) async fn users_are_sorted(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let life = jiff::SignedDuration::from_secs(1000);
    let made = async |name: &str, second: u32| {
        let (now, creator) = (at(i64::from(second)), "init".to_owned());
        let user = User::new(name.to_owned(), Role::Viewer, creator, life, now, jiff::Timestamp::MAX);
        bed.store.create_user(user, Terms::default()).await.unwrap();
    };
    for (name, second) in [("c", 1), ("a", 2), ("f", 1), ("b", 3), ("e", 1), ("d", 2)] {
        made(name, second).await;
    }
    let disturb = async |count: u32| {
        made(&format!("{}-{count}", ["a", "c", "f"][count as usize % 3]), count % 4).await;
        bed.store.revoke_user("e", Terms::default(), at(10)).await.unwrap();
    };
    in_every_order(async |query: Query<NameKey>| bed.store.users(query).await, disturb).await;
}

pub(crate) async fn credentials_are_sorted(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let stored = |name: &str, second: u32| {
        let create_time = at(i64::from(second));
        let credential = RegistryCredential {
            name: CredentialName::parse(name).unwrap(),
            registry: Scope::parse("registry.test").unwrap(),
            username: "robot".to_owned(),
            ca_certificate_pem: String::new(),
            create_time,
            update_time: create_time,
            version: 1,
        };
        StoredCredential { credential, sealed: vec![1] }
    };
    let made = async |name: &str, second: u32| {
        bed.store.create_credential(stored(name, second), Terms::default()).await.unwrap();
    };
    for (name, second) in [("c", 1), ("a", 2), ("f", 1), ("b", 3), ("e", 1), ("d", 2)] {
        made(name, second).await;
    }
    let disturb = async |count: u32| {
        made(&format!("{}-{count}", ["a", "c", "f"][count as usize % 3]), count % 4).await;
        let mut changed = stored("e", 1);
        changed.credential.version = u64::from(count) + 1;
        bed.store.replace_credential(changed, u64::from(count), Terms::default()).await.unwrap();
    };
    in_every_order(async |query: Query<NameKey>| bed.store.credentials(query).await, disturb).await;
}

pub(crate) async fn configurations_are_sorted(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let made = async |kind: Kind, name: &str, second: u32| {
        let new = stored(kind, name, i64::from(second));
        bed.store.create_configuration(new, Terms::default()).await.unwrap();
    };
    for (name, second) in [("c", 1), ("a", 2), ("f", 1), ("b", 3), ("e", 1), ("d", 2)] {
        made(Kind::Secret, name, second).await;
    }
    let disturb = async |count: u32| {
        let name = format!("{}-{count}", ["a", "c", "f"][count as usize % 3]);
        made(Kind::Secret, &name, count % 4).await;
        made(Kind::ConfigMap, &name, count % 4).await;
        let mut changed = stored(Kind::Secret, "e", 1);
        changed.configuration.version = u64::from(count) + 1;
        bed.store.replace_configuration(changed, u64::from(count), Terms::default()).await.unwrap();
    };
    in_every_order(async |query: Query<NameKey>| bed.store.configurations(Kind::Secret, query).await, disturb).await;
}

/// A page begins after a place, and not after an item that must still be there.
pub(crate) async fn a_list_goes_on_where_an_item_was(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b", "c", "d"]).await;
    let query = Query::first(2);
    let first = bed.store.nodes(query.clone()).await.unwrap();
    bed.store.delete_node(&node_name("b"), Terms::default(), at(1)).await.unwrap();
    let rest = bed.store.nodes(query.next(&first).unwrap()).await.unwrap();
    let names: Vec<&str> = rest.items.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["c", "d"]);

    let nothing: Vec<JobId> =
        bed.store.jobs(Query::first(2)).await.unwrap().items.iter().map(|j| j.id.clone()).collect();
    assert_eq!(nothing, []);
}
