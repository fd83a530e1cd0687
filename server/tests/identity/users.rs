//! Users: certificates that are given, renewed and revoked.

use rustls::HandshakeKind;
use tonic::Streaming;
use v1::UserRole;

use super::clients::Resuming;
use super::*;

impl TestServer {
    async fn users(&self) -> UserServiceClient<Channel> {
        UserServiceClient::new(self.first_admin().await)
    }

    async fn revoke(&self, name: &str) -> Result<v1::User, Status> {
        let request = v1::RevokeUserRequest { name: name.to_owned(), ..Default::default() };
        Ok(self.users().await.revoke_user(request).await?.into_inner().user.unwrap())
    }

    async fn list(&self, filter: &str) -> Vec<v1::User> {
        let request = v1::ListUsersRequest { filter: filter.to_owned(), ..Default::default() };
        self.users().await.list_users(request).await.unwrap().into_inner().users
    }

    /// A job for a node that has no agent.
    async fn waiting_job(&self) -> String {
        self.enroll(&self.token("").await, "edge-1").await.unwrap();
        let image =
            v1::Image { source: Some(v1::image::Source::Archive("/image.tar".to_owned())), ..Default::default() };
        let request = v1::CreateJobRequest {
            spec: Some(v1::AppSpec { name: "till".to_owned(), image: Some(image), ..Default::default() }),
            targets: Some(v1::Targets { node_names: vec!["edge-1".to_owned()], ..Default::default() }),
            ..Default::default()
        };
        let mut jobs = JobServiceClient::new(self.first_admin().await);
        jobs.create_job(request).await.unwrap().into_inner().job.unwrap().job_id
    }
}

async fn look(channel: &Channel) -> Result<(), Status> {
    NodeServiceClient::new(channel.clone()).list_nodes(v1::ListNodesRequest::default()).await.map(drop)
}

fn is_revoked(status: &Status) {
    assert_eq!((status.code(), reason(status).as_str()), (Code::Unauthenticated, "USER_REVOKED"), "{status:?}");
}

async fn end_of<T>(mut stream: Streaming<T>) -> Status {
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended well"),
            Err(status) => return status,
        }
    }
}

