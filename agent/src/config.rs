//! What the agent is told: flags, environment, and a file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use longshore_help::{Completion, Manual};
use longshore_model::capacity::Amounts;
use longshore_model::host_path;
use longshore_model::linux::{CapabilitySet, UnknownCapability};
use longshore_model::name::NodeName;
use longshore_model::quantity::{self, duration};
use longshore_settings::{Origins, Program};
use longshore_tls::EnrollmentToken;
use longshore_traces::Collector;

use crate::accelerators::described::Described;
use crate::accelerators::{self, Sources};
use crate::devices::DeviceRule;
use crate::host_path::HostPaths;
use crate::runtime::embedded::EgressChoice;
use crate::runtime::image::{Collection, Mirror};
use crate::runtime::{Allowances, docker};
use crate::session::channels::Openness;
use crate::usage::MIN_USAGE_INTERVAL;

/// Shortest time without a byte after which a pull may be called stalled.
const MIN_STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// The file of settings that is read when no other is named.
const DEFAULT_CONFIG: &str = "/etc/longshore/agent.yaml";

/// Runs containers on an edge node, as its Longshore server says.
#[derive(Debug, Parser)]
#[command(name = "longshore-agent", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How logs are written to standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "LONGSHORE_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// Which logs are written, such as `info` or `longshore_agent=debug,warn`.
    #[arg(long, global = true, value_name = "FILTER", default_value = "info", env = "LONGSHORE_LOG", value_parser = filter)]
    pub log: String,
    /// Collector of OpenTelemetry, as http://HOST:PORT, that is sent spans by OTLP over gRPC; none are without it.
    #[arg(long, global = true, value_name = "URL", env = "LONGSHORE_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<Collector>,
    /// YAML file of settings, each named like its flag [default: /etc/longshore/agent.yaml, if it is there].
    #[arg(long, global = true, value_name = "FILE", env = "LONGSHORE_AGENT_CONFIG")]
    pub config: Option<PathBuf>,
}

/// The agent's settings: the flags of `run`.
#[must_use]
pub fn program() -> Program {
    Program { command: Cli::command(), settings_of: Some("run"), default_file: DEFAULT_CONFIG.into() }
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make this machine a node, with a token from `longshore node token`.
    Enroll(Enroll),
    /// Run the agent until SIGTERM or SIGINT; apps keep running after it.
    Run(Run),
    /// Remove every container, mount, cgroup and image of a data directory. The agent must not run.
    Reset(Reset),
    /// Look at everything that this node needs, with a hint for whatever is amiss. Changes nothing; an agent may run.
    Doctor(Doctor),
    /// Show the settings that `run` would have, and where each comes from; fails if one of them is wrong.
    Config(Run),
    /// Print a script that completes this command's words in a shell.
    Completion(Completion),
    /// Write the manual pages.
    #[command(hide = true)]
    Man(Manual),
}

/// The data directory.
#[derive(Debug, Args)]
pub struct Data {
    /// Directory of the node's identity, ledger and containers.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/longshore/agent", env = "LONGSHORE_AGENT_DATA_DIR")]
    pub data_dir: PathBuf,
}

/// Arguments of `enroll`.
#[derive(Debug, Args)]
pub struct Enroll {
    /// The data directory.
    #[command(flatten)]
    pub data: Data,
    /// Address of the server's port for agents; with --renew, the one that it had is kept where none is given.
    #[arg(long, value_name = "HOST:PORT", env = "LONGSHORE_AGENT_SERVER", required_unless_present = "renew")]
    pub server: Option<String>,
    /// The enrolment token; better in the environment than in the process list.
    #[arg(long, env = "LONGSHORE_TOKEN", hide_env_values = true)]
    pub token: EnrollmentToken,
    /// Name of the node; the machine's host name where it is not given.
    #[arg(long)]
    pub name: Option<NodeName>,
    /// Replace the identity of a directory that is enrolled already.
    #[arg(long)]
    pub force: bool,
    /// How long to wait where a person has to approve of this machine; called again, it goes on waiting.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = longshore_model::quantity::duration::parse)]
    pub wait: Duration,
    /// Enrol again as the node that this directory is, with its apps, after its certificate expired; the token has to be
    /// made for that name: `longshore node token --name NAME`.
    #[arg(long, conflicts_with_all = ["name", "force"])]
    pub renew: bool,
}

