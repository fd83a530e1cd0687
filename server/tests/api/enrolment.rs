//! Tokens, and machines that wait for approval.

use std::collections::BTreeMap;

use longshore_model::admission::Fingerprint;
use longshore_proto::v1;
use longshore_server::store::Enrolled;
use longshore_tls::EnrollmentToken;
use tonic::Code;

use crate::harness::{World, enrolling, failure};

async fn token(world: &World, request: v1::CreateEnrollmentTokenRequest) -> EnrollmentToken {
    let answer = world.nodes().create_enrollment_token(request).await.unwrap().into_inner();
    let token: EnrollmentToken = answer.token.parse().unwrap();
    assert_eq!(answer.token_id, token.id());
    token
}

fn guarded(uses: u32) -> v1::CreateEnrollmentTokenRequest {
    v1::CreateEnrollmentTokenRequest { uses, requires_approval: true, ..Default::default() }
}

async fn pending(world: &World, request: v1::ListPendingNodesRequest) -> Vec<v1::PendingNode> {
    world.nodes().list_pending_nodes(request).await.unwrap().into_inner().pending_nodes
}

#[tokio::test]
async fn a_token_enrols_one_machine_and_knows_the_root() {
    let world = World::start().await;
    let request = v1::CreateEnrollmentTokenRequest {
        ttl: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        labels: BTreeMap::from([("role".to_owned(), "till".to_owned())]),
        node_name: "shop-1".to_owned(),
        ..Default::default()
    };
    let token = token(&world, request).await;
    assert_eq!(token.pin(), longshore_tls::Pin::of(&b"the root certificate".as_slice().into()));
    let now = jiff::Timestamp::now();
    let request = enrolling(token.id(), token.secret_hash(), "shop-1");
    let Enrolled::Node(node) = world.store.enroll(request.clone(), now).await.unwrap() else { panic!("has to wait") };
    assert_eq!(node.labels["role"], "till");
    assert!(world.store.enroll(request, now).await.is_err());

    let wrong = v1::CreateEnrollmentTokenRequest {
        ttl: Some(prost_types::Duration { seconds: 100 * 24 * 3600, nanos: 0 }),
        labels: BTreeMap::from([("a b".to_owned(), String::new())]),
        node_name: "Shop".to_owned(),
        uses: 10_001,
        ..Default::default()
    };
    let (code, details) = failure(world.nodes().create_enrollment_token(wrong).await);
    assert_eq!(code, Code::InvalidArgument);
    let fields: Vec<_> = details.bad_request().unwrap().field_violations.iter().map(|found| &found.field).collect();
    assert_eq!(fields, ["ttl", "labels[\"a b\"]", "node_name", "uses"]);
    let two = v1::CreateEnrollmentTokenRequest { node_name: "shop-1".to_owned(), uses: 2, ..Default::default() };
    let (_, details) = failure(world.nodes().create_enrollment_token(two).await);
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "uses");
}

#[tokio::test]
async fn tokens_are_listed_without_their_secrets_and_revoked() {
    let world = World::start().await;
    let mut ids: Vec<String> = Vec::new();
    for uses in 1..=3 {
        ids.push(token(&world, guarded(uses)).await.id().to_owned());
    }
    token(&world, v1::CreateEnrollmentTokenRequest::default()).await;
    ids.sort();
    let filter = "requires_approval = true AND creator = bob".to_owned();
    let mut request = v1::ListEnrollmentTokensRequest { page_size: 2, filter, ..Default::default() };
    let first = world.nodes().list_enrollment_tokens(request.clone()).await.unwrap().into_inner();
    request.page_token = first.next_page_token;
    let second = world.nodes().list_enrollment_tokens(request).await.unwrap().into_inner();
    assert_eq!(second.next_page_token, "");
    let listed: Vec<_> = first.enrollment_tokens.into_iter().chain(second.enrollment_tokens).collect();
    assert_eq!(listed.iter().map(|token| token.token_id.clone()).collect::<Vec<_>>(), ids);
    assert_eq!(listed.iter().map(|token| token.uses).sum::<u32>(), 6);

    let delete = v1::DeleteEnrollmentTokenRequest { token_id: ids[0].clone(), ..Default::default() };
    let validate = v1::DeleteEnrollmentTokenRequest { validate_only: true, ..delete.clone() };
    world.nodes().delete_enrollment_token(validate).await.unwrap();
    world.nodes().delete_enrollment_token(delete.clone()).await.unwrap();
    let (code, details) = failure(world.nodes().delete_enrollment_token(delete).await);
    assert_eq!((code, details.error_info().unwrap().reason.as_str()), (Code::NotFound, "ENROLMENT_TOKEN_NOT_FOUND"));

    let whole = token(&world, guarded(1)).await.to_string();
    let delete = v1::DeleteEnrollmentTokenRequest { token_id: whole.clone(), ..Default::default() };
    let status = world.nodes().delete_enrollment_token(delete).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(!format!("{status:?}").contains(whole.split('.').nth(2).unwrap()), "the secret comes back in an error");
}

#[tokio::test]
async fn a_person_approves_of_the_machine_that_they_see() {
    let world = World::start().await;
    let token = token(&world, guarded(3)).await;
    let now = jiff::Timestamp::now();
    for name in ["shop-1", "shop-2", "shop-3"] {
        let request = enrolling(token.id(), token.secret_hash(), name);
        assert!(matches!(world.store.enroll(request, now).await.unwrap(), Enrolled::Waits(_)));
    }
    let seen = pending(&world, v1::ListPendingNodesRequest::default()).await;
    assert_eq!(seen.iter().map(|machine| machine.name.as_str()).collect::<Vec<_>>(), ["shop-1", "shop-2", "shop-3"]);
    assert_eq!(seen[0].key_fingerprint.parse(), Ok(Fingerprint([1; 32])));
    assert_eq!((seen[0].address.as_str(), seen[0].token_id.as_str()), ("192.0.2.1", token.id()));
    let filter = "name = *-2 AND address = 192.0.2.*".to_owned();
    let filtered = pending(&world, v1::ListPendingNodesRequest { filter, ..Default::default() }).await;
    assert_eq!(filtered, [seen[1].clone()]);

    let approve =
        v1::ApproveNodeRequest { name: "shop-1".to_owned(), etag: seen[0].etag.clone(), ..Default::default() };
    let other = v1::ApproveNodeRequest { etag: "0".to_owned(), ..approve.clone() };
    let (code, details) = failure(world.nodes().approve_node(other).await);
    assert_eq!((code, details.error_info().unwrap().reason.as_str()), (Code::Aborted, "ETAG_MISMATCH"));
    let validate = v1::ApproveNodeRequest { validate_only: true, ..approve.clone() };
    world.nodes().approve_node(validate).await.unwrap();
    let node = world.nodes().approve_node(approve.clone()).await.unwrap().into_inner().node.unwrap();
    assert_eq!((node.name.as_str(), node.connected), ("shop-1", false));
    let (code, details) = failure(world.nodes().approve_node(approve).await);
    assert_eq!((code, details.error_info().unwrap().reason.as_str()), (Code::NotFound, "PENDING_NODE_NOT_FOUND"));

    let deny = v1::DenyNodeRequest { name: "shop-2".to_owned(), ..Default::default() };
    world.nodes().deny_node(deny).await.unwrap();
    assert_eq!(pending(&world, v1::ListPendingNodesRequest::default()).await, [seen[2].clone()]);
}
