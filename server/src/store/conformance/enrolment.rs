//! Enrolment: tokens, machines that wait for approval.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use longshore_model::admission::{ADMISSION_LIFE, Fingerprint, MAX_PENDING, PendingNode};
use longshore_model::task::TaskState;

use super::{Bed, Factory, at, enroll, enrolling, info, is_not_found, lines, node_name, progress, setting, token};
use crate::store::sorting::Query;
use crate::store::{Enrolled, Enrolling, Store, StoreError, StoredToken, Terms};

const VALIDATE: Terms = Terms { etag: None, validate_only: true, request: None, cause: None };

/// A token for so many machines, each of which needs approval.
fn guarded(id: &str, uses: u32) -> StoredToken {
    StoredToken { requires_approval: true, uses, uses_left: uses, ..token(id, at(100)) }
}

/// A machine with the token "t" and this key.
fn machine(node: &str, key: u8) -> Enrolling {
    Enrolling { key: Fingerprint([key; 32]), ..enrolling("t", 7, node) }
}

/// Asks, and must have to wait.
async fn wait(store: &dyn Store, request: Enrolling, second: i64) -> PendingNode {
    match store.enroll(request, at(second)).await.unwrap() {
        Enrolled::Waits(machine) => machine,
        Enrolled::Node(node) => panic!("became a node: {node:?}"),
    }
}

async fn names_waiting(store: &dyn Store, second: i64) -> Vec<String> {
    let page = store.pending(Query::first(100), at(second)).await.unwrap();
    page.items.iter().map(|machine| machine.name.to_string()).collect()
}

pub(crate) async fn tokens_are_spent_once(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    bed.store.create_token(token("t", at(100)), Terms::default()).await.unwrap();
    let twice = bed.store.create_token(token("t", at(100)), Terms::default()).await.unwrap_err();
    assert!(matches!(twice, StoreError::AlreadyExists { .. }), "{twice:?}");
    let node = enroll(&*bed.store, enrolling("t", 7, "a"), 1).await.unwrap();
    assert_eq!(node.labels, BTreeMap::from([("role".to_owned(), "edge".to_owned())]));
    assert_eq!((node.enroll_time, node.last_seen, &node.info), (at(1), None, &None));
    assert_eq!(bed.store.node(&node_name("a")).await.unwrap(), node);
    let spent = enroll(&*bed.store, enrolling("t", 7, "b"), 1).await.unwrap_err();
    assert!(matches!(spent, StoreError::BadToken), "{spent:?}");
    assert!(is_not_found(&bed.store.node(&node_name("b")).await.unwrap_err(), "node"));
}

pub(crate) async fn tokens_are_refused(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["taken"]).await;
    let mut bound = token("t", at(100));
    bound.node = Some(node_name("only"));
    bed.store.create_token(bound, Terms::default()).await.unwrap();
    bed.store.create_token(token("open", at(100)), Terms::default()).await.unwrap();
    let enroll = |id: &'static str, hash: u8, name: &'static str, second: i64| {
        let store = bed.store.clone();
        async move { enroll(&*store, enrolling(id, hash, name), second).await }
    };
    assert!(matches!(enroll("none", 7, "a", 1).await, Err(StoreError::BadToken)));
    assert!(matches!(enroll("t", 8, "only", 1).await, Err(StoreError::BadToken)));
    assert!(matches!(enroll("t", 7, "only", 100).await, Err(StoreError::BadToken)), "expired");
    assert!(matches!(enroll("t", 7, "a", 1).await, Err(StoreError::TokenForOther(only)) if only.as_str() == "only"));
    assert!(matches!(enroll("open", 7, "taken", 1).await, Err(StoreError::AlreadyExists { kind: "node", .. })));
    enroll("t", 7, "only", 99).await.unwrap();
    enroll("open", 7, "a", 99).await.expect("a refusal spends no token");
}

