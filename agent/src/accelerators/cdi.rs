//! Specs of the Container Device Interface: files in which makers say what a container gets with their devices.
//!
//! Devices whose edits have hooks, or anything else that is no device, mount or variable, are not used: what is left out of
//! them would be missed in ways that nobody understands. See <https://github.com/cncf-tags/container-device-interface>.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use longshore_model::accelerator::{Unit, is_kind};
use longshore_model::host_path;
use longshore_model::spec::Device;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::inventory::{Accelerator, DeviceEdit, Edits, MountEdit};

/// Bytes of a file: a machine full of partitioned GPUs needs less than a tenth.
const MAX_FILE: u64 = 4 * 1024 * 1024;
/// Files of a directory that are read.
const MAX_FILES: usize = 64;
/// The name that stands for all devices of a kind at once, and is none of them.
const ALL: &str = "all";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    devices: Vec<SpecDevice>,
    #[serde(default)]
    container_edits: ContainerEdits,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecDevice {
    name: String,
    #[serde(default)]
    container_edits: ContainerEdits,
}

/// What a container gets, in CDI's words.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerEdits {
    env: Vec<String>,
    device_nodes: Vec<NodeText>,
    mounts: Vec<MountText>,
    hooks: Vec<IgnoredAny>,
    intel_rdt: Option<IgnoredAny>,
    additional_gids: Vec<IgnoredAny>,
    net_devices: Vec<IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeText {
    path: String,
    host_path: Option<String>,
    permissions: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MountText {
    host_path: String,
    container_path: String,
    options: Vec<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl ContainerEdits {
    /// The same with every text changed.
    pub(super) fn with(&self, change: impl Fn(&str) -> String) -> Self {
        let node = |node: &NodeText| NodeText {
            path: change(&node.path),
            host_path: node.host_path.as_deref().map(&change),
            permissions: node.permissions.clone(),
        };
        let mount = |mount: &MountText| MountText {
            host_path: change(&mount.host_path),
            container_path: change(&mount.container_path),
            ..mount.clone()
        };
        Self {
            env: self.env.iter().map(|text| change(text)).collect(),
            device_nodes: self.device_nodes.iter().map(node).collect(),
            mounts: self.mounts.iter().map(mount).collect(),
            ..self.clone()
        }
    }

    /// What of it a container gets.
    ///
    /// # Errors
    ///
    /// The rest of a sentence: there is something in it that cannot be given, or that is wrong.
    pub(super) fn read(&self) -> Result<Edits, String> {
        let refused = [
            (!self.hooks.is_empty(), "hooks, which this agent does not run"),
            (self.intel_rdt.is_some(), "intelRdt, which this agent does not set"),
            (!self.additional_gids.is_empty(), "additionalGids, which this agent does not set"),
            (!self.net_devices.is_empty(), "netDevices, which this agent does not move"),
        ];
        if let Some((_, what)) = refused.into_iter().find(|(is_there, _)| *is_there) {
            return Err(format!("has {what}"));
        }
        let devices = self.device_nodes.iter().map(node).collect::<Result<_, _>>()?;
        let mounts = self.mounts.iter().map(mount).collect::<Result<_, _>>()?;
        let pair = |text: &String| {
            let pair = text.split_once('=').filter(|(name, _)| !name.is_empty() && !text.contains('\0'));
            let pair = pair.map(|(name, value)| (name.to_owned(), value.to_owned()));
            pair.ok_or_else(|| format!("has the variable {text:?}, which is not NAME=value"))
        };
        Ok(Edits { devices, mounts, env: self.env.iter().map(pair).collect::<Result<_, _>>()? })
    }
}

fn node(text: &NodeText) -> Result<DeviceEdit, String> {
    let wrong = |path: &str, why: &str| format!("has the device {path:?}, which {why}");
    let target = host_path::normalise(&text.path).map_err(|error| wrong(&text.path, &error.to_string()))?;
    if target == "/dev" || !host_path::is_within(&target, "/dev") {
        return Err(wrong(&text.path, "is not below /dev"));
    }
    let source = text.host_path.as_deref().unwrap_or(&text.path);
    let source = host_path::normalise(source).map_err(|error| wrong(source, &error.to_string()))?;
    let permissions = text.permissions.clone().unwrap_or_else(|| Device::ALL_PERMISSIONS.to_owned());
    if permissions.is_empty() || !permissions.chars().all(|letter| Device::ALL_PERMISSIONS.contains(letter)) {
        return Err(wrong(&text.path, "has other permissions than r, w and m"));
    }
    Ok(DeviceEdit { source: source.into(), target, permissions })
}

fn mount(text: &MountText) -> Result<MountEdit, String> {
    let wrong = |path: &str, why: &str| format!("has the mount {path:?}, which {why}");
    let normal = |path: &str| host_path::normalise(path).map_err(|error| wrong(path, &error.to_string()));
    if !matches!(text.kind.as_deref(), None | Some("" | "none" | "bind")) {
        return Err(wrong(&text.container_path, "is no bind mount"));
    }
    let (source, target) = (normal(&text.host_path)?, normal(&text.container_path)?);
    if target == "/" {
        return Err(wrong(&target, "would be the container's root"));
    }
    Ok(MountEdit { source: source.into(), target, read_only: text.options.iter().any(|option| option == "ro") })
}

/// The devices of all specs, and sentences about what cannot be used. Blocks for a moment.
pub(super) fn discover(directories: &[PathBuf]) -> (Vec<Accelerator>, Vec<String>) {
    let (mut found, mut complaints) = (BTreeMap::new(), Vec::new());
    for directory in directories {
        let mut here: BTreeMap<String, Result<Accelerator, String>> = BTreeMap::new();
        for path in files(directory, &mut complaints) {
            match read(&path) {
                Ok(spec) => take(&path, spec, &mut here),
                Err(why) => complaints.push(format!("the CDI spec {} cannot be used: {why}", path.display())),
            }
        }
        // A later directory goes before an earlier one.
        found.extend(here);
    }
    let mut usable = Vec::new();
    for (id, device) in found {
        match device {
            Ok(accelerator) => usable.push(accelerator),
            Err(why) => complaints.push(format!("the accelerator {id} cannot be used: its CDI spec {why}")),
        }
    }
    (once_each(usable), complaints)
}

fn files(directory: &Path, complaints: &mut Vec<String>) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let is_spec = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "json" || ending == "yaml");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_spec).collect();
    files.sort();
    if files.len() > MAX_FILES {
        let count = files.len();
        complaints.push(format!("{} has {count} CDI specs, of which {MAX_FILES} are read", directory.display()));
        files.truncate(MAX_FILES);
    }
    files
}

