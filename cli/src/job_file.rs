//! The job file: YAML as people write it, and the request that it means.
//!
//! The schema is the model's own ([`JobOrder`]); here it only gains what is for the convenience of writers: a command as
//! one string, split as a shell does.

use std::path::Path;
use std::time::Duration;

use longshore_model::kind::JobKind;
use longshore_model::limits;
use longshore_model::name::AppName;
use longshore_model::order::{JobOrder, Work};
use longshore_model::probe::Probe;
use longshore_model::rollout::Rollout;
use longshore_model::spec::{
    AppSpec, Capabilities, Device, DnsConfig, EnvFrom, EnvVar, HostAlias, Image, Network, Resources, RestartPolicy,
    Startup, Ulimit, Volume,
};
use longshore_model::targets::Targets;
use longshore_model::validate::{Path as PathOf, Violation, Violations};
use serde::Deserialize;
use serde::de::{self, Deserializer, IntoDeserializer, SeqAccess, Visitor};

/// Bytes of a job file: far more than the largest spec that a server takes, far less than what hurts.
pub(crate) const MAX_FILE: u64 = 4 * 1024 * 1024;

/// What a job file says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct JobFile {
    #[serde(default)]
    kind: JobKind,
    app: Option<AppName>,
    spec: Option<SpecText>,
    targets: Option<Targets>,
    #[serde(default)]
    rollout: Rollout,
    #[serde(default = "default_timeout", with = "longshore_model::quantity::duration")]
    timeout: Duration,
}

fn default_timeout() -> Duration {
    limits::DEFAULT_TIMEOUT
}

/// An [`AppSpec`] whose command and args may be strings.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SpecText {
    name: String,
    image: Image,
    #[serde(default)]
    command: Words,
    #[serde(default)]
    args: Words,
    #[serde(default)]
    env: Vec<EnvVar>,
    #[serde(default)]
    env_from: Vec<EnvFrom>,
    #[serde(default)]
    resources: Resources,
    #[serde(default)]
    restart_policy: RestartPolicy,
    #[serde(default = "one")]
    instances: u32,
    #[serde(default)]
    volumes: Vec<Volume>,
    #[serde(default)]
    network: Network,
    #[serde(default)]
    startup: Startup,
    #[serde(default)]
    liveness_probe: Option<Probe>,
    #[serde(default)]
    readiness_probe: Option<Probe>,
    #[serde(default)]
    privileged: bool,
    #[serde(default, rename = "hostPID")]
    host_pid: bool,
    #[serde(default, with = "longshore_model::quantity::optional_text")]
    user: Option<String>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    #[serde(default, with = "longshore_model::quantity::optional_duration")]
    termination_grace_period: Option<Duration>,
    #[serde(default)]
    read_only_root_filesystem: bool,
    #[serde(default)]
    capabilities: Capabilities,
    pids_limit: Option<u32>,
    #[serde(default)]
    ulimits: Vec<Ulimit>,
    #[serde(default, with = "longshore_model::quantity::bytes")]
    shm_size: Option<u64>,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    host_aliases: Vec<HostAlias>,
    #[serde(default)]
    dns_config: DnsConfig,
}

fn one() -> u32 {
    1
}

impl From<SpecText> for AppSpec {
    fn from(text: SpecText) -> Self {
        Self {
            name: text.name,
            image: text.image,
            command: text.command.0,
            args: text.args.0,
            env: text.env,
            env_from: text.env_from,
            resources: text.resources,
            restart_policy: text.restart_policy,
            instances: text.instances,
            volumes: text.volumes,
            network: text.network,
            startup: text.startup,
            liveness_probe: text.liveness_probe,
            readiness_probe: text.readiness_probe,
            privileged: text.privileged,
            host_pid: text.host_pid,
            user: text.user,
            working_dir: text.working_dir,
            stop_signal: text.stop_signal,
            termination_grace_period: text.termination_grace_period,
            read_only_root_filesystem: text.read_only_root_filesystem,
            capabilities: text.capabilities,
            pids_limit: text.pids_limit,
            ulimits: text.ulimits,
            shm_size: text.shm_size,
            devices: text.devices,
            host_aliases: text.host_aliases,
            dns_config: text.dns_config,
        }
    }
}

