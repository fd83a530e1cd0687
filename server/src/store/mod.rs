//! What a server remembers, behind one trait; the only place that knows SQL.
//!
//! Writes are acknowledged after their commit. The store decides nothing: it loads rows, lets [`longshore_model::machine`]
//! change them, and saves them in one transaction. After each commit, in commit order, it tells its [`Observer`] what
//! changed; everything that is pushed to agents and watchers comes from there, so that nothing is ever sent that could
//! still be lost, and no two things in the wrong order.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use self::changes::{Change, EncodedAssignment, Observer};
pub use self::error::StoreError;
pub use self::requests::{Chosen, JobRequest, NewSpec};
pub use self::sqlite::backup;
pub use self::sqlite::rotation;
pub use self::sqlite::{OpenError, SqliteStore, StoreMetrics};
pub use self::terms::{REQUEST_LIFETIME, RequestKey, Terms};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use longshore_model::accelerator::Stock;
use longshore_model::admission::{Fingerprint, PendingNode};
use longshore_model::app::App;
use longshore_model::audit::{AuditEntry, Deed, Head};
use longshore_model::configuration::{Configuration, Kind};
use longshore_model::event::AppEvent;
use longshore_model::identity::Role;
use longshore_model::job::{Job, JobState};
use longshore_model::name::{AppName, ConfigurationName, CredentialName, JobId, NodeName, SessionId, TemplateName};
use longshore_model::node::{LabelChange, Labels, Node, NodeInfo};
use longshore_model::registry::RegistryCredential;
use longshore_model::report::{AppReport, TaskReport};
use longshore_model::task::Task;
use longshore_model::template::{Template, TemplateKey};
use longshore_model::user::User;
use serde::{Deserialize, Serialize};

mod changes;
#[cfg(test)]
mod conformance;
mod error;
mod requests;
pub mod sorting;
mod sqlite;
mod terms;

use self::sorting::{AppKey, AuditKey, EventKey, JobKey, NameKey, NodeKey, Query, TaskKey, TemplateSort, TokenKey};

/// A job on its way into the store.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// The job, QUEUED, with `counts.pending` equal to the number of nodes.
    pub job: Job,
    /// Its spec, encoded once for all the nodes.
    pub spec: Bytes,
    /// Its targets; each gets a task.
    pub nodes: Vec<NodeName>,
    /// Set when the request may come again.
    pub request: Option<RequestKey>,
    /// What the call that asks for it is called, for the logs of the nodes that it reaches.
    pub cause: Option<String>,
}

/// How much of a job's tasks somebody has seen, in the order of their last changes: by version, then by node. What comes
/// after it is news. The default has seen nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// Everything below this version of the job.
    pub version: u64,
    /// And of this version, the nodes up to this one.
    pub node: String,
}

impl Seen {
    /// A task, and all that changed before it.
    #[must_use]
    pub fn up_to(task: &Task) -> Self {
        Self { version: task.version, node: task.node.to_string() }
    }

    /// Everything as of a version of the job.
    #[must_use]
    pub fn all_of(version: u64) -> Self {
        Self { version: version.saturating_add(1), node: String::new() }
    }
}

/// One report of an agent, for [`Store::report`].
#[derive(Clone, Debug)]
pub enum NodeReport {
    /// Of a task.
    Task(TaskReport),
    /// Of an app.
    App(AppReport),
}

/// Which events are asked for: all that fit what is given.
#[derive(Clone, Debug, Default)]
pub struct EventsOf {
    /// Of this app.
    pub app: Option<AppName>,
    /// On this node.
    pub node: Option<NodeName>,
    /// Of this instance alone.
    pub instance: Option<u32>,
    /// That last happened at this moment or later.
    pub since: Option<Timestamp>,
}

/// A part of the audit log, and what it is a part of.
#[derive(Clone, Debug)]
pub struct AuditPage {
    /// The entries.
    pub page: Page<AuditEntry>,
    /// What the oldest entry that is kept follows.
    pub base: Head,
    /// The newest entry.
    pub head: Head,
}

