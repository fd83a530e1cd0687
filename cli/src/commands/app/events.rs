//! `longshore app events`

use std::time::Duration;

use jiff::Timestamp;
use longshore_model::quantity::duration;
use longshore_proto::convert;
use longshore_proto::v1::{AppEvent, ListAppEventsRequest, ListAppEventsResponse};

use crate::client::{PAGE, all_pages, call};
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::{json, text};

/// Show what happened to an app on its nodes, the newest last.
#[derive(Debug, clap::Args)]
pub(crate) struct Events {
    /// The app's name; also of one that is gone.
    name: String,

    /// Only on this node.
    #[arg(long, default_value = "", hide_default_value = true)]
    node: String,

    /// Only of this instance, counted from 0.
    #[arg(long)]
    instance: Option<u32>,

    /// Only what last happened within so much time, such as 2h.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    since: Option<Duration>,

    /// Only events that match, such as `type = EXITED`; docs/api.md has the grammar.
    #[arg(long, default_value = "", hide_default_value = true)]
    filter: String,
}

pub(super) async fn run(events: Events, context: &mut Context<'_>) -> Result<Exit, Error> {
    let now = Timestamp::now();
    let request = ListAppEventsRequest {
        page_size: PAGE,
        app_name: events.name.clone(),
        node_name: events.node,
        instance: events.instance,
        // Before the first moment there is nothing.
        since: events.since.map(|since| convert::timestamp(now.checked_sub(since).unwrap_or(Timestamp::MIN))),
        filter: events.filter,
        ..Default::default()
    };
    let mut found = all_pages(async |page_token| {
        let request = ListAppEventsRequest { page_token, ..request.clone() };
        let page = context.client.apps.list_app_events(call(request)).await?.into_inner();
        Ok((page.events, page.next_page_token))
    })
    .await?;
    // Pages are in an order that nothing changes; people ask what happened last.
    found.sort_by_key(|event| text::time(event.last_time.as_ref()));
    let all = ListAppEventsResponse { events: found, ..Default::default() };
    context.output.show(|| json::of("ListAppEventsResponse", &all), || table(&all.events, now))?;
    if all.events.is_empty() && context.output.is_for_people() {
        context.output.note(&format!("The server keeps no such event of an app {:?}.", events.name));
    }
    Ok(Exit::Ok)
}

fn table(events: &[AppEvent], now: Timestamp) -> String {
    let row = |event: &AppEvent| {
        [
            text::age(event.last_time.as_ref(), now),
            event.node_name.clone(),
            event.instance.map_or_else(|| "-".to_owned(), |instance| instance.to_string()),
            text::word(event.r#type().as_str_name(), "APP_EVENT_TYPE_"),
            event.message.clone(),
            count(event, now),
        ]
    };
    text::table(["AGE", "NODE", "INSTANCE", "EVENT", "MESSAGE", "COUNT"], events.iter().map(row))
}

/// How often, and within what time: `17 in 2h`.
fn count(event: &AppEvent, now: Timestamp) -> String {
    match event.count {
        0 | 1 => event.count.to_string(),
        count => format!("{count} in {}", text::age(event.first_time.as_ref(), now)),
    }
}

#[cfg(test)]
mod tests {
    use longshore_proto::v1::AppEventType;

    use super::*;

    #[test]
    fn a_table_of_events() {
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let exited = AppEvent {
            node_name: "store-1".to_owned(),
            number: 2,
            r#type: AppEventType::Exited.into(),
            instance: Some(0),
            message: "Ended with exit code 1.".to_owned(),
            exit_code: Some(1),
            count: 17,
            first_time: time(100),
            last_time: time(7_200),
            ..Default::default()
        };
        let back = AppEvent {
            node_name: "store-12".to_owned(),
            r#type: AppEventType::WentBack.into(),
            instance: None,
            message: "Back to revision 1,\nfor job j did not succeed: it was cancelled.".to_owned(),
            count: 1,
            last_time: time(7_290),
            ..exited.clone()
        };
        let expected = "\
AGE   NODE      INSTANCE  EVENT      MESSAGE                                                           COUNT
100s  store-1   0         EXITED     Ended with exit code 1.                                           17 in 2h
10s   store-12  -         WENT_BACK  Back to revision 1, for job j did not succeed: it was cancelled.  1";
        assert_eq!(table(&[exited, back], Timestamp::from_second(7_300).unwrap_or_default()), expected);
    }
}