/// Words of a command line: a list, or one string that is split as a shell does, with its quotes but without its
/// variables and patterns.
#[derive(Debug, Default)]
struct Words(Vec<String>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordsVisitor;

        impl<'de> Visitor<'de> for WordsVisitor {
            type Value = Words;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a command line as one string, or a list of words")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Words, E> {
                match shlex::split(text) {
                    Some(words) => Ok(Words(words)),
                    None => Err(E::custom("the command line ends inside quotes or with a backslash")),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Words, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = seq.next_element()? {
                    words.push(word);
                }
                Ok(Words(words))
            }
        }

        deserializer.deserialize_any(WordsVisitor)
    }
}

/// Reads a job file's text; `name` is what the file is called in messages.
///
/// # Errors
///
/// One sentence that begins with `name:line:column`, or with `name` alone where a part is missing or misplaced.
pub(crate) fn parse(name: &str, text: &str) -> Result<JobOrder, String> {
    let file: JobFile = serde_saphyr::from_str(text).map_err(|error| explain(name, &error))?;
    let mut bad = Violations::default();
    if file.targets.is_none() && !file.kind.needs_app() {
        bad.add(PathOf::Root.field("targets"), "is missing");
    }
    let work = Work::of(file.kind, file.app, file.spec.map(AppSpec::from), PathOf::Root, &mut bad);
    let whole = |violation: &Violation| format!("{}: {}", yaml_path(&violation.field), violation.description);
    match work {
        Some(work) if bad.0.is_empty() => {
            let targets = file.targets.unwrap_or_default();
            Ok(JobOrder { work, targets, rollout: file.rollout, timeout: file.timeout })
        }
        _ => Err(format!("{name}: {}", bad.0.iter().map(whole).collect::<Vec<_>>().join("; "))),
    }
}

fn explain(name: &str, error: &serde_saphyr::Error) -> String {
    let text = longshore_settings::yaml::sentence(error);
    match error.location() {
        Some(place) => format!("{name}:{}:{}: {text}", place.line(), place.column()),
        None => format!("{name}: {text}"),
    }
}

/// A time on the command line, in the same form as in the file: `90s`, `1m30s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let text: de::value::StrDeserializer<'_, de::value::Error> = text.into_deserializer();
    longshore_model::quantity::duration::deserialize(text).map_err(|error| error.to_string())
}

/// What a file is called in messages.
pub(crate) fn display_name(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

/// The place in a job file that a field of the wire was written at: `spec.resources.memory_bytes` is
/// `spec.resources.memory` there. In a request that has a job within it, such as a plan's, that is `job.spec…`.
pub(crate) fn yaml_path(field: &str) -> String {
    let field = field.strip_prefix("job.").unwrap_or(field);
    let path = field.replace("network.port_mapping.ports", "network.ports").replace("network.host", "network");
    let parts = path.split('.').map(|part| {
        let (name, index) = part.split_at(part.find('[').unwrap_or(part.len()));
        let name = match name {
            "node_names" => "nodes".to_owned(),
            "app_name" => "app".to_owned(),
            "cpu_millis" => "cpu".to_owned(),
            "memory_bytes" => "memory".to_owned(),
            "size_limit_bytes" => "sizeLimit".to_owned(),
            "shm_size_bytes" => "shmSize".to_owned(),
            other => camel_case(other),
        };
        format!("{name}{index}")
    });
    parts.collect::<Vec<_>>().join(".")
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let mut text = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        text.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        text.push_str(letters.as_str());
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot read its input shall fail")]
mod tests;
