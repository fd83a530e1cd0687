//! GPUs of NVIDIA, by the devices and the /proc files of their driver.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use longshore_model::accelerator::Unit;

use super::inventory::{Accelerator, Edits, numbered, same_place, those_there};

/// What CDI, too, calls them.
const KIND: &str = "nvidia.com/gpu";
/// Devices that go with each GPU, as far as they are there.
const SHARED: [&str; 4] = ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"];
/// Names the GPUs of a container to NVIDIA's own tools.
const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";

/// What the driver says of a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Facts {
    model: String,
    uuid: Option<String>,
}

/// The GPUs of the node whose root directory this is.
pub(super) fn discover(root: &Path) -> Vec<Accelerator> {
    let mut facts = all_facts(&root.join("proc/driver/nvidia/gpus"));
    let accelerator = |(number, _): (u32, PathBuf)| {
        let Facts { model, uuid } = facts.remove(&number).unwrap_or_default();
        let own = same_place(root, &format!("nvidia{number}"));
        let devices = std::iter::once(own).chain(those_there(root, &SHARED)).collect();
        let env = vec![(VISIBLE.to_owned(), uuid.unwrap_or_else(|| number.to_string()))];
        let unit = Unit { id: format!("{KIND}={number}"), model };
        Accelerator { unit, edits: Edits { devices, mounts: Vec::new(), env } }
    };
    numbered(&root.join("dev"), "nvidia").into_iter().map(accelerator).collect()
}

/// What the driver says of each GPU, by the number of its device.
fn all_facts(directory: &Path) -> BTreeMap<u32, Facts> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| facts(&fs::read_to_string(entry.path().join("information")).ok()?)).collect()
}

/// Reads a GPU's `information`.
fn facts(text: &str) -> Option<(u32, Facts)> {
    let of = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    // Where the driver has not looked yet it has question marks in its place.
    let uuid = of("GPU UUID").filter(|uuid| uuid.starts_with("GPU-") && !uuid.contains('?'));
    Some((of("Device Minor")?.parse().ok()?, Facts { model: of("Model").unwrap_or_default(), uuid }))
}
