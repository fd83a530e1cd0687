//! Templates: named and versioned specs, and which of their variants a job is made of.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::name::{NodeName, TemplateName};
use crate::validate::{Path, Violations, quoted};

/// What is known of one version of a template, for one architecture or for all, without its spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// Which it is.
    pub key: TemplateKey,
    /// What it is, for people.
    pub description: String,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// The aliases that stand for its version.
    pub aliases: Vec<TemplateName>,
    /// Who made it.
    pub creator: String,
    /// When it was made.
    pub create_time: Timestamp,
}

impl Template {
    /// Differs from that of another that had this key before: a version never changes.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("{:x}", self.create_time.as_microsecond())
    }
}

/// What tells versions of templates apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TemplateKey {
    /// The template.
    pub name: TemplateName,
    /// The version.
    pub version: String,
    /// CPU architecture in OCI's words; empty for all.
    pub architecture: String,
}

impl TemplateKey {
    /// Reads the three parts of a message at `path`, and adds all that is wrong.
    pub fn read(
        name: &str,
        version: String,
        architecture: String,
        path: Path<'_>,
        bad: &mut Violations,
    ) -> Option<Self> {
        let name = TemplateName::parse(name).map_err(|error| bad.add(path.field("name"), error.to_string())).ok();
        let before = bad.0.len();
        check_version(&version, path.field("version"), bad);
        if !architecture.is_empty() {
            check_architecture(&architecture, path.field("architecture"), bad);
        }
        let name = name.filter(|_| bad.0.len() == before)?;
        Some(Self { name, version, architecture })
    }
}

impl fmt::Display for TemplateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)?;
        if self.architecture.is_empty() { Ok(()) } else { write!(f, " for {}", self.architecture) }
    }
}

/// Checks the text of a version.
pub fn check_version(version: &str, path: Path<'_>, bad: &mut Violations) {
    let is_sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+');
    if version.is_empty() {
        bad.add(path, "must not be empty; give one such as 1.4.2");
    } else if version.len() > limits::MAX_TEMPLATE_VERSION {
        let limit = limits::MAX_TEMPLATE_VERSION;
        bad.add(path, format!("is {} characters long; at most {limit} are allowed", version.len()));
    } else if !version.chars().all(is_sound) || !version.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        let given = quoted(version);
        bad.add(
            path,
            format!("is {given}; letters, digits, '.', '-', '_' and '+' are allowed, a letter or digit first"),
        );
    }
}

fn check_architecture(architecture: &str, path: Path<'_>, bad: &mut Violations) {
    let is_sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if architecture.len() > limits::MAX_ARCHITECTURE || !architecture.chars().all(is_sound) {
        bad.add(path, format!("is {}; give one in OCI's words, such as amd64 or arm64", quoted(architecture)));
    }
}

/// Checks what people are told of a version.
pub fn check_words(description: &str, tags: &[String], path: Path<'_>, bad: &mut Violations) {
    if description.len() > limits::MAX_TEMPLATE_DESCRIPTION {
        let (length, limit) = (description.len(), limits::MAX_TEMPLATE_DESCRIPTION);
        bad.add(path.field("description"), format!("is {length} bytes long; at most {limit} are allowed"));
    }
    let field = path.field("tags");
    if tags.len() > limits::MAX_TEMPLATE_TAGS {
        let limit = limits::MAX_TEMPLATE_TAGS;
        bad.add(field, format!("has {} entries; at most {limit} are allowed", tags.len()));
    }
    for (index, tag) in tags.iter().enumerate().take(limits::MAX_TEMPLATE_TAGS) {
        if let Err(error) = TemplateName::parse(tag) {
            bad.add(field.index(index), error.to_string());
        } else if tags.iter().take(index).any(|other| other == tag) {
            bad.add(field.index(index), format!("is {} a second time", quoted(tag)));
        }
    }
}

/// What a job was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateUse {
    /// The version, as it was then.
    pub key: TemplateKey,
    /// The alias by which it was asked for, if it was.
    pub alias: Option<TemplateName>,
    /// What the job says otherwise: an encoded `AppSpec` of the wire, which alone can tell what is left out.
    pub overrides: Vec<u8>,
}

/// No variant of a version is for these nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoVariant {
    /// Of the version, in order.
    offered: Vec<String>,
    /// The nodes that none is for, by architecture.
    odd: BTreeMap<String, Vec<NodeName>>,
}

/// Nodes of one architecture that a refusal names before it only counts the rest.
const NAMED_NODES: usize = 10;

impl fmt::Display for NoVariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = self.odd.iter().map(|(architecture, nodes)| {
            let named: Vec<&str> = nodes.iter().take(NAMED_NODES).map(NodeName::as_str).collect();
            let more = nodes.len().saturating_sub(NAMED_NODES);
            let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{architecture}: {}{rest}", named.join(", "))
        });
        let lists: Vec<String> = lists.collect();
        if lists.is_empty() {
            return write!(f, "is for {}, and no node has yet said of which it is", self.offered.join(", "));
        }
        write!(f, "is for {} and not for {}", self.offered.join(", "), lists.join("; "))
    }
}

