//! What the server is told: flags, environment, a file, and what follows from them.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use longshore_help::{Completion, Manual};
use longshore_model::limits::DEFAULT_USER_TTL;
use longshore_model::quantity;
use longshore_settings::{Mistakes, Origins, Program};
use longshore_traces::Collector;
use tokio::sync::Notify;
use tracing_subscriber::EnvFilter;

use crate::identity::pki::{self, CertifiedBy, NewPki, Pki};
use crate::web::{Origin, OriginError};

/// Where people call.
const DEFAULT_API_LISTEN: &str = "127.0.0.1:7440";
/// Where agents call.
const DEFAULT_AGENT_LISTEN: &str = "0.0.0.0:7441";
/// Life of nodes' certificates.
const DEFAULT_NODE_LIFE: &str = "30d";
/// Below this a renewal could not keep up with a busy server.
const MIN_NODE_LIFE: Duration = Duration::from_secs(10);
/// A machine that is stolen stays a node for no longer than this, unless it is deleted.
const MAX_NODE_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Time for which final jobs are kept: a quarter, for those who look back.
const DEFAULT_RETENTION: &str = "90d";
/// Time for which the audit log is kept: a year, for whoever has to account for one.
const DEFAULT_AUDIT_RETENTION: &str = "365d";
/// A request about a job may come again within a day, and is then answered with the job.
const MIN_RETENTION: Duration = Duration::from_secs(24 * 3600);
/// A century: for ever.
const MAX_RETENTION: Duration = Duration::from_secs(36_500 * 24 * 3600);
/// Where everything is kept.
const DEFAULT_DATA_DIR: &str = "/var/lib/longshore/server";

/// The file of settings that is read when no other is named.
const DEFAULT_CONFIG: &str = "/etc/longshore/server.yaml";

/// The Longshore server: takes jobs over gRPC and fans them out to agents.
#[derive(Debug, Parser)]
#[command(name = "longshore-server", version)]
pub struct CommandLine {
    /// How the log looks; it goes to standard error.
    #[command(flatten)]
    pub log: LogArgs,
    /// YAML file of settings, each named like its flag [default: /etc/longshore/server.yaml, if it is there].
    #[arg(long, global = true, value_name = "FILE", env = "LONGSHORE_SERVER_CONFIG")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How the log looks.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// Format of the log on standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "LONGSHORE_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// What is logged, such as "info" or "info,longshore_server=debug".
    #[arg(long = "log", global = true, value_name = "FILTER", default_value = "info", env = "LONGSHORE_LOG", value_parser = filter)]
    pub log: String,
    /// Collector of OpenTelemetry, as http://HOST:PORT, that is sent spans by OTLP over gRPC; none are without it.
    #[arg(long, global = true, value_name = "URL", env = "LONGSHORE_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<Collector>,
}

/// Formats of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a certificate authority, the server's certificate and the first admin's.
    Init(InitArgs),
    /// Serve until SIGTERM or SIGINT.
    Run(RunArgs),
    /// Add and revoke admins on the server's own machine, for when nobody is left who can call; no server may run meanwhile.
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Copy the database into a file, also while a server runs.
    Backup(BackupArgs),
    /// Make a data directory out of a backup; no server may run in it.
    Restore(RestoreArgs),
    /// Seal all secrets and registry passwords with a new key, and drop the old one; no server may run meanwhile.
    RotateKey(RotateKeyArgs),
    /// Show the settings that `run` would have, and where each comes from; fails if one of them is wrong.
    Config(RunArgs),
    /// Print a script that completes this command's words in a shell.
    Completion(Completion),
    /// Write the manual pages.
    #[command(hide = true)]
    Man(Manual),
}

/// The server's settings: the flags of `run`.
#[must_use]
pub fn program() -> Program {
    Program { command: CommandLine::command(), settings_of: Some("run"), default_file: DEFAULT_CONFIG.into() }
}

