//! An app's environment: what its spec says, with the node's facts and what it takes from config maps and secrets.

use std::sync::Arc;

use longshore_model::configuration::{Content, Kind};
use longshore_model::failure::FailureReason;
use longshore_model::limits::MAX_ENV_VALUE;
use longshore_model::node_value::{self, Facts, Missing, NodeValue};
use longshore_model::secret::{Secret, SecretBytes};
use longshore_model::spec::{AppSpec, EnvSource, KeyOf, NodeField};
use longshore_model::validate::{Path, Violations, env_name};

use crate::configuration::Configuration;

/// The spec as this node runs it: its command, arguments and host paths with their references filled in. Its environment is
/// [`resolve`]'s.
///
/// # Errors
///
/// The node has no value for one of them.
pub fn fill(spec: &Arc<AppSpec>, facts: &Facts<'_>) -> Result<Arc<AppSpec>, Missing> {
    if node_value::is_needed(spec) { facts.words_and_paths(spec).map(Arc::new) } else { Ok(Arc::clone(spec)) }
}

/// Checks that the node has a value for every fact that the environment asks for.
///
/// # Errors
///
/// It has none for one of them.
pub fn check(spec: &AppSpec, facts: &Facts<'_>) -> Result<(), Missing> {
    spec.env.iter().try_for_each(|variable| own(&variable.source, facts).map(drop))
}

/// A value that the spec and the node have by themselves.
fn own(source: &EnvSource, facts: &Facts<'_>) -> Result<Option<String>, Missing> {
    match source {
        EnvSource::Value(value) => facts.text(value).map(Some),
        EnvSource::NodeField(NodeField::Name) => facts.value(&NodeValue::Name).map(Some),
        EnvSource::NodeField(NodeField::HostIp) => facts.value(&NodeValue::HostIp).map(Some),
        EnvSource::NodeLabel(key) => facts.value(&NodeValue::Label(key.clone())).map(Some),
        EnvSource::Key(_) => Ok(None),
    }
}

/// Why there is no environment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// The node has no value for something that the spec asks for.
    #[error(transparent)]
    NoFact(#[from] Missing),
    /// A config map or a secret, or a key of it, is not among what the app has.
    #[error("the {} {name} has no key {key:?}", kind.as_str())]
    NoKey {
        /// Which of the two.
        kind: Kind,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// A value that no environment can hold.
    #[error("the key {key:?} of the {} {name} cannot be the environment variable {variable}: {why}", kind.as_str())]
    Unfit {
        /// Which of the two.
        kind: Kind,
        /// Its name.
        name: String,
        /// The key.
        key: String,
        /// The variable.
        variable: String,
        /// What is wrong with it, without the value.
        why: String,
    },
}

impl EnvError {
    /// For machines.
    #[must_use]
    pub fn reason(&self) -> FailureReason {
        match self {
            Self::NoFact(missing) => missing.reason(),
            Self::NoKey { .. } => FailureReason::ConfigurationMissing,
            Self::Unfit { .. } => FailureReason::ConfigurationUnusable,
        }
    }
}

/// An environment in two parts: what anybody may read, and what must not be written to a disk. No name is in both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// Variables without secrets in them.
    pub plain: Vec<(String, String)>,
    /// Variables from secrets.
    pub secret: Vec<(String, Secret)>,
}

impl Environment {
    /// Sets variables, whatever was said of them before.
    pub fn set_all(&mut self, variables: &[(String, String)]) {
        variables.iter().for_each(|(name, value)| self.set(name.clone(), value.clone()));
    }

    /// A later variable of a name takes the place of an earlier one.
    fn set(&mut self, name: String, value: String) {
        self.secret.retain(|(known, _)| *known != name);
        match self.plain.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.plain.push((name, value)),
        }
    }

    fn set_from(&mut self, kind: Kind, name: String, value: Secret) {
        if kind == Kind::ConfigMap {
            return self.set(name, value.reveal().to_owned());
        }
        self.plain.retain(|(known, _)| *known != name);
        match self.secret.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.secret.push((name, value)),
        }
    }
}

