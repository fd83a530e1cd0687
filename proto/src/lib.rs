//! The wire and only the wire: `longshore.v1`, its generated code, and the conversions between wire and model.

pub mod codec;
pub mod convert;
pub mod overrides;
mod redacted;

/// The generated messages, clients and servers of package `longshore.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::too_many_lines)]
pub mod v1 {
    tonic::include_proto!("longshore.v1");
}

/// The encoded descriptors of `longshore.v1` and what it imports, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
