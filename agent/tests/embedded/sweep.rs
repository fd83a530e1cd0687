//! What an agent removes when it starts, and what it leaves alone.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use longshore_agent::runtime::{FoundState, Launch, Runtime};
use longshore_demo_image::DemoImage;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use super::node::{Backend, Node};

/// A container whose shim was killed, so that nobody has it any more.
async fn abandoned(node: &Node, app: &str) -> Launch {
    let launch = node.launch(app, DemoImage::new().cmd(&["sleep"]), json!({})).await;
    node.run(&launch).await.unwrap();
    node.kill_shim(&launch).await;
    launch
}

/// Cgroups of a node, its own and its containers'.
fn groups(uid: &str) -> BTreeSet<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    let nodes = hierarchies.map(|hierarchy| hierarchy.join("longshore").join(uid)).filter(|node| node.exists());
    let inner = |node: PathBuf| {
        let groups = fs::read_dir(&node).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
        groups.chain([node.clone()]).collect::<Vec<_>>()
    };
    nodes.flat_map(inner).collect()
}

#[tokio::test]
async fn what_bears_an_earlier_uid_of_the_directory_is_swept_too() {
    let mut node = Node::new();
    let running = node.launch("running", DemoImage::new().cmd(&["sleep"]), json!({})).await;
    node.run(&running).await.unwrap();
    let lost = abandoned(&node, "lost").await;
    // The directory is enrolled again, after its identity was lost.
    let before = node.uid.clone();
    node.uid.push_str("-again");
    node.restart();
    let cgroup = |launch: &Launch| format!("{}-0-{}", launch.instance.app, launch.run);
    let left = groups(&before);
    assert!(left.iter().any(|group| group.ends_with(cgroup(&running))), "{left:?}");
    assert!(!left.iter().any(|group| group.ends_with(cgroup(&lost))), "{left:?}");
    let states = node.runtime().list().await.unwrap();
    let is_up = |launch: &Launch| {
        let found = states.iter().find(|found| found.instance == launch.instance).unwrap();
        matches!(found.state, FoundState::Running(_))
    };
    assert!(is_up(&running), "what somebody has runs on until the server says what becomes of it");
    assert!(!is_up(&lost));

    // And when the last of them is gone, so is the memory of it.
    let former = node.data_dir().join("runtime/former-node-uids");
    assert_eq!(fs::read_to_string(&former).unwrap(), format!("{before}\n"));
    for launch in [&running, &lost] {
        node.runtime().delete(&launch.instance).await.unwrap();
    }
    node.restart();
    assert_eq!(groups(&before), BTreeSet::new());
    assert!(!former.exists());
    node.end().await;
}

#[tokio::test]
async fn a_reset_removes_what_an_earlier_node_has_left() {
    let mut node = Node::new();
    let launch = node.launch("a", DemoImage::new().cmd(&["sleep"]), json!({})).await;
    node.run(&launch).await.unwrap();
    let before = node.uid.clone();
    node.uid.push_str("-again");
    node.restart();
    assert!(!groups(&before).is_empty());
    node.end().await;
    assert_eq!(groups(&before), BTreeSet::new());
}

/// Something of others that looks like ours. Goes with the test, however it ends.
#[derive(Default)]
struct Foreign {
    groups: Vec<PathBuf>,
    processes: Vec<Child>,
    mounts: Vec<PathBuf>,
}

impl Foreign {
    /// A cgroup of the first hierarchy that takes it, with a process in it.
    fn group(&mut self, path: &str) {
        let hierarchy = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(Path::new);
        let group = hierarchy.into_iter().find(|hierarchy| hierarchy.exists()).unwrap().join(path);
        fs::create_dir_all(&group).unwrap();
        let process = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(group.join("cgroup.procs"), process.id().to_string()).unwrap();
        self.processes.push(process);
        self.groups.push(group);
    }

    fn mount(&mut self, at: PathBuf) {
        fs::create_dir_all(&at).unwrap();
        mount(Some("foreign"), &at, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        fs::write(at.join("kept"), "").unwrap();
        self.mounts.push(at);
    }

    fn assert_untouched(&mut self) {
        for group in &self.groups {
            assert!(group.exists(), "{} is gone", group.display());
        }
        for process in &mut self.processes {
            assert!(process.try_wait().unwrap().is_none(), "somebody killed a process of others");
        }
        for point in &self.mounts {
            assert!(point.join("kept").exists(), "{} was unmounted", point.display());
        }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
        for group in &self.groups {
            // Up to the hierarchy, as far as nobody else is in it.
            for group in group.ancestors().take(3) {
                let _ = fs::remove_dir(group);
            }
        }
        for point in &self.mounts {
            let _ = umount2(point, MntFlags::MNT_DETACH);
        }
    }
}

#[tokio::test]
async fn nothing_of_others_is_touched_however_much_it_looks_like_ours() {
    let mut node = Node::new();
    let lost = abandoned(&node, "a").await;
    let name = format!("{}-0-{}", lost.instance.app, lost.run);
    let mut foreign = Foreign::default();
    let uid = node.uid.clone();
    for path in [
        format!("longshore/{uid}x/{name}"),
        format!("longshore/x{uid}/{name}"),
        format!("longshore-other/{uid}/{name}"),
        format!("longshore{uid}/{name}"),
        format!("{uid}/{name}"),
    ] {
        foreign.group(&path);
    }
    let data = node.data_dir();
    for path in ["runtime-other/volumes/a", "other", "images/tmp"] {
        foreign.mount(data.join(path));
    }
    foreign.mount(node.path().join("data-other/runtime/volumes/a"));
    let half = data.join("runtime/images/tmp/layer-half");
    fs::create_dir(&half).unwrap();
    fs::write(data.join("foreign"), "").unwrap();

    node.restart();
    foreign.assert_untouched();
    assert!(!half.exists(), "a layer that was half unpacked stays");
    node.runtime().retain(&BTreeSet::new()).await.unwrap();
    node.runtime().delete(&lost.instance).await.unwrap();
    node.runtime().remove_app(&lost.instance.app).await.unwrap();
    assert!(node.backend.leftovers(&uid, "no directory").is_empty(), "{:?}", node.leftovers());
    node.backend.reset(&data);
    foreign.assert_untouched();
    assert!(data.join("foreign").exists());
    drop(foreign);
    node.end().await;
}
