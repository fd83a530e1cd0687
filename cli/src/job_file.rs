//! The job file: YAML as people write it, and the request that it means.
//!
//! The schema is the model's own ([`JobOrder`]); here it only gains what is for the convenience of writers: a command as
//! one string, split as a shell does.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use longshore_model::kind::JobKind;
use longshore_model::limits;
use longshore_model::name::AppName;
use longshore_model::order::{JobOrder, Work};
use longshore_model::probe::Probe;
use longshore_model::rollout::Rollout;
use longshore_model::spec::{
    AcceleratorQuota, AppSpec, Capabilities, Device, DnsConfig, EnvFrom, EnvVar, HostAlias, Image, ImageSource, Logs,
    Network, Resources, RestartPolicy, Startup, Ulimit, Volume,
};
use longshore_model::targets::Targets;
use longshore_model::validate::{Path as PathOf, Violation, Violations};
use longshore_proto::{convert, v1};
use serde::Deserialize;
use serde::de::{self, Deserializer, IntoDeserializer, SeqAccess, Visitor};

use crate::error::Error;

/// Bytes of a job file: far more than the largest spec that a server takes, far less than what hurts.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// What a job file says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct JobFile {
    #[serde(default)]
    kind: JobKind,
    app: Option<AppName>,
    /// What the job is made of; `spec` then has what is otherwise.
    template: Option<TemplateText>,
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

/// Which version of a template is meant.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TemplateText {
    name: String,
    // As it is written: 1.10 is no number here.
    version: Option<String>,
    alias: Option<String>,
}

impl From<TemplateText> for v1::TemplateReference {
    fn from(text: TemplateText) -> Self {
        let (version, alias) = (text.version.unwrap_or_default(), text.alias.unwrap_or_default());
        Self { name: text.name, version, alias }
    }
}

/// An [`AppSpec`] whose command and args may be strings, and of which anything may be left out.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SpecText {
    name: Option<String>,
    image: Option<Image>,
    #[serde(default)]
    command: Words,
    #[serde(default)]
    args: Words,
    #[serde(default)]
    env: Vec<EnvVar>,
    #[serde(default)]
    env_from: Vec<EnvFrom>,
    resources: Option<Resources>,
    #[serde(default)]
    accelerators: Vec<AcceleratorQuota>,
    restart_policy: Option<RestartPolicy>,
    instances: Option<u32>,
    #[serde(default)]
    volumes: Vec<Volume>,
    network: Option<Network>,
    startup: Option<Startup>,
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
    dns_config: Option<DnsConfig>,
    #[serde(default)]
    logs: Logs,
}

impl SpecText {
    /// The whole of a spec; `None`, with what is wrong added, where it is not whole.
    pub(crate) fn whole(self, path: PathOf<'_>, bad: &mut Violations) -> Option<AppSpec> {
        if self.name.is_none() {
            bad.add(path.field("name"), "is missing");
        }
        if self.image.is_none() {
            bad.add(path.field("image"), "is missing");
        }
        let is_whole = self.name.is_some() && self.image.is_some();
        is_whole.then(|| self.filled())
    }

    /// What it says otherwise than a template: the wire, unlike the model, can leave out whatever has a default.
    fn overrides(self) -> v1::AppSpec {
        let has_image = self.image.is_some();
        let [resources, restart_policy, instances] =
            [self.resources.is_some(), self.restart_policy.is_some(), self.instances.is_some()];
        let [network, startup, dns_config] =
            [self.network.is_some(), self.startup.is_some(), self.dns_config.is_some()];
        let mut spec = v1::AppSpec::from(&self.filled());
        spec.image = spec.image.filter(|_| has_image);
        spec.resources = spec.resources.filter(|_| resources);
        spec.network = spec.network.filter(|_| network);
        spec.startup = spec.startup.filter(|_| startup);
        spec.dns_config = spec.dns_config.filter(|_| dns_config);
        spec.capabilities = spec.capabilities.filter(|given| *given != v1::Capabilities::default());
        if !restart_policy {
            spec.restart_policy = v1::RestartPolicy::Unspecified.into();
        }
        if !instances {
            spec.instances = 0;
        }
        spec
    }

