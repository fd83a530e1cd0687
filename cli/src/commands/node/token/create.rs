//! `longshore node token create`

use std::time::Duration;

use jiff::Timestamp;
use longshore_proto::v1::CreateEnrollmentTokenRequest;

use crate::client::call;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::{job_file, json, text};

/// Make a token; the server keeps only its hash: it is shown once.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// How long it is good for, such as 15m; 1 hour when left out, at most 30 days.
    #[arg(long, value_name = "TIME", value_parser = job_file::duration)]
    ttl: Option<Duration>,

    /// A label of the node that uses it; may be given several times.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,

    /// The only name that may enrol with it.
    #[arg(long)]
    name: Option<String>,

    /// Machines that may enrol with it, at most 10000.
    #[arg(long, default_value_t = 1, value_name = "COUNT", conflicts_with = "name")]
    uses: u32,

    /// A person has to approve of each machine: `longshore node pending`, `longshore node approve`.
    #[arg(long)]
    approval: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("KEY=VALUE is expected".to_owned()),
    }
}

pub(super) async fn run(create: Create, context: &mut Context<'_>) -> Result<Exit, Error> {
    let request = CreateEnrollmentTokenRequest {
        ttl: create.ttl.map(longshore_proto::convert::duration),
        labels: create.labels.into_iter().collect(),
        node_name: create.name.unwrap_or_default(),
        uses: create.uses,
        requires_approval: create.approval,
        ..Default::default()
    };
    let answer = context.client.nodes.create_enrollment_token(call(request)).await?.into_inner();
    context.output.show(|| json::of("CreateEnrollmentTokenResponse", &answer), || answer.token.clone())?;
    if context.output.is_for_people() {
        let end = text::moment(answer.expire_time.as_ref(), Timestamp::now());
        let uses = if create.uses == 1 { "one enrolment".to_owned() } else { format!("{} enrolments", create.uses) };
        context.output.note(&format!("Good for {uses} until {end}. On the machine:"));
        context.output.note("  longshore-agent enroll --server HOST:7441 --token TOKEN && longshore-agent run");
    }
    Ok(Exit::Ok)
}
