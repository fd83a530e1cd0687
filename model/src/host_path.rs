//! Paths of a node that an app may mount, and those that it may not.
//!
//! The rules here are about text alone. An agent applies them again after it has resolved every symbolic link, and then
//! looks at what is really there: see `host_path` of the agent.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Directories that no app may mount, nor anything below or above them: whoever can write to one of them owns the node,
/// or the containers of others on it.
const SYSTEM: [&str; 37] = [
    "/bin",
    "/boot",
    "/dev",
    "/efi",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix",
    "/ostree",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/snap",
    "/sys",
    "/sysroot",
    "/usr",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/docker",
    "/var/lib/dpkg",
    "/var/lib/etcd",
    "/var/lib/incus",
    "/var/lib/kubelet",
    "/var/lib/longshore",
    "/var/lib/lxc",
    "/var/lib/lxd",
    "/var/lib/machines",
    "/var/lib/rancher",
    "/var/lib/snapd",
    "/var/lib/systemd",
    "/var/run",
    "/var/spool/at",
    "/var/spool/cron",
];

/// Names of sockets by which container engines are told what to do, wherever they are: whoever can talk to one is root.
const ENGINE_SOCKETS: [&str; 5] = ["buildkitd.sock", "containerd.sock", "crio.sock", "docker.sock", "podman.sock"];

/// Why a text is not a path that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Relative or empty.
    #[error("must be an absolute path, such as /srv/data")]
    Relative,
    /// It has a `..` segment.
    #[error("must not have '..' segments")]
    Upwards,
    /// It has a character that paths of the kernel cannot hold, or that would garble output.
    #[error("must not have control characters")]
    Control,
    /// It has a character that people cannot see, so that it looks like another path.
    #[error("must not have invisible characters, such as U+{:04X}", u32::from(*.0))]
    Invisible(char),
    /// Longer than the kernel takes.
    #[error("is {0} bytes long; at most {max} are allowed", max = crate::limits::MAX_PATH)]
    TooLong(usize),
    /// A segment is longer than file systems take.
    #[error("has a segment that is {0} bytes long; at most {max} are allowed", max = crate::limits::MAX_PATH_SEGMENT)]
    LongSegment(usize),
}

/// Why an app may not mount a path that is one; the second half of a sentence about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuledOut {
    /// It is, lies in or holds this system directory.
    System(String),
    /// It has the name of a container engine's socket.
    EngineSocket,
    /// It is, lies in or holds this directory of the agent, or of the engine that it uses.
    Guarded(String),
    /// It lies in none of the directories that the node allows.
    NotAllowed(Vec<String>),
}

impl fmt::Display for RuledOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(directory) => write!(f, "which the system directory {directory} rules out"),
            Self::EngineSocket => f.write_str("which is named like the socket of a container engine"),
            Self::Guarded(path) => {
                write!(f, "which {path} rules out, since the agent or its engine keeps things there")
            }
            Self::NotAllowed(allowed) => {
                write!(f, "and this node's setting host-path-allow allows only {}", allowed.join(", "))
            }
        }
    }
}

/// What a node adds to the rules. All paths are normal, and links in them were followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRules {
    /// What no app may mount, nor anything below or above it.
    pub guarded: Vec<String>,
    /// If there is one, only these may be mounted, and what lies in them.
    pub allowed: Vec<String>,
}

impl NodeRules {
    /// Whether an app may mount a normal path, by its text.
    ///
    /// # Errors
    ///
    /// The first rule that is against it.
    pub fn judge(&self, normal: &str) -> Result<(), RuledOut> {
        judge(normal)?;
        if let Some(guarded) = self.guarded.iter().find(|guarded| overlaps(normal, guarded)) {
            return Err(RuledOut::Guarded(guarded.clone()));
        }
        if !self.allowed.is_empty() && !self.allowed.iter().any(|allowed| is_within(normal, allowed)) {
            return Err(RuledOut::NotAllowed(self.allowed.clone()));
        }
        Ok(())
    }
}

