//! All tests, on Docker.

#[path = "../embedded/commands.rs"]
mod commands;
#[path = "../embedded/confinement.rs"]
mod confinement;
#[path = "../embedded/conformance.rs"]
mod conformance;
#[path = "../embedded/connections.rs"]
mod connections;
#[path = "images.rs"]
mod images;
#[path = "../embedded/life.rs"]
mod life;
#[path = "../embedded/limits.rs"]
mod limits;
#[path = "../embedded/network.rs"]
mod network;
#[path = "../embedded/options.rs"]
mod options;
#[path = "../embedded/output.rs"]
mod output;
#[path = "../embedded/promises.rs"]
mod promises;
#[path = "recovery.rs"]
mod recovery;
#[path = "../embedded/surroundings.rs"]
mod surroundings;
#[path = "../embedded/volumes.rs"]
mod volumes;

mod node {
    pub use crate::bench::*;
    pub use crate::node::Docker as Kind;
    pub type Node = crate::bench::Node<crate::node::OnEngine<Kind>>;
}
