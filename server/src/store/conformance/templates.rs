//! Templates: how versions are kept, what aliases stand for, and what jobs remember of them.

use bytes::Bytes;
use longshore_model::limits::MAX_TEMPLATE_VARIANTS;
use longshore_model::name::TemplateName;
use longshore_model::template::{Template, TemplateKey, TemplateUse};

use super::{Bed, Factory, at, is_not_found, new_job};
use crate::store::sorting::Query;
use crate::store::{AliasChange, NewJob, RequestKey, StoreError, StoredTemplate, Terms};

const VALIDATE: Terms = Terms { etag: None, validate_only: true, request: None, cause: None };

fn name(text: &str) -> TemplateName {
    TemplateName::parse(text).unwrap()
}

fn key(text: &str, version: &str, architecture: &str) -> TemplateKey {
    TemplateKey { name: name(text), version: version.to_owned(), architecture: architecture.to_owned() }
}

fn version(key: TemplateKey, second: i64) -> StoredTemplate {
    let spec = Bytes::from(format!("spec of {key}"));
    let template = Template {
        key,
        description: "what is sold is counted".to_owned(),
        tags: vec!["pos".to_owned()],
        aliases: Vec::new(),
        creator: "anna".to_owned(),
        create_time: at(second),
    };
    StoredTemplate { template, spec }
}

fn alias(template: &str, alias: &str, version: Option<&str>) -> AliasChange {
    AliasChange { name: name(template), alias: name(alias), version: version.map(str::to_owned) }
}

pub(crate) async fn versions_are_kept_and_paged(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let keys = [key("till", "2", ""), key("scale", "1", ""), key("till", "1", "arm64"), key("till", "1", "amd64")];
    for key in keys.clone() {
        let made = bed.store.create_template(version(key, 3), Terms::default()).await.unwrap();
        assert_eq!((made.creator.as_str(), made.aliases), ("anna", Vec::new()));
    }
    drop(bed);
    let bed = Bed::open(factory);
    let query = Query::first(3);
    let first = bed.store.templates(query.clone()).await.unwrap();
    let rest = bed.store.templates(query.next(&first).unwrap()).await.unwrap();
    assert_eq!((first.more, rest.more), (true, false));
    let found: Vec<_> = first.items.into_iter().chain(rest.items).map(|template| template.key).collect();
    assert_eq!(found, [&keys[1], &keys[3], &keys[2], &keys[0]].map(Clone::clone));
    assert_eq!(bed.store.template(&keys[2]).await.unwrap(), version(keys[2].clone(), 3));
    assert!(is_not_found(&bed.store.template(&key("till", "1", "")).await.unwrap_err(), "template"));
    let variants = bed.store.template_variants(&name("till"), "1").await.unwrap();
    let variants: Vec<_> = variants.into_iter().map(|found| found.template.key.architecture).collect();
    assert_eq!(variants, ["amd64", "arm64"]);
    assert!(bed.store.template_variants(&name("till"), "3").await.unwrap().is_empty());
    assert!(bed.seen.take().is_empty(), "nobody is told of it");
}

pub(crate) async fn a_version_is_made_once_and_never_changes(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let request = |body: u8| {
        let request = RequestKey { caller: "bob".to_owned(), id: "1".to_owned(), body: [body; 32] };
        Terms { request: Some(request), ..Terms::default() }
    };
    let new = version(key("till", "1", ""), 0);
    assert_eq!(bed.store.create_template(new.clone(), VALIDATE).await.unwrap(), new.template);
    assert!(bed.store.template(&new.template.key).await.is_err(), "it was only checked");
    let made = bed.store.create_template(new.clone(), request(1)).await.unwrap();
    assert_eq!(bed.store.create_template(new.clone(), request(1)).await.unwrap(), made);
    let other = bed.store.create_template(version(key("till", "1", ""), 5), Terms::default()).await;
    assert!(matches!(other, Err(StoreError::AlreadyExists { kind: "template", .. })), "{other:?}");
    for number in 1..MAX_TEMPLATE_VARIANTS {
        let variant = version(key("till", "1", &format!("cpu{number}")), 0);
        bed.store.create_template(variant, Terms::default()).await.unwrap();
    }
    let beyond = bed.store.create_template(version(key("till", "1", "cpu99"), 0), Terms::default()).await;
    assert!(matches!(beyond, Err(StoreError::TooMany { .. })), "{beyond:?}");
}

