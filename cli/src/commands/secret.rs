//! `longshore secret`

use jiff::Timestamp;
use longshore_proto::v1;
use longshore_proto::v1::{
    CreateSecretRequest, DeleteSecretRequest, DeleteSecretResponse, GetSecretRequest, GetSecretResponse,
    ListSecretsRequest, ListSecretsResponse, UpdateSecretRequest,
};
use prost_types::FieldMask;

use super::values::{self, Files, Others};
use crate::client::{PAGE, all_pages, call};
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::{json, text};

/// Secrets: named sets of values that nobody sees, and that apps get as environment or as files.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Secret {
    /// Make a secret from files or from standard input.
    Create(Create),
    /// List secrets without their values, by name unless told otherwise.
    List(List),
    /// Show a secret, without its values.
    Show(Named),
    /// Change values of a secret; apps get them with their next revision.
    Update(Update),
    /// Delete a secret; apps that have it keep what they have.
    Delete(Named),
}

/// A new one.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Its name: lower-case letters, digits and inner dashes.
    name: String,

    #[command(flatten)]
    files: Files,
}

/// Which are listed.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only secrets that match, such as `name = shop-*`; docs/api.md has the grammar.
    #[arg(long, default_value = "", hide_default_value = true)]
    filter: String,

    /// Order, such as `create_time desc`: fields with commas between them, each alone or with ` desc`; docs/api.md lists them.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "FIELDS")]
    order_by: String,
}

/// One of them.
#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    /// Its name.
    name: String,
}

/// New values.
#[derive(Debug, clap::Args)]
pub(crate) struct Update {
    /// Its name.
    name: String,

    #[command(flatten)]
    files: Files,

    #[command(flatten)]
    others: Others,
}

pub(super) async fn run(command: Secret, mut context: Context<'_>) -> Result<Exit, Error> {
    match command {
        Secret::Create(create) => make(create, &mut context).await?,
        Secret::List(list) => enumerate(list, &mut context).await?,
        Secret::Show(named) => show(named, &mut context).await?,
        Secret::Update(update) => change(update, &mut context).await?,
        Secret::Delete(named) => delete(named, &mut context).await?,
    }
    Ok(Exit::Ok)
}

async fn make(create: Create, context: &mut Context<'_>) -> Result<(), Error> {
    let values = create.files.read(values::Values::new())?;
    let name = create.name.clone();
    let request = CreateSecretRequest {
        secret: Some(v1::Secret { name, ..Default::default() }),
        data: values::bytes(values),
        ..Default::default()
    };
    let answer = context.client.secrets.create_secret(call(request)).await?.into_inner();
    let message = GetSecretResponse { secret: answer.secret };
    let done = || format!("the secret {} is made", create.name);
    context.output.show(|| json::of("GetSecretResponse", &message), done)
}

async fn enumerate(list: List, context: &mut Context<'_>) -> Result<(), Error> {
    let List { filter, order_by } = list;
    let request = ListSecretsRequest { page_size: PAGE, filter, order_by, ..Default::default() };
    let secrets = all_pages(async |page_token| {
        let request = ListSecretsRequest { page_token, ..request.clone() };
        let page = context.client.secrets.list_secrets(call(request)).await?.into_inner();
        Ok((page.secrets, page.next_page_token))
    })
    .await?;
    let page = ListSecretsResponse { secrets, ..Default::default() };
    context.output.show(|| json::of("ListSecretsResponse", &page), || table(&page.secrets, Timestamp::now()))
}

async fn show(named: Named, context: &mut Context<'_>) -> Result<(), Error> {
    let answer = context.client.secrets.get_secret(call(GetSecretRequest { name: named.name })).await?.into_inner();
    let found = answer.secret.clone().unwrap_or_default();
    context.output.show(|| json::of("GetSecretResponse", &answer), || pairs(&found, Timestamp::now()))
}

async fn change(update: Update, context: &mut Context<'_>) -> Result<(), Error> {
    let values = update.files.read(values::Values::new())?;
    let update_mask = Some(FieldMask { paths: update.others.mask(&values)? });
    let name = update.name.clone();
    let request = UpdateSecretRequest {
        secret: Some(v1::Secret { name, ..Default::default() }),
        data: values::bytes(values),
        update_mask,
        ..Default::default()
    };
    let answer = context.client.secrets.update_secret(call(request)).await?.into_inner();
    let message = GetSecretResponse { secret: answer.secret };
    let done = || format!("the secret {} is changed; apps get it with their next update", update.name);
    context.output.show(|| json::of("GetSecretResponse", &message), done)
}

async fn delete(named: Named, context: &mut Context<'_>) -> Result<(), Error> {
    let request = DeleteSecretRequest { name: named.name.clone(), ..Default::default() };
    context.client.secrets.delete_secret(call(request)).await?;
    let json = || json::of("DeleteSecretResponse", &DeleteSecretResponse {});
    context.output.show(json, || format!("the secret {} is deleted", named.name))
}

fn table(found: &[v1::Secret], now: Timestamp) -> String {
    let row = |one: &v1::Secret| [one.name.clone(), one.keys.join(","), text::age(one.update_time.as_ref(), now)];
    text::table(["NAME", "KEYS", "CHANGED"], found.iter().map(row))
}

fn pairs(found: &v1::Secret, now: Timestamp) -> String {
    text::pairs(&[
        ("Name", found.name.clone()),
        ("Keys", found.keys.join("\n")),
        ("Created", text::moment(found.create_time.as_ref(), now)),
        ("Changed", text::moment(found.update_time.as_ref(), now)),
    ])
}
