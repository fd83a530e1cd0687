//! Compiles the .proto files without protoc.

use std::path::PathBuf;

const FILES: [&str; 11] = [
    "longshore/v1/agent.proto",
    "longshore/v1/app.proto",
    "longshore/v1/audit.proto",
    "longshore/v1/configuration.proto",
    "longshore/v1/enrollment.proto",
    "longshore/v1/job.proto",
    "longshore/v1/node.proto",
    "longshore/v1/registry.proto",
    "longshore/v1/spec.proto",
    "longshore/v1/template.proto",
    "longshore/v1/user.proto",
];

/// Messages that hold what no log is to show: their `Debug` is written by hand and leaves it out.
const WITH_SECRETS: [&str; 7] = [
    ".longshore.v1.CreateRegistryCredentialRequest",
    ".longshore.v1.UpdateRegistryCredentialRequest",
    ".longshore.v1.FetchRegistryCredentialResponse",
    ".longshore.v1.CreateSecretRequest",
    ".longshore.v1.UpdateSecretRequest",
    ".longshore.v1.FetchedConfiguration",
    ".longshore.v1.ConfigMap",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=longshore");
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // The compiler encodes the set itself: prost's own encoding would drop custom options.
    std::fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .codec_path("crate::codec::SmallCodec")
        // In order, so that the same message is the same bytes: a request that comes again is known by them.
        .btree_map(".")
        .bytes(".longshore.v1.Assignment.app_spec")
        .bytes(".longshore.v1.CheckRequest.app_spec")
        .bytes(".longshore.v1.LogLine.text")
        .skip_debug(WITH_SECRETS)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
