//! Who may do what: the certificate authority, enrolment, and the roles.

pub mod access;
pub mod attempts;
pub mod authority;
pub mod caller;
pub mod enrollment;
pub mod external;
pub mod own;
pub mod pki;
pub mod roles;
pub mod users;

pub use access::AccessLayer;
pub use authority::Authority;
pub use caller::{Caller, Peer};
pub use enrollment::Enrollment;
pub use pki::Pki;
