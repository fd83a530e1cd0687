//! What instances use, and how nodes are, on real containers and machines.

use longshore_proto::v1;
use longshore_tests::client::Client;
use longshore_tests::cluster::Cluster;
use longshore_tests::process::succeed;
use longshore_tests::spec::app;
use longshore_tests::{http, wait};
use v1::JobState;

/// Memory that one of the apps holds.
const HELD: u64 = 96 * 1024 * 1024;

async fn deploy(client: &Client, spec: v1::AppSpec) -> String {
    let job = client.create(spec, &["node"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded, "{:?}", client.task(&job.job_id).await);
    job.app_name
}

/// CPU and memory of an app's only instance, once both were measured and are as they are expected to be.
async fn used(client: &Client, app: &str, is_so: impl Fn(u64, u64) -> bool) -> (u64, u64) {
    let look = || async {
        let usage = client.app("node", app).await.status?.instances.first()?.usage?;
        assert!(usage.sample_time.is_some());
        usage.cpu_millis.zip(usage.memory_bytes).filter(|(cpu, memory)| is_so(*cpu, *memory))
    };
    wait::for_value(&format!("what {app} uses"), look).await
}

async fn value(address: &str, name: &str) -> Option<u64> {
    let text = http::get(address.parse().unwrap(), "/metrics").await.unwrap().body;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_apps_use_is_told_and_what_nodes_have_and_refuse() {
    let mut cluster = Cluster::start().await;
    let arguments = ["--usage-interval", "1s", "--metrics-listen", "127.0.0.1:0", "--forbid-exec"];
    let mut node = cluster.node_with("node", &[], None, &arguments).await;
    let client = cluster.client().await;
    let image = cluster.image();
    let busy = deploy(&client, app(&image, &["spin"])).await;
    let large = deploy(&client, app(&image, &["eat", &HELD.to_string()])).await;

    let (busy_cpu, busy_memory) = used(&client, &busy, |cpu, _| cpu > 50).await;
    // What took its memory at the start sleeps from then on.
    let (large_cpu, large_memory) = used(&client, &large, |cpu, memory| cpu < busy_cpu && memory >= HELD).await;
    assert!(busy_cpu > large_cpu && busy_memory < large_memory);
    let known = client.app("node", &large).await;
    let measured = |app: &v1::App| app.status.as_ref().unwrap().instances[0].usage.unwrap().sample_time;
    let later = wait::for_value("a later measurement", || async {
        let app = client.app("node", &large).await;
        (measured(&app) != measured(&known)).then_some(app)
    });
    assert_eq!(later.await.update_time, known.update_time, "measuring is no change of the app");
    let shown = succeed(&mut cluster.cli(&["app", "show", &large]));
    assert!(shown.contains("CPU") && shown.contains("MiB"), "{shown}");
    let address = node.log().split("metrics=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    wait::until("what all instances use together", || async {
        let memory = value(&address, "longshore_agent_instances_memory_working_set_bytes").await;
        let cpu = value(&address, "longshore_agent_instances_cpu_millicores").await;
        memory.is_some_and(|bytes| bytes >= HELD) && cpu.is_some_and(|millis| millis > 0)
    })
    .await;

    let known = client.node("node").await;
    let status = known.status.unwrap();
    let figures = status.figures.unwrap();
    assert!(figures.disk_total_bytes > figures.disk_free_bytes && figures.memory_available_bytes > 0, "{figures:?}");
    assert!(status.clock_skew.unwrap().seconds.abs() < 5 && status.connect_time.is_some());
    let shown = succeed(&mut cluster.cli(&["node", "show", "node"]));
    for part in ["yes, since 20", " free", " available", "privileged apps: ", "commands of people inside instances: "] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
    succeed(&mut cluster.cli(&["node", "show", "node", "-o", "json"]));

    // What a node was is not known to a server that has only just begun.
    node.kill();
    assert!(cluster.stop_server());
    cluster.start_server().await;
    let client = cluster.client().await;
    let status = client.node("node").await.status.unwrap();
    assert_eq!((status.sample_time, status.figures, status.clock_skew), (None, None, None));
    assert!(client.app("node", &large).await.status.unwrap().instances[0].usage.is_none());
    node.start();
    used(&client, &large, |_, memory| memory >= HELD).await;
    assert!(client.node("node").await.status.unwrap().figures.is_some());
}