#[tokio::test]
async fn the_first_admin_is_a_user_and_the_last_one_stays() {
    let server = TestServer::start().await;
    let [admin] = server.list("").await.try_into().unwrap();
    assert_eq!((admin.name.as_str(), admin.role(), admin.creator.as_str()), ("admin", UserRole::Admin, "init"));
    server.user("ann", UserRole::Operator).await;
    let status = server.revoke("admin").await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "LAST_ADMIN"));

    let second = server.user("bob", UserRole::Admin).await;
    server.revoke("admin").await.unwrap();
    let mut users = UserServiceClient::new(dial(&server.api, &second).await.unwrap());
    let request = v1::RevokeUserRequest { name: "bob".to_owned(), ..Default::default() };
    assert_eq!(reason(&users.revoke_user(request).await.unwrap_err()), "LAST_ADMIN");

    // A restart does not bring the first admin back.
    let dir = server.stop().await;
    let server = TestServer::start_in(dir).await;
    is_revoked(&look(&server.first_admin().await).await.unwrap_err());
    look(&dial(&server.api, &second).await.unwrap()).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn users_are_added_listed_and_revoked() {
    let server = TestServer::start().await;
    server.user("ann", UserRole::Operator).await;
    server.user("vic", UserRole::Viewer).await;
    let names = |users: Vec<v1::User>| users.into_iter().map(|user| user.name).collect::<Vec<_>>();
    assert_eq!(names(server.list("").await), ["admin", "ann", "vic"]);
    assert_eq!(names(server.list("role = VIEWER AND creator = admin").await), ["vic"]);
    let made = make_key_and_csr().unwrap();
    let create = v1::CreateUserRequest {
        name: "ann".to_owned(),
        role: UserRole::Admin.into(),
        csr_der: made.csr_der,
        ..Default::default()
    };
    let status = server.users().await.create_user(create.clone()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "USER_ALREADY_EXISTS"));
    let request_id = "2b1c6a1e-58a5-4c0f-9d0e-6a6f3c1f7c11".to_owned();
    let new = v1::CreateUserRequest { name: "new".to_owned(), request_id, ..create };
    let validate = v1::CreateUserRequest { validate_only: true, ..new.clone() };
    let answer = server.users().await.create_user(validate).await.unwrap().into_inner();
    assert_eq!((answer.user.unwrap().name.as_str(), answer.certificate_chain_pem.as_str()), ("new", ""));

    let first = server.users().await.create_user(new.clone()).await.unwrap().into_inner();
    let again = server.users().await.create_user(new).await.unwrap().into_inner();
    assert_eq!(again.user, first.user, "the same request is done once");
    let certified = |pem: &str| {
        let leaf = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        PeerCertificate::from_der(&leaf).unwrap().validity
    };
    assert_eq!(certified(&again.certificate_chain_pem), certified(&first.certificate_chain_pem));
    server.revoke("new").await.unwrap();

    let ann = server.list("name = ann").await.remove(0);
    let outdated = v1::RevokeUserRequest { name: "ann".to_owned(), etag: "0".to_owned(), ..Default::default() };
    assert_eq!(reason(&server.users().await.revoke_user(outdated).await.unwrap_err()), "ETAG_MISMATCH");
    let validate = v1::RevokeUserRequest {
        name: "ann".to_owned(),
        etag: ann.etag.clone(),
        validate_only: true,
        ..Default::default()
    };
    server.users().await.revoke_user(validate).await.unwrap();
    assert_eq!(server.list("NOT revoke_time:*").await.len(), 3);
    let revoked = server.revoke("ann").await.unwrap();
    assert_ne!(revoked.etag, ann.etag);
    assert_eq!(server.revoke("ann").await.unwrap(), revoked, "once is enough");
    assert_eq!(names(server.list("revoke_time:*").await), ["ann", "new"]);
    assert_eq!(reason(&server.revoke("nobody").await.unwrap_err()), "USER_NOT_FOUND");
    server.stop().await;
}

