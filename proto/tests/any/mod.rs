//! Any value of the model that the wire can carry.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use longshore_model::accelerator::Stock;
use longshore_model::app::{AppState, AppStatus, BoundPort, InstanceExit, InstanceState, InstanceStatus};
use longshore_model::assignment::{Assignment, ImageAccess, Order};
use longshore_model::capacity::Amounts;
use longshore_model::configuration::Kind;
use longshore_model::failure::{Failure, FailureReason};
use longshore_model::health::Readiness;
use longshore_model::host_path::NodeRules;
use longshore_model::name::{AppName, JobId, NodeName};
use longshore_model::node::{NetworkInterface, Node, NodeInfo};
use longshore_model::order::{JobOrder, Work};
use longshore_model::probe::{Action, Exec, Header, HttpGet, Probe, Scheme, TcpSocket};
use longshore_model::report::{AppReport, TaskReport};
use longshore_model::rollout::Rollout;
use longshore_model::spec::{
    AcceleratorQuota, AppSpec, Capabilities, Device, DnsConfig, DnsOption, EmptyDir, EnvFrom, EnvSource, EnvVar,
    HostAlias, HostPath, Image, ImageSource, Item, KeyOf, Logs, Medium, Network, NodeField, Port, PortRange,
    Projection, Protocol, PullPolicy, Requests, Resources, RestartPolicy, Startup, Ulimit, Volume, VolumeSource,
};
use longshore_model::targets::Targets;
use longshore_model::task::{PullProgress, PullStart, Task, TaskEvent, TaskState};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

pub(crate) fn time() -> impl Strategy<Value = Timestamp> {
    (-60_000_000_000..250_000_000_000i64, 0..1_000_000_000i32)
        .prop_map(|(seconds, nanos)| Timestamp::new(seconds, nanos).unwrap())
}

pub(crate) fn span() -> impl Strategy<Value = Duration> {
    (0..=i64::MAX as u64, 0..1_000_000_000u32).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
}

fn job_id() -> impl Strategy<Value = JobId> {
    "[0-9a-hjkmnp-tv-z]{26}".prop_map(|text| JobId::parse(&text).unwrap())
}

fn node_name() -> impl Strategy<Value = NodeName> {
    "[a-z0-9]{1,20}".prop_map(|text| NodeName::parse(&text).unwrap())
}

fn app_name() -> impl Strategy<Value = AppName> {
    "[a-z0-9]{1,20}".prop_map(|text| AppName::parse(&text).unwrap())
}

/// On the wire 0 means that nothing was said.
fn nonzero() -> impl Strategy<Value = Option<u32>> {
    option::of(1..=u32::MAX)
}

