//! What the server can say of a spec on a node before the node hears of it.

use crate::capability::{self, Unsupported};
use crate::failure::FailureReason;
use crate::node::Node;
use crate::node_value::{self, Missing};
use crate::spec::AppSpec;

/// Why a node is not even sent a spec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its agent has not said that it can do what the spec needs.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// It lacks what the spec is filled in with.
    #[error(transparent)]
    Missing(#[from] Missing),
}

impl Refusal {
    /// For machines.
    #[must_use]
    pub fn reason(&self) -> FailureReason {
        match self {
            Self::Unsupported(_) => FailureReason::Unsupported,
            Self::Missing(missing) => missing.reason(),
        }
    }
}

/// Whether the answer of [`check`] may depend on the node. Labels need no look of their own: a spec that asks for one needs
/// [`capability::SPEC_NODE_VALUES`], which is one of [`capability::LATER`].
#[must_use]
pub fn is_needed(spec: &AppSpec) -> bool {
    capability::needs_later(spec)
}

/// Checks a spec against what a node said of itself last, and against its labels.
///
/// # Errors
///
/// Why it is not sent.
pub fn check(spec: &AppSpec, node: &Node) -> Result<(), Refusal> {
    let offered = node.info.as_ref().map(|info| info.capabilities.as_slice()).unwrap_or_default();
    capability::check_later(spec, offered)?;
    node_value::check_labels(spec, &node.labels)?;
    Ok(())
}
