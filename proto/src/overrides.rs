//! How what a job says for itself is laid over the spec of a template.
//!
//! It is done on the wire's own messages, since they alone can tell what was left out.

use crate::v1;

/// A spec with what the overrides say otherwise.
///
/// Field by field: what the overrides leave out (unset, empty, 0 or false) stays as it is, and what they have replaces the field
/// as a whole. In three lists each entry has something that tells it from the others, `env` and `ulimits` a name, `volumes` a
/// mount path: there an entry replaces the one with the same, in its place, and others are put behind. Nothing can be taken away.
#[must_use]
pub fn overridden(spec: v1::AppSpec, overrides: v1::AppSpec) -> v1::AppSpec {
    let mut merged = spec;
    // Whole, so that no field is forgotten.
    let v1::AppSpec {
        name,
        image,
        command,
        args,
        env,
        resources,
        restart_policy,
        instances,
        volumes,
        network,
        startup,
        privileged,
        host_pid,
        liveness_probe,
        readiness_probe,
        user,
        working_dir,
        stop_signal,
        termination_grace_period,
        read_only_root_filesystem,
        capabilities,
        pids_limit,
        ulimits,
        shm_size_bytes,
        env_from,
        devices,
        host_aliases,
        dns_config,
        logs,
        accelerators,
        // The job's kind says it.
        image_only: _,
    } = overrides;
    replace(&mut merged.name, name);
    replace(&mut merged.image, image);
    replace(&mut merged.command, command);
    replace(&mut merged.args, args);
    replace(&mut merged.resources, resources);
    replace(&mut merged.restart_policy, restart_policy);
    replace(&mut merged.instances, instances);
    replace(&mut merged.network, network);
    replace(&mut merged.startup, startup);
    replace(&mut merged.privileged, privileged);
    replace(&mut merged.host_pid, host_pid);
    replace(&mut merged.liveness_probe, liveness_probe);
    replace(&mut merged.readiness_probe, readiness_probe);
    replace(&mut merged.user, user);
    replace(&mut merged.working_dir, working_dir);
    replace(&mut merged.stop_signal, stop_signal);
    replace(&mut merged.termination_grace_period, termination_grace_period);
    replace(&mut merged.read_only_root_filesystem, read_only_root_filesystem);
    replace(&mut merged.capabilities, capabilities);
    replace(&mut merged.pids_limit, pids_limit);
    replace(&mut merged.shm_size_bytes, shm_size_bytes);
    replace(&mut merged.env_from, env_from);
    replace(&mut merged.devices, devices);
    replace(&mut merged.host_aliases, host_aliases);
    replace(&mut merged.dns_config, dns_config);
    replace(&mut merged.logs, logs);
    replace(&mut merged.accelerators, accelerators);
    lay_over(&mut merged.env, env, |entry| &entry.name);
    lay_over(&mut merged.volumes, volumes, |entry| &entry.mount_path);
    lay_over(&mut merged.ulimits, ulimits, |entry| &entry.name);
    merged
}

/// Puts a value in the place of another, unless it is one that the wire leaves out.
fn replace<T: Default + PartialEq>(field: &mut T, given: T) {
    if given != T::default() {
        *field = given;
    }
}

/// Lays entries over those that have the same key. Two of one key among the new ones both stay, so that they are told.
fn lay_over<T>(list: &mut Vec<T>, over: Vec<T>, key: impl Fn(&T) -> &String) {
    let known = list.len();
    let mut replaced = vec![false; known];
    for entry in over {
        let same = list.iter().take(known).position(|other| key(other) == key(&entry));
        match same.filter(|at| !replaced[*at]) {
            Some(at) => {
                list[at] = entry;
                replaced[at] = true;
            }
            None => list.push(entry),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, value: &str) -> v1::EnvVar {
        v1::EnvVar { name: name.to_owned(), source: Some(v1::env_var::Source::Value(value.to_owned())) }
    }

    fn volume(mount_path: &str, read_only: bool) -> v1::Volume {
        v1::Volume { mount_path: mount_path.to_owned(), read_only, source: None }
    }

    fn base() -> v1::AppSpec {
        v1::AppSpec {
            name: "till".to_owned(),
            args: vec!["serve".to_owned(), "--fast".to_owned()],
            env: vec![variable("A", "1"), variable("B", "2")],
            resources: Some(v1::Resources { cpu_millis: 500, memory_bytes: 1 << 30, requests: None }),
            instances: 3,
            volumes: vec![volume("/data", false)],
            privileged: true,
            ..Default::default()
        }
    }

    #[test]
    fn what_is_left_out_stays() {
        assert_eq!(overridden(base(), v1::AppSpec::default()), base());
    }

    #[test]
    fn fields_are_replaced_whole_and_named_entries_one_by_one() {
        let overrides = v1::AppSpec {
            args: vec!["serve".to_owned()],
            env: vec![variable("C", "3"), variable("A", "9")],
            resources: Some(v1::Resources { cpu_millis: 100, ..Default::default() }),
            instances: 1,
            volumes: vec![volume("/data", true), volume("/more", false)],
            ..Default::default()
        };
        let expected = v1::AppSpec {
            args: vec!["serve".to_owned()],
            env: vec![variable("A", "9"), variable("B", "2"), variable("C", "3")],
            resources: Some(v1::Resources { cpu_millis: 100, ..Default::default() }),
            instances: 1,
            volumes: vec![volume("/data", true), volume("/more", false)],
            ..base()
        };
        assert_eq!(overridden(base(), overrides), expected);
    }

    #[test]
    fn a_name_that_is_overridden_twice_is_left_for_the_checks_to_find() {
        let overrides = v1::AppSpec { env: vec![variable("A", "3"), variable("A", "4")], ..Default::default() };
        assert_eq!(overridden(base(), overrides).env, [variable("A", "3"), variable("B", "2"), variable("A", "4")]);
    }
}
