//! Specs of the demo image, shaped for tests.

use longshore_proto::v1;

/// A spec of the archive at `archive` with the given arguments, a short settle time and no ports.
pub fn app(archive: &str, args: &[&str]) -> v1::AppSpec {
    v1::AppSpec {
        name: "app".to_owned(),
        image: Some(v1::Image {
            source: Some(v1::image::Source::Archive(archive.to_owned())),
            pull_policy: v1::PullPolicy::Unspecified.into(),
            ..Default::default()
        }),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        instances: 1,
        startup: Some(v1::Startup {
            settle: Some(prost_types::Duration { seconds: 0, nanos: 300_000_000 }),
            max_starts: 0,
        }),
        ..Default::default()
    }
}

/// Gives a spec the host's network.
pub fn on_host(mut spec: v1::AppSpec) -> v1::AppSpec {
    spec.network = Some(v1::Network { mode: Some(v1::network::Mode::Host(v1::HostNetwork {})) });
    spec
}

/// Maps ports into a spec.
pub fn with_ports(mut spec: v1::AppSpec, ports: &[v1::Port]) -> v1::AppSpec {
    let mapping = v1::PortMapping { ports: ports.to_vec() };
    spec.network = Some(v1::Network { mode: Some(v1::network::Mode::PortMapping(mapping)) });
    spec
}

/// A TCP port; a host port of 0 is automatic.
pub fn tcp(container_port: u32, host_port: u32) -> v1::Port {
    v1::Port { container_port, host_port, protocol: v1::Protocol::Tcp.into(), ..Default::default() }
}

/// Sets the restart policy.
pub fn restart(mut spec: v1::AppSpec, policy: v1::RestartPolicy) -> v1::AppSpec {
    spec.restart_policy = policy.into();
    spec
}
