//! `longshore node token`

mod create;
mod list;
mod revoke;

use clap::Subcommand;

use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;

/// Tokens with which machines can enrol; without a further word, make one.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Token {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    create: create::Create,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a token; the server keeps only its hash: it is shown once.
    Create(create::Create),
    /// List the tokens that can still be used.
    List(list::List),
    /// Revoke a token: nobody enrols with it any more. Nodes that did stay.
    Revoke(revoke::Revoke),
}

pub(super) async fn run(token: Token, context: &mut Context<'_>) -> Result<Exit, Error> {
    match token.command.unwrap_or(Command::Create(token.create)) {
        Command::Create(create) => create::run(create, context).await,
        Command::List(list) => list::run(list, context).await,
        Command::Revoke(revoke) => revoke::run(revoke, context).await,
    }
}
