//! The text form of the parts of a spec that offer a choice.
//!
//! `deny_unknown_fields` does not work together with `flatten`, and a misspelt key must be an error with its place. So
//! a choice is read as a struct with one optional key for each alternative, of which exactly one must be there.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{EmptyDir, EnvSource, HostPath, ImageSource, Item, KeyOf, NodeField, PullPolicy, VolumeSource};
use crate::configuration::Kind;

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
    #[serde(default, with = "crate::quantity::optional_duration", skip_serializing_if = "Option::is_none")]
    keep_for: Option<Duration>,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret_key: Option<SecretKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config_key: Option<ConfigKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SecretKey {
    secret: String,
    key: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConfigKey {
    config_map: String,
    key: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct EnvFrom {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config_map: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    prefix: String,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config_map: Option<Projection>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Projection>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Projection {
    name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    items: Vec<Item>,
    #[serde(default, with = "crate::quantity::mode", skip_serializing_if = "Option::is_none")]
    mode: Option<u32>,
}

impl Projection {
    fn into_source(self, kind: Kind) -> VolumeSource {
        VolumeSource::Projection(super::Projection { kind, name: self.name, items: self.items, mode: self.mode })
    }
}

/// Picks the one alternative that was given.
fn one_of<T, const N: usize>(alternatives: [(&str, Option<T>); N]) -> Result<T, String> {
    let keys = || {
        let (last, rest) = alternatives.split_last().map_or(("", &[][..]), |((last, _), rest)| (*last, rest));
        let rest: Vec<String> = rest.iter().map(|(key, _)| format!("`{key}`")).collect();
        format!("{} and `{last}`", rest.join(", "))
    };
    match alternatives.iter().filter(|(_, value)| value.is_some()).count() {
        0 => return Err(format!("one of {} is needed", keys())),
        1 => {}
        _ => return Err(format!("only one of {} may be given", keys())),
    }
    let given = alternatives.into_iter().find_map(|(_, value)| value);
    given.ok_or_else(|| "nothing was given".to_owned())
}

impl TryFrom<Image> for super::Image {
    type Error = String;

    fn try_from(text: Image) -> Result<Self, String> {
        let source = one_of([
            ("reference", text.reference.map(ImageSource::Reference)),
            ("archive", text.archive.map(ImageSource::Archive)),
        ])?;
        Ok(Self { source, pull_policy: text.pull_policy, credential: text.credential, keep_for: text.keep_for })
    }
}

impl From<super::Image> for Image {
    fn from(image: super::Image) -> Self {
        let (reference, archive) = match image.source {
            ImageSource::Reference(reference) => (Some(reference), None),
            ImageSource::Archive(path) => (None, Some(path)),
        };
        let (pull_policy, credential, keep_for) = (image.pull_policy, image.credential, image.keep_for);
        Self { reference, archive, pull_policy, credential, keep_for }
    }
}

impl TryFrom<EnvVar> for super::EnvVar {
    type Error = String;

    fn try_from(text: EnvVar) -> Result<Self, String> {
        let secret = text.secret_key.map(|SecretKey { secret, key }| KeyOf { kind: Kind::Secret, name: secret, key });
        let config =
            text.config_key.map(|ConfigKey { config_map, key }| KeyOf { kind: Kind::ConfigMap, name: config_map, key });
        let source = one_of([
            ("value", text.value.map(EnvSource::Value)),
            ("nodeField", text.node_field.map(EnvSource::NodeField)),
            ("nodeLabel", text.node_label.map(EnvSource::NodeLabel)),
            ("secretKey", secret.map(EnvSource::Key)),
            ("configKey", config.map(EnvSource::Key)),
        ])?;
        Ok(Self { name: text.name, source })
    }
}

impl From<super::EnvVar> for EnvVar {
    fn from(env: super::EnvVar) -> Self {
        let mut text = Self {
            name: env.name,
            value: None,
            node_field: None,
            node_label: None,
            secret_key: None,
            config_key: None,
        };
        match env.source {
            EnvSource::Value(value) => text.value = Some(value),
            EnvSource::NodeField(field) => text.node_field = Some(field),
            EnvSource::NodeLabel(key) => text.node_label = Some(key),
            EnvSource::Key(KeyOf { kind: Kind::Secret, name, key }) => {
                text.secret_key = Some(SecretKey { secret: name, key });
            }
            EnvSource::Key(KeyOf { kind: Kind::ConfigMap, name, key }) => {
                text.config_key = Some(ConfigKey { config_map: name, key });
            }
        }
        text
    }
}

impl TryFrom<EnvFrom> for super::EnvFrom {
    type Error = String;

    fn try_from(text: EnvFrom) -> Result<Self, String> {
        let (kind, name) = one_of([
            ("secret", text.secret.map(|name| (Kind::Secret, name))),
            ("configMap", text.config_map.map(|name| (Kind::ConfigMap, name))),
        ])?;
        Ok(Self { kind, name, prefix: text.prefix })
    }
}

impl From<super::EnvFrom> for EnvFrom {
    fn from(from: super::EnvFrom) -> Self {
        let super::EnvFrom { kind, name, prefix } = from;
        match kind {
            Kind::Secret => Self { secret: Some(name), config_map: None, prefix },
            Kind::ConfigMap => Self { secret: None, config_map: Some(name), prefix },
        }
    }
}

impl TryFrom<Volume> for super::Volume {
    type Error = String;

    fn try_from(text: Volume) -> Result<Self, String> {
        let source = one_of([
            ("hostPath", text.host_path.map(VolumeSource::HostPath)),
            ("emptyDir", text.empty_dir.map(VolumeSource::EmptyDir)),
            ("configMap", text.config_map.map(|taken| taken.into_source(Kind::ConfigMap))),
            ("secret", text.secret.map(|taken| taken.into_source(Kind::Secret))),
        ])?;
        Ok(Self { mount_path: text.mount_path, read_only: text.read_only, source })
    }
}

impl From<super::Volume> for Volume {
    fn from(volume: super::Volume) -> Self {
        let super::Volume { mount_path, read_only, source } = volume;
        let mut text = Self { mount_path, read_only, host_path: None, empty_dir: None, config_map: None, secret: None };
        match source {
            VolumeSource::HostPath(path) => text.host_path = Some(path),
            VolumeSource::EmptyDir(dir) => text.empty_dir = Some(dir),
            VolumeSource::Projection(super::Projection { kind, name, items, mode }) => {
                let taken = Some(Projection { name, items, mode });
                match kind {
                    Kind::ConfigMap => text.config_map = taken,
                    Kind::Secret => text.secret = taken,
                }
            }
        }
        text
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
