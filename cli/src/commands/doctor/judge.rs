//! What is made of what was found: no I/O, so that every judgement can be tested.

use jiff::{SignedDuration, Timestamp};
use longshore_doctor::Finding;
use longshore_model::certificate::Validity;
use longshore_proto::v1::Node;
use longshore_tls::ConnectError;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::error::advice;
use crate::text;

/// A certificate that ends sooner than this should be renewed: two weeks' holiday.
const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);
/// A node that is away, and whose certificate ends sooner than this, should come back: a weekend.
const AWAY_SOON: SignedDuration = SignedDuration::from_hours(3 * 24);
/// An authority that ends sooner than this should be renewed: a quarter, since others may have to do it.
const AUTHORITY_SOON: SignedDuration = SignedDuration::from_hours(90 * 24);
/// Names in one line.
const MAX_NAMES: usize = 5;

/// Who the certificate says that we are, and for how long.
pub(super) fn certificate(uri: &str, validity: &Validity, now: Timestamp) -> Finding {
    let check = "certificate";
    let who = whom(uri);
    let renew = "Ask an admin for a new certificate: `longshore user create` makes it.";
    if now > validity.not_after {
        return Finding::broken(check, format!("{who}, expired {}", validity.not_after), renew);
    }
    if now < validity.not_before {
        let hint = "Set the clock of this machine, or of the server that made the certificate.";
        return Finding::broken(check, format!("{who}, not valid before {}", validity.not_before), hint);
    }
    let left = validity.not_after.duration_since(now);
    let found = format!("{who}, valid for {} (until {})", text::span(left.as_secs()), validity.not_after);
    if left < SOON { Finding::degraded(check, found, renew) } else { Finding::fine(check, found) }
}

/// `spiffe://longshore-1/user/admin/eva` in words; a URI of another form as it is.
fn whom(uri: &str) -> String {
    let path = uri.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
    let parts = path.map(|(domain, path)| (domain, path.split('/').collect::<Vec<_>>()));
    match parts {
        Some((domain, parts)) => match parts.as_slice() {
            ["user", role, name] => format!("{name}, role {role}, of {domain}"),
            ["node", name] => format!("node {name} of {domain}; people's calls are refused to nodes"),
            _ => uri.to_owned(),
        },
        None => uri.to_owned(),
    }
}

/// A connection that was not made.
pub(super) fn not_connected(error: &ConnectError) -> Finding {
    let hint = match error {
        ConnectError::Address(_) => "Give another address by --server or LONGSHORE_SERVER.",
        ConnectError::Credentials(_) => "Get all three files of the credentials anew, from one place.",
        other => advice(other).unwrap_or_default(),
    };
    Finding::broken("server", longshore_tls::with_causes(error), hint)
}

/// What the server says of itself.
pub(super) fn health(status: i32) -> Finding {
    match ServingStatus::try_from(status) {
        Ok(ServingStatus::Serving) => Finding::fine("health", "SERVING"),
        Ok(status) => {
            let hint = "It is shutting down, or its store does not answer: its log says why.";
            Finding::broken("health", status.as_str_name(), hint)
        }
        Err(_) => Finding::broken("health", format!("status {status}"), "Use a newer longshore."),
    }
}

/// Our version and the server's, as in `longshore/0.1.0`.
pub(super) fn versions(own: &str, server: Option<&str>) -> Finding {
    let check = "versions";
    match server.and_then(|header| header.strip_prefix("longshore/")) {
        Some(server) if server == own => Finding::fine(check, format!("longshore and server {own}")),
        Some(server) => {
            let found = format!("longshore {own}, server {}", text::one_line(server));
            Finding::degraded(check, found, "Bring the older one up to the newer; they work together meanwhile.")
        }
        None => {
            let found = format!("longshore {own}, and a server that does not say its version");
            Finding::degraded(check, found, "It is an older one: upgrade it.")
        }
    }
}

