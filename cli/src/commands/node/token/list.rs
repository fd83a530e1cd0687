//! `longshore node token list`

use jiff::Timestamp;
use longshore_proto::v1::{EnrollmentToken, ListEnrollmentTokensRequest, ListEnrollmentTokensResponse};

use crate::client::{PAGE, all_pages, call};
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::{json, text};

/// List the tokens that can still be used.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only tokens that match, such as `creator = ann AND requires_approval = true`; docs/api.md has the grammar.
    #[arg(long, default_value = "", hide_default_value = true)]
    filter: String,

    /// Order, such as `expire_time`: fields with commas between them, each alone or with ` desc`; docs/api.md lists them.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "FIELDS")]
    order_by: String,
}

pub(super) async fn run(list: List, context: &mut Context<'_>) -> Result<Exit, Error> {
    let List { filter, order_by } = list;
    let request = ListEnrollmentTokensRequest { page_size: PAGE, filter, order_by, ..Default::default() };
    let enrollment_tokens = all_pages(async |page_token| {
        let request = ListEnrollmentTokensRequest { page_token, ..request.clone() };
        let page = context.client.nodes.list_enrollment_tokens(call(request)).await?.into_inner();
        Ok((page.enrollment_tokens, page.next_page_token))
    })
    .await?;
    let page = ListEnrollmentTokensResponse { enrollment_tokens, ..Default::default() };
    let table = || table(&page.enrollment_tokens, Timestamp::now());
    context.output.show(|| json::of("ListEnrollmentTokensResponse", &page), table)?;
    Ok(Exit::Ok)
}

fn table(tokens: &[EnrollmentToken], now: Timestamp) -> String {
    let row = |token: &EnrollmentToken| {
        [
            token.token_id.clone(),
            format!("{} of {}", token.uses_left, token.uses),
            text::moment(token.expire_time.as_ref(), now),
            text::or_dash(&token.creator),
            if token.requires_approval { "yes" } else { "no" }.to_owned(),
            text::or_dash(&token.node_name),
            text::labels(&token.labels),
        ]
    };
    text::table(["TOKEN", "USES LEFT", "EXPIRES", "BY", "APPROVAL", "FOR", "LABELS"], tokens.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_tokens() {
        let token = EnrollmentToken {
            token_id: "abcdefghijkl".to_owned(),
            uses: 5,
            uses_left: 3,
            expire_time: Some(prost_types::Timestamp { seconds: 300, nanos: 0 }),
            creator: "ann".to_owned(),
            requires_approval: true,
            labels: [("role".to_owned(), "till".to_owned())].into(),
            ..Default::default()
        };
        let expected = "\
TOKEN         USES LEFT  EXPIRES                       BY   APPROVAL  FOR  LABELS
abcdefghijkl  3 of 5     1970-01-01T00:05:00Z (in 5m)  ann  yes       -    role=till";
        assert_eq!(table(&[token], Timestamp::UNIX_EPOCH), expected);
    }
}
