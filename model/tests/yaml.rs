//! The YAML that operators write, and what they are told when it is wrong.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::time::Duration;

use longshore_model::name::AppName;
use longshore_model::order::{JobOrder, Work};
use longshore_model::probe::{Action, Exec, Probe, Scheme, TcpSocket};
use longshore_model::rollout::Rollout;
use longshore_model::spec::{
    AppSpec, EmptyDir, EnvSource, HostPath, ImageSource, Medium, Network, NodeField, Protocol, PullPolicy,
    RestartPolicy, VolumeSource,
};
use longshore_model::{limits, validate};

const MINIMAL: &str = "
name: till
image: { reference: registry.example.com/shop/till:1.4.2 }
";

const FULL: &str = r#"
spec:
  name: till
  image:
    reference: registry.example.com/shop/till:1.4.2
    pullPolicy: Always
  command: [/app]
  args: [serve, --port, "80"]
  env:
    - name: GREETING
      value: hello
    - name: LEVEL
      value: "3"
    - name: HOST_IP
      nodeField: hostIP
    - name: NODE
      nodeField: nodeName
  resources:
    cpu: 500m
    memory: 64Mi
  restartPolicy: OnFailure
  instances: 2
  volumes:
    - mountPath: /data
      hostPath: { path: /srv/till, create: true }
    - mountPath: /cache
      readOnly: true
      emptyDir: {}
    - mountPath: /scratch
      emptyDir: { medium: Memory, sizeLimit: 16Mi }
  network:
    ports:
      - containerPort: 80
      - containerPort: 53
        protocol: udp
        hostInterface: eth0
  startup:
    settle: 2s
    maxStarts: 5
  livenessProbe:
    tcpSocket: { port: 80 }
    initialDelay: 30s
  readinessProbe:
    httpGet:
      scheme: HTTPS
      port: 8443
      path: /ready?full=1
      httpHeaders: [{ name: X-Probe, value: "1" }]
    period: 2s
    timeout: 500ms
    successThreshold: 2
    failureThreshold: 5
  hostPID: true
  user: 1000
  workingDir: /srv
  stopSignal: SIGINT
  terminationGracePeriod: 30s
  readOnlyRootFilesystem: true
  capabilities:
    add: [NET_ADMIN]
    drop: [ALL]
  pidsLimit: 100
  ulimits:
    - { name: nofile, soft: 1024, hard: 2048 }
    - { name: core, soft: -1 }
  shmSize: 128Mi
  accelerators:
    - { kind: nvidia.com/gpu, count: 2 }
  devices:
    - { hostPath: /dev/ttyUSB0 }
    - { hostPath: /dev/serial/by-id/scale, containerPath: /dev/scale, permissions: r }
  hostAliases:
    - { ip: 192.0.2.7, hostnames: [db, db.example.com] }
  dnsConfig:
    nameservers: [192.0.2.53]
    searches: [example.com]
    options: [{ name: ndots, value: 2 }, { name: rotate }]
  logs: { maxSize: 1Mi, maxFiles: 2, directory: /var/log/till }
targets:
  selector: role=till, site in (north, south)
  mixedArchitectures: true
rollout:
  maxParallel: 10
  absentAfter: 2m
timeout: 1m30s
"#;

fn spec(text: &str) -> AppSpec {
    serde_saphyr::from_str(text).unwrap()
}

/// The error for a text, with its place.
fn error(text: &str) -> (String, Option<(u64, u64)>) {
    let error = serde_saphyr::from_str::<JobOrder>(text).unwrap_err();
    let place = error.location().map(|place| (place.line(), place.column()));
    (error.to_string(), place)
}

#[test]
fn little_is_needed() {
    let spec = spec(MINIMAL);
    assert_eq!(spec.name, "till");
    assert_eq!(spec.image.source, ImageSource::Reference("registry.example.com/shop/till:1.4.2".to_owned()));
    assert_eq!((spec.instances, spec.restart_policy), (1, RestartPolicy::Always));
    assert_eq!(spec.network, Network::Ports(Vec::new()));
    assert_eq!((spec.startup.settle, spec.startup.max_starts), (limits::DEFAULT_SETTLE, limits::DEFAULT_MAX_STARTS));
    assert!(spec.resources.is_unlimited());
}

