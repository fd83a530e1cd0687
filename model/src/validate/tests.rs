#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may stop at the first surprise")]

use super::*;
use crate::order::Work;
use crate::probe::{Action, Exec, Header, HttpGet, Probe, Scheme, TcpSocket};
use crate::spec::{
    Capabilities, HostPath, Network, NodeField, Port, PortRange, Protocol, PullPolicy, Requests, Ulimit, Volume,
};
use crate::targets::Targets;

mod surroundings;

fn spec() -> AppSpec {
    AppSpec::new("till", ImageSource::Reference("registry.example.com/shop/till:1.4.2".to_owned()))
}

fn order(spec: AppSpec) -> JobOrder {
    JobOrder {
        work: Work::Deploy(spec.into()),
        targets: Targets { selector: Some("role=till".to_owned()), ..Targets::default() },
        rollout: crate::rollout::Rollout::default(),
        timeout: limits::DEFAULT_TIMEOUT,
    }
}

/// Fields that are wrong after a change of a valid spec.
fn fields(change: impl FnOnce(&mut AppSpec)) -> Vec<String> {
    wrong(change).0.into_iter().map(|violation| violation.field).collect()
}

fn wrong(change: impl FnOnce(&mut AppSpec)) -> Violations {
    let mut spec = spec();
    change(&mut spec);
    job_order(&order(spec)).err().unwrap_or_default()
}

fn literal(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), source: EnvSource::Value(value.to_owned()) }
}

fn port(container_port: u16, host_port: Option<u16>, interface: Option<&str>) -> Port {
    Port {
        container_port: container_port.into(),
        host_port: host_port.map(PortRange::from),
        protocol: Protocol::Tcp,
        host_interface: interface.map(str::to_owned),
    }
}

fn host_path(mount: &str, path: &str) -> Volume {
    let source = VolumeSource::HostPath(HostPath { path: path.to_owned(), create: false });
    Volume { mount_path: mount.to_owned(), read_only: false, source }
}

fn empty_dir(mount: &str, medium: Medium, size_limit: Option<u64>) -> Volume {
    let source = VolumeSource::EmptyDir(EmptyDir { medium, size_limit });
    Volume { mount_path: mount.to_owned(), read_only: false, source }
}

#[test]
fn whoever_asks_for_root_is_told_what_that_is() {
    let advice = job_order(&order(AppSpec { privileged: true, ..spec() })).unwrap();
    assert_eq!(advice, ["A privileged app is root on its nodes, and so is whoever gets into it."]);
}

#[test]
fn a_good_order_passes_without_advice() {
    assert_eq!(job_order(&order(spec())), Ok(Vec::new()));
}

#[test]
fn a_full_spec_passes() {
    let found = wrong(|spec| {
        spec.command = vec!["/app".to_owned()];
        spec.args = vec![String::new(), "--x".to_owned()];
        spec.env = vec![
            literal("A.b-c_1", ""),
            EnvVar { name: "_HOST".to_owned(), source: EnvSource::NodeField(NodeField::HostIp) },
        ];
        spec.resources = Resources { cpu: Some(10), memory: Some(limits::MIN_MEMORY), requests: Requests::default() };
        spec.volumes = vec![
            host_path("/data", "/srv/till"),
            host_path("/data/more", "/opt/more"),
            empty_dir("/dev/shm", Medium::Memory, Some(1 << 20)),
            empty_dir("/tmp", Medium::Disk, None),
        ];
        spec.network = Network::Ports(vec![
            port(80, Some(8080), Some("eth0")),
            port(80, Some(8080), Some("eth1")),
            Port { protocol: Protocol::Udp, ..port(80, Some(8080), None) },
            port(81, None, None),
            port(82, None, None),
        ]);
        spec.startup = Startup { settle: Duration::ZERO, max_starts: 1 };
    });
    assert_eq!(found, Violations::default());
}

