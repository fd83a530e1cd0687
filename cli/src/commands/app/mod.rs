//! `longshore app`

mod events;
pub(crate) mod list;
mod logs;
pub(crate) mod remove;
mod show;
mod summary;
mod usage;

use clap::Subcommand;

use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;

/// Apps: what jobs left on nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum App {
    /// List apps, by node and name unless told otherwise.
    List(list::List),
    /// Show an app on one node.
    Show(show::Show),
    /// Show what happened to an app on its nodes.
    Events(events::Events),
    /// Show an app's output.
    Logs(logs::Logs),
    /// Remove an app from one node, or from every node.
    Remove(remove::Remove),
}

pub(super) async fn run(app: App, mut context: Context<'_>) -> Result<Exit, Error> {
    match app {
        App::List(list) => list::run(list, &mut context).await,
        App::Show(show) => show::run(show, &mut context).await,
        App::Events(events) => events::run(events, &mut context).await,
        App::Logs(logs) => logs::run(logs, &mut context).await,
        App::Remove(remove) => remove::run(remove, &mut context).await,
    }
}

/// The node to ask about an app: the one that was named, or the only one that has it.
pub(crate) async fn node_of(context: &mut Context<'_>, app_name: &str, node: Option<String>) -> Result<String, Error> {
    if let Some(node) = node {
        return Ok(node);
    }
    let apps = context.client.list_apps("", app_name).await?;
    only_node(app_name, apps.into_iter().map(|app| app.node_name).collect())
}

fn only_node(app_name: &str, mut nodes: Vec<String>) -> Result<String, Error> {
    const SHOWN: usize = 10;
    match nodes.len() {
        0 => Err(Error::Plain {
            message: format!("no node has an app {app_name:?}; one that is gone needs --node"),
            exit: Exit::NotFound,
        }),
        1 => Ok(nodes.remove(0)),
        count => {
            let more = if count > SHOWN { ", …" } else { "" };
            nodes.truncate(SHOWN);
            Err(Error::usage(format!("{count} nodes have it, choose one by --node: {}{more}", nodes.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_need_not_be_named_when_it_is_the_only_one() {
        assert_eq!(only_node("till", vec!["a".to_owned()]).unwrap_or_default(), "a");
        let none = only_node("till", Vec::new()).map_err(|error| error.exit());
        assert_eq!(none, Err(Exit::NotFound));
        let two = only_node("till", vec!["a".to_owned(), "b".to_owned()]).map_err(|error| error.text());
        assert_eq!(two, Err("2 nodes have it, choose one by --node: a, b".to_owned()));
    }
}
