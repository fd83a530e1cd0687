//! A small real container image, built in memory from a static program of this repository: no download, no tool.
//!
//! [`archive`] is the image that `longshore demo` deploys. [`DemoImage`] makes variants of it for tests, and the same
//! description gives the same bytes every time, so that digests can be compared.
#![allow(clippy::missing_panics_doc, reason = "the one that can panic says so")]

mod layer;
mod layout;

use std::io;

use serde_json::{Value, json};

pub use crate::layer::{Blob, Compression};
pub use crate::layout::multi_platform_archive;

/// The demo program: a static executable for the architecture that this crate was built for.
pub const PROGRAM: &[u8] = include_bytes!(env!("LONGSHORE_DEMO_PROGRAM"));
/// The architecture that this crate was built for, in OCI's words.
pub const ARCHITECTURE: &str = env!("LONGSHORE_DEMO_ARCHITECTURE");
/// Where the program lies in the image.
pub const PROGRAM_PATH: &str = "/app";

const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// The demo image as an OCI archive: a tar of an OCI image layout, with entry point `/app` and command `serve`.
///
/// `architecture_override` is what the image claims to be for, whatever the program was built for.
#[must_use]
pub fn archive(architecture_override: Option<&str>) -> Vec<u8> {
    let image = DemoImage::new();
    match architecture_override {
        Some(architecture) => image.architecture(architecture).oci_archive(),
        None => image.oci_archive(),
    }
}

/// Description of a variant of the demo image.
#[derive(Clone, Debug)]
pub struct DemoImage {
    name: String,
    architecture: String,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    env: Vec<String>,
    user: Option<String>,
    working_dir: Option<String>,
    compression: Compression,
    layers: Vec<Vec<(String, Vec<u8>)>>,
}

impl Default for DemoImage {
    fn default() -> Self {
        Self::new()
    }
}

impl DemoImage {
    /// The image that [`archive`] returns.
    #[must_use]
    pub fn new() -> Self {
        Self {
            name: "longshore/demo:1".to_owned(),
            architecture: ARCHITECTURE.to_owned(),
            entrypoint: vec![PROGRAM_PATH.to_owned()],
            cmd: vec!["serve".to_owned()],
            env: vec!["PATH=/".to_owned()],
            user: None,
            working_dir: None,
            compression: Compression::Gzip,
            layers: Vec::new(),
        }
    }

    /// Sets the name and tag that the archive carries.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Sets what the image claims to be for.
    #[must_use]
    pub fn architecture(mut self, architecture: &str) -> Self {
        architecture.clone_into(&mut self.architecture);
        self
    }

    /// Replaces the ENTRYPOINT; none when empty.
    #[must_use]
    pub fn entrypoint(mut self, words: &[&str]) -> Self {
        self.entrypoint = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Replaces the CMD; none when empty.
    #[must_use]
    pub fn cmd(mut self, words: &[&str]) -> Self {
        self.cmd = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// Sets the USER: a number or name, and perhaps `:` and a group. The image knows `root` and `demo` (1000).
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn working_dir(mut self, path: &str) -> Self {
        self.working_dir = Some(path.to_owned());
        self
    }

    /// Sets how the layers are packed; gzip when not called. Docker's archives have them unpacked in any case.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Adds a layer on top with these files, by path without a leading `/`; the parents of each are made.
    ///
    /// Names beginning with `.wh.` are whiteouts, as in every layer.
    #[must_use]
    pub fn layer(mut self, files: &[(&str, &[u8])]) -> Self {
        self.layers.push(files.iter().map(|&(path, content)| (path.to_owned(), content.to_owned())).collect());
        self
    }

    /// The image's parts, for a test that pushes them to a registry.
    ///
    /// # Panics
    ///
    /// Panics if a path given to [`DemoImage::layer`] is absolute or has a `..` segment.
    #[must_use]
    pub fn parts(&self) -> Parts {
        self.parts_packed(self.compression)
    }

    /// The image as an OCI archive.
    ///
    /// # Panics
    ///
    /// As [`DemoImage::parts`].
    #[must_use]
    pub fn oci_archive(&self) -> Vec<u8> {
        in_memory(layout::oci(&self.name, &[self.parts()]))
    }

    /// The image as `docker save` wrote it before Docker 25: `manifest.json`, a configuration and plain layers.
    ///
    /// # Panics
    ///
    /// As [`DemoImage::parts`].
    #[must_use]
    pub fn docker_archive(&self) -> Vec<u8> {
        in_memory(layout::docker(&self.name, &self.parts_packed(Compression::None)))
    }

    fn parts_packed(&self, compression: Compression) -> Parts {
        let mut layers = vec![in_memory(layer::base(compression))];
        layers.extend(self.layers.iter().map(|files| in_memory(layer::of_files(files, compression))));
        let config = Blob::new(CONFIG_TYPE, self.config(&layers).to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let manifest = Blob::new(MANIFEST_TYPE, manifest.to_string().into_bytes());
        Parts { architecture: self.architecture.clone(), manifest, config, layers }
    }

    fn config(&self, layers: &[Blob]) -> Value {
        let mut run = json!({ "Env": self.env, "ExposedPorts": { "8080/tcp": {} } });
        if !self.entrypoint.is_empty() {
            run["Entrypoint"] = json!(self.entrypoint);
        }
        if !self.cmd.is_empty() {
            run["Cmd"] = json!(self.cmd);
        }
        if let Some(user) = &self.user {
            run["User"] = json!(user);
        }
        if let Some(path) = &self.working_dir {
            run["WorkingDir"] = json!(path);
        }
        json!({
            "created": "1970-01-01T00:00:00Z",
            "architecture": self.architecture,
            "os": "linux",
            "config": run,
            "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>() },
        })
    }
}

/// The parts of an image.
#[derive(Clone, Debug)]
pub struct Parts {
    /// What the image claims to be for.
    pub architecture: String,
    /// The image manifest.
    pub manifest: Blob,
    /// The image configuration.
    pub config: Blob,
    /// The layers, bottom first.
    pub layers: Vec<Blob>,
}

/// Unwraps what was written to memory.
#[expect(clippy::expect_used, reason = "a Vec takes every write; only a path that the caller made up can be refused")]
fn in_memory<T>(result: io::Result<T>) -> T {
    result.expect("paths in a layer are relative and have no `..`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_description_gives_the_same_bytes() {
        assert_eq!(archive(None), archive(None));
        assert_ne!(archive(None), archive(Some("other")));
        let docker = || DemoImage::new().layer(&[("etc/motd", b"hello")]).docker_archive();
        assert_eq!(docker(), docker());
    }

    #[test]
    fn the_program_is_a_static_executable() {
        assert_eq!(&PROGRAM[..4], b"\x7fELF");
        // PT_INTERP would name the dynamic loader, which the image does not have.
        let loader = b"/ld-";
        assert!(!PROGRAM[..4096].windows(loader.len()).any(|window| window == loader));
    }
}
