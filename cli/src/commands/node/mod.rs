//! `longshore node`

mod delete;
mod label;
mod list;
mod show;
mod token;

use clap::Subcommand;

use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;

/// Nodes: enrolled machines.
#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// List nodes by name.
    List(list::List),
    /// Show a node.
    Show(show::Show),
    /// Set labels (KEY=VALUE) and remove them (KEY-).
    Label(label::Label),
    /// Delete a node: its open tasks fail, its certificate is refused from then on.
    Delete(delete::Delete),
    /// Make a token with which one machine can enrol.
    Token(token::Token),
}

pub(super) async fn run(node: Node, mut context: Context<'_>) -> Result<Exit, Error> {
    match node {
        Node::List(list) => list::run(list, &mut context).await,
        Node::Show(show) => show::run(show, &mut context).await,
        Node::Label(label) => label::run(label, &mut context).await,
        Node::Delete(delete) => delete::run(delete, &mut context).await,
        Node::Token(token) => token::run(token, &mut context).await,
    }
}
