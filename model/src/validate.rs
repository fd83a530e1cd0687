//! What is wrong with a request: every violation at once, each with its field, and what would be right.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::host_path;
use crate::label;
use crate::limits;
use crate::name::{CredentialName, check_label};
use crate::node_value;
use crate::order::{JobOrder, Work};
use crate::quantity;
use crate::rollout::Rollout;
use crate::spec::{AppSpec, EmptyDir, EnvSource, EnvVar, Image, ImageSource, Medium, Resources, Startup, VolumeSource};

mod configurations;
mod devices;
mod names;
mod network;
mod options;
mod probe;
mod violation;

pub use violation::{Path, Violation, Violations, cut, one_line, quoted};

/// Checks all of an order that can be checked without knowing the nodes. Returns advice about it.
///
/// # Errors
///
/// Everything that is wrong.
pub fn job_order(order: &JobOrder) -> Result<Vec<String>, Violations> {
    let mut bad = Violations::default();
    let targets = Path::Root.field("targets");
    work(&order.work, &mut bad);
    match order.work.app() {
        Some(_) => order.targets.check_choice(targets, &mut bad),
        None => order.targets.check(targets, &mut bad),
    }
    pace(order.rollout, order.timeout, Path::Root, &mut bad);
    bad.or(order.work.spec().map(|spec| advice(spec)).unwrap_or_default())
}

/// Checks what a job shall do, without where: its spec, in the field `spec` of a message.
pub fn work(work: &Work, bad: &mut Violations) {
    let path = Path::Root.field("spec");
    match work {
        Work::Pull(spec) => image_only(spec, path, bad),
        Work::Deploy(spec) | Work::Update { spec, .. } => app_spec(spec, path, bad),
        Work::Remove(_) => {}
    }
    if let Work::Update { app, spec } = work
        && spec.name != app.prefix()
    {
        let (name, right) = (quoted(&spec.name), app.prefix());
        bad.add(path.field("name"), format!("is {name}; the name of the app {app} stays {right:?}"));
    }
}

/// Checks that a spec says nothing but its name and its image.
fn image_only(spec: &AppSpec, path: Path<'_>, bad: &mut Violations) {
    let alone = AppSpec { image: spec.image.clone(), ..AppSpec::new(&spec.name, spec.image.source.clone()) };
    app_spec(&alone, path, bad);
    if *spec != (AppSpec { instances: 0, ..alone }) {
        bad.add(path, "is for the image alone in a PULL job: leave out everything but `name` and `image`");
    }
}

/// Checks how a job is paced and what time it has: `rollout` and `timeout` of the message at `path`.
pub fn pace(pacing: Rollout, timeout: Duration, path: Path<'_>, bad: &mut Violations) {
    rollout(pacing, path.field("rollout"), bad);
    span(timeout, limits::MIN_TIMEOUT..=limits::MAX_TIMEOUT, path.field("timeout"), bad);
}

/// Checks a spec, without what depends on a node.
pub fn app_spec(spec: &AppSpec, path: Path<'_>, bad: &mut Violations) {
    if let Err(error) = check_label(&spec.name, limits::MAX_APP_PREFIX) {
        bad.add(path.field("name"), error.to_string());
    }
    image(&spec.image, path.field("image"), bad);
    words(spec, path, bad);
    env(&spec.env, path.field("env"), bad);
    configurations::env_from(&spec.env_from, path.field("env_from"), bad);
    configurations::configurations(spec, path, bad);
    resources(spec.resources, path.field("resources"), bad);
    within(spec.instances, 1..=limits::MAX_INSTANCES, path.field("instances"), bad);
    volumes(spec, path.field("volumes"), bad);
    network::network(spec, path.field("network"), bad);
    startup(spec.startup, path.field("startup"), bad);
    options::options(spec, path, bad);
    devices::devices(spec, path, bad);
    devices::accelerators(&spec.accelerators, path.field("accelerators"), bad);
    names::host_aliases(&spec.host_aliases, path.field("host_aliases"), bad);
    names::dns_config(&spec.dns_config, path.field("dns_config"), bad);
    probe::probes(spec, path, bad);
}

