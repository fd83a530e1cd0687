//! Which nodes a job is for.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::{Deserialize, Serialize};

use crate::limits::MAX_TARGETS;
use crate::name::{AppName, NodeName};
use crate::node::Node;
use crate::selector::Selector;
use crate::validate::{Path, Violations};

/// Which nodes a job is for: names or a selector, never both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Targets {
    /// Exactly these.
    #[serde(default, rename = "nodes", skip_serializing_if = "Vec::is_empty")]
    pub node_names: Vec<String>,
    /// All nodes whose labels match, in the grammar of [`crate::selector`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Says that targets of several CPU architectures are meant.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mixed_architectures: bool,
}

impl Targets {
    /// Checks what can be checked without knowing the nodes.
    pub fn check(&self, path: Path<'_>, bad: &mut Violations) {
        if self.is_all() {
            bad.add(path, "names no node; give node names or a selector");
        }
        self.check_choice(path, bad);
    }

    /// As [`Targets::check`], where saying nothing stands for all that there are.
    pub fn check_choice(&self, path: Path<'_>, bad: &mut Violations) {
        let names = path.field("node_names");
        match &self.selector {
            Some(_) if !self.node_names.is_empty() => {
                bad.add(path, "has both node names and a selector; give one of them");
            }
            Some(selector) => {
                if let Err(error) = Selector::parse(selector) {
                    bad.add(path.field("selector"), error.to_string());
                }
            }
            None => {}
        }
        if self.node_names.len() > MAX_TARGETS {
            let count = self.node_names.len();
            bad.add(names, format!("has {count} names; at most {MAX_TARGETS} are allowed"));
            return;
        }
        let mut seen = HashSet::new();
        for (index, name) in self.node_names.iter().enumerate() {
            if let Err(error) = NodeName::parse(name) {
                bad.add(names.index(index), error.to_string());
            } else if !seen.insert(name) {
                bad.add(names.index(index), format!("names {name} a second time"));
            }
        }
    }

    /// Whether nothing was chosen.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.node_names.is_empty() && self.selector.is_none()
    }

    /// The same targets among the nodes that have an app: all of them where nothing was chosen. A selector stays as it
    /// is, for whoever resolves it to leave out those that match it and do not have the app.
    ///
    /// # Errors
    ///
    /// The names of nodes that do not have the app.
    pub fn among(&self, app: &AppName, having: &BTreeSet<NodeName>) -> Result<Self, Violations> {
        if self.is_all() {
            let node_names = having.iter().map(NodeName::to_string).collect();
            return Ok(Self { node_names, ..self.clone() });
        }
        let is_odd = |name: &&str| NodeName::parse(name).is_ok_and(|name| !having.contains(&name));
        let odd: BTreeSet<&str> = self.node_names.iter().map(String::as_str).filter(is_odd).collect();
        if odd.is_empty() {
            return Ok(self.clone());
        }
        let description = format!("the app {app} is not on {}", enumerate(odd));
        Err(Violations::one("targets.node_names", description))
    }

    /// Resolves the targets against all nodes there are, or at least all those that are named, to a fixed list in the
    /// order of names.
    ///
    /// Unless mixed architectures are meant, the nodes must share one. A node that has never connected has none yet: its
    /// agent will check the image.
    ///
    /// # Errors
    ///
    /// Everything that [`Targets::check`] finds, unknown nodes, no node at all, too many, or mixed architectures.
    pub fn resolve<'a>(&self, nodes: impl IntoIterator<Item = &'a Node>) -> Result<Vec<NodeName>, Violations> {
        let path = Path::Root.field("targets");
        let mut bad = Violations::default();
        self.check(path, &mut bad);
        let mut chosen = self.choose(nodes, path, bad)?;
        chosen.sort_by(|a, b| a.name.cmp(&b.name));
        let mut bad = Violations::default();
        if chosen.len() > MAX_TARGETS {
            bad.add(path, format!("means {} nodes; at most {MAX_TARGETS} are allowed", chosen.len()));
        }
        if !self.mixed_architectures {
            check_architectures(&chosen, path, &mut bad);
        }
        bad.or(chosen.into_iter().map(|node| node.name.clone()).collect())
    }

    fn choose<'a>(
        &self,
        nodes: impl IntoIterator<Item = &'a Node>,
        path: Path<'_>,
        mut bad: Violations,
    ) -> Result<Vec<&'a Node>, Violations> {
        let Some(selector) = &self.selector else {
            let wanted: HashSet<&str> = self.node_names.iter().map(String::as_str).collect();
            let chosen: Vec<&Node> = nodes.into_iter().filter(|node| wanted.contains(node.name.as_str())).collect();
            let known: HashSet<&str> = chosen.iter().map(|node| node.name.as_str()).collect();
            let is_unknown = |name: &&str| !known.contains(name) && NodeName::parse(name).is_ok();
            let unknown: BTreeSet<&str> = wanted.into_iter().filter(is_unknown).collect();
            if !unknown.is_empty() {
                let what = if unknown.len() == 1 { "there is no node" } else { "there are no nodes" };
                bad.add(path.field("node_names"), format!("{what} {}", enumerate(unknown)));
            }
            return bad.or(chosen);
        };
        let selector = match Selector::parse(selector) {
            Ok(selector) => bad.or(selector)?,
            Err(_) => return Err(bad),
        };
        let chosen: Vec<&Node> = nodes.into_iter().filter(|node| selector.matches(&node.labels)).collect();
        if chosen.is_empty() {
            return Err(Violations::one("targets.selector", "matches no node"));
        }
        Ok(chosen)
    }
}

