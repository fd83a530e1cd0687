//! Who the node is, and whether its server knows it.

use jiff::{SignedDuration, Timestamp};
use longshore_doctor::{Finding, span};
use longshore_model::certificate::Validity;
use longshore_tls::{ConnectError, Credentials, PeerCertificate, PeerError, with_causes};
use tonic::{Code, Status};

use crate::data_dir::{DataDirError, Enrolment};

/// An authority that ends sooner than this is due to be replaced: its nodes have to be enrolled again.
const AUTHORITY_SOON: SignedDuration = SignedDuration::from_hours(90 * 24);

/// The machine is no node.
pub(in crate::doctor) fn not_enrolled(error: &DataDirError) -> Finding {
    let hint =
        "Run `longshore-agent enroll --server HOST:PORT --token TOKEN`, with a token from `longshore node token`.";
    Finding::broken("node", with_causes(error), hint)
}

/// The machine is a node.
pub(in crate::doctor) fn enrolled(enrolment: &Enrolment) -> Finding {
    Finding::fine("node", format!("{}, of the server at {}", enrolment.node_name, enrolment.server))
}

/// Its certificate, key and root cannot be used.
pub(in crate::doctor) fn credentials(error: &DataDirError) -> Finding {
    let hint = "Enrol it again as the node that it is: `longshore-agent enroll --renew`, with a token from `longshore node \
                token --name NAME`; with --force instead where the root is damaged too.";
    Finding::broken("certificate", with_causes(error), hint)
}

/// The node's certificate and that of the authority.
pub(in crate::doctor) fn certificate(credentials: &Credentials, now: Timestamp) -> Vec<Finding> {
    let own = PeerCertificate::from_der(credentials.leaf()).map(|certificate| (certificate.uri, certificate.validity));
    vec![node(own, now), authority(longshore_tls::validity_of(credentials.root()), now)]
}

fn node(certificate: Result<(String, Validity), PeerError>, now: Timestamp) -> Finding {
    let check = "certificate";
    let lapsed = "Run `longshore-agent enroll --renew`, with a token from `longshore node token --name NAME`.";
    let (uri, validity) = match certificate {
        Ok(certificate) => certificate,
        Err(error) => return Finding::broken(check, with_causes(&error), lapsed),
    };
    if now > validity.not_after {
        return Finding::broken(check, format!("{uri}, expired {}", validity.not_after), lapsed);
    }
    if now < validity.not_before {
        let found = format!("{uri}, not valid before {}", validity.not_before);
        return Finding::broken(check, found, "Set the clock of this machine, or of the server that made it.");
    }
    let left = span(validity.not_after.duration_since(now).as_secs());
    let found = format!("{uri}, matches its key, valid for {left} (until {})", validity.not_after);
    // The last moment at which an agent that has its server in reach asks for a new one.
    if now > validity.renewal(u64::MAX) {
        let found = format!("{found}, and should have been renewed since {}", validity.renewal(u64::MAX));
        let hint = "The agent renews it by itself when it reaches its server: its log says why it did not.";
        return Finding::degraded(check, found, hint);
    }
    Finding::fine(check, found)
}

fn authority(validity: Result<Validity, PeerError>, now: Timestamp) -> Finding {
    let check = "authority";
    let hint = "All nodes have to be enrolled again with a server that has a new one.";
    match validity {
        Err(error) => Finding::broken(check, with_causes(&error), hint),
        Ok(validity) if !validity.contains(now) => {
            let (from, to) = (validity.not_before, validity.not_after);
            Finding::broken(check, format!("root.crt is valid from {from} to {to} only"), hint)
        }
        Ok(validity) => {
            let left = validity.not_after.duration_since(now);
            let found = format!("root.crt, valid for {}", span(left.as_secs()));
            if left < AUTHORITY_SOON { Finding::degraded(check, found, hint) } else { Finding::fine(check, found) }
        }
    }
}

