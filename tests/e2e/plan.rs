//! Plans by the built command line: what stands in the way of a job on real nodes, and that nothing comes of asking.

use longshore_proto::v1;
use longshore_tests::cluster::Cluster;
use longshore_tests::process;
use longshore_tests::spec::{app, tcp, with_ports};
use v1::JobState;

/// Exit code and output of `longshore plan` for a spec with these further lines.
fn plan(cluster: &Cluster, more: &str, nodes: &str, arguments: &[&str]) -> (i32, String) {
    let image = cluster.image();
    let text = format!(
        "spec:\n  name: web\n  image: {{ archive: {image} }}\n  args: [serve]\n{more}targets: {{ nodes: [{nodes}] }}\n"
    );
    let file = cluster.file("plan.yaml", text);
    let ended = process::output(&mut cluster.cli(&[&["plan", "-f", &file], arguments].concat()));
    let text = [ended.stdout, ended.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (ended.status.code().unwrap(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_names_what_stands_in_the_way_of_each_node_and_changes_nothing() {
    let cluster = Cluster::start().await;
    let _one = cluster.node_with("one", &[("site", "hh")], None, &["--reserve-cpu", "1000"]).await;
    let _two = cluster.node_with("two", &[("site", "kiel")], None, &[]).await;
    let _away = cluster.enroll("away", &[("site", "kiel")], None, &[]).await;
    let client = cluster.client().await;

    let (code, told) = plan(&cluster, "", "one, two", &[]);
    assert_eq!(code, 0, "{told}");
    assert!(told.contains("Nothing is known to stand in the way on 2 nodes."), "{told}");

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let spec = with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, u32::from(free))]);
    let job = client.create(spec, &["two"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    let guarded = cluster.directory().join("two").join("x");
    let more = format!(
        "  resources: {{ requests: {{ cpu: 1m }} }}\n  env: [{{ name: F, value: '${{node.labels.floor}}' }}]\n\
         \x20 network: {{ ports: [{{ containerPort: 8080, hostPort: {free} }}, {{ containerPort: 81, hostInterface: none0 }}] }}\n"
    );
    let (code, told) = plan(&cluster, &more, "one, two, away", &["-o", "json"]);
    assert_eq!(code, 4, "{told}");
    let found: serde_json::Value = serde_json::from_str(&told).unwrap();
    let reasons = |at: usize| -> Vec<&str> {
        let obstacles = found["nodes"][at]["obstacles"].as_array().unwrap();
        obstacles.iter().map(|obstacle| obstacle["reason"].as_str().unwrap()).collect()
    };
    assert_eq!(reasons(0), ["DEADLINE_EXCEEDED"], "{told}");
    assert_eq!(reasons(1), ["NODE_VALUE_MISSING", "INTERFACE_NOT_FOUND", "INSUFFICIENT_RESOURCES"], "{told}");
    assert_eq!(reasons(2), ["NODE_VALUE_MISSING", "PORT_IN_USE", "INTERFACE_NOT_FOUND"], "{told}");
    assert_eq!(found["summary"]["obstructedNodes"], 3, "{told}");

    let more = format!("  volumes: [{{ mountPath: /x, hostPath: {{ path: {} }} }}]\n", guarded.display());
    let (code, told) = plan(&cluster, &more, "one, two", &[]);
    assert_eq!(code, 3, "only one of them keeps its things there: {told}");
    assert!(told.contains("HOST_PATH_UNAVAILABLE") && told.contains("1 of 2 nodes"), "{told}");

    let update = cluster.file(
        "update.yaml",
        format!(
            "kind: Update\napp: {}\nspec:\n  name: app\n  image: {{ archive: {} }}\n  args: [serve]\n",
            job.app_name,
            cluster.image()
        ),
    );
    let told = process::succeed(&mut cluster.cli(&["plan", "-f", &update]));
    assert!(told.contains("update from revision 1"), "{told}");
    let jobs = client.jobs.clone().list_jobs(v1::ListJobsRequest::default()).await.unwrap().into_inner().jobs;
    assert_eq!(jobs.len(), 1, "no plan made a job");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_never_has_a_value_of_a_secret_and_says_which_is_missing() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let canary = "canary-5f1c";
    let value = cluster.file("token", canary);
    process::succeed(&mut cluster.cli(&["secret", "create", "shop", "--file", &format!("token={value}")]));
    let variable = |key: &str| format!("  env: [{{ name: T, secretKey: {{ secret: shop, key: {key} }} }}]\n");
    let (code, told) = plan(&cluster, &variable("token"), "node", &["-o", "json"]);
    assert!(code == 0 && !told.contains(canary), "{told}");
    let (code, told) = plan(&cluster, &variable("tokn"), "node", &["-o", "json"]);
    assert!(code == 4 && told.contains("CONFIGURATION_MISSING") && told.contains("has no key"), "{told}");
    assert!(!told.contains(canary), "{told}");
    let (code, told) = plan(&cluster, "  instances: 1000\n", "node", &[]);
    assert!(code == 1 && told.contains("plan.yaml") && told.contains("spec.instances"), "{told}");
    assert!(!told.contains("job.spec"), "in the words of the file: {told}");
}
