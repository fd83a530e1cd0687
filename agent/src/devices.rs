//! Devices of this node that apps may use: which of them its configuration allows, and what is really there.

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use longshore_model::failure::FailureReason;
use longshore_model::host_path::{self, PathError};
use longshore_model::spec::Device;
use nix::sys::stat::{major, minor};
use serde::{Deserialize, Serialize};

/// Permission bits of a file's mode.
const PERMISSIONS: u32 = 0o7777;

/// Devices that the node's configuration allows: one device, all of a directory, or all whose paths begin alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    path: String,
    is_beginning: bool,
}

/// Why a text is no [`DeviceRule`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// It is no path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// It leads elsewhere.
    #[error("not /dev or something below it, such as /dev/ttyUSB0, /dev/dri or /dev/ttyUSB*")]
    Elsewhere,
    /// A star that does not end it.
    #[error("a '*' stands for the rest of a device's path, and can only be the last character")]
    InnerStar,
}

impl FromStr for DeviceRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (text, is_beginning) = match text.strip_suffix('*') {
            Some(beginning) => (beginning, true),
            None => (text, false),
        };
        if text.contains('*') {
            return Err(RuleError::InnerStar);
        }
        let mut path = host_path::normalise(text)?;
        if !host_path::is_within(&path, "/dev") {
            return Err(RuleError::Elsewhere);
        }
        if is_beginning && text.ends_with('/') {
            path.push('/');
        }
        Ok(Self { path, is_beginning })
    }
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.path, if self.is_beginning { "*" } else { "" })
    }
}

impl DeviceRule {
    /// Every device.
    #[must_use]
    pub fn all() -> Self {
        Self { path: "/dev".to_owned(), is_beginning: false }
    }

    fn covers(&self, path: &str) -> bool {
        if self.is_beginning { path.starts_with(&self.path) } else { host_path::is_within(path, &self.path) }
    }
}

/// A device as a container has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceNode {
    /// Where it is on the node, links followed.
    pub source: PathBuf,
    /// Where it is in the container.
    pub target: String,
    /// Whether it is a block device, and else one of characters.
    pub is_block: bool,
    /// The number of its driver.
    pub major: u32,
    /// Its own number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// What the container may do with it: some of `r`, `w` and `m`.
    pub permissions: String,
}

/// Why an app does not get a device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The node's configuration does not allow it.
    #[error(
        "This node does not allow the device {path}, which devices[{index}].host_path asks for; its agent has to be run with \
         --device-allow {path}."
    )]
    NotAllowed {
        /// Its place in the spec.
        index: usize,
        /// As the spec has it.
        path: String,
    },
    /// It is not there, or is none.
    #[error("The device {path}, which devices[{index}].host_path asks for, {why} on this node.")]
    Unavailable {
        /// Its place in the spec.
        index: usize,
        /// As the spec has it.
        path: String,
        /// The rest of the sentence.
        why: String,
    },
}

impl DeviceError {
    /// For machines.
    #[must_use]
    pub fn reason(&self) -> FailureReason {
        match self {
            Self::NotAllowed { .. } => FailureReason::Unsupported,
            Self::Unavailable { .. } => FailureReason::DeviceUnavailable,
        }
    }
}

/// Looks at the devices that a spec asks for: each must be there, and one of the rules must be for it, by the path that the
/// spec has or by the one where its links lead. Blocks for a moment.
///
/// # Errors
///
/// The first that the app does not get.
pub fn find(wanted: &[Device], rules: &[DeviceRule]) -> Result<Vec<DeviceNode>, DeviceError> {
    wanted.iter().enumerate().map(|(index, device)| find_one(index, device, rules)).collect()
}

fn find_one(index: usize, device: &Device, rules: &[DeviceRule]) -> Result<DeviceNode, DeviceError> {
    let shown = || device.host_path.clone();
    let unavailable = |why: String| DeviceError::Unavailable { index, path: shown(), why };
    let normal = host_path::normalise(&device.host_path).map_err(|error| unavailable(error.to_string()))?;
    let is_allowed = |path: &str| rules.iter().any(|rule| rule.covers(path));
    let there = match look(Path::new(&normal), device.target(), &device.permissions) {
        Ok(there) => there,
        // What is not allowed is not told apart from what is not there.
        Err(_) if !is_allowed(&normal) => return Err(DeviceError::NotAllowed { index, path: shown() }),
        Err(error) => return Err(unavailable(why(&error))),
    };
    if is_allowed(&normal) || there.source.to_str().is_some_and(is_allowed) {
        Ok(there)
    } else {
        Err(DeviceError::NotAllowed { index, path: shown() })
    }
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "does not exist".to_owned(),
        io::ErrorKind::InvalidInput => "is no device".to_owned(),
        _ => format!("cannot be looked at ({error})"),
    }
}