/// The spec's environment: first what it takes as a whole, in order, then variable by variable.
///
/// # Errors
///
/// It asks for something that is not there, or that cannot be in an environment.
pub fn resolve(spec: &AppSpec, facts: &Facts<'_>, configuration: &Configuration) -> Result<Environment, EnvError> {
    let mut environment = Environment::default();
    for from in &spec.env_from {
        let missing = || EnvError::NoKey { kind: from.kind, name: from.name.clone(), key: String::new() };
        let content: &Content = configuration.content(from.kind, &from.name).ok_or_else(missing)?;
        for (key, value) in content {
            let variable = format!("{}{key}", from.prefix);
            let taken = KeyOf { kind: from.kind, name: from.name.clone(), key: key.clone() };
            let value = fit(&taken, &variable, value)?;
            environment.set_from(from.kind, variable, value);
        }
    }
    for variable in &spec.env {
        let name = variable.name.clone();
        if let EnvSource::Key(taken) = &variable.source {
            let found = configuration.content(taken.kind, &taken.name).and_then(|all| all.get(&taken.key));
            let KeyOf { kind, name: from, key } = taken.clone();
            let value = found.ok_or(EnvError::NoKey { kind, name: from, key })?;
            let value = fit(taken, &name, value)?;
            environment.set_from(kind, name, value);
        } else if let Some(value) = own(&variable.source, facts)? {
            environment.set(name, value);
        }
    }
    Ok(environment)
}

