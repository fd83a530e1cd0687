//! Limits of a container's processes.
//!
//! Raising a hard limit takes a capability that containers do not have: the shim raises its own, which its children inherit,
//! and the program's are set when everything else is done.

use longshore_model::failure::FailureReason;
use longshore_model::spec::Ulimit;
use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};

use super::super::failure;
use crate::runtime::RuntimeError;

/// Raises the hard limits of this process to those that the program shall have.
pub(super) fn raise(limits: &[Ulimit]) -> Result<(), RuntimeError> {
    for limit in limits {
        let resource = resource(&limit.name)?;
        let fail = |e| failure::io(format!("reading the limit {}", limit.name), e);
        let (soft, hard) = getrlimit(resource).map_err(fail)?;
        if amount(limit.hard) <= hard {
            continue;
        }
        setrlimit(resource, soft, amount(limit.hard)).map_err(|error| match error {
            Errno::EPERM => {
                let (name, wanted) = (&limit.name, described(amount(limit.hard)));
                let message = format!(
                    "the limit {name} cannot be {wanted} here: the agent's own is {}, and it may not raise it",
                    described(hard)
                );
                failure::because(FailureReason::Unsupported, message)
            }
            other => failure::io(format!("raising the limit {}", limit.name), other),
        })?;
    }
    Ok(())
}

/// Sets the limits of this process.
pub(super) fn set(limits: &[Ulimit]) -> Result<(), RuntimeError> {
    limits.iter().try_for_each(|limit| {
        let set = setrlimit(resource(&limit.name)?, amount(limit.soft), amount(limit.hard));
        set.map_err(|e| failure::io(format!("setting the limit {}", limit.name), e))
    })
}

fn amount(limit: i64) -> rlim_t {
    if limit == Ulimit::UNLIMITED { RLIM_INFINITY } else { limit.cast_unsigned() }
}

fn described(amount: rlim_t) -> String {
    if amount == RLIM_INFINITY { "unlimited".to_owned() } else { amount.to_string() }
}

fn resource(name: &str) -> Result<Resource, RuntimeError> {
    Ok(match name {
        "core" => Resource::RLIMIT_CORE,
        "cpu" => Resource::RLIMIT_CPU,
        "data" => Resource::RLIMIT_DATA,
        "fsize" => Resource::RLIMIT_FSIZE,
        "locks" => Resource::RLIMIT_LOCKS,
        "memlock" => Resource::RLIMIT_MEMLOCK,
        "msgqueue" => Resource::RLIMIT_MSGQUEUE,
        "nice" => Resource::RLIMIT_NICE,
        "nofile" => Resource::RLIMIT_NOFILE,
        "nproc" => Resource::RLIMIT_NPROC,
        "rss" => Resource::RLIMIT_RSS,
        "rtprio" => Resource::RLIMIT_RTPRIO,
        "rttime" => Resource::RLIMIT_RTTIME,
        "sigpending" => Resource::RLIMIT_SIGPENDING,
        "stack" => Resource::RLIMIT_STACK,
        other => {
            let message = format!("this agent does not know the limit {other:?}");
            return Err(failure::because(FailureReason::Unsupported, message));
        }
    })
}

#[cfg(test)]
mod tests {
    use longshore_model::linux::ULIMITS;

    use super::*;

    #[test]
    fn every_limit_is_known() {
        assert!(ULIMITS.into_iter().all(|name| resource(name).is_ok()));
        assert!(resource("as").is_err());
        assert_eq!((amount(Ulimit::UNLIMITED), amount(7)), (RLIM_INFINITY, 7));
    }
}
