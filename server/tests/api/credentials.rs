//! Registry credentials: who sees them, who gets them, and where the password is not.

use longshore_proto::v1;
use tonic::{Code, Status};
use v1::TaskState;

use crate::harness::{World, failure, order};

const PASSWORD: &str = "canary-Pq7>?~rT";
const ADMIN: &str = "user/admin/bob";

fn credential(name: &str, registry: &str) -> v1::RegistryCredential {
    v1::RegistryCredential {
        name: name.to_owned(),
        registry: registry.to_owned(),
        username: "robot".to_owned(),
        ..Default::default()
    }
}

fn creation(name: &str, registry: &str) -> v1::CreateRegistryCredentialRequest {
    v1::CreateRegistryCredentialRequest {
        registry_credential: Some(credential(name, registry)),
        password: PASSWORD.to_owned(),
        ..Default::default()
    }
}

async fn create(world: &World, request: v1::CreateRegistryCredentialRequest) -> Result<v1::RegistryCredential, Status> {
    let answer = world.credentials(ADMIN).create_registry_credential(request).await?;
    Ok(answer.into_inner().registry_credential.unwrap())
}

async fn fetch(world: &World, node: &str, app: &str) -> Result<v1::FetchRegistryCredentialResponse, Status> {
    let request = v1::FetchRegistryCredentialRequest { app_name: app.to_owned(), ..Default::default() };
    world.agent_service(node).fetch_registry_credential(request).await.map(tonic::Response::into_inner)
}

fn of_image(nodes: &[&str], reference: &str, credential: &str) -> v1::CreateJobRequest {
    let mut request = order(nodes);
    request.spec.as_mut().unwrap().image = Some(v1::Image {
        source: Some(v1::image::Source::Reference(reference.to_owned())),
        credential: credential.to_owned(),
        ..Default::default()
    });
    request
}

fn fields<T: std::fmt::Debug>(result: Result<T, Status>) -> Vec<String> {
    let (code, details) = failure(result);
    assert_eq!(code, Code::InvalidArgument);
    details.bad_request().unwrap().field_violations.iter().map(|found| found.field.clone()).collect()
}

#[tokio::test]
async fn only_a_node_that_runs_the_app_gets_its_credential_and_always_the_newest() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1", "shop-2"]).await;
    let job = world.create(of_image(&["shop-1"], "registry.example.com/shop/till:1", "")).await;
    let set = agents[0].set().await;
    assert_eq!(fetch(&world, "shop-1", &job.app_name).await.unwrap().name, "", "there is none yet");

    // One that is made after the job is used all the same: that is how a denied pull is mended.
    create(&world, creation("all", "registry.example.com")).await.unwrap();
    let made = create(&world, creation("shop", "registry.example.com/shop")).await.unwrap();
    let fetched = fetch(&world, "shop-1", &job.app_name).await.unwrap();
    assert_eq!((fetched.name.as_str(), fetched.password.as_str()), ("shop", PASSWORD));
    assert_eq!(fetched.registry, "registry.example.com/shop");
    assert!(!format!("{fetched:?}").contains("canary"));
    assert_eq!(failure(fetch(&world, "shop-2", &job.app_name).await).0, Code::NotFound);
    assert_eq!(failure(fetch(&world, "shop-1", "other").await).0, Code::NotFound);

    let update = v1::UpdateRegistryCredentialRequest {
        registry_credential: Some(v1::RegistryCredential { etag: made.etag.clone(), ..credential("shop", "") }),
        password: "canary-second".to_owned(),
        update_mask: Some(prost_types::FieldMask { paths: vec!["password".to_owned()] }),
        ..Default::default()
    };
    let changed = world.credentials(ADMIN).update_registry_credential(update.clone()).await.unwrap().into_inner();
    assert_ne!(changed.registry_credential.unwrap().etag, made.etag);
    assert_eq!(fetch(&world, "shop-1", &job.app_name).await.unwrap().password, "canary-second");
    assert_eq!(failure(world.credentials(ADMIN).update_registry_credential(update).await).0, Code::Aborted);

    agents[0].reach(&set, TaskState::Succeeded).await;
    let remove = v1::RemoveAppRequest { app_name: job.app_name.clone(), ..Default::default() };
    world.apps().remove_app(remove).await.unwrap();
    assert_eq!(failure(fetch(&world, "shop-1", &job.app_name).await).0, Code::NotFound, "an app that shall go");
}

#[tokio::test]
async fn a_named_credential_must_be_there_and_be_for_the_image() {
    let world = World::start().await;
    let _agents = world.fleet(&["shop-1"]).await;
    create(&world, creation("shop", "registry.example.com/shop")).await.unwrap();
    for (reference, name) in [("registry.example.com/shop/till:1", "none"), ("evil.test/shop/till:1", "shop")] {
        let refused = world.jobs().create_job(of_image(&["shop-1"], reference, name)).await;
        assert_eq!(fields(refused), ["spec.image.credential"], "{reference}");
    }
    let job = world.create(of_image(&["shop-1"], "registry.example.com/shop/till:1", "shop")).await;
    let app = job.app_name;
    crate::harness::eventually(|| async { fetch(&world, "shop-1", &app).await.ok() }).await;
    // Sent elsewhere by a change of its registry, the password stays here.
    let update = v1::UpdateRegistryCredentialRequest {
        registry_credential: Some(credential("shop", "evil.test")),
        ..Default::default()
    };
    world.credentials(ADMIN).update_registry_credential(update).await.unwrap();
    assert_eq!(failure(fetch(&world, "shop-1", &app).await).0, Code::FailedPrecondition);
}