fn image() -> impl Strategy<Value = Image> {
    let source =
        prop_oneof![any::<String>().prop_map(ImageSource::Reference), any::<String>().prop_map(ImageSource::Archive),];
    let policy = option::of(select(vec![PullPolicy::Always, PullPolicy::IfNotPresent, PullPolicy::Never]));
    let credential = option::of(".{1,20}");
    (source, policy, credential, option::of(span())).prop_map(|(source, pull_policy, credential, keep_for)| Image {
        source,
        pull_policy,
        credential,
        keep_for,
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    select(vec![Kind::ConfigMap, Kind::Secret])
}

fn env_from() -> impl Strategy<Value = EnvFrom> {
    (kind(), any::<String>(), any::<String>()).prop_map(|(kind, name, prefix)| EnvFrom { kind, name, prefix })
}

fn projection() -> impl Strategy<Value = Projection> {
    let item = (any::<String>(), any::<String>(), nonzero()).prop_map(|(key, path, mode)| Item { key, path, mode });
    (kind(), any::<String>(), vec(item, 0..3), nonzero()).prop_map(|(kind, name, items, mode)| Projection {
        kind,
        name,
        items,
        mode,
    })
}

fn env() -> impl Strategy<Value = EnvVar> {
    let source = prop_oneof![
        any::<String>().prop_map(EnvSource::Value),
        select(vec![NodeField::HostIp, NodeField::Name]).prop_map(EnvSource::NodeField),
        any::<String>().prop_map(EnvSource::NodeLabel),
        (kind(), any::<String>(), any::<String>()).prop_map(|(kind, name, key)| EnvSource::Key(KeyOf {
            kind,
            name,
            key
        })),
    ];
    (any::<String>(), source).prop_map(|(name, source)| EnvVar { name, source })
}

fn volume() -> impl Strategy<Value = Volume> {
    let host = (any::<String>(), any::<bool>()).prop_map(|(path, create)| HostPath { path, create });
    let empty = (select(vec![Medium::Disk, Medium::Memory]), option::of(1..=u64::MAX))
        .prop_map(|(medium, size_limit)| EmptyDir { medium, size_limit });
    let source = prop_oneof![
        host.prop_map(VolumeSource::HostPath),
        empty.prop_map(VolumeSource::EmptyDir),
        projection().prop_map(VolumeSource::Projection)
    ];
    (any::<String>(), any::<bool>(), source).prop_map(|(mount_path, read_only, source)| Volume {
        mount_path,
        read_only,
        source,
    })
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::Tcp, Protocol::Udp])
}

fn network() -> impl Strategy<Value = Network> {
    let range =
        || (1..=u16::MAX, any::<u16>()).prop_map(|(first, more)| PortRange { first, last: first.saturating_add(more) });
    let container = prop_oneof![any::<u16>().prop_map(PortRange::from), range()];
    let port = (container, option::of(range()), protocol(), option::of(".{1,20}")).prop_map(
        |(container_port, host_port, protocol, host_interface)| Port {
            container_port,
            host_port,
            protocol,
            host_interface,
        },
    );
    prop_oneof![Just(Network::Host), vec(port, 0..4).prop_map(Network::Ports)]
}

fn probe() -> impl Strategy<Value = Probe> {
    let host = || option::of(".{1,20}");
    let header = (any::<String>(), any::<String>()).prop_map(|(name, value)| Header { name, value });
    let scheme = select(vec![Scheme::Http, Scheme::Https]);
    let get = (scheme, host(), any::<u16>(), ".{1,20}", vec(header, 0..3)).prop_map(
        |(scheme, host, port, path, http_headers)| Action::HttpGet(HttpGet { scheme, host, port, path, http_headers }),
    );
    let socket = (host(), any::<u16>()).prop_map(|(host, port)| Action::TcpSocket(TcpSocket { host, port }));
    let exec = vec(any::<String>(), 0..3).prop_map(|command| Action::Exec(Exec { command }));
    let action = prop_oneof![get, socket, exec];
    (action, span(), span(), span(), 1..=u32::MAX, 1..=u32::MAX).prop_map(
        |(action, initial_delay, period, timeout, success_threshold, failure_threshold)| Probe {
            action,
            initial_delay,
            period,
            timeout,
            success_threshold,
            failure_threshold,
        },
    )
}

pub(crate) fn spec() -> impl Strategy<Value = AppSpec> {
    let restart = select(vec![RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never]);
    let amounts = || (nonzero(), option::of(1..=u64::MAX));
    let resources = (amounts(), amounts()).prop_map(|((cpu, memory), asked)| {
        let requests = Requests { cpu: asked.0, memory: asked.1 };
        Resources { cpu, memory, requests }
    });
    let startup = (span(), 1..=u32::MAX).prop_map(|(settle, max_starts)| Startup { settle, max_starts });
    let words = || vec(any::<String>(), 0..3);
    let what = (any::<String>(), image(), words(), words(), (vec(env(), 0..3), vec(env_from(), 0..3)), resources);
    let security = (any::<bool>(), any::<bool>());
    let probes = (option::of(probe()), option::of(probe()));
    let how = (restart, 1..=u32::MAX, vec(volume(), 0..3), network(), startup, security, probes);
    (what, how, options()).prop_map(|(what, how, options)| {
        let (name, image, command, args, (env, env_from), resources) = what;
        let (restart_policy, instances, volumes, network, startup, (privileged, host_pid), probes) = how;
        let (liveness_probe, readiness_probe) = probes;
        AppSpec {
            name,
            image,
            command,
            args,
            env,
            env_from,
            resources,
            restart_policy,
            instances,
            volumes,
            network,
            startup,
            liveness_probe,
            readiness_probe,
            privileged,
            host_pid,
            ..options
        }
    })
}