/// Arguments of `run`, which are the agent's settings: each can be given by its variable and in the file as well, and
/// wrong values are told together.
#[derive(Debug, Args)]
pub struct Run {
    /// The data directory.
    #[command(flatten)]
    pub data: Data,
    /// What runs the containers.
    #[arg(long, value_enum, default_value_t = RuntimeKind::Embedded, env = "LONGSHORE_RUNTIME")]
    pub runtime: RuntimeKind,
    /// Socket of the engine that runs the containers with `--runtime docker`: Docker's or Podman's.
    #[arg(
        long,
        value_name = "unix://PATH",
        default_value = "unix:///run/docker.sock",
        env = "LONGSHORE_DOCKER_SOCKET"
    )]
    pub docker_socket: docker::Address,
    /// PEM file of an authority that image registries may be certified by, beside the usual ones.
    #[arg(long, value_name = "FILE", env = "LONGSHORE_REGISTRY_CA")]
    pub registry_ca: Option<PathBuf>,
    /// Registry that has the images of another one, or of a repository of it, and is asked before; given more than once, in
    /// this order. It is read without a password.
    #[arg(long, value_name = "REGISTRY=MIRROR", env = "LONGSHORE_REGISTRY_MIRROR", action = ArgAction::Append)]
    pub registry_mirror: Vec<Mirror>,
    /// How long nothing of a layer may come before its pull fails; a slow one does not, as long as anything comes.
    #[arg(long, value_name = "TIME", default_value = "60s", env = "LONGSHORE_PULL_STALL_TIMEOUT", value_parser = stall)]
    pub pull_stall_timeout: Duration,
    /// Bytes a second that pulls of images may take of the line, all together; 0 for no limit.
    #[arg(long, value_name = "BYTES", default_value = "0", env = "LONGSHORE_PULL_BANDWIDTH", value_parser = quantity::bytes::parse)]
    pub pull_bandwidth: u64,
    /// Per cent of the disk in use from which on images that no app needs are removed, those first that were not used for
    /// longest; 101 for never.
    #[arg(long, value_name = "PERCENT", default_value_t = Collection::HIGH, env = "LONGSHORE_IMAGE_GC_HIGH", value_parser = clap::value_parser!(u8).range(1..=101))]
    pub image_gc_high: u8,
    /// Per cent of the disk that may be in use when enough of them are removed.
    #[arg(long, value_name = "PERCENT", default_value_t = Collection::LOW, env = "LONGSHORE_IMAGE_GC_LOW", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_gc_low: u8,
    /// How long ago an image must have been used at least to be removed.
    #[arg(long, value_name = "TIME", default_value = "2m", env = "LONGSHORE_IMAGE_GC_MIN_AGE", value_parser = duration::parse)]
    pub image_gc_min_age: Duration,
    /// How apps with mapped ports reach the outside: not at all, from a private range that is chosen, or from this one.
    #[arg(long, value_name = "off|auto|CIDR", default_value = "auto", env = "LONGSHORE_EGRESS")]
    pub egress: EgressChoice,
    /// Directory that apps may mount, with all that is in it; given once or more often, they may mount nothing else. What
    /// belongs to the system or to the agent is never theirs.
    #[arg(long, value_name = "DIR", env = "LONGSHORE_HOST_PATH_ALLOW", value_parser = mountable, action = ArgAction::Append)]
    pub host_path_allow: Vec<String>,
    /// Let apps be privileged, which is to be root on this machine; refused without it.
    #[arg(long, env = "LONGSHORE_ALLOW_PRIVILEGED")]
    pub allow_privileged: bool,
    /// Let apps see this machine's own processes, and signal them as root may; refused without it.
    #[arg(long, env = "LONGSHORE_ALLOW_HOST_PID")]
    pub allow_host_pid: bool,
    /// Capability of Linux, such as NET_ADMIN, that apps may have beyond the ordinary ones; given once or more often. ALL
    /// stands for all of them, which is close to root on this machine.
    #[arg(long, value_name = "NAME", env = "LONGSHORE_CAPABILITY_ALLOW", value_parser = linux_capability, action = ArgAction::Append)]
    pub capability_allow: Vec<CapabilitySet>,
    /// Device that apps may use, such as /dev/ttyUSB0; a directory such as /dev/dri, with all that is in it; or all that begin
    /// alike, such as /dev/ttyUSB*. Given once or more often; apps have none without it.
    #[arg(long, value_name = "PATH", env = "LONGSHORE_DEVICE_ALLOW", action = ArgAction::Append)]
    pub device_allow: Vec<DeviceRule>,
    /// YAML file that describes accelerators of this machine that are not found by themselves; goes before what is.
    #[arg(long, value_name = "FILE", env = "LONGSHORE_ACCELERATORS")]
    pub accelerators: Option<PathBuf>,
    /// Directory of specs of the Container Device Interface; given once or more often, a later one goes before an earlier
    /// one [default: /etc/cdi and /var/run/cdi].
    #[arg(long, value_name = "DIR", env = "LONGSHORE_CDI_DIR", action = ArgAction::Append)]
    pub cdi_dir: Vec<PathBuf>,
    /// Offer no accelerators but those that --accelerators describes.
    #[arg(long, env = "LONGSHORE_NO_ACCELERATOR_DISCOVERY")]
    pub no_accelerator_discovery: bool,
    /// Let nobody run commands inside this node's apps by `longshore exec`; operators may, without it.
    #[arg(long, env = "LONGSHORE_FORBID_EXEC")]
    pub forbid_exec: bool,
    /// Let nobody connect to ports of this node's apps by `longshore port-forward`; operators may, without it.
    #[arg(long, env = "LONGSHORE_FORBID_PORT_FORWARD")]
    pub forbid_port_forward: bool,
    /// CPU of this machine that is kept for the system: apps that ask for CPU are admitted to the rest.
    #[arg(long, value_name = "CPU", default_value = "100m", env = "LONGSHORE_RESERVE_CPU", value_parser = quantity::cpu::parse)]
    pub reserve_cpu: u32,
    /// Memory of this machine that is kept for the system: apps that ask for memory are admitted to the rest.
    #[arg(long, value_name = "BYTES", default_value = "128Mi", env = "LONGSHORE_RESERVE_MEMORY", value_parser = quantity::bytes::parse)]
    pub reserve_memory: u64,
    /// Bytes a second of apps' output that this node sends to whoever reads it, all readers together; 0 for no limit.
    #[arg(long, value_name = "BYTES", default_value = "256Ki", env = "LONGSHORE_LOG_BANDWIDTH", value_parser = quantity::bytes::parse)]
    pub log_bandwidth: u64,
    /// How often it is measured what this node and its instances use, for the server and for Prometheus; 0s for never.
    #[arg(long, value_name = "TIME", default_value = "30s", env = "LONGSHORE_USAGE_INTERVAL", value_parser = usage_interval)]
    pub usage_interval: Duration,
    /// IP address and port where Prometheus may ask for metrics, by plain HTTP; they are not served without it.
    #[arg(long, value_name = "IP:PORT", env = "LONGSHORE_METRICS_LISTEN", value_parser = address)]
    pub metrics_listen: Option<SocketAddr>,
}

