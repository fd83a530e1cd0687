//! Config maps and secrets: how they are changed, who gets them, and that values of secrets come out nowhere else.

use std::collections::BTreeMap;

use longshore_proto::v1;
use tonic::{Code, Status};

use crate::harness::{World, failure, order};

const PASSWORD: &str = "canary-4711";
const ADMIN: &str = "user/admin/bob";
const OPERATOR: &str = "user/operator/ann";

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn config_map(pairs: &[(&str, &str)]) -> Option<v1::ConfigMap> {
    Some(v1::ConfigMap { name: "site".to_owned(), data: texts(pairs), ..Default::default() })
}

async fn make(world: &World) {
    let request = v1::CreateConfigMapRequest { config_map: config_map(&[("ZONE", "north")]), ..Default::default() };
    world.config_maps(OPERATOR).create_config_map(request).await.unwrap();
    let data = [("password", PASSWORD), ("other", "canary-other")];
    let request = v1::CreateSecretRequest {
        secret: Some(v1::Secret { name: "db".to_owned(), ..Default::default() }),
        data: data.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec())).into(),
        ..Default::default()
    };
    world.secrets(ADMIN).create_secret(request).await.unwrap();
}

fn with_secret(nodes: &[&str], key: &str) -> v1::CreateJobRequest {
    let mut request = order(nodes);
    let key = v1::SecretKey { secret: "db".to_owned(), key: key.to_owned() };
    let source = Some(v1::env_var::Source::SecretKey(key));
    let spec = request.spec.as_mut().unwrap();
    spec.env = vec![v1::EnvVar { name: "PASSWORD".to_owned(), source }];
    spec.env_from =
        vec![v1::EnvFrom { prefix: String::new(), source: Some(v1::env_from::Source::ConfigMap("site".to_owned())) }];
    request
}

async fn fetch(world: &World, node: &str, app: &str, revision: u64) -> Result<v1::FetchConfigurationResponse, Status> {
    let request = v1::FetchConfigurationRequest { app_name: app.to_owned(), revision };
    world.agent_service(node).fetch_configuration(request).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_config_map_is_made_changed_by_its_keys_and_deleted() {
    let world = World::start().await;
    make(&world).await;
    let mut service = world.config_maps(OPERATOR);
    let get = async || {
        let request = v1::GetConfigMapRequest { name: "site".to_owned() };
        world.config_maps(OPERATOR).get_config_map(request).await
    };
    let made = get().await.unwrap().into_inner().config_map.unwrap();
    assert_eq!(made.data, texts(&[("ZONE", "north")]));
    let change = |pairs: &[(&str, &str)], paths: &[&str], etag: &str| v1::UpdateConfigMapRequest {
        config_map: config_map(pairs).map(|given| v1::ConfigMap { etag: etag.to_owned(), ..given }),
        update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }),
        ..Default::default()
    };
    let request = change(&[("a.conf", "x"), ("left", "out")], &["data.`a.conf`"], &made.etag);
    let changed = service.update_config_map(request.clone()).await.unwrap().into_inner().config_map.unwrap();
    assert_eq!(changed.data, texts(&[("ZONE", "north"), ("a.conf", "x")]));
    assert_eq!(failure(service.update_config_map(request).await).0, Code::Aborted, "it has changed since");
    service.update_config_map(change(&[], &["data.ZONE"], "")).await.unwrap();
    assert_eq!(get().await.unwrap().into_inner().config_map.unwrap().keys, ["a.conf"]);
    let emptied = failure(service.update_config_map(change(&[], &["data.`a.conf`"], "")).await);
    assert_eq!(emptied.0, Code::InvalidArgument, "nothing would be left");
    service.update_config_map(change(&[("k", "v")], &["*"], "")).await.unwrap();
    assert_eq!(get().await.unwrap().into_inner().config_map.unwrap().data, texts(&[("k", "v")]));
    let listed = service.list_config_maps(v1::ListConfigMapsRequest::default()).await.unwrap().into_inner();
    assert_eq!((listed.config_maps[0].keys.as_slice(), listed.config_maps[0].data.len()), (&["k".to_owned()][..], 0));
    let delete = v1::DeleteConfigMapRequest { name: "site".to_owned(), ..Default::default() };
    service.delete_config_map(delete).await.unwrap();
    assert_eq!(failure(get().await).0, Code::NotFound);
}