/// Checks how long an enrolment token shall be good for.
///
/// # Errors
///
/// It is nothing, or more than is allowed.
pub fn token_ttl(ttl: Duration) -> Result<(), Violations> {
    let mut bad = Violations::default();
    span(ttl, Duration::from_secs(1)..=limits::MAX_TOKEN_TTL, Path::Root.field("ttl"), &mut bad);
    bad.or(())
}

/// Checks how long the certificates of a user shall live.
///
/// # Errors
///
/// It is nothing, or more than is allowed.
pub fn user_ttl(ttl: Duration) -> Result<(), Violations> {
    let mut bad = Violations::default();
    span(ttl, Duration::from_secs(1)..=limits::DEFAULT_USER_TTL, Path::Root.field("ttl"), &mut bad);
    bad.or(())
}

/// What a person should know about a spec that is valid.
#[must_use]
pub fn advice(spec: &AppSpec) -> Vec<String> {
    let mut advice = Vec::new();
    if let ImageSource::Reference(reference) = &spec.image.source
        && crate::spec::floats(reference)
    {
        let image = quoted(reference);
        advice.push(format!(
            "The image {image} may mean something else on each node and at each retry; give it a version tag or a digest."
        ));
    }
    if spec.privileged {
        advice.push("A privileged app is root on its nodes, and so is whoever gets into it.".to_owned());
    }
    advice
}

fn rollout(rollout: Rollout, path: Path<'_>, bad: &mut Violations) {
    let (value, least, most) = (rollout.absent_after, limits::MIN_ABSENT_AFTER, limits::MAX_TIMEOUT);
    if !value.is_zero() && !(least..=most).contains(&value) {
        let [value, least, most] = [value, least, most].map(quantity::duration::format);
        bad.add(path.field("absent_after"), format!("is {value}; it must be 0s, for never, or from {least} to {most}"));
    }
}

fn within(value: u32, range: RangeInclusive<u32>, path: Path<'_>, bad: &mut Violations) {
    if !range.contains(&value) {
        bad.add(path, format!("is {value}; it must be from {} to {}", range.start(), range.end()));
    }
}

fn span(value: Duration, range: RangeInclusive<Duration>, path: Path<'_>, bad: &mut Violations) {
    if !range.contains(&value) {
        let [value, least, most] = [value, *range.start(), *range.end()].map(quantity::duration::format);
        bad.add(path, format!("is {value}; it must be from {least} to {most}"));
    }
}

fn at_most(count: usize, limit: usize, path: Path<'_>, bad: &mut Violations) {
    if count > limit {
        bad.add(path, format!("has {count} entries; at most {limit} are allowed"));
    }
}

fn image(image: &Image, path: Path<'_>, bad: &mut Violations) {
    if let Some(keep_for) = image.keep_for {
        span(keep_for, Duration::ZERO..=limits::MAX_KEEP_FOR, path.field("keep_for"), bad);
    }
    match &image.source {
        ImageSource::Reference(reference) => {
            if let Err(error) = reference.parse::<oci_spec::distribution::Reference>() {
                let description = format!(
                    "{} is not an image reference such as registry.example.com/shop/till:1.4.2: {error}",
                    quoted(reference)
                );
                bad.add(path.field("reference"), description);
            }
            if let Some(Err(error)) = image.credential.as_deref().map(CredentialName::parse) {
                bad.add(path.field("credential"), error.to_string());
            }
        }
        ImageSource::Archive(file) => {
            match host_path::normalise(file) {
                Err(error) => bad.add(path.field("archive"), error.to_string()),
                Ok(normal) if normal == "/" => bad.add(path.field("archive"), "must be a file"),
                Ok(_) => {}
            }
            if image.pull_policy.is_some() {
                bad.add(
                    path.field("pull_policy"),
                    "is for references; an archive is on the node already, leave it out",
                );
            }
            if image.credential.is_some() {
                bad.add(path.field("credential"), "is for references; an archive needs none, leave it out");
            }
        }
    }
}

fn words(spec: &AppSpec, path: Path<'_>, bad: &mut Violations) {
    if spec.command.first().is_some_and(String::is_empty) {
        bad.add(path.field("command").index(0), "must not be empty: it is what is executed");
    }
    let lists = [("command", &spec.command), ("args", &spec.args)];
    for (field, list) in lists {
        at_most(list.len(), limits::MAX_ARGS, path.field(field), bad);
        for (index, word) in list.iter().enumerate() {
            text(word, limits::MAX_ARG, path.field(field).index(index), bad);
            references(word, path.field(field).index(index), bad);
        }
    }
}

