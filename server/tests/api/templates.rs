//! Templates, and the jobs that are made of them.

use longshore_proto::v1;
use tonic::Code;

use crate::harness::{World, failure, hello, order};

const WHO: &str = "user/operator/bob";

fn variable(name: &str, value: &str) -> v1::EnvVar {
    v1::EnvVar { name: name.to_owned(), source: Some(v1::env_var::Source::Value(value.to_owned())) }
}

/// A version with a spec that says by its environment which it is.
fn template(version: &str, architecture: &str) -> v1::CreateTemplateRequest {
    let spec = v1::AppSpec {
        env: vec![variable("VARIANT", &format!("{version} {architecture}")), variable("SITE", "none")],
        ..order(&[]).spec.unwrap()
    };
    let template = v1::Template {
        name: "till".to_owned(),
        version: version.to_owned(),
        architecture: architecture.to_owned(),
        spec: Some(spec),
        ..Default::default()
    };
    v1::CreateTemplateRequest { template: Some(template), ..Default::default() }
}

fn made_of(nodes: &[&str], version: &str, alias: &str, overrides: Option<v1::AppSpec>) -> v1::CreateJobRequest {
    let (version, alias) = (version.to_owned(), alias.to_owned());
    let template = Some(v1::TemplateReference { name: "till".to_owned(), version, alias });
    v1::CreateJobRequest { template, spec: overrides, ..order(nodes) }
}

