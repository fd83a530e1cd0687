//! Everything of the server that lives in memory, and is told of every commit.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::fleet::Fleet;
use crate::hub::Hub;
use crate::identity::users::Users;
use crate::session::channels::ChannelDesk;
use crate::session::checks::CheckDesk;
use crate::session::logs::LogDesk;
use crate::store::{Change, Observer};

/// Live sessions, watchers and readers of logs. A restarted server begins with none of them.
#[derive(Debug, Default)]
pub struct Live {
    /// Live sessions.
    pub fleet: Arc<Fleet>,
    /// Watchers of jobs.
    pub hub: Arc<Hub>,
    /// Readers of logs.
    pub logs: Arc<LogDesk>,
    /// People who work inside instances.
    pub channels: Arc<ChannelDesk>,
    /// Plans that ask nodes.
    pub checks: Arc<CheckDesk>,
    /// Who of the users may call.
    pub users: Arc<Users>,
    /// Wakes the controller.
    pub wake: Arc<Notify>,
}

impl Observer for Live {
    fn committed(&self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Job { job, tasks } => self.hub.changed(&job, tasks),
                Change::Opened { node, session, assignments, removing, keep_others } => {
                    self.fleet.opened(&node, &session, assignments, &removing, keep_others);
                    // The node's pending tasks can be assigned now.
                    self.wake.notify_one();
                }
                Change::Set { node, assignment } => self.fleet.set(&node, assignment),
                Change::Unset { node, app } => self.fleet.unset(&node, &app),
                Change::NodeDeleted { node } => {
                    self.fleet.node_deleted(&node);
                    self.logs.node_deleted(&node);
                    self.channels.node_deleted(&node);
                    self.checks.node_deleted(&node);
                }
                Change::Reenrolled { node } => self.fleet.reenrolled(&node),
                Change::User(user) => self.users.changed(user),
                Change::Assignable => self.wake.notify_one(),
            }
        }
    }
}