/// Checks what a text refers to of its nodes.
fn references(text: &str, path: Path<'_>, bad: &mut Violations) {
    match node_value::count(text) {
        Err(error) => bad.add(path, error.to_string()),
        Ok(count) if count > limits::MAX_REFERENCES => {
            bad.add(path, format!("has {count} references; at most {} are allowed", limits::MAX_REFERENCES));
        }
        Ok(_) => {}
    }
}

/// Checks that a text is without references to its nodes, where none are filled in.
fn no_references(text: &str, path: Path<'_>, bad: &mut Violations) {
    // Whatever is wrong with one counts as well: it is meant as one.
    if node_value::count(text) != Ok(0) || text.contains(node_value::BEGIN) {
        bad.add(
            path,
            "refers to its node, which only values of env, words of command and args, and host paths of volumes may do",
        );
    }
}

/// Checks what is handed to the kernel as a string.
fn text(text: &str, limit: usize, path: Path<'_>, bad: &mut Violations) {
    if text.len() > limit {
        bad.add(path, format!("is {} bytes long; at most {limit} are allowed", text.len()));
    }
    if text.contains('\0') {
        bad.add(path, "must not have a NUL character");
    }
}

fn env(vars: &[EnvVar], path: Path<'_>, bad: &mut Violations) {
    at_most(vars.len(), limits::MAX_ENV, path, bad);
    let mut seen = HashMap::new();
    for (index, var) in vars.iter().enumerate() {
        let entry = path.index(index);
        env_name(&var.name, entry.field("name"), bad);
        if let Some(first) = seen.insert(&var.name, index) {
            bad.add(entry.field("name"), format!("is the same as that of env[{first}]"));
        }
        match &var.source {
            EnvSource::Value(value) => {
                text(value, limits::MAX_ENV_VALUE, entry.field("value"), bad);
                references(value, entry.field("value"), bad);
            }
            EnvSource::NodeLabel(key) => {
                if let Err(error) = label::check_key(key) {
                    bad.add(entry.field("node_label"), error.to_string());
                }
            }
            EnvSource::NodeField(_) | EnvSource::Key(_) => {}
        }
    }
}

/// Checks the name of an environment variable.
pub fn env_name(name: &str, path: Path<'_>, bad: &mut Violations) {
    let begins = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let goes_on = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if !begins || !goes_on {
        let description =
            format!("{} must begin with a letter or '_' and go on with letters, digits, '_', '.' or '-'", quoted(name));
        bad.add(path, description);
    } else if name.len() > limits::MAX_ENV_NAME {
        bad.add(path, format!("is {} characters long; at most {} are allowed", name.len(), limits::MAX_ENV_NAME));
    }
}

fn resources(resources: Resources, path: Path<'_>, bad: &mut Violations) {
    if let Some(cpu) = resources.cpu.filter(|cpu| *cpu < limits::MIN_CPU) {
        let [cpu, least] = [cpu, limits::MIN_CPU].map(quantity::cpu::format);
        bad.add(path.field("cpu_millis"), format!("is {cpu}; at least {least} is needed, or nothing for no limit"));
    }
    let memory = path.field("memory_bytes");
    match resources.memory {
        Some(bytes) if bytes < limits::MIN_MEMORY => {
            let [given, least] = [bytes, limits::MIN_MEMORY].map(quantity::bytes::format);
            bad.add(memory, format!("is {given}; at least {least} is needed, or nothing for no limit"));
        }
        Some(bytes) if i64::try_from(bytes).is_err() => bad.add(memory, "is more than any machine has"),
        _ => {}
    }
    requests(resources, path.field("requests"), bad);
}

