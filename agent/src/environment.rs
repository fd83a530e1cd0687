//! Fills the node's facts into an app's environment.

use std::net::Ipv4Addr;

use longshore_model::name::NodeName;
use longshore_model::spec::{AppSpec, EnvSource, NodeField};

/// The spec asks for the node's address, and it was never known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node's IPv4 address towards its server is not known, and the environment asks for it")]
pub struct NoHostIp;

/// The spec's environment, in its order, with the node's facts filled in.
///
/// # Errors
///
/// It asks for the host's address and there is none.
pub fn resolve(spec: &AppSpec, node: &NodeName, host_ip: Option<Ipv4Addr>) -> Result<Vec<(String, String)>, NoHostIp> {
    spec.env
        .iter()
        .map(|variable| {
            let value = match &variable.source {
                EnvSource::Value(value) => value.clone(),
                EnvSource::NodeField(NodeField::Name) => node.to_string(),
                EnvSource::NodeField(NodeField::HostIp) => host_ip.ok_or(NoHostIp)?.to_string(),
            };
            Ok((variable.name.clone(), value))
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use longshore_model::spec::EnvVar;

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
        ]);
        let node = NodeName::parse("edge-1").unwrap();
        let env = resolve(&spec, &node, Some(Ipv4Addr::new(10, 0, 0, 7))).unwrap();
        let pairs: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("B", "1"), ("A", "10.0.0.7"), ("C", "edge-1")]);
        assert_eq!(resolve(&spec, &node, None), Err(NoHostIp));
    }
}