#[test]
fn everything_wrong_is_found_at_once() {
    let mut spec = spec();
    spec.name = "Till".to_owned();
    spec.instances = 65;
    spec.env = vec![literal("1A", ""), literal("OK", ""), literal("OK", "x\0")];
    let mut order = order(spec);
    order.targets = Targets::default();
    order.rollout.absent_after = Duration::from_secs(9);
    order.timeout = Duration::from_millis(1);
    let violations = job_order(&order).unwrap_err();
    let fields: Vec<&str> = violations.0.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.name",
            "spec.env[0].name",
            "spec.env[2].name",
            "spec.env[2].value",
            "spec.instances",
            "targets",
            "rollout.absent_after",
            "timeout"
        ]
    );
    assert_eq!(violations.0[6].description, "is 9s; it must be 0s, for never, or from 10s to 168h");
    assert_eq!(violations.0[7].description, "is 1ms; it must be from 1s to 168h");
    assert!(violations.to_string().ends_with("(and 7 more)"), "{violations}");
}

#[test]
fn nodes_are_never_absent_or_not_at_once() {
    let mut order = order(spec());
    for (seconds, is_right) in [(0, true), (1, false), (9, false), (10, true), (604_800, true), (604_801, false)] {
        order.rollout.absent_after = Duration::from_secs(seconds);
        assert_eq!(job_order(&order).is_ok(), is_right, "{seconds} seconds");
    }
}

#[test]
fn names_are_prefixes_of_dns_labels() {
    for name in ["", "-a", "a-", "A", "a_b", &"x".repeat(41)] {
        assert_eq!(fields(|spec| spec.name = name.to_owned()), ["spec.name"], "{name}");
    }
}

#[test]
fn images_are_references_or_archives() {
    let reference = |text: &str| fields(|spec| spec.image.source = ImageSource::Reference(text.to_owned()));
    for text in ["nginx", "nginx:1.27", "localhost:5000/a/b:c", &format!("a.b/c@sha256:{}", "0".repeat(64))] {
        assert!(reference(text).is_empty(), "{text}");
    }
    for text in ["", "Nginx", "a b", "a:b:c", "nginx@sha256:12", "http://x/y", ":tag"] {
        assert_eq!(reference(text), ["spec.image.reference"], "{text}");
    }
    let archive = |text: &str| fields(|spec| spec.image.source = ImageSource::Archive(text.to_owned()));
    assert!(archive("/srv/till.tar").is_empty());
    for text in ["", "till.tar", "/srv/../till.tar", "/"] {
        assert_eq!(archive(text), ["spec.image.archive"], "{text}");
    }
    let policy = fields(|spec| {
        spec.image = Image {
            source: ImageSource::Archive("/a.tar".to_owned()),
            pull_policy: Some(PullPolicy::Never),
            credential: None,
            keep_for: None,
        };
    });
    assert_eq!(policy, ["spec.image.pull_policy"]);
}

#[test]
fn floating_tags_are_advised_against() {
    let advised = |reference: &str| {
        let mut spec = spec();
        spec.image.source = ImageSource::Reference(reference.to_owned());
        job_order(&order(spec)).unwrap().len()
    };
    assert_eq!(advised("nginx"), 1);
    assert_eq!(advised("localhost:5000/nginx:latest"), 1);
    assert_eq!(advised("nginx:1.27"), 0);
    assert_eq!(advised(&format!("nginx@sha256:{}", "a".repeat(64))), 0);
}

#[test]
fn words_have_limits() {
    assert_eq!(fields(|spec| spec.command = vec![String::new()]), ["spec.command[0]"]);
    assert_eq!(fields(|spec| spec.args = vec!["x".to_owned(); limits::MAX_ARGS + 1]), ["spec.args"]);
    assert_eq!(fields(|spec| spec.args = vec!["x".repeat(limits::MAX_ARG + 1)]), ["spec.args[0]"]);
    assert_eq!(fields(|spec| spec.args = vec!["ok".to_owned(), "a\0".to_owned()]), ["spec.args[1]"]);
}

#[test]
fn env_has_limits() {
    assert_eq!(
        fields(|spec| spec.env = vec![literal("A", &"x".repeat(limits::MAX_ENV_VALUE + 1))]),
        ["spec.env[0].value"]
    );
    assert_eq!(fields(|spec| spec.env = vec![literal(&"A".repeat(257), "")]), ["spec.env[0].name"]);
    let many = (0..=limits::MAX_ENV).map(|index| literal(&format!("A{index}"), "")).collect();
    assert_eq!(fields(|spec| spec.env = many), ["spec.env"]);
    for name in ["", "1", "A=B", "a b", "-A", "é"] {
        assert_eq!(fields(|spec| spec.env = vec![literal(name, "")]), ["spec.env[0].name"], "{name}");
    }
}