#[test]
fn everything_is_read_as_it_is_meant() {
    let order: JobOrder = serde_saphyr::from_str(FULL).unwrap();
    assert_eq!(validate::job_order(&order), Ok(Vec::new()));
    let spec = order.work.spec().unwrap();
    assert_eq!(spec.image.pull_policy, Some(PullPolicy::Always));
    assert_eq!(spec.args, ["serve", "--port", "80"]);
    let sources: Vec<&EnvSource> = spec.env.iter().map(|var| &var.source).collect();
    assert_eq!(*sources[1], EnvSource::Value("3".to_owned()));
    assert_eq!(*sources[2], EnvSource::NodeField(NodeField::HostIp));
    assert_eq!(*sources[3], EnvSource::NodeField(NodeField::Name));
    assert_eq!((spec.resources.cpu, spec.resources.memory), (Some(500), Some(64 << 20)));
    assert_eq!(spec.restart_policy, RestartPolicy::OnFailure);
    let volumes: Vec<&VolumeSource> = spec.volumes.iter().map(|volume| &volume.source).collect();
    assert_eq!(*volumes[0], VolumeSource::HostPath(HostPath { path: "/srv/till".to_owned(), create: true }));
    assert_eq!(*volumes[1], VolumeSource::EmptyDir(EmptyDir { medium: Medium::Disk, size_limit: None }));
    assert_eq!(*volumes[2], VolumeSource::EmptyDir(EmptyDir { medium: Medium::Memory, size_limit: Some(16 << 20) }));
    let Network::Ports(ports) = &spec.network else { unreachable!("ports were given") };
    assert_eq!((ports[0].container_port, ports[0].host_port, ports[0].protocol), (80.into(), None, Protocol::Tcp));
    assert_eq!((ports[1].protocol, ports[1].host_interface.as_deref()), (Protocol::Udp, Some("eth0")));
    assert_eq!((spec.startup.settle, spec.startup.max_starts), (Duration::from_secs(2), 5));
    let liveness = spec.liveness_probe.as_ref().unwrap();
    assert_eq!(liveness.action, Action::TcpSocket(TcpSocket { host: None, port: 80 }));
    let defaults = Probe::new(liveness.action.clone());
    assert_eq!(*liveness, Probe { initial_delay: Duration::from_secs(30), ..defaults });
    let readiness = spec.readiness_probe.as_ref().unwrap();
    let Action::HttpGet(get) = &readiness.action else { unreachable!("a GET was given") };
    assert_eq!((get.scheme, get.port, get.path.as_str()), (Scheme::Https, 8443, "/ready?full=1"));
    assert_eq!(get.http_headers[0].name, "X-Probe");
    assert_eq!((readiness.period, readiness.timeout), (Duration::from_secs(2), Duration::from_millis(500)));
    assert_eq!((readiness.success_threshold, readiness.failure_threshold), (2, 5));
    assert_eq!((spec.privileged, spec.host_pid), (false, true));
    assert_eq!(spec.user.as_deref(), Some("1000"));
    assert_eq!((spec.working_dir.as_deref(), spec.stop_signal.as_deref()), (Some("/srv"), Some("SIGINT")));
    assert_eq!((spec.termination_grace_period, spec.read_only_root_filesystem), (Some(Duration::from_secs(30)), true));
    assert_eq!(spec.capabilities.granted().to_string(), "NET_ADMIN");
    assert_eq!((spec.pids_limit, spec.shm_size), (Some(100), Some(128 << 20)));
    assert_eq!((spec.logs.max_size, spec.logs.max_files), (Some(1 << 20), Some(2)));
    assert_eq!(spec.logs.directory.as_deref(), Some("/var/log/till"));
    let limits: Vec<_> = spec.ulimits.iter().map(|limit| (limit.name.as_str(), limit.soft, limit.hard)).collect();
    assert_eq!(limits, [("nofile", 1024, 2048), ("core", -1, -1)]);
    assert_eq!((spec.accelerators[0].kind.as_str(), spec.accelerators[0].count), ("nvidia.com/gpu", 2));
    let devices: Vec<_> = spec.devices.iter().map(|device| (device.target(), device.permissions.as_str())).collect();
    assert_eq!(devices, [("/dev/ttyUSB0", "rwm"), ("/dev/scale", "r")]);
    assert_eq!((spec.host_aliases[0].ip.as_str(), spec.host_aliases[0].hostnames.len()), ("192.0.2.7", 2));
    let dns = &spec.dns_config;
    assert_eq!((&*dns.nameservers, &*dns.searches), (&["192.0.2.53".to_owned()][..], &["example.com".to_owned()][..]));
    assert_eq!(dns.options.iter().map(ToString::to_string).collect::<Vec<_>>(), ["ndots:2", "rotate"]);
    assert_eq!(order.targets.selector.as_deref(), Some("role=till, site in (north, south)"));
    assert!(order.targets.mixed_architectures);
    assert_eq!(order.rollout, Rollout { max_parallel: 10, absent_after: Duration::from_secs(120) });
    assert_eq!(order.timeout, Duration::from_secs(90));
}