/// There is no connection.
pub(in crate::doctor) fn not_connected(error: &ConnectError) -> Finding {
    let hint = match error {
        ConnectError::Address(_) => "Enrol it again with --renew and --server HOST:PORT.",
        ConnectError::Unreachable { .. } | ConnectError::TimedOut { .. } => {
            "Look at this machine's network, names and firewall, and whether longshore-server runs there. Where it moved, \
             `longshore-agent enroll --renew --server HOST:PORT`."
        }
        ConnectError::NotTrusted { .. } => {
            "Another server answers there, or something in between; or the server's certificate lacks the name that this node \
             dials, or has expired."
        }
        ConnectError::Refused { .. } => {
            "The node's certificate has expired, or the server's authority is another one: `longshore-agent enroll --renew`."
        }
        ConnectError::Handshake { .. } => "Is it the server's port for agents (7441 by default)?",
        ConnectError::Credentials(_) => "Enrol it again: `longshore-agent enroll --renew`.",
    };
    Finding::broken("server", with_causes(error), hint)
}

/// There is a connection, and each side has accepted the other's certificate.
pub(in crate::doctor) fn server(address: &str) -> Finding {
    Finding::fine("server", format!("{address} is reached by TCP and TLS 1.3, and each side accepts the other"))
}

/// Whether the server knows the node, from how it refuses a question that means nothing.
pub(in crate::doctor) fn known(status: &Status) -> Finding {
    let check = "membership";
    let hint =
        "Make it a node again: `longshore-agent enroll --renew` with a token from `longshore node token --name NAME`.";
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => {
            Finding::broken(check, format!("the server refuses this node: {}", status.message()), hint)
        }
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal => {
            let found = format!("the server does not answer: {}", status.message());
            Finding::broken(check, found, "Its log says why; `longshore doctor` looks at it from people's side.")
        }
        _ => Finding::fine(check, "the server knows this node"),
    }
}

#[cfg(test)]
mod tests {
    use longshore_doctor::Verdict;

    use super::*;

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap_or_default()
    }

    fn from_to(before: i32, after: i32) -> Validity {
        Validity { not_before: now() + DAY * before, not_after: now() + DAY * after }
    }

    #[test]
    fn a_certificate_is_valid_lapsed_or_was_not_renewed() {
        let table = [
            (-1, 29, Verdict::Fine),
            (-20, 10, Verdict::Fine),
            (-25, 5, Verdict::Degraded),
            (-31, -1, Verdict::Broken),
            (1, 31, Verdict::Broken),
        ];
        for (before, after, verdict) in table {
            let finding = node(Ok(("spiffe://l/node/a".to_owned(), from_to(before, after))), now());
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.found.starts_with("spiffe://l/node/a, "), "{finding:?}");
            assert_eq!(finding.hint.is_empty(), verdict == Verdict::Fine);
        }
        assert_eq!(node(Err(PeerError::Uris(0)), now()).verdict, Verdict::Broken);
    }

    #[test]
    fn an_authority_outlives_its_nodes() {
        let table = [
            (-1, 3650, Verdict::Fine),
            (-1, 89, Verdict::Degraded),
            (-9, -1, Verdict::Broken),
            (1, 9, Verdict::Broken),
        ];
        for (before, after, verdict) in table {
            assert_eq!(authority(Ok(from_to(before, after)), now()).verdict, verdict, "{before} {after}");
        }
        assert_eq!(authority(Err(PeerError::Malformed("x".to_owned())), now()).verdict, Verdict::Broken);
    }

    #[test]
    fn a_refusal_of_the_question_is_an_answer_and_one_of_the_node_is_not() {
        for code in [Code::NotFound, Code::InvalidArgument, Code::Unimplemented, Code::FailedPrecondition] {
            assert_eq!(known(&Status::new(code, "x")).verdict, Verdict::Fine, "{code}");
        }
        for code in [Code::Unauthenticated, Code::PermissionDenied, Code::Unavailable, Code::Internal] {
            assert_eq!(known(&Status::new(code, "x")).verdict, Verdict::Broken, "{code}");
        }
    }

    #[test]
    fn every_way_not_to_connect_has_its_hint() {
        let address = || "a:1".to_owned();
        let tls = || std::sync::Arc::new(std::io::Error::other("x"));
        let errors = [
            ConnectError::Address(address()),
            ConnectError::Unreachable { address: address(), source: tls() },
            ConnectError::TimedOut { address: address(), within: std::time::Duration::from_secs(10) },
            ConnectError::Handshake { address: address(), source: tls() },
        ];
        for error in errors {
            let finding = not_connected(&error);
            assert_eq!(finding.verdict, Verdict::Broken);
            assert!(finding.hint.ends_with(['.', '?']) && finding.found.contains("a:1"), "{finding:?}");
        }
    }
}