#[test]
fn references_to_nodes_are_well_formed_and_few() {
    let many = "${node.name}".repeat(limits::MAX_REFERENCES);
    let found = wrong(|spec| {
        spec.command = vec!["/bin/${node.name}".to_owned()];
        spec.args = vec!["${HOME} $${node.nothing}".to_owned(), many.clone()];
        spec.env = vec![
            literal("A", "${node.labels.example.com/site}"),
            EnvVar { name: "B".to_owned(), source: EnvSource::NodeLabel("role".to_owned()) },
        ];
        spec.volumes = vec![host_path("/a", "/srv/${node.labels.example.com/site}/${node.host_ip}")];
    });
    assert_eq!(found, Violations::default());
    let fields = fields(|spec| {
        spec.command = vec!["${node.nothing}".to_owned()];
        spec.args = vec![many + "${node.name}"];
        spec.env = vec![
            literal("A", "${node.labels.a b}"),
            EnvVar { name: "B".to_owned(), source: EnvSource::NodeLabel("a b".to_owned()) },
        ];
        spec.volumes = vec![
            host_path("/a", "/srv/${node.name"),
            host_path("/b", "/etc/${node.name}"),
            host_path("/c", "${node.name}/data"),
            host_path("/d", "/srv/${node.name}/../etc"),
        ];
    });
    let paths = [0, 1, 2, 3].map(|index| format!("spec.volumes[{index}].host_path.path"));
    let others = ["spec.command[0]", "spec.args[0]", "spec.env[0].value", "spec.env[1].node_label"].map(str::to_owned);
    assert_eq!(fields, [others, paths].concat());
}

#[test]
fn resources_have_limits() {
    assert_eq!(fields(|spec| spec.resources.cpu = Some(9)), ["spec.resources.cpu_millis"]);
    assert_eq!(fields(|spec| spec.resources.memory = Some(limits::MIN_MEMORY - 1)), ["spec.resources.memory_bytes"]);
    assert_eq!(fields(|spec| spec.resources.memory = Some(u64::MAX)), ["spec.resources.memory_bytes"]);
    let asking = |cpu, memory, limits: (Option<u32>, Option<u64>)| {
        let resources = Resources { cpu: limits.0, memory: limits.1, requests: Requests { cpu, memory } };
        fields(|spec| spec.resources = resources)
    };
    assert!(asking(Some(1), Some(1), (Some(500), Some(64 << 20))).is_empty());
    assert!(asking(Some(u32::MAX), Some(1 << 62), (None, None)).is_empty());
    let both = ["spec.resources.requests.cpu_millis", "spec.resources.requests.memory_bytes"];
    assert_eq!(asking(Some(501), Some((64 << 20) + 1), (Some(500), Some(64 << 20))), both);
    assert_eq!(asking(None, Some(u64::MAX), (None, None)), both[1..]);
    assert_eq!(fields(|spec| spec.instances = 0), ["spec.instances"]);
    assert_eq!(fields(|spec| spec.startup.max_starts = 0), ["spec.startup.max_starts"]);
    assert_eq!(fields(|spec| spec.startup.max_starts = 101), ["spec.startup.max_starts"]);
    assert_eq!(fields(|spec| spec.startup.settle = Duration::from_secs(601)), ["spec.startup.settle"]);
}

#[test]
fn system_directories_are_refused() {
    for path in [
        "/",
        "/etc",
        "//etc/./ssh/",
        "/proc/1/root",
        "/var/run/docker.sock",
        "/var/lib/docker",
        "/srv/docker.sock",
        "/root",
    ] {
        assert_eq!(
            fields(|spec| spec.volumes = vec![host_path("/d", path)]),
            ["spec.volumes[0].host_path.path"],
            "{path}"
        );
    }
    for path in ["relative", "/srv/../etc", ""] {
        assert_eq!(
            fields(|spec| spec.volumes = vec![host_path("/d", path)]),
            ["spec.volumes[0].host_path.path"],
            "{path}"
        );
    }
}