/// A token as the store keeps it: never the secret itself.
#[derive(Clone, Debug)]
pub struct StoredToken {
    /// Public half, by which it is found.
    pub id: String,
    /// SHA-256 of the secret half.
    pub secret_hash: [u8; 32],
    /// When it ends.
    pub expire_time: Timestamp,
    /// Labels of the node that uses it.
    pub labels: Labels,
    /// The only name that may enrol with it.
    pub node: Option<NodeName>,
    /// When it was made.
    pub create_time: Timestamp,
    /// Who made it.
    pub creator: String,
    /// Machines that could enrol with it at first.
    pub uses: u32,
    /// Machines that still can.
    pub uses_left: u32,
    /// Whether a person has to approve of each machine.
    pub requires_approval: bool,
}

impl StoredToken {
    /// A token that enrols one machine under whatever name, without labels and approval.
    #[must_use]
    pub fn single(id: &str, secret_hash: [u8; 32], create_time: Timestamp, expire_time: Timestamp) -> Self {
        Self {
            id: id.to_owned(),
            secret_hash,
            expire_time,
            labels: Labels::new(),
            node: None,
            create_time,
            creator: String::new(),
            uses: 1,
            uses_left: 1,
            requires_approval: false,
        }
    }
}

/// A machine that asks to become a node.
#[derive(Clone, Debug)]
pub struct Enrolling {
    /// Public half of its token.
    pub token_id: String,
    /// SHA-256 of the token's secret half.
    pub secret_hash: [u8; 32],
    /// The name that it wants.
    pub node: NodeName,
    /// Its key.
    pub key: Fingerprint,
    /// Where it comes from.
    pub address: IpAddr,
}

/// What becomes of a machine that asks to become a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enrolled {
    /// It is a node.
    Node(Box<Node>),
    /// It waits for approval.
    Waits(PendingNode),
}

/// A registry credential as the store keeps it: the password is sealed by somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCredential {
    /// What everybody may know of it.
    pub credential: RegistryCredential,
    /// The sealed password.
    pub sealed: Vec<u8>,
}

/// A config map or a secret as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredConfiguration {
    /// What everybody may know of it.
    pub configuration: Configuration,
    /// What is in it, in a form of the one who keeps it here; that of a secret is sealed.
    pub content: Vec<u8>,
}

/// A version of a template as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTemplate {
    /// What is listed of it.
    pub template: Template,
    /// Its spec, in a form of the one who keeps it here.
    pub spec: Bytes,
}

/// A change of what an alias stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasChange {
    /// The template.
    pub name: TemplateName,
    /// The alias.
    pub alias: TemplateName,
    /// The version that it shall stand for; `None` removes it.
    pub version: Option<String>,
}

/// What an alias stands for, and stood for before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasChanged {
    /// Now.
    pub version: Option<String>,
    /// Before.
    pub previous: Option<String>,
}

/// Answers whether a node has a session now; called on a blocking thread.
pub type Connected = Arc<dyn Fn(&NodeName) -> bool + Send + Sync>;

/// Answers how long a node has had no session, `None` while it has one; called on the writer's thread, where it must not
/// wait. What it answers is never older than the sessions that the store has recorded.
pub type Away = Arc<dyn Fn(&NodeName) -> Option<Duration> + Send + Sync>;

/// A page of items and where the next one starts.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// At most as many as were asked for.
    pub items: Vec<T>,
    /// Whether there are more after the last of them.
    pub more: bool,
}

/// How much there is, for those who watch a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Census {
    /// Jobs in each state, in the order of [`JobState::ALL`].
    pub jobs: Vec<(JobState, u64)>,
    /// Tasks of all jobs in each kind of state.
    pub tasks: Vec<(&'static str, u64)>,
    /// Enrolled nodes.
    pub nodes: u64,
}

