//! Registry credentials: how they are kept, and what nodes are told of them.

use longshore_model::assignment::ImageAccess;
use longshore_model::limits::MAX_REGISTRY_CREDENTIALS;
use longshore_model::name::CredentialName;
use longshore_model::registry::{RegistryCredential, Scope};

use super::{Bed, Factory, at, is_not_found};
use crate::store::sorting::Query;
use crate::store::{Change, RequestKey, Store, StoreError, StoredCredential, Terms};

const VALIDATE: Terms = Terms { etag: None, validate_only: true, request: None, cause: None };

fn name(name: &str) -> CredentialName {
    CredentialName::parse(name).unwrap()
}

/// A credential for a registry, made at a second.
fn credential(text: &str, registry: &str, second: i64) -> StoredCredential {
    let credential = RegistryCredential {
        name: name(text),
        registry: Scope::parse(registry).unwrap(),
        username: "robot".to_owned(),
        ca_certificate_pem: format!("authorities of {text}"),
        create_time: at(second),
        update_time: at(second),
        version: 1,
    };
    StoredCredential { credential, sealed: vec![0, 159, 146, 150] }
}

/// What becomes of a credential when it is changed: all that can be.
fn changed(old: &StoredCredential, registry: &str, second: i64) -> StoredCredential {
    let credential = RegistryCredential {
        registry: Scope::parse(registry).unwrap(),
        username: "robot-2".to_owned(),
        ca_certificate_pem: String::new(),
        update_time: at(second),
        version: old.credential.version + 1,
        ..old.credential.clone()
    };
    StoredCredential { credential, sealed: b"sealed anew".to_vec() }
}

fn request(id: &str, body: u8) -> Terms {
    let request = RequestKey { caller: "bob".to_owned(), id: id.to_owned(), body: [body; 32] };
    Terms { request: Some(request), ..Terms::default() }
}

async fn create(store: &dyn Store, new: &StoredCredential) -> Result<StoredCredential, StoreError> {
    let credential = store.create_credential(new.clone(), Terms::default()).await?;
    Ok(StoredCredential { credential, sealed: new.sealed.clone() })
}

fn is_changed(error: &StoreError) -> bool {
    matches!(error, StoreError::Changed { kind: "registry credential", .. })
}

pub(crate) async fn credentials_are_kept_and_paged(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    for text in ["c", "a", "b"] {
        let new = credential(text, "registry.example.com:5000/shop", 3);
        assert_eq!(create(&*bed.store, &new).await.unwrap(), new);
    }
    drop(bed);
    let bed = Bed::open(factory);
    let query = Query::first(2);
    let first = bed.store.credentials(query.clone()).await.unwrap();
    let rest = bed.store.credentials(query.next(&first).unwrap()).await.unwrap();
    assert_eq!((first.more, rest.more), (true, false));
    let all: Vec<_> = first.items.into_iter().chain(rest.items).collect();
    let expected = ["a", "b", "c"].map(|text| credential(text, "registry.example.com:5000/shop", 3));
    assert_eq!(all, expected);
    assert_eq!(bed.store.credential(&name("b")).await.unwrap(), expected[1]);
    assert!(is_not_found(&bed.store.credential(&name("d")).await.unwrap_err(), "registry credential"));
    assert!(bed.seen.take().is_empty(), "nobody is told of it");
}

pub(crate) async fn a_credential_is_made_once(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let (new, other) = (credential("shop", "one.test", 0), credential("shop", "other.test", 1));
    let again = |new: &StoredCredential, terms| bed.store.create_credential(new.clone(), terms);
    again(&new, request("1", 1)).await.unwrap();
    assert!(matches!(create(&*bed.store, &other).await, Err(StoreError::AlreadyExists { .. })));
    // The same request is answered with what it made, as that was, and another one is not.
    assert_eq!(again(&other, request("1", 1)).await.unwrap(), new.credential);
    let newer = changed(&new, "newer.test", 2);
    let left = bed.store.replace_credential(newer.clone(), 1, request("2", 1)).await.unwrap();
    assert_eq!(left, newer.credential);
    assert_eq!(again(&other, request("1", 1)).await.unwrap(), new.credential);
    assert!(matches!(again(&new, request("1", 2)).await, Err(StoreError::RequestReused(_))));
    let key = request("2", 1).request.unwrap();
    assert_eq!(bed.store.answered_credential(&key, at(4)).await.unwrap(), Some(left.clone()));
    assert_eq!(bed.store.replace_credential(newer, 1, request("2", 1)).await.unwrap(), left, "two at one time");
    let other_key = request("3", 1).request.unwrap();
    assert_eq!(bed.store.answered_credential(&other_key, at(4)).await.unwrap(), None);
    let late = again(&credential("shop", "other.test", 24 * 3600 + 1), request("1", 1)).await;
    assert!(matches!(late, Err(StoreError::AlreadyExists { .. })), "the request is forgotten: {late:?}");
}

