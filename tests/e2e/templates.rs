//! Templates by the built command line, and apps on a real node that are made of them.

use std::net::SocketAddr;

use longshore_tests::cluster::Cluster;
use longshore_tests::{http, process};

#[tokio::test(flavor = "multi_thread")]
async fn a_template_is_made_aliased_deployed_with_overrides_and_outlived_by_its_jobs() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let client = cluster.client().await;
    let version = |number: &str| {
        let text = format!(
            "name: web\nversion: '{number}'\ndescription: a page\ntags: [demo]\nspec:\n  name: web\n\
             \x20 image: {{ archive: {} }}\n  args: [serve]\n  startup: {{ settle: 300ms }}\n\
             \x20 env:\n    - {{ name: VERSION, value: '{number}' }}\n    - {{ name: SITE, value: none }}\n\
             \x20 network: {{ ports: [{{ containerPort: 8080 }}] }}\n",
            cluster.image()
        );
        cluster.file(&format!("web-{number}.yaml"), text)
    };
    let run = |arguments: &[&str]| process::succeed(&mut cluster.cli(arguments));
    run(&["template", "create", "-f", &version("1.0")]);
    run(&["template", "create", "-f", &version("1.1")]);
    run(&["template", "alias", "web", "stable", "1.0"]);
    let listed = run(&["template", "list"]);
    assert!(listed.contains("stable") && listed.contains("1.1") && listed.contains("a page"), "{listed}");
    let job = cluster.file(
        "job.yaml",
        "template: { name: web, alias: stable }\nspec:\n  env: [{ name: SITE, value: hh }]\ntargets: { nodes: [node] }\n",
    );
    let planned = run(&["plan", "-f", &job]);
    assert!(planned.contains("deploy"), "{planned}");
    let applied: serde_json::Value = serde_json::from_str(&run(&["apply", "-f", &job, "-o", "json"])).unwrap();
    let (job_id, app) = (applied["job"]["jobId"].as_str().unwrap(), applied["job"]["appName"].as_str().unwrap());
    let status = client.app("node", app).await.status.unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], u16::try_from(status.ports[0].host_port).unwrap()));
    let variable = async |name: &str| http::get(at, &format!("/env/{name}")).await.unwrap().body.trim_end().to_owned();
    assert_eq!((variable("VERSION").await.as_str(), variable("SITE").await.as_str()), ("1.0", "hh"));

    // The alias moves, the version goes, and the job is what it was.
    let moved = run(&["template", "alias", "web", "stable", "1.1"]);
    assert!(moved.contains("it stood for 1.0"), "{moved}");
    run(&["template", "delete", "web", "1.0"]);
    let shown = run(&["job", "show", job_id]);
    assert!(shown.contains("web 1.0 (alias stable), with overrides"), "{shown}");
    assert_eq!(variable("VERSION").await, "1.0");
    let spec = run(&["template", "show", "web", "1.1"]);
    assert!(spec.contains("stable") && spec.contains("containerPort: 8080"), "{spec}");

    // An update to what the alias means now.
    let update = cluster.file(
        "update.yaml",
        format!("kind: Update\napp: {app}\ntemplate: {{ name: web, alias: stable }}\nspec:\n  env: [{{ name: SITE, value: b }}]\n"),
    );
    run(&["apply", "-f", &update]);
    let status = client.app("node", app).await.status.unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], u16::try_from(status.ports[0].host_port).unwrap()));
    let variable = async |name: &str| http::get(at, &format!("/env/{name}")).await.unwrap().body.trim_end().to_owned();
    assert_eq!((variable("VERSION").await.as_str(), variable("SITE").await.as_str()), ("1.1", "b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_told_in_the_words_of_the_file() {
    let cluster = Cluster::start().await;
    let _node = cluster.enroll("node", &[], None, &[]).await;
    let told = |arguments: &[&str]| {
        let ended = process::output(&mut cluster.cli(arguments));
        assert!(!ended.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&ended.stderr).into_owned()
    };
    let file = cluster
        .file("bad.yaml", "name: Web\nversion: 1\nspec: { name: web, image: { reference: w:1 }, instances: 99 }\n");
    let text = told(&["template", "create", "-f", &file]);
    assert!(text.contains("bad.yaml") && text.contains("spec.instances") && text.contains("name"), "{text}");
    let job = cluster.file("job.yaml", "template: { name: web, version: 7 }\ntargets: { nodes: [node] }\n");
    let text = told(&["apply", "-f", &job]);
    assert!(text.contains("template.version: there is no version \"7\" of a template web"), "{text}");
    assert!(told(&["template", "show", "web", "7"]).contains("there is no template"));
    assert!(told(&["template", "alias", "web", "stable", "7"]).contains("there is no template"));
}