#[test]
fn mounts_do_not_collide() {
    let found = wrong(|spec| spec.volumes = vec![host_path("/data", "/srv/a"), host_path("//data/", "/srv/b")]);
    assert_eq!(found.to_string(), "spec.volumes[1].mount_path: is the same as that of volumes[0]");
    for mount in ["/", "data", "/proc", "/sys/fs", "/dev/x", "/etc/hosts", "/a/../b", "/a/${node.name}"] {
        let volumes = vec![host_path(mount, "/srv/a")];
        assert_eq!(fields(|spec| spec.volumes = volumes), ["spec.volumes[0].mount_path"], "{mount}");
    }
    let many = (0..=limits::MAX_VOLUMES).map(|index| host_path(&format!("/{index}"), "/srv")).collect();
    assert_eq!(fields(|spec| spec.volumes = many), ["spec.volumes"]);
}

#[test]
fn empty_directories_have_a_size_in_memory_only() {
    let size = |medium, limit| fields(|spec| spec.volumes = vec![empty_dir("/d", medium, limit)]);
    let field = ["spec.volumes[0].empty_dir.size_limit_bytes"];
    assert_eq!(size(Medium::Disk, Some(1 << 20)), field);
    assert_eq!(size(Medium::Memory, None), field);
    assert_eq!(size(Medium::Memory, Some(1)), field);
    assert_eq!(size(Medium::Memory, Some(u64::MAX)), field);
}

#[test]
fn ports_do_not_collide() {
    let found = |ports| wrong(|spec| spec.network = Network::Ports(ports)).to_string();
    let path = "spec.network.port_mapping.ports";
    assert_eq!(
        found(vec![port(80, Some(8080), None), port(81, Some(8080), Some("eth0"))]),
        format!("{path}[1]: takes the same host port as ports[0]")
    );
    assert_eq!(found(vec![port(80, None, None), port(80, None, None)]), format!("{path}[1]: is the same as ports[0]"));
    assert_eq!(found(vec![port(0, None, None)]), format!("{path}[0].container_port: is needed, from 1 to 65535"));
    assert!(found(vec![port(1, Some(0), None)]).starts_with(&format!("{path}[0].host_port")));
    for name in ["", "with space", "a/b", "sixteen-letters-", "."] {
        assert!(found(vec![port(1, None, Some(name))]).starts_with(&format!("{path}[0].host_interface")), "{name}");
    }
    let many: Vec<Port> = (1..=65).map(|number| port(number, None, None)).collect();
    assert_eq!(found(many), format!("{path}: has 65 entries; at most 64 are allowed"));
}

#[test]
fn several_instances_may_share_a_fixed_port() {
    let found = wrong(|spec| {
        spec.instances = 2;
        spec.network = Network::Ports(vec![port(80, Some(8080), None), port(80, None, None)]);
    });
    assert_eq!(found, Violations::default());
}

/// Ports from `first` to `last` on those of the node.
fn range(first: u16, last: u16, host: Option<(u16, u16)>) -> Port {
    let range = |(first, last)| PortRange { first, last };
    Port { container_port: range((first, last)), host_port: host.map(range), ..port(1, None, None) }
}

#[test]
fn ranges_of_ports_are_of_the_same_length_and_bounded() {
    let found = |ports: &[Port], instances| {
        let change = |spec: &mut AppSpec| {
            spec.network = Network::Ports(ports.to_vec());
            spec.instances = instances;
        };
        wrong(change).to_string().replace("spec.network.port_mapping.ports", "ports")
    };
    let most = limits::MAX_MAPPED_PORTS as u16;
    let fine = "nothing is wrong";
    assert_eq!(found(&[range(8000, 8010, Some((9000, 9010))), range(8000, 8001, None)], 1), fine);
    assert_eq!(found(&[range(1, most, None)], 8), fine);
    let table = [
        (
            range(8000, 8010, Some((9000, 9001))),
            "[0].host_port: has 2 ports for 11 of the container; both ranges must be of the same length",
        ),
        (
            range(80, 80, Some((80, 81))),
            "[0].host_port: has 2 ports for 1 of the container; both ranges must be of the same length",
        ),
        (range(8010, 8000, None), "[0].container_port: is 8010-8000; a range ends with its last port"),
        (range(1, 2, Some((2, 1))), "[0].host_port: is 2-1; a range ends with its last port"),
        (range(0, 9, None), "[0].container_port: is needed, from 1 to 65535"),
        (range(1, most + 1, None), ": has 513 ports, those of ranges one by one; at most 512 are allowed"),
        (
            range(1, u16::MAX, Some((1, u16::MAX))),
            ": has 65535 ports, those of ranges one by one; at most 512 are allowed",
        ),
    ];
    for (port, told) in table {
        assert_eq!(found(&[port], 1), format!("ports{told}"));
    }
    assert_eq!(
        found(&[range(1, 200, None)], 64),
        "ports: has 200 ports for each of 64 instances; at most 4096 are allowed together"
    );
    let overlapping = [range(1, 10, Some((9000, 9009))), range(20, 20, Some((9009, 9009)))];
    assert_eq!(found(&overlapping, 1), "ports[1]: takes the same host port as ports[0]");
}

