//! A store that fails when it is told to, and holds nothing: for what must be done when the real one fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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

use crate::store::sorting::{
    AppKey, AuditKey, EventKey, JobKey, NameKey, NodeKey, Query, TaskKey, TemplateSort, TokenKey,
};
use crate::store::{
    AliasChange, AliasChanged, AuditPage, Away, Census, Connected, Enrolled, Enrolling, EventsOf, JobRequest, NewJob,
    NodeReport, Page, RequestKey, Seen, Store, StoreError, StoredConfiguration, StoredCredential, StoredTemplate,
    StoredToken, Terms,
};

/// Fails until it is told otherwise.
#[derive(Debug, Default)]
pub(crate) struct FailingStore {
    works: AtomicBool,
    closed: AtomicBool,
    rounds: AtomicUsize,
}

impl FailingStore {
    /// Makes it fail or work from now on.
    pub(crate) fn fail(&self, fails: bool) {
        self.works.store(!fails, Ordering::Relaxed);
    }

    /// Makes it say from now on that it has ended.
    pub(crate) fn end(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// How often the deadlines were looked at.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.load(Ordering::Relaxed)
    }

    fn answer<T>(&self, value: T) -> Result<T, StoreError> {
        if self.closed.load(Ordering::Relaxed) {
            Err(StoreError::Closed)
        } else if self.works.load(Ordering::Relaxed) {
            Ok(value)
        } else {
            Err(StoreError::Database("the disk is gone".into()))
        }
    }

    fn nothing<T>(&self) -> Result<T, StoreError> {
        self.answer(())?;
        Err(StoreError::NotFound { kind: "thing", name: String::new() })
    }
}

#[async_trait]
impl Store for FailingStore {
    async fn created(&self, _: &RequestKey, _: Timestamp) -> Result<Option<Arc<Job>>, StoreError> {
        self.answer(None)
    }

    async fn create_job(&self, _: NewJob) -> Result<Arc<Job>, StoreError> {
        self.nothing()
    }

    async fn check_not_busy(&self, _: &AppName, _: Vec<NodeName>) -> Result<(), StoreError> {
        self.answer(())
    }

    async fn job(&self, _: &JobId) -> Result<Arc<Job>, StoreError> {
        self.nothing()
    }

    async fn job_with_spec(&self, _: &JobId, _: u32) -> Result<Arc<Job>, StoreError> {
        self.nothing()
    }

    async fn jobs(&self, _: Query<JobKey>) -> Result<Page<Arc<Job>>, StoreError> {
        self.answer(Page { items: Vec::new(), more: false })
    }

    async fn tasks(&self, _: &JobId, _: Query<TaskKey>) -> Result<Page<Task>, StoreError> {
        self.answer(Page { items: Vec::new(), more: false })
    }

    fn epoch(&self) -> i64 {
        0
    }

    async fn job_with_tasks(&self, _: &JobId, _: &Seen) -> Result<(Arc<Job>, Vec<Task>), StoreError> {
        self.nothing()
    }

    async fn request(&self, _: &JobId, _: JobRequest, _: Terms, _: Timestamp) -> Result<Arc<Job>, StoreError> {
        self.nothing()
    }

    async fn assignable(&self, _: Connected, _: usize) -> Result<Vec<(JobId, NodeName)>, StoreError> {
        self.answer(Vec::new())
    }

    async fn assign(&self, _: Vec<(JobId, NodeName)>, _: Timestamp) -> Result<usize, StoreError> {
        self.answer(0)
    }

    async fn set_aside(&self, _: Away, _: Timestamp) -> Result<Option<Duration>, StoreError> {
        self.answer(None)
    }

    async fn pass_deadlines(&self, _: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        self.answer(None)
    }

    async fn report(&self, _: &NodeName, _: Vec<NodeReport>, _: Timestamp) -> Result<(), StoreError> {
        self.answer(())
    }

    async fn create_token(&self, _: StoredToken, _: Terms) -> Result<(), StoreError> {
        self.answer(())
    }

    async fn tokens(&self, _: Query<TokenKey>, _: Timestamp) -> Result<Page<StoredToken>, StoreError> {
        self.answer(Page { items: Vec::new(), more: false })
    }

    async fn delete_token(&self, _: &str, _: Terms, _: Timestamp) -> Result<(), StoreError> {
        self.answer(())
    }

    async fn enroll(&self, _: Enrolling, _: Timestamp) -> Result<Enrolled, StoreError> {
        self.nothing()
    }

    async fn pending(&self, _: Query<NameKey>, _: Timestamp) -> Result<Page<PendingNode>, StoreError> {
        self.answer(Page { items: Vec::new(), more: false })
    }

    async fn approve(&self, _: &NodeName, _: Terms, _: Timestamp) -> Result<Node, StoreError> {
        self.nothing()
    }

    async fn deny(&self, _: &NodeName, _: Terms, _: Timestamp) -> Result<(), StoreError> {
        self.answer(())
    }

    async fn node(&self, _: &NodeName) -> Result<Node, StoreError> {
        self.nothing()
    }

    async fn nodes(&self, _: Query<NodeKey>) -> Result<Page<Node>, StoreError> {
        self.answer(Page { items: Vec::new(), more: false })
    }

    async fn update_labels(&self, _: &NodeName, _: LabelChange, _: Terms, _: Timestamp) -> Result<Node, StoreError> {
        self.nothing()
    }

    async fn delete_node(&self, _: &NodeName, _: Terms, _: Timestamp) -> Result<(), StoreError> {
        self.answer(())
    }

    async fn create_user(&self, user: User, _: Terms) -> Result<User, StoreError> {
        self.answer(user)
    }

    async fn adopt_first_user(&self, _: User) -> Result<(), StoreError> {
        self.answer(())
    }

