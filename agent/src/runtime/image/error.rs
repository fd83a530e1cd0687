//! What can go wrong with an image.

use std::io;

use longshore_model::failure::FailureReason;

use crate::runtime::RuntimeError;

/// Why an image is not usable. Every message is a sentence's worth for people, without the cause below it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// Neither the node nor the registry has it.
    #[error("{0}")]
    NotFound(String),
    /// The registry refuses.
    #[error("{0}")]
    AccessDenied(String),
    /// The registry does not answer, or broke off.
    #[error("{0}")]
    Unreachable(String),
    /// The registry has taken the request and sends nothing.
    #[error("{0}")]
    Stalled(String),
    /// It is for another kind of machine.
    #[error("the image is for {image}, and this node is {node}")]
    Architecture {
        /// What the image is for.
        image: String,
        /// What this node is.
        node: String,
    },
    /// It is not an image, or a damaged or dangerous one.
    #[error("{0}")]
    Invalid(String),
    /// The node's disk is full.
    #[error("the disk is full: cannot {action}")]
    DiskFull {
        /// What was being done.
        action: String,
    },
    /// The node failed.
    #[error("cannot {action}")]
    Io {
        /// What was being done.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The caller lost interest.
    #[error("the pull was cancelled")]
    Cancelled,
}

impl ImageError {
    /// An error of the file system of this node while doing `action` ("write the layer").
    pub(crate) fn io(action: impl Into<String>, source: io::Error) -> Self {
        let action = action.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { action },
            _ => Self::Io { action, source },
        }
    }

    /// An error while reading content: the content's own fault, unless the kernel reported it.
    pub(crate) fn content(what: &str, source: io::Error) -> Self {
        if Self::is_cancellation(&source) {
            return Self::Cancelled;
        }
        match source.raw_os_error() {
            Some(_) => Self::io(format!("read {what}"), source),
            None => Self::Invalid(format!("{what} is damaged: {source}")),
        }
    }

    /// Carries a cancellation through code that knows only [`io::Error`].
    pub(crate) fn cancellation() -> io::Error {
        io::Error::other(Self::Cancelled)
    }

    fn is_cancellation(error: &io::Error) -> bool {
        let mut next = error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
        while let Some(inner) = next {
            if let Some(Self::Cancelled) = inner.downcast_ref() {
                return true;
            }
            next = match inner.downcast_ref::<io::Error>() {
                Some(error) => error.get_ref().map(|inner| inner as _),
                None => inner.source(),
            };
        }
        false
    }

    fn reason(&self) -> FailureReason {
        match self {
            Self::NotFound(_) => FailureReason::ImageNotFound,
            Self::AccessDenied(_) => FailureReason::ImageAccessDenied,
            Self::Unreachable(_) => FailureReason::RegistryUnreachable,
            Self::Stalled(_) => FailureReason::PullStalled,
            Self::Architecture { .. } => FailureReason::ArchitectureMismatch,
            Self::Invalid(_) => FailureReason::ImageInvalid,
            Self::DiskFull { .. } => FailureReason::DiskFull,
            Self::Io { .. } | Self::Cancelled => FailureReason::RuntimeError,
        }
    }
}

impl From<ImageError> for RuntimeError {
    fn from(error: ImageError) -> Self {
        let message = match &error {
            // The sentence is all that reaches the operator, who needs the cause with it.
            ImageError::Io { source, .. } => format!("{error}: {source}"),
            _ => error.to_string(),
        };
        Self { reason: error.reason(), message }
    }
}
