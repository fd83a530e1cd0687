//! People and programs with client certificates.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::identity::Role;

/// A person or program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Name, as in the certificate.
    pub name: String,
    /// What they may do; never [`Role::Node`].
    pub role: Role,
    /// When they were added: certificates that were issued before are a predecessor's of the same name.
    pub create_time: Timestamp,
    /// Who added them.
    pub creator: String,
    /// Life of their certificates, where the authority that issues them lasts so long.
    pub life: SignedDuration,
    /// When the newest of them is issued.
    pub issue_time: Timestamp,
    /// When the newest of them ends.
    pub certificate_end: Timestamp,
    /// When they were revoked.
    pub revoke_time: Option<Timestamp>,
}

impl User {
    /// A user who is added at this moment, with a first certificate that ends at `authority_end` at the latest.
    #[must_use]
    pub fn new(
        name: String,
        role: Role,
        creator: String,
        life: SignedDuration,
        now: Timestamp,
        authority_end: Timestamp,
    ) -> Self {
        let certificate_end = now.checked_add(life).unwrap_or(Timestamp::MAX).min(authority_end);
        Self { name, role, create_time: now, creator, life, issue_time: now, certificate_end, revoke_time: None }
    }

    /// Whether a certificate with this role that was issued at this moment is this user's. Certificates count whole seconds.
    #[must_use]
    pub fn owns(&self, role: Role, issued: Timestamp) -> bool {
        self.revoke_time.is_none() && self.role == role && issued.as_second() >= self.create_time.as_second()
    }

    /// Whether they can do what admins can at this moment.
    #[must_use]
    pub fn is_admin_at(&self, now: Timestamp) -> bool {
        self.role == Role::Admin && self.revoke_time.is_none() && self.certificate_end > now
    }

    /// The same, with a certificate that is issued now and ends at `authority_end` at the latest.
    #[must_use]
    pub fn renewed(self, now: Timestamp, authority_end: Timestamp) -> Self {
        // No renewal takes anything away, whatever the clock says.
        let issue_time = now.max(self.issue_time);
        let end = issue_time.checked_add(self.life).unwrap_or(Timestamp::MAX).min(authority_end);
        Self { issue_time, certificate_end: end.max(self.certificate_end), ..self }
    }

    /// The user who comes after this one, who was revoked, under the same name: no certificate of the one is the other's,
    /// also when both were issued within a second.
    #[must_use]
    pub fn succeeded_by(&self, next: Self) -> Self {
        let after = Timestamp::from_second(self.issue_time.as_second().saturating_add(1)).unwrap_or(Timestamp::MAX);
        let create_time = next.create_time.max(after);
        Self { create_time, issue_time: create_time, ..next }
    }

    /// Changes when they are revoked, and with each user of the name.
    #[must_use]
    pub fn etag(&self) -> String {
        let revoked = self.revoke_time.map_or(0, Timestamp::as_microsecond);
        format!("{:x}-{revoked:x}", self.create_time.as_microsecond())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + milliseconds).unwrap()
    }

    fn user(created: i64) -> User {
        let life = SignedDuration::from_hours(1);
        User::new("ann".to_owned(), Role::Operator, "admin".to_owned(), life, at(created), Timestamp::MAX)
    }

    #[test]
    fn a_certificate_is_its_users_alone() {
        let ann = user(5_500);
        assert!(ann.owns(Role::Operator, at(5_000)) && ann.owns(Role::Operator, at(90_000)));
        assert!(!ann.owns(Role::Operator, at(4_000)), "a predecessor's");
        assert!(!ann.owns(Role::Admin, at(6_000)), "of another role");
        let revoked = User { revoke_time: Some(at(7_000)), ..ann };
        assert!(!revoked.owns(Role::Operator, at(6_000)) && !revoked.owns(Role::Operator, at(8_000)));
    }

    #[test]
    fn a_successor_within_the_same_second_shares_no_certificate() {
        let first = user(5_100);
        let next = User { revoke_time: Some(at(5_200)), ..first.clone() }.succeeded_by(user(5_300));
        assert!(!next.owns(Role::Operator, first.issue_time));
        assert!(next.owns(Role::Operator, next.issue_time));
        assert_eq!(next.create_time, at(6_000));
        assert_eq!(first.succeeded_by(user(9_100)), user(9_100));
    }

    #[test]
    fn renewal_gives_the_same_life_anew_and_takes_nothing_away() {
        let ann = user(0);
        let renewed = ann.clone().renewed(at(60_000), Timestamp::MAX);
        assert_eq!((renewed.issue_time, renewed.certificate_end), (at(60_000), at(60_000) + ann.life));
        assert_eq!(renewed.clone().renewed(at(30_000), Timestamp::MAX), renewed, "the clock was set back");
    }

    #[test]
    fn no_certificate_outlives_the_authority_and_the_life_comes_back_with_the_next_one() {
        let life = SignedDuration::from_hours(1);
        let end = at(0) + life / 2;
        let ann = User::new("ann".to_owned(), Role::Viewer, "admin".to_owned(), life, at(0), end);
        assert_eq!(ann.certificate_end, end);
        let renewed = ann.renewed(at(60_000), end);
        assert_eq!((renewed.issue_time, renewed.certificate_end), (at(60_000), end));
        assert_eq!(renewed.renewed(at(120_000), at(0) + life * 9).certificate_end, at(120_000) + life);
    }
}
