//! Plans.

use longshore_model::name::NodeName;
use longshore_model::plan::{Action, Obstacle, Summary};

use crate::v1;

/// The wire form of what a job would do on a node.
#[must_use]
pub fn node_plan(node: &NodeName, action: Action, obstacles: &[Obstacle]) -> v1::NodePlan {
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
    }
}

/// The wire form of what a plan comes to.
#[must_use]
pub fn plan_summary(summary: Summary) -> v1::PlanSummary {
    let (clear_nodes, obstructed_nodes) = (summary.clear, summary.obstructed);
    let found = summary.into_groups();
    let groups = found.groups.into_iter().map(|group| v1::ObstacleGroup {
        reason: v1::FailureReason::from(group.reason).into(),
        pattern: group.shape,
        nodes: group.count,
        example_node: group.example.to_string(),
    });
    v1::PlanSummary { clear_nodes, obstructed_nodes, groups: groups.collect(), other_obstacles: found.others }
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
