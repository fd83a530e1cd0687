//! Fills the node's facts into what an app is made of.

use std::sync::Arc;

use longshore_model::node_value::{self, Facts, Missing, NodeValue};
use longshore_model::spec::{AppSpec, EnvSource, NodeField};

/// Variables with their values.
pub type Environment = Vec<(String, String)>;

/// The spec as this node runs it: its command, arguments and host paths with their references filled in. Its environment is
/// [`resolve`]'s.
///
/// # Errors
///
/// The node has no value for one of them.
pub fn fill(spec: &Arc<AppSpec>, facts: &Facts<'_>) -> Result<Arc<AppSpec>, Missing> {
    if node_value::is_needed(spec) { facts.words_and_paths(spec).map(Arc::new) } else { Ok(Arc::clone(spec)) }
}

/// The spec's environment, in its order, with the node's facts filled in.
///
/// # Errors
///
/// The node has no value for one of them.
pub fn resolve(spec: &AppSpec, facts: &Facts<'_>) -> Result<Environment, Missing> {
    spec.env
        .iter()
        .map(|variable| {
            let value = match &variable.source {
                EnvSource::Value(value) => facts.text(value)?,
                EnvSource::NodeField(NodeField::Name) => facts.value(&NodeValue::Name)?,
                EnvSource::NodeField(NodeField::HostIp) => facts.value(&NodeValue::HostIp)?,
                EnvSource::NodeLabel(key) => facts.value(&NodeValue::Label(key.clone()))?,
            };
            Ok((variable.name.clone(), value))
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::net::Ipv4Addr;

    use longshore_model::name::NodeName;
    use longshore_model::node::Labels;
    use longshore_model::spec::{EnvVar, HostPath, Volume, VolumeSource};

    use super::*;

    fn spec(sources: Vec<(&str, EnvSource)>) -> AppSpec {
        let mut spec = crate::testing::spec("fake/app:1");
        spec.env = sources.into_iter().map(|(name, source)| EnvVar { name: name.to_owned(), source }).collect();
        spec
    }

    #[test]
    fn facts_are_filled_in_and_the_order_is_kept() {
        let spec = spec(vec![
            ("B", EnvSource::Value("1".to_owned())),
            ("A", EnvSource::NodeField(NodeField::HostIp)),
            ("C", EnvSource::NodeField(NodeField::Name)),
            ("D", EnvSource::NodeLabel("role".to_owned())),
            ("E", EnvSource::Value("${node.labels.role}@${node.host_ip} ${HOME}".to_owned())),
        ]);
        let (name, labels) =
            (NodeName::parse("edge-1").unwrap(), Labels::from([("role".to_owned(), "till".to_owned())]));
        let facts = Facts { name: &name, host_ip: Some(Ipv4Addr::new(10, 0, 0, 7)), labels: &labels };
        let env = resolve(&spec, &facts).unwrap();
        let pairs: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let expected = [("B", "1"), ("A", "10.0.0.7"), ("C", "edge-1"), ("D", "till"), ("E", "till@10.0.0.7 ${HOME}")];
        assert_eq!(pairs, expected);
        assert_eq!(resolve(&spec, &Facts { host_ip: None, ..facts }), Err(Missing::HostIp));
        let none = Labels::new();
        assert_eq!(resolve(&spec, &Facts { labels: &none, ..facts }), Err(Missing::Label("role".to_owned())));
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
}
