//! What is wrong with a request: every violation at once, each with its field.

mod violation;

pub use violation::{Path, Violation, Violations, cut};
