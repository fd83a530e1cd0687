//! Rules of devices and accelerators.

use std::collections::HashMap;

use super::{Path, Violations, at_most, no_references, quoted, within};
use crate::accelerator::is_kind;
use crate::spec::{AcceleratorQuota, AppSpec, Device};
use crate::{host_path, limits};

/// Where every device is.
const DEVICES: &str = "/dev";
/// What the runtime itself puts there.
const RUNTIMES: [&str; 15] = [
    "/dev/console",
    "/dev/fd",
    "/dev/full",
    "/dev/mqueue",
    "/dev/null",
    "/dev/ptmx",
    "/dev/pts",
    "/dev/random",
    "/dev/shm",
    "/dev/stderr",
    "/dev/stdin",
    "/dev/stdout",
    "/dev/tty",
    "/dev/urandom",
    "/dev/zero",
];
/// Directories of /dev that hold no devices of the node, and to which others than root may write.
const NO_DEVICES: [&str; 4] = ["/dev/fd", "/dev/mqueue", "/dev/pts", "/dev/shm"];

pub(super) fn devices(spec: &AppSpec, path: Path<'_>, bad: &mut Violations) {
    let list = path.field("devices");
    at_most(spec.devices.len(), limits::MAX_DEVICES, list, bad);
    if spec.privileged && !spec.devices.is_empty() {
        bad.add(list, "is not for privileged apps, which have every device; leave one of the two out");
    }
    let mut seen = HashMap::new();
    for (index, device) in spec.devices.iter().enumerate().take(limits::MAX_DEVICES) {
        let entry = list.index(index);
        let source = place(&device.host_path, entry.field("host_path"), bad);
        if let Some(normal) = &source
            && NO_DEVICES.iter().any(|directory| host_path::is_within(normal, directory))
        {
            bad.add(entry.field("host_path"), format!("is {normal}, where the node has no devices of its own"));
        }
        let field = if device.container_path.is_some() { "container_path" } else { "host_path" };
        let target = match &device.container_path {
            Some(given) => place(given, entry.field(field), bad),
            None => source,
        };
        if let Some(normal) = target {
            target_rules(&normal, &mut seen, index, entry.field(field), bad);
        }
        permissions(device, entry.field("permissions"), bad);
    }
}

/// An app has accelerators of one kind: programs are made for one, and a node that has both is rare.
pub(super) fn accelerators(quotas: &[AcceleratorQuota], path: Path<'_>, bad: &mut Violations) {
    let Some(first) = quotas.first() else { return };
    if quotas.len() > 1 {
        let description = match quotas.iter().find(|quota| quota.kind != first.kind) {
            Some(other) => format!(
                "has two kinds, {} and {}; an app has accelerators of one kind",
                quoted(&first.kind),
                quoted(&other.kind)
            ),
            None => format!("has {} twice; say it once, with the count of all", quoted(&first.kind)),
        };
        bad.add(path, description);
    }
    for (index, quota) in quotas.iter().enumerate().take(2) {
        let entry = path.index(index);
        if !is_kind(&quota.kind) {
            let description = format!("{} is no kind of accelerators such as nvidia.com/gpu", quoted(&quota.kind));
            bad.add(entry.field("kind"), description);
        }
        within(quota.count, 1..=limits::MAX_ACCELERATORS, entry.field("count"), bad);
    }
}

/// Checks a path below /dev; returns its normal form where it has one.
fn place(given: &str, path: Path<'_>, bad: &mut Violations) -> Option<String> {
    no_references(given, path, bad);
    match host_path::normalise(given) {
        Err(error) => {
            bad.add(path, error.to_string());
            None
        }
        Ok(normal) if normal == DEVICES || !host_path::is_within(&normal, DEVICES) => {
            bad.add(path, format!("is {}; it must be a device below /dev, such as /dev/ttyUSB0", quoted(given)));
            None
        }
        Ok(normal) => Some(normal),
    }
}

fn target_rules(normal: &str, seen: &mut HashMap<String, usize>, index: usize, path: Path<'_>, bad: &mut Violations) {
    if let Some(own) = RUNTIMES.iter().find(|own| host_path::is_within(normal, own)) {
        bad.add(path, format!("is {normal}, and the runtime itself provides {own}; name another `container_path`"));
    } else if let Some(first) = seen.insert(normal.to_owned(), index) {
        bad.add(path, format!("is in the container where devices[{first}] is"));
    } else if let Some((other, first)) = seen.iter().find(|(other, _)| {
        **other != normal && (host_path::is_within(normal, other) || host_path::is_within(other, normal))
    }) {
        bad.add(path, format!("is {normal}, which cannot be in the container beside {other} of devices[{first}]"));
    }
}

fn permissions(device: &Device, path: Path<'_>, bad: &mut Violations) {
    let letters = &device.permissions;
    let is_once = |letter: char| letters.chars().filter(|other| *other == letter).count() == 1;
    if letters.is_empty() || !letters.chars().all(|letter| "rwm".contains(letter) && is_once(letter)) {
        let description = format!("is {}; it must be some of the letters r, w and m, each once", quoted(letters));
        bad.add(path, description);
    }
}
