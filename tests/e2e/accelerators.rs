//! Accelerators: told of by a node, given to one instance at a time, and given back. The devices are made for the tests.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use longshore_proto::v1;
use longshore_tests::client::Client;
use longshore_tests::cluster::Cluster;
use longshore_tests::spec::{app, tcp, with_ports};
use longshore_tests::{http, process, wait};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use v1::{FailureReason, JobState, TaskState};

const KIND: &str = "example.com/npu";

/// Makes a device that reads as empty and takes everything, as /dev/null does.
fn make_device(path: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    mknod(path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).unwrap();
}

/// Describes two accelerators and what they share; returns the file.
fn describe(cluster: &Cluster) -> String {
    let dev = cluster.directory().join("dev");
    for name in ["npu0", "npu1", "npu_manager"] {
        make_device(&dev.join(name));
    }
    let driver = cluster.file("driver", "the driver's own");
    let dev = dev.display();
    let text = format!(
        "accelerators:
  - kind: {KIND}
    model: Edge 200
    count: 2
    containerEdits:
      deviceNodes:
        - {{ path: '/dev/npu{{index}}', hostPath: '{dev}/npu{{index}}' }}
        - {{ path: /dev/npu_manager, hostPath: '{dev}/npu_manager' }}
      mounts: [{{ hostPath: '{driver}', containerPath: /opt/npu/driver, options: [ro] }}]
      env: ['NPU_VISIBLE_DEVICES={{index}}']
"
    );
    cluster.file("accelerators.yaml", text)
}

fn asking(image: &str, kind: &str, count: u32) -> v1::AppSpec {
    let spec = with_ports(app(image, &["serve"]), &[tcp(8080, 0)]);
    let env = vec![v1::EnvVar {
        name: "NPU_VISIBLE_DEVICES".to_owned(),
        source: Some(v1::env_var::Source::Value("0,1,2,3".to_owned())),
    }];
    v1::AppSpec { accelerators: vec![v1::AcceleratorQuota { kind: kind.to_owned(), count }], env, ..spec }
}

async fn deployed(client: &Client, spec: v1::AppSpec) -> v1::Job {
    let job = client.create(spec, &["node"]).await;
    let done = client.rest(&job.job_id).await;
    assert_eq!(done.state(), JobState::Succeeded, "{:?}", client.task(&job.job_id).await);
    done
}

async fn refused(client: &Client, spec: v1::AppSpec) -> (String, v1::Failure) {
    let job = client.create(spec, &["node"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Failed);
    let failure = client.task(&job.job_id).await.failure.unwrap();
    assert_eq!(failure.step(), TaskState::Checking, "{failure:?}");
    (job.job_id, failure)
}

/// What an instance of an app answers.
async fn ask(client: &Client, app: &str, instance: u32, path: &str) -> String {
    let status = client.app("node", app).await.status.unwrap();
    let port = status.ports.iter().find(|port| port.instance == instance).unwrap().host_port;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port).unwrap()));
    http::get(address, path).await.unwrap().body
}

/// Which of the two accelerators an instance has.
async fn held(client: &Client, app: &str, instance: u32) -> Vec<&'static str> {
    let mut held = Vec::new();
    for name in ["npu0", "npu1"] {
        let answer = ask(client, app, instance, &format!("/read?path=/dev/{name}")).await;
        assert!(answer.is_empty() || answer.contains("No such file"), "{answer}");
        if answer.is_empty() {
            held.push(name);
        }
    }
    held
}

