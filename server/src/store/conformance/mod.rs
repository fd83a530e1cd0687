//! What every store must do, written once and run for each of them.
//!
//! A case is a function of a [`Factory`]; [`conformance_suite!`] makes a test of each of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "a test that meets the unexpected must fail"
)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use longshore_model::admission::Fingerprint;
use longshore_model::app::{AppState, AppStatus};
use longshore_model::clock::Clock;
use longshore_model::job::{Amendment, Control, Job, TaskCounts};
use longshore_model::kind::JobKind;
use longshore_model::name::{AppName, JobId, NodeName, SessionId};
use longshore_model::node::{LabelChange, Labels, Node, NodeInfo};
use longshore_model::report::{AppReport, TaskReport};
use longshore_model::rollout::Rollout;
use longshore_model::spec::{AppSpec, ImageSource, Network};
use longshore_model::task::{Task, TaskState};

use super::{
    Change, EncodedAssignment, Enrolled, Enrolling, NewJob, NewSpec, NodeReport, Observer, RequestKey, Seen, Store,
    StoreError, StoredToken, Terms,
};

pub(super) mod amendments;
pub(super) mod apps;
pub(super) mod audit;
pub(super) mod configurations;
pub(super) mod credentials;
pub(super) mod enrolment;
pub(super) mod events;
pub(super) mod history;
pub(super) mod jobs;
pub(super) mod lists;
mod model;
pub(super) mod nodes;
pub(super) mod reports;
pub(super) mod retention;
pub(super) mod templates;
pub(super) mod terms;
pub(super) mod updates;
pub(super) mod users;

/// Makes stores for the suite.
pub(super) trait Factory: Send + Sync {
    /// Opens the store; again, after the last one was dropped, with everything that it remembered.
    fn open(&self, observer: Arc<dyn Observer>) -> Arc<dyn Store>;
}

