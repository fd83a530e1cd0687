//! The embedded runtime on real containers. Needs root; every test has a node of its own.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test, and the harness is read with its tests"
)]

mod conformance;
mod life;
mod limits;
mod network;
mod node;
mod output;
mod recovery;
mod volumes;