#[tokio::test]
async fn a_revoked_user_loses_what_they_watch_and_every_later_call() {
    let server = TestServer::start().await;
    let job_id = server.waiting_job().await;
    let credentials = server.user("ann", UserRole::Operator).await;
    let channel = dial(&server.api, &credentials).await.unwrap();
    let mut jobs = JobServiceClient::new(channel.clone());
    let mut watch = jobs
        .watch_job(v1::WatchJobRequest { job_id: job_id.clone(), ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    watch.message().await.unwrap().unwrap();
    let wait = v1::WaitJobRequest { job_id, timeout: Some(prost_types::Duration { seconds: 300, nanos: 0 }) };
    let waiting = tokio::spawn(async move { jobs.wait_job(wait).await.map(drop) });
    // A later call of the same connection has been answered: the wait has begun.
    look(&channel).await.unwrap();

    let started = std::time::Instant::now();
    server.revoke("ann").await.unwrap();
    is_revoked(&end_of(watch).await);
    is_revoked(&waiting.await.unwrap().unwrap_err());
    // It is bounded by nothing but the server's speed; far below the 300 s that the wait would have taken.
    assert!(started.elapsed() < LONG, "{:?}", started.elapsed());
    is_revoked(&look(&channel).await.unwrap_err());
    is_revoked(&look(&dial(&server.api, &credentials).await.unwrap()).await.unwrap_err());
    is_revoked(&look(&dial(&server.agents, &credentials).await.unwrap()).await.unwrap_err());
    server.stop().await;
}

#[tokio::test]
async fn a_resumed_session_of_a_revoked_user_is_worth_nothing() {
    let server = TestServer::start().await;
    let made = make_key_and_csr().unwrap();
    let create = v1::CreateUserRequest {
        name: "ann".to_owned(),
        role: UserRole::Admin.into(),
        csr_der: made.csr_der,
        ..Default::default()
    };
    let answer = server.users().await.create_user(create).await.unwrap().into_inner();
    let resuming = Resuming::new(&answer.root_certificate_pem, &answer.certificate_chain_pem, &made.key_pem);
    let connect = async || resuming.connect(&server.api).await;

    let first = connect().await;
    assert_eq!(first.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    // The ticket comes with the answer to the first call.
    look(&clients::channel_over(first).await).await.unwrap();
    let second = connect().await;
    assert_eq!(second.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    look(&clients::channel_over(second).await).await.unwrap();
    server.revoke("ann").await.unwrap();
    let third = connect().await;
    assert_eq!(third.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    is_revoked(&look(&clients::channel_over(third).await).await.unwrap_err());
    server.stop().await;
}

#[tokio::test]
async fn the_name_of_a_revoked_user_can_be_given_again_but_not_the_certificate() {
    let server = TestServer::start().await;
    let before = server.user("ann", UserRole::Viewer).await;
    server.revoke("ann").await.unwrap();
    // All within a second or so: the decision does not depend on time having passed.
    let after = server.user("ann", UserRole::Viewer).await;
    is_revoked(&look(&dial(&server.api, &before).await.unwrap()).await.unwrap_err());
    look(&dial(&server.api, &after).await.unwrap()).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_user_renews_their_own_certificate() {
    let server = TestServer::start().await;
    let made = make_key_and_csr().unwrap();
    let create = v1::CreateUserRequest {
        name: "vic".to_owned(),
        role: UserRole::Viewer.into(),
        ttl: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
        csr_der: made.csr_der,
        ..Default::default()
    };
    let answer = server.users().await.create_user(create).await.unwrap().into_inner();
    let pair = |chain: &str, key: &str| {
        Credentials::from_pem(answer.root_certificate_pem.as_bytes(), chain.as_bytes(), key.as_bytes()).unwrap()
    };
    let first = pair(&answer.certificate_chain_pem, &made.key_pem);
    let read = |credentials: &Credentials| PeerCertificate::from_der(credentials.leaf()).unwrap();
    let life = |credentials: &Credentials| {
        let validity = read(credentials).validity;
        validity.not_after.duration_since(validity.issued()).as_secs()
    };
    assert_eq!(life(&first), 3600);

    let made = make_key_and_csr().unwrap();
    let request = v1::RenewUserCertificateRequest { csr_der: made.csr_der };
    let mut users = UserServiceClient::new(dial(&server.api, &first).await.unwrap());
    let renewed = users.renew_user_certificate(request.clone()).await.unwrap().into_inner();
    let second = pair(&renewed.certificate_chain_pem, &made.key_pem);
    assert_eq!((life(&second), read(&second).uri), (3600, read(&first).uri));
    for credentials in [&first, &second] {
        look(&dial(&server.api, credentials).await.unwrap()).await.unwrap();
    }
    server.revoke("vic").await.unwrap();
    for credentials in [&first, &second] {
        let mut users = UserServiceClient::new(dial(&server.api, credentials).await.unwrap());
        is_revoked(&users.renew_user_certificate(request.clone()).await.unwrap_err());
    }

    let node = server.enroll(&server.token("").await, "edge-1").await.unwrap();
    let mut users = UserServiceClient::new(dial(&server.api, &node).await.unwrap());
    assert_eq!(users.renew_user_certificate(request).await.unwrap_err().code(), Code::PermissionDenied);
    server.stop().await;
}

#[tokio::test]
async fn a_certificate_of_ours_that_names_no_user_is_refused() {
    let server = TestServer::start().await;
    let issued = server.authority.issue_user("ghost", Role::Admin, Timestamp::now()).unwrap();
    is_revoked(&look(&dial(&server.api, &server.credentials(&issued)).await.unwrap()).await.unwrap_err());
    // Nor does a user have another role than the one that was given.
    server.user("vic", UserRole::Viewer).await;
    let issued = server.authority.issue_user("vic", Role::Admin, Timestamp::now()).unwrap();
    is_revoked(&look(&dial(&server.api, &server.credentials(&issued)).await.unwrap()).await.unwrap_err());
    server.stop().await;
}
