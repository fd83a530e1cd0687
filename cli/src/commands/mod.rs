//! One file for each command.

pub(crate) mod app;
pub(crate) mod apply;
pub(crate) mod audit;
mod changes;
pub(crate) mod config;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod exec;
mod help;
pub(crate) mod job;
pub(crate) mod node;
pub(crate) mod plan;
pub(crate) mod port_forward;
pub(crate) mod pull;
pub(crate) mod registry;
pub(crate) mod remove;
pub(crate) mod secret;
mod submit;
pub(crate) mod template;
pub(crate) mod update;
pub(crate) mod user;
mod values;
mod version;

use crate::args::{Args, Command};
use crate::client::Client;
use crate::connection::Connection;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;

/// What a command works with.
pub(crate) struct Context<'a> {
    /// The server.
    pub(crate) client: Client,
    /// How it was reached, for advice on what to run next.
    pub(crate) connection: &'a Connection,
    /// Where everything is printed.
    pub(crate) output: &'a mut Output,
}

/// Runs the command that the arguments name.
pub(crate) async fn run(args: Args, output: &mut Output) -> Result<Exit, Error> {
    let connection = &args.connection;
    match args.command {
        Command::Version => version::run(output),
        Command::Doctor(_) => doctor::run(connection, output).await,
        Command::Completion(completion) => help::completion(&completion, output),
        Command::Man(manual) => help::manual(&manual),
        Command::Demo(demo) => demo::run(demo, output).await,
        Command::Apply(apply) => apply::run(apply, connection, output).await,
        Command::Plan(plan) => plan::run(plan, connection, output).await,
        Command::Update(update) => update::run(*update, connection, output).await,
        Command::Pull(pull) => pull::run(pull, connection, output).await,
        Command::Remove(remove) => remove::run(remove, connection, output).await,
        Command::Job(job) => job::run(job, context(connection, output).await?).await,
        Command::Node(node) => node::run(node, context(connection, output).await?).await,
        Command::Registry(registry) => registry::run(registry, context(connection, output).await?).await,
        Command::Config(config) => config::run(config, context(connection, output).await?).await,
        Command::Secret(secret) => secret::run(secret, context(connection, output).await?).await,
        Command::Template(template) => template::run(template, context(connection, output).await?).await,
        Command::User(user) => user::run(user, context(connection, output).await?).await,
        Command::Audit(audit) => audit::run(audit, context(connection, output).await?).await,
        Command::Exec(exec) => exec::run(exec, &mut context(connection, output).await?).await,
        Command::PortForward(forward) => port_forward::run(forward, &mut context(connection, output).await?).await,
        Command::App(app) => app::run(app, context(connection, output).await?).await,
    }
}

async fn context<'a>(connection: &'a Connection, output: &'a mut Output) -> Result<Context<'a>, Error> {
    Ok(Context { client: Client::connect(connection).await?, connection, output })
}
