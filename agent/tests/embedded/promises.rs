//! The promises of [`super::conformance`], held by this runtime.

use super::conformance::holds;
use super::node::Node;

holds!(Node);
