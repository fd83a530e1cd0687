//! Hundreds of requests that no server should take, over every call: none of them is the server's own fault.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use longshore_proto::v1;
use prost::Message;
use prost_types::{Duration, FileDescriptorSet};
use tonic::{Code, Response, Status, Streaming};
use tonic_types::StatusExt;

use crate::harness::{World, order, soon};

mod generated;

/// What agents call; all else is for people.
const OF_AGENTS: [&str; 2] = ["AgentService", "EnrollmentService"];
const UNKNOWN: &str = "01arz3ndektsv4rrffq69g5fav";
/// What no name, identifier, selector, filter, token or path is.
const TEXTS: [&str; 14] = [
    "",
    " ",
    "-",
    "UPPER",
    "a b",
    "é",
    "\0",
    "..",
    "a/b/../c",
    "'; DROP TABLE job; --",
    "(((",
    "=",
    "\u{202e}\u{feff}",
    "99999999999999999999999999999999999999999999999999999999999999999999999999999999999999",
];
const DURATIONS: [Duration; 6] = [
    Duration { seconds: -1, nanos: 0 },
    Duration { seconds: 0, nanos: -1 },
    Duration { seconds: 0, nanos: 1 },
    Duration { seconds: i64::MAX, nanos: 999_999_999 },
    Duration { seconds: i64::MIN, nanos: 0 },
    Duration { seconds: 1, nanos: i32::MAX },
];
const NUMBERS: [i32; 4] = [-1, i32::MIN, 99, i32::MAX];

/// What was answered, by call.
#[derive(Default)]
struct Answers {
    refused: BTreeMap<String, usize>,
    wrong: Vec<String>,
}

impl Answers {
    fn of<T>(&mut self, call: &str, request: &dyn Debug, result: Result<T, Status>) {
        let Err(status) = result else { return };
        *self.refused.entry(call.to_owned()).or_default() += 1;
        let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        if matches!(status.code(), Code::Internal | Code::Unknown) || reason.is_empty() {
            self.wrong.push(format!("{call} {request:?}: {status:?}"));
        }
    }

    async fn of_stream<T>(&mut self, call: &str, request: &dyn Debug, result: Result<Response<Streaming<T>>, Status>) {
        let result = match result {
            Ok(stream) => soon(stream.into_inner().message()).await.map(drop),
            Err(status) => Err(status),
        };
        self.of(call, request, result);
    }
}

fn owned(text: &str) -> String {
    text.to_owned()
}

/// Each gives one field of a spec a value.
fn spoil(text: &str) -> Vec<v1::CreateJobRequest> {
    let mut requests = Vec::new();
    let mut with = |change: &dyn Fn(&mut v1::CreateJobRequest, &mut v1::AppSpec)| {
        let mut request = order(&["shop-1"]);
        let mut spec = request.spec.take().unwrap();
        change(&mut request, &mut spec);
        // What is no mistake after all must not become a job.
        requests.push(v1::CreateJobRequest { spec: Some(spec), validate_only: true, ..request });
    };
    let volume = |mount_path: &str, source| v1::Volume { mount_path: owned(mount_path), source, read_only: false };
    let host = |path: &str| v1::volume::Source::HostPath(v1::HostPath { path: owned(path), create: false });
    with(&|_, spec| spec.name = owned(text));
    with(&|_, spec| spec.image.as_mut().unwrap().source = Some(v1::image::Source::Reference(owned(text))));
    with(&|_, spec| spec.image.as_mut().unwrap().source = Some(v1::image::Source::Archive(owned(text))));
    with(&|_, spec| spec.command = vec![owned(text); 300]);
    with(&|_, spec| spec.env = vec![v1::EnvVar { name: owned(text), source: None }]);
    with(&|_, spec| spec.volumes = vec![volume(text, None)]);
    with(&|_, spec| spec.volumes = vec![volume("/data", Some(host(text)))]);
    with(&|_, spec| {
        let port = v1::Port { container_port: 8080, host_interface: owned(text), ..Default::default() };
        let mapping = v1::PortMapping { ports: vec![port.clone(), port] };
        spec.network = Some(v1::Network { mode: Some(v1::network::Mode::PortMapping(mapping)) });
    });
    with(&|request, _| request.targets.as_mut().unwrap().node_names = vec![owned(text)]);
    with(&|request, _| request.targets = Some(v1::Targets { selector: owned(text), ..Default::default() }));
    with(&|request, _| request.request_id = owned(text));
    requests
}