fn read(path: &Path) -> Result<Spec, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    read.map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("it is larger than {MAX_FILE} bytes"));
    }
    let is_json = path.extension().is_some_and(|ending| ending == "json");
    let spec: Spec = if is_json {
        serde_json::from_str(&text).map_err(|error| error.to_string())?
    } else {
        serde_saphyr::from_str(&text).map_err(|error| longshore_settings::yaml::sentence(&error))?
    };
    let is_known = ["0.", "1."].iter().any(|major| spec.cdi_version.starts_with(major));
    if !is_known {
        return Err(format!("its version is {:?}, and this agent knows 0 and 1", spec.cdi_version));
    }
    if !is_kind(&spec.kind) {
        return Err(format!("its kind {:?} is not one such as example.com/npu", spec.kind));
    }
    Ok(spec)
}

/// Takes over the devices of a spec; one that another spec of the same directory has is nobody's, as CDI says.
fn take(path: &Path, spec: Spec, here: &mut BTreeMap<String, Result<Accelerator, String>>) {
    let common = spec.container_edits.read();
    for device in spec.devices.into_iter().filter(|device| device.name != ALL) {
        let id = format!("{}={}", spec.kind, device.name);
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
        let edits = if device.name.is_empty() || !device.name.chars().all(is_name) {
            Err("has a name that CDI does not allow".to_owned())
        } else {
            device.container_edits.read().and_then(|mut own| {
                let common = common.clone()?;
                own.devices.extend(common.devices);
                own.mounts.extend(common.mounts);
                own.env.extend(common.env);
                Ok(own)
            })
        };
        let accelerator = edits.map(|edits| Accelerator { unit: Unit { id: id.clone(), model: String::new() }, edits });
        let twice = || Err(format!("{} and another in its directory have it", path.display()));
        here.entry(id).and_modify(|known| *known = twice()).or_insert(accelerator);
    }
}

/// Leaves out what is there under several names: NVIDIA's specs have each GPU by its number and by its UUID. The shortest
/// name stays.
fn once_each(mut found: Vec<Accelerator>) -> Vec<Accelerator> {
    found.sort_by(|a, b| (a.unit.id.len(), &a.unit.id).cmp(&(b.unit.id.len(), &b.unit.id)));
    let mut seen = BTreeSet::new();
    found.retain(|one| {
        let nodes: BTreeSet<PathBuf> = one.edits.devices.iter().map(|device| device.source.clone()).collect();
        nodes.is_empty() || seen.insert((one.unit.kind().to_owned(), nodes))
    });
    found
}
