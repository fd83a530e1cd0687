//! Which nodes a job is for.

use serde::{Deserialize, Serialize};

/// Which nodes a job is for: names or a selector, never both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Targets {
    /// Exactly these.
    #[serde(default, rename = "nodes", skip_serializing_if = "Vec::is_empty")]
    pub node_names: Vec<String>,
    /// All nodes whose labels match, in the grammar of [`crate::selector`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Says that targets of several CPU architectures are meant.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mixed_architectures: bool,
}
