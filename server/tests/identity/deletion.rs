//! Deletion of a node: its session, its uploads of logs, and what it still holds.

use rustls::HandshakeKind;
use v1::app_service_client::AppServiceClient;
use v1::open_session_response::Message;

use super::clients::Resuming;
use super::*;

#[tokio::test]
async fn a_deleted_node_loses_its_session_its_uploads_and_every_way_back() {
    let server = TestServer::start().await;
    let token = server.token("").await;
    let made = make_key_and_csr().unwrap();
    let (token_text, csr_der) = (token.to_string(), made.csr_der);
    let request = v1::EnrollRequest { token: token_text, node_name: "edge-1".to_owned(), csr_der };
    let stranger = connect_pinned(&server.agents, token.pin()).await.unwrap();
    let answer = EnrollmentServiceClient::new(stranger).enroll(request).await.unwrap().into_inner();
    let node = Resuming::new(&answer.root_certificate_pem, &answer.certificate_chain_pem, &made.key_pem);

    let first = node.connect(&server.agents).await;
    assert_eq!(first.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    let channel = clients::channel_over(first).await;
    let mut session = open_session(channel.clone()).await.unwrap();
    assert!(matches!(session.next().await, Some(Message::Welcome(_))));
    assert!(matches!(session.next().await, Some(Message::Full(_))));

    // The node gets an app, somebody reads its logs, and the node sends them.
    let admin = server.people(Role::Admin).await;
    let image = v1::Image { source: Some(v1::image::Source::Archive("/image.tar".to_owned())), ..Default::default() };
    let create = v1::CreateJobRequest {
        spec: Some(v1::AppSpec { name: "till".to_owned(), image: Some(image), ..Default::default() }),
        targets: Some(v1::Targets { node_names: vec!["edge-1".to_owned()], ..Default::default() }),
        ..Default::default()
    };
    JobServiceClient::new(admin.clone()).create_job(create).await.unwrap();
    let Some(Message::Update(update)) = session.next().await else { panic!("no assignment") };
    let app_name = update.set[0].app_name.clone();
    let read = v1::ReadLogsRequest { node_name: "edge-1".to_owned(), app_name, follow: true, ..Default::default() };
    let mut apps = AppServiceClient::new(admin.clone());
    let reading = tokio::spawn(async move {
        let mut logs = apps.read_logs(read).await?.into_inner();
        while logs.message().await?.is_some() {}
        Ok::<_, Status>(())
    });
    let Some(Message::Logs(asked)) = session.next().await else { panic!("no request for logs") };
    let (lines, outbound) = mpsc::channel(1);
    lines.send(v1::UploadLogsRequest { request_id: asked.request_id, ..Default::default() }).await.unwrap();
    let mut agent = AgentServiceClient::new(channel.clone());
    let upload = tokio::spawn(async move { agent.upload_logs(ReceiverStream::new(outbound)).await.map(drop) });
    let line = v1::UploadLogsRequest { lines: vec![v1::LogLine::default()], ..Default::default() };
    lines.send(line).await.unwrap();

    let second = node.connect(&server.agents).await;
    assert_eq!(second.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    let second = clients::channel_over(second).await;
    let delete = v1::DeleteNodeRequest { name: "edge-1".to_owned(), ..Default::default() };
    let started = std::time::Instant::now();
    NodeServiceClient::new(admin).delete_node(delete).await.unwrap();
    let end = session.responses.message().await.unwrap_err();
    assert_eq!((end.code(), reason(&end).as_str()), (Code::Unauthenticated, "NODE_DELETED"));
    upload.await.unwrap().unwrap_err();
    reading.await.unwrap().unwrap_err();
    // All of it follows from the commit: nothing waits for a timer. The limit only tells that apart from hanging.
    assert!(started.elapsed() < LONG, "{:?}", started.elapsed());

    // The connection that it had, the session that it had resumed, and one that it resumes now.
    let third = node.connect(&server.agents).await;
    assert_eq!(third.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    for channel in [channel, second, clients::channel_over(third).await] {
        let status = open_session(channel.clone()).await.err().unwrap();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "NODE_DELETED"));
        let late = v1::UploadLogsRequest { request_id: "nobody".to_owned(), ..Default::default() };
        let status = AgentServiceClient::new(channel.clone()).upload_logs(tokio_stream::once(late)).await.unwrap_err();
        assert_eq!(reason(&status), "NODE_DELETED");
        assert_eq!(reason(&renew(channel).await.unwrap_err()), "NODE_DELETED");
    }
    server.stop().await;
}