/// Fields below a readiness probe that are wrong.
fn probe_fields(action: Action, change: impl FnOnce(&mut Probe)) -> Vec<String> {
    let mut probe = Probe::new(action);
    change(&mut probe);
    let found = fields(|spec| spec.readiness_probe = Some(probe));
    found.into_iter().map(|field| field.strip_prefix("spec.readiness_probe.").unwrap_or(&field).to_owned()).collect()
}

fn get(change: impl FnOnce(&mut HttpGet)) -> Action {
    let mut get =
        HttpGet { scheme: Scheme::Http, host: None, port: 80, path: "/".to_owned(), http_headers: Vec::new() };
    change(&mut get);
    Action::HttpGet(get)
}

#[test]
fn probes_have_limits() {
    let none: [&str; 0] = [];
    for right in ["/", "/a/b.c?d=e&f=%20g", "/~x/@y:z;1,2!$'()*+=[]"] {
        assert_eq!(probe_fields(get(|get| get.path = right.to_owned()), |_| {}), none, "{right}");
    }
    for wrong in ["", "a", "http://x/", "/ HTTP/1.0\r\nX: y", "/a b", "/é", "/a#b", "/\0", "/\u{202e}"] {
        assert_eq!(probe_fields(get(|get| get.path = wrong.to_owned()), |_| {}), ["http_get.path"], "{wrong}");
    }
    let long = format!("/{}", "a".repeat(limits::MAX_PROBE_PATH));
    assert_eq!(probe_fields(get(|get| get.path = long), |_| {}), ["http_get.path"]);
    for right in ["example.com", "till", "10.0.0.1", "fe80::1"] {
        assert_eq!(probe_fields(get(|get| get.host = Some(right.to_owned())), |_| {}), none, "{right}");
    }
    for wrong in ["", "a b", "a..b", "-a", "user@host", "host:80", "[::1]", "exämple.com", "а.example"] {
        let socket = Action::TcpSocket(TcpSocket { host: Some(wrong.to_owned()), port: 1 });
        assert_eq!(probe_fields(socket, |_| {}), ["tcp_socket.host"], "{wrong}");
    }
    assert_eq!(probe_fields(get(|get| get.port = 0), |_| {}), ["http_get.port"]);
    let header = |name: &str, value: &str| Header { name: name.to_owned(), value: value.to_owned() };
    for (name, value, field) in [
        ("", "", "name"),
        ("a b", "", "name"),
        ("X:", "", "name"),
        ("Content-Length", "5", "name"),
        ("transfer-ENCODING", "chunked", "name"),
        ("X", "a\r\nY: b", "value"),
        ("X", "\0", "value"),
        ("X", "é", "value"),
    ] {
        let headers = vec![header("Ok", "fine, too"), header(name, value)];
        let found = probe_fields(get(|get| get.http_headers = headers), |_| {});
        assert_eq!(found, [format!("http_get.http_headers[1].{field}")], "{name} {value}");
    }
    let (name, value) = ("n".repeat(limits::MAX_PROBE_HEADER_NAME + 1), "v".repeat(limits::MAX_PROBE_HEADER_VALUE + 1));
    let found = probe_fields(get(|get| get.http_headers = vec![header(&name, &value)]), |_| {});
    assert_eq!(found, ["http_get.http_headers[0].name", "http_get.http_headers[0].value"]);
    let many = vec![header("X", ""); limits::MAX_PROBE_HEADERS + 1];
    assert_eq!(probe_fields(get(|get| get.http_headers = many), |_| {}), ["http_get.http_headers"]);
}

