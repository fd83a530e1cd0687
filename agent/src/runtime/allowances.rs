//! What the node's own configuration allows apps beyond the ordinary: nothing, unless its administrator says so.

use longshore_model::capability;
use longshore_model::failure::FailureReason;
use longshore_model::linux::CapabilitySet;
use longshore_model::spec::AppSpec;

use super::{RuntimeError, failure};
use crate::devices::{self, DeviceNode, DeviceRule};

/// What is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowances {
    /// Privileged apps.
    pub privileged: bool,
    /// Apps among the node's own processes.
    pub host_pid: bool,
    /// Capabilities of Linux beyond the ordinary ones.
    pub capabilities: CapabilitySet,
    /// Devices.
    pub devices: Vec<DeviceRule>,
}

impl Allowances {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self { privileged: true, host_pid: true, capabilities: CapabilitySet::EVERY, devices: vec![DeviceRule::all()] }
    }

    /// Whether a word of [`longshore_model::capability`] can be said, as far as it depends on this.
    #[must_use]
    pub fn allow(&self, word: &str) -> bool {
        match word {
            capability::SECURITY_PRIVILEGED => self.privileged,
            capability::SECURITY_HOST_PID => self.host_pid,
            capability::SECURITY_CAPABILITIES_ADD => !self.capabilities.is_empty(),
            capability::CONTAINER_DEVICES => !self.devices.is_empty(),
            _ => true,
        }
    }

    /// Refuses a spec that needs more, whoever has let it come so far: an app may be older than the configuration.
    ///
    /// # Errors
    ///
    /// UNSUPPORTED, with everything that is missing and the settings that would allow it.
    pub fn check(&self, spec: &AppSpec) -> Result<(), RuntimeError> {
        let allowed: Vec<String> =
            capability::LATER.into_iter().filter(|word| self.allow(word)).map(str::to_owned).collect();
        let refuse = |why: String| Err(failure::because(FailureReason::Unsupported, why));
        if let Err(refusal) = capability::check_later(spec, &allowed) {
            return refuse(refusal.to_string());
        }
        let refused = spec.capabilities.extraordinary().without(self.capabilities);
        if refused.is_empty() {
            return Ok(());
        }
        let settings: Vec<String> = refused.names().map(|name| format!("--capability-allow {name}")).collect();
        refuse(format!(
            "This node does not allow the capabilities {refused}; its agent has to be run with {}.",
            settings.join(" ")
        ))
    }

    /// Finds the devices that a spec asks for, as far as they are allowed. Blocks for a moment.
    ///
    /// # Errors
    ///
    /// UNSUPPORTED for one that is not, DEVICE_UNAVAILABLE for one that is not there.
    pub fn devices(&self, spec: &AppSpec) -> Result<Vec<DeviceNode>, RuntimeError> {
        devices::find(&spec.devices, &self.devices).map_err(|error| failure::because(error.reason(), error.to_string()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use longshore_model::spec::{Capabilities, ImageSource};

    use super::*;

    #[test]
    fn capabilities_are_allowed_by_name() {
        let adding = |names: &[&str]| AppSpec {
            capabilities: Capabilities { add: names.iter().map(|&name| name.to_owned()).collect(), drop: Vec::new() },
            ..AppSpec::new("a", ImageSource::Reference("a:1".to_owned()))
        };
        let allowing = |names: &[&str]| Allowances {
            capabilities: names.iter().map(|name| CapabilitySet::named(name).unwrap()).collect(),
            ..Allowances::default()
        };
        for (allowed, asked) in
            [(&[][..], &["KILL", "CHOWN"][..]), (&["NET_ADMIN"], &["NET_ADMIN"]), (&["ALL"], &["ALL"])]
        {
            allowing(allowed).check(&adding(asked)).unwrap();
        }
        let error = allowing(&[]).check(&adding(&["NET_ADMIN"])).unwrap_err();
        assert_eq!(error.reason, FailureReason::Unsupported);
        assert!(
            error.message.contains("security.capabilities.add; its agent has to be run with --capability-allow"),
            "{error}"
        );
        let error = allowing(&["NET_ADMIN"]).check(&adding(&["NET_ADMIN", "SYS_TIME", "CAP_SYSLOG"])).unwrap_err();
        let expected = "This node does not allow the capabilities SYS_TIME, SYSLOG; its agent has to be run with \
                        --capability-allow SYS_TIME --capability-allow SYSLOG.";
        assert_eq!(error.message, expected);
    }
}
