//! The Debian packages, and what is in them: units, manual pages, completion.
//!
//! Needs root, and what `tests/run` installs: `systemd-analyze`, `systemd-nspawn`, `lintian` and
//! `dpkg-shlibdeps`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should say where")]

use std::path::{Path, PathBuf};
use std::process::Command;

use longshore_tests::cluster::Cluster;
use longshore_tests::process::{binary, output, succeed};

/// The most that `systemd-analyze security` may find the server exposed, in tenths; most of what it finds is that a server
/// needs a network.
const SERVER_EXPOSURE: &str = "13";

/// The top of the source tree.
fn tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn unit(name: &str) -> PathBuf {
    tree().join("deploy/systemd").join(name)
}

/// Packages of the built binaries.
fn packages() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let binaries = binary("longshore").parent().unwrap().to_owned();
    let mut build = Command::new(tree().join("deploy/deb/build"));
    succeed(build.arg("--fast").arg("--binaries").arg(binaries).arg("--out").arg(directory.path()));
    directory
}

/// Runs one of the scripts beside this file in namespaces of its own, to its last line.
fn all_is_well(script: &str, arguments: &[&Path]) {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]);
    command.arg(tree().join("tests/packaging").join(script)).args(arguments);
    let said = succeed(&mut command);
    assert!(said.ends_with("all is well\n"), "{said}");
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Values of a setting in a unit.
fn settings<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
}

#[test]
fn packages_are_clean_and_install_run_upgrade_and_purge() {
    let directory = packages();
    let debs = files(directory.path());
    assert_eq!(debs.len(), 3, "{debs:?}");
    succeed(Command::new("lintian").args(["--no-cfg", "--fail-on", "error,warning"]).args(&debs));

    // Units are valid on a machine that has nothing else than every Debian has.
    let root = tempfile::tempdir().unwrap();
    for deb in &debs {
        succeed(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(root.path()));
    }
    let units = root.path().join("lib/systemd/system");
    succeed(Command::new("cp").args(["--archive", "/lib/systemd/system/."]).arg(&units));
    std::fs::create_dir(root.path().join("bin")).unwrap();
    std::fs::copy("/bin/kill", root.path().join("bin/kill")).unwrap();
    let verify = || {
        let mut verify = Command::new("systemd-analyze");
        verify.args(["verify", "--man=no", &format!("--root={}", root.path().display())]);
        // Its exit code is 0 whatever it finds wrong.
        let found = output(verify.args(["longshore-server.service", "longshore-agent.service"]));
        String::from_utf8(found.stderr).unwrap()
    };
    assert_eq!(verify(), "");
    std::fs::remove_file(root.path().join("usr/bin/longshore-agent")).unwrap();
    assert!(verify().contains("longshore-agent"), "it would not see that the program is missing");

    all_is_well("install.sh", &[directory.path()]);
}

#[test]
fn an_edge_node_lives_under_systemd() {
    let directory = packages();
    let image = directory.path().join("image.tar");
    std::fs::write(&image, longshore_demo_image::archive(None)).unwrap();
    all_is_well("boot.sh", &[directory.path(), &image]);
}

#[test]
fn the_server_is_locked_in_and_the_agent_leaves_containers_alone() {
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--threshold", SERVER_EXPOSURE]);
    succeed(security.arg(unit("longshore-server.service")));

    let agent = std::fs::read_to_string(unit("longshore-agent.service")).unwrap();
    for (name, value) in [("KillMode", "process"), ("OOMPolicy", "continue"), ("Delegate", "yes")] {
        assert_eq!(settings(&agent, name), [value], "{name}");
    }
    // Containers would inherit these, and their volumes show what the agent sees.
    for name in ["NoNewPrivileges", "SystemCallFilter", "CapabilityBoundingSet", "ProtectSystem", "PrivateTmp"] {
        assert_eq!(settings(&agent, name), [""; 0], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn units_start_what_was_set_up_and_nothing_else() {
    let cluster = Cluster::start().await;
    let node = cluster.enroll("node", &[], None, &[]).await;
    let server = cluster.server_dir();
    for (name, prefix, directory) in [
        ("longshore-server.service", "/var/lib/longshore/server/", server.as_path()),
        ("longshore-agent.service", "/var/lib/longshore/agent/", node.directory()),
    ] {
        let unit = std::fs::read_to_string(unit(name)).unwrap();
        let conditions = settings(&unit, "ConditionPathExists");
        assert_eq!(conditions.len(), 1, "{name}");
        let needed = directory.join(conditions[0].strip_prefix(prefix).unwrap());
        assert!(needed.exists(), "{name} would never start: there is no {}", needed.display());
    }
}