    /// The spec with stand-ins for a name and an image that were left out, and defaults for all else.
    fn filled(self) -> AppSpec {
        let text = self;
        let nowhere = ImageSource::Reference(String::new());
        AppSpec {
            name: text.name.unwrap_or_default(),
            image: text.image.unwrap_or(Image { source: nowhere, pull_policy: None, credential: None, keep_for: None }),
            command: text.command.0,
            args: text.args.0,
            env: text.env,
            env_from: text.env_from,
            resources: text.resources.unwrap_or_default(),
            accelerators: text.accelerators,
            restart_policy: text.restart_policy.unwrap_or_default(),
            instances: text.instances.unwrap_or(1),
            volumes: text.volumes,
            network: text.network.unwrap_or_default(),
            startup: text.startup.unwrap_or_default(),
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
            dns_config: text.dns_config.unwrap_or_default(),
            logs: text.logs,
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
pub(crate) fn parse(name: &str, text: &str) -> Result<v1::CreateJobRequest, String> {
    let file: JobFile = read(name, text)?;
    let mut bad = Violations::default();
    if file.targets.is_none() && !file.kind.needs_app() {
        bad.add(PathOf::Root.field("targets"), "is missing");
    }
    let (targets, rollout, timeout) = (file.targets.unwrap_or_default(), file.rollout, file.timeout);
    if let Some(template) = file.template {
        wrong(name, &bad)?;
        return Ok(v1::CreateJobRequest {
            kind: v1::JobKind::from(file.kind).into(),
            app_name: file.app.map(String::from).unwrap_or_default(),
            template: Some(template.into()),
            spec: file.spec.map(SpecText::overrides),
            targets: Some(v1::Targets::from(&targets)),
            rollout: Some(rollout.into()),
            timeout: Some(convert::duration(timeout)),
            ..Default::default()
        });
    }
    let spec = match file.spec {
        Some(spec) => match spec.whole(PathOf::Root.field("spec"), &mut bad) {
            Some(spec) => Some(spec),
            None => return Err(wrong(name, &bad).err().unwrap_or_default()),
        },
        None => None,
    };
    let work = Work::of(file.kind, file.app, spec, PathOf::Root, &mut bad);
    wrong(name, &bad)?;
    match work {
        Some(work) => Ok(v1::CreateJobRequest::from(&JobOrder { work, targets, rollout, timeout })),
        None => Err(format!("{name}: is no job")),
    }
}

/// Reads a file of YAML.
///
/// # Errors
///
/// One sentence with the place of the mistake.
pub(crate) fn read<T: de::DeserializeOwned>(name: &str, text: &str) -> Result<T, String> {
    serde_saphyr::from_str(text).map_err(|error| explain(name, &error))
}

/// All that is wrong with a file, as one sentence, if something is.
pub(crate) fn wrong(name: &str, bad: &Violations) -> Result<(), String> {
    if bad.0.is_empty() {
        return Ok(());
    }
    let whole = |violation: &Violation| format!("{}: {}", yaml_path(&violation.field), violation.description);
    Err(format!("{name}: {}", bad.0.iter().map(whole).collect::<Vec<_>>().join("; ")))
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
fn display_name(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

/// The name by which people know a file, and its text; `-` is standard input.
pub(crate) fn load(path: &Path) -> Result<(String, String), Error> {
    let name = display_name(path);
    let cannot = |error| Error::io(format!("cannot read {name}"), error);
    let mut source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).map_err(cannot)?)
    };
    let mut bytes = Vec::new();
    source.by_ref().take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::new(format!("{name} is larger than {} MiB: it is no job file", MAX_FILE >> 20)));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok((name, text)),
        Err(_) => Err(Error::new(format!("{name} is not text in UTF-8"))),
    }
}

/// The place in a job file that a field of the wire was written at: `spec.resources.memory_bytes` is
/// `spec.resources.memory` there.
pub(crate) fn yaml_path(field: &str) -> String {
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
            "max_size_bytes" => "maxSize".to_owned(),
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
