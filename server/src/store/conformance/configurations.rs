//! Config maps and secrets: how they are kept. What is in them is bytes to a store.

use longshore_model::configuration::{Configuration, Kind};
use longshore_model::limits::MAX_CONFIGURATIONS;
use longshore_model::name::ConfigurationName;

use super::{Bed, Factory, at, is_not_found};
use crate::store::sorting::Query;
use crate::store::{RequestKey, Store, StoreError, StoredConfiguration, Terms};

const VALIDATE: Terms = Terms { etag: None, validate_only: true, request: None, cause: None };
const KINDS: [Kind; 2] = [Kind::ConfigMap, Kind::Secret];

fn name(name: &str) -> ConfigurationName {
    ConfigurationName::parse(name).unwrap()
}

/// One that was made at a second.
pub(super) fn stored(kind: Kind, text: &str, second: i64) -> StoredConfiguration {
    let configuration = Configuration {
        kind,
        name: name(text),
        keys: vec!["ZONE".to_owned(), "ca.pem".to_owned()],
        create_time: at(second),
        update_time: at(second),
        version: 1,
    };
    StoredConfiguration { configuration, content: vec![0, 159, 146, 150] }
}

/// What becomes of one when it is changed: all that can be.
fn changed(old: &StoredConfiguration, second: i64) -> StoredConfiguration {
    let old = &old.configuration;
    let configuration = Configuration {
        keys: vec!["LEVEL".to_owned()],
        update_time: at(second),
        version: old.version + 1,
        ..old.clone()
    };
    StoredConfiguration { configuration, content: format!("content of {second}").into_bytes() }
}

fn request(id: &str, body: u8) -> Terms {
    let request = RequestKey { caller: "bob".to_owned(), id: id.to_owned(), body: [body; 32] };
    Terms { request: Some(request), ..Terms::default() }
}

async fn create(store: &dyn Store, new: &StoredConfiguration) -> Result<Configuration, StoreError> {
    store.create_configuration(new.clone(), Terms::default()).await
}

fn is_missing(kind: Kind, error: &StoreError) -> bool {
    is_not_found(error, kind.as_str())
}

fn is_changed(kind: Kind, error: &StoreError) -> bool {
    matches!(error, StoreError::Changed { kind: said, .. } if *said == kind.as_str())
}

pub(crate) async fn configurations_are_kept_and_paged(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    for kind in KINDS {
        for (text, second) in [("c", 1), ("a", 2), ("b", 3)] {
            let new = stored(kind, text, second);
            assert_eq!(create(&*bed.store, &new).await.unwrap(), new.configuration);
        }
    }
    drop(bed);
    let bed = Bed::open(factory);
    for kind in KINDS {
        let query = Query::first(2);
        let first = bed.store.configurations(kind, query.clone()).await.unwrap();
        let rest = bed.store.configurations(kind, query.next(&first).unwrap()).await.unwrap();
        assert_eq!((first.more, rest.more), (true, false));
        let all: Vec<_> = first.items.into_iter().chain(rest.items).collect();
        let expected = [("a", 2), ("b", 3), ("c", 1)].map(|(text, second)| stored(kind, text, second));
        assert_eq!(all, expected.clone().map(|one| one.configuration));
        assert_eq!(bed.store.configuration(kind, &name("b")).await.unwrap(), expected[1]);
        assert_eq!(bed.store.known_configuration(kind, &name("b")).await.unwrap(), expected[1].configuration);
        assert!(is_missing(kind, &bed.store.configuration(kind, &name("d")).await.unwrap_err()));
        assert!(is_missing(kind, &bed.store.known_configuration(kind, &name("d")).await.unwrap_err()));
    }
    assert!(bed.seen.take().is_empty(), "nobody is told of it");
}

pub(crate) async fn each_kind_has_names_of_its_own(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let (map, secret) = (stored(Kind::ConfigMap, "site", 1), stored(Kind::Secret, "site", 2));
    create(&*bed.store, &map).await.unwrap();
    assert!(is_missing(Kind::Secret, &bed.store.configuration(Kind::Secret, &name("site")).await.unwrap_err()));
    create(&*bed.store, &secret).await.unwrap();
    let newer = changed(&map, 5);
    bed.store.replace_configuration(newer.clone(), 1, Terms::default()).await.unwrap();
    assert_eq!(bed.store.configuration(Kind::Secret, &name("site")).await.unwrap(), secret);
    bed.store.delete_configuration(Kind::Secret, &name("site"), Terms::default(), at(6)).await.unwrap();
    assert_eq!(bed.store.configuration(Kind::ConfigMap, &name("site")).await.unwrap(), newer);
    assert_eq!(bed.store.configurations(Kind::Secret, Query::first(9)).await.unwrap().items, []);
}

