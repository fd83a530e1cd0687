#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::host_path;

fn labels() -> Labels {
    let pairs = [("role", "till"), ("example.com/site", "hh.1"), ("empty", "")];
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn fill(text: &str) -> String {
    let (name, labels) = (NodeName::parse("edge-1").unwrap(), labels());
    Facts { name: &name, host_ip: Some(Ipv4Addr::new(10, 0, 0, 7)), labels: &labels }.text(text).unwrap()
}

fn spec(parts: serde_json::Value) -> AppSpec {
    let mut whole = json!({ "name": "a", "image": { "reference": "a:1" } });
    whole.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
    serde_json::from_value(whole).unwrap()
}

#[test]
fn references_are_filled_in_and_all_else_stays() {
    for (text, expected) in [
        ("", ""),
        ("plain", "plain"),
        ("${node.name}", "edge-1"),
        ("http://${node.host_ip}:80/${node.name}", "http://10.0.0.7:80/edge-1"),
        ("${node.labels.role}-${node.labels.example.com/site}", "till-hh.1"),
        ("<${node.labels.empty}>", "<>"),
        // What is for a shell or for the program itself.
        (
            "${HOME} $HOME ${node} ${nodes.name} ${labels.role} $(node.name) {node.name} ${}",
            "${HOME} $HOME ${node} ${nodes.name} ${labels.role} $(node.name) {node.name} ${}",
        ),
        ("$${HOME} $$ $${node}", "$${HOME} $$ $${node}"),
        ("${a${node.name}}", "${aedge-1}"),
        ("${", "${"),
        // That very text.
        ("$${node.name}", "${node.name}"),
        ("$$${node.name}", "$edge-1"),
        ("$$$${node.name}", "$${node.name}"),
        ("$${node.nothing", "${node.nothing"),
        ("é${node.name}é", "éedge-1é"),
    ] {
        assert_eq!(fill(text), expected, "{text:?}");
    }
}

#[test]
fn what_is_no_reference_and_looks_like_one_is_refused_and_means_itself_where_it_is_older_than_the_rule() {
    for (text, part) in [
        ("${node.}", "no node has a value"),
        ("${node.nothing}", "\"${node.nothing}\", which no node has a value for"),
        ("${node.hostIP}", "${node.host_ip}"),
        ("${Node.name}", "no node has a value"),
        ("${ node.name }", "no node has a value"),
        ("${node.name }", "no node has a value"),
        ("${node.labels}", "no node has a value"),
        ("${node.labels.}", "whose key must not be empty"),
        ("${node.labels.a b}", "whose key may have letters"),
        ("${node.labels.${node.name}}", "whose key may have letters"),
        ("${node.labels.r\u{43e}le}", "whose key may have letters"),
        ("${node.name\0}", "no node has a value"),
        ("${node.name", "\"${node.name\" without a closing brace"),
        ("${node.labels.role ${node.name}", "whose key may have letters"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text:?}: {error}");
        assert_eq!(fill(text), text);
        assert_eq!(fill(&escape(text)), text);
    }
}

#[test]
fn a_node_without_a_value_is_told() {
    let (name, labels) = (NodeName::parse("edge-1").unwrap(), labels());
    let facts = Facts { name: &name, host_ip: None, labels: &labels };
    assert_eq!(facts.text("${node.host_ip}"), Err(Missing::HostIp));
    assert_eq!(facts.text("a ${node.labels.site}"), Err(Missing::Label("site".to_owned())));
    assert_eq!(
        facts.text("${node.labels.site}").unwrap_err().to_string(),
        "The node has no label \"site\", which the app's spec is filled in with."
    );
    let path = |path: &str| spec(json!({ "volumes": [{ "mountPath": "/v", "hostPath": { "path": path } }] }));
    let empty = path("/srv/${node.labels.empty}");
    assert_eq!(facts.words_and_paths(&empty), Err(Missing::EmptyInPath("empty".to_owned())));
    assert_eq!(check_labels(&empty, &labels), Err(Missing::EmptyInPath("empty".to_owned())));
    assert_eq!(check_labels(&path("/srv/${node.labels.site}"), &labels), Err(Missing::Label("site".to_owned())));
    assert_eq!(check_labels(&path("/srv/${node.labels.role}"), &labels), Ok(()));
    assert_eq!(check_labels(&spec(json!({ "args": ["${node.labels.empty}"] })), &labels), Ok(()));
}

#[test]
fn a_spec_tells_what_it_needs() {
    let all = spec(json!({
        "command": ["${node.labels.a}"], "args": ["${node.labels.b}"],
        "env": [{ "name": "C", "value": "${node.labels.c}" }, { "name": "D", "nodeLabel": "d" }],
        "volumes": [{ "mountPath": "/v", "hostPath": { "path": "/srv/${node.labels.e}" } }],
    }));
    assert_eq!(label_keys(&all), ["a", "b", "c", "d", "e"].map(str::to_owned).into());
    let has = Labels::from([("a".to_owned(), "1".to_owned()), ("secret".to_owned(), "2".to_owned())]);
    assert_eq!(labels_for(&all, &has), Labels::from([("a".to_owned(), "1".to_owned())]));
    assert!(is_needed(&all));
    for (parts, needed) in [
        (json!({}), false),
        (json!({ "args": ["${HOME}", "${node.nothing}"] }), false),
        (json!({ "env": [{ "name": "A", "nodeField": "nodeName" }] }), false),
        (json!({ "env": [{ "name": "A", "nodeLabel": "a" }] }), true),
        (json!({ "args": ["${node.name}"] }), true),
        (json!({ "args": ["$${node.name}"] }), true),
    ] {
        assert_eq!(is_needed(&spec(parts.clone())), needed, "{parts}");
    }
}

fn any_text() -> impl Strategy<Value = String> {
    let bit = prop_oneof![
        Just("$".to_owned()),
        Just("${".to_owned()),
        Just("}".to_owned()),
        Just("${node.".to_owned()),
        Just("${node.name}".to_owned()),
        Just("${node.labels.role}".to_owned()),
        Just(" Node.".to_owned()),
        any::<String>(),
    ];
    proptest::collection::vec(bit, 0..8).prop_map(|bits| bits.concat())
}

proptest! {
    #[test]
    fn nothing_panics_and_any_text_can_be_escaped(text in any_text()) {
        let parsed = parse(&text);
        prop_assert_eq!(fill(&escape(&text)), text.clone());
        if parsed.is_err() {
            prop_assert_eq!(fill(&text), text);
        }
    }

    #[test]
    fn values_are_not_looked_through_again(value in any_text(), before in "[a-z]{0,3}", after in "[a-z]{0,3}") {
        let name = NodeName::parse("edge-1").unwrap();
        let labels = Labels::from([("k".to_owned(), value.clone())]);
        let facts = Facts { name: &name, host_ip: None, labels: &labels };
        let filled = facts.text(&format!("{before}${{node.labels.k}}{after}")).unwrap();
        prop_assert_eq!(filled, format!("{before}{value}{after}"));
    }

    #[test]
    fn no_label_that_is_allowed_leads_out_of_a_path(value in "[a-zA-Z0-9._-]{0,63}") {
        prop_assume!(label::check_value(&value).is_ok());
        let name = NodeName::parse("edge-1").unwrap();
        let labels = Labels::from([("k".to_owned(), value)]);
        let facts = Facts { name: &name, host_ip: None, labels: &labels };
        for path in ["/srv/a/${node.labels.k}", "/srv/a/.${node.labels.k}.", "/srv/a/${node.labels.k}/b"] {
            let spec = spec(json!({ "volumes": [{ "mountPath": "/v", "hostPath": { "path": path } }] }));
            let Ok(filled) = facts.words_and_paths(&spec) else { continue };
            let VolumeSource::HostPath(path) = &filled.volumes[0].source else { unreachable!("it was a host path") };
            let normal = host_path::normalise(&path.path).unwrap();
            prop_assert!(normal.starts_with("/srv/a/") && normal.len() > "/srv/a/".len(), "{normal}");
        }
    }
}