/// Flags of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Directory for everything that the server keeps.
    #[arg(long, default_value = DEFAULT_DATA_DIR, env = "LONGSHORE_DATA_DIR")]
    pub data_dir: PathBuf,
    /// DNS name or IP address by which agents and people reach this server, beside the local ones; may be repeated.
    #[arg(long = "san", value_name = "NAME_OR_IP")]
    pub san: Vec<String>,
    /// Trust domain of every identity; default: longshore- and eight random hexadecimal digits.
    #[arg(long)]
    pub trust_domain: Option<String>,
    /// PEM file of an existing certificate authority that shall certify this one's, with the certificates up to its root, which
    /// agents and people will trust.
    #[arg(long, value_name = "FILE", requires = "ca_key")]
    pub ca_cert: Option<PathBuf>,
    /// PEM file of that authority's private key. It is used once; only where that authority may certify no other one is it kept.
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    pub ca_key: Option<PathBuf>,
    /// Make a key and a certificate request instead, for an authority whose key is not here.
    #[arg(long, conflicts_with_all = ["ca_cert", "install"])]
    pub csr: bool,
    /// PEM file with that authority's answer: the certificate, and those up to the root.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["ca_cert", "san", "trust_domain"])]
    pub install: Option<PathBuf>,
}

/// What to do about admins.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Add an admin, and write their credentials into a directory: root.crt, client.crt and client.key.
    Create(NewAdminArgs),
    /// List all users.
    List(DataDirArgs),
    /// Revoke a user: no certificate of theirs works again.
    Revoke(RevokeArgs),
}

/// Flags of `admin create`.
#[derive(Debug, Args)]
pub struct NewAdminArgs {
    /// Where the server keeps everything.
    #[command(flatten)]
    pub data_dir: DataDirArgs,
    /// Their name: lower-case letters, digits and inner dashes.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Life of their certificates, 1s to 365d.
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = user_life)]
    pub ttl: SignedDuration,
    /// Directory to make for the credentials; it must not exist [default: the name].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Flags of `admin revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// Where the server keeps everything.
    #[command(flatten)]
    pub data_dir: DataDirArgs,
    /// Whom to revoke.
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// The flag that everything that works on a data directory has.
#[derive(Debug, Args)]
pub struct DataDirArgs {
    /// Directory for everything that the server keeps.
    #[arg(long, default_value = DEFAULT_DATA_DIR, env = "LONGSHORE_DATA_DIR")]
    pub data_dir: PathBuf,
}

/// Flags of `rotate-key`.
#[derive(Debug, Args)]
pub struct RotateKeyArgs {
    /// Where the server keeps everything.
    #[command(flatten)]
    pub data_dir: DataDirArgs,
    /// File to make for the old keys, which backups from before need; it must not exist, and only its owner may read it. Without
    /// it they are gone.
    #[arg(long, value_name = "FILE")]
    pub keep_old: Option<PathBuf>,
}

/// Flags of `backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Directory for everything that the server keeps.
    #[arg(long, default_value = DEFAULT_DATA_DIR, env = "LONGSHORE_DATA_DIR")]
    pub data_dir: PathBuf,
    /// File to make; it must not exist, and only its owner may read it.
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Put the certificate authority and the first admin's credentials into it too: whoever reads it can then be anybody.
    #[arg(long)]
    pub with_authority: bool,
}

/// Flags of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Directory for everything that the server keeps.
    #[arg(long, default_value = DEFAULT_DATA_DIR, env = "LONGSHORE_DATA_DIR")]
    pub data_dir: PathBuf,
    /// The backup.
    #[arg(long, value_name = "FILE", required_unless_present = "accept", conflicts_with = "accept")]
    pub from: Option<PathBuf>,
    /// Put it in the place of a database that is there, which is kept under another name.
    #[arg(long, requires = "from")]
    pub force: bool,
    /// Take what was restored as what shall be: from the next start on, nodes remove what it does not know.
    #[arg(long)]
    pub accept: bool,
}

impl From<&InitArgs> for NewPki {
    fn from(args: &InitArgs) -> Self {
        let files = args.ca_cert.clone().zip(args.ca_key.clone());
        let certified_by = files.map(|(certificates, key)| CertifiedBy { certificates, key });
        Self { names: args.san.clone(), trust_domain: args.trust_domain.clone(), certified_by }
    }
}

