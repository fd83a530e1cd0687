//! Probes: how an instance is asked whether it is alive, and whether it is ready; in the words of Kubernetes.
//!
//! What follows from the answers is in [`crate::health`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits;

/// How an instance is asked, how often, and how many answers in a row count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "Text")]
pub struct Probe {
    /// The question.
    pub action: Action,
    /// From the container's start to the first question.
    pub initial_delay: Duration,
    /// From one question to the next.
    pub period: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Successes in a row that make up for failures; 1 for liveness.
    pub success_threshold: u32,
    /// Failures in a row that count.
    pub failure_threshold: u32,
}

impl Probe {
    /// A probe with the defaults.
    #[must_use]
    pub fn new(action: Action) -> Self {
        Self {
            action,
            initial_delay: Duration::ZERO,
            period: limits::DEFAULT_PROBE_PERIOD,
            timeout: limits::DEFAULT_PROBE_TIMEOUT,
            success_threshold: limits::DEFAULT_PROBE_SUCCESSES,
            failure_threshold: limits::DEFAULT_PROBE_FAILURES,
        }
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A GET: any status from 200 to 399 is a success, and redirects are not followed.
    HttpGet(HttpGet),
    /// A TCP connection: a success once it stands.
    TcpSocket(TcpSocket),
    /// A command inside the instance: a success when it ends with the exit code 0.
    Exec(Exec),
}

/// An HTTP GET.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpGet {
    /// HTTP, or HTTPS with any certificate.
    #[serde(default)]
    pub scheme: Scheme,
    /// Name or address that the node asks; `None` asks the instance itself, inside its own network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Port, of the container unless there is a `host`.
    pub port: u16,
    /// Path and query.
    #[serde(default = "root")]
    pub path: String,
    /// Headers, added to those that every request has; `Host` and `User-Agent` replace them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http_headers: Vec<Header>,
}

fn root() -> String {
    "/".to_owned()
}

/// A header of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// How HTTP is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Scheme {
    /// In the clear.
    #[default]
    Http,
    /// Over TLS; the certificate is not looked at, since a probe asks whether, not who.
    Https,
}

/// A TCP connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpSocket {
    /// As [`HttpGet::host`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Port, of the container unless there is a `host`.
    pub port: u16,
}

/// A command that runs inside the instance, as whom and where its program does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// Program and arguments; no shell reads them.
    pub command: Vec<String>,
}

/// The text form: of the actions exactly one must be there, and `deny_unknown_fields` does not work with `flatten`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Text {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http_get: Option<HttpGet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tcp_socket: Option<TcpSocket>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exec: Option<Exec>,
    #[serde(default, with = "crate::quantity::duration")]
    initial_delay: Duration,
    #[serde(default = "period", with = "crate::quantity::duration")]
    period: Duration,
    #[serde(default = "timeout", with = "crate::quantity::duration")]
    timeout: Duration,
    #[serde(default = "successes")]
    success_threshold: u32,
    #[serde(default = "failures")]
    failure_threshold: u32,
}

fn period() -> Duration {
    limits::DEFAULT_PROBE_PERIOD
}

fn timeout() -> Duration {
    limits::DEFAULT_PROBE_TIMEOUT
}

fn successes() -> u32 {
    limits::DEFAULT_PROBE_SUCCESSES
}

fn failures() -> u32 {
    limits::DEFAULT_PROBE_FAILURES
}

impl TryFrom<Text> for Probe {
    type Error = String;

    fn try_from(text: Text) -> Result<Self, String> {
        let given =
            [text.http_get.map(Action::HttpGet), text.tcp_socket.map(Action::TcpSocket), text.exec.map(Action::Exec)];
        let mut given = given.into_iter().flatten();
        let (Some(action), None) = (given.next(), given.next()) else {
            return Err("exactly one of `httpGet`, `tcpSocket` and `exec` is needed".to_owned());
        };
        Ok(Self {
            action,
            initial_delay: text.initial_delay,
            period: text.period,
            timeout: text.timeout,
            success_threshold: text.success_threshold,
            failure_threshold: text.failure_threshold,
        })
    }
}

impl From<Probe> for Text {
    fn from(probe: Probe) -> Self {
        let (mut http_get, mut tcp_socket, mut exec) = (None, None, None);
        match probe.action {
            Action::HttpGet(get) => http_get = Some(get),
            Action::TcpSocket(socket) => tcp_socket = Some(socket),
            Action::Exec(command) => exec = Some(command),
        }
        Self {
            http_get,
            tcp_socket,
            exec,
            initial_delay: probe.initial_delay,
            period: probe.period,
            timeout: probe.timeout,
            success_threshold: probe.success_threshold,
            failure_threshold: probe.failure_threshold,
        }
    }
}
