//! The embedded runtime on real containers. Needs root; every test has a node of its own.
//!
//! What is here but `frozen`, `host_paths`, `readiness`, `recovery`, `sharing`, `sweep`, `system_calls` and `node` is held
//! against the engines too: see `tests/engines`.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test, and the harness is read with its tests"
)]

mod bench;
mod commands;
mod confinement;
mod conformance;
mod connections;
mod crowded;
mod fake;
mod frozen;
mod host_paths;
mod life;
mod limits;
mod network;
mod node;
mod options;
mod output;
mod promises;
mod readiness;
mod recovery;
mod sharing;
mod surroundings;
mod sweep;
mod system_calls;
mod volumes;
