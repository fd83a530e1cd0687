//! Who of the users may call: in memory, as of the last commit.
//!
//! Every call of a person asks here, so that a revocation counts from the next call on, whatever TLS session it comes over;
//! and every call that is under way ends when its caller is revoked.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use longshore_model::identity::Role;
use longshore_model::limits::MAX_PAGE;
use longshore_model::user::User;
use tokio_util::sync::CancellationToken;

use crate::store::sorting::Query;
use crate::store::{Store, StoreError};

/// Name of the first admin.
pub const FIRST_ADMIN: &str = "admin";

/// The users. A purged one may stay here until a restart: it was revoked.
#[derive(Debug, Default)]
pub struct Users {
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Debug)]
struct Known {
    user: User,
    /// Cancelled when the user is revoked.
    revoked: CancellationToken,
}

impl Users {
    /// Takes over what the store remembers. To be called before anybody can call.
    ///
    /// # Errors
    ///
    /// The store fails.
    pub async fn load(&self, store: &dyn Store) -> Result<(), StoreError> {
        let mut next = Some(Query::first(MAX_PAGE));
        while let Some(query) = next {
            let page = store.users(query.clone()).await?;
            next = query.next(&page);
            page.items.into_iter().for_each(|user| self.changed(user));
        }
        Ok(())
    }

    /// Takes over a committed change: ends the calls of whoever was revoked.
    pub fn changed(&self, user: User) {
        let mut known = self.known();
        let before = known.remove(&user.name);
        let is_same = before.as_ref().is_some_and(|before| before.user.create_time == user.create_time);
        let revoked = match before {
            Some(before) if is_same && user.revoke_time.is_none() => before.revoked,
            Some(before) => {
                before.revoked.cancel();
                CancellationToken::new()
            }
            None => CancellationToken::new(),
        };
        known.insert(user.name.clone(), Known { user, revoked });
    }

    /// What is cancelled when this caller is revoked; `None` when that has happened already, or nobody knows of them.
    #[must_use]
    pub fn admit(&self, name: &str, role: Role, issued: Timestamp) -> Option<CancellationToken> {
        let known = self.known();
        known.get(name).filter(|known| known.user.owns(role, issued)).map(|known| known.revoked.clone())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn user(created: i64) -> User {
        let (now, life) = (Timestamp::from_second(created).unwrap(), SignedDuration::from_hours(1));
        User::new("ann".to_owned(), Role::Viewer, "admin".to_owned(), life, now, Timestamp::MAX)
    }

    #[test]
    fn a_revocation_ends_calls_that_are_under_way_and_a_renewal_does_not() {
        let users = Users::default();
        let issued = user(100).create_time;
        assert!(users.admit("ann", Role::Viewer, issued).is_none());
        users.changed(user(100));
        let call = users.admit("ann", Role::Viewer, issued).unwrap();
        assert!(users.admit("ann", Role::Admin, issued).is_none());
        users.changed(user(100).renewed(issued + SignedDuration::from_mins(1), Timestamp::MAX));
        assert!(!call.is_cancelled());
        users.changed(User { revoke_time: Some(issued), ..user(100) });
        assert!(call.is_cancelled());
        assert!(users.admit("ann", Role::Viewer, issued).is_none());

        users.changed(user(200));
        assert!(users.admit("ann", Role::Viewer, issued).is_none(), "a predecessor's certificate");
        let next = users.admit("ann", Role::Viewer, user(200).create_time).unwrap();
        assert!(!next.is_cancelled());
    }
}
