//! What a spec may say of its containers beyond what to run: rights, limits, and what they find around them.

use serde::{Deserialize, Serialize};

use super::text;
use crate::linux::{ALL, CapabilitySet};

/// Capabilities of Linux that a container has beside the ordinary ones, or without some of them.
///
/// Names are those of the kernel, with or without `CAP_`; `ALL` stands for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// What it has, ordinary or not. Beyond the ordinary ones only where the node allows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<String>,
    /// What it has not, although it is ordinary or [`ALL`] was added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop: Vec<String>,
}

impl Capabilities {
    /// Whether nothing is said: a container has the ordinary ones.
    #[must_use]
    pub fn is_ordinary(&self) -> bool {
        *self == Self::default()
    }

    /// What a container gets, if the node has and allows it. Names that are none count for nothing.
    #[must_use]
    pub fn granted(&self) -> CapabilitySet {
        let says = |list: &[String], word: &str| list.iter().any(|name| name == word);
        let base = match (says(&self.add, ALL), says(&self.drop, ALL)) {
            (_, true) => CapabilitySet::NONE,
            (true, false) => CapabilitySet::EVERY,
            (false, false) => CapabilitySet::ORDINARY,
        };
        base.with(single(&self.add)).without(single(&self.drop))
    }

    /// What is added one by one.
    #[must_use]
    pub fn named(&self) -> CapabilitySet {
        single(&self.add)
    }

    /// What of [`Capabilities::granted`] goes beyond the ordinary.
    #[must_use]
    pub fn extraordinary(&self) -> CapabilitySet {
        self.granted().without(CapabilitySet::ORDINARY)
    }
}

fn single(names: &[String]) -> CapabilitySet {
    names.iter().filter(|name| *name != ALL).filter_map(|name| CapabilitySet::named(name).ok()).collect()
}

/// A limit of every process of a container: see setrlimit(2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "text::Ulimit", into = "text::Ulimit")]
pub struct Ulimit {
    /// One of [`crate::linux::ULIMITS`].
    pub name: String,
    /// The limit in force, in the kernel's unit for it; -1 means no limit.
    pub soft: i64,
    /// How far the process may raise it itself; -1 means no limit.
    pub hard: i64,
}

impl Ulimit {
    /// What stands for no limit.
    pub const UNLIMITED: i64 = -1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_added_to_and_taken_from_the_ordinary_ones() {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let ordinary = CapabilitySet::ORDINARY.to_string();
        let one = |name| CapabilitySet::named(name).unwrap_or_default();
        let table = [
            (&[][..], &[][..], ordinary.clone(), ""),
            (&[], &["ALL"], String::new(), ""),
            (&["CAP_NET_BIND_SERVICE"], &["ALL"], "NET_BIND_SERVICE".to_owned(), ""),
            (&["NET_ADMIN"], &["ALL"], "NET_ADMIN".to_owned(), "NET_ADMIN"),
            (&["KILL"], &[], ordinary, ""),
            (&["no such", "Kill"], &["ALL"], String::new(), ""),
        ];
        for (add, drop, granted, extraordinary) in table {
            let capabilities = Capabilities { add: words(add), drop: words(drop) };
            assert_eq!(capabilities.granted().to_string(), granted, "{capabilities:?}");
            assert_eq!(capabilities.extraordinary().to_string(), extraordinary, "{capabilities:?}");
        }
        let most = Capabilities { add: words(&["ALL"]), drop: words(&["SYS_ADMIN"]) };
        assert_eq!(most.granted(), CapabilitySet::EVERY.without(one("SYS_ADMIN")));
    }
}
