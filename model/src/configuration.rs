//! Config maps and secrets: what they may hold, and what a spec takes from them.
//!
//! Both are named sets of keys with values. A config map is text that everybody may read; a secret is bytes that go in and
//! come out nowhere but on nodes whose apps need them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::name::ConfigurationName;
use crate::secret::SecretBytes;
use crate::spec::{AppSpec, EnvSource, VolumeSource};
use crate::validate::{Path, Violations, quoted};

/// Which of the two it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Text that everybody may read.
    ConfigMap,
    /// What nobody shall see.
    Secret,
}

impl Kind {
    /// The word for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "config map",
            Self::Secret => "secret",
        }
    }

    /// The name of the field that holds one, or the name of one.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::ConfigMap => "config_map",
            Self::Secret => "secret",
        }
    }
}

/// What is known of a config map or a secret, without its values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Which of the two it is; each kind has names of its own.
    pub kind: Kind,
    /// Its name.
    pub name: ConfigurationName,
    /// Its keys, in order.
    pub keys: Vec<String>,
    /// When it was made.
    pub create_time: Timestamp,
    /// When it was last changed.
    pub update_time: Timestamp,
    /// Grows with each change.
    pub version: u64,
}

impl Configuration {
    /// Changes with every change, those of values included.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("{:x}-{}", self.create_time.as_microsecond(), self.version)
    }
}

/// Keys with their values. Those of config maps are held as those of secrets are, since nobody needs to see them either.
pub type Content = BTreeMap<String, SecretBytes>;

/// Checks what a config map or a secret shall hold. Nothing is said of a value but its length.
pub fn check_content(content: &Content, path: Path<'_>, bad: &mut Violations) {
    if content.is_empty() {
        bad.add(path, "must have at least one key");
    }
    if content.len() > limits::MAX_CONFIGURATION_KEYS {
        let (count, limit) = (content.len(), limits::MAX_CONFIGURATION_KEYS);
        bad.add(path, format!("has {count} keys; at most {limit} are allowed"));
    }
    content.keys().for_each(|key| check_key(key, path.key(key), bad));
    let bytes: usize = content.iter().map(|(key, value)| key.len() + value.reveal().len()).sum();
    if bytes > limits::MAX_CONFIGURATION {
        let limit = limits::MAX_CONFIGURATION;
        bad.add(path, format!("is {bytes} bytes long with all its keys and values; at most {limit} are allowed"));
    }
}

/// Checks a key: it can be the name of a file.
pub fn check_key(key: &str, path: Path<'_>, bad: &mut Violations) {
    let is_sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if key.is_empty() {
        bad.add(path, "must not be empty");
    } else if key.len() > limits::MAX_CONFIGURATION_KEY {
        let limit = limits::MAX_CONFIGURATION_KEY;
        bad.add(path, format!("is {} characters long; at most {limit} are allowed", key.len()));
    } else if !key.chars().all(is_sound) || key.starts_with("..") || key == "." {
        bad.add(
            path,
            format!("{} must have letters, digits, '-', '_' and '.' only, and not begin with '..'", quoted(key)),
        );
    }
}

/// A place of a spec that takes something from a config map or a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference<'a> {
    /// Which of the two.
    pub kind: Kind,
    /// Its name.
    pub name: &'a str,
    /// The key that is taken; `None` for all of them.
    pub key: Option<&'a str>,
    /// What stands before its keys, where they become names of environment variables.
    pub prefix: Option<&'a str>,
}

/// Shows `visit` every reference of a spec, with the path of the field that has the name and of that which has the key.
pub fn visit<'a>(spec: &'a AppSpec, path: Path<'_>, mut visit: impl FnMut(Reference<'a>, Path<'_>, Path<'_>)) {
    let (env, env_from, volumes) = (path.field("env"), path.field("env_from"), path.field("volumes"));
    for (index, var) in spec.env.iter().enumerate() {
        let EnvSource::Key(taken) = &var.source else { continue };
        let entry = env.index(index);
        let source = entry.field(match taken.kind {
            Kind::ConfigMap => "config_key",
            Kind::Secret => "secret_key",
        });
        let reference = Reference { kind: taken.kind, name: &taken.name, key: Some(&taken.key), prefix: None };
        visit(reference, source.field(taken.kind.field()), source.field("key"));
    }
    for (index, from) in spec.env_from.iter().enumerate() {
        let entry = env_from.index(index);
        let reference = Reference { kind: from.kind, name: &from.name, key: None, prefix: Some(&from.prefix) };
        visit(reference, entry.field(from.kind.field()), entry.field("prefix"));
    }
    for (index, volume) in spec.volumes.iter().enumerate() {
        let VolumeSource::Projection(taken) = &volume.source else { continue };
        let entry = volumes.index(index);
        let source = entry.field(taken.kind.field());
        let whole = Reference { kind: taken.kind, name: &taken.name, key: None, prefix: None };
        if taken.items.is_empty() {
            visit(whole, source.field("name"), source.field("name"));
        }
        let items = source.field("items");
        for (index, item) in taken.items.iter().enumerate() {
            let item_path = items.index(index);
            visit(Reference { key: Some(&item.key), ..whole }, source.field("name"), item_path.field("key"));
        }
    }
}

