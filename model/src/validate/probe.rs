//! Rules of probes.

use std::net::IpAddr;
use std::time::Duration;

use super::names::is_dns_name;
use super::{Path, Violations, at_most, quoted, span, within};
use crate::limits;
use crate::probe::{Action, Exec, Header, HttpGet, Probe, TcpSocket};
use crate::spec::AppSpec;

/// Headers that say how the message itself is made up, which is the agent's business.
const FRAMING: [&str; 6] = ["connection", "content-length", "te", "trailer", "transfer-encoding", "upgrade"];

pub(super) fn probes(spec: &AppSpec, path: Path<'_>, bad: &mut Violations) {
    if let Some(probe) = &spec.liveness_probe {
        let path = path.field("liveness_probe");
        one_probe(probe, path, bad);
        if probe.success_threshold != 1 {
            let description = format!("is {}; for liveness it must be 1", probe.success_threshold);
            bad.add(path.field("success_threshold"), description);
        }
    }
    if let Some(probe) = &spec.readiness_probe {
        let path = path.field("readiness_probe");
        one_probe(probe, path, bad);
        within(probe.success_threshold, 1..=limits::MAX_PROBE_THRESHOLD, path.field("success_threshold"), bad);
    }
}

fn one_probe(probe: &Probe, path: Path<'_>, bad: &mut Violations) {
    match &probe.action {
        Action::HttpGet(get) => http_get(get, path.field("http_get"), bad),
        Action::TcpSocket(TcpSocket { host, port }) => {
            let path = path.field("tcp_socket");
            place(host.as_deref(), *port, path, bad);
        }
        Action::Exec(command) => exec(command, path.field("exec"), bad),
    }
    let timings = [
        ("initial_delay", probe.initial_delay, Duration::ZERO..=limits::MAX_PROBE_PERIOD),
        ("period", probe.period, limits::MIN_PROBE_PERIOD..=limits::MAX_PROBE_PERIOD),
        ("timeout", probe.timeout, limits::MIN_PROBE_TIMEOUT..=limits::MAX_PROBE_TIMEOUT),
    ];
    for (field, value, range) in timings {
        span(value, range, path.field(field), bad);
    }
    within(probe.failure_threshold, 1..=limits::MAX_PROBE_THRESHOLD, path.field("failure_threshold"), bad);
}

fn exec(Exec { command }: &Exec, path: Path<'_>, bad: &mut Violations) {
    let path = path.field("command");
    if command.first().is_none_or(String::is_empty) {
        bad.add(path, "is needed: a program and its arguments, such as [\"/bin/check\", \"--quick\"]");
    }
    at_most(command.len(), limits::MAX_PROBE_COMMAND_WORDS, path, bad);
    let bytes = command.iter().map(String::len).sum::<usize>();
    if bytes > limits::MAX_PROBE_COMMAND {
        let limit = limits::MAX_PROBE_COMMAND;
        bad.add(path, format!("is {bytes} bytes long; at most {limit} are allowed"));
    }
    for (index, word) in command.iter().enumerate().filter(|(_, word)| word.contains('\0')) {
        bad.add(path.index(index), format!("{} has a zero byte in it", quoted(word)));
    }
}

fn place(host: Option<&str>, port: u16, path: Path<'_>, bad: &mut Violations) {
    if port == 0 {
        bad.add(path.field("port"), "is needed, from 1 to 65535");
    }
    if let Some(host) = host.filter(|host| !is_host(host)) {
        let description =
            format!("{} is no DNS name and no IP address; leave it out to ask the instance itself", quoted(host));
        bad.add(path.field("host"), description);
    }
}

fn is_host(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok() || is_dns_name(host)
}

fn http_get(get: &HttpGet, path: Path<'_>, bad: &mut Violations) {
    place(get.host.as_deref(), get.port, path, bad);
    let is_plain =
        |c: char| c.is_ascii_graphic() && !matches!(c, '#' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}');
    if !get.path.starts_with('/') || !get.path.chars().all(is_plain) {
        let description = format!(
            "{} is no path such as /healthz?full=1: it begins with '/', and everything else than letters, digits and \
             the usual signs is written as %20",
            quoted(&get.path)
        );
        bad.add(path.field("path"), description);
    } else if get.path.len() > limits::MAX_PROBE_PATH {
        let description = format!("is {} bytes long; at most {} are allowed", get.path.len(), limits::MAX_PROBE_PATH);
        bad.add(path.field("path"), description);
    }
    let headers = path.field("http_headers");
    at_most(get.http_headers.len(), limits::MAX_PROBE_HEADERS, headers, bad);
    for (index, one) in get.http_headers.iter().enumerate() {
        header(one, headers.index(index), bad);
    }
}

fn header(header: &Header, path: Path<'_>, bad: &mut Violations) {
    let Header { name, value } = header;
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(is_token) {
        bad.add(path.field("name"), format!("{} is no name of a header such as X-Probe", quoted(name)));
    } else if name.len() > limits::MAX_PROBE_HEADER_NAME {
        let limit = limits::MAX_PROBE_HEADER_NAME;
        bad.add(path.field("name"), format!("is {} bytes long; at most {limit} are allowed", name.len()));
    } else if FRAMING.contains(&name.to_ascii_lowercase().as_str()) {
        bad.add(path.field("name"), format!("is {name}, which the agent itself sets"));
    }
    if value.len() > limits::MAX_PROBE_HEADER_VALUE {
        let limit = limits::MAX_PROBE_HEADER_VALUE;
        bad.add(path.field("value"), format!("is {} bytes long; at most {limit} are allowed", value.len()));
    }
    if !value.chars().all(|c| c == ' ' || c == '\t' || c.is_ascii_graphic()) {
        bad.add(path.field("value"), "may have visible ASCII characters, spaces and tabs only");
    }
}
