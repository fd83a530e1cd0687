//! What the node's own configuration allows apps beyond the ordinary: nothing, unless its administrator says so.

use longshore_model::capability;
use longshore_model::failure::FailureReason;
use longshore_model::spec::AppSpec;

use super::{RuntimeError, failure};

/// What is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowances {
    /// Privileged apps.
    pub privileged: bool,
    /// Apps among the node's own processes.
    pub host_pid: bool,
}

impl Allowances {
    /// Everything.
    pub const ALL: Self = Self { privileged: true, host_pid: true };

    /// Whether a word of [`longshore_model::capability`] can be said, as far as it depends on this.
    #[must_use]
    pub fn allow(self, word: &str) -> bool {
        match word {
            capability::SECURITY_PRIVILEGED => self.privileged,
            capability::SECURITY_HOST_PID => self.host_pid,
            _ => true,
        }
    }

    /// Refuses a spec that needs more, whoever has let it come so far: an app may be older than the configuration.
    pub(super) fn check(self, spec: &AppSpec) -> Result<(), RuntimeError> {
        let allowed: Vec<String> =
            capability::LATER.into_iter().filter(|word| self.allow(word)).map(str::to_owned).collect();
        capability::check_later(spec, &allowed)
            .map_err(|refusal| failure::because(FailureReason::Unsupported, refusal.to_string()))
    }
}
