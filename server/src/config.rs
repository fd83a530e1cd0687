//! What the server is told: flags, environment, and what follows from them.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use longshore_model::quantity;
use tracing_subscriber::EnvFilter;

use crate::identity::pki::{self, NewPki, Pki};

/// Where people call.
const DEFAULT_API_LISTEN: &str = "127.0.0.1:7440";
/// Where agents call.
const DEFAULT_AGENT_LISTEN: &str = "0.0.0.0:7441";
/// Life of nodes' certificates.
pub const DEFAULT_NODE_LIFE: &str = "30d";
/// Below this a renewal could not keep up with a busy server.
const MIN_NODE_LIFE: Duration = Duration::from_secs(10);
/// A machine that is stolen stays a node for no longer than this, unless it is deleted.
const MAX_NODE_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Where everything is kept.
const DEFAULT_DATA_DIR: &str = "/var/lib/longshore/server";

/// The Longshore server: takes jobs over gRPC and fans them out to agents.
#[derive(Debug, Parser)]
#[command(name = "longshore-server", version)]
pub struct CommandLine {
    /// How the log looks; it goes to standard error.
    #[command(flatten)]
    pub log: LogArgs,
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
    #[arg(long = "log", global = true, value_name = "FILTER", default_value = "info", env = "LONGSHORE_LOG")]
    pub log: String,
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
}

impl From<&InitArgs> for NewPki {
    fn from(args: &InitArgs) -> Self {
        Self { names: args.san.clone(), trust_domain: args.trust_domain.clone() }
    }
}

/// Flags of `run`. Addresses are texts here, so that every mistake can be named at once.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Directory for everything that the server keeps.
    #[arg(long, default_value = DEFAULT_DATA_DIR, env = "LONGSHORE_DATA_DIR")]
    pub data_dir: PathBuf,
    /// IP address and port where people call.
    #[arg(long, value_name = "IP:PORT", default_value = DEFAULT_API_LISTEN, env = "LONGSHORE_API_LISTEN")]
    pub api_listen: String,
    /// IP address and port where agents call.
    #[arg(long, value_name = "IP:PORT", default_value = DEFAULT_AGENT_LISTEN, env = "LONGSHORE_AGENT_LISTEN")]
    pub agent_listen: String,
    /// Life of nodes' certificates, 10s to 365d; agents renew them after two thirds of it, so that a node may be away for
    /// a third of it.
    #[arg(long, value_name = "TIME", default_value = DEFAULT_NODE_LIFE, env = "LONGSHORE_NODE_CERTIFICATE_LIFE")]
    pub node_certificate_life: String,
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
    /// Authority, certificate and root.
    pub pki: Pki,
}

/// Every mistake in a configuration.
#[derive(Debug)]
pub struct Mistakes(pub Vec<String>);

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => f.write_str(only),
            all => {
                write!(f, "{} mistakes in the configuration:", all.len())?;
                all.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
            }
        }
    }
}

impl Config {
    /// Reads and checks everything; touches nothing.
    ///
    /// # Errors
    ///
    /// All mistakes at once.
    pub fn check(args: &RunArgs, now: Timestamp) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        let api_listen = address("--api-listen", &args.api_listen, &mut mistakes);
        let agent_listen = address("--agent-listen", &args.agent_listen, &mut mistakes);
        if let Some(both) = api_listen
            && agent_listen == Some(both)
            && both.port() != 0
        {
            mistakes.push(format!("--api-listen and --agent-listen are both {both}; each needs a port of its own"));
        }
        let life = node_life(&args.node_certificate_life, &mut mistakes);
        let pki = pki::load(&args.data_dir, now).map_err(|error| mistakes.push(chain(&error))).ok();
        match (api_listen, agent_listen, life, pki) {
            (Some(api_listen), Some(agent_listen), Some(node_certificate_life), Some(pki)) if mistakes.is_empty() => {
                Ok(Self { data_dir: args.data_dir.clone(), api_listen, agent_listen, node_certificate_life, pki })
            }
            _ => Err(Mistakes(mistakes)),
        }
    }
}

impl LogArgs {
    /// The filter.
    ///
    /// # Errors
    ///
    /// It cannot be parsed.
    pub fn filter(&self) -> Result<EnvFilter, Mistakes> {
        EnvFilter::try_new(&self.log).map_err(|error| Mistakes(vec![format!("--log {:?}: {error}", self.log)]))
    }
}

fn address(flag: &str, text: &str, mistakes: &mut Vec<String>) -> Option<SocketAddr> {
    let parsed = text.parse();
    if parsed.is_err() {
        mistakes.push(format!("{flag} {text:?} is not an IP address with a port, such as {DEFAULT_API_LISTEN}"));
    }
    parsed.ok()
}

fn node_life(text: &str, mistakes: &mut Vec<String>) -> Option<SignedDuration> {
    let flag = "--node-certificate-life";
    match quantity::duration::parse(text) {
        Ok(life) if (MIN_NODE_LIFE..=MAX_NODE_LIFE).contains(&life) => SignedDuration::try_from(life).ok(),
        Ok(_) => {
            mistakes.push(format!("{flag} {text:?} is not between 10s and 365d"));
            None
        }
        Err(error) => {
            mistakes.push(format!("{flag}: {error}"));
            None
        }
    }
}

/// An error with all its sources in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn args(data_dir: &std::path::Path, api: &str, agents: &str) -> RunArgs {
        RunArgs {
            data_dir: data_dir.to_owned(),
            api_listen: api.to_owned(),
            agent_listen: agents.to_owned(),
            node_certificate_life: DEFAULT_NODE_LIFE.to_owned(),
        }
    }

    #[test]
    fn all_mistakes_are_named_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let mistakes = Config::check(&args(dir.path(), "localhost:7440", "7441"), Timestamp::now()).unwrap_err();
        assert_eq!(mistakes.0.len(), 3, "{mistakes}");
        let text = mistakes.to_string();
        for word in ["--api-listen \"localhost:7440\"", "--agent-listen \"7441\"", "longshore-server init"] {
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn the_two_addresses_must_differ_unless_the_system_chooses() {
        let dir = tempfile::tempdir().unwrap();
        pki::init(dir.path(), &NewPki::default(), Timestamp::now()).unwrap();
        let mistakes =
            Config::check(&args(dir.path(), "127.0.0.1:7440", "127.0.0.1:7440"), Timestamp::now()).unwrap_err();
        assert_eq!(mistakes.0.len(), 1, "{mistakes}");
        Config::check(&args(dir.path(), "127.0.0.1:0", "127.0.0.1:0"), Timestamp::now()).unwrap();
        Config::check(&args(dir.path(), "[::1]:7440", "0.0.0.0:7441"), Timestamp::now()).unwrap();
    }

    #[test]
    fn a_nodes_certificate_lives_neither_too_long_nor_too_short() {
        let mut mistakes = Vec::new();
        assert_eq!(node_life("30d", &mut mistakes), Some(SignedDuration::from_hours(720)));
        for bad in ["9s", "366d", "30", "-1d", "999999999999999999999d"] {
            assert_eq!(node_life(bad, &mut mistakes), None, "{bad}");
        }
        assert_eq!(mistakes.len(), 5, "{mistakes:?}");
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        CommandLine::command().debug_assert();
        let parsed = CommandLine::try_parse_from(["longshore-server", "run", "--log", "debug"]).unwrap();
        assert_eq!(parsed.log.log, "debug");
        assert!(parsed.log.filter().is_ok());
        let bad = LogArgs { log_format: LogFormat::Text, log: "longshore=loud".to_owned() };
        assert!(bad.filter().is_err());
    }
}
