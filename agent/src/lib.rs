//! The agent: runs what the server assigns to this node, and reports every step back.
//!
//! [`session`] hears what the server wants, [`supervisor`] makes it so with a [`runtime`], [`ledger`] remembers it, and
//! [`reporter`] says what came of it. The rules of the conversation are comments in `agent.proto`.

pub mod accelerators;
pub mod addresses;
pub mod bandwidth;
pub mod capability;
pub mod capacity;
pub mod clock;
pub mod collection;
pub mod config;
pub mod configuration;
pub mod data_dir;
pub mod devices;
pub mod doctor;
pub mod durable;
pub mod enroll;
pub mod environment;
pub mod host_path;
pub mod identity;
pub mod keyring;
pub mod ledger;
pub mod metrics;
mod mounts;
pub mod node;
pub mod ports;
pub mod probe;
pub mod renewal;
pub mod reporter;
pub mod runtime;
pub mod session;
pub mod supervisor;
#[cfg(test)]
mod testing;
pub mod usage;
