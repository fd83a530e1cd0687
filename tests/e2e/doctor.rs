//! `longshore-agent doctor` on nodes that are well, and on those that are not.

use std::collections::BTreeMap;
use std::process::Command;

use longshore_proto::v1;
use longshore_tests::cluster::{Cluster, Node};
use longshore_tests::process::{command, output, succeed};
use longshore_tests::wait;
use serde_json::Value;

use crate::network::on_a_switch;

/// Checks that depend on the machine that the tests run on.
const OF_THE_MACHINE: [&str; 6] = ["capabilities", "cgroups", "file system", "kernel", "open files", "room"];

/// What a doctor said.
#[derive(Debug)]
struct Said {
    exit: i32,
    verdict: String,
    checks: Vec<(String, String, String, String)>,
}

impl Said {
    fn by(doctor: &mut Command) -> Self {
        let output = output(doctor.args(["--output", "json"]));
        let said: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        let text = |value: &Value, name: &str| value[name].as_str().unwrap().to_owned();
        let checks = said["checks"].as_array().unwrap().iter();
        Self {
            exit: output.status.code().unwrap(),
            verdict: text(&said, "verdict"),
            checks: checks.map(|c| (text(c, "check"), text(c, "verdict"), text(c, "found"), text(c, "hint"))).collect(),
        }
    }

    fn of(node: &Node) -> Self {
        Self::by(&mut node.doctor())
    }

    /// What was found, by check, of those with this verdict that are not the machine's own.
    fn with(&self, verdict: &str) -> BTreeMap<&str, &str> {
        let such = self
            .checks
            .iter()
            .filter(|(check, found, ..)| found == verdict && !OF_THE_MACHINE.contains(&check.as_str()));
        such.map(|(check, _, found, _)| (check.as_str(), found.as_str())).collect()
    }

