//! What can go wrong, in words for people, and the exit code of each.

use std::io;

use longshore_tls::ConnectError;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::exit::Exit;
use crate::job_file;

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A sentence of our own, and the exit code that goes with it.
    #[error("{message}")]
    Plain {
        /// One sentence, or several lines.
        message: String,
        /// The exit code.
        exit: Exit,
    },
    /// The server answered a call with an error, or the way to it broke.
    #[error("{}", .status.message())]
    Call {
        /// Its answer.
        status: Box<Status>,
        /// The file that the request came from, if it did.
        file: Option<File>,
    },
    /// No connection to the server.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A file or the like.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Standard output is closed or full.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
}

/// A file that a request was made of.
#[derive(Debug)]
pub(crate) struct File {
    /// As people know it.
    name: String,
    /// What the paths of the request's fields have before those of the file.
    prefix: &'static str,
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        // A call that found the connection lost carries the reason inside.
        if let Some(error) = ConnectError::in_chain(&status) {
            return Self::Connect(error);
        }
        Self::Call { status: Box::new(status), file: None }
    }
}

impl Error {
    /// A sentence with exit code 1.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self::Plain { message: message.into(), exit: Exit::Error }
    }

    /// A sentence with exit code 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Plain { message: message.into(), exit: Exit::Usage }
    }

    /// A failed system call.
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }

    /// The same error, told in the words of the job file that the request came from.
    pub(crate) fn about_file(self, name: &str) -> Self {
        self.about_file_in("", name)
    }

    /// The same error, told in the words of the file that a part of the request came from; `prefix` is where that part is in the
    /// request, such as `job.`.
    pub(crate) fn about_file_in(self, prefix: &'static str, name: &str) -> Self {
        match self {
            Self::Call { status, .. } => Self::Call { status, file: Some(File { name: name.to_owned(), prefix }) },
            other => other,
        }
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Plain { exit, .. } => *exit,
            Self::Call { status, .. } => Exit::of_status(status.code()),
            Self::Connect(error) => exit_of_connect(error),
            Self::Io { .. } => Exit::Error,
            // Whoever reads has read enough: `longshore job list | head -1` is no error.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
            Self::Output(_) => Exit::Error,
        }
    }

    /// What people read, without a line feed at the end; empty where there is nothing to say.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => String::new(),
            Self::Call { status, file } => call_text(status, file.as_ref()),
            Self::Connect(error) => connect_text(error),
            _ => self.to_string(),
        }
    }
}

/// One line for each violation, under the path that it was written at; otherwise the server's sentence.
fn call_text(status: &Status, file: Option<&File>) -> String {
    let violations = status.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
    if violations.is_empty() {
        return match status.code() {
            Code::Unavailable => format!("the server cannot be reached: {}", sentence(status)),
            Code::DeadlineExceeded => format!("the server did not answer in time: {}", sentence(status)),
            Code::Unauthenticated => format!("the server does not know you: {}", sentence(status)),
            Code::PermissionDenied => format!("not allowed: {}", sentence(status)),
            Code::Unimplemented => {
                format!(
                    "the server does not offer this; is that its port for people, not for agents? {}",
                    sentence(status)
                )
            }
            _ => sentence(status),
        };
    }
    let mut lines = Vec::with_capacity(violations.len() + 1);
    let things =
        if violations.len() == 1 { "1 thing is wrong" } else { &format!("{} things are wrong", violations.len()) };
    lines.push(match file {
        Some(File { name, .. }) => format!("the server refuses {name}: {things}"),
        None => format!("the server refuses the request: {things}"),
    });
    for violation in violations {
        let field = violation.field;
        let path =
            file.map(|file| job_file::yaml_path(field.strip_prefix(file.prefix).unwrap_or(&field))).unwrap_or(field);
        lines.push(match path.as_str() {
            "" => format!("  {}", violation.description),
            path => format!("  {path}: {}", violation.description),
        });
    }
    lines.join("\n")
}