/// What a container finds around it.
fn surroundings() -> impl Strategy<Value = (Vec<Device>, Vec<HostAlias>, DnsConfig)> {
    let text = || option::of(".{1,20}");
    let words = || vec(any::<String>(), 0..3);
    let device = (any::<String>(), text(), ".{1,3}").prop_map(|(host_path, container_path, permissions)| Device {
        host_path,
        container_path,
        permissions,
    });
    let alias = (any::<String>(), words()).prop_map(|(ip, hostnames)| HostAlias { ip, hostnames });
    let setting = (any::<String>(), text()).prop_map(|(name, value)| DnsOption { name, value });
    let dns = (words(), words(), vec(setting, 0..3)).prop_map(|(nameservers, searches, options)| DnsConfig {
        nameservers,
        searches,
        options,
    });
    (vec(device, 0..3), vec(alias, 0..3), dns)
}

/// A spec of which only what it says of its containers beyond what to run is of interest.
fn options() -> impl Strategy<Value = AppSpec> {
    let text = || option::of(".{1,20}");
    let words = || vec(any::<String>(), 0..3);
    let ulimit =
        (any::<String>(), any::<i64>(), any::<i64>()).prop_map(|(name, soft, hard)| Ulimit { name, soft, hard });
    let rights = (text(), any::<bool>(), words(), words());
    let life = (text(), text(), option::of(span()));
    let limits = (nonzero(), vec(ulimit, 0..3), option::of(1..=u64::MAX));
    let accelerator = (any::<String>(), 1..=u32::MAX).prop_map(|(kind, count)| AcceleratorQuota { kind, count });
    let accelerators = vec(accelerator, 0..3);
    let logs = (option::of(1..=u64::MAX), nonzero(), text());
    let logs = logs.prop_map(|(max_size, max_files, directory)| Logs { max_size, max_files, directory });
    (rights, life, limits, surroundings(), accelerators, logs).prop_map(
        |(rights, life, limits, surroundings, accelerators, logs)| {
            let (devices, host_aliases, dns_config) = surroundings;
            let (user, read_only_root_filesystem, add, drop) = rights;
            let (working_dir, stop_signal, termination_grace_period) = life;
            let (pids_limit, ulimits, shm_size) = limits;
            AppSpec {
                user,
                working_dir,
                stop_signal,
                termination_grace_period,
                read_only_root_filesystem,
                capabilities: Capabilities { add, drop },
                pids_limit,
                ulimits,
                shm_size,
                accelerators,
                devices,
                host_aliases,
                dns_config,
                logs,
                ..AppSpec::new("", ImageSource::Reference(String::new()))
            }
        },
    )
}

pub(crate) fn order() -> impl Strategy<Value = JobOrder> {
    let targets = (vec(any::<String>(), 0..3), option::of(".{1,20}"), any::<bool>())
        .prop_map(|(node_names, selector, mixed_architectures)| Targets { node_names, selector, mixed_architectures });
    let pull = (spec(), span()).prop_map(|(mut spec, keep_for)| {
        (spec.instances, spec.image.keep_for) = (0, Some(keep_for));
        Work::Pull(Arc::new(spec))
    });
    let work =
        prop_oneof![spec().prop_map(|spec| Work::Deploy(Arc::new(spec))), app_name().prop_map(Work::Remove), pull];
    let rollout =
        (any::<u32>(), span()).prop_map(|(max_parallel, absent_after)| Rollout { max_parallel, absent_after });
    (work, targets, rollout, span()).prop_map(|(work, targets, rollout, timeout)| JobOrder {
        work,
        targets,
        rollout,
        timeout,
    })
}