/// Makes a test of every case for one factory.
macro_rules! conformance_suite {
    ($factory:expr) => {
        conformance_suite! { $factory;
            jobs: created_jobs_are_found, what_is_answered_is_what_is_kept, creation_is_refused, jobs_are_paged_newest_first, tasks_are_paged_by_name,
                only_connected_nodes_are_assigned, max_parallel_paces, absent_nodes_leave_their_places, absence_outlives_the_store,
                assignment_deploys, what_a_node_has_not_said_is_not_sent_to_it,
                an_assignment_brings_the_labels_that_its_spec_asks_for,
                assignment_passes_over_what_is_not_pending, stop_and_resume, stop_with_cancel, a_stop_can_become_a_cancel, retry_starts_anew, a_retry_can_be_of_some,
                requests_are_refused, deadlines_pass, unknown_jobs_are_not_found, everything_is_counted;
            amendments: what_is_retried_gets_another_spec, an_update_that_is_amended_leads_on_or_back,
                what_was_brought_up_late_gives_way_to_another_spec, a_creation_is_answered_with_its_own_spec,
                an_amendment_is_made_once, specs_are_bounded;
            retention: old_jobs_are_forgotten, what_is_needed_is_kept, a_creation_that_may_come_again_is_kept;
            terms: a_request_that_comes_again_is_answered_as_before, a_retry_that_comes_again_starts_nothing,
                requests_are_forgotten_after_a_day, every_change_is_made_once, remembered_requests_are_bounded,
                what_has_changed_is_left_alone, what_is_only_validated_is_left_alone, nodes_are_told_which_call_it_was;
            reports: progress_counts, failure_forgets_the_app, a_free_slot_is_told, reports_coalesce_in_order,
                late_reports_are_kept, reports_of_the_unknown_are_dropped, thousands_of_reports_at_once;
            updates: an_update_is_a_new_revision_of_the_same_app, an_update_without_success_leads_back,
                a_late_word_of_an_update_changes_nothing, status_of_the_revision_before_counts_until_the_update_is_over,
                an_update_that_cannot_begin_changes_nothing, updates_removals_and_retries_take_turns;
            events: what_happens_again_is_counted, what_is_said_again_has_not_happened_again, a_history_has_the_newest_only,
                updates_and_their_ends_are_in_the_history, deployments_without_success_are_in_the_history,
                events_are_found_by_what_they_are_about, old_events_are_forgotten;
            enrolment: tokens_are_spent_once, tokens_are_refused, a_token_for_its_name_enrols_a_node_anew,
                expired_tokens_are_purged, a_token_is_good_for_so_many_machines, tokens_are_listed_and_deleted,
                a_machine_waits_for_approval, a_machine_is_denied, an_approval_is_for_the_machine_that_was_looked_at,
                one_machine_waits_for_a_name, an_approval_ends_with_its_node, waiting_is_bounded_and_ends;
            lists: jobs_are_sorted, tasks_are_sorted, nodes_are_sorted, apps_are_sorted, events_are_sorted, tokens_are_sorted,
                machines_that_wait_are_sorted, users_are_sorted, credentials_are_sorted, configurations_are_sorted, a_list_goes_on_where_an_item_was;
            users: users_are_kept_and_paged, the_first_user_is_adopted_once, the_last_admin_stays,
                a_revoked_user_is_forgotten_with_their_certificate, a_renewal_is_for_the_users_own_certificate;
            nodes: nodes_are_paged, labels_change, sessions_are_recorded, full_sets_follow_tasks, deletion_fails_open_tasks,
                a_deleted_node_can_come_back, changes_come_in_order, a_restart_keeps_everything;
            audit: deeds_are_kept_and_bound, deeds_are_paged, old_deeds_are_forgotten, an_empty_log_goes_on_where_it_was;
            credentials: credentials_are_kept_and_paged, a_credential_is_made_once, a_change_knows_what_it_changes,
                a_deletion_knows_what_it_deletes, what_is_validated_changes_no_credential, credentials_are_bounded,
                an_assignment_says_whether_a_credential_is_for_its_image;
            configurations: configurations_are_kept_and_paged, each_kind_has_names_of_its_own, a_configuration_is_made_once,
                a_change_knows_which_version_it_changes, a_deletion_knows_which_version_it_deletes,
                what_is_validated_changes_no_configuration, configurations_are_bounded;
            templates: versions_are_kept_and_paged, a_version_is_made_once_and_never_changes,
                an_alias_stands_for_a_version_that_there_is, a_deletion_of_a_version_knows_what_it_deletes,
                a_job_remembers_what_it_was_made_of;
            apps: apps_are_paged_and_filtered, removal_waits_for_the_node, a_node_without_the_app_confirms_too,
                removal_is_refused_while_busy,
                removal_on_all_nodes, a_removal_job_ends_when_the_node_confirms, what_is_gone_is_removed_at_once,
                a_removal_has_no_way_back, one_job_at_a_time_has_an_app, status_is_kept, old_status_is_ignored, redeployment_keeps_the_revision;
        }
    };
    ($factory:expr; $($module:ident: $($case:ident),+;)+) => {
        $($(
            #[tokio::test]
            async fn $case() {
                $crate::store::conformance::$module::$case(&$factory).await;
            }
        )+)+
    };
}
pub(super) use conformance_suite;

/// An observer that keeps what it is told.
#[derive(Default)]
pub(super) struct Recorder(Mutex<Vec<Change>>);

impl Observer for Recorder {
    fn committed(&self, changes: Vec<Change>) {
        self.0.lock().unwrap().extend(changes);
    }
}

