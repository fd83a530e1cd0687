//! Rules of what a spec says of its containers beyond what to run.

use std::collections::HashMap;
use std::time::Duration;

use super::{Path, Violations, at_most, mount_path, quoted, span, within};
use crate::linux::{CapabilitySet, SIGNALS, ULIMITS};
use crate::spec::{AppSpec, Capabilities, Ulimit, Volume};
use crate::{host_path, limits, quantity};

pub(super) fn options(spec: &AppSpec, path: Path<'_>, bad: &mut Violations) {
    if let Some(text) = &spec.user {
        user(text, path.field("user"), bad);
    }
    if let Some(Err(error)) = spec.working_dir.as_deref().map(host_path::normalise) {
        bad.add(path.field("working_dir"), error.to_string());
    }
    if let Some(signal) = spec.stop_signal.as_deref().filter(|signal| !SIGNALS.contains(signal)) {
        let description = format!("is {}, which is no signal such as SIGTERM, SIGINT or SIGQUIT", quoted(signal));
        bad.add(path.field("stop_signal"), description);
    }
    if let Some(grace) = spec.termination_grace_period {
        span(grace, Duration::ZERO..=limits::MAX_GRACE, path.field("termination_grace_period"), bad);
    }
    capabilities(&spec.capabilities, spec.privileged, path.field("capabilities"), bad);
    if let Some(pids) = spec.pids_limit {
        within(pids, limits::MIN_PIDS..=limits::MAX_PIDS, path.field("pids_limit"), bad);
    }
    ulimits(&spec.ulimits, path.field("ulimits"), bad);
    if let Some(size) = spec.shm_size {
        shm_size(size, &spec.volumes, path.field("shm_size_bytes"), bad);
    }
    logs(spec, path.field("logs"), bad);
}

fn logs(spec: &AppSpec, path: Path<'_>, bad: &mut Violations) {
    let before = bad.0.len();
    if let Some(size) = spec.logs.max_size
        && !(limits::MIN_LOG_SIZE..=limits::MAX_LOG_SIZE).contains(&size)
    {
        let [size, least, most] = [size, limits::MIN_LOG_SIZE, limits::MAX_LOG_SIZE].map(quantity::bytes::format);
        bad.add(path.field("max_size_bytes"), format!("is {size}; it must be from {least} to {most}"));
    }
    if let Some(files) = spec.logs.max_files {
        within(files, 1..=limits::MAX_LOG_FILES, path.field("max_files"), bad);
    }
    if let Some(directory) = &spec.logs.directory
        && let Some(normal) = mount_path(directory, path.field("directory"), bad)
    {
        let is_within = |volume: &Volume| {
            host_path::normalise(&volume.mount_path).is_ok_and(|mount| host_path::is_within(&mount, &normal))
        };
        if let Some(at) = spec.volumes.iter().position(is_within) {
            bad.add(
                path.field("directory"),
                format!("is {normal}, where volumes[{at}] is mounted; leave one of the two out"),
            );
        }
    }
    // Nothing is to be learned from a product of which a factor is wrong.
    let instances = spec.instances.min(limits::MAX_INSTANCES);
    let whole = spec.logs.bytes_of_an_instance().saturating_mul(instances.into());
    if bad.0.len() == before && whole > limits::MAX_APP_LOGS {
        let [whole, most] = [whole, limits::MAX_APP_LOGS].map(quantity::bytes::format);
        bad.add(path, format!("lets {instances} instances keep {whole} on each node; at most {most} are allowed"));
    }
}

/// Checks `user[:group]`, each a name or a number.
fn user(given: &str, path: Path<'_>, bad: &mut Violations) {
    let parts: Vec<&str> = given.splitn(2, ':').collect();
    if !parts.into_iter().all(is_login) {
        let description = format!(
            "is {}; it must be a user such as 1000 or www-data, or with a group such as 1000:1000, each a number or a name \
             of letters, digits, '_', '.' and '-' with at most {} characters",
            quoted(given),
            limits::MAX_LOGIN
        );
        bad.add(path, description);
    }
}

/// Whether a text is a name or number of a user or group.
fn is_login(text: &str) -> bool {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let begins = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    let goes_on = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    // The last number stands for nobody.
    let is_somebody = !is_number || text.parse::<u32>().is_ok_and(|number| number != u32::MAX);
    begins && goes_on && text.len() <= limits::MAX_LOGIN && is_somebody
}

fn capabilities(capabilities: &Capabilities, is_privileged: bool, path: Path<'_>, bad: &mut Violations) {
    if is_privileged && !capabilities.is_ordinary() {
        bad.add(path, "is not for privileged apps, which have every capability; leave one of the two out");
    }
    let mut seen = HashMap::new();
    for (list, names) in [("add", &capabilities.add), ("drop", &capabilities.drop)] {
        let list_path = path.field(list);
        at_most(names.len(), limits::MAX_CAPABILITY_NAMES, list_path, bad);
        for (index, name) in names.iter().enumerate().take(limits::MAX_CAPABILITY_NAMES) {
            let entry = list_path.index(index);
            let Ok(set) = CapabilitySet::named(name) else {
                let description =
                    format!("is {}, which is no capability of Linux such as NET_ADMIN, nor ALL", quoted(name));
                bad.add(entry, description);
                continue;
            };
            if let Some((other, at)) = seen.insert(set.bits(), (list, index)) {
                bad.add(entry, format!("is the same as capabilities.{other}[{at}]"));
            }
        }
    }
}

fn ulimits(ulimits: &[Ulimit], path: Path<'_>, bad: &mut Violations) {
    at_most(ulimits.len(), ULIMITS.len(), path, bad);
    let mut seen = HashMap::new();
    for (index, limit) in ulimits.iter().enumerate().take(ULIMITS.len()) {
        let entry = path.index(index);
        if !ULIMITS.contains(&limit.name.as_str()) {
            let known = ULIMITS.join(", ");
            bad.add(entry.field("name"), format!("is {}; it must be one of {known}", quoted(&limit.name)));
        }
        if let Some(first) = seen.insert(&limit.name, index) {
            bad.add(entry.field("name"), format!("is the same as that of ulimits[{first}]"));
        }
        for (field, value) in [("soft", limit.soft), ("hard", limit.hard)] {
            if value < Ulimit::UNLIMITED {
                bad.add(entry.field(field), format!("is {value}; it must be 0 or more, or -1 for no limit"));
            }
        }
        // As numbers without a sign, no limit is the greatest.
        if limit.soft.cast_unsigned() > limit.hard.cast_unsigned() {
            bad.add(
                entry.field("soft"),
                format!("is {}, which is more than the hard limit {}", limit.soft, limit.hard),
            );
        }
    }
}

fn shm_size(size: u64, volumes: &[Volume], path: Path<'_>, bad: &mut Violations) {
    if size < limits::MIN_MEMORY_DIR {
        let [given, least] = [size, limits::MIN_MEMORY_DIR].map(quantity::bytes::format);
        bad.add(path, format!("is {given}; at least {least} is needed"));
    } else if i64::try_from(size).is_err() {
        bad.add(path, "is more than any machine has");
    }
    let is_shm = |volume: &Volume| host_path::normalise(&volume.mount_path).is_ok_and(|mount| mount == "/dev/shm");
    if let Some(at) = volumes.iter().position(is_shm) {
        bad.add(path, format!("is the size of /dev/shm, where volumes[{at}] is mounted; leave one of the two out"));
    }
}
