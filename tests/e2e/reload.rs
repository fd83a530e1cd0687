//! SIGHUP: the server looks anew at the files of its certificate, and connections live on.

use std::process::Command;

use longshore_tests::cluster::Cluster;
use longshore_tests::process::{output, succeed};
use longshore_tests::{http, wait};
use nix::sys::signal::{Signal, kill};

/// When the server says that its own certificate expires, since 1970.
async fn told(cluster: &Cluster) -> i64 {
    let text = http::get(cluster.metrics_address().parse().unwrap(), "/metrics").await.unwrap().body;
    let name = "longshore_certificate_expiry_timestamp_seconds{certificate=\"server\"} ";
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
}

/// What a new connection is shown, by OpenSSL: when it expires, since 1970.
fn shown(cluster: &Cluster) -> i64 {
    let admin = cluster.admin();
    let file = |name: &str| admin.join(name).display().to_string();
    let mut client = Command::new("openssl");
    client.args(["s_client", "-connect", cluster.api_address(), "-alpn", "h2", "-CAfile", &file("root.crt")]);
    let certificate = succeed(client.args(["-cert", &file("client.crt"), "-key", &file("client.key")]));
    let path = cluster.file("shown.txt", certificate);
    let end = succeed(Command::new("openssl").args(["x509", "-noout", "-enddate", "-in", &path]));
    let end = end.trim().strip_prefix("notAfter=").unwrap().to_owned();
    succeed(Command::new("date").args(["+%s", "-d", &end])).trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hang_up_shows_another_certificate_and_its_expiry_and_keeps_sessions() {
    let mut cluster = Cluster::start().await;
    cluster.restart_server_with(&["--metrics-listen", "127.0.0.1:0"]).await;
    let _node = cluster.node_with("edge-1", &[], None, &["--runtime", "fake"]).await;
    let before = told(&cluster).await;
    assert_eq!(shown(&cluster), before);

    // Another certificate for the key that the server has, by its own authority, for forty days.
    let pki = cluster.server_dir().join("pki");
    let domain = std::fs::read_to_string(pki.join("trust-domain")).unwrap();
    let names = format!("IP:127.0.0.1,DNS:localhost,URI:spiffe://{domain}/server");
    let extensions = cluster.file("server.ext", format!("subjectAltName={names}\nextendedKeyUsage=serverAuth\n"));
    let openssl = |line: &str| succeed(Command::new("openssl").args(line.split(' ')).current_dir(&pki));
    let (csr, made) = (cluster.file("server.csr", ""), cluster.file("made.crt", ""));
    openssl(&format!("req -new -key server.key -subj /CN=server -out {csr}"));
    openssl(&format!(
        "x509 -req -in {csr} -CA issuing.crt -CAkey issuing.key -set_serial 4711 -days 40 -extfile {extensions} -out {made}"
    ));
    let next = std::fs::read_to_string(&made).unwrap() + &std::fs::read_to_string(pki.join("issuing.crt")).unwrap();

    // What cannot be used changes nothing but the log.
    let hang_up = || kill(cluster.server_pid(), Signal::SIGHUP).unwrap();
    let looks = |cluster: &Cluster| cluster.server_log().matches("looking at the server's certificate").count();
    std::fs::write(pki.join("server.crt"), "no certificate").unwrap();
    hang_up();
    wait::until("the complaint", || async { cluster.server_log().contains("the old one stays") }).await;
    assert_eq!((told(&cluster).await, shown(&cluster)), (before, before));
    wait::until("a look", || async { looks(&cluster) >= 1 }).await;

    std::fs::write(pki.join("server.crt"), next).unwrap();
    hang_up();
    wait::until("the other certificate", || async { told(&cluster).await != before }).await;
    wait::until("a second look", || async { looks(&cluster) >= 2 }).await;
    let after = told(&cluster).await;
    assert!(after < before, "{after} {before}");
    assert_eq!(shown(&cluster), after);
    let client = cluster.client().await;
    assert!(client.is_connected("edge-1").await);
    assert_eq!(cluster.server_log().matches("session opened").count(), 1, "{}", cluster.server_log());
    let doctor = output(&mut cluster.cli(&["doctor"]));
    let text = String::from_utf8_lossy(&doctor.stdout);
    assert!(text.contains("valid for 39d") || text.contains("valid for 40d"), "{text}");
}
