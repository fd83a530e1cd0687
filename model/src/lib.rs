//! What a Longshore job is and how it may change.
//!
//! Everything here is a pure function of its arguments: no I/O, no async, no clock and no randomness of its own. Time
//! comes in as a [`jiff::Timestamp`], randomness as a number. Server, agent and command line share these words.
//!
//! Read [`machine`] first: it is the one place where jobs and tasks change state.

pub mod accelerator;
pub mod admission;
pub mod app;
pub mod assignment;
pub mod audit;
pub mod backoff;
pub mod capability;
pub mod capacity;
pub mod cause;
pub mod certificate;
pub mod clock;
pub mod command;
pub mod configuration;
pub mod event;
pub mod failure;
pub mod filter;
mod fnv;
pub mod health;
pub mod host_path;
pub mod identity;
pub mod job;
pub mod kind;
pub mod label;
pub mod limits;
pub mod linux;
pub mod machine;
pub mod name;
pub mod node;
pub mod node_value;
pub mod order;
pub mod plan;
pub mod port;
pub mod preflight;
pub mod probe;
pub mod quantity;
pub mod refusal;
pub mod registry;
pub mod report;
pub mod rollout;
pub mod secret;
pub mod selector;
pub mod sorting;
pub mod spec;
pub mod targets;
pub mod task;
pub mod template;
pub mod trouble;
pub mod usage;
pub mod user;
pub mod validate;
