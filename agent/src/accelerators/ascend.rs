//! Ascend NPUs of Huawei, by their devices.

use std::path::{Path, PathBuf};

use longshore_model::accelerator::Unit;

use super::inventory::{Accelerator, Edits, MountEdit, numbered, same_place, those_there};

const KIND: &str = "huawei.com/npu";
/// Devices that go with each NPU, as far as they are there.
const SHARED: [&str; 3] = ["davinci_manager", "devmm_svm", "hisi_hdc"];
/// What of the driver goes with each NPU, as far as it is there: what Ascend's own container runtime mounts.
const DRIVER: [&str; 4] =
    ["usr/local/Ascend/driver", "usr/local/dcmi", "usr/local/bin/npu-smi", "etc/ascend_install.info"];
/// Names the NPUs of a container to Ascend's own tools.
const VISIBLE: &str = "ASCEND_VISIBLE_DEVICES";

/// The NPUs of the node whose root directory this is.
pub(super) fn discover(root: &Path) -> Vec<Accelerator> {
    let there = DRIVER.iter().filter(|path| root.join(path).exists());
    let mount = |path: &&str| MountEdit { source: root.join(path), target: format!("/{path}"), read_only: true };
    let mounts: Vec<MountEdit> = there.map(mount).collect();
    let accelerator = |(number, _): (u32, PathBuf)| {
        let own = same_place(root, &format!("davinci{number}"));
        let devices = std::iter::once(own).chain(those_there(root, &SHARED)).collect();
        let env = vec![(VISIBLE.to_owned(), number.to_string())];
        // No file of the driver says which model it is.
        let unit = Unit { id: format!("{KIND}={number}"), model: String::new() };
        Accelerator { unit, edits: Edits { devices, mounts: mounts.clone(), env } }
    };
    numbered(&root.join("dev"), "davinci").into_iter().map(accelerator).collect()
}
