//! Paths of a node that an app may mount, and those that it may not.
//!
//! The rules here are about text alone. An agent applies them again after it has resolved every symbolic link.

/// Directories that no app may mount, nor anything below or above them: whoever can write to one of them owns the node.
const SYSTEM: [&str; 17] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
    "/var/lib/longshore",
    "/var/run",
    "/var/spool/cron",
];

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
    /// Longer than the kernel takes.
    #[error("is {0} bytes long; at most {max} are allowed", max = crate::limits::MAX_PATH)]
    TooLong(usize),
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
    let mut normal = String::with_capacity(path.len());
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => return Err(PathError::Upwards),
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

/// The system directory that a normal path is, lies in or holds, if there is one.
#[must_use]
pub fn system_directory(normal: &str) -> Option<&'static str> {
    if normal == "/" {
        return Some("/");
    }
    SYSTEM.into_iter().find(|system| is_within(normal, system) || is_within(system, normal))
}

/// Whether one normal path is another or lies in it.
#[must_use]
pub fn is_within(path: &str, directory: &str) -> bool {
    match path.strip_prefix(directory) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || directory == "/",
        None => false,
    }
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
        assert_eq!(normalise(&format!("/{}", "x".repeat(4096))), Err(PathError::TooLong(4097)));
    }

    #[test]
    fn system_directories_are_found_from_within_and_above() {
        for path in ["/", "/etc", "/etc/ssl", "/proc/1", "/var/run/docker.sock", "/run", "/lib64", "/root/.ssh", "/var"]
        {
            assert!(system_directory(path).is_some(), "{path}");
        }
        for path in ["/srv", "/srv/etc", "/etcetera", "/home/shop", "/opt/data", "/var/data", "/library", "/runner"] {
            assert_eq!(system_directory(path), None, "{path}");
        }
    }
}
