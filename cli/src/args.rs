//! The command line.

use clap::{Parser, Subcommand};

use crate::commands;
use crate::connection::Connection;
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

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Submit a job and wait for it, showing how it goes on.
    Apply(commands::apply::Apply),
    /// Jobs: one spec, many nodes.
    #[command(subcommand)]
    Job(commands::job::Job),
    /// Nodes: enrolled machines.
    #[command(subcommand)]
    Node(commands::node::Node),
    /// Users: people and programs with client certificates.
    #[command(subcommand)]
    User(commands::user::User),
    /// Apps: what jobs left on nodes.
    #[command(subcommand)]
    App(commands::app::App),
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
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