/// Flags of `run`, which are the server's settings: each can be given by its variable and in the file as well, and wrong
/// values are told together, by the field's own parser and by [`RunArgs::contradictions`].
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Directory for everything that the server keeps.
    #[arg(long, default_value = DEFAULT_DATA_DIR, env = "LONGSHORE_DATA_DIR")]
    pub data_dir: PathBuf,
    /// IP address and port where people call.
    #[arg(long, value_name = "IP:PORT", default_value = DEFAULT_API_LISTEN, env = "LONGSHORE_API_LISTEN", value_parser = address)]
    pub api_listen: SocketAddr,
    /// IP address and port where agents call.
    #[arg(long, value_name = "IP:PORT", default_value = DEFAULT_AGENT_LISTEN, env = "LONGSHORE_AGENT_LISTEN", value_parser = address)]
    pub agent_listen: SocketAddr,
    /// Life of nodes' certificates, 10s to 365d; agents renew them after two thirds of it, so that a node may be away for
    /// a third of it.
    #[arg(long, value_name = "TIME", default_value = DEFAULT_NODE_LIFE, env = "LONGSHORE_NODE_CERTIFICATE_LIFE", value_parser = node_life)]
    pub node_certificate_life: SignedDuration,
    /// Time for which a final job is kept after its end, 1d to 36500d; one of whose app a node still has is kept longer.
    #[arg(long, value_name = "TIME", default_value = DEFAULT_RETENTION, env = "LONGSHORE_JOB_RETENTION", value_parser = retention)]
    pub job_retention: SignedDuration,
    /// Time for which an entry of the audit log is kept, 1d to 36500d; the oldest go earlier when there are a million.
    #[arg(long, value_name = "TIME", default_value = DEFAULT_AUDIT_RETENTION, env = "LONGSHORE_AUDIT_RETENTION", value_parser = retention)]
    pub audit_retention: SignedDuration,
    /// IP address and port where Prometheus may ask for metrics, by plain HTTP; they are not served without it.
    #[arg(long, value_name = "IP:PORT", env = "LONGSHORE_METRICS_LISTEN", value_parser = address)]
    pub metrics_listen: Option<SocketAddr>,
    /// Origin, which is scheme, host and port, of web pages that may call the API from browsers by gRPC-Web; may be
    /// repeated. Without one no page may.
    #[arg(long = "cors-origin", value_name = "ORIGIN", env = "LONGSHORE_CORS_ORIGIN", value_parser = origin)]
    pub cors_origins: Vec<Origin>,
}

impl RunArgs {
    /// What is wrong with values that are right one by one.
    #[must_use]
    pub fn contradictions(&self, origins: &Origins) -> Vec<String> {
        let mut found = Vec::new();
        let (api, agents) = ("api-listen", "agent-listen");
        let both = self.api_listen;
        if both == self.agent_listen && both.port() != 0 && origins.is_good(api) && origins.is_good(agents) {
            let (api, agents) = (origins.named(api), origins.named(agents));
            found.push(format!("{api} and {agents} are both {both}; each needs a port of its own"));
        }
        found
    }
}

/// Everything that a server needs to know before it binds.
#[derive(Debug)]
pub struct Config {
    /// Directory for everything that it keeps.
    pub data_dir: PathBuf,
    /// Where people call.
    pub api_listen: SocketAddr,
    /// Where agents call.
    pub agent_listen: SocketAddr,
    /// Life of nodes' certificates.
    pub node_certificate_life: SignedDuration,
    /// Time for which final jobs are kept.
    pub job_retention: SignedDuration,
    /// Time for which entries of the audit log are kept.
    pub audit_retention: SignedDuration,
    /// Where metrics are served, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Origins of web pages that may call.
    pub cors_origins: Vec<Origin>,
    /// Authority, certificate and root.
    pub pki: Pki,
    /// Makes the server look at once at the files of its certificate.
    pub reload: Arc<Notify>,
}

