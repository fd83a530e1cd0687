//! The command line: what it prints, and its exit codes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use longshore_tests::cluster::Cluster;
use longshore_tests::process::{command, output, succeed};

fn code(cluster: &Cluster, arguments: &[&str]) -> (i32, String, String) {
    let output = output(&mut cluster.cli(arguments));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn job_file(cluster: &Cluster, name: &str, args: &str, node: &str, more: &str) -> String {
    let image = cluster.image();
    cluster.file(
        name,
        format!(
            "spec:\n  name: web\n  image: {{ archive: {image} }}\n  args: {args}\n  restartPolicy: Never\n  startup: {{ settle: 300ms }}\ntargets: {{ nodes: [{node}] }}\n{more}"
        ),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_follows_a_job_to_its_end_and_says_so_by_its_exit_code() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let good = job_file(&cluster, "good.yaml", "[exit, \"0\"]", "node", "");
    let (status, stdout, stderr) = code(&cluster, &["apply", "-f", &good]);
    assert_eq!(status, 0, "{stdout}{stderr}");
    assert!(format!("{stdout}{stderr}").contains("SUCCEEDED"), "{stdout}{stderr}");

    let bad = job_file(&cluster, "bad.yaml", "[exit, \"9\"]", "node", "");
    let (status, stdout, stderr) = code(&cluster, &["apply", "-f", &bad]);
    assert_eq!(status, 4, "{stdout}{stderr}");
    assert!(format!("{stdout}{stderr}").contains("CONTAINER_EXITED"), "{stdout}{stderr}");

    let (status, stdout, _) = code(&cluster, &["job", "list", "-o", "json"]);
    assert_eq!(status, 0);
    let jobs: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(jobs.as_array().or_else(|| jobs["jobs"].as_array()).unwrap().len(), 2, "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_past_its_deadline_and_a_partial_one_have_codes_of_their_own() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let _away = cluster.enroll("away", &[], None, &[]).await;
    let late = job_file(&cluster, "late.yaml", "[exit, \"0\"]", "away", "timeout: 2s\n");
    assert_eq!(code(&cluster, &["apply", "-f", &late]).0, 5);

    let file = job_file(&cluster, "gone.yaml", "[exit, \"0\"]", "node, away", "");
    let (status, stdout, stderr) = code(&cluster, &["apply", "--detach", "-f", &file, "-o", "json"]);
    assert_eq!(status, 0, "{stderr}");
    let job: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let job_id = job["job"]["jobId"].as_str().unwrap();
    assert_eq!(code(&cluster, &["node", "delete", "away"]).0, 0);
    let (status, stdout, stderr) = code(&cluster, &["job", "watch", job_id]);
    assert_eq!(status, 3, "{stdout}{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_told_with_their_place() {
    let cluster = Cluster::start().await;
    let _node = cluster.enroll("node", &[], None, &[]).await;
    let typo = job_file(&cluster, "typo.yaml", "[]", "node", "rolout: { maxParallel: 1 }\n");
    let (status, _, stderr) = code(&cluster, &["apply", "-f", &typo]);
    assert_eq!(status, 1, "{stderr}");
    assert!(stderr.contains("rolout") && stderr.contains("typo.yaml:8:1"), "{stderr}");

    let unknown = job_file(&cluster, "unknown.yaml", "[]", "nobody", "");
    let (status, _, stderr) = code(&cluster, &["apply", "-f", &unknown]);
    assert_ne!(status, 0);
    assert!(stderr.contains("nobody") && stderr.contains("targets"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_the_order_that_is_asked_for() {
    let cluster = Cluster::start().await;
    for name in ["b", "c", "a"] {
        cluster.enroll(name, &[], None, &[]).await;
    }
    for (order, expected) in [("name", "a b c"), ("name desc", "c b a"), ("enroll_time", "b c a")] {
        let listed = succeed(&mut cluster.cli(&["node", "list", "--order-by", order]));
        let names: Vec<&str> = listed.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(names.join(" "), expected, "{order}");
    }
    let (status, _, stderr) = code(&cluster, &["node", "list", "--order-by", "name,color"]);
    assert!(status == 1 && stderr.contains("order_by: at position 6: there is no field \"color\""), "{stderr}");
    for list in [["job", "list"].as_slice(), &["app", "list"], &["user", "list"], &["registry", "list"]] {
        let order = if list[0] == "app" { "app_name desc" } else { "create_time desc" };
        succeed(&mut cluster.cli(&[list, &["--order-by", order]].concat()));
    }
    for list in [["node", "token", "list"].as_slice(), &["node", "pending"]] {
        succeed(&mut cluster.cli(&[list, &["--order-by", "create_time desc"]].concat()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_denied_and_unreachable_are_told_apart() {
    let cluster = Cluster::start().await;
    assert_eq!(code(&cluster, &["job", "show", "01hzzzzzzzzzzzzzzzzzzzzzzz"]).0, 6);
    assert_eq!(code(&cluster, &["node", "show", "nobody"]).0, 6);
    assert_eq!(code(&cluster, &["frobnicate"]).0, 2);
    let mut elsewhere = cluster.cli(&["job", "list"]);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(output(elsewhere.env("LONGSHORE_SERVER", free.to_string())).status.code(), Some(8));
}

/// Held while a demo runs whose traces are looked for: another one's would be taken for its own.
static ONE_DEMO: Mutex<()> = Mutex::new(());

#[test]
fn the_demo_shows_the_main_job_and_leaves_nothing_behind() {
    let _alone = ONE_DEMO.lock().unwrap_or_else(PoisonError::into_inner);
    let temporary = tempfile::tempdir().unwrap();
    let before = traces();
    for _ in 0..2 {
        let text = succeed(command("longshore", None).args(["demo", "--once"]).env("TMPDIR", temporary.path()));
        assert!(text.matches("SUCCEEDED").count() >= 2, "{text}");
        assert_eq!(traces(), before);
        assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_demo_after_a_killed_demo_works_and_cleans_up_after_both() {
    use longshore_tests::process::Running;
    let _alone = ONE_DEMO.lock().unwrap_or_else(PoisonError::into_inner);
    let temporary = tempfile::tempdir().unwrap();
    let log = temporary.path().join("demo.log");
    let rooms = temporary.path().join("rooms");
    std::fs::create_dir(&rooms).unwrap();
    let before = traces();
    let mut first = command("longshore", None);
    let first = Running::start(first.args(["demo", "--once"]).env("TMPDIR", &rooms), &log);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(longshore_tests::wait::until("the first demo's containers", || async {
        traces() != before && first.output().contains("RUNNING")
    }));
    first.kill();
    succeed(command("longshore", None).args(["demo", "--once"]).env("TMPDIR", &rooms));
    assert_eq!(traces(), before);
    assert_eq!(std::fs::read_dir(&rooms).unwrap().count(), 0);
}

/// What a demo could leave on the machine: mounts, interfaces, and our cgroups that are not another test's.
fn traces() -> Vec<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mounts = read("/proc/self/mountinfo");
    let mounts = mounts.lines().filter(|line| line.contains("longshore-demo")).map(str::to_owned);
    let interfaces = read("/proc/net/dev");
    let interfaces = interfaces.lines().filter_map(|line| line.split(':').next()).map(|name| name.trim().to_owned());
    let processes = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?.replace('\0', " ");
        line.contains("longshore-demo").then_some(line)
    });
    mounts.chain(interfaces).chain(processes).collect()
}

/// What the doctor says with these further arguments: its exit code, and its findings that are not fine.
fn doctor(cluster: &Cluster, arguments: &[&str]) -> (i32, Vec<(String, String)>) {
    let (status, stdout, stderr) = code(cluster, &[&["doctor", "-o", "json"], arguments].concat());
    let said: serde_json::Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let checks = said["checks"].as_array().unwrap();
    let amiss = checks.iter().filter(|check| check["verdict"] != "FINE");
    (status, amiss.map(|check| (text(&check["check"]), text(&check["found"]))).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_what_is_amiss() {
    let mut cluster = Cluster::start().await;
    let _node = cluster.node_with("here", &[], None, &["--runtime", "fake"]).await;
    assert_eq!(doctor(&cluster, &[]), (0, vec![]));
    let (status, table, _) = code(&cluster, &["doctor"]);
    assert_eq!((status, table.matches("\nok ").count()), (0, 10), "{table}");

    // It works, though not all is well.
    let _away = cluster.enroll("away", &[], None, &[]).await;
    let key = cluster.admin().join("client.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (status, amiss) = doctor(&cluster, &[]);
    let checks: Vec<_> = amiss.iter().map(|(check, _)| check.as_str()).collect();
    assert_eq!((status, checks), (1, vec!["private key", "nodes"]), "{amiss:?}");
    assert_eq!(amiss[1].1, "1 of 2 not connected: away (never)");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();

    // It does not work, and the first thing that is broken is named.
    let broken = |arguments: &[&str], check: &str, words: &str| {
        let (status, amiss) = doctor(&cluster, arguments);
        assert_eq!((status, amiss[0].0.as_str()), (2, check), "{amiss:?}");
        assert!(amiss[0].1.contains(words), "{words} is not in {amiss:?}");
    };
    broken(&["--credentials", "/nowhere"], "credentials", "/nowhere/root.crt");
    broken(&["--server", cluster.agents_address()], "health", "does not offer this");
    broken(&["--server", "127.0.0.1:nowhere"], "server", "HOST:PORT");
    let stranger = Cluster::start().await;
    let theirs = stranger.admin().display().to_string();
    broken(&["--credentials", &theirs], "server", "not the server that was expected");
    let mixed = tempfile::tempdir().unwrap();
    let copy = |from: &Path, name: &str| std::fs::copy(from.join(name), mixed.path().join(name)).unwrap();
    copy(&cluster.admin(), "root.crt");
    copy(&stranger.admin(), "client.crt");
    copy(&stranger.admin(), "client.key");
    broken(&["--credentials", &mixed.path().display().to_string()], "server", "refuses our certificate");
    assert!(cluster.stop_server());
    let (status, amiss) = doctor(&cluster, &[]);
    assert_eq!((status, amiss[0].0.as_str()), (2, "server"), "{amiss:?}");
    assert!(amiss[0].1.contains("cannot reach"), "{amiss:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_credential_is_made_shown_changed_and_deleted_and_its_password_is_never_shown() {
    const PASSWORD: &str = "correct-horse-battery";
    let cluster = Cluster::start().await;
    let password = cluster.file("password", format!("{PASSWORD}\n"));
    let made = ["registry", "create", "shop", "--registry", "registry.example.com/shop", "--username", "robot"];
    let (status, _, stderr) = code(&cluster, &[made.as_slice(), &["--password-file", &password]].concat());
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(
        code(&cluster, &[made.as_slice(), &["--password-file", &password]].concat()).0,
        1,
        "it is there already"
    );

    let (status, stdout, stderr) = code(&cluster, &["registry", "update", "shop", "--username", "robot-2"]);
    assert_eq!(status, 0, "{stderr}");
    let mut shown = stdout;
    for arguments in [["registry", "show", "shop", "-o", "json"].as_slice(), &["registry", "list"]] {
        let (status, stdout, stderr) = code(&cluster, arguments);
        assert_eq!(status, 0, "{stderr}");
        assert!(stdout.contains("robot-2") && stdout.contains("registry.example.com/shop"), "{stdout}");
        shown += &stdout;
    }
    assert!(!(shown + &cluster.server_log()).contains(PASSWORD));

    let (status, _, stderr) = code(&cluster, &["registry", "update", "shop"]);
    assert_eq!(status, 1);
    assert!(stderr.contains("nothing to change"), "{stderr}");
    // `robot-3` and the password, as Docker keeps them.
    let config =
        r#"{"auths":{"https://registry.example.com/v2/":{"auth":"cm9ib3QtMzpjb3JyZWN0LWhvcnNlLWJhdHRlcnk="}}}"#;
    let config = cluster.file("config.json", config);
    let from = ["registry", "create", "docker", "--from-docker-config", &config, "--registry"];
    let (status, stdout, stderr) =
        code(&cluster, &[from.as_slice(), &["registry.example.com/docker", "-o", "json"]].concat());
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains("robot-3") && !stdout.contains(PASSWORD), "{stdout}");
    let (status, _, stderr) = code(&cluster, &[from.as_slice(), &["other.example.com"]].concat());
    assert_eq!(status, 1);
    assert!(stderr.contains("has nothing for other.example.com"), "{stderr}");

    let nothing = cluster.file("empty", "");
    let (status, _, stderr) = code(&cluster, &["registry", "update", "shop", "--password-file", &nothing]);
    assert_eq!(status, 1);
    assert!(stderr.contains("holds no password"), "{stderr}");
    assert_eq!(code(&cluster, &["registry", "delete", "shop"]).0, 0);
    assert_eq!(code(&cluster, &["registry", "show", "shop"]).0, 6);
}