pub(crate) async fn a_configuration_is_made_once(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let (new, other) = (stored(Kind::Secret, "db", 0), changed(&stored(Kind::Secret, "db", 1), 1));
    let again = |new: &StoredConfiguration, terms| bed.store.create_configuration(new.clone(), terms);
    again(&new, request("1", 1)).await.unwrap();
    let twice = create(&*bed.store, &other).await;
    assert!(matches!(twice, Err(StoreError::AlreadyExists { kind: "secret", .. })), "{twice:?}");
    // The same request is answered with what it made, as that was, and another one is not.
    assert_eq!(again(&other, request("1", 1)).await.unwrap(), new.configuration);
    let newer = changed(&new, 2);
    let left = bed.store.replace_configuration(newer.clone(), 1, request("2", 1)).await.unwrap();
    assert_eq!(left, newer.configuration);
    assert_eq!(again(&other, request("1", 1)).await.unwrap(), new.configuration);
    assert!(matches!(again(&new, request("1", 2)).await, Err(StoreError::RequestReused(_))));
    let key = |id: &str| request(id, 1).request.unwrap();
    assert_eq!(bed.store.answered_configuration(&key("2"), at(4)).await.unwrap(), Some(left.clone()));
    assert_eq!(bed.store.replace_configuration(newer, 1, request("2", 1)).await.unwrap(), left, "two at one time");
    assert_eq!(bed.store.answered_configuration(&key("3"), at(4)).await.unwrap(), None);
    bed.store.delete_configuration(Kind::Secret, &name("db"), request("4", 1), at(5)).await.unwrap();
    bed.store.delete_configuration(Kind::Secret, &name("db"), request("4", 1), at(6)).await.unwrap();
    assert_eq!(again(&new, request("1", 1)).await.unwrap(), new.configuration, "it is not made anew");
    assert!(is_missing(Kind::Secret, &bed.store.configuration(Kind::Secret, &name("db")).await.unwrap_err()));
}

pub(crate) async fn a_change_knows_which_version_it_changes(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    for kind in KINDS {
        let first = stored(kind, "site", 0);
        create(&*bed.store, &first).await.unwrap();
        let second = changed(&first, 5);
        let left = bed.store.replace_configuration(second.clone(), 1, Terms::default()).await.unwrap();
        assert_eq!(left, second.configuration);
        assert_eq!(bed.store.configuration(kind, &name("site")).await.unwrap(), second);
        let late = bed.store.replace_configuration(changed(&first, 6), 1, Terms::default()).await;
        assert!(is_changed(kind, &late.unwrap_err()), "version 1 is no more");
        // One that was deleted and made again under the name is another, though its version is the same.
        let site = name("site");
        bed.store.delete_configuration(kind, &site, Terms::default(), at(7)).await.unwrap();
        create(&*bed.store, &stored(kind, "site", 9)).await.unwrap();
        let late = bed.store.replace_configuration(changed(&first, 10), 1, Terms::default()).await;
        assert!(is_changed(kind, &late.unwrap_err()), "it was made at another time");
        let absent = changed(&stored(kind, "none", 0), 1);
        let absent = bed.store.replace_configuration(absent, 1, Terms::default()).await.unwrap_err();
        assert!(is_missing(kind, &absent));
    }
}

pub(crate) async fn a_deletion_knows_which_version_it_deletes(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    for kind in KINDS {
        let first = stored(kind, "site", 0);
        create(&*bed.store, &first).await.unwrap();
        let second = changed(&first, 5);
        bed.store.replace_configuration(second.clone(), 1, Terms::default()).await.unwrap();
        let with = |one: &StoredConfiguration| Terms { etag: Some(one.configuration.etag()), ..Terms::default() };
        let site = name("site");
        let delete = |terms| bed.store.delete_configuration(kind, &site, terms, at(6));
        assert!(is_changed(kind, &delete(with(&first)).await.unwrap_err()));
        delete(with(&second)).await.unwrap();
        assert!(is_missing(kind, &delete(Terms::default()).await.unwrap_err()));
    }
}

pub(crate) async fn what_is_validated_changes_no_configuration(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let new = stored(Kind::Secret, "db", 0);
    let db = name("db");
    let checked = Terms { validate_only: true, ..request("1", 1) };
    assert_eq!(bed.store.create_configuration(new.clone(), checked).await.unwrap(), new.configuration);
    assert!(is_missing(Kind::Secret, &bed.store.configuration(Kind::Secret, &db).await.unwrap_err()));
    let key = request("1", 1).request.unwrap();
    assert_eq!(bed.store.answered_configuration(&key, at(1)).await.unwrap(), None, "it is not remembered");
    create(&*bed.store, &new).await.unwrap();
    let twice = bed.store.create_configuration(new.clone(), VALIDATE).await;
    assert!(matches!(twice, Err(StoreError::AlreadyExists { .. })));
    let other = changed(&new, 5);
    assert_eq!(bed.store.replace_configuration(other.clone(), 1, VALIDATE).await.unwrap(), other.configuration);
    assert!(is_changed(Kind::Secret, &bed.store.replace_configuration(other, 7, VALIDATE).await.unwrap_err()));
    bed.store.delete_configuration(Kind::Secret, &db, VALIDATE, at(6)).await.unwrap();
    assert_eq!(bed.store.configuration(Kind::Secret, &db).await.unwrap(), new);
}

pub(crate) async fn configurations_are_bounded(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let many = (0..MAX_CONFIGURATIONS).map(|number| {
        let new = stored(Kind::ConfigMap, &format!("n{number}"), 0);
        let store = &bed.store;
        async move { create(&**store, &new).await.map(drop) }
    });
    futures::future::try_join_all(many).await.unwrap();
    let full = create(&*bed.store, &stored(Kind::ConfigMap, "more", 0)).await.unwrap_err();
    assert!(matches!(full, StoreError::TooMany { kind: "config map", .. }), "{full}");
    create(&*bed.store, &stored(Kind::Secret, "more", 0)).await.unwrap();
    bed.store.delete_configuration(Kind::ConfigMap, &name("n7"), Terms::default(), at(1)).await.unwrap();
    create(&*bed.store, &stored(Kind::ConfigMap, "more", 0)).await.unwrap();
}