/// The path without empty and `.` segments and without a slash at the end.
///
/// # Errors
///
/// The text is not an absolute path, or not one that can be judged without looking at the disk.
pub fn normalise(path: &str) -> Result<String, PathError> {
    if path.len() > crate::limits::MAX_PATH {
        return Err(PathError::TooLong(path.len()));
    }
    if !path.starts_with('/') {
        return Err(PathError::Relative);
    }
    if path.chars().any(char::is_control) {
        return Err(PathError::Control);
    }
    if let Some(invisible) = path.chars().find(|&character| is_invisible(character)) {
        return Err(PathError::Invisible(invisible));
    }
    let mut normal = String::with_capacity(path.len());
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => return Err(PathError::Upwards),
            name if name.len() > crate::limits::MAX_PATH_SEGMENT => return Err(PathError::LongSegment(name.len())),
            name => {
                normal.push('/');
                normal.push_str(name);
            }
        }
    }
    if normal.is_empty() {
        normal.push('/');
    }
    Ok(normal)
}

/// Characters of Unicode that have no width, or turn the direction of those around them.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
    )
}

/// Whether an app may mount a normal path on any node, by its text.
///
/// # Errors
///
/// The rule that is against it.
pub fn judge(normal: &str) -> Result<(), RuledOut> {
    if normal == "/" {
        return Err(RuledOut::System("/".to_owned()));
    }
    if let Some(system) = SYSTEM.into_iter().find(|system| overlaps(normal, system)) {
        return Err(RuledOut::System(system.to_owned()));
    }
    let name = normal.rsplit('/').next().unwrap_or_default();
    if ENGINE_SOCKETS.contains(&name) { Err(RuledOut::EngineSocket) } else { Ok(()) }
}

/// The directories that no app may mount, nor anything below or above them.
pub fn system_directories() -> impl Iterator<Item = &'static str> {
    SYSTEM.into_iter()
}

/// Whether one normal path is another or lies in it.
#[must_use]
pub fn is_within(path: &str, directory: &str) -> bool {
    match path.strip_prefix(directory) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || directory == "/",
        None => false,
    }
}

