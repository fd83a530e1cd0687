//! `longshore node token revoke`

use longshore_proto::v1::{DeleteEnrollmentTokenRequest, DeleteEnrollmentTokenResponse};

use crate::client::call;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::json;

/// Revoke a token: nobody enrols with it any more. Nodes that did stay.
#[derive(Debug, clap::Args)]
pub(crate) struct Revoke {
    /// The token's identifier, as in `node token list`.
    token: String,
}

pub(super) async fn run(revoke: Revoke, context: &mut Context<'_>) -> Result<Exit, Error> {
    let request = DeleteEnrollmentTokenRequest { token_id: revoke.token.clone(), ..Default::default() };
    context.client.nodes.delete_enrollment_token(call(request)).await?;
    context.output.show(
        || json::of("DeleteEnrollmentTokenResponse", &DeleteEnrollmentTokenResponse {}),
        || format!("token {} is revoked", revoke.token),
    )?;
    Ok(Exit::Ok)
}