pub(crate) async fn an_alias_stands_for_a_version_that_there_is(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    for number in ["1", "2"] {
        bed.store.create_template(version(key("till", number, ""), 0), Terms::default()).await.unwrap();
    }
    let set = |change, terms| bed.store.set_template_alias(change, terms, at(1));
    let seen = |etag: &str| Terms { etag: Some(etag.to_owned()), ..Terms::default() };
    let stable = |version| alias("till", "stable", version);
    let (till, word) = (name("till"), name("stable"));
    assert!(is_not_found(&set(stable(Some("3")), Terms::default()).await.unwrap_err(), "template"));
    assert!(is_not_found(&set(stable(None), Terms::default()).await.unwrap_err(), "template alias"));
    set(stable(Some("1")), VALIDATE).await.unwrap();
    assert!(is_not_found(&bed.store.template_alias(&till, &word).await.unwrap_err(), "template alias"));
    let first = set(stable(Some("1")), Terms::default()).await.unwrap();
    assert_eq!((first.version.as_deref(), first.previous), (Some("1"), None));
    let late = set(stable(Some("2")), seen("2")).await;
    assert!(matches!(late, Err(StoreError::Changed { kind: "template alias", .. })), "{late:?}");
    let moved = set(stable(Some("2")), seen("1")).await.unwrap();
    assert_eq!(moved.previous.as_deref(), Some("1"));
    assert_eq!(bed.store.template_alias(&till, &word).await.unwrap(), "2");
    assert_eq!(bed.store.template(&key("till", "2", "")).await.unwrap().template.aliases, std::slice::from_ref(&word));
    assert!(bed.store.template(&key("till", "1", "")).await.unwrap().template.aliases.is_empty());

    // What an alias stands for stays, down to its last variant.
    bed.store.create_template(version(key("till", "2", "arm64"), 0), Terms::default()).await.unwrap();
    let delete = async |architecture: &str| {
        bed.store.delete_template(&key("till", "2", architecture), Terms::default(), at(2)).await
    };
    delete("arm64").await.unwrap();
    let last = delete("").await;
    assert!(matches!(last, Err(StoreError::TemplateAliased { .. })), "{last:?}");
    set(stable(None), Terms::default()).await.unwrap();
    delete("").await.unwrap();
    assert!(is_not_found(&delete("").await.unwrap_err(), "template"));
}

pub(crate) async fn a_deletion_of_a_version_knows_what_it_deletes(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let key = key("till", "1", "");
    let old = bed.store.create_template(version(key.clone(), 0), Terms::default()).await.unwrap();
    bed.store.delete_template(&key, VALIDATE, at(1)).await.unwrap();
    bed.store.delete_template(&key, Terms::default(), at(1)).await.unwrap();
    bed.store.create_template(version(key.clone(), 7), Terms::default()).await.unwrap();
    let terms = Terms { etag: Some(old.etag()), ..Terms::default() };
    let refused = bed.store.delete_template(&key, terms, at(8)).await;
    assert!(matches!(refused, Err(StoreError::Changed { kind: "template", .. })), "it is another one: {refused:?}");
}

pub(crate) async fn a_job_remembers_what_it_was_made_of(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let key = key("till", "1", "amd64");
    bed.store.create_template(version(key.clone(), 0), Terms::default()).await.unwrap();
    let used = TemplateUse { key: key.clone(), alias: Some(name("stable")), overrides: vec![0, 159, 146] };
    let mut new: NewJob = new_job(1, &[], 0);
    new.job.template = Some(used.clone());
    let id = new.job.id.clone();
    bed.store.create_job(new).await.unwrap();
    bed.store.create_job(new_job(2, &[], 0)).await.unwrap();
    bed.store.delete_template(&key, Terms::default(), at(1)).await.unwrap();
    drop(bed);
    let bed = Bed::open(factory);
    assert_eq!(bed.store.job(&id).await.unwrap().template, Some(used));
    assert_eq!(bed.store.job(&new_job(2, &[], 0).job.id).await.unwrap().template, None);
}
