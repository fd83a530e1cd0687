//! `longshore node`

mod approve;
mod delete;
mod deny;
mod label;
mod list;
mod pending;
mod show;
mod status;
mod token;

use clap::Subcommand;

use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;

/// Nodes: enrolled machines.
#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// List nodes, by name unless told otherwise.
    List(list::List),
    /// Show a node.
    Show(show::Show),
    /// Set labels (KEY=VALUE) and remove them (KEY-).
    Label(label::Label),
    /// Delete a node: its open tasks fail, its certificate is refused from then on.
    Delete(delete::Delete),
    /// Tokens with which machines can enrol; without a further word, make one.
    Token(token::Token),
    /// List the machines that wait for approval.
    Pending(pending::Pending),
    /// Make a machine that waits for approval a node.
    Approve(approve::Approve),
    /// Turn a machine that waits for approval away.
    Deny(deny::Deny),
}

pub(super) async fn run(node: Node, mut context: Context<'_>) -> Result<Exit, Error> {
    match node {
        Node::List(list) => list::run(list, &mut context).await,
        Node::Show(show) => show::run(show, &mut context).await,
        Node::Label(label) => label::run(label, &mut context).await,
        Node::Delete(delete) => delete::run(delete, &mut context).await,
        Node::Token(token) => token::run(token, &mut context).await,
        Node::Pending(pending) => pending::run(pending, &mut context).await,
        Node::Approve(approve) => approve::run(approve, &mut context).await,
        Node::Deny(deny) => deny::run(deny, &mut context).await,
    }
}
