//! The store on SQLite: one writer with group commit, and a few readers beside it.
//!
//! All writes go through one thread ([`writer`]), which takes whatever is queued, lets the model decide on rows that it
//! keeps in memory ([`batch`]), and commits once. Reads go to connections of their own ([`read`]), each in one
//! transaction, and never wait for the writer.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use longshore_model::accelerator::Stock;
use longshore_model::admission::PendingNode;
use longshore_model::app::App;
use longshore_model::audit::{AuditEntry, Deed};
use longshore_model::configuration::{Configuration, Kind};
use longshore_model::event::AppEvent;
use longshore_model::identity::Role;
use longshore_model::job::Job;
use longshore_model::name::{AppName, ConfigurationName, CredentialName, JobId, NodeName, SessionId, TemplateName};
use longshore_model::node::{LabelChange, Node, NodeInfo};
use longshore_model::registry::RegistryCredential;
use longshore_model::task::Task;
use longshore_model::template::{Template, TemplateKey};
use longshore_model::user::User;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::batch::Batch;
pub use self::metrics::StoreMetrics;
use self::read::Readers;
#[cfg(test)]
pub(super) use self::requests::MAX_REQUESTS;
use self::rows::rounded;
use self::writer::Writer;
use super::sorting::{AppKey, AuditKey, EventKey, JobKey, NameKey, NodeKey, Query, TaskKey, TemplateSort, TokenKey};
use super::{
    AliasChange, AliasChanged, AuditPage, Away, Census, Connected, Enrolled, Enrolling, EventsOf, JobRequest, NewJob,
    NodeReport, Observer, Page, RequestKey, Seen, Store, StoreError, StoredConfiguration, StoredCredential,
    StoredTemplate, StoredToken, Terms,
};

