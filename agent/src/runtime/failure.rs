//! Turns what the kernel says into reasons and sentences.

use std::fmt::Display;
use std::io::ErrorKind;

use longshore_model::failure::FailureReason;

use crate::runtime::RuntimeError;

/// What went wrong while `doing`; a full disk keeps its own reason.
pub(super) fn io(doing: impl Display, cause: impl Into<std::io::Error>) -> RuntimeError {
    let cause = cause.into();
    let reason = match cause.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => FailureReason::DiskFull,
        _ => FailureReason::RuntimeError,
    };
    RuntimeError { reason, message: format!("{doing} failed: {cause}") }
}

/// A failure that has no reason of its own.
pub(super) fn other(message: impl Into<String>) -> RuntimeError {
    let message = message.into();
    let full = message.contains("ENOSPC") || message.contains("No space left on device");
    RuntimeError { reason: if full { FailureReason::DiskFull } else { FailureReason::RuntimeError }, message }
}

/// A failure with its reason.
pub(super) fn because(reason: FailureReason, message: impl Into<String>) -> RuntimeError {
    RuntimeError { reason, message: message.into() }
}
