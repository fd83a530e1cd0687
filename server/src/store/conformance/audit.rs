//! The audit log.

use longshore_model::audit::{Deed, Head};

use super::{Bed, Factory, at};
use crate::store::sorting::{AuditKey, Query};
use crate::store::{AuditPage, Store};

fn deed(second: i64, target: &str) -> Deed {
    Deed {
        time: at(second),
        caller: "operator ada".to_owned(),
        key_fingerprint: "ab".repeat(32),
        address: "192.0.2.7:50112".to_owned(),
        method: "longshore.v1.JobService/StopJob".to_owned(),
        target: target.to_owned(),
        validate_only: target.ends_with("?"),
        code: "OK".to_owned(),
        reason: String::new(),
        request_id: "r".to_owned(),
    }
}

async fn all(store: &dyn Store) -> AuditPage {
    let sorting = longshore_model::sorting::Sorting::parse("number").unwrap();
    store.audit_log(Query::<AuditKey> { sorting, after: None, limit: 1000 }).await.unwrap()
}

/// Follows the log from its base to its head.
fn verify(log: &AuditPage) {
    let mut head = log.base;
    for entry in &log.page.items {
        head.follow(entry).unwrap();
    }
    assert_eq!(head, log.head);
}

pub(crate) async fn deeds_are_kept_and_bound(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let empty = all(bed.store.as_ref()).await;
    assert_eq!((empty.base, empty.head, empty.page.items.len()), (Head::default(), Head::default(), 0));

    let first = bed.store.record(deed(1, "jobs/a")).await.unwrap();
    assert_eq!((first.number, &first.deed), (1, &deed(1, "jobs/a")));
    let second = bed.store.record(deed(2, "jobs/b?")).await.unwrap();
    let log = all(bed.store.as_ref()).await;
    assert_eq!(log.page.items, [first, second]);
    verify(&log);

    drop(bed);
    let bed = Bed::open(factory);
    bed.store.record(deed(3, "jobs/c")).await.unwrap();
    let log = all(bed.store.as_ref()).await;
    assert_eq!(log.head.number, 3);
    verify(&log);
}

pub(crate) async fn deeds_are_paged(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    for second in 1..=5 {
        bed.store.record(deed(second, "jobs/a")).await.unwrap();
    }
    let mut numbers = Vec::new();
    let mut query = Some(Query::<AuditKey>::first(2));
    while let Some(now) = query.take() {
        let found = bed.store.audit_log(now.clone()).await.unwrap();
        numbers.extend(found.page.items.iter().map(|entry| entry.number));
        query = now.next(&found.page);
    }
    assert_eq!(numbers, [5, 4, 3, 2, 1]);
}

pub(crate) async fn old_deeds_are_forgotten(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    // The clock went back once: what follows an entry that stays, stays.
    for second in [1, 2, 9, 3, 10] {
        bed.store.record(deed(second, "jobs/a")).await.unwrap();
    }
    assert_eq!(bed.store.forget_deeds(at(5)).await.unwrap(), 2);
    assert_eq!(bed.store.forget_deeds(at(5)).await.unwrap(), 0);
    let log = all(bed.store.as_ref()).await;
    assert_eq!(log.page.items.iter().map(|entry| entry.number).collect::<Vec<_>>(), [3, 4, 5]);
    assert_eq!(log.base.number, 2);
    verify(&log);
}

pub(crate) async fn an_empty_log_goes_on_where_it_was(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    for second in 1..=3 {
        bed.store.record(deed(second, "jobs/a")).await.unwrap();
    }
    let before = all(bed.store.as_ref()).await;
    assert_eq!(bed.store.forget_deeds(at(100)).await.unwrap(), 3);
    let empty = all(bed.store.as_ref()).await;
    assert_eq!((empty.base, empty.head), (before.head, before.head));
    let next = bed.store.record(deed(200, "jobs/b")).await.unwrap();
    assert_eq!(next.number, 4);
    verify(&all(bed.store.as_ref()).await);
}
