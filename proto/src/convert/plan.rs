//! Plans.

use std::sync::Arc;

use longshore_model::failure::FailureReason;
use longshore_model::label;
use longshore_model::name::NodeName;
use longshore_model::plan::{Action, Candidate, Check, Look, MAX_OBSTACLES, Obstacle, Summary};
use longshore_model::validate::{Path, Violations};

use super::FromWire;
use crate::v1;

/// The wire form of what a job would do on a node, and of what became of asking it.
#[must_use]
pub fn node_plan(node: &NodeName, action: Action, obstacles: &[Obstacle], check: Option<&Check>) -> v1::NodePlan {
    let (from_revision, same_spec) = match action {
        Action::Update { from, is_same } => (from, is_same),
        Action::Deploy | Action::Remove | Action::Pull | Action::Nothing => (0, false),
    };
    v1::NodePlan {
        node_name: node.to_string(),
        action: v1::PlanAction::from(action).into(),
        from_revision,
        same_spec,
        obstacles: obstacles.iter().map(v1::PlanObstacle::from).collect(),
        check: check.map_or(v1::NodeCheck::Unspecified, v1::NodeCheck::from).into(),
        fetch_bytes: match check {
            Some(Check::Done(look)) => look.fetch_bytes,
            _ => None,
        },
    }
}

impl FromWire<v1::CheckRequest> for Candidate {
    fn from_wire(wire: v1::CheckRequest, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let app = FromWire::from_wire(wire.app_name, path.field("app_name"), bad);
        let spec = FromWire::from_wire(wire.app_spec.as_ref(), path.field("app_spec"), bad);
        label::check(&wire.node_labels, path.field("node_labels"), bad);
        let image_access = v1::ImageAccess::try_from(wire.image_access).unwrap_or_default().into();
        Some(Self { app: app?, spec: Arc::new(spec?), image_access, node_labels: wire.node_labels })
    }
}

/// The wire form of what an agent has found.
#[must_use]
pub fn answer_check(request_id: String, look: &Look) -> v1::AnswerCheckRequest {
    let obstacles = look.obstacles.iter().take(MAX_OBSTACLES).map(v1::PlanObstacle::from).collect();
    v1::AnswerCheckRequest { request_id, obstacles, fetch_bytes: look.fetch_bytes }
}

/// What an agent says that it has found. Nothing of it is a reason to refuse the rest: a newer agent may know more reasons.
#[must_use]
pub fn look(wire: v1::AnswerCheckRequest) -> Look {
    let obstacle = |wire: v1::PlanObstacle| {
        Obstacle::new(FailureReason::read(wire.reason).unwrap_or(FailureReason::RuntimeError), &wire.message)
    };
    let obstacles = wire.obstacles.into_iter().take(MAX_OBSTACLES).map(obstacle).collect();
    Look { obstacles, fetch_bytes: wire.fetch_bytes }
}

/// The wire form of what a plan comes to.
#[must_use]
pub fn plan_summary(summary: Summary) -> v1::PlanSummary {
    let (clear_nodes, obstructed_nodes) = (summary.clear, summary.obstructed);
    let (checked_nodes, unchecked_nodes, fetch_bytes) = (summary.checked, summary.unchecked, summary.fetch_bytes);
    let found = summary.into_groups();
    let groups = found.groups.into_iter().map(|group| v1::ObstacleGroup {
        reason: v1::FailureReason::from(group.reason).into(),
        pattern: group.shape,
        nodes: group.count,
        example_node: group.example.to_string(),
    });
    v1::PlanSummary {
        clear_nodes,
        obstructed_nodes,
        groups: groups.collect(),
        other_obstacles: found.others,
        checked_nodes,
        unchecked_nodes,
        fetch_bytes,
    }
}

impl From<&Check> for v1::NodeCheck {
    fn from(check: &Check) -> Self {
        match check {
            Check::Done(_) => Self::Done,
            Check::Needless => Self::Needless,
            Check::NotConnected => Self::NotConnected,
            Check::TooOld => Self::TooOld,
            Check::NoAnswer => Self::NoAnswer,
        }
    }
}

impl From<Action> for v1::PlanAction {
    fn from(action: Action) -> Self {
        match action {
            Action::Deploy => Self::Deploy,
            Action::Update { .. } => Self::Update,
            Action::Remove => Self::Remove,
            Action::Pull => Self::Pull,
            Action::Nothing => Self::Nothing,
        }
    }
}

impl From<&Obstacle> for v1::PlanObstacle {
    fn from(obstacle: &Obstacle) -> Self {
        Self { reason: v1::FailureReason::from(obstacle.reason).into(), message: obstacle.message.clone() }
    }
}
