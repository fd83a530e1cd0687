//! Who gets in, and how far.

use longshore_proto::v1;
use longshore_proto::v1::agent_service_client::AgentServiceClient;
use longshore_proto::v1::job_service_client::JobServiceClient;
use longshore_tests::cluster::Cluster;
use longshore_tests::process::{command, output};
use longshore_tls::{Credentials, KeepAlive};

fn node_credentials(node: &longshore_tests::cluster::Node) -> Credentials {
    let identity = node.directory().join("identity");
    Credentials::load(&identity.join("root.crt"), &identity.join("node.pem"), &identity.join("node.pem")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_authoritys_certificate_is_refused() {
    let cluster = Cluster::start().await;
    let other = Cluster::start().await;
    // Trusts the right server, but brings the other authority's certificate.
    let credentials = Credentials::load(
        &cluster.admin().join("root.crt"),
        &other.admin().join("client.crt"),
        &other.admin().join("client.key"),
    )
    .unwrap();
    let refused = match longshore_tls::connect(cluster.api_address(), &credentials, KeepAlive::default()).await {
        Err(_) => true,
        Ok(channel) => JobServiceClient::new(channel).list_jobs(v1::ListJobsRequest::default()).await.is_err(),
    };
    assert!(refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_can_do_nothing_but_its_own_session() {
    let cluster = Cluster::start().await;
    let node = cluster.enroll("node", &[], None, &[]).await;
    let credentials = node_credentials(&node);
    let refused = match longshore_tls::connect(cluster.api_address(), &credentials, KeepAlive::default()).await {
        Err(_) => true,
        Ok(channel) => {
            let answer = JobServiceClient::new(channel).list_jobs(v1::ListJobsRequest::default()).await;
            answer.is_err()
        }
    };
    assert!(refused, "a node called the people's API");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_cannot_pose_as_a_node() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let credentials =
        Credentials::load(&admin.join("root.crt"), &admin.join("client.crt"), &admin.join("client.key")).unwrap();
    let refused = match longshore_tls::connect(cluster.agents_address(), &credentials, KeepAlive::default()).await {
        Err(_) => true,
        Ok(channel) => {
            let messages = longshore_tests::client::once(v1::OpenSessionRequest { message: None });
            AgentServiceClient::new(channel).open_session(messages).await.is_err()
        }
    };
    assert!(refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_enrols_one_machine_only() {
    let cluster = Cluster::start().await;
    let token = cluster.token(&[]).await;
    let enroll = |name: &str, token: &str| {
        let mut enroll = command("longshore-agent", None);
        enroll.arg("enroll").arg("--data-dir").arg(cluster.directory().join(name));
        enroll.args(["--server", cluster.agents_address(), "--token", token, "--name", name]);
        output(&mut enroll)
    };
    assert!(enroll("one", &token).status.success());
    let second = enroll("two", &token);
    assert!(!second.status.success());
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(text.contains("token"), "{text}");
    let secret = token.split('.').nth(2).unwrap();
    assert!(!text.contains(secret), "the token's secret is in the error");
    assert!(!cluster.server_log().contains(secret), "the token's secret is in the server's log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_hold_the_pinned_root_learns_no_token() {
    let cluster = Cluster::start().await;
    let other = Cluster::start().await;
    let token = cluster.token(&[]).await;
    let mut enroll = command("longshore-agent", None);
    enroll.arg("enroll").arg("--data-dir").arg(cluster.directory().join("victim"));
    enroll.args(["--server", other.agents_address(), "--token", &token, "--name", "victim"]);
    assert!(!output(&mut enroll).status.success());
    // The token was never sent, so it is still good.
    let mut enroll = command("longshore-agent", None);
    enroll.arg("enroll").arg("--data-dir").arg(cluster.directory().join("victim2"));
    enroll.args(["--server", cluster.agents_address(), "--token", &token, "--name", "victim"]);
    assert!(output(&mut enroll).status.success());
}
