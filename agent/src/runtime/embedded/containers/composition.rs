//! What a container is made of: what its image says, and what the app's spec says instead.

use std::path::{Path, PathBuf};

use longshore_model::limits;
use longshore_model::spec::Network;
use nix::sys::signal::Signal;

use super::Containers;
use crate::runtime::embedded::cgroup::CgroupPath;
use crate::runtime::embedded::launch::{LaunchFile, VERSION};
use crate::runtime::embedded::{failure, files, layout, volumes};
use crate::runtime::{Launch, RuntimeError};

/// What an image says of its containers.
#[derive(Clone, Debug, Default)]
pub(in crate::runtime::embedded) struct Program {
    /// Unpacked layers, bottom first.
    pub(in crate::runtime::embedded) layers: Vec<PathBuf>,
    /// What to execute; at least one word.
    pub(in crate::runtime::embedded) args: Vec<String>,
    /// The image's environment.
    pub(in crate::runtime::embedded) env: Vec<(String, String)>,
    /// `user[:group]` by name or number; empty means root.
    pub(in crate::runtime::embedded) user: String,
    /// Working directory; empty means `/`.
    pub(in crate::runtime::embedded) cwd: String,
    /// Signal that asks the program to end, by name or number; `None` means SIGTERM.
    pub(in crate::runtime::embedded) stop_signal: Option<String>,
}

impl Containers {
    /// What the shim is told, once everything that has to be there for it is.
    pub(super) fn prepare(
        &self,
        launch: &Launch,
        program: Program,
        directory: &Path,
    ) -> Result<LaunchFile, RuntimeError> {
        let instance = &launch.instance;
        let name = layout::container_name(instance, launch.run);
        let host_network = launch.spec.network == Network::Host;
        let attached = &launch.attached;
        if directory.exists() {
            return Err(failure::other(format!("there is a container {name} already")));
        }
        let marker = self.layout.removed_mark(instance.app.as_str());
        files::remove_file(&marker).map_err(|e| failure::io("keeping the output", e))?;
        let hostname = if host_network {
            nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
        } else {
            format!("{}-{}", instance.app, instance.index)
        };
        let mut env = environment(program.env, &launch.env, &hostname);
        env.retain(|(name, _)| launch.secret_env.iter().all(|(secret, _)| secret != name));
        let spec = &launch.spec;
        let rotation = self.settings.rotation.as_said(&spec.logs);
        let mut volumes =
            volumes::prepare(&self.layout, instance, &spec.volumes, &launch.configuration, &self.settings.host_paths)?;
        volumes.extend(volumes::log_directory(&self.layout, instance, &spec.logs, rotation)?);
        volumes.extend(volumes::attached(attached));
        let cwd = spec.working_dir.clone().unwrap_or(program.cwd);
        let stop_signal = spec.stop_signal.as_deref().or(program.stop_signal.as_deref());
        Ok(LaunchFile {
            version: VERSION,
            app: instance.app.clone(),
            index: instance.index,
            revision: launch.revision,
            run: launch.run,
            layers: program.layers,
            args: program.args,
            env,
            user: spec.user.clone().unwrap_or(program.user),
            cwd: if cwd.starts_with('/') { cwd } else { format!("/{cwd}") },
            stop_signal: stop_signal.and_then(parse_signal).unwrap_or(Signal::SIGTERM) as i32,
            hostname,
            host_network,
            waits_for_readiness: spec.readiness_probe.is_some() && !host_network && !launch.ports.is_empty(),
            ports: if host_network { Vec::new() } else { launch.ports.clone() },
            volumes,
            cpu_millis: launch.spec.resources.cpu,
            memory: launch.spec.resources.memory,
            cgroup: CgroupPath::new(&self.settings.node_uid, &name).map_err(|e| failure::other(e.to_string()))?,
            logs: self.layout.logs(instance),
            rotation,
            volumes_root: self.layout.all_volumes(),
            egress: self.egress.clone().filter(|_| !host_network),
            privileged: launch.spec.privileged,
            host_pid: launch.spec.host_pid,
            read_only_root: spec.read_only_root_filesystem,
            capabilities: spec.capabilities.clone(),
            pids_limit: spec.pids_limit,
            ulimits: spec.ulimits.clone(),
            shm_size: spec.shm_size.unwrap_or(limits::DEFAULT_SHM_SIZE),
            devices: volumes::with_attached(self.settings.allowances.devices(spec)?, attached),
            host_aliases: spec.host_aliases.clone(),
            dns: spec.dns_config.clone(),
            has_secret_env: !launch.secret_env.is_empty(),
            runs_commands: true,
        })
    }
}

/// The image's environment with the spec's on top; PATH, HOME and HOSTNAME are there in any case.
fn environment(image: Vec<(String, String)>, spec: &[(String, String)], hostname: &str) -> Vec<(String, String)> {
    let defaults = [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOSTNAME", hostname)];
    let defaults = defaults.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut merged: Vec<(String, String)> = Vec::new();
    for (name, value) in defaults.into_iter().chain(image).chain(spec.iter().cloned()) {
        match merged.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => merged.push((name, value)),
        }
    }
    merged
}

/// Reads `SIGTERM`, `TERM` or `15`.
fn parse_signal(text: &str) -> Option<Signal> {
    if let Ok(number) = text.parse::<i32>() {
        return Signal::try_from(number).ok();
    }
    let name = text.to_ascii_uppercase();
    if name.starts_with("SIG") { name.parse().ok() } else { format!("SIG{name}").parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spec_overrides_the_image_in_place() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let merged = environment(vec![pair("PATH", "/x"), pair("A", "1")], &[pair("A", "2"), pair("B", "")], "h");
        assert_eq!(merged, [pair("PATH", "/x"), pair("HOSTNAME", "h"), pair("A", "2"), pair("B", "")]);
    }

    #[test]
    fn signals_by_name_and_number() {
        for text in ["15", "TERM", "SIGTERM", "sigterm"] {
            assert_eq!(parse_signal(text), Some(Signal::SIGTERM), "{text}");
        }
        assert_eq!(parse_signal("SIGNONE"), None);
    }
}
