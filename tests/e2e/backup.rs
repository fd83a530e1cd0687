//! A server that is lost, and comes back from a backup that is older than its nodes.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use longshore_proto::v1;
use longshore_tests::cluster::Cluster;
use longshore_tests::process::{command, output, succeed};
use longshore_tests::{spec, wait};
use v1::JobState;

fn order() -> v1::AppSpec {
    let mut app = spec::app("", &[]);
    let reference = "registry.example.com/app:1".to_owned();
    app.image.as_mut().unwrap().source = Some(v1::image::Source::Reference(reference));
    app
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_go_on_with_a_restored_server_and_lose_nothing_until_it_is_accepted() {
    let mut cluster = Cluster::start().await;
    let node = cluster.node_with("edge-1", &[], None, &["--runtime", "fake"]).await;
    let client = cluster.client().await;
    let old = client.rest(&client.create(order(), &["edge-1"]).await.job_id).await;
    assert_eq!(old.state(), JobState::Succeeded);

    // Jobs come all the time while the backup is taken; they are for a node that is never there.
    let _absent = cluster.enroll("absent", &[], None, &["--runtime", "fake"]).await;
    let loaded = Arc::new(AtomicBool::new(true));
    let load = tokio::spawn({
        let (client, loaded) = (client.clone(), Arc::clone(&loaded));
        async move {
            let mut count = 0_u32;
            while loaded.load(Ordering::Relaxed) {
                client.create(order(), &["absent"]).await;
                count += 1;
            }
            count
        }
    });
    wait::until("the load", || async {
        client.jobs.clone().list_jobs(v1::ListJobsRequest::default()).await.unwrap().into_inner().jobs.len() > 5
    })
    .await;
    let file = cluster.directory().join("backup");
    let data_dir = cluster.server_dir();
    let backup = || {
        let mut backup = command("longshore-server", None);
        backup.args(["backup", "--with-authority", "--data-dir"]).arg(&data_dir).arg("--to").arg(&file);
        backup
    };
    let taking = backup();
    tokio::task::spawn_blocking(move || {
        let mut taking = taking;
        succeed(&mut taking)
    })
    .await
    .unwrap();
    loaded.store(false, Ordering::Relaxed);
    assert!(load.await.unwrap() > 5);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!output(&mut backup()).status.success(), "a backup is not overwritten");

    let new = client.rest(&client.create(order(), &["edge-1"]).await.job_id).await;
    assert_eq!(new.state(), JobState::Succeeded);
    let apps = client.apps_of("edge-1").await;
    assert_eq!(apps.len(), 2);

    cluster.kill_server();
    std::fs::rename(cluster.server_dir(), cluster.directory().join("lost")).unwrap();
    let restore = |arguments: &[&str]| {
        let mut restore = command("longshore-server", None);
        restore.args(["restore", "--data-dir"]).arg(&data_dir).args(arguments);
        restore
    };
    let from = file.display().to_string();
    succeed(&mut restore(&["--from", &from]));
    assert!(!output(&mut restore(&["--from", &from])).status.success(), "a database is not overwritten");

    cluster.start_server().await;
    let client = cluster.client().await;
    wait::until("the node's return", || async { client.is_connected("edge-1").await }).await;
    let unknown = "a node runs an app that the restored database does not know";
    wait::until("what the server does not know", || async {
        cluster.server_log().lines().any(|line| line.contains(unknown) && line.contains(&new.app_name))
    })
    .await;
    assert_eq!(client.app("edge-1", &old.app_name).await.status.unwrap().state(), v1::AppState::Running);
    let third = client.rest(&client.create(order(), &["edge-1"]).await.job_id).await;
    assert_eq!(third.state(), JobState::Succeeded, "new jobs are done meanwhile");

    let refused = output(&mut restore(&["--accept"]));
    assert!(!refused.status.success(), "a server runs in the directory");
    assert!(cluster.stop_server());
    let instances = node.directory().join("ledger");
    let remembered = || std::fs::read_dir(&instances).unwrap().count();
    assert_eq!(remembered(), 3, "nothing was removed from the node");
    succeed(&mut restore(&["--accept"]));
    cluster.start_server().await;
    wait::until("the end of what the server does not know", || async { remembered() == 2 }).await;
    let apps = cluster.client().await.apps_of("edge-1").await;
    let mut names: Vec<&str> = apps.iter().map(|app| app.app_name.as_str()).collect();
    let mut expected = [old.app_name.as_str(), third.app_name.as_str()];
    names.sort_unstable();
    expected.sort_unstable();
    assert_eq!(names, expected);
}