/// When the certificates end that a server shows, its own first.
pub(super) fn server_certificate(ends: &[Timestamp], now: Timestamp) -> Finding {
    let check = "server certificate";
    let Some((own, above)) = ends.split_first() else {
        return Finding::degraded(check, "none that can be read", "Use a newer longshore.");
    };
    let left = |end: Timestamp| end.duration_since(now);
    let found = format!("valid for {} (until {own})", text::span(left(*own).as_secs()));
    match above.iter().min() {
        Some(authority) if left(*authority) < AUTHORITY_SOON => {
            let found =
                format!("{found}; its authority ends in {} ({authority})", text::span(left(*authority).as_secs()));
            Finding::degraded(check, found, "Have the server's certificate authority renewed: docs/identity.md.")
        }
        _ if left(*own) < SOON => {
            let hint = "The server renews it, unless another authority has to: its log says why it was not.";
            Finding::degraded(check, found, hint)
        }
        _ => Finding::fine(check, found),
    }
}

/// Nodes whose certificate is over, or will be before they are likely to be back.
pub(super) fn node_certificates(nodes: &[Node], now: Timestamp) -> Finding {
    let check = "node certificates";
    let ends = |node: &&Node| text::time(node.certificate_expire_time.as_ref());
    let over: Vec<&Node> = nodes.iter().filter(|node| ends(node).is_some_and(|end| end <= now)).collect();
    let is_soon = |node: &&Node| {
        !node.connected && ends(node).is_some_and(|end| end > now && end.duration_since(now) < AWAY_SOON)
    };
    let soon: Vec<&Node> = nodes.iter().filter(is_soon).collect();
    let mut found = Vec::new();
    if !over.is_empty() {
        found.push(format!("{} of {} expired: {}", over.len(), nodes.len(), some(&over, |node| node.name.clone())));
    }
    if !soon.is_empty() {
        let left = |node: &Node| ends(&node).map_or(0, |end| end.duration_since(now).as_secs());
        let names = some(&soon, |node| format!("{} (in {})", node.name, text::span(left(node))));
        found.push(format!("{} of {} expire soon while away: {names}", soon.len(), nodes.len()));
    }
    let hint = match (over.is_empty(), soon.is_empty()) {
        (true, true) => return Finding::fine(check, "none that is over, or soon will be"),
        (true, false) => "Switch them on before that: an agent renews its certificate when it connects.",
        (false, _) => {
            "`longshore node token --name NODE`, and on the node `longshore-agent enroll --renew --token TOKEN`."
        }
    };
    Finding::degraded(check, found.join("; "), hint)
}

/// The first few of many.
fn some(nodes: &[&Node], word: impl Fn(&Node) -> String) -> String {
    let mut names = nodes.iter().take(MAX_NAMES).map(|node| word(node)).collect::<Vec<_>>().join(", ");
    if nodes.len() > MAX_NAMES {
        names.push_str(&format!(" and {} more", nodes.len() - MAX_NAMES));
    }
    names
}

/// Nodes that are not connected.
pub(super) fn nodes(nodes: &[Node], now: Timestamp) -> Finding {
    let check = "nodes";
    if nodes.is_empty() {
        return Finding::fine(check, "none yet; `longshore node token create` makes the first one's token");
    }
    let mut away: Vec<&Node> = nodes.iter().filter(|node| !node.connected).collect();
    if away.is_empty() {
        return Finding::fine(check, format!("all {} connected", nodes.len()));
    }
    // Who left last is the likeliest to be worth a look.
    away.sort_by_key(|node| std::cmp::Reverse(text::time(node.last_seen_time.as_ref())));
    let names = some(&away, |node| {
        let seen = text::age(node.last_seen_time.as_ref(), now);
        if seen == "-" { format!("{} (never)", node.name) } else { format!("{} ({seen})", node.name) }
    });
    let found = format!("{} of {} not connected: {names}", away.len(), nodes.len());
    Finding::degraded(check, found, "On such a machine, the agent's log says why.")
}

#[cfg(test)]
mod tests {
    use longshore_doctor::Verdict;

