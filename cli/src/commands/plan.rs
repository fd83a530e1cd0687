//! `longshore plan`

use std::path::PathBuf;
use std::time::Duration;

use longshore_proto::v1::{NodePlan, PlanAction, PlanJobRequest, PlanJobResponse, PlanSummary};
use tonic::Request;

use super::apply::read;
use crate::commands::context;
use crate::connection::Connection;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;
use crate::{job_file, json, text};

/// How long a plan may take: a server looks at some thousand nodes in a second.
const PLAN_TIMEOUT: Duration = Duration::from_secs(300);

/// Show what a job would do on each node and what stands in its way, without doing it.
///
/// Exit codes are those that the job would have: 0 where nothing stands in the way, 3 where something does on some nodes,
/// 4 where it does on all of them.
#[derive(Debug, clap::Args)]
pub(crate) struct Plan {
    /// The job file, in YAML; `-` reads standard input.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
}

pub(super) async fn run(plan: Plan, connection: &Connection, output: &mut Output) -> Result<Exit, Error> {
    let name = job_file::display_name(&plan.file);
    let job = job_file::parse(&name, &read(&plan.file, &name)?).map_err(Error::new)?;
    let mut context = context(connection, output).await?;
    let mut request = Request::new(PlanJobRequest { job: Some(job) });
    request.set_timeout(PLAN_TIMEOUT);
    let refused = |status: tonic::Status| Error::from(status).about_file_in("job.", &name);
    let mut stream = context.client.jobs.plan_job(request).await.map_err(refused)?.into_inner();
    let mut whole = PlanJobResponse::default();
    while let Some(piece) = stream.message().await.map_err(refused)? {
        whole.job = whole.job.or(piece.job);
        whole.summary = whole.summary.or(piece.summary);
        whole.nodes.extend(piece.nodes);
    }
    for warning in whole.job.iter().flat_map(|job| &job.warnings) {
        context.output.note(&format!("warning: {warning}"));
    }
    context.output.show(|| json::of("PlanJobResponse", &whole), || describe(&whole))?;
    Ok(verdict(&whole.summary.unwrap_or_default()))
}

fn verdict(summary: &PlanSummary) -> Exit {
    match (summary.clear_nodes, summary.obstructed_nodes) {
        (_, 0) => Exit::Ok,
        (0, _) => Exit::Failed,
        _ => Exit::Partial,
    }
}

fn describe(plan: &PlanJobResponse) -> String {
    let row = |node: &NodePlan| [node.node_name.clone(), action(node), obstacles(node)];
    let table = text::table(["NODE", "PLAN", "IN THE WAY"], plan.nodes.iter().map(row));
    let summary = plan.summary.clone().unwrap_or_default();
    let mut lines = vec![table, String::new()];
    lines.push(match summary.obstructed_nodes {
        0 => format!("Nothing is known to stand in the way on {}.", text::count(summary.clear_nodes, "node")),
        some => {
            format!("Something stands in the way on {some} of {}:", text::count(some + summary.clear_nodes, "node"))
        }
    });
    for group in &summary.groups {
        let reason = text::reason(group.reason());
        let pattern = text::one_line(&group.pattern);
        lines.push(format!("  {} {reason}: {pattern} (such as {})", group.nodes, group.example_node));
    }
    if summary.other_obstacles > 0 {
        lines.push(format!("  {} for other causes", summary.other_obstacles));
    }
    lines.join("\n")
}

fn action(node: &NodePlan) -> String {
    match node.action() {
        PlanAction::Update if node.same_spec => format!("restart revision {}", node.from_revision),
        PlanAction::Update => format!("update from revision {}", node.from_revision),
        PlanAction::Deploy => "deploy".to_owned(),
        PlanAction::Pull => "pull".to_owned(),
        PlanAction::Remove => "remove".to_owned(),
        PlanAction::Nothing => "nothing to do".to_owned(),
        PlanAction::Unspecified => "-".to_owned(),
    }
}

fn obstacles(node: &NodePlan) -> String {
    let all = node.obstacles.iter().map(|found| format!("{}: {}", text::reason(found.reason()), found.message));
    text::or_dash(&all.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use longshore_proto::v1::{FailureReason, ObstacleGroup, PlanObstacle};

    use super::*;

    #[test]
    fn a_plan_has_a_line_for_each_node_and_one_for_each_cause() {
        let taken = PlanObstacle {
            reason: FailureReason::PortInUse.into(),
            message: "Port 80/tcp on 0.0.0.0 is taken by the app web-x1 on this node.".to_owned(),
        };
        let node = |name: &str, action: PlanAction, from_revision, same_spec, obstacles| NodePlan {
            node_name: name.to_owned(),
            action: action.into(),
            from_revision,
            same_spec,
            obstacles,
        };
        let nodes = vec![
            node("shop-1", PlanAction::Update, 3, false, vec![taken]),
            node("shop-2", PlanAction::Update, 4, true, vec![]),
            node("shop-30", PlanAction::Nothing, 0, false, vec![]),
        ];
        let group = ObstacleGroup {
            reason: FailureReason::PortInUse.into(),
            pattern: "Port … on … is taken by the app … on this node.".to_owned(),
            nodes: 1,
            example_node: "shop-1".to_owned(),
        };
        let summary = PlanSummary { clear_nodes: 2, obstructed_nodes: 1, groups: vec![group], other_obstacles: 0 };
        let plan = PlanJobResponse { job: None, nodes, summary: Some(summary) };
        let expected = "\
NODE     PLAN                    IN THE WAY
shop-1   update from revision 3  PORT_IN_USE: Port 80/tcp on 0.0.0.0 is taken by the app web-x1 on this node.
shop-2   restart revision 4      -
shop-30  nothing to do           -

Something stands in the way on 1 of 3 nodes:
  1 PORT_IN_USE: Port … on … is taken by the app … on this node. (such as shop-1)";
        assert_eq!(describe(&plan), expected);
    }

    #[test]
    fn the_exit_code_is_that_of_the_job_that_was_planned() {
        for (clear, obstructed, exit) in [(2, 0, Exit::Ok), (1, 1, Exit::Partial), (0, 2, Exit::Failed)] {
            let summary = PlanSummary { clear_nodes: clear, obstructed_nodes: obstructed, ..Default::default() };
            assert_eq!(verdict(&summary), exit);
        }
    }
}
