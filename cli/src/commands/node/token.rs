//! `longshore node token`

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use longshore_proto::v1::CreateEnrollmentTokenRequest;

use crate::client::call;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::{job_file, json, text};

/// Make a token with which one machine can enrol.
///
/// The server keeps only its hash: it is shown once.
#[derive(Debug, clap::Args)]
pub(crate) struct Token {
    /// How long it is good for, such as 15m; 1 hour when left out, at most 30 days.
    #[arg(long, value_name = "TIME", value_parser = job_file::duration)]
    ttl: Option<Duration>,

    /// A label of the node that uses it; may be given several times.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,

    /// The only name that may enrol with it.
    #[arg(long)]
    name: Option<String>,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("KEY=VALUE is expected".to_owned()),
    }
}

pub(super) async fn run(token: Token, context: &mut Context<'_>) -> Result<Exit, Error> {
    let request = CreateEnrollmentTokenRequest {
        ttl: token.ttl.map(longshore_proto::convert::duration),
        labels: token.labels.into_iter().collect::<HashMap<_, _>>(),
        node_name: token.name.unwrap_or_default(),
        ..Default::default()
    };
    let answer = context.client.nodes.create_enrollment_token(call(request)).await?.into_inner();
    context.output.show(|| json::of("CreateEnrollmentTokenResponse", &answer), || answer.token.clone())?;
    if context.output.is_for_people() {
        let end = text::moment(answer.expire_time.as_ref(), Timestamp::now());
        context.output.note(&format!("Good for one enrolment until {end}. On the machine:"));
        context.output.note("  longshore-agent enroll --server HOST:7441 --token TOKEN && longshore-agent run");
    }
    Ok(Exit::Ok)
}