impl Recorder {
    /// What was told since the last call.
    pub(super) fn take(&self) -> Vec<Change> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A store and what its observer was told.
pub(super) struct Bed {
    /// The store.
    pub(super) store: Arc<dyn Store>,
    /// Its observer.
    pub(super) seen: Arc<Recorder>,
}

/// A moment, in seconds since the suite's own beginning of time.
pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

pub(super) fn node_name(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

pub(super) fn app_name(name: &str) -> AppName {
    AppName::parse(name).unwrap()
}

/// Identifiers that sort by `number`.
pub(super) fn job_id(number: u32) -> JobId {
    JobId::parse(&format!("{number:026}")).unwrap()
}

pub(super) fn session_id(number: u32) -> SessionId {
    SessionId::parse(&format!("{number:026}")).unwrap()
}

pub(super) fn spec() -> AppSpec {
    let source = ImageSource::Reference("registry.test/web:1".to_owned());
    AppSpec { args: vec!["serve".to_owned()], network: Network::Host, ..AppSpec::new("web", source) }
}

/// Seconds that jobs of the suite have.
pub(super) const TIMEOUT: i64 = 600;

/// A job of app `web-<number>`, created at second 0.
pub(super) fn new_job(number: u32, nodes: &[&str], max_parallel: u32) -> NewJob {
    let timeout = Duration::from_secs(TIMEOUT.unsigned_abs());
    let job = Job {
        id: job_id(number),
        kind: JobKind::Deploy,
        app: app_name(&format!("web-{number}")),
        spec: Arc::new(spec()),
        spec_revision: 1,
        rollout: Rollout { max_parallel, absent_after: Duration::from_secs(60) },
        timeout,
        control: Control::Run,
        clock: Clock::start(at(0), timeout),
        round: 1,
        counts: TaskCounts { pending: u32::try_from(nodes.len()).unwrap(), ..TaskCounts::default() },
        create_time: at(0),
        start_time: None,
        end_time: None,
        creator: "anna".to_owned(),
        version: 1,
        warnings: vec!["mind the gap".to_owned()],
        template: None,
    };
    let nodes = nodes.iter().map(|name| node_name(name)).collect();
    NewJob { job, spec: spec_bytes(number), nodes, request: None, cause: Some(format!("call-{number}")) }
}

/// A job that removes the app `web-<app>`.
pub(super) fn new_removal(number: u32, app: u32, nodes: &[&str], max_parallel: u32) -> NewJob {
    let new = new_job(number, nodes, max_parallel);
    let job = Job { kind: JobKind::Remove, app: app_name(&format!("web-{app}")), ..new.job };
    NewJob { job, ..new }
}

/// A job that updates the app `web-<app>`.
pub(super) fn new_update(number: u32, app: u32, nodes: &[&str], max_parallel: u32) -> NewJob {
    let new = new_job(number, nodes, max_parallel);
    let job = Job { kind: JobKind::Update, app: app_name(&format!("web-{app}")), ..new.job };
    NewJob { job, ..new }
}

/// Another spec for a retry, which says its number.
pub(super) fn new_spec(number: u32) -> NewSpec {
    let spec = AppSpec { args: vec![number.to_string()], ..spec() };
    let warnings = vec![format!("mind the gap of {number}")];
    let encoded = Bytes::from(format!("amended spec {number}"));
    NewSpec { amendment: Amendment { spec: Arc::new(spec), warnings, template: None }, encoded }
}

/// The encoded spec of a job of [`new_job`].
pub(super) fn spec_bytes(number: u32) -> Bytes {
    Bytes::from(format!("spec of {number}"))
}

pub(super) fn info() -> NodeInfo {
    NodeInfo {
        agent_version: "0.1.0".to_owned(),
        architecture: "amd64".to_owned(),
        kernel_release: "6.1".to_owned(),
        cpus: 4,
        memory_bytes: 1 << 32,
        interfaces: Vec::new(),
        capabilities: vec![longshore_model::capability::JOBS_UPDATE.to_owned()],
        runtime: "fake".to_owned(),
        host_ip: None,
        allocatable: None,
        host_paths: None,
        accelerators: Vec::new(),
    }
}

pub(super) fn token(id: &str, expire_time: Timestamp) -> StoredToken {
    let labels = BTreeMap::from([("role".to_owned(), "edge".to_owned())]);
    StoredToken { labels, ..StoredToken::single(id, [7; 32], at(0), expire_time) }
}

/// A machine with a key of its own that asks to become a node.
pub(super) fn enrolling(token: &str, secret_hash: u8, node: &str) -> Enrolling {
    Enrolling {
        token_id: token.to_owned(),
        secret_hash: [secret_hash; 32],
        node: node_name(node),
        key: Fingerprint([1; 32]),
        address: IpAddr::from([192, 0, 2, 1]),
    }
}

/// Enrols a machine that must not have to wait.
pub(super) async fn enroll(store: &dyn Store, request: Enrolling, second: i64) -> Result<Node, StoreError> {
    match store.enroll(request, at(second)).await? {
        Enrolled::Node(node) => Ok(*node),
        Enrolled::Waits(machine) => panic!("has to wait: {machine:?}"),
    }
}

/// Sets labels and leaves the others.
pub(super) fn setting(set: Labels) -> LabelChange {
    LabelChange { set, ..LabelChange::default() }
}

pub(super) fn progress(job: u32, attempt: u32, state: TaskState) -> NodeReport {
    NodeReport::Task(TaskReport { job: job_id(job), attempt, state, pull: None, failure: None })
}

pub(super) fn app_report(app: &str, revision: u64, attempt: u32, state: AppState) -> NodeReport {
    let status = AppStatus { state, ..AppStatus::default() };
    NodeReport::App(AppReport { app: app_name(app), revision, attempt, status })
}

impl Bed {
    /// A store of `factory` with these nodes, and nothing observed yet.
    pub(super) async fn with_nodes(factory: &dyn Factory, nodes: &[&str]) -> Self {
        let bed = Self::open(factory);
        bed.enroll(nodes).await;
        bed
    }

    /// A store of `factory`, as it was left.
    pub(super) fn open(factory: &dyn Factory) -> Self {
        let seen = Arc::new(Recorder::default());
        Self { store: factory.open(seen.clone()), seen }
    }

    pub(super) async fn enroll(&self, nodes: &[&str]) {
        for name in nodes {
            self.store.create_token(token(name, at(1000)), Terms::default()).await.unwrap();
            enroll(&*self.store, enrolling(name, 7, name), 0).await.unwrap();
        }
    }

    /// Creates a job, assigns all its tasks that may be assigned, and forgets what was observed.
    pub(super) async fn assigned(&self, number: u32, nodes: &[&str], max_parallel: u32) -> usize {
        self.store.create_job(new_job(number, nodes, max_parallel)).await.unwrap();
        let count = self.assign_all(1).await;
        self.seen.take();
        count
    }

    pub(super) async fn assign_all(&self, second: i64) -> usize {
        let picks = self.store.assignable(Arc::new(|_| true), 1000).await.unwrap();
        self.store.assign(picks, at(second)).await.unwrap()
    }

    pub(super) async fn report(&self, node: &str, report: NodeReport, second: i64) {
        self.store.report(&node_name(node), vec![report], at(second)).await.unwrap();
    }

    pub(super) async fn job(&self, number: u32) -> Arc<Job> {
        self.store.job(&job_id(number)).await.unwrap()
    }

    pub(super) async fn node(&self, name: &str) -> Node {
        self.store.node(&node_name(name)).await.unwrap()
    }

    pub(super) async fn task(&self, number: u32, node: &str) -> Task {
        let (_, tasks) = self.store.job_with_tasks(&job_id(number), &Seen::default()).await.unwrap();
        tasks.into_iter().find(|task| task.node.as_str() == node).unwrap()
    }

    /// Opens a session and returns the full set that was told.
    pub(super) async fn open_session(&self, node: &str, number: u32) -> Vec<EncodedAssignment> {
        self.seen.take();
        self.store.open_session(&node_name(node), &session_id(number), info(), at(500)).await.unwrap();
        match self.seen.take().as_slice() {
            [Change::Opened { assignments, .. }] => assignments.clone(),
            other => panic!("one Change::Opened was expected: {other:?}"),
        }
    }
}

/// One line for each change, for comparison.
pub(super) fn lines(changes: &[Change]) -> Vec<String> {
    changes.iter().map(line).collect()
}

fn line(change: &Change) -> String {
    match change {
        Change::Job { job, tasks } => {
            let tasks: Vec<String> = tasks.iter().map(|task| format!("{} {}", task.node, task.state)).collect();
            format!("job {} {}: {}", job.app, job.state(), tasks.join(", "))
        }
        Change::Opened { node, assignments, removing, .. } => {
            let removing: Vec<&str> = removing.iter().map(AppName::as_str).collect();
            format!("opened {node} with {}, removing {removing:?}", assignments.len())
        }
        Change::Set { node, assignment } => {
            format!("set {node} {} {:?} attempt {}", assignment.app, assignment.order, assignment.attempt)
        }
        Change::Unset { node, app } => format!("unset {node} {app}"),
        Change::NodeDeleted { node } => format!("deleted {node}"),
        Change::Reenrolled { node } => format!("reenrolled {node}"),
        Change::User(user) => {
            format!("user {} {}{}", user.name, user.role, if user.revoke_time.is_some() { " revoked" } else { "" })
        }
        Change::Assignable => "assignable".to_owned(),
    }
}

/// Whether this is the error for something of this kind that is not there.
pub(super) fn is_not_found(error: &StoreError, expected: &str) -> bool {
    matches!(error, StoreError::NotFound { kind, .. } if *kind == expected)
}