/// The value as the kernel takes it.
fn fit(taken: &KeyOf, variable: &str, value: &SecretBytes) -> Result<Secret, EnvError> {
    let KeyOf { kind, name, key } = taken.clone();
    let unfit = |why: String| EnvError::Unfit { kind, name, key, variable: variable.to_owned(), why };
    let mut bad = Violations::default();
    env_name(variable, Path::Root, &mut bad);
    if let Some(violation) = bad.0.into_iter().next() {
        return Err(unfit(violation.description));
    }
    let bytes = value.reveal();
    match std::str::from_utf8(bytes) {
        Err(_) => Err(unfit("it is no text".to_owned())),
        Ok(_) if bytes.contains(&0) => Err(unfit("it has a NUL character".to_owned())),
        Ok(_) if bytes.len() > MAX_ENV_VALUE => {
            Err(unfit(format!("it is {} bytes long; at most {MAX_ENV_VALUE} are allowed", bytes.len())))
        }
        Ok(text) => Ok(Secret::new(text.to_owned())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::net::Ipv4Addr;

    use longshore_model::name::NodeName;
    use longshore_model::node::Labels;
    use longshore_model::spec::{EnvFrom, EnvVar, HostPath, Volume, VolumeSource};
    use longshore_proto::v1;

    use super::*;

    fn spec(sources: Vec<(&str, EnvSource)>) -> AppSpec {
        let mut spec = crate::testing::spec("fake/app:1");
        spec.env = sources.into_iter().map(|(name, source)| EnvVar { name: name.to_owned(), source }).collect();
        spec
    }

    fn literal(value: &str) -> EnvSource {
        EnvSource::Value(value.to_owned())
    }

    fn key(kind: Kind, name: &str, key: &str) -> EnvSource {
        EnvSource::Key(KeyOf { kind, name: name.to_owned(), key: key.to_owned() })
    }

    fn from(kind: Kind, name: &str, prefix: &str) -> EnvFrom {
        EnvFrom { kind, name: name.to_owned(), prefix: prefix.to_owned() }
    }

    fn configuration() -> Configuration {
        let one = |name: &str, data: &[(&str, &[u8])]| v1::FetchedConfiguration {
            name: name.to_owned(),
            etag: String::new(),
            data: data.iter().map(|(key, value)| ((*key).to_owned(), value.to_vec())).collect(),
        };
        Configuration::from_wire(v1::FetchConfigurationResponse {
            config_maps: vec![one("site", &[("ZONE", b"north"), ("LEVEL", b"1")]), one("bad", &[("1", b"")])],
            secrets: vec![one("db", &[("PASSWORD", b"hunter2"), ("RAW", b"\xff"), ("NUL", b"a\0b")])],
        })
    }

    fn resolved(spec: &AppSpec) -> Result<Environment, EnvError> {
        let (name, labels) = (NodeName::parse("edge-1").unwrap(), Labels::new());
        resolve(spec, &Facts { name: &name, host_ip: None, labels: &labels }, &configuration())
    }

    type Pairs<'a> = Vec<(&'a str, &'a str)>;

    fn pairs(environment: &Environment) -> (Pairs<'_>, Pairs<'_>) {
        let plain = environment.plain.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        (plain, environment.secret.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect())
    }

    #[test]
    fn facts_are_filled_in_and_the_order_is_kept() {
        let spec = spec(vec![
            ("B", literal("1")),
            ("A", EnvSource::NodeField(NodeField::HostIp)),
            ("C", EnvSource::NodeField(NodeField::Name)),
            ("D", EnvSource::NodeLabel("role".to_owned())),
            ("E", EnvSource::Value("${node.labels.role}@${node.host_ip} ${HOME}".to_owned())),
        ]);
        let (name, labels) =
            (NodeName::parse("edge-1").unwrap(), Labels::from([("role".to_owned(), "till".to_owned())]));
        let facts = Facts { name: &name, host_ip: Some(Ipv4Addr::new(10, 0, 0, 7)), labels: &labels };
        let none = Configuration::default();
        let environment = resolve(&spec, &facts, &none).unwrap();
        let expected = [("B", "1"), ("A", "10.0.0.7"), ("C", "edge-1"), ("D", "till"), ("E", "till@10.0.0.7 ${HOME}")];
        assert_eq!(pairs(&environment).0, expected);
        let unknown = Facts { host_ip: None, ..facts };
        assert_eq!(resolve(&spec, &unknown, &none), Err(EnvError::NoFact(Missing::HostIp)));
        assert_eq!(check(&spec, &unknown), Err(Missing::HostIp));
        let no_labels = Labels::new();
        assert_eq!(check(&spec, &Facts { labels: &no_labels, ..facts }), Err(Missing::Label("role".to_owned())));
    }

    #[test]
    fn a_spec_is_copied_only_where_something_is_filled_in() {
        let (name, labels) = (NodeName::parse("edge-1").unwrap(), Labels::new());
        let facts = Facts { name: &name, host_ip: None, labels: &labels };
        let plain = Arc::new(spec(Vec::new()));
        assert!(Arc::ptr_eq(&fill(&plain, &facts).unwrap(), &plain));
        let mut own = spec(Vec::new());
        own.command = vec!["/bin/${node.name}".to_owned()];
        own.args = vec!["$${node.name}".to_owned()];
        let path = HostPath { path: "/srv/${node.name}".to_owned(), create: true };
        let source = VolumeSource::HostPath(path);
        own.volumes = vec![Volume { mount_path: "/${node.name}".to_owned(), read_only: false, source }];
        let filled = fill(&Arc::new(own), &facts).unwrap();
        assert_eq!((filled.command[0].as_str(), filled.args[0].as_str()), ("/bin/edge-1", "${node.name}"));
        let VolumeSource::HostPath(path) = &filled.volumes[0].source else { unreachable!("it was a host path") };
        assert_eq!((path.path.as_str(), filled.volumes[0].mount_path.as_str()), ("/srv/edge-1", "/${node.name}"));
    }

    #[test]
    fn what_comes_later_counts_and_secrets_stay_apart() {
        let mut spec = spec(vec![
            ("LEVEL", literal("2")),
            ("P", key(Kind::Secret, "db", "PASSWORD")),
            ("DB_PASSWORD", literal("plain")),
            ("ZONE", key(Kind::Secret, "db", "PASSWORD")),
            ("Z", key(Kind::ConfigMap, "site", "ZONE")),
        ]);
        spec.env_from = vec![from(Kind::ConfigMap, "site", ""), from(Kind::ConfigMap, "site", "S_")];
        let environment = resolved(&spec).unwrap();
        let (plain, secret) = pairs(&environment);
        let expected =
            [("LEVEL", "2"), ("S_LEVEL", "1"), ("S_ZONE", "north"), ("DB_PASSWORD", "plain"), ("Z", "north")];
        assert_eq!(plain, expected);
        assert_eq!(secret, [("P", "hunter2"), ("ZONE", "hunter2")], "it took the place of the config map's");
        assert!(!format!("{environment:?}").contains("hunter2"));
    }

    #[test]
    fn what_cannot_be_in_an_environment_is_named_without_its_value() {
        use FailureReason as R;
        for (source, reason, words) in [
            (key(Kind::Secret, "db", "NONE"), R::ConfigurationMissing, "the secret db has no key \"NONE\""),
            (key(Kind::ConfigMap, "none", "a"), R::ConfigurationMissing, "the config map none has no key"),
            (key(Kind::Secret, "db", "RAW"), R::ConfigurationUnusable, "it is no text"),
            (key(Kind::Secret, "db", "NUL"), R::ConfigurationUnusable, "it has a NUL character"),
        ] {
            let error = resolved(&spec(vec![("A", source)])).unwrap_err();
            assert_eq!(error.reason(), reason, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
        let mut whole = spec(vec![]);
        whole.env_from = vec![from(Kind::ConfigMap, "bad", "")];
        let error = resolved(&whole).unwrap_err();
        assert_eq!(error.reason(), R::ConfigurationUnusable);
        whole.env_from[0].prefix = "N".to_owned();
        assert_eq!(pairs(&resolved(&whole).unwrap()).0, [("N1", "")]);
    }
}
