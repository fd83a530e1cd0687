//! Manifests and configurations: what an image says of itself, and whether it suits this node. No I/O.

use oci_spec::image::ImageConfiguration;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::digest::Digest;
use super::error::ImageError;

/// Bytes of a manifest, index or configuration: registries refuse manifests beyond 4 MiB as well.
pub(crate) const MAX_DOCUMENT: u64 = 4 * 1024 * 1024;
/// Layers of an image: Docker itself stops at 127, and overlayfs takes no more than 500.
pub(crate) const MAX_LAYERS: usize = 256;
/// Bytes of one packed layer, so that the sum over an image's layers cannot overflow.
pub(crate) const MAX_PACKED_LAYER: u64 = 256 * 1024 * 1024 * 1024;

/// Reference to content.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Descriptor {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
}

/// What kind of machine content is for.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) variant: String,
}

/// What a manifest's bytes can be.
pub(crate) enum Document {
    /// One image.
    Manifest(Manifest),
    /// A choice of images.
    Index(Vec<Descriptor>),
}

/// One image: its configuration and its layers, bottom first.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// Parses a manifest or an index, OCI's or Docker's; `what` names it in errors.
pub(crate) fn parse_document(what: &str, bytes: &[u8]) -> Result<Document, ImageError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        schema_version: u32,
        manifests: Option<serde::de::IgnoredAny>,
    }
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Descriptor>,
    }

    let shape: Shape = parse(what, bytes)?;
    if shape.schema_version != 2 {
        let version = shape.schema_version;
        return Err(ImageError::Invalid(format!("{what} has schema version {version}, and only 2 is supported")));
    }
    if shape.manifests.is_some() {
        return Ok(Document::Index(parse::<Index>(what, bytes)?.manifests));
    }
    let manifest: Manifest = parse(what, bytes)?;
    if manifest.layers.len() > MAX_LAYERS {
        let count = manifest.layers.len();
        return Err(ImageError::Invalid(format!("the image has {count} layers, and {MAX_LAYERS} is the limit")));
    }
    check_size(what, manifest.config.size, MAX_DOCUMENT)?;
    for layer in &manifest.layers {
        check_size("a layer", layer.size, MAX_PACKED_LAYER)?;
    }
    Ok(Document::Manifest(manifest))
}

/// Parses JSON of an image; `what` names it in errors.
pub(crate) fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| ImageError::Invalid(format!("{what} cannot be understood: {error}")))
}

/// Checks that content has no more than `limit` bytes.
pub(crate) fn check_size(what: &str, size: u64, limit: u64) -> Result<(), ImageError> {
    if size > limit {
        return Err(ImageError::Invalid(format!("{what} has {size} bytes, and {limit} is the limit")));
    }
    Ok(())
}

/// Chooses from an index what suits a node of this architecture.
pub(crate) fn choose<'a>(index: &'a [Descriptor], node: &str) -> Result<&'a Descriptor, ImageError> {
    let linux = |platform: &Platform| platform.os == "linux";
    let suits = |entry: &&Descriptor| {
        entry.platform.as_ref().is_some_and(|platform| linux(platform) && platform.architecture == node)
    };
    if let Some(found) = index.iter().filter(suits).min_by_key(|entry| variant_rank(entry)) {
        return Ok(found);
    }
    // Layouts of a single image often name no platform: its configuration will tell.
    let mut unnamed = index.iter().filter(|entry| entry.platform.is_none());
    match (unnamed.next(), unnamed.next()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => {
            Err(ImageError::Invalid("there are several images, and nothing says which is for what".to_owned()))
        }
        (None, _) => {
            let mut others: Vec<_> = index
                .iter()
                .filter_map(|entry| entry.platform.as_ref())
                .filter(|platform| linux(platform))
                .map(|platform| platform.architecture.as_str())
                .collect();
            others.sort_unstable();
            others.dedup();
            let image = if others.is_empty() { "no Linux machine".to_owned() } else { others.join(" and ") };
            Err(ImageError::Architecture { image, node: node.to_owned() })
        }
    }
}

/// Smaller is better: the most general image of an architecture, so that it runs on the oldest machine too.
fn variant_rank(entry: &Descriptor) -> u8 {
    let variant = entry.platform.as_ref().map_or("", |platform| platform.variant.as_str());
    match variant {
        "" | "v1" => 0,
        // An agent built for ARMv7 proves that the node is one; other 32-bit ARM agents run on a v6.
        "v7" if cfg!(target_feature = "v7") => 1,
        "v6" => 2,
        "v5" => 3,
        "v8" => 4,
        _ => 5,
    }
}

/// Checks that an image's configuration suits a node of this architecture and its manifest; returns the layers' diff ids.
pub(crate) fn check_config(bytes: &[u8], layers: usize, node: &str) -> Result<Vec<Digest>, ImageError> {
    #[derive(Deserialize)]
    struct Config {
        architecture: String,
        os: String,
        rootfs: RootFs,
    }
    #[derive(Deserialize)]
    struct RootFs {
        diff_ids: Vec<Digest>,
    }

    let config: Config = parse("the image's configuration", bytes)?;
    if config.os != "linux" {
        return Err(ImageError::Architecture {
            image: format!("{} on {}", config.os, config.architecture),
            node: format!("linux on {node}"),
        });
    }
    if config.architecture != node {
        return Err(ImageError::Architecture { image: config.architecture, node: node.to_owned() });
    }
    let diff_ids = config.rootfs.diff_ids;
    if diff_ids.len() != layers {
        let named = diff_ids.len();
        return Err(ImageError::Invalid(format!("the image has {layers} layers, but its configuration names {named}")));
    }
    parse_config(bytes)?;
    Ok(diff_ids)
}

/// The whole configuration.
pub(crate) fn parse_config(bytes: &[u8]) -> Result<ImageConfiguration, ImageError> {
    parse("the image's configuration", bytes)
}

/// This node's architecture in OCI's words, which are Go's.
pub(crate) fn node_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "loongarch64" => "loong64",
        other => other,
    }
}