/// What a server remembers.
///
/// Writes return after their commit and after the observer was told. A dropped write may still be committed. A write whose
/// [`Terms::request`] has come before, from the same caller, within [`REQUEST_LIFETIME`], changes nothing and returns what it
/// returned then; the same identifier with another request is [`StoreError::RequestReused`].
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The job that this request created, as it then was, if the request has come before.
    async fn created(&self, request: &RequestKey, now: Timestamp) -> Result<Option<Arc<Job>>, StoreError>;

    /// Stores a job and its tasks; a request that has come before is answered with the job that it created then.
    async fn create_job(&self, new: NewJob) -> Result<Arc<Job>, StoreError>;

    /// Refuses when another job has a task open for the app on one of these nodes, or is about to assign one. Stopped jobs
    /// do neither. Creating a job for an app that is there, and resuming or retrying one, is refused in the same way.
    async fn check_not_busy(&self, app: &AppName, nodes: Vec<NodeName>) -> Result<(), StoreError>;

    /// One job.
    async fn job(&self, id: &JobId) -> Result<Arc<Job>, StoreError>;

    /// A job with the spec of this revision, and what belongs to that, in place of the newest.
    async fn job_with_spec(&self, id: &JobId, revision: u32) -> Result<Arc<Job>, StoreError>;

    /// A part of the list of jobs.
    async fn jobs(&self, query: Query<JobKey>) -> Result<Page<Arc<Job>>, StoreError>;

    /// A part of the list of a job's tasks.
    async fn tasks(&self, job: &JobId, query: Query<TaskKey>) -> Result<Page<Task>, StoreError>;

    /// A job, and its tasks that have changed since they were `seen`, as of one moment: what a watch begins with.
    async fn job_with_tasks(&self, id: &JobId, seen: &Seen) -> Result<(Arc<Job>, Vec<Task>), StoreError>;

    /// A number that tells this database's history from every other: versions of jobs can be compared within it only. A
    /// database that goes back to an older state, such as one that is restored, must be given another.
    fn epoch(&self) -> i64;

    /// Stops, resumes or retries a job. A request that has come before changes nothing more, and is answered with the job as
    /// it is now.
    async fn request(
        &self,
        id: &JobId,
        request: JobRequest,
        terms: Terms,
        now: Timestamp,
    ) -> Result<Arc<Job>, StoreError>;

    /// Pending tasks of jobs that may be assigned now, oldest job first, at most `limit`, each job's no more than its
    /// `max_parallel` leaves room for among the nodes for which `connected` answers true.
    async fn assignable(&self, connected: Connected, limit: usize) -> Result<Vec<(JobId, NodeName)>, StoreError>;

    /// Assigns these tasks, or lets them fail as [`longshore_model::machine::refuse`] does where the node's last session
    /// did not say what [`longshore_model::capability::check_later`] asks for; those that can no longer be assigned are
    /// passed over. Returns how many were assigned or failed.
    async fn assign(&self, picks: Vec<(JobId, NodeName)>, now: Timestamp) -> Result<usize, StoreError>;

    /// Ends what is past its deadline, and returns the next deadline.
    async fn pass_deadlines(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError>;

    /// Sets the tasks in flight aside whose nodes have been `away` for as long as their jobs wait, until the nodes' next
    /// sessions are recorded; returns the time until the next task is due, of those whose nodes are away now.
    async fn set_aside(&self, away: Away, now: Timestamp) -> Result<Option<Duration>, StoreError>;

    /// Takes reports of one node, in order. Reports of unknown jobs or apps are acknowledged and dropped. What they say has
    /// happened to an app is kept in its history, in the same transaction.
    async fn report(&self, node: &NodeName, reports: Vec<NodeReport>, now: Timestamp) -> Result<(), StoreError>;

    /// Keeps a token. A request that has come before is [`StoreError::TokenShown`], since the token itself is not kept.
    async fn create_token(&self, token: StoredToken, terms: Terms) -> Result<(), StoreError>;

    /// A part of the list of tokens that can still be used at this moment.
    async fn tokens(&self, query: Query<TokenKey>, now: Timestamp) -> Result<Page<StoredToken>, StoreError>;

    /// Deletes a token, and forgets the machines that wait with it.
    async fn delete_token(&self, id: &str, terms: Terms, now: Timestamp) -> Result<(), StoreError>;

    /// Spends a use of a token, and adds a node with its labels, in one transaction.
    ///
    /// With a token that requires approval the machine waits instead, until [`Store::approve`] makes it a node or
    /// [`longshore_model::admission::ADMISSION_LIFE`] is over; when it asks again, nothing more is spent. After the approval
    /// every further request with the same token, name and key is answered with the node, for as long as that is the one
    /// that was approved.
    ///
    /// A token made for exactly the name of a node that exists enrols that node anew: it keeps its apps and its labels,
    /// the token's labels are added, and only the enrolment's time is another, so that older certificates are a
    /// predecessor's.
    async fn enroll(&self, request: Enrolling, now: Timestamp) -> Result<Enrolled, StoreError>;

    /// A part of the list of machines that wait for approval at this moment.
    async fn pending(&self, query: Query<NameKey>, now: Timestamp) -> Result<Page<PendingNode>, StoreError>;

    /// Makes a machine that waits a node.
    async fn approve(&self, name: &NodeName, terms: Terms, now: Timestamp) -> Result<Node, StoreError>;

    /// Turns a machine that waits away; it is told so for a day.
    async fn deny(&self, name: &NodeName, terms: Terms, now: Timestamp) -> Result<(), StoreError>;

    /// One node.
    async fn node(&self, name: &NodeName) -> Result<Node, StoreError>;

    /// A part of the list of nodes.
    async fn nodes(&self, query: Query<NodeKey>) -> Result<Page<Node>, StoreError>;

    /// Changes a node's labels.
    async fn update_labels(
        &self,
        name: &NodeName,
        change: LabelChange,
        terms: Terms,
        now: Timestamp,
    ) -> Result<Node, StoreError>;

    /// Deletes a node, its apps with their history, and fails its open tasks.
    async fn delete_node(&self, name: &NodeName, terms: Terms, now: Timestamp) -> Result<(), StoreError>;

    /// Adds a user, also under the name of one who was revoked; their certificate is to be issued at
    /// [`User::issue_time`] of what is returned.
    async fn create_user(&self, user: User, terms: Terms) -> Result<User, StoreError>;

    /// Adds the user that an installation begins with, unless there are users already.
    async fn adopt_first_user(&self, user: User) -> Result<(), StoreError>;

    /// A part of the list of users, in which those who were revoked are, too.
    async fn users(&self, query: Query<NameKey>) -> Result<Page<User>, StoreError>;

    /// Records the next certificate of the user who owns one that was issued at this moment; it ends at `authority_end` at
    /// the latest, and is to be issued at [`User::issue_time`] of what is returned.
    async fn renew_user(
        &self,
        name: &str,
        role: Role,
        issued: Timestamp,
        now: Timestamp,
        authority_end: Timestamp,
    ) -> Result<User, StoreError>;

    /// Revokes a user; doing it again changes nothing. The last admin with a good certificate cannot be revoked.
    async fn revoke_user(&self, name: &str, terms: Terms, now: Timestamp) -> Result<User, StoreError>;

    /// Records when the newest certificate of a node ends.
    async fn certified_node(&self, name: &NodeName, end: Timestamp) -> Result<(), StoreError>;

    /// Records what accelerators a node has, in the place of what its last session began with.
    async fn report_accelerators(&self, name: &NodeName, stocks: Vec<Stock>) -> Result<(), StoreError>;

    /// Records a new session, and counts the tasks again that were set aside for its node's absence; the observer gets
    /// [`Change::Opened`] in commit order with all other changes.
    async fn open_session(
        &self,
        node: &NodeName,
        session: &SessionId,
        info: NodeInfo,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Records when a node was last heard of.
    async fn close_session(&self, node: &NodeName, now: Timestamp) -> Result<(), StoreError>;

    /// A part of the list of apps, of one node or name where given.
    async fn apps(
        &self,
        node: Option<&NodeName>,
        app: Option<&AppName>,
        query: Query<AppKey>,
    ) -> Result<Page<App>, StoreError>;

    /// One app.
    async fn app(&self, node: &NodeName, app: &AppName) -> Result<App, StoreError>;

    /// A part of the history of what happened to apps. It outlives the app, and not its node.
    async fn app_events(&self, of: EventsOf, query: Query<EventKey>) -> Result<Page<AppEvent>, StoreError>;

    /// Forgets events that last happened before a moment, and those of which there are too many; returns how many it were,
    /// 0 when none is left to forget.
    async fn forget_app_events(&self, before: Timestamp) -> Result<usize, StoreError>;

    /// Marks an app as being removed, on one node or on all that have it; returns on how many.
    async fn remove_app(
        &self,
        app: &AppName,
        node: Option<&NodeName>,
        terms: Terms,
        now: Timestamp,
    ) -> Result<u32, StoreError>;

    /// Forgets jobs that ended by `ended` with all their tasks, oldest first; returns how many it were, 0 when none is
    /// left. A job stays that is not final, of which a node still has the app, and about which a request may come again.
    /// One call forgets no more than is soon done.
    async fn forget_jobs(&self, ended: Timestamp, now: Timestamp) -> Result<usize, StoreError>;

    /// Counts what there is. It reads a short row of every job, so that it takes longer the more are kept.
    async fn census(&self) -> Result<Census, StoreError>;

    /// Keeps a registry credential.
    async fn create_credential(&self, new: StoredCredential, terms: Terms) -> Result<RegistryCredential, StoreError>;

    /// The registry credential as this request made it or left it, if the request has come before.
    async fn answered_credential(
        &self,
        request: &RequestKey,
        now: Timestamp,
    ) -> Result<Option<RegistryCredential>, StoreError>;

    /// One registry credential.
    async fn credential(&self, name: &CredentialName) -> Result<StoredCredential, StoreError>;

    /// A part of the list of registry credentials.
    async fn credentials(&self, query: Query<NameKey>) -> Result<Page<StoredCredential>, StoreError>;

    /// Puts a changed credential in the place of its version `seen`; [`StoreError::Changed`] if that is not the current.
    async fn replace_credential(
        &self,
        new: StoredCredential,
        seen: u64,
        terms: Terms,
    ) -> Result<RegistryCredential, StoreError>;

    /// Deletes a registry credential.
    async fn delete_credential(&self, name: &CredentialName, terms: Terms, now: Timestamp) -> Result<(), StoreError>;

    /// Puts a deed at the end of the audit log, and returns its entry.
    async fn record(&self, deed: Deed) -> Result<AuditEntry, StoreError>;

    /// A part of the audit log.
    async fn audit_log(&self, query: Query<AuditKey>) -> Result<AuditPage, StoreError>;

    /// Forgets entries of the audit log from before a moment, and those of which there are too many, oldest first; returns
    /// how many it were, 0 when none is left. An entry that follows one that stays does so too, whatever the clock said.
    async fn forget_deeds(&self, before: Timestamp) -> Result<usize, StoreError>;

    /// Keeps a config map or a secret.
    async fn create_configuration(&self, new: StoredConfiguration, terms: Terms) -> Result<Configuration, StoreError>;

    /// The config map or secret as this request made it or left it, if the request has come before.
    async fn answered_configuration(
        &self,
        request: &RequestKey,
        now: Timestamp,
    ) -> Result<Option<Configuration>, StoreError>;

    /// One config map or secret.
    async fn configuration(&self, kind: Kind, name: &ConfigurationName) -> Result<StoredConfiguration, StoreError>;

    /// One config map or secret without what is in it.
    async fn known_configuration(&self, kind: Kind, name: &ConfigurationName) -> Result<Configuration, StoreError>;

    /// A part of the list of config maps or of secrets, without what is in them.
    async fn configurations(&self, kind: Kind, query: Query<NameKey>) -> Result<Page<Configuration>, StoreError>;

    /// Puts a changed one in the place of its version `seen`; [`StoreError::Changed`] if that is not the current.
    async fn replace_configuration(
        &self,
        new: StoredConfiguration,
        seen: u64,
        terms: Terms,
    ) -> Result<Configuration, StoreError>;

    /// Deletes a config map or a secret.
    async fn delete_configuration(
        &self,
        kind: Kind,
        name: &ConfigurationName,
        terms: Terms,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Keeps a version of a template for an architecture, or for all.
    async fn create_template(&self, new: StoredTemplate, terms: Terms) -> Result<Template, StoreError>;

    /// One version for one architecture, or for all.
    async fn template(&self, key: &TemplateKey) -> Result<StoredTemplate, StoreError>;

    /// All variants of a version, by architecture; none where there is no such version.
    async fn template_variants(&self, name: &TemplateName, version: &str) -> Result<Vec<StoredTemplate>, StoreError>;

    /// A part of the list of versions.
    async fn templates(&self, query: Query<TemplateSort>) -> Result<Page<Template>, StoreError>;

    /// Deletes one variant of a version; not the last one of a version that an alias stands for.
    async fn delete_template(&self, key: &TemplateKey, terms: Terms, now: Timestamp) -> Result<(), StoreError>;

    /// The version that an alias stands for.
    async fn template_alias(&self, name: &TemplateName, alias: &TemplateName) -> Result<String, StoreError>;

    /// Moves an alias to a version that there is, or removes it. Its etag is the version that it stands for.
    async fn set_template_alias(
        &self,
        change: AliasChange,
        terms: Terms,
        now: Timestamp,
    ) -> Result<AliasChanged, StoreError>;

    /// Answers when the database does: for health checks.
    async fn ping(&self) -> Result<(), StoreError>;
}
