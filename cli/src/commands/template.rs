//! `longshore template`

use std::path::PathBuf;

use jiff::Timestamp;
use longshore_model::validate::{Path, Violations};
use longshore_proto::v1::{
    self, CreateTemplateRequest, DeleteTemplateRequest, DeleteTemplateResponse, GetTemplateRequest,
    ListTemplatesRequest, ListTemplatesResponse, SetTemplateAliasRequest,
};
use serde::Deserialize;

use crate::client::{PAGE, all_pages, call};
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::job_file::{self, SpecText};
use crate::{json, text};

/// Templates: named and versioned specs, for jobs to be made of.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Template {
    /// Make a version of a template, or its variant for one more architecture; versions never change.
    Create(Create),
    /// List versions of templates, by name and version unless told otherwise.
    List(List),
    /// Show one version with its spec.
    Show(Version),
    /// Delete one version; jobs that were made of it stay as they are.
    Delete(Version),
    /// Let an alias such as `stable` stand for a version, or remove it.
    Alias(Alias),
}

/// A new version.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// The template file, in YAML, with name, version and spec; `-` reads standard input.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
}

/// Which are listed.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only versions that match, such as `name = till`; docs/api.md has the grammar.
    #[arg(long, default_value = "", hide_default_value = true)]
    filter: String,

    /// Order, such as `create_time desc`: fields with commas between them, each alone or with ` desc`; docs/api.md lists them.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "FIELDS")]
    order_by: String,
}

/// One version.
#[derive(Debug, clap::Args)]
pub(crate) struct Version {
    /// The template's name.
    name: String,

    /// The version.
    #[arg(id = "template-version", value_name = "VERSION")]
    version: String,

    /// The architecture that the variant is for; the one for all when left out.
    #[arg(long, value_name = "ARCH", default_value = "", hide_default_value = true)]
    arch: String,
}

/// An alias.
#[derive(Debug, clap::Args)]
pub(crate) struct Alias {
    /// The template's name.
    name: String,

    /// The alias.
    alias: String,

    /// The version that it shall stand for.
    #[arg(
        id = "template-version",
        value_name = "VERSION",
        required_unless_present = "delete",
        conflicts_with = "delete"
    )]
    version: Option<String>,

    /// Remove the alias.
    #[arg(long)]
    delete: bool,
}

/// What a template file says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TemplateFile {
    name: String,
    // As it is written: 1.10 is no number here.
    version: Option<String>,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    tags: Vec<String>,
    spec: SpecText,
}

pub(super) async fn run(template: Template, mut context: Context<'_>) -> Result<Exit, Error> {
    let context = &mut context;
    match template {
        Template::Create(create) => make(create, context).await?,
        Template::List(list) => enumerate(list, context).await?,
        Template::Show(version) => show(version, context).await?,
        Template::Delete(version) => delete(version, context).await?,
        Template::Alias(alias) => set_alias(alias, context).await?,
    }
    Ok(Exit::Ok)
}

/// The template that a file means.
fn parse(name: &str, text: &str) -> Result<v1::Template, String> {
    let file: TemplateFile = job_file::read(name, text)?;
    let mut bad = Violations::default();
    let spec = file.spec.whole(Path::Root.field("spec"), &mut bad);
    job_file::wrong(name, &bad)?;
    Ok(v1::Template {
        name: file.name,
        version: file.version.unwrap_or_default(),
        architecture: file.architecture,
        description: file.description,
        tags: file.tags,
        spec: spec.map(|spec| v1::AppSpec::from(&spec)),
        ..Default::default()
    })
}

async fn make(create: Create, context: &mut Context<'_>) -> Result<(), Error> {
    let (name, text) = job_file::load(&create.file)?;
    let template = parse(&name, &text).map_err(Error::new)?;
    let request = CreateTemplateRequest { template: Some(template), ..Default::default() };
    let answer = context.client.templates.create_template(call(request)).await;
    let answer = answer.map_err(|status| Error::from(status).about_file_in("template.", &name))?.into_inner();
    context.output.warn(&answer.warnings);
    let made = answer.template.clone().unwrap_or_default();
    let done = || format!("the template {} {} is made", made.name, made.version);
    context.output.show(|| json::of("CreateTemplateResponse", &answer), done)
}

