//! Admins who are made on the server's own machine.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use longshore_tests::cluster::Cluster;
use longshore_tests::process::{command, output, succeed};

/// The user that a server would run as.
const NOBODY: u32 = 65534;

/// All files below a directory, and itself.
fn tree(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let below = entries.flat_map(|path| if path.is_dir() { tree(&path) } else { vec![path] });
    std::iter::once(directory.to_owned()).chain(below).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn root_makes_an_admin_when_all_are_lost() {
    let mut cluster = Cluster::start().await;
    let _node = cluster.node_with("edge-1", &[], None, &["--runtime", "fake"]).await;
    let eva = cluster.directory().join("eva");
    let admin = |cluster: &Cluster, arguments: &[&str]| {
        let mut admin = command("longshore-server", None);
        admin.arg("admin").args(arguments).arg("--data-dir").arg(cluster.server_dir());
        admin
    };
    let create = ["create", "eva", "--ttl", "90d", "--out", eva.to_str().unwrap()];
    let refused = output(&mut admin(&cluster, &create));
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("stop it first"), "{text}");

    assert!(cluster.stop_server());
    // Before its first start, a server that runs as somebody else has neither database nor lock.
    let lock = cluster.server_dir().join("longshore.db.lock");
    std::fs::remove_file(&lock).unwrap();
    tree(&cluster.server_dir()).iter().for_each(|path| chown(path, Some(NOBODY), Some(NOBODY)).unwrap());
    let made = output(&mut admin(&cluster, &create));
    assert!(made.status.success(), "{made:?}");
    assert!(!String::from_utf8_lossy(&made.stderr).contains("PRIVATE"));
    assert!(lock.exists());
    for path in tree(&cluster.server_dir()) {
        assert_eq!(path.metadata().unwrap().uid(), NOBODY, "{}", path.display());
    }
    assert_eq!(eva.join("client.key").metadata().unwrap().mode() & 0o777, 0o600);
    let listed = succeed(&mut admin(&cluster, &["list"]));
    let row = listed.lines().find(|line| line.starts_with("eva")).unwrap();
    assert!(row.contains("admin") && row.contains("(server)"), "{listed}");
    succeed(&mut admin(&cluster, &["revoke", "admin"]));
    let last = output(&mut admin(&cluster, &["revoke", "eva"]));
    assert!(String::from_utf8_lossy(&last.stderr).contains("eva is the last admin"), "{last:?}");

    cluster.start_server().await;
    let as_eva = |arguments: &[&str]| {
        let mut cli = cluster.cli(arguments);
        cli.env("LONGSHORE_CREDENTIALS", &eva);
        cli
    };
    let lost = output(&mut cluster.cli(&["node", "list"]));
    assert!(String::from_utf8_lossy(&lost.stderr).contains("revoked"), "{lost:?}");
    let users = succeed(&mut as_eva(&["user", "list"]));
    assert!(users.contains("(server)") && users.contains("revoked"), "{users}");
    succeed(&mut as_eva(&["user", "renew"]));
    succeed(&mut as_eva(&["node", "token"]));
    assert!(succeed(&mut as_eva(&["node", "list"])).contains("edge-1"));
}
