//! The audit log: what it has, who may read it, and whether it was touched.

use longshore_proto::v1;
use longshore_tests::cluster::Cluster;
use longshore_tests::process::{output, succeed};
use longshore_tests::spec;
use serde_json::Value;

/// Call, caller, target and result of each entry, oldest first.
fn entries(cluster: &Cluster, filter: &str) -> Vec<[String; 4]> {
    let list = ["audit", "list", "--order-by", "number", "--filter", filter, "-o", "json"];
    let answer: Value = serde_json::from_str(&succeed(&mut cluster.cli(&list))).unwrap();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let row = |entry: &Value| {
        let call = text(entry, "method").rsplit('/').next().unwrap().to_owned();
        let result = [text(entry, "code"), text(entry, "reason")].join(" ").trim().to_owned();
        [call, text(entry, "caller"), text(entry, "target"), result]
    };
    answer["entries"].as_array().map(|entries| entries.iter().map(row).collect()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_did_what_is_told_and_cannot_be_changed_unseen() {
    let mut cluster = Cluster::start().await;
    let _node = cluster.node_with("edge-1", &[], None, &["--runtime", "fake"]).await;
    let vic = cluster.directory().join("vic");
    succeed(&mut cluster.cli(&["user", "create", "vic", "--role", "viewer", "--out", vic.to_str().unwrap()]));
    let as_vic = |arguments: &[&str]| {
        let mut cli = cluster.cli(arguments);
        cli.env("LONGSHORE_CREDENTIALS", &vic);
        output(&mut cli)
    };
    assert_eq!(as_vic(&["node", "delete", "edge-1"]).status.code(), Some(7));
    assert_eq!(as_vic(&["audit", "list"]).status.code(), Some(7), "it is for admins");
    succeed(&mut cluster.cli(&["node", "list"]));

    let client = cluster.client().await;
    let order = v1::CreateJobRequest {
        spec: Some(spec::app(&cluster.image(), &["sleep", "60"])),
        targets: Some(v1::Targets { node_names: vec!["edge-1".to_owned()], ..Default::default() }),
        ..Default::default()
    };
    let checked = v1::CreateJobRequest { validate_only: true, ..order.clone() };
    client.jobs.clone().create_job(checked).await.unwrap();
    let job = client.create_with(order).await;
    succeed(&mut cluster.cli(&["job", "stop", &job.job_id]));

    let all = entries(&cluster, "");
    let row = |call: &str, caller: &str, target: &str, result: &str| [call, caller, target, result].map(str::to_owned);
    assert_eq!(all[0][..2], ["CreateEnrollmentToken", "admin admin"]);
    assert!(all[0][2].starts_with("tokens/") && all[0][3] == "OK", "{:?}", all[0]);
    let rest = [
        row("Enroll", "", "nodes/edge-1", "OK"),
        row("CreateUser", "admin admin", "users/vic", "OK"),
        row("DeleteNode", "viewer vic", "", "PERMISSION_DENIED ROLE_REQUIRED"),
        row("CreateJob", "admin admin", "", "OK"),
        row("CreateJob", "admin admin", &format!("jobs/{}", job.job_id), "OK"),
        row("StopJob", "admin admin", &format!("jobs/{}", job.job_id), "OK"),
    ];
    assert_eq!(all[1..], rest, "what only looks is not in it, nor what was refused of that");
    assert_eq!(entries(&cluster, "caller = \"viewer vic\"").len(), 1);
    assert_eq!(entries(&cluster, "validate_only = true").len(), 1);
    assert!(cluster.server_log().contains("recorded a call"));

    let verified = succeed(&mut cluster.cli(&["audit", "verify"]));
    assert!(verified.starts_with("The audit log is what was written: 7 entries"), "{verified}");
    let head = verified.split_whitespace().find(|word| word.starts_with("7:")).unwrap().to_owned();
    assert!(cluster.server_log().contains(&head), "the server's log has it too");
    succeed(&mut cluster.cli(&["node", "token"]));
    let known = succeed(&mut cluster.cli(&["audit", "verify", "--known", &head]));
    assert!(known.contains("Entry 7 is the one that was known."), "{known}");

    // Somebody with the database at hand makes another user of vic.
    assert!(cluster.stop_server());
    let path = cluster.server_dir().join("longshore.db");
    let mut database = std::fs::read(&path).unwrap();
    let at = database.windows(9).position(|bytes| bytes == b"users/vic").unwrap();
    database[at..at + 9].copy_from_slice(b"users/eve");
    std::fs::write(&path, database).unwrap();
    cluster.start_server().await;
    let touched = output(&mut cluster.cli(&["audit", "verify"]));
    let text = String::from_utf8_lossy(&touched.stderr);
    assert_eq!(touched.status.code(), Some(1));
    assert!(text.contains("the audit log was touched: entry 3 is not what it was"), "{text}");
}