pub(crate) async fn a_token_for_its_name_enrols_a_node_anew(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    bed.assigned(1, &["a"], 0).await;
    bed.report("a", progress(1, 1, TaskState::Succeeded), 2).await;
    let set = BTreeMap::from([("zone".to_owned(), "north".to_owned()), ("role".to_owned(), "till".to_owned())]);
    bed.store.update_labels(&node_name("a"), setting(set), Terms::default(), at(0)).await.unwrap();
    bed.open_session("a", 1).await;
    bed.seen.take();
    let mut bound = token("t", at(100));
    bound.node = Some(node_name("a"));
    bed.store.create_token(bound, Terms::default()).await.unwrap();

    let node = enroll(&*bed.store, enrolling("t", 7, "a"), 50).await.unwrap();
    assert_eq!(lines(&bed.seen.take()), ["reenrolled a"]);
    let labels = BTreeMap::from([("zone".to_owned(), "north".to_owned()), ("role".to_owned(), "edge".to_owned())]);
    assert_eq!((&node.labels, node.enroll_time, node.info.clone()), (&labels, at(50), Some(info())));
    assert_eq!(bed.store.node(&node_name("a")).await.unwrap(), node);
    let spent = enroll(&*bed.store, enrolling("t", 7, "a"), 51).await.unwrap_err();
    assert!(matches!(spent, StoreError::BadToken), "{spent:?}");
    let full = bed.open_session("a", 2).await;
    assert_eq!(full.iter().map(|one| one.app.as_str()).collect::<Vec<_>>(), ["web-1"], "its apps are its own");
}

pub(crate) async fn expired_tokens_are_purged(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    bed.store.create_token(token("t", at(100)), Terms::default()).await.unwrap();
    bed.store.pass_deadlines(at(99)).await.unwrap();
    bed.store.create_token(token("t", at(100)), Terms::default()).await.unwrap_err();
    bed.store.pass_deadlines(at(100)).await.unwrap();
    bed.store.create_token(token("t", at(200)), Terms::default()).await.expect("the identifier is free again");
}

pub(crate) async fn a_token_is_good_for_so_many_machines(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let three = StoredToken { uses: 3, uses_left: 3, ..token("t", at(100)) };
    bed.store.create_token(three.clone(), Terms::default()).await.unwrap();
    for (name, left) in [("a", 2), ("b", 1)] {
        enroll(&*bed.store, enrolling("t", 7, name), 1).await.unwrap();
        let listed = bed.store.tokens(Query::first(10), at(1)).await.unwrap().items;
        assert_eq!((listed[0].uses, listed[0].uses_left), (3, left));
    }
    let taken = enroll(&*bed.store, enrolling("t", 7, "a"), 1).await.unwrap_err();
    assert!(matches!(taken, StoreError::AlreadyExists { kind: "node", .. }), "{taken:?}");
    enroll(&*bed.store, enrolling("t", 7, "c"), 1).await.expect("a refusal spends nothing");
    let spent = enroll(&*bed.store, enrolling("t", 7, "d"), 1).await.unwrap_err();
    assert!(matches!(spent, StoreError::BadToken), "{spent:?}");
    assert!(bed.store.tokens(Query::first(10), at(1)).await.unwrap().items.is_empty());
}