impl Run {
    /// What of this node apps may mount.
    #[must_use]
    pub fn host_paths(&self) -> HostPaths {
        HostPaths::new(&self.data.data_dir, self.host_path_allow.clone())
    }

    /// Everywhere that tells of this machine's accelerators. Reads the file that describes some.
    ///
    /// # Errors
    ///
    /// A sentence about what is wrong with that file.
    pub fn accelerator_sources(&self) -> Result<Sources, String> {
        let described = match &self.accelerators {
            Some(file) => Described::read(file).map_err(|why| format!("{:?}: {why}", file.display().to_string()))?,
            None => Vec::new(),
        };
        if self.no_accelerator_discovery {
            return Ok(Sources { described, ..Sources::default() });
        }
        let cdi = if self.cdi_dir.is_empty() { accelerators::default_cdi_dirs() } else { self.cdi_dir.clone() };
        Ok(Sources { root: Some(PathBuf::from("/")), cdi, described })
    }

    /// What of this machine is kept for the system.
    #[must_use]
    pub fn reserve(&self) -> Amounts {
        Amounts { cpu: self.reserve_cpu.into(), memory: self.reserve_memory }
    }

    /// What apps may ask for.
    #[must_use]
    pub fn allowances(&self) -> Allowances {
        Allowances {
            privileged: self.allow_privileged,
            host_pid: self.allow_host_pid,
            capabilities: self.capability_allow.iter().copied().collect(),
            devices: self.device_allow.clone(),
        }
    }

    /// What people may do inside this node's apps.
    #[must_use]
    pub fn openness(&self) -> Openness {
        Openness { exec: !self.forbid_exec, port_forward: !self.forbid_port_forward }
    }

    /// When images are removed to make room.
    #[must_use]
    pub fn collection(&self) -> Collection {
        Collection { high: self.image_gc_high, low: self.image_gc_low, min_age: self.image_gc_min_age }
    }