#[test]
fn commands_of_probes_have_limits() {
    let exec = |words: &[&str]| Action::Exec(Exec { command: words.iter().map(|&word| word.to_owned()).collect() });
    let none: [&str; 0] = [];
    assert_eq!(probe_fields(exec(&["/check", "", "--quick"]), |_| {}), none);
    let (long, many) = ("x".repeat(limits::MAX_PROBE_COMMAND), ["/x"; limits::MAX_PROBE_COMMAND_WORDS + 1]);
    for wrong in [&[][..], &["", "x"], &["/", &long], &many] {
        assert_eq!(probe_fields(exec(wrong), |_| {}), ["exec.command"]);
    }
    assert_eq!(probe_fields(exec(&["/x", "a\0b"]), |_| {}), ["exec.command[1]"]);
}

#[test]
fn all_that_is_wrong_with_a_probe_is_found_at_once() {
    let found = probe_fields(get(|_| {}), |probe| {
        probe.initial_delay = limits::MAX_PROBE_PERIOD + Duration::from_nanos(1);
        probe.period = Duration::from_millis(999);
        probe.timeout = Duration::MAX;
        (probe.success_threshold, probe.failure_threshold) = (0, 101);
    });
    assert_eq!(found, ["initial_delay", "period", "timeout", "failure_threshold", "success_threshold"]);
    let liveness = wrong(|spec| {
        let action = Action::TcpSocket(TcpSocket { host: None, port: 1 });
        spec.liveness_probe = Some(Probe { success_threshold: 2, ..Probe::new(action) });
    });
    assert_eq!(liveness.to_string(), "spec.liveness_probe.success_threshold: is 2; for liveness it must be 1");
}

#[test]
fn options_have_rules() {
    let all = fields(|spec| {
        (spec.pids_limit, spec.shm_size) = (Some(limits::MIN_PIDS - 1), Some(1));
        (spec.working_dir, spec.stop_signal) = (Some("srv".to_owned()), Some("SIGNONE".to_owned()));
        (spec.user, spec.termination_grace_period) = (Some(String::new()), Some(Duration::from_secs(3601)));
    });
    let expected = ["user", "working_dir", "stop_signal", "termination_grace_period", "pids_limit", "shm_size_bytes"];
    assert_eq!(all, expected.map(|field| format!("spec.{field}")));
    for user in ["0", "1000:1000", "www-data", "_apt:4294967294", "demo:video", "4294967294"] {
        assert!(wrong(|spec| spec.user = Some(user.to_owned())).0.is_empty(), "{user}");
    }
    let long = "a".repeat(limits::MAX_LOGIN + 1);
    let users =
        [":", "a:", ":a", "a:b:c", "-1", "4294967295", "99999999999", "a b", "a\0", "a=b", "../a", "r\u{43e}ot", &long];
    for user in users {
        assert_eq!(fields(|spec| spec.user = Some(user.to_owned())), ["spec.user"], "{user}");
    }
    for directory in ["", "a/b", "/a/../b", "/a\0", "/a\u{200b}", &format!("/{}", "a".repeat(5000))] {
        assert_eq!(fields(|spec| spec.working_dir = Some(directory.to_owned())), ["spec.working_dir"], "{directory}");
    }
    for signal in ["", "15", "TERM", "sigterm", "SIGTERM\0", "SIGT\u{415}RM", "SIGRTMIN", "SIGSTOP"] {
        assert_eq!(fields(|spec| spec.stop_signal = Some(signal.to_owned())), ["spec.stop_signal"], "{signal}");
    }
    for size in [0, 4095, u64::MAX] {
        assert_eq!(fields(|spec| spec.shm_size = Some(size)), ["spec.shm_size_bytes"], "{size}");
    }
    let kept = |max_size, max_files, instances| {
        fields(|spec| {
            (spec.logs.max_size, spec.logs.max_files) = (Some(max_size), Some(max_files));
            spec.instances = instances;
        })
    };
    assert_eq!(kept(limits::MIN_LOG_SIZE - 1, 0, 1), ["spec.logs.max_size_bytes", "spec.logs.max_files"]);
    assert_eq!(kept(u64::MAX, u32::MAX, 1), ["spec.logs.max_size_bytes", "spec.logs.max_files"]);
    assert!(kept(limits::MAX_LOG_SIZE, limits::MAX_LOG_FILES, 1).is_empty());
    assert_eq!(kept(limits::MAX_LOG_SIZE, limits::MAX_LOG_FILES, 2), ["spec.logs"], "together they are too many");
    for directory in ["", "logs", "/", "/proc/x", "/a/../b", "/etc/hosts"] {
        assert_eq!(
            fields(|spec| spec.logs.directory = Some(directory.to_owned())),
            ["spec.logs.directory"],
            "{directory}"
        );
    }
    let mounted = |at: &str| {
        fields(|spec| {
            spec.logs.directory = Some("/var/log/app".to_owned());
            spec.volumes = vec![empty_dir(at, Medium::Disk, None)];
        })
    };
    assert_eq!(mounted("/var/log//app"), ["spec.logs.directory"]);
    assert_eq!(mounted("/var/log/app/below"), ["spec.logs.directory"], "it would be hidden");
    assert!(mounted("/var/log").is_empty());
    let shared = |spec: &mut AppSpec| {
        spec.shm_size = Some(1 << 20);
        spec.volumes = vec![empty_dir("/dev//shm", Medium::Memory, Some(1 << 20))];
    };
    assert_eq!(fields(shared), ["spec.shm_size_bytes"]);
}

