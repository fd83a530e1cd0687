//! Probes of an app spec.

use std::time::Duration;

use longshore_model::probe::{Action, Exec, Header, HttpGet, Probe, Scheme, TcpSocket};
use longshore_model::validate::{Path, Violations};

use super::spec::{port_number, said};
use super::{FromWire, duration, mirrored, optional};
use crate::v1;

mirrored!(Scheme, Scheme, none: Some(Self::Http), { Http => Http, Https => Https });

impl From<&Probe> for v1::Probe {
    fn from(probe: &Probe) -> Self {
        let action = match &probe.action {
            Action::HttpGet(get) => v1::probe::Action::HttpGet(v1::HttpGet::from(get)),
            Action::TcpSocket(TcpSocket { host, port }) => v1::probe::Action::TcpSocket(v1::TcpSocket {
                host: host.clone().unwrap_or_default(),
                port: (*port).into(),
            }),
            Action::Exec(Exec { command }) => v1::probe::Action::Exec(v1::ExecAction { command: command.clone() }),
        };
        Self {
            action: Some(action),
            initial_delay: Some(duration(probe.initial_delay)),
            period: Some(duration(probe.period)),
            timeout: Some(duration(probe.timeout)),
            success_threshold: probe.success_threshold,
            failure_threshold: probe.failure_threshold,
        }
    }
}

impl FromWire<v1::Probe> for Probe {
    fn from_wire(wire: v1::Probe, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let action = match wire.action {
            Some(v1::probe::Action::HttpGet(get)) => {
                HttpGet::from_wire(get, path.field("http_get"), bad).map(Action::HttpGet)
            }
            Some(v1::probe::Action::TcpSocket(socket)) => {
                let port = port_number(socket.port, path.field("tcp_socket").field("port"), bad);
                Some(Action::TcpSocket(TcpSocket { host: said(socket.host), port: port.unwrap_or(1) }))
            }
            Some(v1::probe::Action::Exec(v1::ExecAction { command })) => Some(Action::Exec(Exec { command })),
            None => {
                bad.add(path, "needs an `http_get`, a `tcp_socket` or an `exec`");
                None
            }
        };
        // A stand-in with which nothing is wrong, where there is none.
        let action = action.unwrap_or(Action::TcpSocket(TcpSocket { host: None, port: 1 }));
        let mut span = |wire: Option<prost_types::Duration>, field: &str, default: Duration| {
            optional(wire, path.field(field), bad).flatten().unwrap_or(default)
        };
        let probe = Self::new(action);
        Some(Self {
            initial_delay: span(wire.initial_delay, "initial_delay", probe.initial_delay),
            period: span(wire.period, "period", probe.period),
            timeout: span(wire.timeout, "timeout", probe.timeout),
            success_threshold: number(wire.success_threshold, probe.success_threshold),
            failure_threshold: number(wire.failure_threshold, probe.failure_threshold),
            ..probe
        })
    }
}

impl From<&HttpGet> for v1::HttpGet {
    fn from(get: &HttpGet) -> Self {
        let header = |header: &Header| v1::HttpHeader { name: header.name.clone(), value: header.value.clone() };
        Self {
            scheme: v1::Scheme::from(get.scheme).into(),
            host: get.host.clone().unwrap_or_default(),
            port: get.port.into(),
            path: get.path.clone(),
            http_headers: get.http_headers.iter().map(header).collect(),
        }
    }
}

impl FromWire<v1::HttpGet> for HttpGet {
    fn from_wire(wire: v1::HttpGet, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let scheme = Scheme::from_wire(wire.scheme, path.field("scheme"), bad);
        let port = port_number(wire.port, path.field("port"), bad);
        let header = |header: v1::HttpHeader| Header { name: header.name, value: header.value };
        Some(Self {
            scheme: scheme.unwrap_or_default(),
            host: said(wire.host),
            // A stand-in with which nothing is wrong.
            port: port.unwrap_or(1),
            path: if wire.path.is_empty() { "/".to_owned() } else { wire.path },
            http_headers: wire.http_headers.into_iter().map(header).collect(),
        })
    }
}

fn number(wire: u32, default: u32) -> u32 {
    if wire == 0 { default } else { wire }
}
