//! The lives of certificates.

use jiff::Timestamp;
use longshore_tests::cluster::{Cluster, Node};
use longshore_tests::process::{Running, command, output, succeed};
use longshore_tests::{spec, wait};
use longshore_tls::{Credentials, PeerCertificate};

const FAKE: [&str; 2] = ["--runtime", "fake"];

fn certificate(node: &Node) -> PeerCertificate {
    let identity = node.directory().join("identity");
    let pair = identity.join("node.pem");
    PeerCertificate::from_der(Credentials::load(&identity.join("root.crt"), &pair, &pair).unwrap().leaf()).unwrap()
}

async fn wait_for_the_end_of(certificate: &PeerCertificate) {
    wait::until("the end of the certificate", || async { Timestamp::now() > certificate.validity.not_after }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_renews_its_certificate_without_losing_its_session() {
    let mut cluster = Cluster::start().await;
    cluster.restart_server_with(&["--node-certificate-life", "15s"]).await;
    let mut node = cluster.node_with("edge-1", &[], None, &FAKE).await;
    let first = certificate(&node);
    wait::until("a second renewal", || async { cluster.server_log().matches("certificate renewed").count() >= 2 })
        .await;
    wait_for_the_end_of(&first).await;

    let client = cluster.client().await;
    assert!(client.is_connected("edge-1").await);
    assert_eq!(cluster.server_log().matches("session opened").count(), 1, "{}", cluster.server_log());
    let now = certificate(&node);
    assert_eq!(now.uri, first.uri);
    assert_ne!(now.key_hash, first.key_hash, "every certificate has a key of its own");
    // The server knows of each renewal; that a later one is under way is no reason for less.
    let known = client.node("edge-1").await.certificate_expire_time.unwrap();
    assert!(known.seconds >= now.validity.not_after.as_second(), "{known:?}");

    // The first certificate has expired: whoever connects now does so with a renewed one.
    node.kill();
    node.start();
    wait::until("the next session", || async { cluster.server_log().matches("session opened").count() >= 2 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_certificate_lapsed_comes_back_with_its_apps() {
    let mut cluster = Cluster::start().await;
    cluster.restart_server_with(&["--node-certificate-life", "10s"]).await;
    let mut node = cluster.node_with("edge-1", &[("zone", "north")], None, &[]).await;
    let client = cluster.client().await;
    let job = client.create(spec::app(&cluster.image(), &["sleep"]), &["edge-1"]).await;
    let app = client.rest(&job.job_id).await.app_name;
    let shims = node.shims();
    assert_eq!(shims.len(), 1);
    assert!(node.stop());
    wait_for_the_end_of(&certificate(&node)).await;
    let shown = succeed(&mut cluster.cli(&["node", "show", "edge-1"]));
    assert!(shown.contains("expired 20"), "{shown}");
    let lapsed = ["node", "list", "-o", "json", "--filter", "certificate_expire_time < \"2100-01-01T00:00:00Z\""];
    assert!(succeed(&mut cluster.cli(&lapsed)).contains("certificateExpireTime"));
    let doctor = output(&mut cluster.cli(&["doctor"]));
    let text = String::from_utf8_lossy(&doctor.stdout);
    assert_eq!(doctor.status.code(), Some(1), "{text}");
    assert!(text.contains("1 of 1 expired: edge-1") && text.contains("enroll --renew"), "{text}");
    assert!(text.contains("server certificate"), "{text}");
    node.start();
    wait::until("the agent's advice", || async { node.log().contains("longshore-agent enroll --renew") }).await;
    assert!(node.stop());

    cluster.restart_server_with(&[]).await;
    let enroll = |token: &str| {
        let mut enroll = command("longshore-agent", None);
        enroll.args(["enroll", "--renew", "--token", token, "--data-dir"]).arg(node.directory());
        enroll
    };
    let other = output(&mut enroll(&cluster.token(&[]).await));
    let text = String::from_utf8_lossy(&other.stderr);
    assert!(!other.status.success() && text.contains("made for exactly that name"), "{text}");
    succeed(&mut enroll(&cluster.token_for("edge-1").await));
    node.start();
    let client = cluster.client().await;
    wait::until("the node's return", || async { client.is_connected("edge-1").await }).await;
    let apps = client.apps_of("edge-1").await;
    assert_eq!(apps.iter().map(|app| app.app_name.as_str()).collect::<Vec<_>>(), [app.as_str()]);
    assert_eq!(node.shims(), shims, "the container ran all the time");
    let shown = succeed(&mut cluster.cli(&["node", "show", "edge-1"]));
    assert!(shown.contains("zone=north"), "{shown}");
}

/// What `longshore node pending` shows of the only machine that waits: its row in words.
async fn waiting(cluster: &Cluster) -> Vec<String> {
    wait::for_value("a machine that waits", || async {
        let table = succeed(&mut cluster.cli(&["node", "pending"]));
        table.lines().nth(1).map(|row| row.split_whitespace().map(str::to_owned).collect())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_compares_fingerprints_and_lets_a_machine_in() {
    let mut cluster = Cluster::start().await;
    let token =
        succeed(&mut cluster.cli(&["node", "token", "create", "--uses", "2", "--approval", "--label", "zone=north"]));
    let token = token.trim();
    let enroll = |cluster: &Cluster, name: &str, log: &str| {
        let mut enroll = command("longshore-agent", None);
        enroll.args(["enroll", "--server", cluster.agents_address(), "--token", token, "--name", name, "--data-dir"]);
        Running::start(enroll.arg(cluster.directory().join(name)), &cluster.directory().join(log))
    };
    let first = enroll(&cluster, "edge-1", "first.log");
    let row = waiting(&cluster).await;
    let fingerprint = row.last().unwrap().clone();
    assert_eq!((row[0].as_str(), row[3].as_str()), ("edge-1", "zone=north"), "{row:?}");
    wait::until("the agent's fingerprint", || async { first.output().contains(&fingerprint) }).await;

    // Neither side's restart changes what waits, or spends the token again.
    first.kill();
    cluster.kill_server();
    cluster.start_server().await;
    let mut second = enroll(&cluster, "edge-1", "second.log");
    wait::until("the same fingerprint", || async { second.output().contains(&fingerprint) }).await;
    let tokens = succeed(&mut cluster.cli(&["node", "token", "list"]));
    assert!(tokens.contains("1 of 2"), "{tokens}");

    let wrong = output(&mut cluster.cli(&["node", "approve", "edge-1", "--fingerprint", "00"]));
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("another key"), "{wrong:?}");
    assert!(second.ended().is_none());
    let shown = succeed(&mut cluster.cli(&["node", "approve", "edge-1", "--fingerprint", &fingerprint]));
    assert!(shown.contains("zone=north"), "{shown}");
    wait::until("the certificate", || {
        let ended = second.ended();
        async move { ended.is_some_and(|status| status.success()) }
    })
    .await;

    let mut third = enroll(&cluster, "edge-2", "third.log");
    waiting(&cluster).await;
    succeed(&mut cluster.cli(&["node", "deny", "edge-2"]));
    wait::until("the refusal", || {
        let ended = third.ended();
        async move { ended.is_some_and(|status| !status.success()) }
    })
    .await;
    assert!(third.output().contains("denied"), "{}", third.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_users_logs_and_watches_end_and_nothing_works_again() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("edge-1").await;
    let client = cluster.client().await;
    let job = client.create(spec::app(&cluster.image(), &["serve", "--port", "0"]), &["edge-1"]).await;
    let app = client.rest(&job.job_id).await.app_name;
    let idle = cluster.enroll("idle", &[], None, &FAKE).await;
    let unplaced = client.create(spec::app("/no/such/archive", &["sleep"]), &[idle.name()]).await;

    let credentials = cluster.directory().join("ann");
    let out = credentials.display().to_string();
    let made = succeed(&mut cluster.cli(&["user", "create", "ann", "--role", "operator", "--out", &out]));
    assert!(made.contains("ann"), "{made}");
    let as_ann = |arguments: &[&str]| {
        let mut cli = cluster.cli(arguments);
        cli.env("LONGSHORE_CREDENTIALS", &credentials);
        cli
    };
    succeed(&mut as_ann(&["job", "list"]));
    assert!(!output(&mut as_ann(&["user", "list"])).status.success(), "an operator is no admin");
    succeed(&mut as_ann(&["user", "renew"]));
    let file = |name: &str| cluster.directory().join(name);
    let mut logs = Running::start(&mut as_ann(&["app", "logs", &app, "--node", "edge-1", "-f"]), &file("logs"));
    let mut watch = Running::start(&mut as_ann(&["job", "watch", &unplaced.job_id]), &file("watch"));
    wait::until("logs and progress", || async { !logs.output().is_empty() && !watch.output().is_empty() }).await;
    assert!(logs.ended().is_none() && watch.ended().is_none());

    succeed(&mut cluster.cli(&["user", "revoke", "ann"]));
    for running in [&mut logs, &mut watch] {
        wait::until("the end", || {
            let ended = running.ended();
            async move { ended.is_some() }
        })
        .await;
        assert!(running.output().contains("revoked"), "{}", running.output());
    }
    let refused = output(&mut as_ann(&["job", "list"]));
    assert_eq!(refused.status.code(), Some(7), "{refused:?}");
    let listed = succeed(&mut cluster.cli(&["user", "list"]));
    assert!(listed.contains("revoked") && listed.contains("init"), "{listed}");
}
