//! What is made of what was found: no I/O, so that every judgement can be tested.

mod identity;
mod machine;
mod network;
mod place;
mod service;

pub(super) use identity::{certificate, credentials, enrolled, known, not_connected, not_enrolled, server};
pub(super) use machine::{Cgroups, Overlay, capabilities, cgroups, kernel, namespaces, open_files, overlay, seccomp};
pub(super) use network::egress;
pub(super) use place::{Directory, Space, directory, file_system, kind_of_runtime, no_directory, space, unreadable};
pub(super) use service::{Engine, Unit, agent, engine, settings, unit, user};
