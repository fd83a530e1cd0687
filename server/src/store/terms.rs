//! What a request says beside what it asks for: what it is known by when it comes again, what it was made on, whether it only asks.

use jiff::SignedDuration;

use super::StoreError;

/// How long a request that may come again is remembered.
pub const REQUEST_LIFETIME: SignedDuration = SignedDuration::from_hours(24);

/// A request that may come again, and is then answered without being done for a second time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// Who asks: others may use the same identifier.
    pub caller: String,
    /// What the caller calls the request.
    pub id: String,
    /// Fingerprint of the call and of all that it says: SHA-256, or one with a key where that has a secret in it.
    pub body: [u8; 32],
}

/// What a caller says of a write beside its effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The etag that the thing must have: with any other nothing is done.
    pub etag: Option<String>,
    /// Decide and answer, but change nothing.
    pub validate_only: bool,
    /// Set when the request may come again; what is only checked is not remembered.
    pub request: Option<RequestKey>,
    /// What the call that asks for it is called, for the logs of the nodes that it reaches.
    pub cause: Option<String>,
}

impl Terms {
    /// Refuses when the thing of this name has an etag other than the caller saw.
    pub(super) fn admit(&self, etag: &str, kind: &'static str, name: &str) -> Result<(), StoreError> {
        match &self.etag {
            Some(seen) if seen != etag => Err(StoreError::Changed { kind, name: name.to_owned() }),
            _ => Ok(()),
        }
    }
}
