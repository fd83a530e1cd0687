//! Who is on the other end of a connection.

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use longshore_model::identity::Identity;
use longshore_model::name::NodeName;
use longshore_model::node::Node;
use longshore_tls::PeerCertificate;

use super::authority::BACKDATED;

/// What a connection knows of its other end; tonic puts it into the extensions of every request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whom it shows itself to be.
    pub credentials: PeerCredentials,
}

/// Whom a peer shows itself to be.
#[derive(Clone, Debug)]
pub enum PeerCredentials {
    /// It showed no certificate.
    None,
    /// Its certificate is of our authority, but names nobody that we know.
    Unknown(Arc<str>),
    /// Its certificate names this caller.
    Known(Caller),
}

/// A caller with a certificate of our authority.
#[derive(Clone, Debug)]
pub struct Caller {
    identity: Arc<Identity>,
    certificate: Arc<PeerCertificate>,
}

impl Caller {
    /// Takes a certificate and what it says.
    #[must_use]
    pub fn new(identity: Identity, certificate: PeerCertificate) -> Self {
        Self { identity: Arc::new(identity), certificate: Arc::new(certificate) }
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The node that it is, if it is one.
    #[must_use]
    pub fn node(&self) -> Option<&NodeName> {
        match &*self.identity {
            Identity::Node(name) => Some(name),
            Identity::User { .. } | Identity::Server => None,
        }
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> &PeerCertificate {
        &self.certificate
    }

    /// Whether this is that very node, and not one of the same name that was deleted before it enrolled.
    ///
    /// A node's certificate is issued when it enrols, at the earliest: an older one belongs to a predecessor. (Rejected:
    /// a list of revoked certificates. It would grow for as long as certificates last, for the same answer.)
    #[must_use]
    pub fn is(&self, node: &Node) -> bool {
        let issued = self.certificate.not_before.as_second().saturating_add(BACKDATED.as_secs());
        self.node() == Some(&node.name) && issued >= node.enroll_time.as_second()
    }

    /// Whether its certificate is valid at this moment.
    #[must_use]
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.certificate.is_valid_at(now)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn node(name: &str, enroll_time: &str) -> Node {
        Node {
            name: name.parse().unwrap(),
            labels: Default::default(),
            enroll_time: enroll_time.parse().unwrap(),
            last_seen: None,
            info: None,
        }
    }

    fn caller(name: &str, issued: &str) -> Caller {
        let issued: Timestamp = issued.parse().unwrap();
        let certificate = PeerCertificate {
            uri: String::new(),
            not_before: issued - BACKDATED,
            not_after: issued + jiff::SignedDuration::from_hours(1),
            key_hash: [0; 32],
        };
        Caller::new(Identity::Node(name.parse().unwrap()), certificate)
    }

    #[test]
    fn a_predecessors_certificate_is_not_the_nodes() {
        let node = node("edge-1", "2026-01-02T03:04:05.678Z");
        assert!(caller("edge-1", "2026-01-02T03:04:05Z").is(&node), "issued with the enrolment, to the second");
        assert!(caller("edge-1", "2026-02-01T00:00:00Z").is(&node), "renewed");
        assert!(!caller("edge-1", "2026-01-02T03:04:04Z").is(&node));
        assert!(!caller("edge-2", "2026-01-02T03:04:05Z").is(&node));
    }
}