#[test]
fn a_probe_asks_one_thing() {
    let probe = |text: &str| serde_saphyr::from_str::<AppSpec>(&format!("{MINIMAL}livenessProbe: {text}"));
    let socket = probe("{ tcpSocket: { port: 1 } }").unwrap();
    assert_eq!(serde_json::from_value::<AppSpec>(serde_json::to_value(&socket).unwrap()).unwrap(), socket);
    let exec = probe("{ exec: { command: [/check, --quick] } }").unwrap().liveness_probe.unwrap();
    assert_eq!(exec.action, Action::Exec(Exec { command: vec!["/check".to_owned(), "--quick".to_owned()] }));
    for wrong in
        ["{}", "{ httpGet: { port: 1 }, tcpSocket: { port: 1 } }", "{ httpGet: { port: 1 }, exec: { command: [/x] } }"]
    {
        let error = probe(wrong).unwrap_err().to_string();
        assert!(error.contains("exactly one of `httpGet`"), "{error}");
    }
    for wrong in ["{ tcpSocket: { port: 70000 } }", "{ httpGet: { prot: 1 } }", "{ tcpSocket: { port: 1 }, period: 5 }"]
    {
        probe(wrong).unwrap_err();
    }
}

#[test]
fn the_host_network_is_one_word() {
    assert_eq!(spec(&format!("{MINIMAL}network: host")).network, Network::Host);
}

#[test]
fn an_archive_stands_in_for_a_reference() {
    let spec = spec("name: till\nimage: { archive: /srv/images/till.tar }");
    assert_eq!(spec.image.source, ImageSource::Archive("/srv/images/till.tar".to_owned()));
}

#[test]
fn amounts_are_numbers_or_texts() {
    let resources = |text: &str| spec(&format!("{MINIMAL}resources: {text}")).resources;
    for cpu in ["0.5", "\"0.5\"", "500m", "'500m'"] {
        assert_eq!(resources(&format!("{{ cpu: {cpu} }}")).cpu, Some(500), "{cpu}");
    }
    assert_eq!(resources("{ cpu: 2 }").cpu, Some(2000));
    for memory in ["64Mi", "67108864", "\"67108864\"", "65536Ki"] {
        assert_eq!(resources(&format!("{{ memory: {memory} }}")).memory, Some(64 << 20), "{memory}");
    }
    assert_eq!(resources("{ cpu: , memory: null }").cpu, None);
}

#[test]
fn nodes_can_be_named() {
    let text = "
spec: { name: till, image: { archive: /a.tar } }
targets: { nodes: [shop-1, shop-2] }
";
    let order: JobOrder = serde_saphyr::from_str(text).unwrap();
    assert_eq!(order.targets.node_names, ["shop-1", "shop-2"]);
    assert_eq!(order.timeout, limits::DEFAULT_TIMEOUT);
}