/// An instance that asks for more than it may use keeps others out for nothing.
fn requests(resources: Resources, path: Path<'_>, bad: &mut Violations) {
    let requests = resources.requests;
    if let (Some(asked), Some(limit)) = (requests.cpu, resources.cpu)
        && asked > limit
    {
        let [asked, limit] = [asked, limit].map(quantity::cpu::format);
        bad.add(path.field("cpu_millis"), format!("is {asked}, which is more than the limit {limit}"));
    }
    match (requests.memory, resources.memory) {
        (Some(asked), Some(limit)) if asked > limit => {
            let [asked, limit] = [asked, limit].map(quantity::bytes::format);
            bad.add(path.field("memory_bytes"), format!("is {asked}, which is more than the limit {limit}"));
        }
        (Some(asked), _) if i64::try_from(asked).is_err() => {
            bad.add(path.field("memory_bytes"), "is more than any machine has");
        }
        _ => {}
    }
}

fn volumes(spec: &AppSpec, path: Path<'_>, bad: &mut Violations) {
    at_most(spec.volumes.len(), limits::MAX_VOLUMES, path, bad);
    let mut seen = HashMap::new();
    for (index, volume) in spec.volumes.iter().enumerate() {
        let entry = path.index(index);
        if let Some(mount) = mount_path(&volume.mount_path, entry.field("mount_path"), bad)
            && let Some(first) = seen.insert(mount, index)
        {
            bad.add(entry.field("mount_path"), format!("is the same as that of volumes[{first}]"));
        }
        match &volume.source {
            VolumeSource::HostPath(host) => node_path(&host.path, entry.field("host_path").field("path"), bad),
            VolumeSource::EmptyDir(dir) => empty_dir(*dir, entry.field("empty_dir").field("size_limit_bytes"), bad),
            VolumeSource::Projection(taken) => {
                configurations::projection(taken, entry.field(taken.kind.field()), bad);
            }
        }
    }
}

/// What the runtime itself puts into a container.
const RUNTIME_MOUNTS: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

/// Checks a path inside the container; returns its normal form where it has one.
fn mount_path(given: &str, path: Path<'_>, bad: &mut Violations) -> Option<String> {
    no_references(given, path, bad);
    let normal = match host_path::normalise(given) {
        Ok(normal) => normal,
        Err(error) => {
            bad.add(path, error.to_string());
            return None;
        }
    };
    let is_kernels = ["/proc", "/sys", "/dev"].iter().any(|system| host_path::is_within(&normal, system));
    if normal == "/" {
        bad.add(path, "must not be the container's root; name a directory in it");
    } else if is_kernels && normal != "/dev/shm" {
        bad.add(path, format!("is {normal}; nothing can be mounted in /proc, /sys and /dev, except on /dev/shm"));
    } else if RUNTIME_MOUNTS.contains(&normal.as_str()) {
        bad.add(path, format!("is {normal}, which the runtime provides"));
    }
    Some(normal)
}

fn node_path(given: &str, path: Path<'_>, bad: &mut Violations) {
    references(given, path, bad);
    match host_path::normalise(&node_value::with_stand_ins(given)) {
        Err(error) => bad.add(path, error.to_string()),
        Ok(normal) => {
            if let Err(ruled_out) = host_path::judge(&normal) {
                bad.add(path, format!("is {normal}, {ruled_out}; use one such as /srv/data or /opt/data"));
            }
        }
    }
}

fn empty_dir(dir: EmptyDir, path: Path<'_>, bad: &mut Violations) {
    match (dir.medium, dir.size_limit) {
        (Medium::Disk, Some(_)) => bad.add(path, "is enforced in memory only; leave it out for a directory on disk"),
        (Medium::Memory, None) => bad.add(path, "is needed for a directory in memory, such as 64Mi"),
        (Medium::Memory, Some(bytes)) if bytes < limits::MIN_MEMORY_DIR => {
            let [given, least] = [bytes, limits::MIN_MEMORY_DIR].map(quantity::bytes::format);
            bad.add(path, format!("is {given}; at least {least} is needed"));
        }
        (Medium::Memory, Some(bytes)) if i64::try_from(bytes).is_err() => bad.add(path, "is more than any machine has"),
        _ => {}
    }
}

fn startup(startup: Startup, path: Path<'_>, bad: &mut Violations) {
    span(startup.settle, Duration::ZERO..=limits::MAX_SETTLE, path.field("settle"), bad);
    within(startup.max_starts, 1..=limits::MAX_MAX_STARTS, path.field("max_starts"), bad);
}

#[cfg(test)]
mod tests;
