//! `longshore plan`

use std::path::PathBuf;
use std::time::Duration;

use longshore_proto::v1::{NodeCheck, NodePlan, PlanAction, PlanJobRequest, PlanJobResponse, PlanSummary};
use tonic::Request;

use crate::commands::context;
use crate::connection::Connection;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;
use crate::{job_file, json, text};

/// How long a plan may take: a server looks at some thousand nodes in a second.
const PLAN_TIMEOUT: Duration = Duration::from_secs(300);
/// The same where the agents are asked: a fleet of ten thousand, of which every tenth does not answer, takes some minutes.
const LIVE_PLAN_TIMEOUT: Duration = Duration::from_secs(1800);

/// Show what a job would do on each node and what stands in its way, without doing it.
///
/// Exit codes are those that the job would have: 0 where nothing stands in the way, 3 where something does on some nodes,
/// 4 where it does on all of them.
#[derive(Debug, clap::Args)]
pub(crate) struct Plan {
    /// The job file, in YAML; `-` reads standard input.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Have every connected node look for itself, without changing anything: its ports, paths and disk as they are now, and what
    /// of the image it would fetch.
    #[arg(long)]
    live: bool,
}

pub(super) async fn run(plan: Plan, connection: &Connection, output: &mut Output) -> Result<Exit, Error> {
    let (name, text) = job_file::load(&plan.file)?;
    let job = job_file::parse(&name, &text).map_err(Error::new)?;
    let mut context = context(connection, output).await?;
    let mut request = Request::new(PlanJobRequest { job: Some(job), live: plan.live });
    request.set_timeout(if plan.live { LIVE_PLAN_TIMEOUT } else { PLAN_TIMEOUT });
    let refused = |status: tonic::Status| Error::from(status).about_file_in("job.", &name);
    let mut stream = context.client.jobs.plan_job(request).await.map_err(refused)?.into_inner();
    let mut whole = PlanJobResponse::default();
    while let Some(piece) = stream.message().await.map_err(refused)? {
        whole.job = whole.job.or(piece.job);
        whole.summary = whole.summary.or(piece.summary);
        whole.nodes.extend(piece.nodes);
    }
    context.output.warn(whole.job.iter().flat_map(|job| &job.warnings));
    if plan.live && whole.nodes.iter().any(|node| node.check() == NodeCheck::Unspecified) {
        context.output.note("warning: this server is too old to have nodes look for themselves");
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
    let is_live = plan.nodes.iter().any(|node| node.check() != NodeCheck::Unspecified);
    let table = if is_live {
        let row = |node: &NodePlan| [node.node_name.clone(), action(node), fetch(node), obstacles(node)];
        text::table(["NODE", "PLAN", "WOULD FETCH", "IN THE WAY"], plan.nodes.iter().map(row))
    } else {
        let row = |node: &NodePlan| [node.node_name.clone(), action(node), obstacles(node)];
        text::table(["NODE", "PLAN", "IN THE WAY"], plan.nodes.iter().map(row))
    };
    let summary = plan.summary.clone().unwrap_or_default();
    let mut lines = vec![table, String::new()];
    if is_live {
        lines.push(looked(plan, &summary));
    }
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

/// Who has looked, and what is to be fetched in all.
fn looked(plan: &PlanJobResponse, summary: &PlanSummary) -> String {
    let checked = text::count(summary.checked_nodes, "node");
    let all = plan.nodes.iter().filter(|node| node.check() == NodeCheck::Done);
    let (known, unknown): (Vec<_>, Vec<_>) = all.partition(|node| node.fetch_bytes.is_some());
    let bytes = text::bytes(summary.fetch_bytes);
    let mut line = match (known.len(), unknown.len()) {
        (0, _) => format!("Looked on {checked}."),
        (_, 0) => format!("Looked on {checked}: would fetch {bytes}."),
        (_, some) => format!("Looked on {checked}: would fetch {bytes}, and on {some} nobody knows."),
    };
    let counts = [NodeCheck::NotConnected, NodeCheck::TooOld, NodeCheck::NoAnswer].map(|check| {
        let count = plan.nodes.iter().filter(|node| node.check() == check).count();
        (count > 0).then(|| format!("{count} {}", unchecked(check)))
    });
    let counts: Vec<String> = counts.into_iter().flatten().collect();
    if !counts.is_empty() {
        line.push_str(&format!(" Judged by what they said last: {}.", counts.join(", ")));
    }
    line
}

fn fetch(node: &NodePlan) -> String {
    match (node.check(), node.fetch_bytes) {
        (NodeCheck::Done, Some(bytes)) => text::bytes(bytes),
        (NodeCheck::Done, None) => "unknown".to_owned(),
        (NodeCheck::Unspecified | NodeCheck::Needless, _) => "-".to_owned(),
        (check, _) => unchecked(check).to_owned(),
    }
}

fn unchecked(check: NodeCheck) -> &'static str {
    match check {
        NodeCheck::NotConnected => "not connected",
        NodeCheck::TooOld => "agent too old",
        NodeCheck::NoAnswer => "no answer",
        NodeCheck::Done | NodeCheck::Needless | NodeCheck::Unspecified => "-",
    }
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
            ..NodePlan::default()
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
        let summary =
            PlanSummary { clear_nodes: 2, obstructed_nodes: 1, groups: vec![group], ..PlanSummary::default() };
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
    fn a_plan_for_which_nodes_were_asked_says_what_they_would_fetch_and_who_did_not_look() {
        let node = |name: &str, check: NodeCheck, fetch_bytes| NodePlan {
            node_name: name.to_owned(),
            action: PlanAction::Deploy.into(),
            check: check.into(),
            fetch_bytes,
            ..NodePlan::default()
        };
        let nodes = vec![
            node("shop-1", NodeCheck::Done, Some(120 << 20)),
            node("shop-2", NodeCheck::Done, None),
            node("shop-3", NodeCheck::NoAnswer, None),
            node("shop-4", NodeCheck::TooOld, None),
        ];
        let summary = PlanSummary {
            clear_nodes: 4,
            checked_nodes: 2,
            unchecked_nodes: 2,
            fetch_bytes: 120 << 20,
            ..PlanSummary::default()
        };
        let plan = PlanJobResponse { job: None, nodes, summary: Some(summary) };
        let expected = "\
NODE    PLAN    WOULD FETCH    IN THE WAY
shop-1  deploy  120.0 MiB      -
shop-2  deploy  unknown        -
shop-3  deploy  no answer      -
shop-4  deploy  agent too old  -

Looked on 2 nodes: would fetch 120.0 MiB, and on 1 nobody knows. Judged by what they said last: 1 agent too old, 1 no answer.
Nothing is known to stand in the way on 4 nodes.";
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