mod apps;
mod audit;
pub mod backup;
mod batch;
mod census;
mod configurations;
mod credentials;
mod effects;
mod enrolment;
mod events;
mod jobs;
mod metrics;
mod nodes;
mod pages;
mod read;
mod reports;
mod requests;
mod retention;
pub mod rotation;
mod rows;
mod schema;
mod templates;
#[cfg(test)]
mod tests;
mod users;
mod writer;

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file cannot be made or opened.
    #[error("{} cannot be opened", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// Another process has it.
    #[error("{} is in use by another server", .0.display())]
    InUse(PathBuf),
    /// A newer server wrote it.
    #[error("the database has schema {found}, and this server knows none beyond {known}: a newer server wrote it")]
    NewerSchema {
        /// Of the database.
        found: u32,
        /// The newest known.
        known: u32,
    },
    /// SQLite failed.
    #[error("SQLite failed")]
    Sqlite(#[from] rusqlite::Error),
    /// The writer's thread did not start.
    #[error("the writer's thread did not start")]
    Thread(#[source] std::io::Error),
}

impl From<OpenError> for StoreError {
    fn from(error: OpenError) -> Self {
        Self::Database(Box::new(error))
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(Box::new(error))
    }
}

fn no_job(id: &JobId) -> StoreError {
    StoreError::NotFound { kind: "job", name: id.to_string() }
}

fn no_spec(id: &JobId, revision: u32) -> StoreError {
    StoreError::NotFound { kind: "job spec", name: format!("{id}@{revision}") }
}

fn no_node(name: &NodeName) -> StoreError {
    StoreError::NotFound { kind: "node", name: name.to_string() }
}

fn no_app(name: &AppName) -> StoreError {
    StoreError::NotFound { kind: "app", name: name.to_string() }
}

/// The store on SQLite.
///
/// Dropping it commits the writes that are queued, and blocks until that is done.
pub struct SqliteStore {
    // Dropped in this order: the last connection to close puts the WAL into the database and removes it, which only the
    // writer can; and nobody else may open the database before the writer has ended.
    readers: Readers,
    writer: Writer,
    metrics: StoreMetrics,
    epoch: i64,
    _claim: File,
}

impl SqliteStore {
    /// Opens the database at `path`, making it when there is none, and brings its schema up to date.
    ///
    /// # Errors
    ///
    /// [`StoreError::Database`] around an [`OpenError`]: another process uses the database, a newer server wrote it,
    /// or it cannot be opened.
    pub fn open(path: &Path, observer: Arc<dyn Observer>) -> Result<Self, StoreError> {
        let claim = schema::claim(path)?;
        let connection = schema::open_writer(path)?;
        let (epoch, metrics) = (read::epoch(&connection)?, StoreMetrics::default());
        let writer = Writer::start(connection, observer, metrics.clone()).map_err(OpenError::Thread)?;
        Ok(Self { writer, readers: Readers::new(path), metrics, epoch, _claim: claim })
    }
}

impl SqliteStore {
    /// What the store counts of itself.
    #[must_use]
    pub fn metrics(&self) -> &StoreMetrics {
        &self.metrics
    }

    /// Writes what a caller asks for, unless the same request has come before.
    async fn write_once<T: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        terms: Terms,
        now: Timestamp,
        change: impl FnOnce(&mut Batch<'_>, &Terms) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.writer.write(move |batch| batch.once(&terms, rounded(now), |batch| change(batch, &terms))).await
    }

    /// Whether a store has the database at `path` open, here or in another process.
    #[must_use]
    pub fn is_in_use(path: &Path) -> bool {
        matches!(schema::claim(path), Err(OpenError::InUse(_)))
    }
}

/// A user with the precision that rows have.
fn rounded_user(user: User) -> User {
    User {
        create_time: rounded(user.create_time),
        issue_time: rounded(user.issue_time),
        certificate_end: rounded(user.certificate_end),
        ..user
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn created(&self, request: &RequestKey, now: Timestamp) -> Result<Option<Arc<Job>>, StoreError> {
        let request = request.clone();
        self.readers.read(move |sql| read::created(sql, &request, now)).await
    }

    async fn create_job(&self, new: NewJob) -> Result<Arc<Job>, StoreError> {
        self.writer.write(move |batch| batch.create_job(new)).await
    }

    async fn check_not_busy(&self, app: &AppName, nodes: Vec<NodeName>) -> Result<(), StoreError> {
        let app = app.clone();
        self.readers.read(move |sql| read::check_not_busy(sql, &app, &nodes, |_, _| false)).await
    }

    async fn job(&self, id: &JobId) -> Result<Arc<Job>, StoreError> {
        let id = id.clone();
        self.readers.read(move |sql| read::job(sql, &id)).await
    }

    async fn job_with_spec(&self, id: &JobId, revision: u32) -> Result<Arc<Job>, StoreError> {
        let id = id.clone();
        self.readers.read(move |sql| read::job_with_spec(sql, &id, revision).map(Arc::new)).await
    }

    async fn jobs(&self, query: Query<JobKey>) -> Result<Page<Arc<Job>>, StoreError> {
        self.readers.read(move |sql| read::jobs(sql, &query)).await
    }

    async fn tasks(&self, job: &JobId, query: Query<TaskKey>) -> Result<Page<Task>, StoreError> {
        let job = job.clone();
        self.readers.read(move |sql| read::tasks(sql, &job, &query)).await
    }

    async fn job_with_tasks(&self, id: &JobId, seen: &Seen) -> Result<(Arc<Job>, Vec<Task>), StoreError> {
        let (id, seen) = (id.clone(), seen.clone());
        self.readers.read(move |sql| read::job_with_tasks(sql, &id, &seen)).await
    }

    fn epoch(&self) -> i64 {
        self.epoch
    }

    async fn request(
        &self,
        id: &JobId,
        request: JobRequest,
        terms: Terms,
        now: Timestamp,
    ) -> Result<Arc<Job>, StoreError> {
        let id = id.clone();
        self.writer.write(move |batch| batch.request(&id, request, &terms, rounded(now))).await
    }

    async fn assignable(&self, connected: Connected, limit: usize) -> Result<Vec<(JobId, NodeName)>, StoreError> {
        self.readers.read(move |sql| read::assignable(sql, &*connected, limit)).await
    }

    async fn assign(&self, picks: Vec<(JobId, NodeName)>, now: Timestamp) -> Result<usize, StoreError> {
        self.writer.write(move |batch| batch.assign(&picks, rounded(now))).await
    }

    async fn pass_deadlines(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        self.writer.write(move |batch| batch.pass_deadlines(rounded(now))).await
    }

    async fn set_aside(&self, away: Away, now: Timestamp) -> Result<Option<Duration>, StoreError> {
        self.writer.write(move |batch| batch.set_aside(&*away, rounded(now))).await
    }

    async fn report(&self, node: &NodeName, reports: Vec<NodeReport>, now: Timestamp) -> Result<(), StoreError> {
        let node = node.clone();
        let count = reports.len() as u64;
        self.writer.write(move |batch| batch.report(&node, reports, rounded(now))).await?;
        self.metrics.reports.inc_by(count);
        Ok(())
    }

    async fn create_token(&self, token: StoredToken, terms: Terms) -> Result<(), StoreError> {
        self.writer.write(move |batch| batch.create_token(&token, &terms)).await
    }

    async fn tokens(&self, query: Query<TokenKey>, now: Timestamp) -> Result<Page<StoredToken>, StoreError> {
        self.readers.read(move |sql| read::tokens(sql, &query, rounded(now))).await
    }

    async fn delete_token(&self, id: &str, terms: Terms, now: Timestamp) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.write_once(terms, now, move |batch, terms| batch.delete_token(&id, terms)).await
    }

    async fn enroll(&self, request: Enrolling, now: Timestamp) -> Result<Enrolled, StoreError> {
        self.writer.write(move |batch| batch.enroll(&request, rounded(now))).await
    }

    async fn pending(&self, query: Query<NameKey>, now: Timestamp) -> Result<Page<PendingNode>, StoreError> {
        self.readers.read(move |sql| read::pending(sql, &query, rounded(now))).await
    }

    async fn approve(&self, name: &NodeName, terms: Terms, now: Timestamp) -> Result<Node, StoreError> {
        let name = name.clone();
        self.write_once(terms, now, move |batch, terms| batch.approve(&name, terms, rounded(now))).await
    }

    async fn deny(&self, name: &NodeName, terms: Terms, now: Timestamp) -> Result<(), StoreError> {
        let name = name.clone();
        self.write_once(terms, now, move |batch, terms| batch.deny(&name, terms, rounded(now))).await
    }

    async fn node(&self, name: &NodeName) -> Result<Node, StoreError> {
        let name = name.clone();
        self.readers.look_up(move |sql| read::node(sql, &name)).await
    }

    async fn nodes(&self, query: Query<NodeKey>) -> Result<Page<Node>, StoreError> {
        self.readers.read(move |sql| read::nodes(sql, &query)).await
    }

    async fn update_labels(
        &self,
        name: &NodeName,
        change: LabelChange,
        terms: Terms,
        now: Timestamp,
    ) -> Result<Node, StoreError> {
        let name = name.clone();
        self.write_once(terms, now, move |batch, terms| batch.update_labels(&name, &change, terms)).await
    }

    async fn delete_node(&self, name: &NodeName, terms: Terms, now: Timestamp) -> Result<(), StoreError> {
        let name = name.clone();
        self.write_once(terms, now, move |batch, terms| batch.delete_node(&name, terms, rounded(now))).await
    }

    async fn create_user(&self, user: User, terms: Terms) -> Result<User, StoreError> {
        let user = rounded_user(user);
        self.write_once(terms, user.create_time, move |batch, terms| batch.create_user(user, terms)).await
    }

    async fn adopt_first_user(&self, user: User) -> Result<(), StoreError> {
        self.writer.write(move |batch| batch.adopt_first_user(rounded_user(user))).await
    }

    async fn users(&self, query: Query<NameKey>) -> Result<Page<User>, StoreError> {
        self.readers.read(move |sql| users::users(sql, &query)).await
    }

    async fn renew_user(
        &self,
        name: &str,
        role: Role,
        issued: Timestamp,
        now: Timestamp,
        authority_end: Timestamp,
    ) -> Result<User, StoreError> {
        let name = name.to_owned();
        let (now, end) = (rounded(now), rounded(authority_end));
        self.writer.write(move |batch| batch.renew_user(&name, role, issued, now, end)).await
    }

    async fn revoke_user(&self, name: &str, terms: Terms, now: Timestamp) -> Result<User, StoreError> {
        let name = name.to_owned();
        self.write_once(terms, now, move |batch, terms| batch.revoke_user(&name, terms, rounded(now))).await
    }

    async fn certified_node(&self, name: &NodeName, end: Timestamp) -> Result<(), StoreError> {
        let name = name.clone();
        self.writer.write(move |batch| batch.certified_node(&name, end)).await
    }

    async fn report_accelerators(&self, name: &NodeName, stocks: Vec<Stock>) -> Result<(), StoreError> {
        let name = name.clone();
        self.writer.write(move |batch| batch.report_accelerators(&name, &stocks)).await
    }

    async fn open_session(
        &self,
        node: &NodeName,
        session: &SessionId,
        info: NodeInfo,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (node, session) = (node.clone(), session.clone());
        self.writer.write(move |batch| batch.open_session(&node, &session, &info, rounded(now))).await
    }

    async fn close_session(&self, node: &NodeName, now: Timestamp) -> Result<(), StoreError> {
        let node = node.clone();
        self.writer.write(move |batch| batch.close_session(&node, rounded(now))).await
    }

    async fn apps(
        &self,
        node: Option<&NodeName>,
        app: Option<&AppName>,
        query: Query<AppKey>,
    ) -> Result<Page<App>, StoreError> {
        let (node, app) = (node.cloned(), app.cloned());
        self.readers.read(move |sql| read::apps(sql, node.as_ref(), app.as_ref(), &query)).await
    }

    async fn app(&self, node: &NodeName, app: &AppName) -> Result<App, StoreError> {
        let (node, app) = (node.clone(), app.clone());
        self.readers.read(move |sql| read::app(sql, &node, &app)).await
    }

    async fn app_events(&self, of: EventsOf, query: Query<EventKey>) -> Result<Page<AppEvent>, StoreError> {
        self.readers.read(move |sql| events::many(sql, &of, &query)).await
    }

    async fn forget_app_events(&self, before: Timestamp) -> Result<usize, StoreError> {
        self.writer.write(move |batch| batch.forget_events(before)).await
    }

    async fn remove_app(
        &self,
        app: &AppName,
        node: Option<&NodeName>,
        terms: Terms,
        now: Timestamp,
    ) -> Result<u32, StoreError> {
        let (app, node) = (app.clone(), node.cloned());
        let remove =
            move |batch: &mut Batch<'_>, terms: &Terms| batch.remove_app(&app, node.as_ref(), terms, rounded(now));
        self.write_once(terms, now, remove).await
    }

    async fn forget_jobs(&self, ended: Timestamp, now: Timestamp) -> Result<usize, StoreError> {
        self.writer.write(move |batch| batch.forget_jobs(ended, now)).await
    }

    async fn census(&self) -> Result<Census, StoreError> {
        self.readers.read(census::census).await
    }

    async fn create_credential(
        &self,
        mut new: StoredCredential,
        terms: Terms,
    ) -> Result<RegistryCredential, StoreError> {
        new.credential.create_time = rounded(new.credential.create_time);
        new.credential.update_time = rounded(new.credential.update_time);
        let now = new.credential.create_time;
        self.write_once(terms, now, move |batch, terms| batch.create_credential(&new, terms)).await
    }

    async fn answered_credential(
        &self,
        request: &RequestKey,
        now: Timestamp,
    ) -> Result<Option<RegistryCredential>, StoreError> {
        let request = request.clone();
        self.readers.read(move |sql| requests::answer(sql, &request, now)).await
    }

    async fn credential(&self, name: &CredentialName) -> Result<StoredCredential, StoreError> {
        let name = name.clone();
        self.readers.read(move |sql| credentials::one(sql, &name)).await
    }

    async fn credentials(&self, query: Query<NameKey>) -> Result<Page<StoredCredential>, StoreError> {
        self.readers.read(move |sql| credentials::many(sql, &query)).await
    }

    async fn replace_credential(
        &self,
        mut new: StoredCredential,
        seen: u64,
        terms: Terms,
    ) -> Result<RegistryCredential, StoreError> {
        new.credential.update_time = rounded(new.credential.update_time);
        let now = new.credential.update_time;
        self.write_once(terms, now, move |batch, terms| batch.replace_credential(&new, seen, terms)).await
    }

    async fn delete_credential(&self, name: &CredentialName, terms: Terms, now: Timestamp) -> Result<(), StoreError> {
        let name = name.clone();
        self.write_once(terms, now, move |batch, terms| batch.delete_credential(&name, terms)).await
    }

    async fn record(&self, deed: Deed) -> Result<AuditEntry, StoreError> {
        let deed = Deed { time: rounded(deed.time), ..deed };
        self.writer.write(move |batch| batch.record(deed)).await
    }

    async fn audit_log(&self, query: Query<AuditKey>) -> Result<AuditPage, StoreError> {
        self.readers.read(move |sql| audit::log(sql, &query)).await
    }

    async fn forget_deeds(&self, before: Timestamp) -> Result<usize, StoreError> {
        self.writer.write(move |batch| batch.forget_deeds(before)).await
    }

    async fn create_configuration(
        &self,
        mut new: StoredConfiguration,
        terms: Terms,
    ) -> Result<Configuration, StoreError> {
        new.configuration.create_time = rounded(new.configuration.create_time);
        new.configuration.update_time = rounded(new.configuration.update_time);
        let now = new.configuration.create_time;
        self.write_once(terms, now, move |batch, terms| batch.create_configuration(&new, terms)).await
    }

    async fn answered_configuration(
        &self,
        request: &RequestKey,
        now: Timestamp,
    ) -> Result<Option<Configuration>, StoreError> {
        let request = request.clone();
        self.readers.read(move |sql| requests::answer(sql, &request, now)).await
    }

    async fn configuration(&self, kind: Kind, name: &ConfigurationName) -> Result<StoredConfiguration, StoreError> {
        let name = name.clone();
        self.readers.read(move |sql| configurations::one(sql, kind, &name)).await
    }

    async fn known_configuration(&self, kind: Kind, name: &ConfigurationName) -> Result<Configuration, StoreError> {
        let name = name.clone();
        self.readers.read(move |sql| configurations::known(sql, kind, &name)).await
    }

    async fn configurations(&self, kind: Kind, query: Query<NameKey>) -> Result<Page<Configuration>, StoreError> {
        self.readers.read(move |sql| configurations::many(sql, kind, &query)).await
    }

    async fn replace_configuration(
        &self,
        mut new: StoredConfiguration,
        seen: u64,
        terms: Terms,
    ) -> Result<Configuration, StoreError> {
        new.configuration.update_time = rounded(new.configuration.update_time);
        let now = new.configuration.update_time;
        self.write_once(terms, now, move |batch, terms| batch.replace_configuration(&new, seen, terms)).await
    }

    async fn delete_configuration(
        &self,
        kind: Kind,
        name: &ConfigurationName,
        terms: Terms,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let name = name.clone();
        self.write_once(terms, now, move |batch, terms| batch.delete_configuration(kind, &name, terms)).await
    }

    async fn create_template(&self, mut new: StoredTemplate, terms: Terms) -> Result<Template, StoreError> {
        new.template.create_time = rounded(new.template.create_time);
        let now = new.template.create_time;
        self.write_once(terms, now, move |batch, terms| batch.create_template(&new, terms)).await
    }

    async fn template(&self, key: &TemplateKey) -> Result<StoredTemplate, StoreError> {
        let key = key.clone();
        self.readers.read(move |sql| templates::one(sql, &key)).await
    }

    async fn template_variants(&self, name: &TemplateName, version: &str) -> Result<Vec<StoredTemplate>, StoreError> {
        let (name, version) = (name.clone(), version.to_owned());
        self.readers.read(move |sql| templates::variants(sql, &name, &version)).await
    }

    async fn templates(&self, query: Query<TemplateSort>) -> Result<Page<Template>, StoreError> {
        self.readers.read(move |sql| templates::many(sql, &query)).await
    }

    async fn delete_template(&self, key: &TemplateKey, terms: Terms, now: Timestamp) -> Result<(), StoreError> {
        let key = key.clone();
        self.write_once(terms, now, move |batch, terms| batch.delete_template(&key, terms)).await
    }

    async fn template_alias(&self, name: &TemplateName, alias: &TemplateName) -> Result<String, StoreError> {
        let (name, alias) = (name.clone(), alias.clone());
        self.readers.read(move |sql| templates::alias(sql, &name, &alias)).await
    }

    async fn set_template_alias(
        &self,
        change: AliasChange,
        terms: Terms,
        now: Timestamp,
    ) -> Result<AliasChanged, StoreError> {
        self.write_once(terms, now, move |batch, terms| batch.set_template_alias(&change, terms)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.writer.write(|_| Ok(())).await?;
        self.readers.read(read::ping).await
    }
}
