//! Users.

use longshore_model::identity::Role;
use longshore_model::user::User;
use longshore_model::validate::{Path, Violations};

use super::{FromWire, timestamp};
use crate::v1;

impl From<Role> for v1::UserRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Admin => Self::Admin,
            Role::Operator => Self::Operator,
            Role::Viewer => Self::Viewer,
            // No user has it.
            Role::Node => Self::Unspecified,
        }
    }
}

impl FromWire<i32> for Role {
    fn from_wire(wire: i32, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        match v1::UserRole::try_from(wire) {
            Ok(v1::UserRole::Admin) => Some(Self::Admin),
            Ok(v1::UserRole::Operator) => Some(Self::Operator),
            Ok(v1::UserRole::Viewer) => Some(Self::Viewer),
            Ok(v1::UserRole::Unspecified) | Err(_) => {
                bad.add(path, "must be USER_ROLE_VIEWER, USER_ROLE_OPERATOR or USER_ROLE_ADMIN");
                None
            }
        }
    }
}

impl From<&User> for v1::User {
    fn from(user: &User) -> Self {
        Self {
            name: user.name.clone(),
            role: v1::UserRole::from(user.role).into(),
            create_time: Some(timestamp(user.create_time)),
            creator: user.creator.clone(),
            certificate_expire_time: Some(timestamp(user.certificate_end)),
            revoke_time: user.revoke_time.map(timestamp),
            etag: user.etag(),
        }
    }
}
