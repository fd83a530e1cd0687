//! `longshore user renew`

use jiff::Timestamp;
use longshore_proto::v1::{RenewUserCertificateRequest, RenewUserCertificateResponse};

use crate::client::call;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::{json, text};

/// Renew your own certificate, for as long a life as your first one had.
///
/// The key stays, so that only one file changes: at no moment do certificate and key not fit.
#[derive(Debug, clap::Args)]
pub(crate) struct Renew {}

pub(super) async fn run(_: Renew, context: &mut Context<'_>) -> Result<Exit, Error> {
    let directory = context.connection.credentials();
    let file = directory.join("client.key");
    let key = std::fs::read_to_string(&file);
    let key = key.map_err(|error| Error::io(format!("cannot read {}", file.display()), error))?;
    let request =
        longshore_tls::request_for_key(&key).map_err(|error| Error::new(longshore_tls::with_causes(&error)))?;
    let request = RenewUserCertificateRequest { csr_der: request.csr_der };
    let answer = context.client.users.renew_user_certificate(call(request)).await?.into_inner();
    super::write(&directory.join("client.crt"), &answer.certificate_chain_pem, 0o644)?;
    let user = answer.user.unwrap_or_default();
    let until = text::moment(user.certificate_expire_time.as_ref(), Timestamp::now());
    let message = RenewUserCertificateResponse { user: Some(user), ..Default::default() };
    let json = || json::of("RenewUserCertificateResponse", &message);
    context.output.show(json, || format!("the certificate in {} is good until {until}", directory.display()))?;
    Ok(Exit::Ok)
}