/// Whether one of two normal paths is the other or lies in it.
fn overlaps(one: &str, other: &str) -> bool {
    is_within(one, other) || is_within(other, one)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    #[test]
    fn paths_are_made_normal() {
        assert_eq!(normalise("//srv/./data//").unwrap(), "/srv/data");
        assert_eq!(normalise("/./").unwrap(), "/");
        assert_eq!(normalise("srv"), Err(PathError::Relative));
        assert_eq!(normalise(""), Err(PathError::Relative));
        assert_eq!(normalise("/srv/../etc"), Err(PathError::Upwards));
        assert_eq!(normalise("/srv/..data").unwrap(), "/srv/..data");
        assert_eq!(normalise("/a\0b"), Err(PathError::Control));
        assert_eq!(normalise(&"/x".repeat(2049)), Err(PathError::TooLong(4098)));
        assert_eq!(normalise(&format!("/srv/{}", "x".repeat(256))), Err(PathError::LongSegment(256)));
        assert!(normalise(&format!("/srv/{}", "x".repeat(255))).is_ok());
        assert_eq!(
            normalise("/srv/\u{202e}cte").unwrap_err().to_string(),
            "must not have invisible characters, such as U+202E"
        );
    }

    /// What a path comes to, by text alone: its normal form, or why it is none or ruled out.
    fn verdict(path: &str) -> String {
        match normalise(path) {
            Ok(normal) => judge(&normal).map_or_else(|ruled_out| ruled_out.to_string(), |()| normal),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn tricks_with_text_lead_nowhere() {
        let long = format!("/srv{}", "/x".repeat(2040));
        let system = |directory| format!("which the system directory {directory} rules out");
        let table = [
            // Around the separators.
            ("/etc/", system("/etc")),
            ("//etc", system("/etc")),
            ("///etc///ssh", system("/etc")),
            ("/./etc", system("/etc")),
            ("/etc/.", system("/etc")),
            ("/.", system("/")),
            ("//", system("/")),
            ("/srv/..", "must not have '..' segments".to_owned()),
            ("/srv/../..", "must not have '..' segments".to_owned()),
            ("/srv/./../etc", "must not have '..' segments".to_owned()),
            ("..", "must be an absolute path, such as /srv/data".to_owned()),
            ("./etc", "must be an absolute path, such as /srv/data".to_owned()),
            ("~/data", "must be an absolute path, such as /srv/data".to_owned()),
            ("${HOME}/data", "must be an absolute path, such as /srv/data".to_owned()),
            (" /etc", "must be an absolute path, such as /srv/data".to_owned()),
            // Ways round by the kernel's own links.
            ("/proc/self/root", system("/proc")),
            ("/proc/self/root/srv", system("/proc")),
            ("/proc/1/cwd", system("/proc")),
            ("/dev/fd/3", system("/dev")),
            ("/sys/fs/cgroup", system("/sys")),
            ("/var/run/secrets", system("/var/run")),
            // Above what is guarded.
            ("/var", system("/var/lib/cni")),
            ("/var/lib", system("/var/lib/cni")),
            ("/var/spool", system("/var/spool/at")),
            // Engines.
            ("/var/lib/docker", system("/var/lib/docker")),
            ("/var/lib/docker/volumes/x/_data", system("/var/lib/docker")),
            ("/var/lib/containerd", system("/var/lib/containerd")),
            ("/var/lib/containers/storage", system("/var/lib/containers")),
            ("/var/lib/kubelet/pods", system("/var/lib/kubelet")),
            ("/run/containerd/containerd.sock", system("/run")),
            ("/run/docker.sock", system("/run")),
            ("/run/podman/podman.sock", system("/run")),
            ("/srv/docker.sock", "which is named like the socket of a container engine".to_owned()),
            ("/home/ann/.docker/run/docker.sock/", "which is named like the socket of a container engine".to_owned()),
            // Characters.
            ("/srv/a\0/etc", "must not have control characters".to_owned()),
            ("/srv/a\n", "must not have control characters".to_owned()),
            ("/e\u{200b}tc", "must not have invisible characters, such as U+200B".to_owned()),
            ("/\u{feff}etc", "must not have invisible characters, such as U+FEFF".to_owned()),
            // What only looks like something else is what it is: a file of its own name.
            ("/\u{435}tc", "/\u{435}tc".to_owned()),
            ("/srv\u{ff0f}..\u{ff0f}etc", "/srv\u{ff0f}..\u{ff0f}etc".to_owned()),
            ("/srv/\u{2025}/etc", "/srv/\u{2025}/etc".to_owned()),
            ("/etc.", "/etc.".to_owned()),
            ("/etc ", "/etc ".to_owned()),
            ("/srv/...", "/srv/...".to_owned()),
            ("/srv/....//", "/srv/....".to_owned()),
            ("/etcetera", "/etcetera".to_owned()),
            ("/%65tc", "/%65tc".to_owned()),
            ("/srv\\..\\etc", "/srv\\..\\etc".to_owned()),
            (&*long, long.clone()),
        ];
        for (path, expected) in table {
            assert_eq!(verdict(path), expected, "{path:?}");
        }
    }

    #[test]
    fn system_directories_are_found_from_within_and_above() {
        for path in ["/", "/etc", "/etc/ssl", "/proc/1", "/var/run/docker.sock", "/run", "/lib64", "/root/.ssh", "/var"]
        {
            assert!(judge(path).is_err(), "{path}");
        }
        for path in ["/srv", "/srv/etc", "/etcetera", "/home/shop", "/opt/data", "/var/data", "/library", "/runner"] {
            assert_eq!(judge(path), Ok(()), "{path}");
        }
        assert!(system_directories().all(|path| normalise(path).as_deref() == Ok(path)));
        assert!(system_directories().is_sorted());
    }

    #[test]
    fn a_node_guards_its_own_and_may_allow_little() {
        let own = |path: &str| vec![path.to_owned()];
        let rules = NodeRules { guarded: own("/data/agent"), allowed: Vec::new() };
        for path in ["/data", "/data/agent", "/data/agent/runtime"] {
            assert_eq!(rules.judge(path), Err(RuledOut::Guarded("/data/agent".to_owned())), "{path}");
        }
        for path in ["/data/agents", "/data/app", "/srv"] {
            assert_eq!(rules.judge(path), Ok(()), "{path}");
        }
        let rules = NodeRules { allowed: vec!["/data".to_owned(), "/var".to_owned()], ..rules };
        assert_eq!(rules.judge("/data/app"), Ok(()));
        assert_eq!(rules.judge("/var/data"), Ok(()));
        assert!(matches!(rules.judge("/var/lib/docker"), Err(RuledOut::System(_))), "allowed by nobody");
        assert!(matches!(rules.judge("/data/agent"), Err(RuledOut::Guarded(_))));
        for path in ["/srv", "/database", "/dat"] {
            let ruled_out = rules.judge(path).unwrap_err();
            assert_eq!(ruled_out.to_string(), "and this node's setting host-path-allow allows only /data, /var");
        }
    }
}