fn misnumber(number: i32) -> Vec<v1::CreateJobRequest> {
    let mut requests = Vec::new();
    let mut with = |change: &dyn Fn(&mut v1::AppSpec)| {
        let mut request = order(&["shop-1"]);
        change(request.spec.as_mut().unwrap());
        requests.push(v1::CreateJobRequest { validate_only: true, ..request });
    };
    with(&|spec| spec.restart_policy = number);
    with(&|spec| spec.image.as_mut().unwrap().pull_policy = number);
    with(&|spec| spec.instances = number.cast_unsigned());
    with(&|spec| {
        spec.env = vec![v1::EnvVar { name: owned("A"), source: Some(v1::env_var::Source::NodeField(number)) }]
    });
    with(&|spec| spec.resources = Some(v1::Resources { cpu_millis: 1, memory_bytes: u64::MAX, ..Default::default() }));
    with(&|spec| {
        let port = v1::Port { container_port: number.cast_unsigned(), protocol: number, ..Default::default() };
        let mapping = v1::PortMapping { ports: vec![port] };
        spec.network = Some(v1::Network { mode: Some(v1::network::Mode::PortMapping(mapping)) });
    });
    with(&|spec| {
        let directory = v1::EmptyDir { medium: number, size_limit_bytes: u64::MAX };
        let source = Some(v1::volume::Source::EmptyDir(directory));
        spec.volumes = vec![v1::Volume { mount_path: owned("/data"), source, read_only: false }];
    });
    requests
}

async fn creations(world: &World, answers: &mut Answers) {
    let mut requests: Vec<v1::CreateJobRequest> = TEXTS.iter().flat_map(|text| spoil(text)).collect();
    requests.extend(NUMBERS.iter().flat_map(|number| misnumber(*number)));
    requests.extend(DURATIONS.map(|timeout| v1::CreateJobRequest { timeout: Some(timeout), ..order(&["shop-1"]) }));
    requests.extend(DURATIONS.map(|absent_after| {
        let rollout = v1::Rollout { absent_after: Some(absent_after), ..Default::default() };
        v1::CreateJobRequest { rollout: Some(rollout), ..order(&["shop-1"]) }
    }));
    requests.extend(DURATIONS.map(|settle| {
        let mut request = order(&["shop-1"]);
        let startup = v1::Startup { settle: Some(settle), max_starts: u32::MAX };
        request.spec.as_mut().unwrap().startup = Some(startup);
        request
    }));
    requests.push(v1::CreateJobRequest::default());
    for request in requests {
        let result = world.jobs().create_job(request.clone()).await;
        answers.of("CreateJob", &request, result);
    }
}

async fn jobs_by_id(world: &World, answers: &mut Answers) {
    for text in TEXTS.into_iter().chain([UNKNOWN]) {
        let (job_id, etag) = (owned(text), owned(text));
        let mut jobs = world.jobs();
        let get = v1::GetJobRequest { job_id: job_id.clone(), ..Default::default() };
        answers.of("GetJob", &get, jobs.get_job(get.clone()).await);
        let watch = v1::WatchJobRequest { job_id: job_id.clone(), cursor: owned(text) };
        answers.of_stream("WatchJob", &watch, jobs.watch_job(watch.clone()).await).await;
        let wait = v1::WaitJobRequest { job_id: job_id.clone(), timeout: None };
        answers.of("WaitJob", &wait, jobs.wait_job(wait.clone()).await);
        let stop = v1::StopJobRequest { job_id: job_id.clone(), etag: etag.clone(), ..Default::default() };
        answers.of("StopJob", &stop, jobs.stop_job(stop.clone()).await);
        let resume = v1::ResumeJobRequest { job_id: job_id.clone(), etag: etag.clone(), ..Default::default() };
        answers.of("ResumeJob", &resume, jobs.resume_job(resume.clone()).await);
        let retry = v1::RetryJobRequest { job_id: job_id.clone(), etag, ..Default::default() };
        answers.of("RetryJob", &retry, jobs.retry_job(retry.clone()).await);
        let (page_token, filter, order_by) = (owned(text), owned(text), owned(text));
        let tasks = v1::ListTasksRequest { job_id, page_size: -1, page_token, filter, order_by };
        answers.of("ListTasks", &tasks, jobs.list_tasks(tasks.clone()).await);
    }
    for timeout in DURATIONS {
        let wait = v1::WaitJobRequest { job_id: owned(UNKNOWN), timeout: Some(timeout) };
        answers.of("WaitJob", &wait, world.jobs().wait_job(wait.clone()).await);
    }
}