/// Names the nodes that are not of the architecture that most are of.
fn check_architectures(nodes: &[&Node], path: Path<'_>, bad: &mut Violations) {
    let mut by_architecture: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in nodes {
        if let Some(info) = &node.info {
            by_architecture.entry(&info.architecture).or_default().push(node.name.as_str());
        }
    }
    let Some((usual, count)) = by_architecture
        .iter()
        .map(|(architecture, names)| (*architecture, names.len()))
        .max_by_key(|(architecture, count)| (*count, std::cmp::Reverse(*architecture)))
    else {
        return;
    };
    if by_architecture.len() < 2 {
        return;
    }
    let odd: Vec<String> = by_architecture
        .into_iter()
        .filter(|(architecture, _)| *architecture != usual)
        .map(|(architecture, names)| format!("{architecture}: {}", enumerate(names)))
        .collect();
    bad.add(
        path,
        format!(
            "mixes CPU architectures: {usual}: {count} node{}; {}. Target one architecture, or say that mixed ones are meant",
            if count == 1 { "" } else { "s" },
            odd.join("; ")
        ),
    );
}

/// Names that one message lists before it only counts the rest.
const MAX_LISTED: usize = 25;

fn enumerate<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let listed = names.iter().take(MAX_LISTED).copied().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(MAX_LISTED) {
        Some(more) if more > 0 => format!("{listed} and {more} more"),
        _ => listed,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use jiff::Timestamp;

    use super::*;
    use crate::node::{Labels, NodeInfo};

    fn node(name: &str, architecture: &str, role: &str) -> Node {
        let info = NodeInfo {
            agent_version: "0.1.0".to_owned(),
            architecture: architecture.to_owned(),
            kernel_release: "6.1".to_owned(),
            cpus: 1,
            memory_bytes: 1,
            interfaces: Vec::new(),
            capabilities: Vec::new(),
            runtime: "fake".to_owned(),
            host_ip: None,
            allocatable: None,
            host_paths: None,
            accelerators: Vec::new(),
        };
        Node {
            name: NodeName::parse(name).unwrap(),
            labels: Labels::from([("role".to_owned(), role.to_owned())]),
            enroll_time: Timestamp::UNIX_EPOCH,
            certificate_end: None,
            last_seen: None,
            info: (!architecture.is_empty()).then_some(info),
        }
    }

    fn fleet() -> Vec<Node> {
        vec![
            node("shop-3", "amd64", "till"),
            node("shop-1", "amd64", "till"),
            node("shop-2", "arm64", "gateway"),
            node("shop-4", "", "gateway"),
        ]
    }

    fn named(names: &[&str]) -> Targets {
        Targets { node_names: names.iter().map(|name| (*name).to_owned()).collect(), ..Targets::default() }
    }

    fn selected(selector: &str) -> Targets {
        Targets { selector: Some(selector.to_owned()), ..Targets::default() }
    }

    fn names(targets: &Targets) -> Vec<String> {
        targets.resolve(&fleet()).unwrap().into_iter().map(String::from).collect()
    }

    fn wrong(targets: &Targets) -> Vec<String> {
        targets.resolve(&fleet()).unwrap_err().0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_and_selectors_give_a_sorted_list() {
        assert_eq!(names(&named(&["shop-3", "shop-1"])), ["shop-1", "shop-3"]);
        assert_eq!(names(&selected("role=till")), ["shop-1", "shop-3"]);
    }

    #[test]
    fn a_node_that_never_connected_fits_any_architecture() {
        assert_eq!(names(&named(&["shop-4", "shop-1"])), ["shop-1", "shop-4"]);
        assert_eq!(names(&selected("role=gateway")), ["shop-2", "shop-4"]);
    }

    #[test]
    fn unknown_nodes_are_all_named_beside_other_faults() {
        assert_eq!(
            wrong(&named(&["x-1", "shop-1", "Shop", "x-2", "shop-1"])),
            [
                "targets.node_names[2]: has 'S' at position 1; only lower-case letters, digits and '-' are allowed, and the first and last must not be '-'",
                "targets.node_names[4]: names shop-1 a second time",
                "targets.node_names: there are no nodes x-1, x-2",
            ]
        );
    }

    #[test]
    fn odd_architectures_are_named_unless_they_are_meant() {
        let all = selected("role");
        assert_eq!(
            wrong(&all),
            [
                "targets: mixes CPU architectures: amd64: 2 nodes; arm64: shop-2. Target one architecture, or say that mixed ones are meant"
            ]
        );
        assert_eq!(names(&Targets { mixed_architectures: true, ..all }).len(), 4);
    }

    #[test]
    fn no_node_is_a_fault() {
        assert_eq!(wrong(&Targets::default()), ["targets: names no node; give node names or a selector"]);
        assert_eq!(wrong(&selected("role=none")), ["targets.selector: matches no node"]);
        assert_eq!(
            wrong(&Targets { node_names: vec!["shop-1".to_owned()], ..selected("role") }),
            ["targets: has both node names and a selector; give one of them"]
        );
        assert!(wrong(&selected("role="))[0].contains("matches no node"));
        assert!(wrong(&selected("role=="))[0].contains("matches no node"));
        assert!(wrong(&selected("=x"))[0].starts_with("targets.selector: at position 1"));
    }

    #[test]
    fn a_message_stays_short_for_a_large_fleet() {
        let many: Vec<String> = (0..20_000).map(|index| format!("missing-{index:05}")).collect();
        let error = Targets { node_names: many, ..Targets::default() }.resolve(&fleet()).unwrap_err();
        assert_eq!(error.0.len(), 1);
        assert!(error.0[0].description.ends_with("missing-00024 and 19975 more"), "{error}");
        let bad: Vec<String> = (0..20_000).map(|index| format!("BAD-{index:05}")).collect();
        let error = Targets { node_names: bad, ..Targets::default() }.resolve(&fleet()).unwrap_err();
        assert!(error.0.iter().map(|v| v.field.len() + v.description.len()).sum::<usize>() < 8 * 1024);
    }

    #[test]
    fn an_app_that_is_there_is_on_all_its_nodes_or_on_those_that_are_chosen() {
        let app = AppName::parse("till-x1").unwrap();
        let having: BTreeSet<NodeName> = ["a", "b", "c"].iter().map(|name| NodeName::parse(name).unwrap()).collect();
        let among = |names: &[&str], selector: Option<&str>| {
            let node_names = names.iter().map(|&name| name.to_owned()).collect();
            let selector = selector.map(str::to_owned);
            Targets { node_names, selector, mixed_architectures: false }.among(&app, &having)
        };
        assert_eq!(among(&[], None).unwrap().node_names, ["a", "b", "c"]);
        assert_eq!(among(&["c", "a"], None).unwrap().node_names, ["c", "a"]);
        assert_eq!(among(&[], Some("x=y")).unwrap().selector.as_deref(), Some("x=y"));
        let odd = among(&["a", "y", "x", "Z"], None).unwrap_err();
        assert_eq!(odd.to_string(), "targets.node_names: the app till-x1 is not on x, y");
    }
}
