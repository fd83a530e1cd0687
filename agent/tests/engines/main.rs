//! The runtime that has an engine run the containers, on Debian's Docker and on its Podman: the tests of the embedded
//! runtime, and what engines alone can do to an agent. Needs root, and both engines installed.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::duplicate_mod,
    reason = "a failed unwrap is a failed test, and the tests are the same files for each runtime"
)]

#[path = "../embedded/bench.rs"]
mod bench;
mod docker;
mod node;
mod podman;
