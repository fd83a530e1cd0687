#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use std::os::unix::fs::symlink;

use longshore_model::spec::Volume;

use super::*;

fn wanted(path: &Path, create: bool) -> HostPath {
    HostPath { path: path.to_str().unwrap().to_owned(), create }
}

fn anywhere() -> HostPaths {
    HostPaths::new(Path::new("/nowhere/agent"), Vec::new())
}

/// A directory of the test's own, by its canonical path.
fn directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    (directory, path)
}

fn target_of(error: HostPathError) -> String {
    match error {
        HostPathError::RuledOut { target, .. } => target,
        other => panic!("{other}"),
    }
}

#[test]
fn a_missing_directory_is_made_only_when_asked_for() {
    let (_kept, here) = directory();
    let path = here.join("a/b");
    assert!(matches!(anywhere().pin(&wanted(&path, false)), Err(HostPathError::Missing { .. })));
    assert!(!here.join("a").exists());
    assert_eq!(anywhere().pin(&wanted(&path, true)).unwrap().path, path);
    assert!(path.is_dir());
    let again = anywhere().pin(&wanted(&path, false)).unwrap();
    assert_eq!(again.id().unwrap(), FileId::at(&path).unwrap());
    anywhere().recheck(&path).unwrap();
}

#[test]
fn what_is_foreseen_is_what_would_be_found_and_nothing_is_made() {
    let (_kept, here) = directory();
    symlink("/etc", here.join("link")).unwrap();
    std::fs::create_dir(here.join("there")).unwrap();
    let volume = |path: PathBuf, create| Volume {
        mount_path: "/x".to_owned(),
        read_only: false,
        source: VolumeSource::HostPath(wanted(&path, create)),
    };
    let volumes = vec![
        volume(here.join("there"), false),
        volume(here.join("new/below"), true),
        volume(here.join("absent"), false),
        volume(here.join("link/passwd"), false),
        volume(PathBuf::from("/proc/longshore"), true),
    ];
    let spec = AppSpec {
        volumes: volumes.clone(),
        ..serde_json::from_str(r#"{"name":"a","image":{"reference":"a"}}"#).unwrap()
    };
    let before: Vec<_> = std::fs::read_dir(&here).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let told = |errors: Vec<HostPathError>| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
    let foreseen = told(anywhere().foresee(&spec));
    let after: Vec<_> = std::fs::read_dir(&here).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(before, after);
    let one_by_one = volumes
        .into_iter()
        .filter_map(|volume| anywhere().prepare(&AppSpec { volumes: vec![volume], ..spec.clone() }).err());
    assert_eq!(foreseen, told(one_by_one.collect()));
    assert_eq!(foreseen.len(), 3, "{foreseen:?}");
    assert!(here.join("new/below").is_dir(), "the real thing makes it");
}

#[test]
fn a_link_into_a_system_directory_is_refused_and_nothing_is_made_there() {
    let (_kept, here) = directory();
    let link = here.join("data");
    symlink("/etc", &link).unwrap();
    assert_eq!(target_of(anywhere().pin(&wanted(&link, false)).unwrap_err()), "/etc");
    let below = link.join("longshore-test-must-not-exist");
    assert_eq!(target_of(anywhere().pin(&wanted(&below, true)).unwrap_err()), "/etc/longshore-test-must-not-exist");
    assert!(!below.exists());
}

#[test]
fn a_link_to_nowhere_is_refused() {
    let (_kept, here) = directory();
    let link = here.join("data");
    symlink(here.join("absent"), &link).unwrap();
    assert!(matches!(anywhere().pin(&wanted(&link, true)), Err(HostPathError::Unusable { .. })));
    assert!(!here.join("absent").exists());
}

/// Links that stay among the data are followed, and wherever else they lead, the path is refused and nothing is made.
#[test]
fn links_lead_among_the_data_or_nowhere() {
    let (_kept, here) = directory();
    fs::create_dir_all(here.join("data/inner")).unwrap();
    fs::write(here.join("file"), "").unwrap();
    let link = |name: &str, to: &str| symlink(to, here.join(name)).unwrap();
    link("near", "data");
    link("twice", "near/inner");
    link("up", "../../../../../../../../../../../../etc");
    link("root", "/");
    link("self", "/proc/self/root/srv");
    link("engine", "/var/lib/docker/../docker");
    link("one", "two");
    link("two", "one");
    link("data/around", "..");

    for (path, target) in [("near", "data"), ("twice", "data/inner"), ("near/new", "data/new"), ("file", "file")] {
        assert_eq!(anywhere().pin(&wanted(&here.join(path), true)).unwrap().path, here.join(target), "{path}");
    }
    for path in ["up", "up/cron.d", "root", "root/etc/new", "root/srv/../etc"] {
        let refused = anywhere().pin(&wanted(&here.join(path), true));
        assert!(refused.is_err(), "{path}: {refused:?}");
    }
    // The kernel's own links are followed like others, and what they lead to counts.
    let through = anywhere().pin(&wanted(&here.join("self"), true));
    assert!(!matches!(&through, Ok(pinned) if pinned.path.starts_with("/proc")), "{through:?}");
    assert!(!Path::new("/etc/new").exists());
    for path in ["one", "one/below", "two"] {
        let error = anywhere().pin(&wanted(&here.join(path), true)).unwrap_err();
        assert!(error.to_string().contains("Too many levels of symbolic links"), "{error}");
    }
    let error = anywhere().pin(&wanted(&here.join("file/below"), true)).unwrap_err();
    assert!(error.to_string().contains("Not a directory"), "{error}");
    // A loop of directories is none of files.
    let around = here.join("data/around/data/around/data/inner");
    assert_eq!(anywhere().pin(&wanted(&around, false)).unwrap().path, here.join("data/inner"));
}

#[test]
fn what_only_looks_like_another_path_is_made_under_its_own_name() {
    let (_kept, here) = directory();
    for name in ["\u{435}tc", "..\u{ff0f}..\u{ff0f}etc", "etc.", "etc ", "...", "$(id)", "-rf", "%2e%2e"] {
        let pinned = anywhere().pin(&wanted(&here.join(name), true)).unwrap();
        assert_eq!(pinned.path, here.join(name));
    }
    let long = here.join("x".repeat(256));
    assert!(matches!(anywhere().pin(&wanted(&long, true)), Err(HostPathError::Malformed { .. })));
    // As long as the kernel takes, and longer.
    let mut deep = here;
    while deep.as_os_str().len() < 3900 {
        deep = deep.join("x".repeat(99));
    }
    let rest = 4095 - deep.as_os_str().len() - 1;
    let longest = deep.join("x".repeat(rest));
    assert_eq!(anywhere().pin(&wanted(&longest, true)).unwrap().path, longest);
    let error = anywhere().pin(&wanted(&deep.join("x".repeat(rest + 1)), true)).unwrap_err();
    assert!(error.to_string().contains("is 4096 bytes long; at most 4095 are allowed"), "{error}");
}

#[test]
fn the_agents_own_directory_is_guarded_wherever_it_is() {
    let (_kept, here) = directory();
    fs::create_dir_all(here.join("state/agent/runtime")).unwrap();
    symlink(here.join("state"), here.join("link")).unwrap();
    // However it was named to the agent, and however it is named by a job.
    for named in ["state/agent", "link/agent"] {
        let host_paths = HostPaths::new(&here.join(named), Vec::new());
        for path in ["state", "state/agent", "state/agent/runtime", "state/agent/new", "link", "link/agent/identity"] {
            let error = host_paths.pin(&wanted(&here.join(path), true)).unwrap_err();
            assert!(error.to_string().contains("the agent or its engine keeps things there"), "{path}: {error}");
        }
        assert_eq!(host_paths.pin(&wanted(&here.join("link/app"), true)).unwrap().path, here.join("state/app"));
    }
    let socket = here.join("engine.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    fs::hard_link(&socket, here.join("other-name")).unwrap();
    let host_paths = anywhere().guarding(&socket);
    for path in ["engine.sock", "other-name"] {
        assert!(
            matches!(host_paths.pin(&wanted(&here.join(path), false)), Err(HostPathError::RuledOut { .. })),
            "{path}"
        );
    }
}

#[test]
fn only_what_the_node_allows_is_mounted() {
    let (_kept, here) = directory();
    for name in ["apps", "mnt/disk", "other"] {
        fs::create_dir_all(here.join(name)).unwrap();
    }
    symlink(here.join("mnt/disk"), here.join("disk")).unwrap();
    symlink(here.join("other"), here.join("apps/out")).unwrap();
    let allowed = ["apps", "disk"].map(|name| here.join(name).display().to_string());
    let host_paths = HostPaths::new(Path::new("/nowhere/agent"), allowed.to_vec());
    for path in ["apps", "apps/till", "disk", "disk/till", "mnt/disk/till"] {
        host_paths.pin(&wanted(&here.join(path), true)).unwrap();
    }
    for path in ["other", "apps/out", "apps/out/new", "apps2", "mnt", ""] {
        let error = host_paths.pin(&wanted(&here.join(path), true)).unwrap_err();
        assert!(error.to_string().contains("this node's setting host-path-allow allows only"), "{path}: {error}");
    }
    assert!(!here.join("apps2").exists() && !here.join("other/new").exists());
}

/// Whoever can write to a directory of the node renames what is in it at the worst moment: after it was judged.
#[test]
fn what_is_swapped_after_the_check_is_not_walked_into() {
    let (_kept, here) = directory();
    let outside = here.join("outside");
    let swaps: [(&str, &str); 4] = [
        ("ours/a", "ours/a"),
        ("ours/a", "ours/a/b"),
        ("ours/new", "ours/new/deep/er"),
        ("ours/a/new", "ours/a/new/deeper"),
    ];
    for (swapped, path) in swaps {
        let _ = fs::remove_dir_all(here.join("ours"));
        let _ = fs::remove_dir_all(&outside);
        fs::create_dir_all(here.join("ours/a/b")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        let wanted = wanted(&here.join(path), true);
        let place = anywhere().locate(&wanted).unwrap();
        let _ = fs::rename(here.join(swapped), here.join("ours/gone"));
        symlink(&outside, here.join(swapped)).unwrap();
        let error = anywhere().hold(&wanted, &place, Missing::Made).unwrap_err();
        assert!(matches!(&error, HostPathError::Swapped { at, .. } if Path::new(at) == here.join(swapped)), "{error}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{path}");
        assert!(anywhere().recheck(&here.join(path)).is_err(), "{path}");
    }
}

#[test]
fn a_link_where_a_canonical_path_was_is_seen_by_the_second_check() {
    let (_kept, here) = directory();
    fs::create_dir_all(here.join("a")).unwrap();
    fs::create_dir_all(here.join("b")).unwrap();
    let checked = anywhere().pin(&wanted(&here.join("a"), false)).unwrap().path;
    anywhere().recheck(&checked).unwrap();
    fs::remove_dir(here.join("a")).unwrap();
    symlink("b", here.join("a")).unwrap();
    assert!(matches!(anywhere().recheck(&checked), Err(HostPathError::Swapped { .. })));
}

#[test]
fn a_full_disk_keeps_its_reason() {
    let unusable = |kind| HostPathError::Unusable { path: String::new(), problem: io::Error::from(kind) };
    assert_eq!(unusable(io::ErrorKind::StorageFull).reason(), FailureReason::DiskFull);
    assert_eq!(unusable(io::ErrorKind::PermissionDenied).reason(), FailureReason::HostPathUnavailable);
}