    /// Fails unless exactly these are broken, in words that hold these, each with a hint.
    fn is_broken(&self, expected: &[(&str, &str)]) {
        let broken = self.with("BROKEN");
        assert_eq!(
            broken.keys().copied().collect::<Vec<_>>(),
            expected.iter().map(|e| e.0).collect::<Vec<_>>(),
            "{self:?}"
        );
        for (check, words) in expected {
            assert!(broken[check].contains(words), "{words} is not in {self:?}");
        }
        assert_eq!((self.exit, self.verdict.as_str()), (2, "BROKEN"), "{self:?}");
        assert!(self.checks.iter().all(|(_, verdict, _, hint)| hint.is_empty() == (verdict == "FINE")), "{self:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_node_is_fine_and_its_agent_is_not_disturbed() {
    let cluster = Cluster::start().await;
    let mut node = cluster.node("edge-1").await;
    let client = cluster.client().await;
    node.has_its_set().await;
    let before = node.log();
    let said = Said::of(&node);
    let fine = said.with("FINE");
    for check in
        ["settings", "user", "data directory", "node", "agent", "private key", "certificate", "authority", "server"]
    {
        assert!(fine.contains_key(check), "{check}: {said:?}");
    }
    for check in ["membership", "clocks", "overlayfs", "namespaces", "seccomp", "egress", "unit"] {
        assert!(fine.contains_key(check), "{check}: {said:?}");
    }
    assert!(fine["agent"].starts_with("runs as process "), "{said:?}");
    assert!(said.with("BROKEN").is_empty() && said.with("DEGRADED").is_empty(), "{said:?}");
    let worst = ["FINE", "DEGRADED", "BROKEN"].iter().position(|verdict| *verdict == said.verdict).unwrap();
    assert_eq!(said.exit, i32::try_from(worst).unwrap());

    // The same for people, in a table.
    let table = output(&mut node.doctor());
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(
        table.lines().any(|line| line.starts_with("ok ") && line.contains("the server knows this node")),
        "{table}"
    );

    // Its session goes on, and so does everything that is written about it.
    assert!(client.is_connected("edge-1").await && node.is_running());
    assert_eq!(node.log(), before);
    assert!(node.stop());
    let said = Said::of(&node);
    assert_eq!(said.with("DEGRADED").keys().copied().collect::<Vec<_>>(), ["agent"], "{said:?}");
    assert!(said.exit >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_no_node_is_told_how_to_become_one() {
    let directory = tempfile::tempdir().unwrap();
    let doctor = |data_dir: &std::path::Path| {
        let mut doctor = command("longshore-agent", None);
        doctor.args(["doctor", "--egress", "off", "--data-dir"]).arg(data_dir);
        Said::by(&mut doctor)
    };
    doctor(directory.path()).is_broken(&[("node", "is not enrolled")]);
    let nowhere = directory.path().join("none");
    doctor(&nowhere).is_broken(&[("data directory", "there is no "), ("node", "is not enrolled")]);
    assert!(!nowhere.exists() && std::fs::read_dir(directory.path()).unwrap().count() == 0, "it made something");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_or_another_one_is_named() {
    let mut cluster = Cluster::start().await;
    let node = cluster.enroll("edge-1", &[], None, &[]).await;
    let other = cluster.enroll("edge-2", &[], None, &[]).await;
    assert!(Said::of(&node).with("BROKEN").is_empty());
    let delete = v1::DeleteNodeRequest { name: "edge-2".to_owned(), ..Default::default() };
    cluster.client().await.nodes.clone().delete_node(delete).await.unwrap();
    Said::of(&other).is_broken(&[("membership", "the server refuses this node")]);

    assert!(cluster.stop_server());
    Said::of(&node).is_broken(&[("server", "cannot reach")]);
    // Somebody else's server at the address that the node knows.
    let stranger = Cluster::start().await;
    let file = node.directory().join("agent.json");
    let mut enrolment: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    enrolment["server"] = stranger.agents_address().into();
    std::fs::write(&file, enrolment.to_string()).unwrap();
    Said::of(&node).is_broken(&[("server", "is not the server that was expected")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_lapsed_and_keys_that_others_read_are_named() {
    let mut cluster = Cluster::start().await;
    cluster.restart_server_with(&["--node-certificate-life", "10s"]).await;
    let node = cluster.enroll("edge-1", &[], None, &[]).await;
    let lapsed = wait::for_value("the certificate's end", || async {
        // The server's clock may be a moment behind.
        let said = Said::of(&node);
        let is_over = ["certificate", "server"].iter().all(|check| said.with("BROKEN").contains_key(check));
        is_over.then_some(said)
    })
    .await;
    lapsed.is_broken(&[("certificate", "expired"), ("server", "refuses our certificate")]);
    assert!(lapsed.checks.iter().any(|(check, .., hint)| check == "certificate" && hint.contains("enroll --renew")));

    let key = node.directory().join("identity/node.pem");
    let mode = |mode| <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(mode);
    std::fs::set_permissions(&key, mode(0o640)).unwrap();
    std::fs::set_permissions(node.directory(), mode(0o755)).unwrap();
    let degraded = Said::of(&node);
    assert!(degraded.with("DEGRADED").contains_key("private key"), "{degraded:?}");
    assert!(degraded.with("DEGRADED").contains_key("data directory"), "{degraded:?}");
    std::fs::write(&key, "damaged").unwrap();
    Said::of(&node).is_broken(&[("certificate", "cannot use the node's certificate")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_cannot_be_reached_is_named() {
    let cluster = Cluster::start().await;
    let socket = cluster.directory().join("engine.sock");
    let address = format!("unix://{}", socket.display());
    let node = cluster.enroll("edge-1", &[], None, &["--runtime", "docker", "--docker-socket", &address]).await;
    Said::of(&node).is_broken(&[("engine", "cannot be reached")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_the_file_of_settings_are_findings() {
    let cluster = Cluster::start().await;
    let file = cluster.file("agent.yaml", "runtime: dokcer\negres: off\nhost-path-allow: [/srv]\n");
    let node = cluster.enroll("edge-1", &[], None, &["--config", &file]).await;
    let said = Said::of(&node);
    let mistakes: Vec<&str> =
        said.checks.iter().filter(|(check, ..)| check == "settings").map(|(_, _, found, _)| found.as_str()).collect();
    assert_eq!(mistakes.len(), 2, "{said:?}");
    assert!(mistakes.iter().any(|mistake| mistake.contains(":1:1: runtime \"dokcer\"")), "{mistakes:?}");
    assert!(mistakes.iter().any(|mistake| mistake.contains(":2:1: there is no setting \"egres\"")), "{mistakes:?}");
    assert_eq!(said.exit, 2);
    // All else is looked at with what is right.
    assert!(said.with("FINE").contains_key("membership"), "{said:?}");
}

#[test]
fn a_foreign_filter_that_drops_is_named_with_the_rules_that_help() {
    on_a_switch(|switch, server| async move {
        let cluster = Cluster::start_on(Some(&server)).await;
        let host = switch.host();
        let node = cluster.enroll("edge-1", &[], Some(&host), &[]).await;
        let on_host = |words: &[&str]| {
            let mut nsenter = Command::new("nsenter");
            succeed(nsenter.arg(format!("--net=/run/netns/{}", host.namespace())).args(words))
        };
        let nft = |words: &str| on_host(&["nft", words]);
        assert!(Said::of(&node).with("FINE").contains_key("egress"));
        assert_eq!(nft("list ruleset"), "", "the doctor left something");
        nft("add table ip filter");
        nft("add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }");
        let said = Said::of(&node);
        assert!(said.with("DEGRADED")["egress"].starts_with("ip filter FORWARD drops"), "{said:?}");
        let rules = |said: &Said| -> Vec<String> {
            let (.., hint) = said.checks.iter().find(|(check, ..)| check == "egress").unwrap();
            hint.split('`').skip(1).step_by(2).map(str::to_owned).collect()
        };
        assert_eq!(rules(&said).len(), 2);
        for rule in rules(&said) {
            nft(rule.strip_prefix("nft ").unwrap());
        }
        assert!(Said::of(&node).with("FINE").contains_key("egress"));
        assert_eq!(on_host(&["cat", "/proc/net/ip_tables_names"]), "", "the doctor made a table");
        on_host(&["iptables-legacy", "--policy", "FORWARD", "DROP"]);
        let said = Said::of(&node);
        assert!(said.with("DEGRADED")["egress"].starts_with("the chain FORWARD of iptables-legacy drops"), "{said:?}");
        for rule in rules(&said) {
            on_host(&rule.split(' ').collect::<Vec<_>>());
        }
        assert!(Said::of(&node).with("FINE").contains_key("egress"));
    });
}