async fn lists(world: &World, answers: &mut Answers) {
    for text in TEXTS {
        for (page_size, page_token, filter, order_by) in
            [(0, text, "", ""), (0, "", text, ""), (0, "", "", text), (i32::MIN, text, text, text)]
        {
            let (page_token, filter, order_by) = (owned(page_token), owned(filter), owned(order_by));
            let (token, wanted, order) = (page_token.clone(), filter.clone(), order_by.clone());
            let jobs = v1::ListJobsRequest { page_size, page_token: token, filter: wanted, order_by: order };
            answers.of("ListJobs", &jobs, world.jobs().list_jobs(jobs.clone()).await);
            let nodes = v1::ListNodesRequest {
                page_size,
                page_token: page_token.clone(),
                filter: filter.clone(),
                selector: owned(text),
                order_by: order_by.clone(),
            };
            answers.of("ListNodes", &nodes, world.nodes().list_nodes(nodes.clone()).await);
            let (token, wanted, order) = (page_token.clone(), filter.clone(), order_by.clone());
            let tokens =
                v1::ListEnrollmentTokensRequest { page_size, page_token: token, filter: wanted, order_by: order };
            answers.of("ListEnrollmentTokens", &tokens, world.nodes().list_enrollment_tokens(tokens.clone()).await);
            let (token, wanted, order) = (page_token.clone(), filter.clone(), order_by.clone());
            let pending = v1::ListPendingNodesRequest { page_size, page_token: token, filter: wanted, order_by: order };
            answers.of("ListPendingNodes", &pending, world.nodes().list_pending_nodes(pending.clone()).await);
            let (node_name, app_name) = (owned(text), owned(text));
            let apps = v1::ListAppsRequest { page_size, page_token, node_name, app_name, filter, order_by };
            answers.of("ListApps", &apps, world.apps().list_apps(apps.clone()).await);
            let events = v1::ListAppEventsRequest {
                page_size,
                page_token: apps.page_token,
                app_name: apps.app_name,
                node_name: apps.node_name,
                instance: Some(u32::MAX),
                since: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: -1 }),
                filter: apps.filter,
                order_by: apps.order_by,
            };
            answers.of("ListAppEvents", &events, world.apps().list_app_events(events.clone()).await);
        }
    }
}