/// The status's message and what caused it: tonic hides the reason of a broken connection in the chain of sources.
fn sentence(status: &Status) -> String {
    let text = if status.message().is_empty() { status.code().description() } else { status.message() };
    match std::error::Error::source(status) {
        Some(source) => format!("{text}: {}", longshore_tls::with_causes(source)),
        None => text.to_owned(),
    }
}

fn exit_of_connect(error: &ConnectError) -> Exit {
    match error {
        ConnectError::Refused { .. } => Exit::Denied,
        ConnectError::Address(_) => Exit::Usage,
        ConnectError::Credentials(_) => Exit::Error,
        ConnectError::Unreachable { .. }
        | ConnectError::TimedOut { .. }
        | ConnectError::NotTrusted { .. }
        | ConnectError::Handshake { .. } => Exit::Unreachable,
    }
}

/// What went wrong, why, and what to look at.
fn connect_text(error: &ConnectError) -> String {
    let mut text = longshore_tls::with_causes(error);
    if let Some(advice) = advice(error) {
        text.push('\n');
        text.push_str(advice);
    }
    text
}

/// What to look at.
pub(crate) fn advice(error: &ConnectError) -> Option<&'static str> {
    match error {
        ConnectError::Unreachable { .. } | ConnectError::TimedOut { .. } => {
            Some("Is longshore-server running there? Another address is given by --server or LONGSHORE_SERVER.")
        }
        ConnectError::NotTrusted { .. } => Some(
            "The root.crt in the credentials directory is not that of this server, or the name in --server is not one of its names.",
        ),
        ConnectError::Refused { .. } => {
            Some("The client.crt in the credentials directory was issued by another server, or has expired.")
        }
        ConnectError::Handshake { .. } => Some("Is this the port for people (7440 by default), not that for agents?"),
        ConnectError::Address(_) | ConnectError::Credentials(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn refusal(prefix: &str) -> Status {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation(format!("{prefix}spec.resources.memory_bytes"), "must be at least 4Mi");
        details.add_bad_request_violation(format!("{prefix}targets"), "no node matches");
        Status::with_error_details(Code::InvalidArgument, "invalid", details)
    }

    #[test]
    fn violations_are_told_one_by_one() {
        assert_eq!(
            Error::from(refusal("")).text(),
            "the server refuses the request: 2 things are wrong\n  spec.resources.memory_bytes: must be at least 4Mi\n  targets: no node matches"
        );
    }

    #[test]
    fn violations_of_a_file_are_told_in_its_words() {
        let told = "the server refuses job.yaml: 2 things are wrong\n  spec.resources.memory: must be at least 4Mi\n  targets: no node matches";
        for prefix in ["", "job."] {
            let error = Error::from(refusal(prefix)).about_file_in(prefix, "job.yaml");
            assert_eq!((error.text().as_str(), error.exit()), (told, Exit::Error));
        }
    }

    #[test]
    fn a_reader_that_leaves_is_no_error() {
        let error = Error::Output(io::ErrorKind::BrokenPipe.into());
        assert_eq!((error.text().as_str(), error.exit()), ("", Exit::Ok));
    }

    #[test]
    fn a_lost_connection_says_why() {
        let lost = ConnectError::Unreachable {
            address: "localhost:7440".to_owned(),
            source: std::sync::Arc::new(io::ErrorKind::ConnectionRefused.into()),
        };
        let error = Error::from(Status::from_error(Box::new(lost)));
        assert!(error.text().starts_with("cannot reach localhost:7440: connection refused\nIs longshore-server"));
        assert_eq!(error.exit(), Exit::Unreachable);
    }

    #[test]
    fn a_refused_certificate_is_a_denial() {
        let refused = ConnectError::Address("nowhere".to_owned());
        assert_eq!(Error::from(refused).exit(), Exit::Usage);
    }
}
