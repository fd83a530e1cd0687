//! An app: what a task leaves on a node.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::health::Readiness;
use crate::name::{AppName, JobId, NodeName};
use crate::spec::Protocol;

/// One app on one node, as the server keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// The node.
    pub node: NodeName,
    /// The app.
    pub name: AppName,
    /// The job that put it there, and whose spec it runs.
    pub job: JobId,
    /// Number of that job's spec that it runs.
    pub spec_revision: u32,
    /// Attempt of the job's task that last placed it.
    pub attempt: u32,
    /// Grows with every change of what the app runs on this node.
    pub revision: u64,
    /// Whether it belongs on the node.
    pub desired: Desired,
    /// The job that removes it, where one does.
    pub remover: Option<JobId>,
    /// What it ran before the last update, and goes back to when that does not succeed.
    pub previous: Option<Previous>,
    /// The greatest revision that was ever given to it on this node: one that was gone back from is not used again.
    pub last_revision: u64,
    /// What the agent last said of it.
    pub status: AppStatus,
    /// When the status last changed.
    pub update_time: Timestamp,
}

/// An earlier revision of an app on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// The job whose spec it ran.
    pub job: JobId,
    /// Number of that job's spec.
    pub spec_revision: u32,
    /// Attempt of that job's task.
    pub attempt: u32,
    /// Its number.
    pub revision: u64,
}

/// Whether an app belongs on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Desired {
    /// It does.
    Present,
    /// It is being removed; the entry goes when the node has confirmed.
    Removing,
}

/// What an agent says of an app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppStatus {
    /// The whole of it.
    pub state: AppState,
    /// Each instance, by index.
    pub instances: Vec<InstanceStatus>,
    /// Ports in use, automatic ones filled in.
    pub ports: Vec<BoundPort>,
}

impl AppStatus {
    /// Why it is not ready, if that is so: `instance 2 is not ready: HTTP 503`.
    #[must_use]
    pub fn unreadiness(&self) -> Option<String> {
        let (index, readiness) =
            self.instances.iter().find_map(|one| Some((one.index, one.readiness.as_ref().filter(|r| !r.ready)?)))?;
        let answer = if readiness.message.is_empty() { "it has not been asked yet" } else { &readiness.message };
        Some(format!("instance {index} is not ready: {answer}"))
    }
}

/// States of an app on its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AppState {
    /// The agent has not said yet.
    #[default]
    Unknown,
    /// Being brought up.
    Starting,
    /// Every instance is up.
    Running,
    /// Every instance is up, and at least one is not ready.
    NotReady,
    /// At least one instance waits for its next start.
    BackOff,
    /// Every instance ended by itself and its restart policy leaves it so.
    Completed,
    /// Brought down after a failure.
    Failed,
    /// Gone from the node.
    Removed,
}

/// What an agent says of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// 0, 1, …
    pub index: u32,
    /// Its state.
    pub state: InstanceState,
    /// Starts so far, the first included.
    pub starts: u32,
    /// When it was last started.
    pub start_time: Option<Timestamp>,
    /// How it last ended.
    pub last_exit: Option<InstanceExit>,
    /// Why the agent ended it then, such as `liveness probe failed: HTTP 500`; `None` where it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit_reason: Option<String>,
    /// What its readiness probe says; `None` where it has none or is not up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
}

/// States of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum InstanceState {
    /// Not started yet.
    Waiting,
    /// Up.
    Running,
    /// Ended; the next start is delayed.
    BackOff,
    /// Ended for good.
    Exited,
}

/// How an instance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceExit {
    /// Exit code; 128 + signal number after a signal.
    pub code: i32,
    /// Whether the kernel killed it for passing its memory limit.
    pub out_of_memory: bool,
    /// When.
    pub time: Timestamp,
}

/// A port of the node that leads into an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundPort {
    /// Instance it leads to.
    pub instance: u32,
    /// Port inside the container.
    pub container_port: u16,
    /// Port of the node.
    pub host_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Address bound on the node.
    pub host_ip: std::net::Ipv4Addr,
    /// Whether other instances have the same port of the node, and share its traffic.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// Interface whose address that is; `None` where the spec names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_interface: Option<String>,
}
