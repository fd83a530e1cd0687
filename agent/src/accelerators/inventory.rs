//! What accelerators this node has, from everywhere that tells of some.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use longshore_model::accelerator::Unit;

use super::described::Described;
use super::{ascend, cdi, nvidia};

/// Accelerators of a node: far more than fit into a machine, and partitions of them count.
const MAX_UNITS: usize = 256;

/// An accelerator, and what a container gets with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accelerator {
    /// Its name and model.
    pub unit: Unit,
    /// What a container gets.
    pub edits: Edits,
}

/// What a container gets with an accelerator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// Devices.
    pub devices: Vec<DeviceEdit>,
    /// Files and directories.
    pub mounts: Vec<MountEdit>,
    /// Variables.
    pub env: Vec<(String, String)>,
}

/// A device that a container gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceEdit {
    /// Where it is on the node.
    pub source: PathBuf,
    /// Where it is in the container, below /dev.
    pub target: String,
    /// Some of `r`, `w` and `m`.
    pub permissions: String,
}

/// A file or directory of the node that a container gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEdit {
    /// Where it is on the node.
    pub source: PathBuf,
    /// Where it is in the container.
    pub target: String,
    /// Whether it may only be read.
    pub read_only: bool,
}

/// Everywhere that tells of accelerators.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The node's root directory, below which devices and drivers of known makers are looked for; `None` to look for none.
    pub root: Option<PathBuf>,
    /// Directories of specs of the Container Device Interface; a later one goes before an earlier one.
    pub cdi: Vec<PathBuf>,
    /// What the agent's settings tell.
    pub described: Vec<Described>,
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The accelerators, in the order in which they are given away.
    pub accelerators: Vec<Accelerator>,
    /// What cannot be used, in sentences for the log.
    pub complaints: Vec<String>,
}

/// Looks everywhere. Of a kind that is told of in several places, the settings go before CDI, and that before what the agent
/// finds by itself. Blocks for a moment.
pub(super) fn discover(sources: &Sources) -> Inventory {
    let known = match &sources.root {
        Some(root) => [nvidia::discover(root), ascend::discover(root)].concat(),
        None => Vec::new(),
    };
    let (by_cdi, mut complaints) = cdi::discover(&sources.cdi);
    let described: Vec<Accelerator> = sources.described.iter().flat_map(Described::accelerators).collect();
    let models: BTreeMap<PathBuf, String> = known
        .iter()
        .filter_map(|one| Some((one.edits.devices.first()?.source.clone(), one.unit.model.clone())))
        .collect();
    let mut found: Vec<Accelerator> = Vec::new();
    for of_place in [described, by_cdi, known] {
        let kinds: BTreeSet<String> = found.iter().map(|one| one.unit.kind().to_owned()).collect();
        found.extend(of_place.into_iter().filter(|one| !kinds.contains(one.unit.kind())));
    }
    for one in found.iter_mut().filter(|one| one.unit.model.is_empty()) {
        // A spec of CDI does not say it, and the driver does.
        let model = one.edits.devices.iter().find_map(|device| models.get(&device.source));
        one.unit.model = model.cloned().unwrap_or_default();
    }
    if found.len() > MAX_UNITS {
        complaints.push(format!("this node has {} accelerators, of which {MAX_UNITS} are used", found.len()));
        found.truncate(MAX_UNITS);
    }
    Inventory { accelerators: found, complaints }
}

/// Numbered devices of a directory, such as `nvidia0`, by number.
pub(super) fn numbered(directory: &Path, prefix: &str) -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let number = |name: &str| {
        let digits = name.strip_prefix(prefix)?;
        // Not `nvidia-uvm`, nor `+1`, which a number could begin with too.
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let mut found: Vec<(u32, PathBuf)> =
        entries.filter_map(|entry| Some((number(entry.file_name().to_str()?)?, entry.path()))).collect();
    found.sort();
    found
}

/// A device of the node's /dev, at the same place in a container.
pub(super) fn same_place(root: &Path, name: &str) -> DeviceEdit {
    DeviceEdit { source: root.join("dev").join(name), target: format!("/dev/{name}"), permissions: "rw".to_owned() }
}

/// Those of some names that are in the node's /dev.
pub(super) fn those_there<'a>(root: &'a Path, names: &'a [&str]) -> impl Iterator<Item = DeviceEdit> + 'a {
    names.iter().map(|name| same_place(root, name)).filter(|edit| edit.source.exists())
}
