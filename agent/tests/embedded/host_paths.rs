//! Host paths that are changed while a container is made, and places that are not what they are called.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use longshore_agent::host_path::HostPaths;
use longshore_agent::runtime::embedded::{EgressChoice, EmbeddedRuntime, Patience, Settings};
use longshore_agent::runtime::image::RegistryConfig;
use longshore_agent::runtime::{Allowances, Launch, Rotation, Runtime, RuntimeError};
use longshore_demo_image::DemoImage;
use longshore_model::failure::FailureReason;
use longshore_model::spec::HostPath;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use super::node::Node;

/// Makes a container whose agent runs this shell script when it has checked everything and is about to start the shim.
async fn create_with(node: &mut Node, launch: &Launch, script: &str) -> Result<(), RuntimeError> {
    let agent = env!("CARGO_BIN_EXE_longshore-agent");
    let shim = node.path().join("shim");
    fs::write(&shim, format!("#!/bin/sh\nset -e\n{script}\nexec {agent} \"$@\"\n")).unwrap();
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
    let settings = Settings {
        data_dir: node.data_dir(),
        node_uid: node.uid.clone(),
        shim,
        rotation: Rotation::default(),
        egress: EgressChoice::Off,
        allowances: Allowances::default(),
        host_paths: HostPaths::new(&node.data_dir(), Vec::new()),
        patience: Patience::default(),
    };
    let runtime = EmbeddedRuntime::open(settings, &RegistryConfig::default()).unwrap();
    let created = runtime.create(launch).await;
    runtime.delete(&launch.instance).await.unwrap();
    created
}

#[tokio::test]
async fn what_is_swapped_between_check_and_mount_is_not_mounted() {
    let mut node = Node::new();
    let here = node.path().canonicalize().unwrap();
    let (data, outside) = (here.join("shared"), here.join("outside"));
    fs::create_dir(&outside).unwrap();
    let (data_path, outside_path) = (data.display(), outside.display());
    let swaps = [
        ("a link to the system", format!("mv {data_path} {data_path}.gone && ln -s /etc {data_path}")),
        ("a link to other data", format!("mv {data_path} {data_path}.gone && ln -s {outside_path} {data_path}")),
        ("a link on the way", format!("mv {data_path} {data_path}.gone && ln -s {data_path}.gone {data_path}")),
        ("another directory", format!("mv {data_path} {data_path}.gone && mkdir -p {data_path}/inner")),
        ("a file", format!("mv {data_path} {data_path}.gone && touch {data_path}")),
        ("nothing", format!("mv {data_path} {data_path}.gone")),
    ];
    for (what, script) in swaps {
        let _ = fs::remove_dir_all(here.join("shared.gone"));
        let _ = fs::remove_dir_all(&data).or_else(|_| fs::remove_file(&data));
        let spec =
            json!({ "volumes": [{ "mountPath": "/d", "hostPath": { "path": data.join("inner"), "create": true } }] });
        let launch = node.launch("a", DemoImage::new().cmd(&["sleep"]), spec).await;
        let error = create_with(&mut node, &launch, &script).await.expect_err(what);
        assert_eq!(error.reason, FailureReason::HostPathUnavailable, "{what}: {error}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{what}");
        assert!(node.leftovers().is_empty(), "{what}: {:?}", node.leftovers());
    }
    // And where nobody swaps anything, the same way of making it works.
    let _ = fs::remove_dir_all(&data);
    let spec =
        json!({ "volumes": [{ "mountPath": "/d", "hostPath": { "path": data.join("inner"), "create": true } }] });
    let launch = node.launch("a", DemoImage::new().cmd(&["sleep"]), spec).await;
    create_with(&mut node, &launch, ":").await.unwrap();
    node.end().await;
}

/// Mounts that go with the test, however it ends.
#[derive(Default)]
struct Mounts(Vec<PathBuf>);

impl Mounts {
    fn add(&mut self, source: &str, at: PathBuf, kind: Option<&str>, flags: MsFlags) {
        fs::create_dir_all(&at).unwrap();
        mount(Some(source), &at, kind, flags, None::<&str>).unwrap();
        self.0.push(at);
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for point in self.0.iter().rev() {
            let _ = umount2(point, MntFlags::MNT_DETACH);
        }
    }
}

#[tokio::test]
async fn places_are_known_by_what_they_are_and_not_by_their_names() {
    let node = Node::new();
    let here = node.path().canonicalize().unwrap();
    let mut mounts = Mounts::default();
    for (source, name) in [("/etc", "etc"), ("/var", "above"), ("/", "root"), ("/srv", "plain")] {
        mounts.add(source, here.join(name), None, MsFlags::MS_BIND);
    }
    fs::create_dir_all(here.join("jail/data")).unwrap();
    mounts.add("proc", here.join("jail/proc"), Some("proc"), MsFlags::empty());
    mounts.add("tmpfs", here.join("memory"), Some("tmpfs"), MsFlags::empty());
    let agents = node.data_dir().display().to_string();
    mounts.add(&agents, here.join("agents"), None, MsFlags::MS_BIND);
    symlink(here.join("etc"), here.join("link")).unwrap();
    let host_paths = HostPaths::new(&node.data_dir(), Vec::new());
    let pin = |path: &str| {
        let path = here.join(path).display().to_string();
        host_paths.pin(&HostPath { path, create: true }).map(|pinned| pinned.path)
    };
    let refused = [
        ("etc", "the system directory /etc rules out"),
        ("etc/new", "the system directory /etc rules out"),
        ("link/new", "the system directory /etc rules out"),
        ("above", "rules out"),
        ("above/lib", "rules out"),
        ("above/lib/dpkg/new", "the system directory /var/lib/dpkg rules out"),
        ("root", "rules out"),
        ("root/etc/new", "the system directory /etc rules out"),
        ("jail", "a file system of the kernel's (proc)"),
        ("jail/proc", "a file system of the kernel's (proc)"),
        ("jail/proc/sys/new", "a file system of the kernel's (proc)"),
        ("agents", "the agent or its engine keeps things there"),
        ("agents/runtime", "the agent or its engine keeps things there"),
    ];
    for (path, why) in refused {
        let error = pin(path).expect_err(path).to_string();
        assert!(error.contains(why), "{path}: {error}");
    }
    assert!(!Path::new("/etc/new").exists() && !Path::new("/var/lib/dpkg/new").exists());
    for path in ["plain", "jail/data", "memory", "memory/new"] {
        assert_eq!(pin(path).unwrap(), here.join(path));
    }
    drop(mounts);
    node.end().await;
}
