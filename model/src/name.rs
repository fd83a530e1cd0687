//! Names and identifiers, each its own type so that one cannot stand in for another.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest node or app name: one DNS label, so that both can stand in host names and container names.
pub const MAX_NAME_LENGTH: usize = 63;

/// Length of the text form of a ULID.
pub const ULID_LENGTH: usize = 26;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// Too long.
    #[error("is {length} characters long; at most {limit} are allowed")]
    TooLong {
        /// Characters given.
        length: usize,
        /// Characters allowed.
        limit: usize,
    },
    /// A character that may not stand where it does.
    #[error(
        "has {found:?} at position {position}; only lower-case letters, digits and '-' are allowed, and the first and last must not be '-'"
    )]
    BadCharacter {
        /// The character.
        found: char,
        /// Counted from 1.
        position: usize,
    },
    /// Not the text form of a ULID.
    #[error("is not an identifier: 26 characters of 0-9 and a-z without i, l, o and u are expected")]
    NotAnId,
}

/// Checks the rules of one DNS label (RFC 1123): lower-case letters, digits and inner dashes.
///
/// # Errors
///
/// The first rule that `text` breaks.
pub fn check_label(text: &str, limit: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    let length = text.chars().count();
    if length > limit {
        return Err(NameError::TooLong { length, limit });
    }
    for (index, found) in text.chars().enumerate() {
        let at_edge = index == 0 || index + 1 == length;
        let allowed = found.is_ascii_lowercase() || found.is_ascii_digit() || (found == '-' && !at_edge);
        if !allowed {
            return Err(NameError::BadCharacter { found, position: index + 1 });
        }
    }
    Ok(())
}

fn check_ulid(text: &str) -> Result<(), NameError> {
    let crockford = |c: char| c.is_ascii_digit() || (c.is_ascii_lowercase() && !matches!(c, 'i' | 'l' | 'o' | 'u'));
    if text.len() == ULID_LENGTH && text.chars().all(crockford) { Ok(()) } else { Err(NameError::NotAnId) }
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Checks `text` and wraps it.
            ///
            /// # Errors
            ///
            /// The first rule that `text` breaks.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(text)?;
                Ok(Self(text.into()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    };
}

text_type!(
    /// Name of an enrolled machine.
    NodeName,
    |text| check_label(text, MAX_NAME_LENGTH)
);

text_type!(
    /// Whole name of an app: the user's prefix, a dash, and the server's suffix.
    AppName,
    |text| check_label(text, MAX_NAME_LENGTH)
);

impl AppName {
    /// What the user called it, without the server's suffix.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.0.rsplit_once('-').map_or(self.as_str(), |(prefix, _)| prefix)
    }
}

text_type!(
    /// Name of a registry credential.
    CredentialName,
    |text| check_label(text, MAX_NAME_LENGTH)
);

text_type!(
    /// Name of a config map or of a secret.
    ConfigurationName,
    |text| check_label(text, MAX_NAME_LENGTH)
);

text_type!(
    /// Name of a template, of an alias of one, or a tag.
    TemplateName,
    |text| check_label(text, MAX_NAME_LENGTH)
);

text_type!(
    /// Identifier of a job: a ULID in lower case, so that identifiers sort by creation time.
    JobId,
    check_ulid
);

text_type!(
    /// Identifier of one live agent stream: fresh each time, which makes it the fence against stale streams.
    SessionId,
    check_ulid
);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    #[test]
    fn labels_follow_rfc_1123() {
        for name in ["a", "0", "shop-1", "a--b", &"x".repeat(63)] {
            assert!(NodeName::parse(name).is_ok(), "{name}");
        }
        for name in ["", "-", "a-", "-a", "A", "a.b", "a_b", "é", "a b", &"x".repeat(64)] {
            assert!(NodeName::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn identifiers_are_lower_case_ulids() {
        assert!(JobId::parse("01jd8x3k5m7n9p2q4r6s8t0v1w").is_ok());
        for id in ["", "01jd8x3k5m7n9p2q4r6s8t0v1", "01JD8X3K5M7N9P2Q4R6S8T0V1W", "01jd8x3k5m7n9p2q4r6s8t0viw"] {
            assert_eq!(JobId::parse(id), Err(NameError::NotAnId), "{id}");
        }
    }
}