pub(crate) async fn a_change_knows_what_it_changes(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let first = create(&*bed.store, &credential("shop", "one.test", 0)).await.unwrap();
    let second = changed(&first, "two.test", 5);
    let left = bed.store.replace_credential(second.clone(), 1, Terms::default()).await.unwrap();
    assert_eq!(left, second.credential);
    assert_eq!(bed.store.credential(&name("shop")).await.unwrap(), second);
    let late = bed.store.replace_credential(changed(&first, "three.test", 6), 1, Terms::default()).await;
    assert!(is_changed(&late.unwrap_err()), "version 1 is no more");
    // One that was deleted and made again under the name is another, though its version is the same.
    bed.store.delete_credential(&name("shop"), Terms::default(), at(0)).await.unwrap();
    create(&*bed.store, &credential("shop", "one.test", 9)).await.unwrap();
    let late = bed.store.replace_credential(changed(&first, "three.test", 10), 1, Terms::default()).await;
    assert!(is_changed(&late.unwrap_err()), "it was made at another time");
    let absent = changed(&credential("none", "one.test", 0), "two.test", 1);
    let absent = bed.store.replace_credential(absent, 1, Terms::default()).await.unwrap_err();
    assert!(is_not_found(&absent, "registry credential"));
}

pub(crate) async fn a_deletion_knows_what_it_deletes(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let first = create(&*bed.store, &credential("shop", "one.test", 0)).await.unwrap();
    let second = changed(&first, "two.test", 5);
    bed.store.replace_credential(second.clone(), 1, Terms::default()).await.unwrap();
    let with = |stored: &StoredCredential| Terms { etag: Some(stored.credential.etag()), ..Terms::default() };
    let refused = bed.store.delete_credential(&name("shop"), with(&first), at(0)).await.unwrap_err();
    assert!(is_changed(&refused));
    bed.store.delete_credential(&name("shop"), with(&second), at(0)).await.unwrap();
    let absent = bed.store.delete_credential(&name("shop"), Terms::default(), at(0)).await.unwrap_err();
    assert!(is_not_found(&absent, "registry credential"));
}

pub(crate) async fn what_is_validated_changes_no_credential(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let new = credential("shop", "one.test", 0);
    let checked = Terms { validate_only: true, ..request("1", 1) };
    assert_eq!(bed.store.create_credential(new.clone(), checked).await.unwrap(), new.credential);
    assert!(is_not_found(&bed.store.credential(&name("shop")).await.unwrap_err(), "registry credential"));
    create(&*bed.store, &new).await.unwrap();
    let twice = bed.store.create_credential(new.clone(), VALIDATE).await;
    assert!(matches!(twice, Err(StoreError::AlreadyExists { .. })));
    let other = changed(&new, "two.test", 5);
    assert_eq!(bed.store.replace_credential(other.clone(), 1, VALIDATE).await.unwrap(), other.credential);
    assert!(is_changed(&bed.store.replace_credential(other, 7, VALIDATE).await.unwrap_err()));
    bed.store.delete_credential(&name("shop"), VALIDATE, at(0)).await.unwrap();
    assert_eq!(bed.store.credential(&name("shop")).await.unwrap(), new);
}

pub(crate) async fn credentials_are_bounded(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let many = (0..MAX_REGISTRY_CREDENTIALS).map(|number| {
        let new = credential(&format!("n{number}"), "one.test", 0);
        let store = &bed.store;
        async move { create(&**store, &new).await.map(drop) }
    });
    futures::future::try_join_all(many).await.unwrap();
    let full = create(&*bed.store, &credential("more", "one.test", 0)).await.unwrap_err();
    assert!(matches!(full, StoreError::TooMany { kind: "registry credential", .. }), "{full}");
    bed.store.delete_credential(&name("n7"), Terms::default(), at(0)).await.unwrap();
    create(&*bed.store, &credential("more", "one.test", 0)).await.unwrap();
}

pub(crate) async fn an_assignment_says_whether_a_credential_is_for_its_image(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    // The images of the suite's jobs are in registry.test.
    create(&*bed.store, &credential("other", "other.test", 0)).await.unwrap();
    let told = async |number, second| {
        bed.store.create_job(super::new_job(number, &["a"], 0)).await.unwrap();
        bed.seen.take();
        bed.assign_all(second).await;
        let set = bed.seen.take().into_iter().find_map(|change| match change {
            Change::Set { assignment, .. } => Some(assignment.image_access),
            _ => None,
        });
        set.unwrap()
    };
    assert_eq!(told(1, 1).await, ImageAccess::Open);
    let made = create(&*bed.store, &credential("shop", "registry.test/web", 0)).await.unwrap();
    assert_eq!(told(2, 2).await, ImageAccess::Credential);
    let full = async |session| {
        let full = bed.open_session("a", session).await;
        full.into_iter().map(|one| one.image_access).collect::<Vec<_>>()
    };
    assert_eq!(full(1).await, [ImageAccess::Credential; 2]);
    bed.store.replace_credential(changed(&made, "registry.test/other", 5), 1, Terms::default()).await.unwrap();
    assert_eq!(told(3, 3).await, ImageAccess::Open);
    assert_eq!(full(2).await, [ImageAccess::Open; 3]);
    bed.store.delete_credential(&name("shop"), Terms::default(), at(0)).await.unwrap();
    assert_eq!(full(3).await, [ImageAccess::Open; 3]);
}