async fn nodes(world: &World, answers: &mut Answers) {
    for text in TEXTS.into_iter().chain(["nowhere"]) {
        let name = owned(text);
        let mut nodes = world.nodes();
        let get = v1::GetNodeRequest { name: name.clone() };
        answers.of("GetNode", &get, nodes.get_node(get.clone()).await);
        let delete = v1::DeleteNodeRequest { name: name.clone(), etag: owned(text), ..Default::default() };
        answers.of("DeleteNode", &delete, nodes.delete_node(delete.clone()).await);
        for labels in [Default::default(), [(name.clone(), name.clone())].into()] {
            let node = v1::Node { name: name.clone(), labels, etag: owned(text), ..Default::default() };
            let update_mask = Some(prost_types::FieldMask { paths: vec![owned(text), format!("labels.{text}")] });
            let update = v1::UpdateNodeRequest { node: Some(node), update_mask, ..Default::default() };
            answers.of("UpdateNode", &update, nodes.update_node(update.clone()).await);
        }
        let label = v1::UpdateNodeLabelsRequest { name: name.clone(), ..Default::default() };
        answers.of("UpdateNodeLabels", &label, nodes.update_node_labels(label.clone()).await);
        let label = v1::UpdateNodeLabelsRequest {
            name: owned("shop-1"),
            set: [(name.clone(), name.clone())].into(),
            remove: vec![name.clone()],
            etag: owned("0"),
            ..Default::default()
        };
        answers.of("UpdateNodeLabels", &label, nodes.update_node_labels(label.clone()).await);
        let token = v1::CreateEnrollmentTokenRequest {
            labels: [(name.clone(), name.clone())].into(),
            node_name: name,
            ttl: Some(DURATIONS[0]),
            validate_only: true,
            ..Default::default()
        };
        answers.of("CreateEnrollmentToken", &token, nodes.create_enrollment_token(token.clone()).await);
        let delete = v1::DeleteEnrollmentTokenRequest { token_id: owned(text), ..Default::default() };
        answers.of("DeleteEnrollmentToken", &delete, nodes.delete_enrollment_token(delete.clone()).await);
        let approve = v1::ApproveNodeRequest { name: owned(text), etag: owned(text), ..Default::default() };
        answers.of("ApproveNode", &approve, nodes.approve_node(approve.clone()).await);
        let deny = v1::DenyNodeRequest { name: owned(text), etag: owned(text), ..Default::default() };
        answers.of("DenyNode", &deny, nodes.deny_node(deny.clone()).await);
    }
    for ttl in DURATIONS {
        let token = v1::CreateEnrollmentTokenRequest { ttl: Some(ttl), ..Default::default() };
        answers.of("CreateEnrollmentToken", &token, world.nodes().create_enrollment_token(token.clone()).await);
    }
}

async fn users(world: &World, answers: &mut Answers) {
    let mut users = world.users();
    for text in TEXTS {
        let (name, etag) = (owned(text), owned(text));
        let role = v1::UserRole::Viewer.into();
        let create = v1::CreateUserRequest { name: name.clone(), role, csr_der: text.into(), ..Default::default() };
        answers.of("CreateUser", &create, users.create_user(create.clone()).await);
        let revoke = v1::RevokeUserRequest { name, etag, ..Default::default() };
        answers.of("RevokeUser", &revoke, users.revoke_user(revoke.clone()).await);
        let renew = v1::RenewUserCertificateRequest { csr_der: text.into() };
        answers.of("RenewUserCertificate", &renew, users.renew_user_certificate(renew.clone()).await);
        let (page_token, filter, order_by) = (owned(text), owned(text), owned(text));
        let list = v1::ListUsersRequest { page_size: -1, page_token, filter, order_by };
        answers.of("ListUsers", &list, users.list_users(list.clone()).await);
    }
    for (ttl, role) in DURATIONS.into_iter().zip(NUMBERS.into_iter().cycle()) {
        let create = v1::CreateUserRequest { name: owned("x"), role, ttl: Some(ttl), ..Default::default() };
        answers.of("CreateUser", &create, users.create_user(create.clone()).await);
    }
}

async fn apps(world: &World, answers: &mut Answers) {
    for text in TEXTS.into_iter().chain(["nowhere"]) {
        let (node_name, app_name) = (owned(text), owned(text));
        let mut apps = world.apps();
        let get = v1::GetAppRequest { node_name: node_name.clone(), app_name: app_name.clone() };
        answers.of("GetApp", &get, apps.get_app(get.clone()).await);
        for node_name in [node_name.clone(), owned("shop-1")] {
            let remove = v1::RemoveAppRequest { node_name, app_name: app_name.clone(), ..Default::default() };
            answers.of("RemoveApp", &remove, apps.remove_app(remove.clone()).await);
        }
        let (instance, tail_lines) = (u32::MAX, u32::MAX);
        let read =
            v1::ReadLogsRequest { node_name, app_name, instance, tail_lines, follow: true, ..Default::default() };
        answers.of_stream("ReadLogs", &read, apps.read_logs(read.clone()).await).await;
    }
    for since in DURATIONS {
        let (node_name, app_name) = (owned("shop-1"), owned("till-1"));
        let read = v1::ReadLogsRequest {
            node_name,
            app_name,
            since: Some(since),
            previous: true,
            follow: true,
            ..Default::default()
        };
        let mut apps = world.apps();
        answers.of_stream("ReadLogs", &read, apps.read_logs(read.clone()).await).await;
    }
}

