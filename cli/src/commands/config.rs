//! `longshore config`

use jiff::Timestamp;
use longshore_proto::v1::{
    ConfigMap, CreateConfigMapRequest, DeleteConfigMapRequest, DeleteConfigMapResponse, GetConfigMapRequest,
    GetConfigMapResponse, ListConfigMapsRequest, ListConfigMapsResponse, UpdateConfigMapRequest,
};
use prost_types::FieldMask;

use super::values::{self, Files, Others};
use crate::client::{PAGE, all_pages, call};
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::{json, text};

/// Config maps: named sets of texts that apps get as environment or as files.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Config {
    /// Make a config map from values on the command line, in files or from standard input.
    Create(Create),
    /// List config maps without their values, by name unless told otherwise.
    List(List),
    /// Show a config map with its values.
    Show(Named),
    /// Change values of a config map; apps get them with their next revision.
    Update(Update),
    /// Delete a config map; apps that have it keep what they have.
    Delete(Named),
}

/// A new one.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Its name: lower-case letters, digits and inner dashes.
    name: String,

    /// A key and its value.
    #[arg(long = "literal", value_name = "KEY=VALUE")]
    literals: Vec<String>,

    #[command(flatten)]
    files: Files,
}

/// Which are listed.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only config maps that match, such as `name = shop-*`; docs/api.md has the grammar.
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

    /// A key and its value.
    #[arg(long = "literal", value_name = "KEY=VALUE")]
    literals: Vec<String>,

    #[command(flatten)]
    files: Files,

    #[command(flatten)]
    others: Others,
}

pub(super) async fn run(command: Config, mut context: Context<'_>) -> Result<Exit, Error> {
    match command {
        Config::Create(create) => make(create, &mut context).await?,
        Config::List(list) => enumerate(list, &mut context).await?,
        Config::Show(named) => show(named, &mut context).await?,
        Config::Update(update) => change(update, &mut context).await?,
        Config::Delete(named) => delete(named, &mut context).await?,
    }
    Ok(Exit::Ok)
}

async fn make(create: Create, context: &mut Context<'_>) -> Result<(), Error> {
    let values = create.files.read(values::literals(&create.literals)?)?;
    let name = create.name.clone();
    let request = CreateConfigMapRequest {
        config_map: Some(ConfigMap { name, data: values::texts(values)?, ..Default::default() }),
        ..Default::default()
    };
    let answer = context.client.config_maps.create_config_map(call(request)).await?.into_inner();
    let message = GetConfigMapResponse { config_map: answer.config_map };
    let done = || format!("the config map {} is made", create.name);
    context.output.show(|| json::of("GetConfigMapResponse", &message), done)
}

async fn enumerate(list: List, context: &mut Context<'_>) -> Result<(), Error> {
    let List { filter, order_by } = list;
    let request = ListConfigMapsRequest { page_size: PAGE, filter, order_by, ..Default::default() };
    let config_maps = all_pages(async |page_token| {
        let request = ListConfigMapsRequest { page_token, ..request.clone() };
        let page = context.client.config_maps.list_config_maps(call(request)).await?.into_inner();
        Ok((page.config_maps, page.next_page_token))
    })
    .await?;
    let page = ListConfigMapsResponse { config_maps, ..Default::default() };
    context.output.show(|| json::of("ListConfigMapsResponse", &page), || table(&page.config_maps, Timestamp::now()))
}

async fn show(named: Named, context: &mut Context<'_>) -> Result<(), Error> {
    let answer =
        context.client.config_maps.get_config_map(call(GetConfigMapRequest { name: named.name })).await?.into_inner();
    let found = answer.config_map.clone().unwrap_or_default();
    context.output.show(|| json::of("GetConfigMapResponse", &answer), || pairs(&found, Timestamp::now()))
}

async fn change(update: Update, context: &mut Context<'_>) -> Result<(), Error> {
    let values = update.files.read(values::literals(&update.literals)?)?;
    let update_mask = Some(FieldMask { paths: update.others.mask(&values)? });
    let name = update.name.clone();
    let request = UpdateConfigMapRequest {
        config_map: Some(ConfigMap { name, data: values::texts(values)?, ..Default::default() }),
        update_mask,
        ..Default::default()
    };
    let answer = context.client.config_maps.update_config_map(call(request)).await?.into_inner();
    let message = GetConfigMapResponse { config_map: answer.config_map };
    let done = || format!("the config map {} is changed; apps get it with their next update", update.name);
    context.output.show(|| json::of("GetConfigMapResponse", &message), done)
}

async fn delete(named: Named, context: &mut Context<'_>) -> Result<(), Error> {
    let request = DeleteConfigMapRequest { name: named.name.clone(), ..Default::default() };
    context.client.config_maps.delete_config_map(call(request)).await?;
    let json = || json::of("DeleteConfigMapResponse", &DeleteConfigMapResponse {});
    context.output.show(json, || format!("the config map {} is deleted", named.name))
}

fn table(found: &[ConfigMap], now: Timestamp) -> String {
    let row = |one: &ConfigMap| [one.name.clone(), one.keys.join(","), text::age(one.update_time.as_ref(), now)];
    text::table(["NAME", "KEYS", "CHANGED"], found.iter().map(row))
}

fn pairs(found: &ConfigMap, now: Timestamp) -> String {
    let mut shown = text::pairs(&[
        ("Name", found.name.clone()),
        ("Created", text::moment(found.create_time.as_ref(), now)),
        ("Changed", text::moment(found.update_time.as_ref(), now)),
    ]);
    for (key, value) in &found.data {
        shown.push_str(&format!("\n\n{key}:"));
        for line in value.lines() {
            shown.push_str(&format!("\n  {}", text::one_line(line)));
        }
    }
    shown
}
