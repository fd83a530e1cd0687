//! `longshore audit list`

use longshore_proto::v1::{AuditEntry, ListAuditEntriesRequest, ListAuditEntriesResponse};

use crate::client::call;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::{json, text};

/// List entries of the audit log, newest first unless told otherwise.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Most entries to list.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=1000))]
    limit: i32,

    /// Only entries that match, such as `caller = "admin ada" AND time > 2026-01-31T00:00:00Z`; docs/api.md has the grammar.
    #[arg(long, default_value = "", hide_default_value = true)]
    filter: String,

    /// Order, such as `number`; docs/api.md has the rules.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "FIELDS")]
    order_by: String,
}

pub(super) async fn run(list: List, context: &mut Context<'_>) -> Result<Exit, Error> {
    let List { limit, filter, order_by } = list;
    let mut request = ListAuditEntriesRequest { filter, order_by, ..Default::default() };
    let mut all = ListAuditEntriesResponse::default();
    loop {
        request.page_size = limit.saturating_sub(i32::try_from(all.entries.len()).unwrap_or(limit));
        let page = context.client.audit.list_audit_entries(call(request.clone())).await?.into_inner();
        all.entries.extend(page.entries);
        (all.base, all.head) = (page.base, page.head);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || i32::try_from(all.entries.len()).is_ok_and(|count| count >= limit) {
            break;
        }
    }
    context.output.show(|| json::of("ListAuditEntriesResponse", &all), || table(&all.entries))?;
    if !request.page_token.is_empty() && context.output.is_for_people() {
        context.output.note("There are more entries; --limit and --filter show them.");
    }
    Ok(Exit::Ok)
}

fn table(entries: &[AuditEntry]) -> String {
    let row = |entry: &AuditEntry| {
        let time = text::time(entry.time.as_ref()).map(|time| text::second(time).to_string());
        let method = entry.method.rsplit('/').next().unwrap_or_default();
        let mut result = entry.code.clone();
        if !entry.reason.is_empty() {
            result = format!("{result} {}", entry.reason);
        }
        if entry.validate_only {
            result.push_str(" (checked only)");
        }
        [
            entry.number.to_string(),
            time.unwrap_or_default(),
            text::or_dash(&entry.caller),
            method.to_owned(),
            text::or_dash(&entry.target),
            result,
        ]
    };
    text::table(["NO", "TIME", "CALLER", "CALL", "TARGET", "RESULT"], entries.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_entries() {
        let stopped = AuditEntry {
            number: 12,
            time: Some(prost_types::Timestamp { seconds: 1000, nanos: 5_000_000 }),
            caller: "operator ada".to_owned(),
            method: "longshore.v1.JobService/StopJob".to_owned(),
            target: "jobs/01jd".to_owned(),
            code: "OK".to_owned(),
            ..Default::default()
        };
        let refused = AuditEntry {
            number: 13,
            caller: String::new(),
            target: String::new(),
            code: "PERMISSION_DENIED".to_owned(),
            reason: "ROLE_REQUIRED".to_owned(),
            validate_only: true,
            ..stopped.clone()
        };
        let expected = "\
NO  TIME                  CALLER        CALL     TARGET     RESULT
12  1970-01-01T00:16:40Z  operator ada  StopJob  jobs/01jd  OK
13  1970-01-01T00:16:40Z  -             StopJob  -          PERMISSION_DENIED ROLE_REQUIRED (checked only)";
        assert_eq!(table(&[stopped, refused]), expected);
    }
}