async fn credentials(world: &World, answers: &mut Answers) {
    let mut credentials = world.credentials("user/admin/bob");
    for text in TEXTS {
        let credential = v1::RegistryCredential {
            name: owned(text),
            registry: owned(text),
            username: owned(text),
            ca_certificate_pem: owned(text),
            ..Default::default()
        };
        let create = v1::CreateRegistryCredentialRequest {
            registry_credential: Some(credential.clone()),
            request_id: owned(text),
            ..Default::default()
        };
        let result = credentials.create_registry_credential(create.clone()).await;
        answers.of("CreateRegistryCredential", &create, result);
        let update_mask = Some(prost_types::FieldMask { paths: vec![owned(text)] });
        let update = v1::UpdateRegistryCredentialRequest {
            registry_credential: Some(credential),
            update_mask,
            ..Default::default()
        };
        let result = credentials.update_registry_credential(update.clone()).await;
        answers.of("UpdateRegistryCredential", &update, result);
        let get = v1::GetRegistryCredentialRequest { name: owned(text) };
        answers.of("GetRegistryCredential", &get, credentials.get_registry_credential(get.clone()).await);
        let delete = v1::DeleteRegistryCredentialRequest { name: owned(text), ..Default::default() };
        answers.of("DeleteRegistryCredential", &delete, credentials.delete_registry_credential(delete.clone()).await);
        let (page_token, filter, order_by) = (owned(text), owned(text), owned(text));
        let list = v1::ListRegistryCredentialsRequest { page_size: -1, page_token, filter, order_by };
        answers.of("ListRegistryCredentials", &list, credentials.list_registry_credentials(list.clone()).await);
        let fetch = v1::FetchRegistryCredentialRequest { app_name: owned(text), ..Default::default() };
        let result = world.agent_service("shop-1").fetch_registry_credential(fetch.clone()).await;
        answers.of("FetchRegistryCredential", &fetch, result);
    }
}

#[tokio::test]
async fn no_bad_request_is_the_servers_fault() {
    let world = World::start().await;
    world.enroll("shop-1", &[]).await;
    let mut answers = Answers::default();
    creations(&world, &mut answers).await;
    jobs_by_id(&world, &mut answers).await;
    lists(&world, &mut answers).await;
    nodes(&world, &mut answers).await;
    apps(&world, &mut answers).await;
    users(&world, &mut answers).await;
    credentials(&world, &mut answers).await;
    generated::send(&world, &mut answers).await;
    assert_eq!(answers.wrong, Vec::<String>::new());

    let set = FileDescriptorSet::decode(longshore_proto::DESCRIPTORS).unwrap();
    let services = set.file.iter().flat_map(|file| &file.service);
    let people = services.filter(|service| !OF_AGENTS.contains(&service.name()));
    let mut calls: BTreeSet<&str> = people.flat_map(|service| &service.method).map(|method| method.name()).collect();
    // The one call of agents that a text decides.
    calls.insert("FetchRegistryCredential");
    let called: BTreeSet<&str> = answers.refused.keys().map(String::as_str).collect();
    assert_eq!(called, calls, "every call refused something");
    let refused: usize = answers.refused.values().sum();
    assert!(refused >= 1_000, "only {refused} were refused: {:?}", answers.refused);
    let created = world.jobs().list_jobs(v1::ListJobsRequest::default()).await.unwrap().into_inner().jobs;
    assert_eq!(created, [], "nothing came of any of them");
}
