//! `longshore node label`

use std::collections::BTreeMap;

use longshore_proto::v1::UpdateNodeLabelsRequest;

use super::show::show_node;
use crate::client::call;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;

/// Set labels (KEY=VALUE) and remove them (KEY-).
#[derive(Debug, clap::Args)]
pub(crate) struct Label {
    /// The node's name.
    name: String,

    /// KEY=VALUE sets a label, KEY- removes one.
    #[arg(required = true, value_name = "KEY=VALUE|KEY-", value_parser = parse)]
    changes: Vec<Change>,
}

/// One change of a node's labels.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Set(String, String),
    Remove(String),
}

fn parse(text: &str) -> Result<Change, String> {
    match (text.split_once('='), text.strip_suffix('-')) {
        (Some((key, value)), _) if !key.is_empty() => Ok(Change::Set(key.to_owned(), value.to_owned())),
        (None, Some(key)) if !key.is_empty() => Ok(Change::Remove(key.to_owned())),
        _ => Err("KEY=VALUE or KEY- is expected".to_owned()),
    }
}

/// The changes as a request; the last one of a key counts.
fn request(name: String, changes: Vec<Change>) -> UpdateNodeLabelsRequest {
    let mut set = BTreeMap::new();
    let mut remove = Vec::new();
    for change in changes {
        match change {
            Change::Set(key, value) => {
                remove.retain(|removed| *removed != key);
                set.insert(key, value);
            }
            Change::Remove(key) => {
                set.remove(&key);
                remove.push(key);
            }
        }
    }
    UpdateNodeLabelsRequest { name, set, remove, ..Default::default() }
}

pub(super) async fn run(label: Label, context: &mut Context<'_>) -> Result<Exit, Error> {
    let request = request(label.name, label.changes);
    let answer = context.client.nodes.update_node_labels(call(request)).await?.into_inner();
    show_node(context, answer.node.unwrap_or_default(), &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_set_and_removed() {
        assert_eq!(parse("role=gateway"), Ok(Change::Set("role".to_owned(), "gateway".to_owned())));
        assert_eq!(parse("note=a=b-"), Ok(Change::Set("note".to_owned(), "a=b-".to_owned())));
        assert_eq!(parse("empty="), Ok(Change::Set("empty".to_owned(), String::new())));
        assert_eq!(parse("role-"), Ok(Change::Remove("role".to_owned())));
        for bad in ["role", "=x", "-", ""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_last_change_of_a_key_counts() {
        let changes = ["a=1", "a-", "b-", "b=2"].map(|text| parse(text).unwrap_or(Change::Remove(String::new())));
        let request = request("n".to_owned(), changes.to_vec());
        assert_eq!(request.set, BTreeMap::from([("b".to_owned(), "2".to_owned())]));
        assert_eq!(request.remove, ["a"]);
    }
}