#[tokio::test]
async fn what_is_wrong_with_a_credential_is_told_at_once_and_without_the_password() {
    let world = World::start().await;
    let wrong = v1::CreateRegistryCredentialRequest {
        registry_credential: Some(v1::RegistryCredential {
            name: "Shop".to_owned(),
            registry: "https://registry.example.com".to_owned(),
            username: "a:b".to_owned(),
            ca_certificate_pem: "nonsense".to_owned(),
            ..Default::default()
        }),
        password: format!("{PASSWORD}\n"),
        request_id: "1".to_owned(),
        ..Default::default()
    };
    let refused = world.credentials(ADMIN).create_registry_credential(wrong).await.map(drop);
    assert!(!format!("{refused:?}").contains("canary"), "{refused:?}");
    let of = |field: &str| format!("registry_credential.{field}");
    let expected = ["request_id".to_owned(), of("name"), of("registry"), of("username"), of("ca_certificate_pem")];
    assert_eq!(fields(refused), [expected.as_slice(), &["password".to_owned()]].concat());

    let mask = prost_types::FieldMask { paths: vec!["nam".to_owned()] };
    create(&world, creation("shop", "registry.example.com")).await.unwrap();
    let update = v1::UpdateRegistryCredentialRequest {
        registry_credential: Some(credential("shop", "")),
        update_mask: Some(mask),
        ..Default::default()
    };
    let refused = world.credentials(ADMIN).update_registry_credential(update).await;
    assert_eq!(fields(refused)[0], "update_mask.paths[0]");
}

#[tokio::test]
async fn a_request_may_come_again_and_what_is_only_checked_makes_nothing() {
    let world = World::start().await;
    let id = "2b1c6a1e-58a5-4c0f-9d0e-6a6f3c1f7c11".to_owned();
    let checked =
        v1::CreateRegistryCredentialRequest { validate_only: true, ..creation("shop", "registry.example.com") };
    create(&world, checked).await.unwrap();
    assert!(!world.directory().join("secrets.key").exists());
    let request = v1::CreateRegistryCredentialRequest { request_id: id, ..creation("shop", "registry.example.com") };
    let made = create(&world, request.clone()).await.unwrap();
    assert_eq!(create(&world, request.clone()).await.unwrap(), made);
    let request_of_before = request.clone();
    let other = v1::CreateRegistryCredentialRequest { password: "another".to_owned(), ..request };
    assert_eq!(fields(create(&world, other).await), ["request_id"]);
    assert_eq!(failure(create(&world, creation("shop", "other.example.com")).await).0, Code::AlreadyExists);
    let change = |request_id: &str| v1::UpdateRegistryCredentialRequest {
        registry_credential: Some(v1::RegistryCredential { etag: made.etag.clone(), ..made.clone() }),
        password: "another".to_owned(),
        request_id: request_id.to_owned(),
        ..Default::default()
    };
    let mut client = world.credentials(ADMIN);
    let id = "3b1c6a1e-58a5-4c0f-9d0e-6a6f3c1f7c11";
    let changed = client.update_registry_credential(change(id)).await.unwrap().into_inner();
    let again = client.update_registry_credential(change(id)).await.unwrap().into_inner();
    assert_eq!(again, changed, "though its etag is of before the first time");
    let other = v1::UpdateRegistryCredentialRequest { password: "a third".to_owned(), ..change(id) };
    assert_eq!(fields(client.update_registry_credential(other).await), ["request_id"]);
    assert_eq!(create(&world, request_of_before).await.unwrap(), made, "as it was made");
    let now = changed.registry_credential.unwrap();
    let changed_etag = now.etag.clone();

    create(&world, creation("other", "other.example.com")).await.unwrap();
    let list = v1::ListRegistryCredentialsRequest { page_size: 1, ..Default::default() };
    let page = world.credentials(ADMIN).list_registry_credentials(list).await.unwrap().into_inner();
    assert_eq!(page.registry_credentials[0].name, "other");
    let list =
        v1::ListRegistryCredentialsRequest { page_token: page.next_page_token, page_size: 1, ..Default::default() };
    let page = world.credentials(ADMIN).list_registry_credentials(list).await.unwrap().into_inner();
    assert_eq!((page.registry_credentials, page.next_page_token.as_str()), (vec![now], ""));
    let list =
        v1::ListRegistryCredentialsRequest { filter: "registry = other.example.com".to_owned(), ..Default::default() };
    let page = world.credentials(ADMIN).list_registry_credentials(list).await.unwrap().into_inner();
    assert_eq!(page.registry_credentials.len(), 1);

    let delete =
        v1::DeleteRegistryCredentialRequest { name: "shop".to_owned(), etag: changed_etag, ..Default::default() };
    world.credentials(ADMIN).delete_registry_credential(delete.clone()).await.unwrap();
    assert_eq!(failure(world.credentials(ADMIN).delete_registry_credential(delete).await).0, Code::NotFound);
}

#[tokio::test]
async fn the_password_is_in_no_file_of_the_server() {
    let world = World::start().await;
    create(&world, creation("shop", "registry.example.com")).await.unwrap();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(world.directory()).unwrap() {
        let path = entry.unwrap().path();
        let content = std::fs::read(&path).unwrap();
        assert!(!content.windows(PASSWORD.len()).any(|bytes| bytes == PASSWORD.as_bytes()), "{}", path.display());
        if content.windows(20).any(|bytes| bytes == b"registry.example.com") {
            names.push(path.file_name().unwrap().to_owned());
        }
    }
    assert_eq!(names, ["longshore.db-wal"], "the search finds what is there");
}
