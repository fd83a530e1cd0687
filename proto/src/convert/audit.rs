//! The audit log.

use jiff::Timestamp;
use longshore_model::audit::{AuditEntry, Deed, Head};
use longshore_model::validate::{Path, Violations};

use super::{FromWire, required, timestamp};
use crate::v1;

impl From<AuditEntry> for v1::AuditEntry {
    fn from(AuditEntry { number, deed, hash }: AuditEntry) -> Self {
        Self {
            number,
            time: Some(timestamp(deed.time)),
            caller: deed.caller,
            key_fingerprint: deed.key_fingerprint,
            address: deed.address,
            method: deed.method,
            target: deed.target,
            validate_only: deed.validate_only,
            code: deed.code,
            reason: deed.reason,
            request_id: deed.request_id,
            hash: hash.to_vec(),
        }
    }
}

impl FromWire<v1::AuditEntry> for AuditEntry {
    fn from_wire(wire: v1::AuditEntry, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let time: Option<Timestamp> = required(wire.time, path.field("time"), bad);
        let hash = read_hash(&wire.hash, path.field("hash"), bad);
        let deed = Deed {
            time: time?,
            caller: wire.caller,
            key_fingerprint: wire.key_fingerprint,
            address: wire.address,
            method: wire.method,
            target: wire.target,
            validate_only: wire.validate_only,
            code: wire.code,
            reason: wire.reason,
            request_id: wire.request_id,
        };
        Some(Self { number: wire.number, deed, hash: hash? })
    }
}

impl From<Head> for v1::AuditHead {
    fn from(head: Head) -> Self {
        Self { number: head.number, hash: head.hash.to_vec() }
    }
}

impl FromWire<v1::AuditHead> for Head {
    fn from_wire(wire: v1::AuditHead, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        Some(Self { number: wire.number, hash: read_hash(&wire.hash, path.field("hash"), bad)? })
    }
}

fn read_hash(bytes: &[u8], path: Path<'_>, bad: &mut Violations) -> Option<[u8; 32]> {
    let hash = bytes.try_into().ok();
    if hash.is_none() {
        bad.add(path, format!("has {} bytes; a SHA-256 hash has 32", bytes.len()));
    }
    hash
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_as_it_was() {
        let text = |text: &str| text.to_owned();
        let deed = Deed {
            time: "2026-01-02T03:04:05.678901Z".parse().unwrap(),
            caller: text("operator ada"),
            key_fingerprint: text("ab"),
            address: text("192.0.2.7:1"),
            method: text("longshore.v1.JobService/StopJob"),
            target: text("jobs/j"),
            validate_only: true,
            code: text("ABORTED"),
            reason: text("ETAG_MISMATCH"),
            request_id: text("r"),
        };
        let entry = Head::default().seal(deed);
        let wire = v1::AuditEntry::from(entry.clone());
        assert_eq!(AuditEntry::read(wire.clone()).unwrap(), entry);
        let head = Head { number: entry.number, hash: entry.hash };
        assert_eq!(Head::read(head.into()).unwrap(), head);

        let broken = v1::AuditEntry { time: None, hash: vec![1], ..wire };
        let bad = AuditEntry::read(broken).unwrap_err();
        let found: Vec<_> = bad.0.iter().map(|bad| format!("{} {}", bad.field, bad.description)).collect();
        assert_eq!(found, ["time is missing", "hash has 1 bytes; a SHA-256 hash has 32"]);
    }
}