impl Config {
    /// Reads and checks everything; touches nothing.
    ///
    /// # Errors
    ///
    /// All mistakes at once.
    pub fn check(args: &RunArgs, origins: &Origins, now: Timestamp) -> Result<Self, Mistakes> {
        let mut mistakes = args.contradictions(origins);
        let pki =
            pki::load(&args.data_dir, now).map_err(|error| mistakes.push(longshore_tls::with_causes(&error))).ok();
        match pki {
            Some(pki) if mistakes.is_empty() => Ok(Self {
                data_dir: args.data_dir.clone(),
                api_listen: args.api_listen,
                agent_listen: args.agent_listen,
                node_certificate_life: args.node_certificate_life,
                job_retention: args.job_retention,
                audit_retention: args.audit_retention,
                metrics_listen: args.metrics_listen,
                cors_origins: args.cors_origins.clone(),
                pki,
                reload: Arc::default(),
            }),
            _ => Err(Mistakes(mistakes)),
        }
    }
}

fn filter(text: &str) -> Result<String, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(text).map(|_| text.to_owned())
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("not an IP address with a port, such as {DEFAULT_API_LISTEN}"))
}

fn origin(text: &str) -> Result<Origin, OriginError> {
    text.parse()
}

fn node_life(text: &str) -> Result<SignedDuration, String> {
    between(text, MIN_NODE_LIFE..=MAX_NODE_LIFE, "10s and 365d")
}

fn user_life(text: &str) -> Result<SignedDuration, String> {
    between(text, Duration::from_secs(1)..=DEFAULT_USER_TTL, "1s and 365d")
}

fn retention(text: &str) -> Result<SignedDuration, String> {
    between(text, MIN_RETENTION..=MAX_RETENTION, "1d and 36500d")
}

fn between(text: &str, allowed: RangeInclusive<Duration>, words: &str) -> Result<SignedDuration, String> {
    match quantity::duration::parse(text) {
        Ok(time) if allowed.contains(&time) => SignedDuration::try_from(time).map_err(|error| error.to_string()),
        Ok(_) => Err(format!("not between {words}")),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    fn read(words: &[&str]) -> (RunArgs, Origins, Mistakes) {
        let words = ["longshore-server", "run"].iter().chain(words).map(Into::into);
        let reading = program().read(words, |_| None).unwrap();
        let line = CommandLine::from_arg_matches(&reading.matches.unwrap()).unwrap();
        let Command::Run(args) = line.command else { unreachable!("run was asked for") };
        (args, reading.origins, reading.mistakes)
    }

    #[test]
    fn all_mistakes_are_named_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let words = ["--api-listen", "localhost:7440", "--agent-listen", "7441", "--log", "a=b=c", "--data-dir"];
        let (args, origins, mut mistakes) = read(&[words.as_slice(), &[dir.path().to_str().unwrap()]].concat());
        mistakes.0.extend(Config::check(&args, &origins, Timestamp::now()).unwrap_err().0);
        assert_eq!(mistakes.0.len(), 4, "{mistakes}");
        let text = mistakes.to_string();
        for word in ["--api-listen \"localhost:7440\"", "--agent-listen \"7441\"", "--log \"a=b=c\""] {
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn the_two_addresses_must_differ_unless_the_system_chooses() {
        let found = |api: &str, agents: &str| {
            let (args, origins, _) = read(&["--api-listen", api, "--agent-listen", agents]);
            args.contradictions(&origins)
        };
        assert_eq!(found("127.0.0.1:7440", "127.0.0.1:7440").len(), 1);
        assert_eq!(found("127.0.0.1:0", "127.0.0.1:0").len(), 0);
        assert_eq!(found("[::1]:7440", "0.0.0.0:7441").len(), 0);
        assert_eq!(found("0.0.0.0:7441", "nowhere").len(), 0, "the default that stands in was not asked for");
    }

    #[test]
    fn a_nodes_certificate_lives_neither_too_long_nor_too_short() {
        assert_eq!(node_life("30d"), Ok(SignedDuration::from_hours(720)));
        for bad in ["9s", "366d", "30", "-1d", "999999999999999999999d"] {
            node_life(bad).unwrap_err();
        }
        assert_eq!(retention("36500d").map(|time| time.as_hours()), Ok(876_000));
        retention("23h").unwrap_err();
    }

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }
}
