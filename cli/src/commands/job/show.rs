//! `longshore job show`

use jiff::Timestamp;
use longshore_proto::v1::{
    FailureGroup, GroupFailuresRequest, GroupFailuresResponse, Job, JobKind, JobState, Task, TaskState,
    WatchJobResponse, network,
};
use tonic::Code;

use super::{has_telling_logs, is_retryable};
use crate::client::call;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::{json, progress, text};

/// Tasks of one kind told one by one; of more, the rest is counted.
const MAX_TOLD: usize = 20;

/// Show a job, its tasks, and why those failed that did.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The job's identifier.
    job: String,
}

pub(super) async fn run(show: Show, context: &mut Context<'_>) -> Result<Exit, Error> {
    let (job, tasks) = context.client.job_with_tasks(&show.job).await?;
    let command = context.connection.command();
    let causes = causes(context, &job).await?;
    let message = WatchJobResponse { job: Some(job.clone()), tasks: tasks.clone(), ..Default::default() };
    context
        .output
        .show(|| json::of("WatchJobResponse", &message), || text(&job, &tasks, &causes, &command, Timestamp::now()))?;
    Ok(Exit::Ok)
}

/// Why the job's tasks failed, for people and where more than one did; of a server that cannot say, nothing.
async fn causes(context: &mut Context<'_>, job: &Job) -> Result<GroupFailuresResponse, Error> {
    let failed = job.counts.as_ref().map_or(0, |counts| counts.failed + counts.timed_out);
    if failed < 2 || !context.output.is_for_people() {
        return Ok(GroupFailuresResponse::default());
    }
    let request = GroupFailuresRequest { job_id: job.job_id.clone() };
    match context.client.jobs.group_failures(call(request)).await {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) if status.code() == Code::Unimplemented => Ok(GroupFailuresResponse::default()),
        Err(status) => Err(status.into()),
    }
}

/// Everything about a job.
fn text(job: &Job, tasks: &[Task], causes: &GroupFailuresResponse, command: &str, now: Timestamp) -> String {
    let mut parts = vec![facts(job, tasks, now), table(job, tasks, now)];
    parts.extend(Some(pulls(tasks)).filter(|part| !part.is_empty()));
    parts.extend(Some(absences(tasks)).filter(|part| !part.is_empty()));
    parts.extend(Some(failures(tasks)).filter(|part| !part.is_empty()));
    parts.extend(Some(by_cause(job, causes, command)).filter(|part| !part.is_empty()));
    parts.extend(Some(late(tasks)).filter(|part| !part.is_empty()));
    parts.push(advice(job, tasks, command));
    parts.join("\n\n")
}

/// The tasks, one a row; with the numbers of their specs where the job has had several.
fn table(job: &Job, tasks: &[Task], now: Timestamp) -> String {
    let state = |task: &Task| text::task_state(task.state());
    let since = |task: &Task| text::age(task.update_time.as_ref(), now);
    if job.spec_revision > 1 {
        let row = |task: &Task| {
            let (attempt, spec) = (task.attempt.to_string(), task.spec_revision.to_string());
            [task.node_name.clone(), state(task), attempt, spec, since(task)]
        };
        return text::table(["NODE", "STATE", "ATTEMPT", "SPEC", "SINCE"], tasks.iter().map(row));
    }
    let row = |task: &Task| [task.node_name.clone(), state(task), task.attempt.to_string(), since(task)];
    text::table(["NODE", "STATE", "ATTEMPT", "SINCE"], tasks.iter().map(row))
}

/// Which spec the job has by now, and how many tasks had another: `2, 1 task had an earlier one`.
fn spec_of(job: &Job, tasks: &[Task]) -> String {
    if job.spec_revision < 2 {
        return String::new();
    }
    match tasks.iter().filter(|task| task.spec_revision < job.spec_revision).count() {
        0 => job.spec_revision.to_string(),
        earlier => {
            let earlier = u32::try_from(earlier).unwrap_or(u32::MAX);
            format!("{}, {} had an earlier one", job.spec_revision, text::count(earlier, "task"))
        }
    }
}

fn facts(job: &Job, tasks: &[Task], now: Timestamp) -> String {
    let remaining = match job.remaining {
        Some(left) => format!("{} on the clock when resumed", text::span(left.seconds)),
        None => String::new(),
    };
    text::pairs(&[
        ("Job", job.job_id.clone()),
        ("Kind", text::job_kind(job.kind())),
        ("App", job.app_name.clone()),
        ("State", format!("{} ({})", text::job_state(job.state()), progress::counts(job))),
        ("Spec", spec_of(job, tasks)),
        ("Template", template_of(job)),
        ("Image", text::image(job.spec.as_ref())),
        ("Network", network_of(job)),
        ("Round", if job.round > 1 { job.round.to_string() } else { String::new() }),
        ("Created", text::moment(job.create_time.as_ref(), now)),
        ("By", job.creator.clone()),
        ("Started", text::moment(job.start_time.as_ref(), now)),
        ("Ended", text::moment(job.end_time.as_ref(), now)),
        ("Deadline", text::moment(job.deadline.as_ref(), now)),
        ("Time left", remaining),
        ("Warnings", job.warnings.join("\n")),
    ])
}

/// Which version of a template the job was made of: `till 1.4.2 (alias stable, for arm64), with overrides`.
fn template_of(job: &Job) -> String {
    let Some(used) = &job.template else { return String::new() };
    let mut how = Vec::new();
    if !used.alias.is_empty() {
        how.push(format!("alias {}", used.alias));
    }
    if !used.architecture.is_empty() {
        how.push(format!("for {}", used.architecture));
    }
    let how = if how.is_empty() { String::new() } else { format!(" ({})", how.join(", ")) };
    let overridden = if used.overrides.is_some() { ", with overrides" } else { "" };
    format!("{} {}{how}{overridden}", used.name, used.version)
}