pub(crate) async fn tokens_are_listed_and_deleted(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    for id in ["c", "a", "b"] {
        bed.store
            .create_token(StoredToken { creator: "ann".to_owned(), ..guarded(id, 2) }, Terms::default())
            .await
            .unwrap();
    }
    bed.store.create_token(token("expired", at(10)), Terms::default()).await.unwrap();
    let query = Query::first(2);
    let first = bed.store.tokens(query.clone(), at(10)).await.unwrap();
    assert!(first.more);
    assert_eq!(first.items.iter().map(|token| token.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let rest = bed.store.tokens(query.next(&first).unwrap(), at(10)).await.unwrap();
    assert_eq!((rest.items.len(), rest.more), (1, false));
    let last = &rest.items[0];
    assert_eq!((last.id.as_str(), last.creator.as_str(), last.create_time), ("c", "ann", at(0)));
    assert!(last.requires_approval);

    let request = Enrolling { token_id: "a".to_owned(), ..machine("m", 1) };
    wait(&*bed.store, request.clone(), 1).await;
    bed.store.delete_token("a", VALIDATE, at(0)).await.unwrap();
    wait(&*bed.store, request.clone(), 1).await;
    bed.store.delete_token("a", Terms::default(), at(0)).await.unwrap();
    let gone = bed.store.delete_token("a", Terms::default(), at(0)).await.unwrap_err();
    assert!(is_not_found(&gone, "enrolment token"), "{gone:?}");
    let refused = bed.store.enroll(request, at(2)).await.unwrap_err();
    assert!(matches!(refused, StoreError::BadToken), "whoever waits with it waits no longer: {refused:?}");
    assert!(names_waiting(&*bed.store, 2).await.is_empty());
}

pub(crate) async fn a_machine_waits_for_approval(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    bed.store.create_token(guarded("t", 1), Terms::default()).await.unwrap();
    let waits = wait(&*bed.store, machine("a", 1), 1).await;
    assert_eq!((waits.create_time, waits.expire_time), (at(1), at(1) + ADMISSION_LIFE));
    assert_eq!(
        wait(&*bed.store, machine("a", 1), 200).await,
        waits,
        "asked again, with a token that is spent and over"
    );
    assert_eq!(bed.store.pending(Query::first(10), at(2)).await.unwrap().items, std::slice::from_ref(&waits));
    for other in [machine("a", 2), machine("b", 1), Enrolling { secret_hash: [8; 32], ..machine("a", 1) }] {
        let refused = bed.store.enroll(other, at(2)).await.unwrap_err();
        assert!(matches!(refused, StoreError::BadToken), "the token was spent once: {refused:?}");
    }
    assert!(is_not_found(&bed.store.node(&node_name("a")).await.unwrap_err(), "node"));

    let preview = bed.store.approve(&node_name("a"), VALIDATE, at(300)).await.unwrap();
    assert_eq!(wait(&*bed.store, machine("a", 1), 300).await, waits, "validation changes nothing");
    let node = bed.store.approve(&node_name("a"), Terms::default(), at(300)).await.unwrap();
    assert_eq!(node, preview);
    assert_eq!((node.labels.get("role").map(String::as_str), node.enroll_time), (Some("edge"), at(300)));
    assert!(names_waiting(&*bed.store, 300).await.is_empty());
    let again = bed.store.approve(&node_name("a"), Terms::default(), at(301)).await.unwrap_err();
    assert!(is_not_found(&again, "pending node"), "{again:?}");

    drop(bed);
    let bed = Bed::open(factory);
    for second in [301, 400] {
        assert_eq!(enroll(&*bed.store, machine("a", 1), second).await.unwrap(), node, "as often as it is asked");
    }
    let late = 300 + ADMISSION_LIFE.as_secs();
    let refused = bed.store.enroll(machine("a", 1), at(late)).await.unwrap_err();
    assert!(matches!(refused, StoreError::BadToken), "{refused:?}");
}

pub(crate) async fn a_machine_is_denied(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    bed.store.create_token(guarded("t", 2), Terms::default()).await.unwrap();
    wait(&*bed.store, machine("a", 1), 1).await;
    bed.store.deny(&node_name("a"), VALIDATE, at(2)).await.unwrap();
    assert_eq!(names_waiting(&*bed.store, 2).await, ["a"]);
    bed.store.deny(&node_name("a"), Terms::default(), at(2)).await.unwrap();
    for second in [3, 4] {
        let denied = bed.store.enroll(machine("a", 1), at(second)).await.unwrap_err();
        assert!(matches!(denied, StoreError::Denied(_)), "{denied:?}");
    }
    let again = bed.store.approve(&node_name("a"), Terms::default(), at(4)).await.unwrap_err();
    assert!(is_not_found(&again, "pending node"), "{again:?}");
    wait(&*bed.store, machine("a", 2), 5).await;
    bed.store.approve(&node_name("a"), Terms::default(), at(6)).await.expect("another machine may have the name");
    let refused = bed.store.enroll(machine("a", 1), at(7)).await.unwrap_err();
    assert!(matches!(refused, StoreError::BadToken), "{refused:?}");
}

pub(crate) async fn an_approval_is_for_the_machine_that_was_looked_at(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    bed.store.create_token(guarded("t", 2), Terms::default()).await.unwrap();
    let seen = |machine: &PendingNode| Terms { etag: Some(machine.etag()), ..Terms::default() };
    let first = wait(&*bed.store, machine("a", 1), 1).await;
    bed.store.deny(&node_name("a"), seen(&first), at(2)).await.unwrap();
    let second = wait(&*bed.store, machine("a", 2), 3).await;
    for outdated in [
        bed.store.approve(&node_name("a"), seen(&first), at(4)).await.map(drop),
        bed.store.deny(&node_name("a"), seen(&first), at(4)).await,
    ] {
        assert!(matches!(outdated, Err(StoreError::Changed { .. })), "{outdated:?}");
    }
    bed.store.approve(&node_name("a"), seen(&second), at(4)).await.unwrap();
}

pub(crate) async fn one_machine_waits_for_a_name(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["taken"]).await;
    bed.store.create_token(guarded("t", 9), Terms::default()).await.unwrap();
    let refused = bed.store.enroll(machine("taken", 1), at(1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::AlreadyExists { kind: "node", .. }), "{refused:?}");
    wait(&*bed.store, machine("a", 1), 1).await;
    let refused = bed.store.enroll(machine("a", 2), at(1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::AlreadyExists { kind: "pending node", .. }), "{refused:?}");
    assert_eq!(
        bed.store.tokens(Query::first(10), at(1)).await.unwrap().items[0].uses_left,
        8,
        "refusals spend nothing"
    );

    // Somebody else got the name meanwhile.
    bed.enroll(&["a"]).await;
    let refused = bed.store.approve(&node_name("a"), Terms::default(), at(2)).await.unwrap_err();
    assert!(matches!(refused, StoreError::AlreadyExists { kind: "node", .. }), "{refused:?}");
}

pub(crate) async fn an_approval_ends_with_its_node(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    bed.store.create_token(guarded("t", 2), Terms::default()).await.unwrap();
    let name = node_name("a");
    wait(&*bed.store, machine("a", 1), 1).await;
    bed.store.approve(&name, Terms::default(), at(2)).await.unwrap();
    // Another machine takes the node's place, with approval too.
    let bound = StoredToken { node: Some(name.clone()), ..guarded("u", 1) };
    bed.store.create_token(bound, Terms::default()).await.unwrap();
    let other = Enrolling { token_id: "u".to_owned(), ..machine("a", 2) };
    wait(&*bed.store, other.clone(), 3).await;
    let refused = bed.store.enroll(machine("a", 1), at(3)).await.unwrap_err();
    assert!(matches!(refused, StoreError::AlreadyExists { .. }), "{refused:?}");
    bed.seen.take();
    let node = bed.store.approve(&name, Terms::default(), at(4)).await.unwrap();
    assert_eq!(lines(&bed.seen.take()), ["reenrolled a"]);
    assert_eq!(enroll(&*bed.store, other.clone(), 5).await.unwrap(), node);
    bed.store.delete_node(&name, Terms::default(), at(6)).await.unwrap();
    let refused = bed.store.enroll(other, at(7)).await.unwrap_err();
    assert!(matches!(refused, StoreError::BadToken), "{refused:?}");
}

pub(crate) async fn waiting_is_bounded_and_ends(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    bed.store.create_token(guarded("t", MAX_PENDING + 2), Terms::default()).await.unwrap();
    let asking = (0..MAX_PENDING).map(|number| {
        let (store, request) = (bed.store.clone(), machine(&format!("m{number}"), 1));
        async move { store.enroll(request, at(1)).await.unwrap() }
    });
    futures::future::join_all(asking).await;
    let full = bed.store.enroll(machine("late", 1), at(2)).await.unwrap_err();
    assert!(matches!(full, StoreError::TooMany { kind: "pending node", limit: MAX_PENDING }), "{full:?}");
    assert_eq!(
        bed.store.tokens(Query::first(10), at(1)).await.unwrap().items[0].uses_left,
        2,
        "a refusal spends nothing"
    );
    wait(&*bed.store, machine("m0", 1), 2).await;

    let over = at(1) + ADMISSION_LIFE;
    let page = async |moment| bed.store.pending(Query::first(1), moment).await.unwrap().items.len();
    assert_eq!(page(over - SignedDuration::from_secs(1)).await, 1);
    assert_eq!(page(over).await, 0);
    let expired = bed.store.approve(&node_name("m1"), Terms::default(), over).await.unwrap_err();
    assert!(is_not_found(&expired, "pending node"), "{expired:?}");
    bed.store.pass_deadlines(over).await.unwrap();
    assert_eq!(page(at(2)).await, 0, "they are gone for good");
}