/// Looks at a device of this node as a container shall have it at `target`. Links are followed.
///
/// # Errors
///
/// It is not there; or it is no device, which is [`io::ErrorKind::InvalidInput`].
pub fn look(path: &Path, target: &str, permissions: &str) -> io::Result<DeviceNode> {
    let source = path.canonicalize()?;
    let meta = source.symlink_metadata()?;
    node(source, target.to_owned(), &meta, permissions).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// A device by what the file system says of its file; `None` if that is no device.
pub(crate) fn node(source: PathBuf, target: String, meta: &Metadata, permissions: &str) -> Option<DeviceNode> {
    let kind = meta.file_type();
    (kind.is_char_device() || kind.is_block_device()).then(|| DeviceNode {
        source,
        target,
        is_block: kind.is_block_device(),
        // The kernel has 12 bits for the one and 20 for the other.
        major: u32::try_from(major(meta.rdev())).unwrap_or(u32::MAX),
        minor: u32::try_from(minor(meta.rdev())).unwrap_or(u32::MAX),
        mode: meta.mode() & PERMISSIONS,
        uid: meta.uid(),
        gid: meta.gid(),
        permissions: permissions.to_owned(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Vec<DeviceRule> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn device(path: &str) -> Device {
        Device {
            host_path: path.to_owned(),
            container_path: Some("/dev/mine".to_owned()),
            permissions: "rw".to_owned(),
        }
    }

    #[test]
    fn rules_are_devices_directories_and_beginnings() {
        for (rule, covered, others) in [
            ("/dev/ttyUSB0", &["/dev/ttyUSB0"][..], &["/dev/ttyUSB01", "/dev/ttyUSB", "/dev"][..]),
            ("/dev/dri", &["/dev/dri/card0", "/dev/dri"], &["/dev/dri2/x", "/dev/dr"]),
            ("/dev/ttyUSB*", &["/dev/ttyUSB0", "/dev/ttyUSB17"], &["/dev/ttyS0"]),
            ("/dev/snd/*", &["/dev/snd/timer"], &["/dev/snd", "/dev/sndx"]),
            ("/dev/*", &["/dev/sda", "/dev/a/b"], &["/dev"]),
            ("//dev/./", &["/dev/sda"], &["/device"]),
        ] {
            let rule: DeviceRule = rule.parse().unwrap();
            assert!(covered.iter().all(|path| rule.covers(path)), "{rule}");
            assert!(!others.iter().any(|path| rule.covers(path)), "{rule}");
        }
        for wrong in ["", "*", "dev/x", "/", "/*", "/etc", "/dev/../etc", "/dev/*/x", "/dev/**", "/dev/\0", "/devices"]
        {
            assert!(wrong.parse::<DeviceRule>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_allowed_is_found_and_links_are_followed() {
        let found = find(&[device("/dev//zero")], &rules(&["/dev/zero"])).unwrap().remove(0);
        assert_eq!((found.major, found.minor, found.is_block, found.mode & 0o666), (1, 5, false, 0o666));
        assert_eq!((found.target.as_str(), found.permissions.as_str()), ("/dev/mine", "rw"));
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        let found = find(&[device(link.to_str().unwrap())], &rules(&["/dev/zero"])).unwrap();
        assert_eq!(found[0].source, Path::new("/dev/zero"), "where the link leads is allowed");
    }

    #[test]
    fn refusals_name_the_field_and_the_setting() {
        let refusal = |path: &str, allowed: &[&str]| {
            let error = find(&[device("/dev/null"), device(path)], &rules(allowed)).unwrap_err();
            (error.reason(), error.to_string())
        };
        let expected = "This node does not allow the device /dev/zero, which devices[1].host_path asks for; its agent has to be \
                        run with --device-allow /dev/zero.";
        assert_eq!(refusal("/dev/zero", &["/dev/null"]), (FailureReason::Unsupported, expected.to_owned()));
        let none = refusal("/dev/none", &["/dev/null"]);
        assert_eq!(none.0, FailureReason::Unsupported, "whether it is there is nobody's business");
        let none = refusal("/dev/none", &["/dev"]);
        let expected = "The device /dev/none, which devices[1].host_path asks for, does not exist on this node.";
        assert_eq!(none, (FailureReason::DeviceUnavailable, expected.to_owned()));
        let directory = refusal("/dev/shm", &["/dev"]);
        assert_eq!(directory.0, FailureReason::DeviceUnavailable);
        assert!(directory.1.ends_with("is no device on this node."), "{directory:?}");
    }
}
