//! Why the store did not do something.

use longshore_model::machine::Refused;
use longshore_model::name::{AppName, JobId, NodeName, TemplateName};
use longshore_model::node::TooManyLabels;
use longshore_model::template::TemplateKey;

/// Why the store did not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such thing.
    #[error("there is no {kind} {name:?}")]
    NotFound {
        /// What it is, such as a job or a config map, in the words of messages.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// There already is one.
    #[error("there already is a {kind} {name:?}")]
    AlreadyExists {
        /// What it is, such as a job or a config map, in the words of messages.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The job's state does not allow the request.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It is not as the caller saw it.
    #[error("the {kind} {name:?} has changed since it was read; read it again")]
    Changed {
        /// What it is, such as a job or a config map, in the words of messages.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The request has made this enrolment token already, which is shown once.
    #[error(
        "the request made the enrolment token {0} when it came first, and a token is shown once; delete that one, and \
         make another by a request of another identifier"
    )]
    TokenShown(String),
    /// The caller sent another request under this identifier.
    #[error("the request identifier {0} stands for another request already")]
    RequestReused(String),
    /// Of the tasks that could be retried none is chosen.
    #[error("matches no task of the job that has not succeeded")]
    NoneChosen,
    /// Another job has a task of the app open.
    #[error("app {app} has an open task of job {job} on node {node}; stop the job first")]
    AppBusy {
        /// The app.
        app: AppName,
        /// The job.
        job: JobId,
        /// The node.
        node: NodeName,
    },
    /// An alias would stand for nothing.
    #[error("the alias {alias} stands for the template {key}, of which this is the last variant; move the alias first")]
    TemplateAliased {
        /// What was to be deleted.
        key: TemplateKey,
        /// The alias.
        alias: TemplateName,
    },
    /// The node would have more labels than it may.
    #[error("the change {0}")]
    TooManyLabels(#[from] TooManyLabels),
    /// The token is spent or expired, or its secret is wrong; which of these is not said.
    #[error("the enrolment token is not valid: it may be mistyped, spent, revoked or expired")]
    BadToken,
    /// The token is for another node.
    #[error("the enrolment token is for the node {0}")]
    TokenForOther(NodeName),
    /// A person has turned the machine away.
    #[error("the enrolment of {0} was denied")]
    Denied(NodeName),
    /// Without this admin nobody could do what admins do.
    #[error("{0} is the last admin whose certificate is good")]
    LastAdmin(String),
    /// There are as many as there may be.
    #[error("there are {limit} of the kind {kind} already, which is the limit")]
    TooMany {
        /// What they are, such as enrolment tokens or remembered requests, in the words of messages.
        kind: &'static str,
        /// The limit.
        limit: u32,
    },
    /// More reads or writes are waiting than the store takes on.
    #[error("the store is busy: too much is waiting to be read or written")]
    Busy,
    /// The store has shut down.
    #[error("the store is shut down")]
    Closed,
    /// The database failed.
    #[error("the database failed")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
}
