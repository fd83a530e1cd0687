//! The embedded runtime: images, containers and their network without any other program on the node.

pub mod image;
