//! What a spec says of its containers beyond what to run: from the job file to the kernel.

use std::net::{Ipv4Addr, SocketAddr};

use longshore_proto::v1;
use longshore_tests::client::Client;
use longshore_tests::cluster::Cluster;
use longshore_tests::spec::app;
use longshore_tests::{http, process};
use v1::{FailureReason, JobState, TaskState};

/// What the app's only instance reads from a path.
async fn read(client: &Client, app: &str, path: &str) -> String {
    let status = client.app("node", app).await.status.unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(status.ports[0].host_port).unwrap()));
    http::get(address, &format!("/read?path={path}")).await.unwrap().body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_file_shapes_the_container() {
    let cluster = Cluster::start().await;
    let _node = cluster.node_with("node", &[], None, &["--capability-allow", "NET_ADMIN"]).await;
    let client = cluster.client().await;
    let image = cluster.image();
    let text = format!(
        "spec:
  name: web
  image: {{ archive: {image} }}
  args: [serve]
  network: {{ ports: [{{ containerPort: 8080 }}] }}
  startup: {{ settle: 200ms }}
  user: 0:5000
  workingDir: /srv/web
  stopSignal: SIGINT
  terminationGracePeriod: 5s
  readOnlyRootFilesystem: true
  capabilities: {{ add: [NET_ADMIN], drop: [ALL] }}
  pidsLimit: 50
  ulimits: [{{ name: nofile, soft: 100, hard: 200 }}]
  shmSize: 1Mi
targets: {{ nodes: [node] }}
"
    );
    let file = cluster.file("job.yaml", text);
    process::succeed(&mut cluster.cli(&["apply", "-f", &file]));
    let app = client.apps_of("node").await.remove(0).app_name;
    let status = read(&client, &app, "/proc/self/status").await;
    for line in ["Gid:\t5000\t5000\t5000\t5000", "CapBnd:\t0000000000001000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    let limits = read(&client, &app, "/proc/self/limits").await;
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["100", "200"]);
    let mounts = read(&client, &app, "/proc/self/mounts").await;
    assert!(mounts.lines().any(|line| line.contains(" /dev/shm ") && line.contains("size=1024k")), "{mounts}");
    let root = mounts.lines().find(|line| line.contains(" / overlay ")).unwrap();
    assert!(root.split(' ').nth(3).unwrap().split(',').any(|option| option == "ro"), "{root}");
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_that_a_node_does_not_allow_are_refused_before_anything_is_fetched() {
    let cluster = Cluster::start().await;
    let _none = cluster.node("none").await;
    let _some = cluster.node_with("some", &[], None, &["--capability-allow", "NET_ADMIN"]).await;
    let client = cluster.client().await;
    let add = vec!["NET_ADMIN".to_owned(), "SYS_TIME".to_owned()];
    // An archive that is not there: who looked for the image would say so.
    let spec = v1::AppSpec {
        capabilities: Some(v1::Capabilities { add, drop: Vec::new() }),
        ..app("/no/such/image.tar", &["sleep"])
    };
    for (node, step, words) in [
        ("none", TaskState::Pending, "security.capabilities.add; its agent has to be run with --capability-allow"),
        ("some", TaskState::Checking, "does not allow the capabilities SYS_TIME"),
    ] {
        let job = client.create(spec.clone(), &[node]).await;
        assert_eq!(client.rest(&job.job_id).await.state(), JobState::Failed);
        let failure = client.task(&job.job_id).await.failure.unwrap();
        assert_eq!((failure.reason(), failure.step()), (FailureReason::Unsupported, step), "{failure:?}");
        assert!(failure.message.contains(words), "{failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_wrong_is_told_in_the_words_of_the_file() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let text = "spec:
  name: web
  image: { reference: web:1 }
  user: a:b:c
  workingDir: ../srv
  capabilities: { add: [net_admin], drop: [ALL, ALL] }
  ulimits: [{ name: core, soft: 2, hard: 1 }]
  shmSize: 1
targets: { nodes: [node] }
";
    let file = cluster.file("job.yaml", text);
    let applied = process::output(&mut cluster.cli(&["apply", "-f", &file]));
    assert!(!applied.status.success());
    let told = String::from_utf8_lossy(&applied.stderr).into_owned();
    for field in ["user", "workingDir", "capabilities.add[0]", "capabilities.drop[1]", "ulimits[0].soft", "shmSize"] {
        assert!(told.contains(&format!("spec.{field}: ")), "{field}: {told}");
    }
}
