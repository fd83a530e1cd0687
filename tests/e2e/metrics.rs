//! What Prometheus is told, held against docs/metrics.md and the dashboard.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use longshore_proto::v1;
use longshore_tests::cluster::Cluster;
use longshore_tests::{http, spec, wait};
use tonic::Code;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Names and kinds of the sections of docs/metrics.md with these headings, as Prometheus keeps them.
fn documented(headings: &[&str]) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(repository().join("docs/metrics.md")).unwrap();
    let sections = text.split("\n## ").filter(|section| headings.contains(&section.lines().next().unwrap()));
    let rows = sections.flat_map(str::lines).filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let (name, rest) = row.split_once("` | ").unwrap();
        (name.to_owned(), rest.split(" |").next().unwrap().to_owned())
    })
    .collect()
}

/// Names and kinds of what a program says; each of them must have a sample.
fn exposed(text: &str) -> BTreeMap<String, String> {
    assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF").count() == 1, "{text}");
    let described = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    described
        .map(|(name, kind)| {
            let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
            let has_samples = text.lines().any(|line| !line.starts_with('#') && line.starts_with(&name));
            assert!(has_samples, "{name} has no sample in\n{text}");
            (name, kind.to_owned())
        })
        .collect()
}

async fn scrape(address: &str) -> String {
    let answer = http::get(address.parse().unwrap(), "/metrics").await.unwrap();
    assert_eq!(answer.status, 200);
    answer.body
}

/// The value of a series, by its name with labels.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} is not in\n{text}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_documented_is_exposed_and_the_other_way_round() {
    let mut cluster = Cluster::start().await;
    cluster.restart_server_with(&["--metrics-listen", "127.0.0.1:0"]).await;
    let arguments = ["--runtime", "fake", "--metrics-listen", "127.0.0.1:0"];
    let node = cluster.node_with("edge-1", &[], None, &arguments).await;
    let client = cluster.client().await;
    let mut order = spec::app("", &[]);
    let reference = "registry.example.com/app:1".to_owned();
    order.image.as_mut().unwrap().source = Some(v1::image::Source::Reference(reference));
    let job = client.create(order, &["edge-1"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), v1::JobState::Succeeded);
    let unknown = v1::GetJobRequest { job_id: "0".repeat(26), ..Default::default() };
    assert_eq!(client.jobs.clone().get_job(unknown).await.unwrap_err().code(), Code::NotFound);

    let server = scrape(&cluster.metrics_address()).await;
    assert_eq!(exposed(&server), documented(&["Server", "Both"]));
    assert_eq!(value(&server, "longshore_sessions"), 1.0);
    assert_eq!(value(&server, "longshore_nodes"), 1.0);
    assert_eq!(value(&server, r#"longshore_jobs{state="SUCCEEDED"}"#), 1.0);
    assert_eq!(value(&server, r#"longshore_tasks{state="SUCCEEDED"}"#), 1.0);
    assert_eq!(value(&server, r#"longshore_refused_calls_total{reason="JOB_NOT_FOUND"}"#), 1.0);
    assert_eq!(value(&server, r#"longshore_connections_open{listener="agents"}"#), 1.0);
    let created = r#"longshore_call_duration_seconds_count{method="longshore.v1.JobService/CreateJob",code="OK"}"#;
    assert_eq!(value(&server, created), 1.0);
    let commits = value(&server, "longshore_store_commit_duration_seconds_count");
    assert!(commits >= 4.0 && value(&server, "longshore_store_commit_writes_sum") >= commits, "{server}");
    assert!(value(&server, "longshore_store_reports_total") >= 1.0);
    let expiry = value(&server, r#"longshore_certificate_expiry_timestamp_seconds{certificate="server"}"#);
    assert!(expiry > value(&server, "process_start_time_seconds"));

    let address = wait::for_value("the agent's address", || async {
        let log = node.log();
        Some(log.split("metrics=").nth(1)?.split_whitespace().next()?.to_owned())
    })
    .await;
    let agent = scrape(&address).await;
    assert_eq!(exposed(&agent), documented(&["Agent", "Both"]));
    assert_eq!(value(&agent, "longshore_agent_session_live"), 1.0);
    assert_eq!(value(&agent, r#"longshore_agent_instances{state="RUNNING"}"#), 1.0);
    assert_eq!(value(&agent, "longshore_agent_pulled_bytes_total"), 1_000_000.0);
    assert_eq!(value(&agent, "longshore_agent_restarts_total"), 0.0);

    assert!(cluster.stop_server());
    wait::until("the session's end", || async {
        value(&scrape(&address).await, "longshore_agent_session_live") == 0.0
    })
    .await;
}

#[test]
fn every_query_of_the_dashboard_names_metrics_that_exist() {
    let documented = documented(&["Server", "Agent", "Both"]);
    let known: BTreeSet<String> = documented
        .iter()
        .flat_map(|(name, kind)| match kind.as_str() {
            "histogram" => ["_bucket", "_sum", "_count"].map(|part| format!("{name}{part}")).to_vec(),
            _ => vec![name.clone()],
        })
        .collect();
    let text = std::fs::read_to_string(repository().join("deploy/grafana/longshore.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let targets = dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut used = BTreeSet::new();
    for query in targets.map(|target| target["expr"].as_str().unwrap()) {
        let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let words = query.split(|letter| !is_word(letter));
        let named: Vec<&str> =
            words.filter(|word| word.starts_with("longshore_") || word.starts_with("process_")).collect();
        assert!(!named.is_empty(), "{query} asks for nothing of ours");
        for word in named {
            assert!(known.contains(word), "{word} of {query} is not in docs/metrics.md");
            used.insert(word.to_owned());
        }
    }
    let unused = documented.keys().filter(|name| name.starts_with("longshore_"));
    let unused: Vec<&String> = unused.filter(|name| !used.iter().any(|word| word.starts_with(*name))).collect();
    assert_eq!(unused, Vec::<&String>::new(), "the dashboard leaves these out");
}
