//! What differs from node to node in one spec: `${node.name}`, `${node.host_ip}` and `${node.labels.KEY}`.
//!
//! A reference stands in values of environment variables, in words of `command` and `args`, and in host paths, and is
//! filled in on the node, once: what comes out is not looked through again. Only what begins with `${node.` is a
//! reference, so that `${HOME}` and the like reach whoever in the container they are for. Where that very text is meant,
//! `$${node.` stands for it; of a longer row of dollars in front each two stand for one.
//!
//! A text that is not well-formed is refused when a job is created. In a spec that is older than that rule it means itself.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

use crate::failure::FailureReason;
use crate::label;
use crate::name::NodeName;
use crate::node::Labels;
use crate::spec::{AppSpec, EnvSource, NodeField, VolumeSource};
use crate::validate::quoted;

/// Begins every reference.
pub const BEGIN: &str = "${node.";
/// The same, after its dollar and brace.
const PREFIX: &str = "node.";
/// Begins the reference to a label, after [`PREFIX`].
const LABELS: &str = "labels.";

/// A fact of a node that a text can refer to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeValue {
    /// The node's name.
    Name,
    /// The IPv4 address by which it reaches its server.
    HostIp,
    /// The value of its label of this key.
    Label(String),
}

impl fmt::Display for NodeValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("${node.name}"),
            Self::HostIp => f.write_str("${node.host_ip}"),
            Self::Label(key) => write!(f, "${{node.labels.{key}}}"),
        }
    }
}

/// A piece of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// What stands for itself, with doubled dollars taken back.
    Text(String),
    /// What the node fills in.
    Value(NodeValue),
}

/// Why a text is not well-formed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// No brace ends a reference.
    #[error("has {} without a closing brace; for that very text $${{node.", quoted(.0))]
    Unclosed(String),
    /// There is nothing of that name.
    #[error(
        "has {}, which no node has a value for; there are ${{node.name}}, ${{node.host_ip}} and ${{node.labels.KEY}}, and \
         for that very text $${{node.",
        quoted(.0)
    )]
    Unknown(String),
    /// What is asked for is no key of a label.
    #[error("has {}, whose key {error}", quoted(.reference))]
    BadKey {
        /// As written.
        reference: String,
        /// What is wrong with the key.
        error: label::LabelError,
    },
}

/// A node lacks what a spec is made of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// It has no such label.
    #[error("The node has no label {}, which the app's spec is filled in with.", quoted(.0))]
    Label(String),
    /// Its label is empty where a path would become that of the directory above, or of another app.
    #[error("The node's label {} is empty, and a host path of the app's spec is made of it.", quoted(.0))]
    EmptyInPath(String),
    /// Its address was never known.
    #[error("The node's IPv4 address towards its server is not known, and the app's spec is filled in with it.")]
    HostIp,
}

impl Missing {
    /// For machines.
    #[must_use]
    pub fn reason(&self) -> FailureReason {
        FailureReason::NodeValueMissing
    }
}

/// Takes a text apart.
///
/// # Errors
///
/// The first reference that is none.
pub fn parse(text: &str) -> Result<Vec<Piece>, ReferenceError> {
    let (mut pieces, mut literal, mut rest) = (Vec::new(), String::new(), text);
    while let Some(brace) = rest.find("${").map(|dollar| dollar + 1) {
        let (before, from_brace) = rest.split_at(brace);
        let inner = &from_brace[1..];
        if !begins_reference(inner) {
            literal.extend([before, "{"]);
            rest = inner;
            continue;
        }
        let plain = before.trim_end_matches('$');
        let dollars = before.len() - plain.len();
        literal.push_str(plain);
        literal.extend(std::iter::repeat_n('$', dollars / 2));
        if dollars % 2 == 0 {
            literal.push('{');
            rest = inner;
            continue;
        }
        let Some(end) = inner.find('}') else { return Err(ReferenceError::Unclosed(format!("${from_brace}"))) };
        if !literal.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut literal)));
        }
        pieces.push(Piece::Value(value(&inner[..end])?));
        rest = &inner[end + 1..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Text(literal));
    }
    Ok(pieces)
}

