//! `longshore job retry`

use std::path::PathBuf;

use longshore_model::kind::JobKind;
use longshore_model::validate::Violations;
use longshore_proto::convert::{FromWire, decode_spec};
use longshore_proto::v1::{AppSpec, CreateJobRequest, GetJobRequest, Job, RetryJobRequest};
use prost::Message;

use super::{answer, watch};
use crate::client::call;
use crate::commands::Context;
use crate::commands::changes::Changes;
use crate::error::Error;
use crate::exit::Exit;
use crate::job_file;

/// Start anew what has not succeeded, or some of it; as it was, or with another spec.
///
/// Another spec is for exactly the tasks that are retried: what has succeeded keeps what it runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Retry {
    /// The job's identifier.
    job: String,

    /// Only tasks that match, such as `failure.reason = PORT_IN_USE`; `job show` has a filter for each cause of failure.
    #[arg(long, value_name = "FILTER", default_value = "", hide_default_value = true)]
    filter: String,

    /// A job file, in YAML, with the spec to try instead; `-` reads standard input. Targets, rollout and timeout stay those of the
    /// job.
    #[arg(short, long, value_name = "FILE", conflicts_with = "Changes")]
    file: Option<PathBuf>,

    #[command(flatten)]
    changes: Changes,

    /// Wait for it as `apply` does.
    #[arg(long)]
    wait: bool,
}

pub(super) async fn run(retry: Retry, context: &mut Context<'_>) -> Result<Exit, Error> {
    let mut request = RetryJobRequest { job_id: retry.job, filter: retry.filter, ..Default::default() };
    let mut name = None;
    if let Some(path) = &retry.file {
        let (file, text) = job_file::load(path)?;
        let order = job_file::parse(&file, &text).map_err(Error::new)?;
        let job = amendable(context, &mut request).await?;
        check_same(&file, &order, &job)?;
        (request.spec, request.template) = (order.spec, order.template);
        name = Some(file);
    } else if !retry.changes.is_nothing() {
        let job = amendable(context, &mut request).await?;
        let mut spec = decode_spec(&job.spec.unwrap_or_default().encode_to_vec())
            .map_err(|bad| Error::new(format!("this version cannot read the job's spec: {bad}")))?;
        retry.changes.apply(&mut spec)?;
        request.spec = Some(AppSpec::from(&spec));
    }
    let is_amended = request.spec.is_some() || request.template.is_some();
    let retried = context.client.jobs.retry_job(call(request)).await;
    let job = retried.map_err(|status| match &name {
        Some(file) => Error::from(status).about_file(file),
        None => Error::from(status),
    })?;
    let job = job.into_inner().job.unwrap_or_default();
    if is_amended {
        context.output.warn(&job.warnings);
    }
    if retry.wait {
        return watch::until_rest(context, &job.job_id).await;
    }
    answer(context, Some(job), "the job is retried")
}

/// The job that shall get another spec, which the request is then bound to as it is now. A server that knows of one spec for
/// each job only would pass another over in silence.
async fn amendable(context: &mut Context<'_>, request: &mut RetryJobRequest) -> Result<Job, Error> {
    let get = GetJobRequest { job_id: request.job_id.clone(), ..Default::default() };
    let job = context.client.jobs.get_job(call(get)).await?.into_inner().job.unwrap_or_default();
    if job.spec_revision == 0 {
        return Err(Error::new("the server is too old to retry a job with another spec; upgrade it"));
    }
    request.etag.clone_from(&job.etag);
    Ok(job)
}

/// A job file for something else is a mistake; what the file says beside the spec is the job's already.
fn check_same(file: &str, order: &CreateJobRequest, job: &Job) -> Result<(), Error> {
    let kind = |number: i32| JobKind::read_field(number, "kind").map_err(|bad: Violations| Error::new(bad.to_string()));
    let (said, is) = (kind(order.kind)?, kind(job.kind)?);
    if said != is {
        return Err(Error::usage(format!("{file}: kind: is {said}; the job is a {is} job")));
    }
    if !order.app_name.is_empty() && order.app_name != job.app_name {
        return Err(Error::usage(format!("{file}: app: is {:?}; the job is for {:?}", order.app_name, job.app_name)));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot read its input shall fail")]
mod tests {
    use clap::Parser;
    use longshore_proto::v1;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        retry: Retry,
    }

    #[test]
    fn another_spec_comes_from_a_file_or_from_flags() {
        assert!(Line::try_parse_from(["x", "job"]).unwrap().retry.changes.is_nothing());
        assert!(Line::try_parse_from(["x", "job", "--image", "till:2", "--filter", "state = FAILED"]).is_ok());
        let both = Line::try_parse_from(["x", "job", "-f", "job.yaml", "--env", "A=1"]).unwrap_err();
        assert_eq!(both.kind(), clap::error::ErrorKind::ArgumentConflict);
    }

    #[test]
    fn a_file_for_something_else_is_told() {
        let job = Job { kind: v1::JobKind::Update.into(), app_name: "till-x1".to_owned(), ..Default::default() };
        let order = |kind: v1::JobKind, app: &str| CreateJobRequest {
            kind: kind.into(),
            app_name: app.to_owned(),
            ..Default::default()
        };
        let said = |kind, app| check_same("job.yaml", &order(kind, app), &job).map_err(|error| error.text());
        assert_eq!(said(v1::JobKind::Update, "till-x1"), Ok(()));
        let kind = "job.yaml: kind: is DEPLOY; the job is a UPDATE job";
        assert_eq!(said(v1::JobKind::Unspecified, ""), Err(kind.to_owned()));
        let app = "job.yaml: app: is \"till-x2\"; the job is for \"till-x1\"";
        assert_eq!(said(v1::JobKind::Update, "till-x2"), Err(app.to_owned()));
    }
}