/// Keys of one config map or secret that a spec takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken<'a> {
    /// All of them.
    All,
    /// These.
    Keys(BTreeSet<&'a str>),
}

impl Taken<'_> {
    /// Whether this key is among them.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        match self {
            Self::All => true,
            Self::Keys(keys) => keys.contains(key),
        }
    }
}

/// What a spec takes, each config map and secret once, by kind and name.
#[must_use]
pub fn needs(spec: &AppSpec) -> BTreeMap<(Kind, &str), Taken<'_>> {
    let mut needs = BTreeMap::new();
    visit(spec, Path::Root, |reference, _, _| {
        let taken = needs.entry((reference.kind, reference.name)).or_insert_with(|| Taken::Keys(BTreeSet::new()));
        match (reference.key, &mut *taken) {
            (Some(key), Taken::Keys(keys)) => drop(keys.insert(key)),
            (None, _) => *taken = Taken::All,
            (Some(_), Taken::All) => {}
        }
    });
    needs
}

/// Whether a spec takes a secret as environment, as files, or both.
#[must_use]
pub fn secret_uses(spec: &AppSpec) -> (bool, bool) {
    let keys = spec.env.iter().filter_map(|var| match &var.source {
        EnvSource::Key(taken) => Some(taken.kind),
        _ => None,
    });
    let as_env = keys.chain(spec.env_from.iter().map(|from| from.kind)).any(|kind| kind == Kind::Secret);
    let as_files = spec.volumes.iter().any(|volume| match &volume.source {
        VolumeSource::Projection(taken) => taken.kind == Kind::Secret,
        _ => false,
    });
    (as_env, as_files)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec() -> AppSpec {
        let spec = json!({
            "name": "a", "image": { "reference": "a:1" },
            "env": [
                { "name": "A", "value": "1" },
                { "name": "B", "secretKey": { "secret": "db", "key": "password" } },
                { "name": "C", "configKey": { "configMap": "site", "key": "zone" } },
                { "name": "D", "secretKey": { "secret": "db", "key": "user" } },
            ],
            "envFrom": [{ "configMap": "common" }, { "secret": "tokens", "prefix": "T_" }],
            "volumes": [
                { "mountPath": "/etc/site", "configMap": { "name": "site" } },
                { "mountPath": "/run/tls", "secret": { "name": "tls", "items": [{ "key": "k", "path": "tls/k.pem" }] } },
            ],
        });
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn what_a_spec_takes_is_each_key_once_or_all() {
        let spec = spec();
        let needs = needs(&spec);
        let keys = |keys: &[&'static str]| Taken::Keys(keys.iter().copied().collect());
        let expected = [
            ((Kind::ConfigMap, "common"), Taken::All),
            ((Kind::ConfigMap, "site"), Taken::All),
            ((Kind::Secret, "db"), keys(&["password", "user"])),
            ((Kind::Secret, "tls"), keys(&["k"])),
            ((Kind::Secret, "tokens"), Taken::All),
        ];
        assert_eq!(needs.into_iter().collect::<Vec<_>>(), expected);
        assert_eq!(secret_uses(&spec), (true, true));
    }

    #[test]
    fn each_reference_is_shown_with_its_place() {
        let mut seen = Vec::new();
        visit(&spec(), Path::Root.field("spec"), |_, name, key| seen.push((name.to_string(), key.to_string())));
        let expected = [
            ("spec.env[1].secret_key.secret", "spec.env[1].secret_key.key"),
            ("spec.env[2].config_key.config_map", "spec.env[2].config_key.key"),
            ("spec.env[3].secret_key.secret", "spec.env[3].secret_key.key"),
            ("spec.env_from[0].config_map", "spec.env_from[0].prefix"),
            ("spec.env_from[1].secret", "spec.env_from[1].prefix"),
            ("spec.volumes[0].config_map.name", "spec.volumes[0].config_map.name"),
            ("spec.volumes[1].secret.name", "spec.volumes[1].secret.items[0].key"),
        ];
        let expected = expected.map(|(name, key)| (name.to_owned(), key.to_owned()));
        assert_eq!(seen, expected);
    }

    #[test]
    fn content_is_bounded_and_its_values_are_not_told() {
        let check = |content: &[(&str, usize)]| {
            let value = |length: usize| SecretBytes::new(b"canary-".repeat(length / 7 + 1)[..length].to_vec());
            let content = content.iter().map(|(key, length)| ((*key).to_owned(), value(*length))).collect();
            let mut bad = Violations::default();
            check_content(&content, Path::Root.field("data"), &mut bad);
            bad.0.into_iter().map(|violation| violation.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(check(&[("a.b-c_D", 0), (".hidden", 7)]), Vec::<String>::new());
        assert_eq!(check(&[]), ["data: must have at least one key"]);
        let wrong = check(&[("", 1), ("..", 1), ("a/b", 1), ("é", 1), (&"k".repeat(129), 1)]);
        assert_eq!(wrong.len(), 5, "{wrong:?}");
        let long = check(&[("a", limits::MAX_CONFIGURATION)]).remove(0);
        assert!(long.starts_with("data: is 1048577 bytes long") && !long.contains("canary"), "{long}");
    }
}