/// Whether what follows a brace is meant as a reference, be it written well or not.
fn begins_reference(inner: &str) -> bool {
    let inner = inner.trim_start();
    inner.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

fn value(inner: &str) -> Result<NodeValue, ReferenceError> {
    let reference = || format!("${{{inner}}}");
    match inner.strip_prefix(PREFIX) {
        Some("name") => Ok(NodeValue::Name),
        Some("host_ip") => Ok(NodeValue::HostIp),
        Some(rest) if rest.starts_with(LABELS) => {
            let key = &rest[LABELS.len()..];
            match label::check_key(key) {
                Ok(()) => Ok(NodeValue::Label(key.to_owned())),
                Err(error) => Err(ReferenceError::BadKey { reference: reference(), error }),
            }
        }
        _ => Err(ReferenceError::Unknown(reference())),
    }
}

/// The text that stands for `literal` itself.
#[must_use]
pub fn escape(literal: &str) -> String {
    let (mut text, mut rest) = (String::new(), literal);
    while let Some(brace) = rest.find("${").map(|dollar| dollar + 1) {
        let (before, from_brace) = rest.split_at(brace);
        text.push_str(before);
        if begins_reference(&from_brace[1..]) {
            let dollars = before.len() - before.trim_end_matches('$').len();
            text.extend(std::iter::repeat_n('$', dollars));
        }
        text.push('{');
        rest = &from_brace[1..];
    }
    text + rest
}

/// The pieces of a text; of one that is not well-formed, or has nothing to fill in, nothing.
fn pieces(text: &str) -> Option<Vec<Piece>> {
    let pieces = if text.contains("${") { parse(text).ok()? } else { return None };
    let is_itself = match pieces.as_slice() {
        [] => true,
        [Piece::Text(literal)] => literal == text,
        _ => false,
    };
    (!is_itself).then_some(pieces)
}

/// How many references a text has.
///
/// # Errors
///
/// Those of [`parse`].
pub fn count(text: &str) -> Result<usize, ReferenceError> {
    Ok(parse(text)?.iter().filter(|piece| matches!(piece, Piece::Value(_))).count())
}

/// A host path with something that every node could have in the place of each reference, to be judged without a node.
#[must_use]
pub fn with_stand_ins(path: &str) -> Cow<'_, str> {
    let Some(pieces) = pieces(path) else { return Cow::Borrowed(path) };
    let text = pieces.into_iter().map(|piece| match piece {
        Piece::Text(literal) => literal,
        Piece::Value(NodeValue::Name) => "<name>".to_owned(),
        Piece::Value(NodeValue::HostIp) => "<host_ip>".to_owned(),
        Piece::Value(NodeValue::Label(_)) => "<label>".to_owned(),
    });
    Cow::Owned(text.collect())
}

/// Every text of a spec that can have references, and whether it is a host path.
fn texts(spec: &AppSpec) -> impl Iterator<Item = (&str, bool)> {
    let words = spec.command.iter().chain(&spec.args).map(|word| (word.as_str(), false));
    let env = spec.env.iter().filter_map(|variable| match &variable.source {
        EnvSource::Value(value) => Some((value.as_str(), false)),
        _ => None,
    });
    let paths = spec.volumes.iter().filter_map(|volume| match &volume.source {
        VolumeSource::HostPath(path) => Some((path.path.as_str(), true)),
        _ => None,
    });
    words.chain(env).chain(paths)
}

/// What a spec asks for of its nodes, each with whether a host path is made of it.
fn uses(spec: &AppSpec) -> impl Iterator<Item = (NodeValue, bool)> {
    let sources = spec.env.iter().filter_map(|variable| match &variable.source {
        EnvSource::NodeField(NodeField::Name) => Some((NodeValue::Name, false)),
        EnvSource::NodeField(NodeField::HostIp) => Some((NodeValue::HostIp, false)),
        EnvSource::NodeLabel(key) => Some((NodeValue::Label(key.clone()), false)),
        _ => None,
    });
    let references = texts(spec).flat_map(|(text, in_path)| {
        pieces(text).into_iter().flatten().filter_map(move |piece| match piece {
            Piece::Value(value) => Some((value, in_path)),
            Piece::Text(_) => None,
        })
    });
    sources.chain(references)
}

/// Whether an agent has to know of references and of labels to run a spec as it is meant.
#[must_use]
pub fn is_needed(spec: &AppSpec) -> bool {
    let has_label = spec.env.iter().any(|variable| matches!(variable.source, EnvSource::NodeLabel(_)));
    has_label || texts(spec).any(|(text, _)| pieces(text).is_some())
}