fn state() -> impl Strategy<Value = TaskState> {
    select(TaskState::ALL.to_vec())
}

fn pull() -> impl Strategy<Value = Option<PullProgress>> {
    option::of((any::<u64>(), any::<u64>()).prop_map(|(done, total)| PullProgress { done, total }))
}

fn failure() -> impl Strategy<Value = Failure> {
    (select(FailureReason::ALL.to_vec()), any::<String>(), state()).prop_map(|(reason, message, step)| Failure {
        reason,
        message,
        step,
    })
}

fn event() -> impl Strategy<Value = TaskEvent> {
    (any::<u32>(), state(), option::of(failure()), time(), any::<bool>())
        .prop_map(|(attempt, state, failure, time, late)| TaskEvent { attempt, state, failure, time, late })
}

pub(crate) fn task() -> impl Strategy<Value = Task> {
    let start = (time(), any::<u64>()).prop_map(|(time, done)| PullStart { time, done });
    let pull = (pull(), option::of(start));
    let what = (job_id(), node_name(), any::<u32>(), state(), pull, option::of(failure()));
    let when = (any::<bool>(), vec(option::of(time()), 3), time(), any::<(u64, u32)>(), vec(event(), 0..3));
    (what, when).prop_map(
        |(
            (job, node, attempt, state, (pull, pull_start), failure),
            (cancel_requested, times, update_time, (version, spec_revision), history),
        )| Task {
            job,
            node,
            attempt,
            spec_revision,
            state,
            pull,
            pull_start,
            failure,
            cancel_requested,
            absent_time: times[0],
            assign_time: times[1],
            update_time,
            end_time: times[2],
            version,
            history,
        },
    )
}

fn interface() -> impl Strategy<Value = NetworkInterface> {
    let ipv4 = vec(any::<u32>().prop_map(Ipv4Addr::from_bits), 0..3);
    let ipv6 = vec(any::<u128>().prop_map(Ipv6Addr::from_bits), 0..3);
    (any::<String>(), ipv4, ipv6).prop_map(|(name, ipv4, ipv6)| NetworkInterface { name, ipv4, ipv6 })
}

/// Never more that are free than there are.
fn stock() -> impl Strategy<Value = Stock> {
    (any::<String>(), any::<String>(), any::<u32>(), any::<u32>()).prop_map(|(kind, model, count, free)| Stock {
        kind,
        model,
        count,
        free: free.min(count),
    })
}

fn info() -> impl Strategy<Value = NodeInfo> {
    let machine = (any::<String>(), ".{1,20}", any::<String>(), any::<u32>(), any::<u64>());
    let host_ip = option::of(any::<u32>().prop_map(Ipv4Addr::from_bits));
    let rest = (vec(interface(), 0..3), vec(any::<String>(), 0..3), any::<String>(), host_ip);
    let amounts = (any::<u64>(), any::<u64>()).prop_map(|(cpu, memory)| Amounts { cpu, memory });
    let paths = || vec("/[a-z]{1,20}", 0..3);
    let rules = (paths(), paths()).prop_map(|(guarded, allowed)| NodeRules { guarded, allowed });
    let own = (option::of(amounts), option::of(rules), vec(stock(), 0..3));
    (machine, rest, own).prop_map(
        |(
            (agent_version, architecture, kernel_release, cpus, memory_bytes),
            (interfaces, capabilities, runtime, host_ip),
            (allocatable, host_paths, accelerators),
        )| {
            NodeInfo {
                agent_version,
                architecture,
                kernel_release,
                cpus,
                memory_bytes,
                interfaces,
                capabilities,
                runtime,
                host_ip,
                allocatable,
                host_paths,
                accelerators,
            }
        },
    )
}

