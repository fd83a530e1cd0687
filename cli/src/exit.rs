//! Exit codes: what a script learns without reading a word.

use std::process::ExitCode;

use longshore_proto::v1::JobState;
use tonic::Code;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Ok,
    /// An error without a code of its own, and a job that was STOPPED while it was waited for.
    Error,
    /// The command line is wrong.
    Usage,
    /// The job ended PARTIALLY_SUCCEEDED.
    Partial,
    /// The job FAILED.
    Failed,
    /// The job TIMED_OUT.
    TimedOut,
    /// There is no such thing.
    NotFound,
    /// The server refuses this identity, or this request from it.
    Denied,
    /// The server cannot be reached, or not in time.
    Unreachable,
    /// Interrupted by Ctrl-C: 128 + SIGINT, as shells do.
    Interrupted,
    /// A command inside an app ended with this code.
    Command(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl Exit {
    /// What the program says.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Error => 1,
            Self::Usage => 2,
            Self::Partial => 3,
            Self::Failed => 4,
            Self::TimedOut => 5,
            Self::NotFound => 6,
            Self::Denied => 7,
            Self::Unreachable => 8,
            Self::Interrupted => 130,
            Self::Command(code) => code,
        }
    }

    /// The code for a job that was waited for.
    pub(crate) fn of_job(state: JobState) -> Self {
        match state {
            JobState::Succeeded => Self::Ok,
            JobState::PartiallySucceeded => Self::Partial,
            JobState::Failed => Self::Failed,
            JobState::TimedOut => Self::TimedOut,
            JobState::Unspecified | JobState::Queued | JobState::Running | JobState::Stopping | JobState::Stopped => {
                Self::Error
            }
        }
    }

    /// The code for a call that the server, or the way to it, answered with an error.
    pub(crate) fn of_status(code: Code) -> Self {
        match code {
            Code::NotFound => Self::NotFound,
            Code::PermissionDenied | Code::Unauthenticated => Self::Denied,
            Code::Unavailable | Code::DeadlineExceeded => Self::Unreachable,
            _ => Self::Error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_state_has_its_code() {
        let codes = [
            (JobState::Succeeded, 0),
            (JobState::Stopped, 1),
            (JobState::PartiallySucceeded, 3),
            (JobState::Failed, 4),
            (JobState::TimedOut, 5),
        ];
        for (state, code) in codes {
            assert_eq!(Exit::of_job(state).code(), code, "{state:?}");
        }
    }

    #[test]
    fn statuses_that_scripts_tell_apart_have_their_codes() {
        let codes = [
            (Code::NotFound, 6),
            (Code::PermissionDenied, 7),
            (Code::Unauthenticated, 7),
            (Code::Unavailable, 8),
            (Code::DeadlineExceeded, 8),
            (Code::InvalidArgument, 1),
            (Code::FailedPrecondition, 1),
            (Code::Internal, 1),
        ];
        for (status, code) in codes {
            assert_eq!(Exit::of_status(status).code(), code, "{status:?}");
        }
    }
}
