//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use longshore_settings::Program;

use crate::commands;
use crate::connection::{self, Connection};
use crate::output::Format;

/// Deploys containers to fleets of edge machines in batches.
#[derive(Debug, Parser)]
#[command(name = "longshore", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 ok, 1 error, 2 usage, 3 partially succeeded, 4 failed, 5 timed out, \
                        6 not found, 7 denied, 8 unreachable, 130 interrupted.")]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) connection: Connection,

    /// Form of results.
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORM")]
    pub(crate) output: Format,

    /// YAML file of settings: server, credentials, output [default: ~/.config/longshore/config.yaml, if it is there].
    #[arg(long, global = true, value_name = "FILE", env = "LONGSHORE_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    /// Reads the command line, the variables and the file of settings.
    ///
    /// # Errors
    ///
    /// What clap says of a command line that is none, or all mistakes in the settings at once.
    pub(crate) fn read(
        line: impl IntoIterator<Item = OsString>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, clap::Error> {
        let default_file = connection::directory().join("config.yaml");
        let reading = Program { command: Self::command(), settings_of: None, default_file }.read(line, variable)?;
        match reading.matches {
            Some(matches) if reading.mistakes.0.is_empty() => Self::from_arg_matches(&matches),
            _ => Err(Self::command().error(ErrorKind::InvalidValue, reading.mistakes)),
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Submit a job and wait for it, showing how it goes on.
    Apply(commands::apply::Apply),
    /// Show what a job would do on each node and what stands in its way, without doing it.
    Plan(commands::plan::Plan),
    /// Change an app that is deployed, by a job, and wait for it.
    Update(Box<commands::update::Update>),
    /// Fetch an image to nodes by a job, so that later jobs find it there, and wait for it.
    Pull(commands::pull::Pull),
    /// Remove an app from its nodes by a job, and wait for it.
    Remove(commands::remove::Remove),
    /// Jobs: each does one thing on many nodes.
    #[command(subcommand)]
    Job(commands::job::Job),
    /// Nodes: enrolled machines.
    #[command(subcommand)]
    Node(commands::node::Node),
    /// Users: people and programs with client certificates.
    #[command(subcommand)]
    User(commands::user::User),
    /// Registry credentials: what images of private registries are read with.
    #[command(subcommand)]
    Registry(commands::registry::Registry),
    /// The audit log: who did what when.
    #[command(subcommand)]
    Audit(commands::audit::Audit),
    /// Config maps: named sets of texts that apps get as environment or as files.
    #[command(subcommand)]
    Config(commands::config::Config),
    /// Secrets: named sets of values that nobody sees, and that apps get as environment or as files.
    #[command(subcommand)]
    Secret(commands::secret::Secret),
    /// Templates: named and versioned specs, for jobs to be made of.
    #[command(subcommand)]
    Template(commands::template::Template),
    /// Apps: what jobs left on nodes.
    #[command(subcommand)]
    App(commands::app::App),
    // No words here for those that have longer ones themselves: these would take their place.
    Exec(commands::exec::Exec),
    PortForward(commands::port_forward::PortForward),
    /// Check credentials, the way to the server, the server and its nodes.
    Doctor(commands::doctor::Doctor),
    /// Start a server and three agents on this machine and deploy to them; needs root.
    Demo(commands::demo::Demo),
    /// Print a script that completes this command's words in a shell.
    Completion(longshore_help::Completion),
    /// Write the manual pages.
    #[command(hide = true)]
    Man(longshore_help::Manual),
    /// Show the version.
    Version,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot read its input shall fail")]
mod tests {
    use super::*;

    fn read(file: &str, words: &[&str], variables: &[(&str, &str)]) -> Result<Args, clap::Error> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        std::fs::write(&path, file).unwrap();
        let line = ["longshore", "--config", path.to_str().unwrap()];
        let line = line.iter().chain(words).map(|&word| OsString::from(word));
        let found = |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).into());
        Args::read(line, found)
    }

    #[test]
    fn flags_come_before_variables_before_the_file() {
        let file = "server: file:1\ncredentials: /file\noutput: json\n";
        let args =
            read(file, &["node", "list", "--server", "flag:1"], &[("LONGSHORE_CREDENTIALS", "/variable")]).unwrap();
        assert_eq!(args.connection.server, "flag:1");
        assert_eq!(args.connection.credentials(), PathBuf::from("/variable"));
        assert_eq!(args.output, Format::Json);
        assert_eq!(read("", &["version"], &[]).unwrap().connection.server, "localhost:7440");
    }

    #[test]
    fn every_mistake_is_told_as_wrong_usage() {
        let error = read("servr: a\noutput: xml\n", &["node", "list"], &[]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(":1:1: there is no setting \"servr\"") && text.contains(":2:1: output \"xml\""),
            "{text}"
        );
        assert!(error.use_stderr());
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