    /// What is wrong with values that are right one by one.
    #[must_use]
    pub fn contradictions(&self, origins: &Origins) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(file) = &self.registry_ca
            && let Err(error) = std::fs::File::open(file)
        {
            found.push(format!("{} {:?}: {error}", origins.named("registry-ca"), file.display().to_string()));
        }
        if let Err(why) = self.accelerator_sources() {
            found.push(format!("{} {why}", origins.named("accelerators")));
        }
        if self.image_gc_low > self.image_gc_high {
            let (name, low, high) = (origins.named("image-gc-low"), self.image_gc_low, self.image_gc_high);
            found.push(format!("{name} \"{low}\": more than image-gc-high, which is {high}"));
        }
        found
    }
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 all is fine, 1 something is degraded, 2 something does not work.")]
pub struct Doctor {
    /// The settings that the agent would have.
    #[command(flatten)]
    pub run: Run,
    /// In which form the findings are shown.
    #[arg(short, long, value_enum, default_value_t = FindingsFormat::Table)]
    pub output: FindingsFormat,
}

/// In which form findings are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FindingsFormat {
    /// For people.
    Table,
    /// One JSON document.
    Json,
}

/// Arguments of `reset`.
#[derive(Debug, Args)]
pub struct Reset {
    /// The data directory.
    #[command(flatten)]
    pub data: Data,
}

/// What runs the containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RuntimeKind {
    /// The agent's own, with real containers.
    Embedded,
    /// An engine that is on the node already, by the Docker Engine API.
    Docker,
    /// None: containers are played, by a script in the image's reference. For tests of a server.
    Fake,
}

fn stall(text: &str) -> Result<Duration, String> {
    match duration::parse(text) {
        Ok(time) if time < MIN_STALL_TIMEOUT => Err("shorter than 1s, in which no line is dead".to_owned()),
        Ok(time) => Ok(time),
        Err(error) => Err(error.to_string()),
    }
}

fn usage_interval(text: &str) -> Result<Duration, String> {
    match duration::parse(text) {
        Ok(time) if !time.is_zero() && time < MIN_USAGE_INTERVAL => {
            Err("shorter than 1s, in which measuring would be most of what there is to measure; 0s is for never"
                .to_owned())
        }
        Ok(time) => Ok(time),
        Err(error) => Err(error.to_string()),
    }
}

fn linux_capability(text: &str) -> Result<CapabilitySet, UnknownCapability> {
    CapabilitySet::named(text)
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "not an IP address with a port, such as 127.0.0.1:7443")
}

/// A directory below which something could be mounted: one within a system directory is a mistake, since that is never
/// mounted.
fn mountable(text: &str) -> Result<String, String> {
    let normal = host_path::normalise(text).map_err(|error| error.to_string())?;
    match host_path::system_directories().find(|system| host_path::is_within(&normal, system)) {
        Some(system) => Err(format!("nothing in the system directory {system} is ever mounted")),
        None => Ok(normal),
    }
}

/// Checks a filter, so that a wrong one is found together with the other mistakes.
fn filter(text: &str) -> Result<String, tracing_subscriber::filter::ParseError> {
    tracing_subscriber::EnvFilter::try_new(text).map(|_| text.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn mistakes_of_flags_and_the_file_are_told_together() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("agent.yaml").display().to_string();
        let text = "egress: 10.0.0.0/33\nregistry-ca: /nowhere/ca.pem\nhost-path-allow: [/srv, data, /etc/data]\n\
                    capability-allow: [NET_ADMIN, net_raw]\ndevice-allow: [/dev/dri, /etc]\naccelerators: /nowhere/accelerators.yaml\n";
        std::fs::write(&file, text).unwrap();
        let words = ["longshore-agent", "run", "--config", &file, "--runtime", "docked"].map(Into::into);
        let reading = program().read(words, |_| None).unwrap();
        let cli = Cli::from_arg_matches(&reading.matches.unwrap()).unwrap();
        let Command::Run(arguments) = cli.command else { unreachable!("run was asked for") };
        let mut found = reading.mistakes.0;
        found.extend(arguments.contradictions(&reading.origins));
        let starts = [
            "--runtime \"docked\": not one of ",
            ":1:1: egress \"10.0.0.0/33\": ",
            ":2:1: registry-ca \"/nowhere",
            ":3:1: host-path-allow \"data\": must be an absolute path",
            ":4:1: capability-allow \"net_raw\": not a capability of Linux such as NET_ADMIN, nor ALL",
            ":6:1: accelerators \"/nowhere/accelerators.yaml\": No such file",
            ":5:1: device-allow \"/etc\": not /dev or something below it",
            ":3:1: host-path-allow \"/etc/data\": nothing in the system directory /etc is ever mounted",
        ];
        assert_eq!(found.len(), starts.len(), "{found:?}");
        for start in starts {
            assert!(found.iter().any(|mistake| mistake.trim_start_matches(&file).starts_with(start)), "{found:?}");
        }
    }
}
