//! Plans for which real agents look for themselves: what they find, and that nothing is left of their looking.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use longshore_demo_image::DemoImage;
use longshore_tests::cluster::Cluster;
use longshore_tests::process::{output, succeed};
use longshore_tests::registry::{PASSWORD, Registry, USERNAME};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The file of a deployment with these further lines of its spec.
fn file(cluster: &Cluster, image: &str, more: &str, nodes: &str) -> String {
    let text = format!(
        "spec:\n  name: till\n  image: {{ reference: {image} }}\n  args: [serve]\n{more}targets: {{ nodes: [{nodes}] }}\n"
    );
    cluster.file("live.yaml", text)
}

/// Exit code and document of `longshore plan --live`.
fn plan(cluster: &Cluster, image: &str, more: &str, nodes: &str) -> (i32, Value) {
    let file = file(cluster, image, more, nodes);
    let ended = output(&mut cluster.cli(&["plan", "--live", "-f", &file, "-o", "json"]));
    let text = String::from_utf8_lossy(&ended.stdout);
    let document = serde_json::from_str(&text);
    let errors = String::from_utf8_lossy(&ended.stderr);
    (ended.status.code().unwrap(), document.unwrap_or_else(|error| panic!("{error}: {text}{errors}")))
}

fn reasons(node: &Value) -> Vec<&str> {
    let all = node["obstacles"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().map(|found| found["reason"].as_str().unwrap()).collect()
}

/// Every file below a directory, with its length and when it was last written.
fn files(directory: &Path) -> BTreeMap<PathBuf, (u64, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).unwrap().map(Result::unwrap) {
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                left.push(entry.path());
            }
            found.insert(entry.path(), (metadata.len(), metadata.modified().unwrap()));
        }
    }
    found
}

fn packed(image: &DemoImage) -> Vec<u64> {
    image.parts().layers.iter().map(|layer| layer.content.len() as u64).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_look_for_themselves_and_nothing_is_left_of_it() {
    let registry = Registry::start(true);
    let base = DemoImage::new().layer(&[("etc/motd", &[1; 3000])]);
    let next = base.clone().layer(&[("etc/issue", &[2; 5000])]);
    registry.push("shop/till:1", &base).await;
    registry.push("shop/till:2", &next).await;
    registry.push("shop/till:sparc", &DemoImage::new().architecture("sparc")).await;
    let cluster = Cluster::start().await;
    let authority = cluster.file("registry.crt", registry.authority());
    let node = cluster.node_with("one", &[], None, &["--registry-ca", &authority]).await;
    let password = cluster.file("password", PASSWORD);
    let words = ["registry", "create", "shop", "--registry", registry.address(), "--username", USERNAME];
    succeed(&mut cluster.cli(&[words.as_slice(), &["--password-file", &password]].concat()));
    let [first, second] = ["shop/till:1", "shop/till:2"].map(|name| registry.reference(name));

    node.has_its_set().await;
    let before = files(node.directory());
    let (code, found) = plan(&cluster, &first, "", "one");
    let bytes: u64 = packed(&base).iter().sum();
    assert_eq!((code, &found["nodes"][0]["check"]), (0, &Value::from("DONE")), "{found}");
    assert_eq!(found["nodes"][0]["fetchBytes"], bytes, "{found}");
    assert_eq!(found["summary"]["fetchBytes"], bytes, "{found}");

    let foreign = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = foreign.local_addr().unwrap().port();
    let link = cluster.directory().join("link");
    symlink("/etc", &link).unwrap();
    let (made, link) = (cluster.directory().join("made"), link.join("ssl"));
    let more = format!(
        "  network: {{ ports: [{{ containerPort: 8080, hostPort: {port} }}] }}\n  volumes:\n\
         \x20 - {{ mountPath: /a, hostPath: {{ path: {}, create: true }} }}\n\
         \x20 - {{ mountPath: /b, hostPath: {{ path: {} }} }}\n",
        made.display(),
        link.display(),
    );
    let (code, found) = plan(&cluster, &registry.reference("shop/till:3"), &more, "one");
    let expected = ["HOST_PATH_UNAVAILABLE", "PORT_IN_USE", "IMAGE_NOT_FOUND"];
    assert_eq!((code, reasons(&found["nodes"][0])), (4, expected.to_vec()), "{found}");
    assert!(
        found.to_string().contains("outside Longshore") && found.to_string().contains("leads to /etc/ssl"),
        "{found}"
    );
    assert!(found["nodes"][0].get("fetchBytes").is_none_or(Value::is_null), "{found}");
    drop(foreign);
    TcpListener::bind(("0.0.0.0", port)).expect("no look keeps a port");
    assert!(!made.exists(), "no look makes a directory");
    let (code, found) = plan(&cluster, &registry.reference("shop/till:sparc"), "", "one");
    assert_eq!((code, reasons(&found["nodes"][0])), (4, vec!["ARCHITECTURE_MISMATCH"]), "{found}");
    assert_eq!(files(node.directory()), before, "no look leaves or touches a file");
    let logs = node.log() + &cluster.server_log();
    assert!(!logs.contains(PASSWORD), "a password is in a log");
    assert!(logs.contains("registry credential handed to a node for a plan"));

    succeed(&mut cluster.cli(&["apply", "-f", &file(&cluster, &first, "", "one")]));
    let ended = succeed(&mut cluster.cli(&["plan", "--live", "-f", &file(&cluster, &second, "", "one")]));
    assert!(ended.contains("Looked on 1 node: would fetch"), "{ended}");
    let (_, found) = plan(&cluster, &second, "", "one");
    assert_eq!(found["nodes"][0]["fetchBytes"], packed(&next)[2], "what it lacks: {found}");
    let (_, found) = plan(&cluster, &first, "", "one");
    assert_eq!(found["nodes"][0]["fetchBytes"], 0, "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_answer_is_told_as_such_and_holds_up_no_other() {
    let registry = Registry::start(false);
    registry.push("shop/till:1", &DemoImage::new()).await;
    let cluster = Cluster::start().await;
    let authority = cluster.file("registry.crt", registry.authority());
    let arguments = ["--registry-ca", authority.as_str()];
    let one = cluster.node_with("one", &[], None, &arguments).await;
    let two = cluster.node_with("two", &[], None, &arguments).await;
    let _away = cluster.enroll("three", &[], None, &[]).await;
    two.has_its_set().await;
    one.signal(Signal::SIGSTOP);
    let (code, found) = plan(&cluster, &registry.reference("shop/till:1"), "", "one, two, three");
    one.signal(Signal::SIGCONT);
    assert_eq!(code, 3, "{found}");
    let nodes = found["nodes"].as_array().unwrap();
    let told: Vec<_> = nodes.iter().map(|node| (node["check"].as_str().unwrap(), reasons(node))).collect();
    let late = vec!["DEADLINE_EXCEEDED"];
    let expected = [("NO_ANSWER", late.clone()), ("NOT_CONNECTED", late), ("DONE", vec![])];
    assert_eq!(told, expected, "by name: {found}");
    let summary = &found["summary"];
    assert_eq!((summary["checkedNodes"].as_u64(), summary["uncheckedNodes"].as_u64()), (Some(1), Some(2)), "{found}");
}
