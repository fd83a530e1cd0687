use longshore_model::spec::{ImageSource, Network, VolumeSource};
use longshore_proto::convert::FromWire;

use super::*;

const WHOLE: &str = r#"
spec:
  name: till
  image: {archive: /srv/till.tar}
  command: /bin/till --name "Main Street" 'a b'
  args: [--verbose, "2"]
  env:
    - {name: SITE, value: hamburg}
    - {name: HOST, nodeField: hostIP}
  resources: {cpu: 500m, memory: 64Mi}
  restartPolicy: OnFailure
  instances: 1
  volumes:
    - {mountPath: /data, hostPath: {path: /srv/data, create: true}}
    - {mountPath: /tmp, emptyDir: {medium: Memory, sizeLimit: 16Mi}}
  network:
    ports:
      - {containerPort: 8080}
      - {containerPort: 53, hostPort: 5353, protocol: udp, hostInterface: eth0}
  startup: {settle: 1s, maxStarts: 2}
  privileged: true
  hostPID: true
  user: "1000:1000"
  workingDir: /srv
  stopSignal: SIGINT
  terminationGracePeriod: 30s
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
  pidsLimit: 100
  ulimits: [{name: core, soft: 0}]
  shmSize: 1Mi
  accelerators: [{kind: nvidia.com/gpu, count: 2}]
  devices: [{hostPath: /dev/ttyUSB0, containerPath: /dev/scale, permissions: rw}]
  hostAliases: [{ip: 192.0.2.7, hostnames: [db, db.example.com]}]
  dnsConfig: {nameservers: [192.0.2.53], searches: [example.com], options: [{name: ndots, value: 2}, {name: rotate}]}
targets:
  selector: role=gateway
rollout: {maxParallel: 4}
timeout: 2m
"#;

/// The order that a file means.
fn order(text: &str) -> JobOrder {
    JobOrder::read(parse("job.yaml", text).unwrap()).unwrap()
}

fn spec_of(order: &JobOrder) -> &AppSpec {
    order.work.spec().unwrap()
}

#[test]
fn a_whole_file_becomes_the_request() {
    let order = order(WHOLE);
    assert_eq!(spec_of(&order).command, ["/bin/till", "--name", "Main Street", "a b"]);
    assert_eq!(spec_of(&order).args, ["--verbose", "2"]);
    assert_eq!(spec_of(&order).image.source, ImageSource::Archive("/srv/till.tar".to_owned()));
    assert_eq!(spec_of(&order).resources.cpu, Some(500));
    assert_eq!(spec_of(&order).resources.memory, Some(64 << 20));
    assert!(matches!(&spec_of(&order).volumes[0].source, VolumeSource::HostPath(host) if host.create));
    assert!(matches!(&spec_of(&order).network, Network::Ports(ports) if ports[1].host_port == Some(5353.into())));
    assert_eq!((spec_of(&order).privileged, spec_of(&order).host_pid), (true, true));
    let model: JobOrder =
        serde_saphyr::from_str(&WHOLE.replace("/bin/till --name \"Main Street\" 'a b'", "[a]")).unwrap();
    let same = AppSpec { command: vec!["a".to_owned()], ..spec_of(&order).clone() };
    assert_eq!(&same, spec_of(&model), "whatever the model knows the file may say");
    assert_eq!(order.targets.selector.as_deref(), Some("role=gateway"));
    let request = v1::CreateJobRequest::from(&order);
    assert_eq!(request.timeout.map(|timeout| timeout.seconds), Some(120));
    assert_eq!(request.rollout.map(|rollout| rollout.max_parallel), Some(4));
    assert_eq!(request.targets.map(|targets| targets.selector), Some("role=gateway".to_owned()));
}

#[test]
fn what_is_left_out_has_defaults() {
    let order = order("spec: {name: a, image: {reference: r:1}, network: host}\ntargets: {nodes: [n1, n2]}");
    assert_eq!(order.timeout, Duration::from_secs(600));
    assert_eq!(order.rollout.max_parallel, 0);
    assert_eq!(spec_of(&order).network, Network::Host);
    assert_eq!(order.targets.node_names, ["n1", "n2"]);
    assert_eq!(spec_of(&order).instances, 1);
}

#[track_caller]
fn refuses(text: &str, expected: &str) {
    let message = parse("job.yaml", text).unwrap_err();
    assert!(message.starts_with(expected), "{message}");
}

