//! Exit codes: what a script learns without reading a word.

use std::process::ExitCode;

use longshore_proto::v1::JobState;
use tonic::Code;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Ok = 0,
    /// An error without a code of its own, and a job that was STOPPED while it was waited for.
    Error = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The job ended PARTIALLY_SUCCEEDED.
    Partial = 3,
    /// The job FAILED.
    Failed = 4,
    /// The job TIMED_OUT.
    TimedOut = 5,
    /// There is no such thing.
    NotFound = 6,
    /// The server refuses this identity, or this request from it.
    Denied = 7,
    /// The server cannot be reached, or not in time.
    Unreachable = 8,
    /// Interrupted by Ctrl-C: 128 + SIGINT, as shells do.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
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
            assert_eq!(Exit::of_job(state) as u8, code, "{state:?}");
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
            assert_eq!(Exit::of_status(status) as u8, code, "{status:?}");
        }
    }
}