pub(crate) fn node() -> impl Strategy<Value = Node> {
    let labels = vec((any::<String>(), any::<String>()), 0..3).prop_map(BTreeMap::from_iter);
    (node_name(), labels, time(), option::of(time()), option::of(info()), option::of(time())).prop_map(
        |(name, labels, enroll_time, last_seen, info, certificate_end)| Node {
            name,
            labels,
            enroll_time,
            last_seen,
            info,
            certificate_end,
        },
    )
}

pub(crate) fn status() -> impl Strategy<Value = AppStatus> {
    let states = vec![
        AppState::Unknown,
        AppState::Starting,
        AppState::Running,
        AppState::NotReady,
        AppState::BackOff,
        AppState::Completed,
        AppState::Failed,
        AppState::Removed,
    ];
    let exit = (any::<i32>(), any::<bool>(), time()).prop_map(|(code, out_of_memory, time)| InstanceExit {
        code,
        out_of_memory,
        time,
    });
    let instance_states =
        vec![InstanceState::Waiting, InstanceState::Running, InstanceState::BackOff, InstanceState::Exited];
    let readiness = (any::<bool>(), time(), any::<String>()).prop_map(|(ready, since, message)| Readiness {
        ready,
        since,
        message,
    });
    let probed = (option::of(".{1,20}"), option::of(readiness));
    let instance = (any::<u32>(), select(instance_states), any::<u32>(), option::of(time()), option::of(exit), probed)
        .prop_map(|(index, state, starts, start_time, last_exit, (last_exit_reason, readiness))| InstanceStatus {
            index,
            state,
            starts,
            start_time,
            last_exit,
            last_exit_reason,
            readiness,
        });
    let port =
        (any::<u32>(), any::<u16>(), any::<u16>(), protocol(), any::<u32>(), any::<bool>(), option::of(".{1,20}"))
            .prop_map(|(instance, container_port, host_port, protocol, ip, shared, host_interface)| BoundPort {
                instance,
                container_port,
                host_port,
                protocol,
                host_ip: Ipv4Addr::from_bits(ip),
                shared,
                host_interface,
            });
    (select(states), vec(instance, 0..3), vec(port, 0..3)).prop_map(|(state, instances, ports)| AppStatus {
        state,
        instances,
        ports,
    })
}

pub(crate) fn assignment() -> impl Strategy<Value = Assignment> {
    let order = select(vec![Order::Deploy, Order::Keep, Order::Cancel]);
    let access = select(vec![ImageAccess::Untold, ImageAccess::Open, ImageAccess::Credential]);
    let labels = vec(("[a-z]{1,9}", "[a-z]{0,9}"), 0..3).prop_map(BTreeMap::from_iter);
    (app_name(), any::<u64>(), job_id(), any::<u32>(), order, spec(), access, labels).prop_map(
        |(app, revision, job, attempt, order, spec, image_access, node_labels)| Assignment {
            app,
            revision,
            job,
            attempt,
            order,
            spec: Arc::new(spec),
            image_access,
            node_labels,
        },
    )
}

pub(crate) fn task_report() -> impl Strategy<Value = TaskReport> {
    (job_id(), any::<u32>(), state(), pull(), option::of(failure()))
        .prop_map(|(job, attempt, state, pull, failure)| TaskReport { job, attempt, state, pull, failure })
}

pub(crate) fn app_report() -> impl Strategy<Value = AppReport> {
    (app_name(), any::<u64>(), any::<u32>(), status()).prop_map(|(app, revision, attempt, status)| AppReport {
        app,
        revision,
        attempt,
        status,
    })
}