/// Keys of the labels that a spec asks for.
#[must_use]
pub fn label_keys(spec: &AppSpec) -> BTreeSet<String> {
    let key = |(value, _)| match value {
        NodeValue::Label(key) => Some(key),
        NodeValue::Name | NodeValue::HostIp => None,
    };
    uses(spec).filter_map(key).collect()
}

/// Those of a node's labels that a spec asks for: no node is told more.
#[must_use]
pub fn labels_for(spec: &AppSpec, labels: &Labels) -> Labels {
    let has = |key: String| labels.get(&key).map(|value| (key, value.clone()));
    label_keys(spec).into_iter().filter_map(has).collect()
}

/// Checks that a node's labels are all that a spec asks for.
///
/// # Errors
///
/// The first that is missing, or is empty where it must not be.
pub fn check_labels(spec: &AppSpec, labels: &Labels) -> Result<(), Missing> {
    uses(spec).try_for_each(|(value, in_path)| match value {
        NodeValue::Label(key) => label_of(&key, labels, in_path).map(drop),
        NodeValue::Name | NodeValue::HostIp => Ok(()),
    })
}

fn label_of<'l>(key: &str, labels: &'l Labels, in_path: bool) -> Result<&'l str, Missing> {
    match labels.get(key) {
        None => Err(Missing::Label(key.to_owned())),
        Some(empty) if empty.is_empty() && in_path => Err(Missing::EmptyInPath(key.to_owned())),
        Some(value) => Ok(value),
    }
}

/// What is filled in on one node.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The node's name.
    pub name: &'a NodeName,
    /// Its address, while that is known.
    pub host_ip: Option<Ipv4Addr>,
    /// Its labels, as the app's assignment told them.
    pub labels: &'a Labels,
}

impl Facts<'_> {
    /// The value of a fact.
    ///
    /// # Errors
    ///
    /// The node has none.
    pub fn value(&self, of: &NodeValue) -> Result<String, Missing> {
        self.value_in(of, false)
    }

    /// A text with its references filled in.
    ///
    /// # Errors
    ///
    /// The node has no value for one of them.
    pub fn text(&self, text: &str) -> Result<String, Missing> {
        self.fill(text, false)
    }

    /// A spec with the references in its command, its arguments and its host paths filled in. Its environment is left as it
    /// is, for that has sources of other kinds.
    ///
    /// # Errors
    ///
    /// The node has no value for one of them, or an empty one in a path.
    pub fn words_and_paths(&self, spec: &AppSpec) -> Result<AppSpec, Missing> {
        let mut spec = spec.clone();
        for word in spec.command.iter_mut().chain(&mut spec.args) {
            *word = self.fill(word, false)?;
        }
        for volume in &mut spec.volumes {
            if let VolumeSource::HostPath(path) = &mut volume.source {
                path.path = self.fill(&path.path, true)?;
            }
        }
        Ok(spec)
    }

    /// Checks that the node has a value for whatever a spec's environment refers to.
    ///
    /// # Errors
    ///
    /// The first that is missing.
    pub fn check_env(&self, spec: &AppSpec) -> Result<(), Missing> {
        spec.env.iter().try_for_each(|variable| {
            let checked = match &variable.source {
                EnvSource::Value(text) => self.text(text),
                EnvSource::NodeField(NodeField::Name) => self.value(&NodeValue::Name),
                EnvSource::NodeField(NodeField::HostIp) => self.value(&NodeValue::HostIp),
                EnvSource::NodeLabel(key) => self.value(&NodeValue::Label(key.clone())),
                _ => return Ok(()),
            };
            checked.map(drop)
        })
    }

    fn fill(&self, text: &str, in_path: bool) -> Result<String, Missing> {
        let Some(pieces) = pieces(text) else { return Ok(text.to_owned()) };
        let filled = pieces.into_iter().map(|piece| match piece {
            Piece::Text(literal) => Ok(literal),
            Piece::Value(value) => self.value_in(&value, in_path),
        });
        filled.collect()
    }

    fn value_in(&self, of: &NodeValue, in_path: bool) -> Result<String, Missing> {
        match of {
            NodeValue::Name => Ok(self.name.to_string()),
            NodeValue::HostIp => Ok(self.host_ip.ok_or(Missing::HostIp)?.to_string()),
            NodeValue::Label(key) => label_of(key, self.labels, in_path).map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests;
