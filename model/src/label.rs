//! Labels of nodes: the rules of keys and values, as in Kubernetes.

use crate::limits::MAX_LABELS;
use crate::node::Labels;
use crate::validate::{Path, Violations};

/// Longest name and value.
const MAX_NAME: usize = 63;
/// Longest prefix: that of a DNS name.
const MAX_PREFIX: usize = 253;

/// Why a text is not a key or value of a label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// The key, or what follows its prefix, is empty.
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
    /// A name or value of other characters.
    #[error("may have letters, digits, '-', '_' and '.' only, and must begin and end with a letter or digit")]
    BadName,
    /// A prefix that is no DNS name.
    #[error("has a prefix before '/' that is not a DNS name such as example.com")]
    BadPrefix,
}

/// Checks a key: a name, perhaps with a DNS name and a slash before it.
///
/// # Errors
///
/// The first rule that it breaks.
pub fn check_key(key: &str) -> Result<(), LabelError> {
    let name = match key.split_once('/') {
        Some((prefix, name)) => {
            check_prefix(prefix)?;
            name
        }
        None => key,
    };
    if name.is_empty() { Err(LabelError::Empty) } else { check_name(name) }
}

/// Checks a value: a name, or empty.
///
/// # Errors
///
/// The first rule that it breaks.
pub fn check_value(value: &str) -> Result<(), LabelError> {
    if value.is_empty() { Ok(()) } else { check_name(value) }
}

/// Checks the labels at `path`, and that they are not too many.
pub fn check(labels: &Labels, path: Path<'_>, bad: &mut Violations) {
    if labels.len() > MAX_LABELS {
        bad.add(path, format!("has {} labels; at most {MAX_LABELS} are allowed", labels.len()));
    }
    for (key, value) in labels {
        if let Err(error) = check_key(key) {
            bad.add(path.key(key), format!("the key {error}"));
        }
        if let Err(error) = check_value(value) {
            bad.add(path.key(key), format!("the value {error}"));
        }
    }
}

fn check_name(name: &str) -> Result<(), LabelError> {
    let length = name.chars().count();
    if length > MAX_NAME {
        return Err(LabelError::TooLong { length, limit: MAX_NAME });
    }
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if name.chars().all(is_inner) && is_edge(name.chars().next()) && is_edge(name.chars().next_back()) {
        Ok(())
    } else {
        Err(LabelError::BadName)
    }
}

fn check_prefix(prefix: &str) -> Result<(), LabelError> {
    if prefix.len() > MAX_PREFIX {
        return Err(LabelError::TooLong { length: prefix.len(), limit: MAX_PREFIX });
    }
    let is_label = |label: &str| crate::name::check_label(label, MAX_NAME).is_ok();
    if prefix.split('.').all(is_label) { Ok(()) } else { Err(LabelError::BadPrefix) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_the_rules() {
        for key in ["role", "Role_1.a-b", "example.com/role", "a/b"] {
            assert_eq!(check_key(key), Ok(()), "{key}");
        }
        for key in
            ["", "-role", "role-", "a b", "é", "/role", "example.com/", "Example.com/x", "a/b/c", &"x".repeat(64)]
        {
            assert!(check_key(key).is_err(), "{key}");
        }
    }

    #[test]
    fn values_follow_the_rules() {
        for value in ["", "gateway", "1", "V1.2_b-c"] {
            assert_eq!(check_value(value), Ok(()), "{value}");
        }
        for value in ["-", ".x", "a b", "a,b", "a/b", &"x".repeat(64)] {
            assert!(check_value(value).is_err(), "{value}");
        }
    }

    #[test]
    fn every_bad_label_is_named() {
        let labels = Labels::from([("a b".to_owned(), "x".to_owned()), ("ok".to_owned(), "-".to_owned())]);
        let mut bad = Violations::default();
        check(&labels, Path::Root.field("labels"), &mut bad);
        let fields: Vec<&str> = bad.0.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["labels[\"a b\"]", "labels[\"ok\"]"]);
    }
}
