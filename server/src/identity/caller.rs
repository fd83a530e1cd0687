//! Who is on the other end of a connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;
use longshore_model::identity::Identity;
use longshore_model::name::NodeName;
use longshore_model::node::Node;
use longshore_tls::PeerCertificate;

use crate::listen::PassedOn;

/// What a connection knows of its other end; tonic puts it into the extensions of every request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whom it shows itself to be.
    pub credentials: PeerCredentials,
    /// Counts what of its bytes somebody has taken.
    pub passed_on: PassedOn,
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
    /// Until when, in Unix seconds: the certificate's end, or that of the one that it was renewed by on this connection.
    valid_until: Arc<AtomicI64>,
}

impl Caller {
    /// Takes a certificate and what it says.
    #[must_use]
    pub fn new(identity: Identity, certificate: PeerCertificate) -> Self {
        let valid_until = Arc::new(AtomicI64::new(certificate.validity.not_after.as_second()));
        Self { identity: Arc::new(identity), certificate: Arc::new(certificate), valid_until }
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
        let issued = self.certificate.validity.issued().as_second();
        self.node() == Some(&node.name) && issued >= node.enroll_time.as_second()
    }

    /// Whether it may call at this moment: from its certificate's beginning to [`Caller::valid_until`].
    #[must_use]
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        (self.certificate.validity.not_before..=self.valid_until()).contains(&now)
    }

    /// When its certificate expires, or the one that was issued over this connection in its place.
    #[must_use]
    pub fn valid_until(&self) -> Timestamp {
        Timestamp::from_second(self.valid_until.load(Ordering::Relaxed)).unwrap_or(Timestamp::MAX)
    }

    /// Lets the connection last until this moment, the end of a certificate that its owner was given over it.
    pub fn renewed_until(&self, moment: Timestamp) {
        self.valid_until.fetch_max(moment.as_second(), Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use jiff::SignedDuration;
    use longshore_model::certificate::Validity;

    use super::*;

    fn node(name: &str, enroll_time: &str) -> Node {
        Node {
            name: name.parse().unwrap(),
            labels: Default::default(),
            enroll_time: enroll_time.parse().unwrap(),
            last_seen: None,
            info: None,
            certificate_end: None,
        }
    }

    fn caller(name: &str, issued: &str) -> Caller {
        let issued: Timestamp = issued.parse().unwrap();
        let certificate = PeerCertificate {
            uri: String::new(),
            validity: Validity::starting(issued, SignedDuration::from_hours(1)).unwrap(),
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

    #[test]
    fn a_renewed_certificate_keeps_its_connection_and_its_clones() {
        let hour = SignedDuration::from_hours(1);
        let issued: Timestamp = "2026-01-02T03:00:00Z".parse().unwrap();
        let caller = caller("edge-1", "2026-01-02T03:00:00Z");
        let of_a_request = caller.clone();
        assert!(caller.is_valid_at(issued + hour) && !caller.is_valid_at(issued + hour * 2));
        of_a_request.renewed_until(issued + hour * 3);
        assert!(caller.is_valid_at(issued + hour * 2) && !caller.is_valid_at(issued + hour * 4));
        of_a_request.renewed_until(issued);
        assert_eq!(caller.valid_until(), issued + hour * 3, "an earlier end takes nothing away");
    }
}
