//! Who is on the other end of a connection: what a certificate's SAN URI says.
//!
//! The URI is a SPIFFE identifier, `spiffe://<trust domain>/<kind>/…`: a node is `…/node/<name>`, a person or program is
//! `…/user/<role>/<name>`, a server is `…/server`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::{NameError, NodeName, check_label};

/// Roles, one of which every caller has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything that people can do.
    Admin,
    /// Everything that concerns jobs and apps.
    Operator,
    /// Looking only.
    Viewer,
    /// An agent: its own session, nothing else.
    Node,
}

impl Role {
    /// The word in certificates and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
            Self::Node => "node",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = IdentityError;

    /// Reads a person's or program's role; agents' is none that can be given.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let known = [Self::Admin, Self::Operator, Self::Viewer].into_iter().find(|known| known.as_str() == text);
        known.ok_or_else(|| IdentityError::Role(text.to_owned()))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Who is on the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// An agent.
    Node(NodeName),
    /// A person or program, with a role other than [`Role::Node`].
    User {
        /// Name, as in the certificate.
        name: String,
        /// What they may do.
        role: Role,
    },
    /// A server.
    Server,
}

/// Why a URI names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not of the form that this module describes.
    #[error("the certificate's URI {0:?} is not a Longshore identity")]
    Form(String),
    /// No role of people or programs.
    #[error("{0:?} is not a role; viewer, operator or admin is expected")]
    Role(String),
    /// Of another trust domain.
    #[error("the certificate's URI is of the trust domain {0:?}")]
    TrustDomain(String),
    /// A name in it is malformed.
    #[error("the name in the certificate's URI {0}")]
    Name(#[from] NameError),
}

impl Identity {
    /// The role, `None` for a server.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        match self {
            Self::Node(_) => Some(Role::Node),
            Self::User { role, .. } => Some(*role),
            Self::Server => None,
        }
    }

    /// The name by which things that it makes are marked: a person's or program's own, else what it is.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::User { name, .. } => name.clone(),
            other => other.to_string(),
        }
    }

    /// The URI that stands in the certificate.
    #[must_use]
    pub fn to_uri(&self, trust_domain: &str) -> String {
        match self {
            Self::Node(name) => format!("spiffe://{trust_domain}/node/{name}"),
            Self::User { name, role } => format!("spiffe://{trust_domain}/user/{role}/{name}"),
            Self::Server => format!("spiffe://{trust_domain}/server"),
        }
    }

    /// Reads the URI of a certificate that belongs to `trust_domain`.
    ///
    /// # Errors
    ///
    /// The URI is of another trust domain, or not of the form that [`Identity::to_uri`] writes.
    pub fn from_uri(uri: &str, trust_domain: &str) -> Result<Self, IdentityError> {
        let form = || IdentityError::Form(uri.to_owned());
        let (domain, path) = uri.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).ok_or_else(form)?;
        if domain != trust_domain {
            return Err(IdentityError::TrustDomain(domain.to_owned()));
        }
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            ["server"] => Ok(Self::Server),
            ["node", name] => Ok(Self::Node(NodeName::parse(name)?)),
            ["user", role, name] => {
                let role = role.parse().map_err(|_| form())?;
                check_label(name, crate::name::MAX_NAME_LENGTH)?;
                Ok(Self::User { name: (*name).to_owned(), role })
            }
            _ => Err(form()),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::User { name, role } => write!(f, "{role} {name}"),
            Self::Server => f.write_str("server"),
        }
    }
}
