//! `longshore doctor`: looks at the way from this machine to the server, one step after the other.
//!
//! What cannot be looked at because of something before it is left out: the first thing that is broken is the one to mend.

mod judge;

use std::os::unix::fs::PermissionsExt as _;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use longshore_doctor::{Finding, Verdict};
use longshore_tls::{Credentials, KeepAlive, PeerCertificate};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::client::{Client, call, load};
use crate::connection::Connection;
use crate::error::Error;
use crate::exit::Exit;
use crate::json::Json;
use crate::output::Output;

/// Check credentials, the way to the server, the server and its nodes, with a hint for whatever is amiss.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 all is fine, 1 something is degraded, 2 something does not work.")]
pub(crate) struct Doctor {}

pub(super) async fn run(connection: &Connection, output: &mut Output) -> Result<Exit, Error> {
    let mut findings = Vec::new();
    examine(connection, &mut findings).await;
    output.show(|| json(&findings), || longshore_doctor::table(&findings))?;
    Ok(longshore_doctor::worst(&findings).into())
}

impl From<Verdict> for Exit {
    /// 0, 1 and 2: the worst that was found.
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Fine => Self::Ok,
            Verdict::Degraded => Self::Error,
            Verdict::Broken => Self::Usage,
        }
    }
}

/// One object.
fn json(findings: &[Finding]) -> Json {
    let text = |name: &str, value: &str| (name.to_owned(), Json::Text(value.to_owned()));
    let checks = findings.iter().map(|finding| {
        Json::Object(vec![
            text("check", finding.check),
            text("verdict", finding.verdict.word()),
            text("found", &finding.found),
            text("hint", &finding.hint),
        ])
    });
    let verdict = longshore_doctor::worst(findings);
    Json::Object(vec![text("verdict", verdict.word()), ("checks".to_owned(), Json::List(checks.collect()))])
}

async fn examine(connection: &Connection, findings: &mut Vec<Finding>) {
    let Some(credentials) = credentials(connection, findings) else { return };
    let channel = match longshore_tls::connect(&connection.server, &credentials, KeepAlive::default()).await {
        Ok(channel) => channel,
        Err(error) => return findings.push(judge::not_connected(&error)),
    };
    let found = format!("{} is the one that root.crt vouches for, by TLS 1.3 and HTTP/2", connection.server);
    findings.push(Finding::fine("server", found));
    findings.push(shown(&connection.server, &credentials).await);
    if health(channel.clone(), findings).await {
        nodes(channel, findings).await;
    }
}

/// Looks at the three files; `None` where they cannot be used.
fn credentials(connection: &Connection, findings: &mut Vec<Finding>) -> Option<Credentials> {
    let directory = connection.credentials();
    let check = "credentials";
    let credentials = match load(&directory) {
        Ok(credentials) => credentials,
        Err(error) => {
            let text = error.text();
            let (found, hint) = text.split_once('\n').unwrap_or((&text, ""));
            findings.push(Finding::broken(check, found, hint));
            return None;
        }
    };
    findings.push(Finding::fine(check, format!("root.crt, client.crt and client.key in {}", directory.display())));
    let key = directory.join("client.key");
    if let Ok(metadata) = std::fs::metadata(&key) {
        findings.push(longshore_doctor::key_mode(&key.display().to_string(), metadata.permissions().mode()));
    }
    match PeerCertificate::from_der(credentials.leaf()) {
        Ok(certificate) => {
            findings.push(judge::certificate(&certificate.uri, &certificate.validity, Timestamp::now()));
        }
        Err(error) => {
            findings.push(Finding::broken("certificate", error.to_string(), "Ask an admin for a certificate."));
        }
    }
    Some(credentials)
}

/// What the server shows, and for how long it will.
async fn shown(address: &str, credentials: &Credentials) -> Finding {
    match longshore_tls::shown_chain(address, credentials).await {
        Ok(chain) => {
            let ends = chain.iter().map(|der| longshore_tls::validity_of(der).map(|validity| validity.not_after));
            judge::server_certificate(&ends.filter_map(Result::ok).collect::<Vec<_>>(), Timestamp::now())
        }
        Err(error) => judge::not_connected(&error),
    }
}

/// Asks the server how it is; whether it answers us at all.
async fn health(channel: Channel, findings: &mut Vec<Finding>) -> bool {
    let asked = Timestamp::now();
    let answer = HealthClient::new(channel).check(call(HealthCheckRequest::default())).await;
    let answered = Timestamp::now();
    let response = match answer {
        Ok(response) => response,
        Err(status) => {
            let hint = "Is this the port for people (7440 by default), and the certificate one of a user?";
            findings.push(Finding::broken("health", Error::from(status).text().replace('\n', " "), hint));
            return false;
        }
    };
    let header = |name: &str| response.metadata().get(name).and_then(|value| value.to_str().ok());
    let date = header("date").and_then(|date| DateTimeParser::new().parse_timestamp(date).ok());
    findings.push(judge::health(response.get_ref().status));
    findings.push(judge::versions(env!("CARGO_PKG_VERSION"), header("server")));
    findings.push(longshore_doctor::clock(date, asked, answered));
    true
}

/// Asks for the nodes.
async fn nodes(channel: Channel, findings: &mut Vec<Finding>) {
    match Client::over(channel).list_nodes("", "", "").await {
        Ok(nodes) => {
            let now = Timestamp::now();
            findings.push(judge::nodes(&nodes, now));
            findings.push(judge::node_certificates(&nodes, now));
        }
        Err(error) => {
            let hint = "Viewers, operators and admins may list nodes: ask an admin for a certificate of such a role.";
            findings.push(Finding::broken("nodes", error.text().replace('\n', " "), hint));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_that_of_every_doctor() {
        let findings = [Finding::fine("server", "serving"), Finding::broken("health", "no", "Read its log.")];
        let ours = serde_json::to_value(json(&findings)).unwrap_or_default();
        let shared = serde_json::to_value(longshore_doctor::Report::of(&findings)).unwrap_or_default();
        assert_eq!(ours, shared);
        for verdict in [Verdict::Fine, Verdict::Degraded, Verdict::Broken] {
            assert_eq!(Exit::from(verdict).code(), verdict.exit_code());
        }
    }
}