async fn until_free(client: &Client, free: u32) {
    wait::until("the node to say what is free", || async {
        let info = client.node("node").await.info.unwrap();
        info.accelerators.iter().find(|stock| stock.kind == KIND).map(|stock| stock.free_count) == Some(free)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accelerator_is_one_apps_until_it_is_gone_whatever_becomes_of_the_agent() {
    let cluster = Cluster::start().await;
    let file = describe(&cluster);
    let mut node = cluster.node_with("node", &[], None, &["--no-accelerator-discovery", "--accelerators", &file]).await;
    let client = cluster.client().await;
    let shown = process::succeed(&mut cluster.cli(&["node", "show", "node"]));
    assert!(shown.contains("example.com/npu  2 of 2 free  Edge 200"), "{shown}");
    let listed = |filter: &str| process::succeed(&mut cluster.cli(&["node", "list", "--filter", filter]));
    assert!(listed("info.accelerators.kind = example.com/* AND info.accelerators.model:'Edge 200'").contains("node "));
    assert!(!listed("info.accelerators.kind = nvidia.com/gpu").contains("node "));

    let first = deployed(&client, asking(&cluster.image(), KIND, 1)).await.app_name;
    assert_eq!(held(&client, &first, 0).await, ["npu0"]);
    assert_eq!(ask(&client, &first, 0, "/read?path=/dev/npu_manager").await, "");
    assert_eq!(ask(&client, &first, 0, "/read?path=/opt/npu/driver").await, "the driver's own");
    let visible = ask(&client, &first, 0, "/env/NPU_VISIBLE_DEVICES").await;
    assert_eq!(visible.trim_end(), "0", "whatever the spec says");
    until_free(&client, 1).await;

    // An archive that is not there: who looked for the image would say so.
    let (_, failure) = refused(&client, asking("/no/such/image.tar", KIND, 2)).await;
    assert_eq!(failure.reason(), FailureReason::InsufficientAccelerators, "{failure:?}");
    assert!(failure.message.contains(&format!("1 is free; {first} holds 1.")), "{failure:?}");
    let (_, failure) = refused(&client, asking("/no/such/image.tar", "example.com/gpu", 1)).await;
    assert_eq!(failure.reason(), FailureReason::AcceleratorNotFound, "{failure:?}");
    assert!(failure.message.contains("it has example.com/npu"), "{failure:?}");

    // An agent that is killed knows it again from its ledger.
    node.kill();
    node.start();
    wait::until("the node's session", || async { client.is_connected("node").await }).await;
    let second = deployed(&client, asking(&cluster.image(), KIND, 1)).await.app_name;
    assert_eq!((held(&client, &first, 0).await, held(&client, &second, 0).await), (vec!["npu0"], vec!["npu1"]));
    until_free(&client, 0).await;
    let (third, failure) = refused(&client, asking(&cluster.image(), KIND, 1)).await;
    assert_eq!(failure.reason(), FailureReason::InsufficientAccelerators, "{failure:?}");

    let remove = v1::RemoveAppRequest { app_name: first.clone(), ..Default::default() };
    client.apps.clone().remove_app(remove).await.unwrap();
    wait::until("the app to be gone", || async { client.apps_of("node").await.len() == 1 }).await;
    until_free(&client, 1).await;
    client.retry(&third).await;
    let done = client.rest(&third).await;
    assert_eq!(done.state(), JobState::Succeeded, "{:?}", client.task(&third).await);
    assert_eq!(held(&client, &done.app_name, 0).await, ["npu0"]);
    until_free(&client, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_have_their_own_and_a_failed_deployment_gives_back() {
    let cluster = Cluster::start().await;
    let dev = cluster.directory().join("dev");
    for name in ["npu0", "npu1"] {
        make_device(&dev.join(name));
    }
    let device = |number: u32| {
        let (dev, name) = (dev.display(), format!("npu{number}"));
        format!(
            r#"{{ "name": "{number}", "containerEdits": {{
                 "deviceNodes": [{{ "path": "/dev/{name}", "hostPath": "{dev}/{name}" }}] }} }}"#
        )
    };
    let spec = format!(r#"{{ "cdiVersion": "0.6.0", "kind": "{KIND}", "devices": [{}, {}] }}"#, device(0), device(1));
    std::fs::create_dir(cluster.directory().join("cdi")).unwrap();
    cluster.file("cdi/npu.json", spec);
    let cdi = cluster.directory().join("cdi").display().to_string();
    let _node = cluster.node_with("node", &[], None, &["--cdi-dir", &cdi]).await;
    let client = cluster.client().await;
    let crashing = v1::AppSpec {
        restart_policy: v1::RestartPolicy::Never.into(),
        args: vec!["exit".to_owned(), "3".to_owned()],
        ..asking(&cluster.image(), KIND, 2)
    };
    let job = client.create(crashing, &["node"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Failed);
    assert_eq!(client.task(&job.job_id).await.failure.unwrap().reason(), FailureReason::ContainerExited);
    let both = v1::AppSpec { instances: 2, ..asking(&cluster.image(), KIND, 1) };
    let app = deployed(&client, both).await.app_name;
    assert_eq!((held(&client, &app, 0).await, held(&client, &app, 1).await), (vec!["npu0"], vec!["npu1"]));
    until_free(&client, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_kinds_are_a_violation() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let text = "spec:
  name: web
  image: { reference: web:1 }
  accelerators: [{ kind: nvidia.com/gpu }, { kind: huawei.com/npu }]
targets: { nodes: [node] }
";
    let file = cluster.file("job.yaml", text);
    let applied = process::output(&mut cluster.cli(&["apply", "-f", &file]));
    assert!(!applied.status.success());
    let told = String::from_utf8_lossy(&applied.stderr).into_owned();
    assert!(told.contains("spec.accelerators: has two kinds, \"nvidia.com/gpu\" and \"huawei.com/npu\""), "{told}");
}