#[test]
fn capabilities_are_known_and_named_once() {
    let found = |add: &[&str], drop: &[&str]| {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let capabilities = Capabilities { add: words(add), drop: words(drop) };
        fields(|spec| spec.capabilities = capabilities)
    };
    assert!(found(&["NET_ADMIN", "CAP_SYS_TIME"], &["ALL"]).is_empty());
    for wrong in ["", "net_admin", "NET_ADMIN ", "NET_ADMIN\0", "NET=ADMIN", "../NET_ADMIN", "N\u{415}T_ADMIN"] {
        assert_eq!(found(&[wrong], &[]), ["spec.capabilities.add[0]"], "{wrong:?}");
    }
    assert_eq!(found(&["KILL", "CAP_KILL"], &["KILL"]), ["spec.capabilities.add[1]", "spec.capabilities.drop[0]"]);
    assert_eq!(found(&["ALL"], &["ALL"]), ["spec.capabilities.drop[0]"]);
    assert_eq!(found(&["KILL"; 5000], &[])[0], "spec.capabilities.add");
    let privileged = |spec: &mut AppSpec| (spec.privileged, spec.capabilities.drop) = (true, vec!["KILL".to_owned()]);
    assert_eq!(fields(privileged), ["spec.capabilities"]);
}

#[test]
fn ulimits_are_known_and_in_order() {
    let limit = |name: &str, soft, hard| Ulimit { name: name.to_owned(), soft, hard };
    let good = vec![limit("nofile", 5, 5), limit("core", 0, -1), limit("stack", -1, -1)];
    assert!(wrong(|spec| spec.ulimits = good).0.is_empty());
    for (limit, field) in [
        (limit("as", 1, 1), "name"),
        (limit("NOFILE", 1, 1), "name"),
        (limit("nofile\0", 1, 1), "name"),
        (limit("n\u{43e}file", 1, 1), "name"),
        (limit("core", 2, 1), "soft"),
        (limit("core", -1, i64::MAX), "soft"),
        (limit("core", i64::MIN, -1), "soft"),
        (limit("core", 0, -2), "hard"),
    ] {
        let found = fields(|spec| spec.ulimits = vec![limit.clone()]);
        assert_eq!(found, [format!("spec.ulimits[0].{field}")], "{limit:?}");
    }
    let twice = vec![limit("core", 1, 1), limit("core", 1, 1)];
    assert_eq!(fields(|spec| spec.ulimits = twice), ["spec.ulimits[1].name"]);
    assert_eq!(fields(|spec| spec.ulimits = vec![limit("core", 1, 1); 5000])[0], "spec.ulimits");
}

#[test]
fn tokens_live_for_at_most_a_month() {
    assert!(token_ttl(limits::DEFAULT_TOKEN_TTL).is_ok());
    assert!(token_ttl(Duration::ZERO).is_err());
    assert!(token_ttl(limits::MAX_TOKEN_TTL + Duration::from_nanos(1)).is_err());
}