#[tokio::test]
async fn a_node_gets_only_what_its_apps_take_of_a_secret() {
    let world = World::start().await;
    make(&world).await;
    let mut agents = world.fleet(&["shop-1", "shop-2"]).await;
    let job = world.create(with_secret(&["shop-1"], "password")).await;
    let set = agents[0].set().await;
    let fetched = fetch(&world, "shop-1", &job.app_name, set.revision).await.unwrap();
    let expected = BTreeMap::from([("password".to_owned(), PASSWORD.as_bytes().to_vec())]);
    assert_eq!((fetched.secrets.len(), &fetched.secrets[0].data), (1, &expected), "the other key is nobody's business");
    assert_eq!(fetched.config_maps[0].data["ZONE"], b"north");
    assert!(!format!("{fetched:?}").contains("canary"));
    for (node, app, revision) in [
        ("shop-2", job.app_name.as_str(), set.revision),
        ("shop-1", "other", set.revision),
        ("shop-1", &job.app_name, set.revision + 1),
    ] {
        assert_eq!(failure(fetch(&world, node, app, revision).await).0, Code::NotFound, "{node} {app} {revision}");
    }
    let request = v1::DeleteSecretRequest { name: "db".to_owned(), ..Default::default() };
    world.secrets(ADMIN).delete_secret(request).await.unwrap();
    let (code, details) = failure(fetch(&world, "shop-1", &job.app_name, set.revision).await);
    assert_eq!(code, Code::FailedPrecondition);
    assert_eq!(details.error_info().unwrap().reason, "CONFIGURATION_MISSING");
}

#[tokio::test]
async fn a_job_that_names_what_is_not_there_is_refused_with_its_place() {
    let world = World::start().await;
    let _agents = world.fleet(&["shop-1"]).await;
    let fields = async |key: &str| {
        let (code, details) = failure(world.jobs().create_job(with_secret(&["shop-1"], key)).await);
        assert_eq!(code, Code::InvalidArgument);
        let violations = details.bad_request().unwrap().field_violations.clone();
        violations.into_iter().map(|found| found.field).collect::<Vec<_>>()
    };
    assert_eq!(fields("password").await, ["spec.env[0].secret_key.secret", "spec.env_from[0].config_map"]);
    make(&world).await;
    assert_eq!(fields("none").await, ["spec.env[0].secret_key.key"]);
    let bad = v1::UpdateConfigMapRequest { config_map: config_map(&[("1", "x")]), ..Default::default() };
    world.config_maps(OPERATOR).update_config_map(bad).await.unwrap();
    assert_eq!(fields("password").await, ["spec.env_from[0].prefix"], "a key that is no name of a variable");
}

#[tokio::test]
async fn the_same_request_for_a_secret_is_answered_as_before() {
    let world = World::start().await;
    let request = |value: &str| v1::CreateSecretRequest {
        secret: Some(v1::Secret { name: "db".to_owned(), ..Default::default() }),
        data: [("b", value), ("a", "1")].map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec())).into(),
        request_id: "2b1c6a1e-58a5-4c0f-9d0e-6a6f3c1f7c11".to_owned(),
        ..Default::default()
    };
    let made = world.secrets(ADMIN).create_secret(request(PASSWORD)).await.unwrap().into_inner();
    let again = world.secrets(ADMIN).create_secret(request(PASSWORD)).await.unwrap().into_inner();
    assert_eq!(made, again);
    assert_eq!(failure(world.secrets(ADMIN).create_secret(request("other")).await).0, Code::InvalidArgument);
}