fn env(job: &v1::Job) -> Vec<(String, String)> {
    let text = |variable: &v1::EnvVar| match &variable.source {
        Some(v1::env_var::Source::Value(value)) => (variable.name.clone(), value.clone()),
        other => panic!("{other:?}"),
    };
    job.spec.as_ref().unwrap().env.iter().map(text).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

async fn node(world: &World, name: &str, architecture: &str) {
    world.enroll(name, &[]).await;
    let agent = world.dial_session(world.agent_service(name), hello(architecture)).await.unwrap();
    drop(agent);
}

#[tokio::test]
async fn a_job_is_made_of_a_version_and_keeps_what_it_was() {
    let world = World::start().await;
    node(&world, "shop-1", "amd64").await;
    let mut templates = world.templates(WHO);
    let made = templates.create_template(template("1.0", "")).await.unwrap().into_inner().template.unwrap();
    assert_eq!((made.creator.as_str(), made.aliases.len()), ("bob", 0));
    templates.create_template(template("2.0", "")).await.unwrap();
    let alias = |version: &str| v1::SetTemplateAliasRequest {
        name: "till".to_owned(),
        alias: "stable".to_owned(),
        version: version.to_owned(),
        ..Default::default()
    };
    templates.set_template_alias(alias("1.0")).await.unwrap();
    let overrides = v1::AppSpec { instances: 2, env: vec![variable("SITE", "hh")], ..Default::default() };
    let job = world.create(made_of(&["shop-1"], "", "stable", Some(overrides.clone()))).await;
    assert_eq!(env(&job), pairs(&[("VARIANT", "1.0 "), ("SITE", "hh")]));
    assert_eq!(job.spec.as_ref().unwrap().instances, 2);
    let expected = v1::TemplateUse {
        name: "till".to_owned(),
        version: "1.0".to_owned(),
        alias: "stable".to_owned(),
        architecture: String::new(),
        overrides: Some(overrides),
    };
    assert_eq!(job.template, Some(expected));

    // Whatever becomes of the template.
    templates.set_template_alias(alias("2.0")).await.unwrap();
    let gone = v1::DeleteTemplateRequest { name: "till".to_owned(), version: "1.0".to_owned(), ..Default::default() };
    templates.delete_template(gone).await.unwrap();
    let after = world.job(&job.job_id).await;
    assert_eq!((after.spec, after.template), (job.spec, job.template));
    let job = world.create(made_of(&["shop-1"], "", "stable", None)).await;
    assert_eq!(env(&job), pairs(&[("VARIANT", "2.0 "), ("SITE", "none")]));
    assert_eq!(job.template.unwrap().overrides, None);
    let list = v1::ListTemplatesRequest { filter: "name = till".to_owned(), ..Default::default() };
    let found = templates.list_templates(list).await.unwrap().into_inner().templates;
    assert_eq!((found.len(), found[0].spec.as_ref(), &found[0].aliases), (1, None, &vec!["stable".to_owned()]));
}

#[tokio::test]
async fn the_variant_is_that_of_the_nodes_and_those_without_one_are_named() {
    let world = World::start().await;
    for (name, architecture) in [("shop-1", "amd64"), ("shop-2", "arm64"), ("shop-3", "arm64")] {
        node(&world, name, architecture).await;
    }
    let mut templates = world.templates(WHO);
    for architecture in ["amd64", "riscv64"] {
        templates.create_template(template("1.0", architecture)).await.unwrap();
    }
    let job = world.create(made_of(&["shop-1"], "1.0", "", None)).await;
    assert_eq!((env(&job)[0].1.as_str(), job.template.unwrap().architecture.as_str()), ("1.0 amd64", "amd64"));
    let told = async |request| {
        let (code, details) = failure(world.jobs().create_job(request).await);
        assert_eq!(code, Code::InvalidArgument);
        let found = details.bad_request().unwrap().field_violations.clone();
        found.into_iter().map(|violation| format!("{}: {}", violation.field, violation.description)).collect::<Vec<_>>()
    };
    let odd = told(made_of(&["shop-2", "shop-3"], "1.0", "", None)).await;
    assert_eq!(odd, ["template: till 1.0 is for amd64, riscv64 and not for arm64: shop-2, shop-3"]);
    let mut mixed = made_of(&["shop-1", "shop-2"], "1.0", "", None);
    mixed.targets.as_mut().unwrap().mixed_architectures = true;
    let odd = told(mixed.clone()).await;
    assert_eq!(odd, ["template: till 1.0 is for amd64, riscv64 and not for amd64: shop-1; arm64: shop-2"]);
    templates.create_template(template("1.0", "")).await.unwrap();
    assert_eq!(env(&world.create(mixed).await)[0].1, "1.0 ");

    for (request, expected) in [
        (made_of(&["shop-1"], "9", "", None), "template.version: there is no version \"9\" of a template till"),
        (made_of(&["shop-1"], "", "stable", None), "template.alias: the template till has no alias stable"),
        (made_of(&["shop-1"], "1.0", "stable", None), "template: must have a version or an alias, and not both"),
        (made_of(&["shop-1"], "", "", None), "template: must have a version or an alias, and not both"),
    ] {
        assert_eq!(told(request).await, [expected]);
    }
    let bad = v1::AppSpec { instances: 1000, ..Default::default() };
    let odd = told(made_of(&["shop-1"], "1.0", "", Some(bad))).await;
    assert!(odd.len() == 1 && odd[0].starts_with("spec.instances: "), "the whole is checked: {odd:?}");
}

#[tokio::test]
async fn a_version_that_is_wrong_is_refused_whole() {
    let world = World::start().await;
    let mut templates = world.templates(WHO);
    let mut request = template("1/0", "AMD");
    request.template.as_mut().unwrap().tags = vec!["X".to_owned()];
    request.template.as_mut().unwrap().spec.as_mut().unwrap().instances = 1000;
    let (code, details) = failure(templates.create_template(request).await);
    let found = details.bad_request().unwrap().field_violations.clone();
    let fields: Vec<&str> = found.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(fields, ["template.version", "template.architecture", "template.tags[0]", "template.spec.instances"]);
    templates.create_template(template("1.0", "")).await.unwrap();
    let (code, details) = failure(templates.create_template(template("1.0", "")).await);
    assert_eq!((code, details.error_info().unwrap().reason.as_str()), (Code::AlreadyExists, "TEMPLATE_ALREADY_EXISTS"));
    let set = v1::SetTemplateAliasRequest {
        name: "till".to_owned(),
        alias: "stable".to_owned(),
        version: "1.0".to_owned(),
        ..Default::default()
    };
    templates.set_template_alias(set).await.unwrap();
    let gone = v1::DeleteTemplateRequest { name: "till".to_owned(), version: "1.0".to_owned(), ..Default::default() };
    let (code, details) = failure(templates.delete_template(gone).await);
    assert_eq!((code, details.error_info().unwrap().reason.as_str()), (Code::FailedPrecondition, "TEMPLATE_ALIASED"));
}