async fn enumerate(list: List, context: &mut Context<'_>) -> Result<(), Error> {
    let List { filter, order_by } = list;
    let request = ListTemplatesRequest { page_size: PAGE, filter, order_by, ..Default::default() };
    let templates = all_pages(async |page_token| {
        let request = ListTemplatesRequest { page_token, ..request.clone() };
        let page = context.client.templates.list_templates(call(request)).await?.into_inner();
        Ok((page.templates, page.next_page_token))
    })
    .await?;
    let page = ListTemplatesResponse { templates, ..Default::default() };
    context.output.show(|| json::of("ListTemplatesResponse", &page), || table(&page.templates, Timestamp::now()))
}

async fn show(version: Version, context: &mut Context<'_>) -> Result<(), Error> {
    let Version { name, version, arch: architecture } = version;
    let request = GetTemplateRequest { name, version, architecture };
    let answer = context.client.templates.get_template(call(request)).await?.into_inner();
    let found = answer.template.clone().unwrap_or_default();
    let spec = json::of("AppSpec", &found.spec.clone().unwrap_or_default());
    let spec = context.output.yaml(&spec)?;
    let shown = || format!("{}\n\n{spec}", pairs(&found, Timestamp::now()));
    context.output.show(|| json::of("GetTemplateResponse", &answer), shown)
}

async fn delete(version: Version, context: &mut Context<'_>) -> Result<(), Error> {
    let Version { name, version, arch: architecture } = version;
    let done = format!("the template {name} {version} is deleted");
    let request = DeleteTemplateRequest { name, version, architecture, ..Default::default() };
    context.client.templates.delete_template(call(request)).await?;
    context.output.show(|| json::of("DeleteTemplateResponse", &DeleteTemplateResponse {}), || done)
}

async fn set_alias(alias: Alias, context: &mut Context<'_>) -> Result<(), Error> {
    let Alias { name, alias, version, .. } = alias;
    let request = SetTemplateAliasRequest { name, alias, version: version.unwrap_or_default(), ..Default::default() };
    let answer = context.client.templates.set_template_alias(call(request)).await?.into_inner();
    let done = || {
        let before = match answer.previous_version.as_str() {
            "" => String::new(),
            version => format!("; it stood for {version}"),
        };
        match answer.version.as_str() {
            "" => format!("the alias {} of {} is removed{before}", answer.alias, answer.name),
            version => format!("the alias {} of {} stands for {version}{before}", answer.alias, answer.name),
        }
    };
    context.output.show(|| json::of("SetTemplateAliasResponse", &answer), done)
}

fn table(found: &[v1::Template], now: Timestamp) -> String {
    let row = |one: &v1::Template| {
        [
            one.name.clone(),
            one.version.clone(),
            text::or_dash(&one.architecture),
            text::or_dash(&one.aliases.join(",")),
            text::or_dash(&one.tags.join(",")),
            text::age(one.create_time.as_ref(), now),
            text::or_dash(&one.description),
        ]
    };
    text::table(["NAME", "VERSION", "ARCH", "ALIASES", "TAGS", "AGE", "DESCRIPTION"], found.iter().map(row))
}

fn pairs(found: &v1::Template, now: Timestamp) -> String {
    text::pairs(&[
        ("Name", found.name.clone()),
        ("Version", found.version.clone()),
        ("Architecture", found.architecture.clone()),
        ("Aliases", found.aliases.join(", ")),
        ("Tags", found.tags.join(", ")),
        ("Description", found.description.clone()),
        ("Created", text::moment(found.create_time.as_ref(), now)),
        ("By", found.creator.clone()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_becomes_a_version_and_one_that_is_not_whole_is_told() {
        let text = "name: till\nversion: 1.10\narchitecture: arm64\ntags: [pos]\nspec: {name: till, image: {reference: r:1}}\n";
        let template =
            parse("till.yaml", text).map(|found| (found.name, found.version, found.architecture, found.tags));
        let words = |word: &str| word.to_owned();
        assert_eq!(template, Ok((words("till"), words("1.10"), words("arm64"), vec![words("pos")])));
        let told = parse("till.yaml", "name: till\nversion: '1'\nspec: {name: till}\n").map(drop);
        assert_eq!(told, Err("till.yaml: spec.image: is missing".to_owned()));
    }
}