fn network_of(job: &Job) -> String {
    let mode = job.spec.as_ref().and_then(|spec| spec.network.as_ref()).and_then(|network| network.mode.as_ref());
    match mode {
        Some(network::Mode::Host(_)) => "host".to_owned(),
        Some(network::Mode::PortMapping(mapping)) if !mapping.ports.is_empty() => {
            let ports = mapping.ports.iter().map(|port| {
                let range = |first: u32, end: u32| if end == 0 { first.to_string() } else { format!("{first}-{end}") };
                let host = match port.host_port {
                    0 => "automatic".to_owned(),
                    first => range(first, port.host_port_end),
                };
                format!("{host}->{}", range(port.container_port, port.container_port_end))
            });
            format!("ports {}", ports.collect::<Vec<_>>().join(", "))
        }
        _ => "of its own, no ports".to_owned(),
    }
}

/// Tasks whose images are on their way, how fast, and for how long still; empty when there is none.
fn pulls(tasks: &[Task]) -> String {
    let is_told = |task: &&Task| task.state() == TaskState::Pulling && task.pull.is_some();
    list("On its way", tasks.iter().filter(is_told))
}

/// Tasks that wait for absent nodes; empty when there is none.
fn absences(tasks: &[Task]) -> String {
    list("Waits for absent nodes", tasks.iter().filter(|task| task.absent_time.is_some()))
}

/// Why those tasks did not succeed that did not; empty when there is none.
pub(crate) fn failures(tasks: &[Task]) -> String {
    let is_bad = |task: &&Task| matches!(task.state(), TaskState::Failed | TaskState::TimedOut);
    list("What went wrong", tasks.iter().filter(is_bad))
}

/// Tasks and how they are, under a title; empty when there is none.
fn list<'a>(title: &str, mut tasks: impl Iterator<Item = &'a Task>) -> String {
    let line = |task: &Task| format!("  {}: {}", task.node_name, progress::describe(task));
    let mut lines: Vec<String> = tasks.by_ref().take(MAX_TOLD).map(line).collect();
    if lines.is_empty() {
        return String::new();
    }
    let more = tasks.count();
    if more > 0 {
        lines.push(format!("  … and {more} more: -o json shows all"));
    }
    format!("{title}:\n{}", lines.join("\n"))
}

/// How many tasks failed for which cause, and what retries just those; empty where that is not known.
fn by_cause(job: &Job, causes: &GroupFailuresResponse, command: &str) -> String {
    let retry = |group: &FailureGroup| match is_retryable(job.state()) {
        true => format!("\n    {command} job retry {} --filter '{}' --wait", job.job_id, group.filter),
        false => String::new(),
    };
    let line = |group: &FailureGroup| {
        let (tasks, reason) = (text::count(group.tasks, "task"), text::reason(group.reason()));
        let node = group.example.as_ref().map_or("", |task| task.node_name.as_str());
        format!("  {tasks} such as {node}: {reason}: {}{}", text::one_line(&group.pattern), retry(group))
    };
    let mut lines: Vec<String> = causes.groups.iter().take(MAX_TOLD).map(line).collect();
    if lines.is_empty() {
        return String::new();
    }
    let untold: u32 = causes.groups.iter().skip(MAX_TOLD).map(|group| group.tasks).sum();
    let others = untold.saturating_add(causes.other_tasks);
    if others > 0 {
        lines.push(format!("  … and {} for other causes", text::count(others, "task")));
    }
    format!("By cause:\n{}", lines.join("\n"))
}

/// Reports that came too late to count; empty when there is none.
fn late(tasks: &[Task]) -> String {
    let events = tasks.iter().flat_map(|task| task.history.iter().map(move |event| (task, event)));
    let lines: Vec<String> = events
        .filter(|(_, event)| event.late)
        .take(MAX_TOLD)
        .map(|(task, event)| {
            let state = text::task_state(event.state());
            format!("  {}: attempt {} reported {state} after it had ended here", task.node_name, event.attempt)
        })
        .collect();
    if lines.is_empty() { String::new() } else { format!("Too late to count:\n{}", lines.join("\n")) }
}

/// What to run next.
pub(crate) fn advice(job: &Job, tasks: &[Task], command: &str) -> String {
    let id = &job.job_id;
    let mut next = Vec::new();
    if let Some(task) = tasks.iter().find(|task| has_telling_logs(task)) {
        next.push((format!("app logs {} --node {}", job.app_name, task.node_name), "shows its last output"));
    }
    match job.state() {
        JobState::Succeeded if matches!(job.kind(), JobKind::Remove | JobKind::Pull) => {
            next.push((format!("job show {id}"), "shows what happened on each node"));
        }
        JobState::Succeeded => next.push((format!("app list --name {}", job.app_name), "shows it on each node")),
        JobState::Stopped => next.push((format!("job resume {id} --wait"), "goes on with what is left")),
        state if is_retryable(state) => {
            next.push((format!("job retry {id} --wait"), "starts anew what has not succeeded"));
        }
        _ => next.push((format!("job watch {id}"), "follows it to its end")),
    }
    let width = next.iter().map(|(rest, _)| rest.chars().count()).max().unwrap_or_default();
    let lines = next.iter().map(|(rest, why)| format!("  {command} {rest:width$}  # {why}"));
    format!("Next:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests;
