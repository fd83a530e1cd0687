//! `longshore job list`

use jiff::Timestamp;
use longshore_proto::v1::{Job, ListJobsResponse};

use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::{json, progress, text};

/// List jobs, newest first unless told otherwise.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Most jobs to list.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=1000))]
    limit: i32,

    /// Only jobs that match, such as `state = RUNNING OR end_time > 2026-01-31T00:00:00Z`; docs/api.md has the grammar.
    #[arg(long, default_value = "", hide_default_value = true)]
    filter: String,

    /// Order, such as `spec.name, create_time desc`: fields with commas between them, each alone or with ` desc`; docs/api.md lists them.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "FIELDS")]
    order_by: String,
}

pub(super) async fn run(list: List, context: &mut Context<'_>) -> Result<Exit, Error> {
    let (jobs, more) = context.client.list_jobs(&list.filter, &list.order_by, list.limit).await?;
    let page = ListJobsResponse { jobs, ..Default::default() };
    context.output.show(|| json::of("ListJobsResponse", &page), || table(&page, Timestamp::now()))?;
    if more && context.output.is_for_people() {
        context.output.note("There are more jobs; --limit shows them.");
    }
    Ok(Exit::Ok)
}

fn table(page: &ListJobsResponse, now: Timestamp) -> String {
    let row = |job: &Job| {
        [
            job.job_id.clone(),
            text::job_kind(job.kind()),
            job.app_name.clone(),
            text::job_state(job.state()),
            progress::counts(job),
            text::age(job.create_time.as_ref(), now),
        ]
    };
    text::table(["JOB", "KIND", "APP", "STATE", "TASKS", "AGE"], page.jobs.iter().map(row))
}

#[cfg(test)]
mod tests {
    use longshore_proto::v1::{JobKind, JobState, TaskCounts};

    use super::*;

    #[test]
    fn a_list_of_jobs() {
        let job = Job {
            job_id: "01jd".to_owned(),
            kind: JobKind::Remove.into(),
            app_name: "till-x1".to_owned(),
            state: JobState::PartiallySucceeded.into(),
            counts: Some(TaskCounts { succeeded: 2, failed: 1, ..Default::default() }),
            create_time: Some(prost_types::Timestamp { seconds: 1000, nanos: 0 }),
            ..Default::default()
        };
        let page = ListJobsResponse { jobs: vec![job], ..Default::default() };
        let now = Timestamp::from_second(1300).unwrap_or_default();
        assert_eq!(
            table(&page, now),
            "JOB   KIND    APP      STATE                TASKS                  AGE\n\
             01jd  REMOVE  till-x1  PARTIALLY_SUCCEEDED  2 succeeded, 1 failed  5m"
        );
    }
}
