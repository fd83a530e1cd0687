//! Sessions, reconciler and API over a real store and real connections, with scripted agents.
//!
//! Only TLS is left out: the harness puts the caller's identity where the listeners would.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test may fail by panicking.

mod amendments;
mod apps;
mod bad_requests;
mod configurations;
mod connections;
mod credentials;
mod enrolment;
mod errors;
mod filters;
mod harness;
mod jobs;
mod live_plans;
mod mutations;
mod nodes;
mod pages;
mod plan;
mod removal;
mod resumption;
mod sessions;
mod shutdown;
mod templates;
mod updates;
mod usage;
mod watches;