impl std::error::Error for NoVariant {}

/// Chooses the variant of a version for the nodes of a job, of which `nodes` has those whose architecture is known: the one
/// that is made for the architecture that all of them share, else the one that is made for all.
///
/// # Errors
///
/// There is none; each node that is left out is named.
pub fn choose<'a>(
    variants: &'a [Template],
    nodes: &BTreeMap<String, Vec<NodeName>>,
) -> Result<&'a Template, NoVariant> {
    let of = |architecture: &str| variants.iter().find(|variant| variant.key.architecture == architecture);
    let own = match nodes.len() {
        1 => nodes.keys().next().and_then(|architecture| of(architecture)),
        // Where no node was ever seen, whatever there is only one of is meant.
        0 if variants.len() == 1 => variants.first(),
        _ => None,
    };
    own.or_else(|| of("")).ok_or_else(|| {
        let offered: Vec<String> = variants.iter().map(|variant| variant.key.architecture.clone()).collect();
        // With several architectures no variant for one of them is for all nodes.
        let is_odd = |architecture: &String| nodes.len() > 1 || !offered.contains(architecture);
        let odd = nodes.iter().filter(|(architecture, _)| is_odd(architecture));
        let odd = odd.map(|(architecture, nodes)| (architecture.clone(), nodes.clone())).collect();
        NoVariant { offered, odd }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn variant(architecture: &str) -> Template {
        let mut bad = Violations::default();
        let key = TemplateKey::read("till", "1.4".to_owned(), architecture.to_owned(), Path::Root, &mut bad).unwrap();
        Template {
            key,
            description: String::new(),
            tags: Vec::new(),
            aliases: Vec::new(),
            creator: String::new(),
            create_time: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn the_variant_for_the_nodes_goes_before_the_one_for_all() {
        let nodes = |parts: &[(&str, &[&str])]| -> BTreeMap<String, Vec<NodeName>> {
            let names = |names: &[&str]| names.iter().map(|name| NodeName::parse(name).unwrap()).collect();
            parts.iter().map(|(architecture, list)| ((*architecture).to_owned(), names(list))).collect()
        };
        let (amd, arm) = (("amd64", ["a"].as_slice()), ("arm64", ["b", "c"].as_slice()));
        let table: [(&[&str], Vec<_>, Result<&str, &str>); 8] = [
            (&["amd64", "arm64"], vec![arm], Ok("arm64")),
            (&["", "arm64"], vec![amd], Ok("")),
            (&["", "arm64"], vec![amd, arm], Ok("")),
            (&["", "arm64"], vec![], Ok("")),
            (&["arm64"], vec![], Ok("arm64")),
            (&["amd64"], vec![arm], Err("is for amd64 and not for arm64: b, c")),
            (&["amd64", "arm64"], vec![amd, arm], Err("is for amd64, arm64 and not for amd64: a; arm64: b, c")),
            (&["amd64", "arm64"], vec![], Err("is for amd64, arm64, and no node has yet said of which it is")),
        ];
        for (offered, targets, expected) in table {
            let variants: Vec<_> = offered.iter().map(|architecture| variant(architecture)).collect();
            let chosen = choose(&variants, &nodes(&targets));
            let chosen = chosen.map(|variant| variant.key.architecture.clone()).map_err(|error| error.to_string());
            assert_eq!(chosen, expected.map(str::to_owned).map_err(str::to_owned), "{offered:?} {targets:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_version_is_all_told() {
        let long = "1".repeat(64);
        for (name, version, architecture, fields) in [
            ("till", "1.4.2-rc.1+b_7", "arm64", vec![]),
            ("Till", "", "ARM", vec!["name", "version", "architecture"]),
            ("till", "-1", "", vec!["version"]),
            ("till", "1/2", "arm/v7", vec!["version", "architecture"]),
            ("till", long.as_str(), "", vec!["version"]),
        ] {
            let mut bad = Violations::default();
            let key = TemplateKey::read(name, version.to_owned(), architecture.to_owned(), Path::Root, &mut bad);
            let found: Vec<&str> = bad.0.iter().map(|violation| violation.field.as_str()).collect();
            assert_eq!((found, key.is_some()), (fields.clone(), fields.is_empty()), "{name} {version}");
        }
        let mut bad = Violations::default();
        let tags = ["a", "a", "B"].map(str::to_owned);
        check_words(&"x".repeat(2000), &tags, Path::Root, &mut bad);
        let found: Vec<String> = bad.0.into_iter().map(|violation| violation.field).collect();
        assert_eq!(found, ["description", "tags[1]", "tags[2]"]);
    }
}
