//! `longshore user revoke`

use longshore_proto::v1::{RevokeUserRequest, RevokeUserResponse};

use crate::client::call;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::json;

/// Revoke a user: no certificate of theirs works again, and what they watch or read ends at once.
#[derive(Debug, clap::Args)]
pub(crate) struct Revoke {
    /// The user's name.
    name: String,
}

pub(super) async fn run(revoke: Revoke, context: &mut Context<'_>) -> Result<Exit, Error> {
    let request = RevokeUserRequest { name: revoke.name.clone(), ..Default::default() };
    let RevokeUserResponse { user } = context.client.users.revoke_user(call(request)).await?.into_inner();
    context.output.show(
        || json::of("RevokeUserResponse", &RevokeUserResponse { user: user.clone() }),
        || format!("user {} is revoked", revoke.name),
    )?;
    Ok(Exit::Ok)
}
