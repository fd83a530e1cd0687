//! Users: added, renewed, revoked, forgotten.

use jiff::{SignedDuration, Timestamp};
use longshore_model::identity::Role;
use longshore_model::user::User;

use super::{Bed, Factory, at, is_not_found, lines};
use crate::store::sorting::Query;
use crate::store::{StoreError, Terms};

const LIFE: i64 = 3600;

fn user(name: &str, role: Role, created: i64) -> User {
    let life = SignedDuration::from_secs(LIFE);
    User::new(name.to_owned(), role, "anna".to_owned(), life, at(created), Timestamp::MAX)
}

async fn all(bed: &Bed) -> Vec<User> {
    bed.store.users(Query::first(100)).await.unwrap().items
}

pub(crate) async fn users_are_kept_and_paged(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    for (name, role) in [("c", Role::Admin), ("a", Role::Viewer), ("b", Role::Operator)] {
        let made = bed.store.create_user(user(name, role, 1), Terms::default()).await.unwrap();
        assert_eq!(made, user(name, role, 1));
    }
    assert_eq!(lines(&bed.seen.take()), ["user c admin", "user a viewer", "user b operator"]);
    let twice = bed.store.create_user(user("a", Role::Admin, 2), Terms::default()).await.unwrap_err();
    assert!(matches!(twice, StoreError::AlreadyExists { kind: "user", .. }), "{twice:?}");
    let validate = Terms { validate_only: true, ..Terms::default() };
    bed.store.create_user(user("d", Role::Admin, 2), validate).await.unwrap();
    let query = Query::first(2);
    let first = bed.store.users(query.clone()).await.unwrap();
    let rest = bed.store.users(query.next(&first).unwrap()).await.unwrap();
    assert_eq!((first.more, rest.more), (true, false));
    let kept = [user("a", Role::Viewer, 1), user("b", Role::Operator, 1), user("c", Role::Admin, 1)];
    assert_eq!(first.items.into_iter().chain(rest.items).collect::<Vec<_>>(), kept);
    assert!(lines(&bed.seen.take()).is_empty());
    drop(bed);
    assert_eq!(all(&Bed::open(factory)).await, kept);
}

pub(crate) async fn the_first_user_is_adopted_once(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    bed.store.adopt_first_user(user("first", Role::Admin, 0)).await.unwrap();
    bed.store.adopt_first_user(user("other", Role::Admin, 5)).await.unwrap();
    assert_eq!(all(&bed).await, [user("first", Role::Admin, 0)]);
    bed.store.create_user(user("second", Role::Admin, 1), Terms::default()).await.unwrap();
    bed.store.revoke_user("first", Terms::default(), at(2)).await.unwrap();
    bed.store.adopt_first_user(user("first", Role::Admin, 0)).await.unwrap();
    assert_eq!(all(&bed).await[0].revoke_time, Some(at(2)));
}

pub(crate) async fn the_last_admin_stays(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    bed.store.create_user(user("a", Role::Admin, 0), Terms::default()).await.unwrap();
    bed.store.create_user(user("b", Role::Admin, 1000), Terms::default()).await.unwrap();
    bed.store.create_user(user("op", Role::Operator, 1000), Terms::default()).await.unwrap();
    let revoke = |name: &'static str, second: i64| {
        let store = bed.store.clone();
        async move { store.revoke_user(name, Terms::default(), at(second)).await }
    };
    let last = revoke("b", LIFE + 1).await.unwrap_err();
    assert!(matches!(last, StoreError::LastAdmin(ref name) if name == "b"), "the other's has expired: {last:?}");
    revoke("a", LIFE + 1).await.expect("whose certificate has expired is no admin");
    revoke("op", LIFE + 1).await.unwrap();
    let last = revoke("b", LIFE + 1).await.unwrap_err();
    assert!(matches!(last, StoreError::LastAdmin(_)), "{last:?}");
}

pub(crate) async fn a_revoked_user_is_forgotten_with_their_certificate(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    bed.store.create_user(user("a", Role::Viewer, 0), Terms::default()).await.unwrap();
    bed.store.create_user(user("b", Role::Viewer, 0), Terms::default()).await.unwrap();
    bed.seen.take();
    let etag = all(&bed).await[0].etag();
    let revoked = bed.store.revoke_user("a", Terms { etag: Some(etag.clone()), ..Terms::default() }, at(5)).await;
    let revoked = revoked.unwrap();
    assert_eq!(revoked.revoke_time, Some(at(5)));
    assert_eq!(lines(&bed.seen.take()), ["user a viewer revoked"]);
    assert_eq!(bed.store.revoke_user("a", Terms::default(), at(9)).await.unwrap(), revoked);
    let outdated = Terms { etag: Some(etag), ..Terms::default() };
    let outdated = bed.store.revoke_user("a", outdated, at(9)).await.unwrap_err();
    assert!(matches!(outdated, StoreError::Changed { .. }), "{outdated:?}");
    let unknown = bed.store.revoke_user("x", Terms::default(), at(9)).await.unwrap_err();
    assert!(is_not_found(&unknown, "user"), "{unknown:?}");

    bed.store.pass_deadlines(at(LIFE - 1)).await.unwrap();
    assert_eq!(all(&bed).await.len(), 2);
    bed.store.pass_deadlines(at(LIFE)).await.unwrap();
    assert_eq!(all(&bed).await, [user("b", Role::Viewer, 0)], "who was not revoked stays");
}

pub(crate) async fn a_renewal_is_for_the_users_own_certificate(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    bed.store.create_user(user("a", Role::Viewer, 10), Terms::default()).await.unwrap();
    let renew = |role: Role, issued: i64, second: i64| {
        let store = bed.store.clone();
        async move { store.renew_user("a", role, at(issued), at(second), at(2000 + LIFE)).await }
    };
    let renewed = renew(Role::Viewer, 10, 100).await.unwrap();
    assert_eq!((renewed.issue_time, renewed.create_time), (at(100), at(10)));
    assert_eq!(renewed.certificate_end, at(100 + LIFE));
    for foreign in [renew(Role::Viewer, 9, 100).await, renew(Role::Admin, 10, 100).await] {
        assert!(is_not_found(&foreign.unwrap_err(), "user"));
    }
    bed.store.revoke_user("a", Terms::default(), at(100)).await.unwrap();
    assert!(is_not_found(&renew(Role::Viewer, 10, 100).await.unwrap_err(), "user"));

    let next = bed.store.create_user(user("a", Role::Admin, 100), Terms::default()).await.unwrap();
    assert_eq!(next.create_time, at(101), "no certificate of before is theirs, not even of the same second");
    assert_eq!(next.issue_time, next.create_time);
    assert!(is_not_found(&renew(Role::Admin, 100, 102).await.unwrap_err(), "user"));
    renew(Role::Admin, 101, 102).await.unwrap();
    let last = renew(Role::Admin, 101, 3000).await.unwrap();
    assert_eq!((last.issue_time, last.certificate_end), (at(3000), at(2000 + LIFE)), "no longer than the authority");
    assert_eq!(all(&bed).await, [last]);
}