#[test]
fn a_kind_needs_its_own_parts_and_no_others() {
    let read = |text: &str| serde_saphyr::from_str::<JobOrder>(text);
    let removal = read("{ kind: Remove, app: till-x1 }").unwrap();
    assert_eq!(removal.work, Work::Remove(AppName::parse("till-x1").unwrap()));
    assert!(removal.targets.is_all());
    assert_eq!(validate::job_order(&removal), Ok(Vec::new()));
    let wrong = [
        ("{ kind: Remove }", "app_name: is missing"),
        ("{ kind: Remove, app: till-x1, spec: { name: a, image: { reference: a } } }", "spec: is not for REMOVE jobs"),
        ("{ app: till-x1, spec: { name: a, image: { reference: a } } }", "app_name: is not for DEPLOY jobs"),
        ("{ targets: { nodes: [a] } }", "spec: is missing"),
        ("{ kind: Remove, app: Till }", "'T' at position 1"),
    ];
    for (text, expected) in wrong {
        let message = read(text).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn what_is_written_is_read_back() {
    let removal: JobOrder = serde_saphyr::from_str("{ kind: Remove, app: till-x1 }").unwrap();
    let text = serde_saphyr::to_string(&removal).unwrap();
    assert_eq!(serde_saphyr::from_str::<JobOrder>(&text).unwrap(), removal, "{text}");
    let order: JobOrder = serde_saphyr::from_str(FULL).unwrap();
    let text = serde_saphyr::to_string(&order).unwrap();
    assert_eq!(serde_saphyr::from_str::<JobOrder>(&text).unwrap(), order, "{text}");
    let host = spec(&format!("{MINIMAL}network: host"));
    let text = serde_saphyr::to_string(&host).unwrap();
    assert_eq!(spec(&text), host, "{text}");
    let json = serde_json::to_string(&order).unwrap();
    assert_eq!(serde_json::from_str::<JobOrder>(&json).unwrap(), order, "{json}");
}

#[test]
fn a_misspelt_key_is_an_error_with_its_place() {
    let places = [
        ("restartPolicy: OnFailure", "restartpolicy: OnFailure", "restartpolicy"),
        ("cpu: 500m", "cpus: 500m", "cpus"),
        ("value: hello", "valu: hello", "valu"),
        ("readOnly: true", "readonly: true", "readonly"),
        ("pullPolicy: Always", "pullpolicy: Always", "pullpolicy"),
        ("hostInterface: eth0", "interface: eth0", "interface"),
        ("settle: 2s", "settel: 2s", "settel"),
        ("maxParallel: 10", "maxparallel: 10", "maxparallel"),
        ("absentAfter: 2m", "absentafter: 2m", "absentafter"),
        ("timeout: 1m30s", "timout: 1m30s", "timout"),
        ("create: true", "mkdir: true", "mkdir"),
        ("shmSize: 128Mi", "shmsize: 128Mi", "shmsize"),
        ("drop: [ALL]", "dropp: [ALL]", "dropp"),
        ("permissions: r", "permission: r", "permission"),
        ("hostnames: [db", "hostname: [db", "hostname"),
        ("searches: [", "search: [", "search"),
    ];
    for (right, wrong, key) in places {
        let text = FULL.replace(right, wrong);
        let (line, column) = place(&text, wrong);
        let (message, found) = error(&text);
        assert!(message.contains(&format!("unknown field `{key}`")), "{message}");
        assert_eq!(found, Some((line, column)), "{message}");
    }
}

#[test]
fn a_bad_value_is_an_error_with_its_line() {
    let places = [
        ("cpu: 500m", "cpu: lots", "\"lots\" is not an amount of CPU such as 2, 0.5 or 500m"),
        ("memory: 64Mi", "memory: 64MB", "\"64MB\" is not a number of bytes such as 64Mi, 1.5Gi, 500M or 1048576"),
        ("absentAfter: 2m", "absentAfter: 2", "\"2\" is not a duration such as 500ms, 5s, 1m30s or 2h"),
        ("terminationGracePeriod: 30s", "terminationGracePeriod: 30", "\"30\" is not a duration"),
        ("settle: 2s", "settle: 2", "\"2\" is not a duration such as 500ms, 5s, 1m30s or 2h"),
        ("restartPolicy: OnFailure", "restartPolicy: Sometimes", "Sometimes"),
        ("nodeField: hostIP", "nodeField: hostname", "hostname"),
        ("containerPort: 80", "containerPort: 80000", "80000"),
        (
            "value: hello",
            "value: hello\n      nodeField: hostIP",
            "only one of `value`, `nodeField`, `nodeLabel`, `secretKey` and `configKey` may be given",
        ),
    ];
    for (right, wrong, expected) in places {
        let text = FULL.replace(right, wrong);
        let (line, _) = place(&text, wrong);
        let (message, found) = error(&text);
        assert!(message.contains(expected), "{message}");
        let near = found.is_some_and(|(found, _)| found.abs_diff(line) <= 1);
        assert!(near, "{wrong:?} is in line {line}, and the error says {found:?}: {message}");
    }
}

/// Line and column of a text, from 1.
fn place(text: &str, part: &str) -> (u64, u64) {
    let at = text.find(part).unwrap();
    let line = text[..at].lines().count().max(1);
    let column = at - text[..at].rfind('\n').map_or(0, |newline| newline + 1) + 1;
    let is_line_start = text[..at].ends_with('\n');
    ((line + usize::from(is_line_start)) as u64, column as u64)
}
