//! Real servers, real agents, real containers.
//!
//! Run by `tests/run`, which builds the binaries, installs what is needed, and puts everything into a PID and mount
//! namespace. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should say where")]

mod absence;
mod accelerators;
mod admins;
mod admission;
mod amendments;
mod apps;
mod audit;
mod authorities;
mod backup;
mod cli;
mod configurations;
mod crashes;
mod doctor;
mod egress;
mod engines;
mod events;
mod exec;
mod failures;
mod fleet;
mod foreign;
mod identity;
mod images;
mod jobs;
mod live_plans;
mod logs;
mod metrics;
mod network;
mod node_values;
mod options;
mod passwords;
mod plan;
mod port_forward;
mod ports;
mod privileges;
mod probes;
mod registries;
mod reload;
mod removal;
mod requests;
mod security;
mod storms;
mod surroundings;
mod templates;
mod traces;
mod transport;
mod updates;
mod usage;
