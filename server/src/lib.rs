//! The server.
pub mod admin;
pub mod api;
pub mod backup;
pub mod config;
pub mod controller;
#[cfg(test)]
mod failing_store;
pub mod fleet;
pub mod hub;
pub mod identity;
pub mod ids;
pub mod listen;
pub mod live;
pub mod metrics;
mod owner;
pub mod retention;
pub mod rotation;
pub mod serve;
pub mod services;
pub mod session;
pub mod store;
pub mod vault;
mod version;
pub mod web;
