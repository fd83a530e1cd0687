//! `longshore user list`

use jiff::Timestamp;
use longshore_proto::v1::{ListUsersRequest, ListUsersResponse, User};

use crate::client::{PAGE, all_pages, call};
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::{json, text};

/// List users, by name unless told otherwise.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only users that match, such as `role = ADMIN AND NOT revoke_time:*`; docs/api.md has the grammar.
    #[arg(long, default_value = "", hide_default_value = true)]
    filter: String,

    /// Order, such as `create_time desc`: fields with commas between them, each alone or with ` desc`; docs/api.md lists them.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "FIELDS")]
    order_by: String,
}

pub(super) async fn run(list: List, context: &mut Context<'_>) -> Result<Exit, Error> {
    let List { filter, order_by } = list;
    let request = ListUsersRequest { page_size: PAGE, filter, order_by, ..Default::default() };
    let users = all_pages(async |page_token| {
        let request = ListUsersRequest { page_token, ..request.clone() };
        let page = context.client.users.list_users(call(request)).await?.into_inner();
        Ok((page.users, page.next_page_token))
    })
    .await?;
    let page = ListUsersResponse { users, ..Default::default() };
    context.output.show(|| json::of("ListUsersResponse", &page), || table(&page.users, Timestamp::now()))?;
    Ok(Exit::Ok)
}

fn table(users: &[User], now: Timestamp) -> String {
    let row = |user: &User| {
        let until = match &user.revoke_time {
            Some(revoked) => format!("revoked {} ago", text::age(Some(revoked), now)),
            None => text::moment(user.certificate_expire_time.as_ref(), now),
        };
        let role = text::word(user.role().as_str_name(), "USER_ROLE_").to_ascii_lowercase();
        [user.name.clone(), role, text::age(user.create_time.as_ref(), now), user.creator.clone(), until]
    };
    text::table(["NAME", "ROLE", "AGE", "BY", "CERTIFICATE UNTIL"], users.iter().map(row))
}

#[cfg(test)]
mod tests {
    use longshore_proto::v1::UserRole;

    use super::*;

    #[test]
    fn a_list_of_users() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let ann = User {
            name: "ann".to_owned(),
            role: UserRole::Admin.into(),
            create_time: at(0),
            creator: "init".to_owned(),
            certificate_expire_time: at(10_000),
            ..Default::default()
        };
        let vic = User { name: "vic".to_owned(), role: UserRole::Viewer.into(), revoke_time: at(940), ..ann.clone() };
        let now = Timestamp::from_second(1000).unwrap_or_default();
        let expected = "\
NAME  ROLE    AGE  BY    CERTIFICATE UNTIL
ann   admin   16m  init  1970-01-01T02:46:40Z (in 2h)
vic   viewer  16m  init  revoked 60s ago";
        assert_eq!(table(&[ann, vic], now), expected);
    }
}
