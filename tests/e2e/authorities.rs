//! Servers below certificate authorities that others made, with Debian's `openssl`.

use std::path::Path;
use std::process::Command;

use longshore_tests::cluster::{Cluster, Node};
use longshore_tests::process::{output, succeed};
use longshore_tests::{spec, wait};

/// What makes a certificate that of an authority.
const AUTHORITY: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n";

/// An authority of others in a directory of its own: a root on RSA, and an intermediate authority on P-384.
struct Others<'a>(&'a Path);

impl Others<'_> {
    fn openssl(&self, line: &str) {
        succeed(Command::new("openssl").args(line.split(' ')).current_dir(self.0));
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap()
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// Signs a request by an authority, for so many days, with what this file says.
    fn sign(&self, request: &str, by: &str, days: u32, extensions: &str, to: &str) {
        self.openssl(&format!(
            "x509 -req -in {request} -CA {by}.crt -CAkey {by}.key -CAcreateserial -days {days} -sha384 {extensions} -out {to}"
        ));
    }

    fn make(&self) {
        std::fs::write(self.0.join("authority.ext"), AUTHORITY).unwrap();
        let config = format!("[req]\ndistinguished_name=name\nx509_extensions=root\n[name]\n[root]\n{AUTHORITY}");
        std::fs::write(self.0.join("req.cnf"), config).unwrap();
        self.openssl(
            "req -config req.cnf -x509 -newkey rsa:3072 -nodes -keyout root.key -out root.crt -days 30 \
             -subj /C=DE/O=Shop/CN=Shop-Root",
        );
        self.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out middle.key");
        self.openssl("req -config req.cnf -new -key middle.key -subj /C=DE/O=Shop/CN=Shop-Machines -out middle.csr");
        self.sign("middle.csr", "root", 20, "-extfile authority.ext", "middle.crt");
        std::fs::write(self.0.join("chain.pem"), self.read("middle.crt") + &self.read("root.crt")).unwrap();
    }

    /// OpenSSL's own word on what a server shows to somebody who trusts the root alone.
    fn accepts(&self, address: &str, admin: &Path) {
        let mut client = Command::new("openssl");
        client.args([
            "s_client",
            "-connect",
            address,
            "-alpn",
            "h2",
            "-verify_return_error",
            "-verify_hostname",
            "localhost",
        ]);
        client.args(["-CAfile", &self.path("root.crt"), "-cert"]).arg(admin.join("client.crt"));
        client.arg("-key").arg(admin.join("client.key"));
        let said = succeed(&mut client);
        assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    }
}

/// Enrols a node, deploys an app to it, looks at it from the command line, and checks who trusts whom.
async fn the_spine_works(cluster: &Cluster, others: &Others<'_>) -> Node {
    let root = others.read("root.crt");
    let node = cluster.node("edge-1").await;
    let of_agent = std::fs::read_to_string(node.directory().join("identity/root.crt")).unwrap();
    let of_admin = std::fs::read_to_string(cluster.admin().join("root.crt")).unwrap();
    assert_eq!((of_agent.trim(), of_admin.trim()), (root.trim(), root.trim()));
    others.accepts(cluster.api_address(), &cluster.admin());

    let client = cluster.client().await;
    let job = client.create(spec::app(&cluster.image(), &["sleep"]), &["edge-1"]).await;
    let app = client.rest(&job.job_id).await.app_name;
    let shown = succeed(&mut cluster.cli(&["app", "show", &app]));
    assert!(shown.contains("edge-1"), "{shown}");
    let ann = cluster.directory().join("ann");
    let out = ann.display().to_string();
    succeed(&mut cluster.cli(&["user", "create", "ann", "--role", "viewer", "--out", &out]));
    succeed(cluster.cli(&["node", "list"]).env("LONGSHORE_CREDENTIALS", &ann));
    let checked = output(&mut cluster.cli(&["doctor"]));
    assert_ne!(checked.status.code(), Some(2), "{checked:?}");
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_below_an_authority_of_others_serves_whoever_trusts_their_root() {
    let mut cluster = Cluster::uninitialised(None);
    let directory = tempfile::tempdir().unwrap();
    let others = Others(directory.path());
    others.make();
    let (chain, key) = (others.path("chain.pem"), others.path("middle.key"));

    let refused = |certificates: &str, key: &str, expected: &str| {
        let refused = output(&mut cluster.init(&["--ca-cert", certificates, "--ca-key", key]));
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && text.contains(expected), "{text}");
    };
    refused(&chain, &others.path("root.key"), "is not on the way from");
    refused(&others.path("middle.crt"), &key, "add the certificates up to the self-signed root");
    refused(&chain, &others.path("absent.key"), "absent.key cannot be used: it cannot be read");
    assert!(!cluster.server_dir().join("pki").exists());

    succeed(&mut cluster.init(&["--ca-cert", &chain, "--ca-key", &key]));
    let kept = std::fs::read_to_string(cluster.server_dir().join("pki/issuing.key")).unwrap();
    assert_ne!(kept, others.read("middle.key"), "the other authority's key stays where it was");
    cluster.start_server().await;
    the_spine_works(&cluster, &others).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_whose_key_is_elsewhere_answers_a_request() {
    let mut cluster = Cluster::uninitialised(None);
    let directory = tempfile::tempdir().unwrap();
    let others = Others(directory.path());
    others.make();
    let early = output(&mut cluster.init(&["--install", &others.path("chain.pem")]));
    assert!(String::from_utf8_lossy(&early.stderr).contains("init --csr"), "{early:?}");

    succeed(&mut cluster.init(&["--csr", "--san", "127.0.0.1"]));
    let request = cluster.server_dir().join("request/issuing.csr").display().to_string();
    others.sign(&request, "middle", 10, "-copy_extensions copyall", "issuing.crt");
    others.openssl("verify -CAfile root.crt -untrusted middle.crt issuing.crt");
    std::fs::write(directory.path().join("answer.pem"), others.read("issuing.crt") + &others.read("chain.pem"))
        .unwrap();
    succeed(&mut cluster.init(&["--install", &others.path("answer.pem")]));
    cluster.start_server().await;
    cluster.restart_server_with(&["--node-certificate-life", "15s"]).await;
    let _node = the_spine_works(&cluster, &others).await;
    wait::until("a renewal below the authority", || async { cluster.server_log().contains("certificate renewed") })
        .await;

    // The next certificate of the key, below another intermediate certificate of the same authority.
    let said = |arguments: &[&str]| {
        let output = output(&mut cluster.init(arguments));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let asked = said(&["--csr"]);
    assert!(asked.contains("made a request for the next certificate of the authority's key"), "{asked}");
    others.sign(&request, "middle", 15, "-copy_extensions copyall", "next.crt");
    std::fs::write(directory.path().join("next.pem"), others.read("next.crt") + &others.read("chain.pem")).unwrap();
    let installed = said(&["--install", &others.path("next.pem")]);
    assert!(installed.contains("has its next certificate") && !installed.contains("first admin"), "{installed}");
    cluster.restart_server_with(&[]).await;
    others.accepts(cluster.api_address(), &cluster.admin());
    wait::until("the node's next session", || async { cluster.client().await.is_connected("edge-1").await }).await;
}