#[test]
fn mistakes_are_named_with_their_place() {
    refuses(
        "spec:\n  name: a\n  image: {reference: r:1}\n  restartpolicy: Never\ntargets: {nodes: [n]}\n",
        "job.yaml:4:3: unknown field `restartpolicy`",
    );
    refuses("spec: {name: a, image: {reference: r:1}}\ntarget: {nodes: [n]}\n", "job.yaml:2:1: unknown field `target`");
    refuses(
        "spec:\n  name: a\n  image: {reference: r:1}\n  instances: many\ntargets: {nodes: [n]}\n",
        "job.yaml:4:14: ",
    );
    refuses(
        "spec:\n  name: a\n  image: {reference: r:1}\n  command: sh -c 'oops\ntargets: {nodes: [n]}\n",
        "job.yaml:4:12: the command line ends inside quotes or with a backslash",
    );
    refuses(
        "spec:\n  name: a\n  image:\n    reference: r:1\n    archive: /x\ntargets: {nodes: [n]}\n",
        "job.yaml:4:5: only one of `reference` and `archive` may be given",
    );
    refuses("spec: {name: a, image: {reference: r:1}}\n", "job.yaml: targets: is missing");
    refuses("targets: {nodes: [n]}\n", "job.yaml: spec: is missing");
    refuses("spec: {}\ntargets: {nodes: [n]}\n", "job.yaml: spec.name: is missing; spec.image: is missing");
    refuses(
        "kind: Remove\nspec: {name: a, image: {reference: r:1}}\n",
        "job.yaml: app: is missing; spec: is not for REMOVE jobs; leave it out",
    );
    refuses("kind: Destroy\n", "job.yaml:1:7: ");
    refuses("spec: [\n", "job.yaml:");
}

#[test]
fn fields_of_the_wire_are_found_in_the_file() {
    let pairs = [
        ("spec.name", "spec.name"),
        ("spec.image.pull_policy", "spec.image.pullPolicy"),
        ("spec.env[2].name", "spec.env[2].name"),
        ("spec.resources.memory_bytes", "spec.resources.memory"),
        ("spec.resources.cpu_millis", "spec.resources.cpu"),
        ("spec.volumes[0].empty_dir.size_limit_bytes", "spec.volumes[0].emptyDir.sizeLimit"),
        ("spec.network.port_mapping.ports[1].host_port", "spec.network.ports[1].hostPort"),
        ("targets.node_names[3]", "targets.nodes[3]"),
        ("rollout.max_parallel", "rollout.maxParallel"),
        ("timeout", "timeout"),
        ("app_name", "app"),
    ];
    for (field, path) in pairs {
        assert_eq!(yaml_path(field), path);
    }
}

#[test]
fn a_removal_needs_an_app_and_nothing_else() {
    let order = order("kind: Remove\napp: till-x1\nrollout: {maxParallel: 2}\n");
    assert_eq!(order.work, Work::Remove(AppName::parse("till-x1").unwrap()));
    assert!(order.targets.is_all());
    let request = v1::CreateJobRequest::from(&order);
    assert_eq!((request.kind(), request.app_name.as_str(), request.spec), (v1::JobKind::Remove, "till-x1", None));
}

#[test]
fn of_a_template_only_what_is_said_is_otherwise() {
    let text = "template: {name: till, alias: stable}\nspec:\n  instances: 1\n  env: [{name: A, value: b}]\n\
                targets: {nodes: [n]}\ntimeout: 1m\n";
    let request = parse("job.yaml", text).unwrap();
    let template = v1::TemplateReference { name: "till".to_owned(), alias: "stable".to_owned(), ..Default::default() };
    let source = Some(v1::env_var::Source::Value("b".to_owned()));
    let env = vec![v1::EnvVar { name: "A".to_owned(), source }];
    let expected = v1::AppSpec { instances: 1, env, ..Default::default() };
    assert_eq!((request.template, request.spec), (Some(template), Some(expected)));
    assert_eq!(request.timeout.map(|timeout| timeout.seconds), Some(60));
    let bare = parse("job.yaml", "template: {name: till, version: 1.4}\nspec: {}\ntargets: {nodes: [n]}\n").unwrap();
    assert_eq!(bare.template.map(|template| template.version), Some("1.4".to_owned()));
    assert_eq!(bare.spec, Some(v1::AppSpec::default()));
    refuses("template: {name: till}\n", "job.yaml: targets: is missing");
}
