//! What the agent says of an app, from what is known of it.

use jiff::Timestamp;
use longshore_model::app::{AppState, AppStatus, InstanceState, InstanceStatus};

use super::plan::{App, Container, ContainerState};
use crate::ledger::{Record, Wish};

/// The app's status at this moment.
#[must_use]
pub fn of(app: &App, now: Timestamp) -> AppStatus {
    if app.entry.wish == Wish::Gone {
        return AppStatus { state: AppState::Removed, ..AppStatus::default() };
    }
    let instance = |(index, record): (u32, &Record)| InstanceStatus {
        index,
        state: instance_state(app, index, record, now),
        starts: record.starts,
        start_time: record.start_time,
        last_exit: record.last_exit,
        last_exit_reason: record.last_exit_reason.clone(),
        readiness: app.readiness(index).cloned(),
    };
    let instances: Vec<InstanceStatus> = app.instances().map(instance).collect();
    let state = if is_down(app) { AppState::Failed } else { whole(&instances) };
    AppStatus { state, instances, ports: app.ports_of(app.target_side()).to_vec() }
}

fn is_down(app: &App) -> bool {
    !app.is_going_back() && app.entry.outcome.as_ref().is_some_and(|outcome| !outcome.is_success())
}

fn instance_state(app: &App, index: u32, record: &Record, now: Timestamp) -> InstanceState {
    // One of another revision is on its way out.
    let is_its = |container: &&Container| container.revision == app.target().revision;
    let container = app.containers.get(&index).filter(is_its).map(|container| container.state);
    if matches!(container, Some(ContainerState::Running(_))) {
        InstanceState::Running
    } else if record.ended {
        InstanceState::Exited
    } else if record.not_before.is_some_and(|moment| moment > now) {
        InstanceState::BackOff
    } else {
        InstanceState::Waiting
    }
}

fn whole(instances: &[InstanceStatus]) -> AppState {
    let any = |state| instances.iter().any(|instance| instance.state == state);
    if any(InstanceState::BackOff) {
        AppState::BackOff
    } else if any(InstanceState::Waiting) {
        AppState::Starting
    } else if instances.iter().any(|instance| instance.readiness.as_ref().is_some_and(|readiness| !readiness.ready)) {
        AppState::NotReady
    } else if any(InstanceState::Running) {
        AppState::Running
    } else {
        AppState::Completed
    }
}
