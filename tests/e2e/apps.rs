//! The app spec, on real containers.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use longshore_proto::v1;
use longshore_tests::client::Client;
use longshore_tests::cluster::Cluster;
use longshore_tests::http;
use longshore_tests::spec::{app, on_host, restart, tcp, with_ports};
use longshore_tests::wait;
use v1::{InstanceState, JobState};

/// Deploys to the node `node` and returns the app when its job has succeeded.
async fn deploy(client: &Client, spec: v1::AppSpec) -> v1::App {
    let job = client.create(spec, &["node"]).await;
    let job = client.rest(&job.job_id).await;
    assert_eq!(job.state(), JobState::Succeeded, "{:?}", client.tasks(&job.job_id).await);
    wait::for_value("the app's ports and instances", || async {
        let app = client.app("node", &job.app_name).await;
        let known = app.status.as_ref().is_some_and(|status| !status.instances.is_empty());
        known.then_some(app)
    })
    .await
}

fn address(app: &v1::App, instance: usize) -> SocketAddr {
    let port = app.status.as_ref().unwrap().ports.iter().find(|port| port.instance as usize == instance).unwrap();
    format!("127.0.0.1:{}", port.host_port).parse().unwrap()
}

async fn get(app: &v1::App, path: &str) -> String {
    let answer = http::get(address(app, 0), path).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

fn serve(cluster: &Cluster, args: &[&str]) -> v1::AppSpec {
    with_ports(app(&cluster.image(), args), &[tcp(8080, 0)])
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn command_and_args_override_the_images_own_by_the_four_rules() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let client = cluster.client().await;
    // The image: ENTRYPOINT ["/app"], CMD ["serve"]. The app answers what it was started with.
    let own = deploy(&client, serve(&cluster, &[])).await;
    assert_eq!(get(&own, "/args").await.lines().collect::<Vec<_>>(), ["/app", "serve"]);

    let args = deploy(&client, serve(&cluster, &["serve", "--note", "x y"])).await;
    assert_eq!(get(&args, "/args").await.lines().collect::<Vec<_>>(), ["/app", "serve", "--note", "x y"]);

    let command = |args: &[&str]| v1::AppSpec {
        command: vec!["/app".into(), "serve".into(), "--note".into(), "command".into()],
        ..serve(&cluster, args)
    };
    let alone = deploy(&client, command(&[])).await;
    assert_eq!(get(&alone, "/args").await.lines().collect::<Vec<_>>(), ["/app", "serve", "--note", "command"]);

    let both = deploy(&client, command(&["--note", "args"])).await;
    let expected = ["/app", "serve", "--note", "command", "--note", "args"];
    assert_eq!(get(&both, "/args").await.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn environment_is_literal_or_a_fact_of_the_node() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let client = cluster.client().await;
    let field = |name: &str, field: v1::NodeField| v1::EnvVar {
        name: name.to_owned(),
        source: Some(v1::env_var::Source::NodeField(field.into())),
    };
    let literal =
        v1::EnvVar { name: "PLAIN".into(), source: Some(v1::env_var::Source::Value("a $HOME `b` \"c\"".into())) };
    let env = vec![literal, field("IP", v1::NodeField::HostIp), field("NODE", v1::NodeField::Name)];
    let app = deploy(&client, v1::AppSpec { env, ..serve(&cluster, &["serve"]) }).await;
    assert_eq!(get(&app, "/env/PLAIN").await.trim_end(), "a $HOME `b` \"c\"");
    assert_eq!(get(&app, "/env/IP").await.trim_end(), "127.0.0.1");
    assert_eq!(get(&app, "/env/NODE").await.trim_end(), "node");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_on_the_hosts_network_listens_there() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let client = cluster.client().await;
    let port = free_port();
    deploy(&client, on_host(app(&cluster.image(), &["serve", "--port", &port.to_string()]))).await;
    let answer = http::get(SocketAddr::from(([127, 0, 0, 1], port)), "/healthz").await.unwrap();
    assert_eq!(answer.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_have_ports_of_their_own() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let client = cluster.client().await;
    let app = deploy(&client, v1::AppSpec { instances: 3, ..serve(&cluster, &["serve"]) }).await;
    let mut ports: Vec<u32> = app.status.as_ref().unwrap().ports.iter().map(|port| port.host_port).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 3);
    for instance in 0..3 {
        assert_eq!(http::get(address(&app, instance), "/healthz").await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn udp_ports_are_mapped() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let client = cluster.client().await;
    let port = v1::Port { protocol: v1::Protocol::Udp.into(), ..tcp(9000, 0) };
    let app = deploy(&client, with_ports(app(&cluster.image(), &["udp-echo", "9000"]), &[port])).await;
    let target = address(&app, 0);
    let echoed = tokio::task::spawn_blocking(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut buffer = [0; 64];
        // UDP may lose a datagram: ask again.
        (0..20).find_map(|_| {
            socket.send_to(b"hello", target).unwrap();
            socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec())
        })
    });
    assert_eq!(echoed.await.unwrap().unwrap(), b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_policies_do_what_they_say() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let client = cluster.client().await;
    let starts = |app: &v1::App| app.status.as_ref().unwrap().instances[0].starts;

    for policy in [v1::RestartPolicy::Never, v1::RestartPolicy::OnFailure] {
        let done = deploy(&client, restart(app(&cluster.image(), &["exit", "0"]), policy)).await;
        let done = wait::for_value("the end of the instance", || async {
            let app = client.app("node", &done.app_name).await;
            (app.status.as_ref().unwrap().instances[0].state() == InstanceState::Exited).then_some(app)
        })
        .await;
        assert_eq!(starts(&done), 1);
        assert_eq!(done.status.unwrap().instances[0].last_exit.unwrap().code, 0);
    }

    for (policy, code) in [(v1::RestartPolicy::Always, "0"), (v1::RestartPolicy::OnFailure, "3")] {
        // Healthy first, since the settle time is shorter, then ends again and again.
        let again = deploy(&client, restart(app(&cluster.image(), &["exit", code, "1000"]), policy)).await;
        wait::until("two restarts", || async { starts(&client.app("node", &again.app_name).await) >= 3 }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oom_after_success_is_seen_in_the_apps_status() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let client = cluster.client().await;
    let mut spec = restart(serve(&cluster, &["serve"]), v1::RestartPolicy::Always);
    spec.resources = Some(v1::Resources { memory_bytes: 32 << 20, cpu_millis: 500, ..Default::default() });
    let app = deploy(&client, spec).await;
    // The process is killed before it can answer.
    http::request("POST", address(&app, 0), "/eat?bytes=268435456", "").await.unwrap_err();
    wait::until("an exit with OOM", || async {
        let app = client.app("node", &app.app_name).await;
        app.status.unwrap().instances[0].last_exit.as_ref().is_some_and(|exit| exit.out_of_memory)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_keep_and_lose_what_they_should() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let client = cluster.client().await;
    let kept = cluster.directory().join("kept");
    let volume = |mount_path: &str, source| v1::Volume {
        mount_path: mount_path.to_owned(),
        read_only: false,
        source: Some(source),
    };
    use v1::volume::Source;
    let host_path = v1::HostPath { path: kept.display().to_string(), create: true };
    let disk = v1::EmptyDir { medium: v1::EmptyDirMedium::Disk.into(), size_limit_bytes: 0 };
    let memory = v1::EmptyDir { medium: v1::EmptyDirMedium::Memory.into(), size_limit_bytes: 1 << 20 };
    let volumes = vec![
        volume("/kept", Source::HostPath(host_path)),
        volume("/disk", Source::EmptyDir(disk)),
        volume("/memory", Source::EmptyDir(memory)),
    ];
    let app = deploy(&client, v1::AppSpec { volumes, ..serve(&cluster, &["serve"]) }).await;
    for place in ["kept", "disk", "memory"] {
        let written = http::request("POST", address(&app, 0), &format!("/write?path=/{place}/file"), "content").await;
        assert_eq!(written.unwrap().status, 200, "{place}");
        assert_eq!(get(&app, &format!("/read?path=/{place}/file")).await, "content");
    }
    let remove =
        v1::RemoveAppRequest { app_name: app.app_name.clone(), node_name: String::new(), ..Default::default() };
    client.apps.clone().remove_app(remove).await.unwrap();
    wait::until("the app to be gone", || async { client.apps_of("node").await.is_empty() }).await;
    assert_eq!(std::fs::read_to_string(kept.join("file")).unwrap(), "content");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&cluster.directory().display().to_string()), "{mounts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn system_directories_are_refused_before_anything_happens() {
    let cluster = Cluster::start().await;
    let _node = cluster.enroll("node", &[], None, &[]).await;
    let client = cluster.client().await;
    for path in ["/", "/etc", "/proc/self", "/var/run", "/var/../etc", "relative"] {
        let host_path = v1::HostPath { path: path.to_owned(), create: false };
        let volume = v1::Volume {
            mount_path: "/data".into(),
            read_only: false,
            source: Some(v1::volume::Source::HostPath(host_path)),
        };
        let request = v1::CreateJobRequest {
            spec: Some(v1::AppSpec { volumes: vec![volume], ..app(&cluster.image(), &["sleep"]) }),
            targets: Some(v1::Targets { node_names: vec!["node".into()], ..Default::default() }),
            ..Default::default()
        };
        let status = client.jobs.clone().create_job(request).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{path}");
        let details = tonic_types::StatusExt::get_details_bad_request(&status).unwrap();
        assert!(details.field_violations[0].field.starts_with("spec.volumes[0]"), "{details:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_read_through_the_agents_own_connection() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let client = cluster.client().await;
    let app =
        deploy(&client, restart(app(&cluster.image(), &["print", "100", "a line"]), v1::RestartPolicy::Never)).await;
    let request =
        v1::ReadLogsRequest { node_name: "node".into(), app_name: app.app_name, tail_lines: 5, ..Default::default() };
    let mut stream = client.apps.clone().read_logs(request).await.unwrap().into_inner();
    let mut lines = 0;
    while let Some(message) = stream.message().await.unwrap() {
        lines += message.lines.len();
    }
    assert_eq!(lines, 5);
}