    use super::*;

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap_or_default()
    }

    #[test]
    fn a_certificate_is_told_before_it_ends() {
        let uri = "spiffe://longshore-1/user/admin/eva";
        for (before, after, verdict) in [
            (-1, 30, Verdict::Fine),
            (-1, 14, Verdict::Fine),
            (-1, 13, Verdict::Degraded),
            (-30, -1, Verdict::Broken),
            (1, 30, Verdict::Broken),
        ] {
            let validity = Validity { not_before: now() + DAY * before, not_after: now() + DAY * after };
            let finding = certificate(uri, &validity, now());
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.found.starts_with("eva, role admin, of longshore-1, "), "{finding:?}");
            assert_eq!(finding.hint.is_empty(), verdict == Verdict::Fine);
        }
        assert_eq!(whom("spiffe://longshore-1"), "spiffe://longshore-1");
    }

    #[test]
    fn versions_that_differ_work_together() {
        assert_eq!(versions("0.1.0", Some("longshore/0.1.0")).verdict, Verdict::Fine);
        for server in [Some("longshore/0.2.0"), Some("nginx"), None] {
            assert_eq!(versions("0.1.0", server).verdict, Verdict::Degraded);
        }
    }

    #[test]
    fn only_a_server_that_serves_is_healthy() {
        assert_eq!(health(ServingStatus::Serving.into()).verdict, Verdict::Fine);
        for status in [ServingStatus::NotServing.into(), ServingStatus::Unknown.into(), 99] {
            assert_eq!(health(status).verdict, Verdict::Broken, "{status}");
        }
    }

    #[test]
    fn nodes_that_are_away_are_named_the_last_one_first() {
        let node = |name: &str, seen: Option<i64>| Node {
            name: name.to_owned(),
            connected: seen.is_none(),
            last_seen_time: seen
                .filter(|&ago| ago > 0)
                .map(|ago| prost_types::Timestamp { seconds: now().as_second() - ago, nanos: 0 }),
            ..Default::default()
        };
        assert_eq!(nodes(&[], now()).verdict, Verdict::Fine);
        assert_eq!(nodes(&[node("a", None), node("b", None)], now()).found, "all 2 connected");
        let some = [node("a", Some(600)), node("b", None), node("c", Some(60)), node("d", Some(0))];
        let finding = nodes(&some, now());
        assert_eq!(finding.verdict, Verdict::Degraded);
        assert_eq!(finding.found, "3 of 4 not connected: c (60s), a (10m), d (never)");
        let many: Vec<Node> = (1..=7).map(|ago| node("n", Some(ago))).collect();
        assert!(nodes(&many, now()).found.ends_with(" and 2 more"));
    }

    #[test]
    fn nodes_whose_certificate_ends_are_told_before_they_are_lost() {
        let node = |name: &str, connected: bool, left: Option<SignedDuration>| Node {
            name: name.to_owned(),
            connected,
            certificate_expire_time: left
                .map(|left| (now() + left).as_second())
                .map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
            ..Default::default()
        };
        let hour = SignedDuration::from_hours(1);
        let fine = [node("a", true, Some(DAY)), node("b", false, Some(DAY * 4)), node("c", false, None)];
        assert_eq!(node_certificates(&fine, now()).verdict, Verdict::Fine, "who is connected renews in time");
        let soon = [node("a", false, Some(hour * 5)), node("b", false, Some(DAY * 4))];
        let finding = node_certificates(&soon, now());
        assert_eq!(
            (finding.verdict, finding.found.as_str()),
            (Verdict::Degraded, "1 of 2 expire soon while away: a (in 5h)")
        );
        let over = [node("a", true, Some(-hour)), node("b", false, Some(hour * 5)), node("c", false, Some(-hour))];
        let finding = node_certificates(&over, now());
        assert_eq!(finding.found, "2 of 3 expired: a, c; 1 of 3 expire soon while away: b (in 5h)");
        assert!(finding.hint.contains("enroll --renew"), "{finding:?}");
    }

    #[test]
    fn the_servers_certificate_and_its_authority_are_told_before_they_end() {
        let judged = |own: i32, authority: i32| {
            server_certificate(&[now() + DAY * own, now() + DAY * authority, now() + DAY * 7000], now())
        };
        for (own, authority, verdict) in [
            (300, 1000, Verdict::Fine),
            (13, 1000, Verdict::Degraded),
            (14, 90, Verdict::Fine),
            (80, 89, Verdict::Degraded),
        ] {
            assert_eq!(judged(own, authority).verdict, verdict, "{own} {authority}");
        }
        assert!(judged(80, 89).found.contains("its authority ends in 89d"));
        assert_eq!(server_certificate(&[], now()).verdict, Verdict::Degraded);
    }
}