    async fn users(&self, _: Query<NameKey>) -> Result<Page<User>, StoreError> {
        self.answer(Page { items: Vec::new(), more: false })
    }

    async fn renew_user(&self, _: &str, _: Role, _: Timestamp, _: Timestamp, _: Timestamp) -> Result<User, StoreError> {
        self.nothing()
    }

    async fn revoke_user(&self, _: &str, _: Terms, _: Timestamp) -> Result<User, StoreError> {
        self.nothing()
    }

    async fn certified_node(&self, _: &NodeName, _: Timestamp) -> Result<(), StoreError> {
        self.nothing()
    }

    async fn report_accelerators(&self, _: &NodeName, _: Vec<Stock>) -> Result<(), StoreError> {
        self.nothing()
    }

    async fn open_session(&self, _: &NodeName, _: &SessionId, _: NodeInfo, _: Timestamp) -> Result<(), StoreError> {
        self.answer(())
    }

    async fn close_session(&self, _: &NodeName, _: Timestamp) -> Result<(), StoreError> {
        self.answer(())
    }

    async fn apps(&self, _: Option<&NodeName>, _: Option<&AppName>, _: Query<AppKey>) -> Result<Page<App>, StoreError> {
        self.answer(Page { items: Vec::new(), more: false })
    }

    async fn app(&self, _: &NodeName, _: &AppName) -> Result<App, StoreError> {
        self.nothing()
    }

    async fn app_events(&self, _: EventsOf, _: Query<EventKey>) -> Result<Page<AppEvent>, StoreError> {
        self.answer(Page { items: Vec::new(), more: false })
    }

    async fn forget_app_events(&self, _: Timestamp) -> Result<usize, StoreError> {
        self.answer(0)
    }

    async fn remove_app(&self, _: &AppName, _: Option<&NodeName>, _: Terms, _: Timestamp) -> Result<u32, StoreError> {
        self.answer(0)
    }

    async fn forget_jobs(&self, _: Timestamp, _: Timestamp) -> Result<usize, StoreError> {
        self.answer(0)
    }

    async fn census(&self) -> Result<Census, StoreError> {
        self.answer(Census { jobs: Vec::new(), tasks: Vec::new(), nodes: 0 })
    }

    async fn create_credential(&self, _: StoredCredential, _: Terms) -> Result<RegistryCredential, StoreError> {
        self.nothing()
    }

    async fn answered_credential(
        &self,
        _: &RequestKey,
        _: Timestamp,
    ) -> Result<Option<RegistryCredential>, StoreError> {
        self.answer(None)
    }

    async fn credential(&self, _: &CredentialName) -> Result<StoredCredential, StoreError> {
        self.nothing()
    }

    async fn credentials(&self, _: Query<NameKey>) -> Result<Page<StoredCredential>, StoreError> {
        self.nothing()
    }

    async fn replace_credential(
        &self,
        _: StoredCredential,
        _: u64,
        _: Terms,
    ) -> Result<RegistryCredential, StoreError> {
        self.nothing()
    }

    async fn delete_credential(&self, _: &CredentialName, _: Terms, _: Timestamp) -> Result<(), StoreError> {
        self.nothing()
    }

    async fn record(&self, _: Deed) -> Result<AuditEntry, StoreError> {
        self.nothing()
    }

    async fn audit_log(&self, _: Query<AuditKey>) -> Result<AuditPage, StoreError> {
        self.nothing()
    }

    async fn forget_deeds(&self, _: Timestamp) -> Result<usize, StoreError> {
        self.answer(0)
    }

    async fn create_configuration(&self, _: StoredConfiguration, _: Terms) -> Result<Configuration, StoreError> {
        self.nothing()
    }

    async fn answered_configuration(&self, _: &RequestKey, _: Timestamp) -> Result<Option<Configuration>, StoreError> {
        self.nothing()
    }

    async fn configuration(&self, _: Kind, _: &ConfigurationName) -> Result<StoredConfiguration, StoreError> {
        self.nothing()
    }

    async fn known_configuration(&self, _: Kind, _: &ConfigurationName) -> Result<Configuration, StoreError> {
        self.nothing()
    }

    async fn configurations(&self, _: Kind, _: Query<NameKey>) -> Result<Page<Configuration>, StoreError> {
        self.nothing()
    }

    async fn replace_configuration(
        &self,
        _: StoredConfiguration,
        _: u64,
        _: Terms,
    ) -> Result<Configuration, StoreError> {
        self.nothing()
    }

    async fn delete_configuration(
        &self,
        _: Kind,
        _: &ConfigurationName,
        _: Terms,
        _: Timestamp,
    ) -> Result<(), StoreError> {
        self.nothing()
    }

    async fn create_template(&self, _: StoredTemplate, _: Terms) -> Result<Template, StoreError> {
        self.nothing()
    }

    async fn template(&self, _: &TemplateKey) -> Result<StoredTemplate, StoreError> {
        self.nothing()
    }

    async fn template_variants(&self, _: &TemplateName, _: &str) -> Result<Vec<StoredTemplate>, StoreError> {
        self.nothing()
    }

    async fn templates(&self, _: Query<TemplateSort>) -> Result<Page<Template>, StoreError> {
        self.nothing()
    }

    async fn delete_template(&self, _: &TemplateKey, _: Terms, _: Timestamp) -> Result<(), StoreError> {
        self.nothing()
    }

    async fn template_alias(&self, _: &TemplateName, _: &TemplateName) -> Result<String, StoreError> {
        self.nothing()
    }

    async fn set_template_alias(&self, _: AliasChange, _: Terms, _: Timestamp) -> Result<AliasChanged, StoreError> {
        self.nothing()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.answer(())
    }
}
