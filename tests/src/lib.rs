//! What the end-to-end tests share: real servers, real agents, real containers, and hosts made of network namespaces.
//!
//! A [`cluster::Cluster`] owns everything that it starts: processes, data directories, hosts. Dropping it ends the
//! processes by their pids, resets the nodes and deletes the directories, also when a test panics.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on should say where"
)]

pub mod client;
pub mod cluster;
pub mod engine;
pub mod examples;
pub mod foreign;
pub mod host;
pub mod http;
pub mod http2;
pub mod https;
pub mod process;
pub mod registry;
pub mod spec;
pub mod tmpfs;
pub mod tokens;
pub mod usage;
pub mod wait;
