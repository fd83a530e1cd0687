//! Machines that wait for a person's approval, and machines that are turned away.

use longshore_tls::KeyAndRequest;

use super::*;

impl TestServer {
    async fn nodes(&self) -> NodeServiceClient<Channel> {
        NodeServiceClient::new(self.people(Role::Admin).await)
    }

    async fn guarded_token(&self, uses: u32) -> EnrollmentToken {
        let request = v1::CreateEnrollmentTokenRequest { uses, requires_approval: true, ..Default::default() };
        self.nodes().await.create_enrollment_token(request).await.unwrap().into_inner().token.parse().unwrap()
    }

    async fn ask(&self, token: &EnrollmentToken, name: &str, key: &KeyAndRequest) -> Result<Credentials, Status> {
        let csr_der = key.csr_der.clone();
        let request = v1::EnrollRequest { token: token.to_string(), node_name: name.to_owned(), csr_der };
        let channel = connect_pinned(&self.agents, token.pin()).await.unwrap();
        let answer = EnrollmentServiceClient::new(channel).enroll(request).await?.into_inner();
        let (root, chain) = (answer.root_certificate_pem, answer.certificate_chain_pem);
        Ok(Credentials::from_pem(root.as_bytes(), chain.as_bytes(), key.key_pem.as_bytes()).unwrap())
    }
}

#[tokio::test]
async fn a_machine_waits_until_a_person_approves() {
    let server = TestServer::start().await;
    let token = server.guarded_token(1).await;
    let key = make_key_and_csr().unwrap();
    for _ in 0..2 {
        let status = server.ask(&token, "edge-1", &key).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "APPROVAL_PENDING"));
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.metadata["key_fingerprint"], key.fingerprint.to_string());
        assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    }
    let mut nodes = server.nodes().await;
    let waiting = nodes.list_pending_nodes(v1::ListPendingNodesRequest::default()).await.unwrap().into_inner();
    let [machine] = waiting.pending_nodes.as_slice() else { panic!("{waiting:?}") };
    assert_eq!(machine.key_fingerprint, key.fingerprint.to_string(), "as the machine itself shows it");
    assert_eq!(machine.address, "127.0.0.1");

    let approve =
        v1::ApproveNodeRequest { name: "edge-1".to_owned(), etag: machine.etag.clone(), ..Default::default() };
    nodes.approve_node(approve).await.unwrap();
    let thief = make_key_and_csr().unwrap();
    let status = server.ask(&token, "edge-1", &thief).await.unwrap_err();
    assert_eq!(reason(&status), "TOKEN_INVALID", "the approval is for one key");
    let lost = server.ask(&token, "edge-1", &key).await.unwrap();
    let credentials = server.ask(&token, "edge-1", &key).await.unwrap();
    for credentials in [&lost, &credentials] {
        server.open_session(credentials).await.unwrap();
    }

    nodes.delete_node(v1::DeleteNodeRequest { name: "edge-1".to_owned(), ..Default::default() }).await.unwrap();
    let status = server.ask(&token, "edge-1", &key).await.unwrap_err();
    assert_eq!(reason(&status), "TOKEN_INVALID", "the approval ends with the node");
    server.stop().await;
}

#[tokio::test]
async fn a_machine_that_was_denied_is_told_so() {
    let server = TestServer::start().await;
    let token = server.guarded_token(2).await;
    let [denied, other] = [(); 2].map(|()| make_key_and_csr().unwrap());
    assert_eq!(reason(&server.ask(&token, "edge-1", &denied).await.unwrap_err()), "APPROVAL_PENDING");
    let status = server.ask(&token, "edge-1", &other).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "PENDING_NODE_ALREADY_EXISTS"));
    let deny = v1::DenyNodeRequest { name: "edge-1".to_owned(), ..Default::default() };
    server.nodes().await.deny_node(deny).await.unwrap();
    let status = server.ask(&token, "edge-1", &denied).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "ENROLMENT_DENIED"));
    assert_eq!(reason(&server.ask(&token, "edge-1", &other).await.unwrap_err()), "APPROVAL_PENDING");
    server.stop().await;
}

#[tokio::test]
async fn only_hashes_of_tokens_are_kept() {
    let server = TestServer::start().await;
    let token = server.guarded_token(2).await;
    let key = make_key_and_csr().unwrap();
    server.ask(&token, "edge-1", &key).await.unwrap_err();
    let dir = server.stop().await;
    let text = token.to_string();
    let secret = text.split('.').nth(2).unwrap();
    let mut seen = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let Some(bytes) = std::fs::read(&path).ok() else { continue };
        let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        seen += usize::from(has(token.id().as_bytes()));
        assert!(!has(secret.as_bytes()), "the secret is in {}", path.display());
    }
    assert!(seen > 0, "the token is nowhere to be seen");
}

#[tokio::test]
async fn guessing_tokens_is_slowed_down() {
    let server = TestServer::start().await;
    let good = server.token("").await;
    let guess = EnrollmentToken::from_random(&[7; EnrollmentToken::RANDOM_BYTES], good.pin());
    for _ in 0..10 {
        assert_eq!(reason(&server.enroll(&guess, "edge-1").await.unwrap_err()), "TOKEN_INVALID");
    }
    for token in [&guess, &good] {
        let status = server.enroll(token, "edge-1").await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "TOO_MANY_ATTEMPTS"));
        let wait = status.get_details_retry_info().unwrap().retry_delay.unwrap();
        assert!(wait <= Duration::from_secs(61), "{wait:?}");
    }
    server.stop().await;
}

/// Everything below 127 is this machine: each address of it is a caller of its own.
#[tokio::test]
async fn guessing_from_many_addresses_is_slowed_down_as_well() {
    const PER_ADDRESS: u32 = 10;
    let server = TestServer::start().await;
    let good = server.token("").await;
    let guess = EnrollmentToken::from_random(&[7; EnrollmentToken::RANDOM_BYTES], good.pin());
    let made = make_key_and_csr().unwrap();
    let ask = async |from: u32, token: &EnrollmentToken, times: u32| {
        let channel = clients::channel_from(&server.agents, from).await;
        let mut client = EnrollmentServiceClient::new(channel);
        let mut last = String::new();
        for _ in 0..times {
            let (token, csr_der) = (token.to_string(), made.csr_der.clone());
            let request = v1::EnrollRequest { token, node_name: "edge-1".to_owned(), csr_der };
            last = client.enroll(request).await.map_or_else(|status| reason(&status), |_| "enrolled".to_owned());
        }
        last
    };
    for from in 0..MAX_FAILURES_OVERALL / PER_ADDRESS {
        assert_eq!(ask(from, &guess, PER_ADDRESS).await, "TOKEN_INVALID", "{from}");
    }
    assert_eq!(ask(200, &good, 1).await, "TOO_MANY_ATTEMPTS", "of an address that never guessed");
    server.stop().await;
}
