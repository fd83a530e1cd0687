//! The text form of the parts of a spec that offer a choice.
//!
//! `deny_unknown_fields` does not work together with `flatten`, and a misspelt key must be an error with its place. So
//! a choice is read as a struct with one optional key for each alternative, of which exactly one must be there.

use serde::{Deserialize, Serialize};

use super::{EmptyDir, EnvSource, HostPath, ImageSource, NodeField, PullPolicy, VolumeSource};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Image {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    archive: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pull_policy: Option<PullPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct EnvVar {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node_field: Option<NodeField>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node_label: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Volume {
    mount_path: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    read_only: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host_path: Option<HostPath>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    empty_dir: Option<EmptyDir>,
}

/// Picks the one alternative that was given.
fn one_of<A, B, T>(
    (first_key, first): (&str, Option<A>),
    (second_key, second): (&str, Option<B>),
    from_first: impl FnOnce(A) -> T,
    from_second: impl FnOnce(B) -> T,
) -> Result<T, String> {
    match (first, second) {
        (Some(value), None) => Ok(from_first(value)),
        (None, Some(value)) => Ok(from_second(value)),
        (None, None) => Err(format!("one of `{first_key}` and `{second_key}` is needed")),
        (Some(_), Some(_)) => Err(format!("only one of `{first_key}` and `{second_key}` may be given")),
    }
}

/// Picks the one of several alternatives that was given.
fn only_one<T, const N: usize>(alternatives: [(&str, Option<T>); N]) -> Result<T, String> {
    let all = alternatives.each_ref().map(|(key, _)| format!("`{key}`")).join(", ");
    let mut given = alternatives.into_iter().filter_map(|(_, value)| value);
    match (given.next(), given.next()) {
        (Some(value), None) => Ok(value),
        (None, _) => Err(format!("one of {all} is needed")),
        (Some(_), Some(_)) => Err(format!("only one of {all} may be given")),
    }
}

impl TryFrom<Image> for super::Image {
    type Error = String;

    fn try_from(text: Image) -> Result<Self, String> {
        let source = one_of(
            ("reference", text.reference),
            ("archive", text.archive),
            ImageSource::Reference,
            ImageSource::Archive,
        )?;
        Ok(Self { source, pull_policy: text.pull_policy, credential: text.credential })
    }
}

impl From<super::Image> for Image {
    fn from(image: super::Image) -> Self {
        let (reference, archive) = match image.source {
            ImageSource::Reference(reference) => (Some(reference), None),
            ImageSource::Archive(path) => (None, Some(path)),
        };
        Self { reference, archive, pull_policy: image.pull_policy, credential: image.credential }
    }
}

impl TryFrom<EnvVar> for super::EnvVar {
    type Error = String;

    fn try_from(text: EnvVar) -> Result<Self, String> {
        let source = only_one([
            ("value", text.value.map(EnvSource::Value)),
            ("nodeField", text.node_field.map(EnvSource::NodeField)),
            ("nodeLabel", text.node_label.map(EnvSource::NodeLabel)),
        ])?;
        Ok(Self { name: text.name, source })
    }
}

impl From<super::EnvVar> for EnvVar {
    fn from(env: super::EnvVar) -> Self {
        let mut text = Self { name: env.name, value: None, node_field: None, node_label: None };
        match env.source {
            EnvSource::Value(value) => text.value = Some(value),
            EnvSource::NodeField(field) => text.node_field = Some(field),
            EnvSource::NodeLabel(key) => text.node_label = Some(key),
        }
        text
    }
}

impl TryFrom<Volume> for super::Volume {
    type Error = String;

    fn try_from(text: Volume) -> Result<Self, String> {
        let source = one_of(
            ("hostPath", text.host_path),
            ("emptyDir", text.empty_dir),
            VolumeSource::HostPath,
            VolumeSource::EmptyDir,
        )?;
        Ok(Self { mount_path: text.mount_path, read_only: text.read_only, source })
    }
}

impl From<super::Volume> for Volume {
    fn from(volume: super::Volume) -> Self {
        let (host_path, empty_dir) = match volume.source {
            VolumeSource::HostPath(path) => (Some(path), None),
            VolumeSource::EmptyDir(dir) => (None, Some(dir)),
        };
        Self { mount_path: volume.mount_path, read_only: volume.read_only, host_path, empty_dir }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Ulimit {
    name: String,
    soft: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hard: Option<i64>,
}

impl From<Ulimit> for super::Ulimit {
    fn from(text: Ulimit) -> Self {
        Self { name: text.name, soft: text.soft, hard: text.hard.unwrap_or(text.soft) }
    }
}

impl From<super::Ulimit> for Ulimit {
    fn from(limit: super::Ulimit) -> Self {
        Self { name: limit.name, soft: limit.soft, hard: (limit.hard != limit.soft).then_some(limit.hard) }
    }
}
