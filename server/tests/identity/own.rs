//! The server's own certificate: renewed, or read anew, while connections live on.

use v1::open_session_response::Message;

use super::clients::stranger;
use super::*;

impl TestServer {
    /// What a new connection is shown.
    pub(crate) async fn shown(&self, address: &str) -> Vec<u8> {
        let tls = stranger_or_not(address).await;
        tls.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    /// Waits until new connections to both ports are shown something other than this.
    pub(crate) async fn other_than(&self, old: &[u8]) -> Vec<u8> {
        tokio::time::timeout(LONG, async {
            loop {
                let (api, agents) = (self.shown(&self.api).await, self.shown(&self.agents).await);
                if api == agents && api != old {
                    return api;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap()
    }

    pub(crate) fn file(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("pki").join(name)
    }
}

/// A connection whose server's certificate can be looked at; that it has none of its own is found out later.
async fn stranger_or_not(address: &str) -> TlsStream<TcpStream> {
    stranger(address, &[kx_group::X25519]).await
}

fn names(der: &[u8]) -> Vec<String> {
    longshore_server::identity::own::ServerCertificate::from_der(der).unwrap().names
}

#[tokio::test]
async fn a_certificate_that_is_due_is_renewed_by_the_server_itself() {
    let dir = tempfile::tempdir().unwrap();
    // All is 300 days old, and the server's certificate good for 365; or 400, and the server was off when it ended.
    for days in [300, 400] {
        let made = Timestamp::now() - SignedDuration::from_hours(24 * days);
        let part = tempfile::tempdir_in(dir.path()).unwrap();
        let new = NewPki { names: vec!["longshore.example".to_owned()], ..NewPki::default() };
        pki::init(part.path(), &new, made).unwrap();
        let key = std::fs::read(part.path().join("pki/server.key")).unwrap();
        let before = pki::load(part.path(), Timestamp::now()).unwrap().credentials.leaf().to_vec();
        let server = TestServer::start_in(part).await;
        let shown = server.shown(&server.agents).await;
        assert_ne!(shown, before, "{days}");
        assert_eq!(names(&shown), names(&before));
        assert!(names(&shown).contains(&"longshore.example".to_owned()));
        let validity = PeerCertificate::from_der(&shown).unwrap().validity;
        assert!(validity.not_after > Timestamp::now() + SignedDuration::from_hours(24 * 364));
        assert_eq!(std::fs::read(server.file("server.key")).unwrap(), key, "certificate and key change never apart");
        // Machines that enrol find the root in the chain, and agents accept the whole.
        server.authority.issue_user("x", Role::Viewer, Timestamp::now()).unwrap();
        let pin = Pin::of_pem(server.authority.root_pem()).unwrap();
        connect_pinned(&server.agents, pin).await.unwrap();
        server.stop().await;
    }
}

#[tokio::test]
async fn a_certificate_that_was_changed_is_shown_to_new_connections_and_old_ones_live_on() {
    let server = TestServer::start().await;
    let credentials = server.enroll(&server.token("").await, "edge-1").await.unwrap();
    let mut session = server.open_session(&credentials).await.unwrap();
    assert!(matches!(session.next().await, Some(Message::Welcome(_))));
    assert!(matches!(session.next().await, Some(Message::Full(_))));
    let people = server.people(Role::Admin).await;
    let old = server.shown(&server.api).await;

    // Half of a pair, as between two renames: nothing changes.
    let issued = server.authority.issue_server(&["localhost".to_owned()], Timestamp::now()).unwrap();
    std::fs::write(server.file("server.key"), &issued.key).unwrap();
    server.reload.notify_one();
    let wrong = server.authority.issue_user("eve", Role::Admin, Timestamp::now()).unwrap();
    for bad in ["no certificate", &issued.certificate.replace("\nM", "\nN"), &wrong.certificate] {
        std::fs::write(server.file("server.crt"), bad).unwrap();
        server.reload.notify_one();
        connect_pinned(&server.agents, Pin::of_pem(server.authority.root_pem()).unwrap()).await.unwrap();
        assert_eq!(server.shown(&server.agents).await, old);
    }
    // The whole pair, without the root in its chain.
    std::fs::write(server.file("server.crt"), server.authority.chain(&issued.certificate)).unwrap();
    server.reload.notify_one();
    let new = server.other_than(&old).await;
    assert_eq!(names(&new), ["localhost"]);

    // The old connections: a call on the one, and an answer that the server pushes on the other.
    let mut nodes = NodeServiceClient::new(people);
    nodes.delete_node(v1::DeleteNodeRequest { name: "edge-1".to_owned(), ..Default::default() }).await.unwrap();
    let end = session.responses.message().await.unwrap_err();
    assert_eq!(reason(&end), "NODE_DELETED", "and not that the connection was lost");
    // New ones work, enrolment by the root's hash included.
    let credentials = server.enroll(&server.token("").await, "edge-2").await.unwrap();
    server.open_session(&credentials).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_changed_certificate_is_found_without_being_told() {
    let server = TestServer::start().await;
    let old = server.shown(&server.api).await;
    let key = std::fs::read_to_string(server.file("server.key")).unwrap();
    let next = server.authority.renew_server(&["localhost".to_owned()], &key, Timestamp::now()).unwrap();
    std::fs::write(server.file("server.crt"), server.authority.chain(&next)).unwrap();
    assert_eq!(names(&server.other_than(&old).await), ["localhost"]);
    server.stop().await;
}
