//! Server reflection, in both versions: clients such as grpcurl still ask for v1alpha.

use tonic::service::Routes;
use tonic_reflection::server::{Builder, Error};

/// Adds reflection of everything that the server speaks, error details included: without those, clients show them as
/// bytes.
///
/// # Errors
///
/// A descriptor set that was built in is damaged.
pub fn add(routes: Routes) -> Result<Routes, Error> {
    let v1 = builder().build_v1()?;
    let v1alpha = builder().build_v1alpha()?;
    Ok(routes.add_service(v1).add_service(v1alpha))
}

fn builder() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(longshore_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
