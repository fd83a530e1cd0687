//! What the store tells its observer of each commit.

use std::sync::Arc;

use bytes::Bytes;
use longshore_model::assignment::{ImageAccess, Order};
use longshore_model::job::Job;
use longshore_model::name::{AppName, JobId, NodeName, SessionId};
use longshore_model::node::Labels;
use longshore_model::task::Task;
use longshore_model::user::User;

/// An assignment as it goes to a session: the spec stays encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedAssignment {
    /// The app.
    pub app: AppName,
    /// Revision of the app on this node.
    pub revision: u64,
    /// The job.
    pub job: JobId,
    /// The task's attempt.
    pub attempt: u32,
    /// What to do.
    pub order: Order,
    /// The spec, shared by all nodes of the job.
    pub spec: Bytes,
    /// What the call is called that created the job, or last retried or resumed it.
    pub cause: Option<Arc<str>>,
    /// Whether there is a registry credential for the image.
    pub image_access: ImageAccess,
    /// Those of the node's labels that the spec asks for.
    pub node_labels: Labels,
}

/// Something that was committed.
#[derive(Clone, Debug)]
pub enum Change {
    /// A job changed, and these tasks of it. `tasks` may be shared by several changes of one commit.
    Job {
        /// Its newest state.
        job: Arc<Job>,
        /// Tasks that changed, each in its newest state.
        tasks: Vec<Task>,
    },
    /// A session was opened: this is everything that its node shall run.
    Opened {
        /// The node.
        node: NodeName,
        /// The session.
        session: SessionId,
        /// The full set.
        assignments: Vec<EncodedAssignment>,
        /// Apps whose removal the node has not confirmed yet: it may never have heard of one, and then says so.
        removing: Vec<AppName>,
        /// Whether the node shall leave alone what is not in the set: it comes from a restored database that nobody has
        /// accepted yet.
        keep_others: bool,
    },
    /// A node shall run this from now on.
    Set {
        /// The node.
        node: NodeName,
        /// What to run.
        assignment: EncodedAssignment,
    },
    /// A node shall no longer run this.
    Unset {
        /// The node.
        node: NodeName,
        /// The app to remove.
        app: AppName,
    },
    /// A node was deleted: its session must end, its certificate counts no longer.
    NodeDeleted {
        /// The node.
        node: NodeName,
    },
    /// A node was enrolled anew: its session, of whoever was the node before, must end; what it runs stays.
    Reenrolled {
        /// The node.
        node: NodeName,
    },
    /// A user was added, renewed their certificate, or was revoked.
    User(User),
    /// Something may have become assignable: a job was created, resumed or retried, or a slot of `max_parallel` is free.
    Assignable,
}

/// Is told of every commit, in commit order, on the writer's thread: must neither block nor call the store.
pub trait Observer: Send + Sync + 'static {
    /// These changes are durable.
    fn committed(&self, changes: Vec<Change>);
}
