//! People and programs with client certificates.

use jiff::{SignedDuration, Timestamp};

use crate::identity::Role;

/// A person or program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Name, as in the certificate.
    pub name: String,
    /// What they may do; never [`Role::Node`].
    pub role: Role,
    /// When they were added: certificates that were issued before are a predecessor's of the same name.
    pub create_time: Timestamp,
    /// Who added them.
    pub creator: String,
    /// Life of their certificates.
    pub life: SignedDuration,
    /// When the newest of them ends.
    pub certificate_end: Timestamp,
    /// When they were revoked.
    pub revoke_time: Option<Timestamp>,
}

impl User {
    /// When the newest certificate was issued.
    #[must_use]
    pub fn issued(&self) -> Timestamp {
        self.certificate_end.checked_sub(self.life).unwrap_or(Timestamp::MIN)
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

    /// The same, with a certificate that is issued now.
    #[must_use]
    pub fn renewed(self, now: Timestamp) -> Self {
        let issued = now.max(self.create_time);
        let certificate_end = issued.checked_add(self.life).unwrap_or(Timestamp::MAX).max(self.certificate_end);
        Self { certificate_end, ..self }
    }

    /// The user who comes after this one, who was revoked, under the same name: no certificate of the one is the other's,
    /// also when both were issued within a second.
    #[must_use]
    pub fn succeeded_by(&self, next: Self) -> Self {
        let after = Timestamp::from_second(self.issued().as_second().saturating_add(1)).unwrap_or(Timestamp::MAX);
        let create_time = next.create_time.max(after);
        let certificate_end = create_time.checked_add(next.life).unwrap_or(Timestamp::MAX);
        Self { create_time, certificate_end, ..next }
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
        User {
            name: "ann".to_owned(),
            role: Role::Operator,
            create_time: at(created),
            creator: "admin".to_owned(),
            life,
            certificate_end: at(created) + life,
            revoke_time: None,
        }
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
        assert!(!next.owns(Role::Operator, first.issued()));
        assert!(next.owns(Role::Operator, next.issued()));
        assert_eq!(next.create_time, at(6_000));
        assert_eq!(first.succeeded_by(user(9_100)), user(9_100));
    }

    #[test]
    fn renewal_gives_the_same_life_anew_and_takes_nothing_away() {
        let ann = user(0);
        let renewed = ann.clone().renewed(at(60_000));
        assert_eq!(renewed.issued(), at(60_000));
        assert_eq!(renewed.clone().renewed(at(30_000)), renewed, "the clock was set back");
    }
}
