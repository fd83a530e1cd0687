//! Devices of a node, names and resolvers of an app: from the job file to the container.

use std::net::{Ipv4Addr, SocketAddr};

use longshore_proto::v1;
use longshore_tests::cluster::Cluster;
use longshore_tests::spec::app;
use longshore_tests::{http, process};
use v1::{FailureReason, JobState, TaskState};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_file_says_what_a_container_finds_around_it() {
    let cluster = Cluster::start().await;
    let _node = cluster.node_with("node", &[], None, &["--device-allow", "/dev/loop-*"]).await;
    let client = cluster.client().await;
    let text = format!(
        "spec:
  name: web
  image: {{ archive: {} }}
  args: [serve]
  network: {{ ports: [{{ containerPort: 8080 }}] }}
  startup: {{ settle: 200ms }}
  devices: [{{ hostPath: /dev/loop-control, containerPath: /dev/loops }}]
  hostAliases: [{{ ip: 192.0.2.7, hostnames: [db] }}]
  dnsConfig: {{ nameservers: [192.0.2.53], options: [{{ name: ndots, value: 2 }}] }}
targets: {{ nodes: [node] }}
",
        cluster.image()
    );
    let file = cluster.file("job.yaml", text);
    process::succeed(&mut cluster.cli(&["apply", "-f", &file]));
    let status = client.apps_of("node").await.remove(0).status.unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(status.ports[0].host_port).unwrap()));
    for (path, words) in [
        ("/dev/loops", "Invalid argument"),
        ("/etc/hosts", "192.0.2.7\tdb"),
        ("/etc/resolv.conf", "nameserver 192.0.2.53\noptions ndots:2"),
    ] {
        let answer = http::get(address, &format!("/read?path={path}")).await.unwrap().body;
        assert!(answer.contains(words), "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gives_only_the_devices_that_its_configuration_names() {
    let cluster = Cluster::start().await;
    let _none = cluster.node("none").await;
    let _some = cluster.node_with("some", &[], None, &["--device-allow", "/dev/loop-control"]).await;
    let client = cluster.client().await;
    let device = |path: &str| v1::Device { host_path: path.to_owned(), ..Default::default() };
    for (node, path, reason, step, words) in [
        ("none", "/dev/loop-control", FailureReason::Unsupported, TaskState::Pending, "run with --device-allow"),
        ("some", "/dev/loop0", FailureReason::Unsupported, TaskState::Checking, "--device-allow /dev/loop0"),
        ("some", "/dev/loop-control/x", FailureReason::DeviceUnavailable, TaskState::Checking, "does not exist"),
    ] {
        // An archive that is not there: who looked for the image would say so.
        let spec = v1::AppSpec { devices: vec![device(path)], ..app("/no/such/image.tar", &["sleep"]) };
        let job = client.create(spec, &[node]).await;
        assert_eq!(client.rest(&job.job_id).await.state(), JobState::Failed);
        let failure = client.task(&job.job_id).await.failure.unwrap();
        assert_eq!((failure.reason(), failure.step()), (reason, step), "{failure:?}");
        assert!(failure.message.contains(words), "{failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_in_the_words_of_the_file() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let text = "spec:
  name: web
  image: { reference: web:1 }
  volumes: [{ mountPath: '/data/${node.name}', emptyDir: {} }]
  devices: [{ hostPath: /etc/shadow, containerPath: /dev/null, permissions: rwx }]
  hostAliases: [{ ip: db, hostnames: [a b] }]
  dnsConfig: { nameservers: [dns.example.com], searches: ['a;b'], options: [{ name: N }] }
targets: { nodes: [node] }
";
    let file = cluster.file("job.yaml", text);
    let applied = process::output(&mut cluster.cli(&["apply", "-f", &file]));
    assert!(!applied.status.success());
    let told = String::from_utf8_lossy(&applied.stderr).into_owned();
    for field in [
        "volumes[0].mountPath",
        "devices[0].hostPath",
        "devices[0].containerPath",
        "devices[0].permissions",
        "hostAliases[0].ip",
        "hostAliases[0].hostnames[0]",
        "dnsConfig.nameservers[0]",
        "dnsConfig.searches[0]",
        "dnsConfig.options[0].name",
    ] {
        assert!(told.contains(&format!("spec.{field}: ")), "{field}: {told}");
    }
}
