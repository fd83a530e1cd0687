//! Removes what is left behind: by crashes, by apps long gone, and at a reset everything.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::cgroup::{self, CgroupPath};
use super::containers::MAKE_TIMEOUT;
use super::launch::Label;
use super::layout::{LOCK, Layout};
use super::state::{self, State};
use super::{egress, files, lock, owner, volumes};

/// How long a killed shim may take to let go of its lock.
const SHIM_END: Duration = Duration::from_secs(10);
/// Pause between two looks at it.
const SHIM_POLL: Duration = Duration::from_millis(2);

/// Removes containers that were never made whole, and cgroups that no living shim has: of this node, and of those that
/// the directory was of before.
pub(super) fn containers(layout: &Layout) -> io::Result<()> {
    let owners = owner::all(layout)?;
    let mut alive = Vec::new();
    for name in files::names(&layout.containers())? {
        let container = layout.containers().join(&name);
        let label = Label::read(&container).ok();
        // Held while it is looked at: a shim that an agent started in its last moment must not begin meanwhile.
        let Some(_kept_out) = lock::keep_out(&container.join(LOCK))? else {
            // The cgroup has the container's name, even if nothing else can be read.
            match label {
                Some(label) => alive.push(label.cgroup),
                None => alive.extend(owners.iter().filter_map(|owner| CgroupPath::new(owner, &name).ok())),
            }
            continue;
        };
        // One that ran stays, for its exit is news to the agent; of the others nothing is worth keeping.
        let ran = matches!(state::read(&container), Some(State::Running { .. } | State::Exited(_)));
        if label.is_none() || !ran {
            files::remove_tree(&container)?;
        }
    }
    for owner in &owners {
        for path in cgroup::containers(owner)? {
            if !alive.contains(&path) {
                tracing::info!(cgroup = %path, "removing a cgroup that no shim has");
                cgroup::destroy(&path)?;
            }
        }
    }
    Ok(())
}

/// Removes what no container's network needs any more. A directory whose containers never had a way out has made nothing,
/// and nothing of the node's is looked at for it.
pub(super) fn network(layout: &Layout, has_egress: bool) -> io::Result<()> {
    let mark = layout.has_had_egress();
    if !mark.exists() {
        return Ok(());
    }
    let has_containers = || Ok(!files::names(&layout.containers())?.is_empty());
    for owner in owner::all(layout)? {
        egress::tidy(&owner, has_containers)?;
    }
    if has_egress || has_containers()? { Ok(()) } else { files::remove_file(&mark) }
}

/// Forgets the nodes that the directory was of before, and of which neither a container nor a network is left.
pub(super) fn forget_former(layout: &Layout) -> io::Result<()> {
    let mut gone = Vec::new();
    for owner in owner::former(layout)? {
        if cgroup::containers(&owner)?.is_empty() && !egress::is_left(&owner)? {
            cgroup::remove_node(&owner)?;
            gone.push(owner);
        }
    }
    owner::forget(layout, &gone)
}

/// Removes every container, cgroup, mount and image of a data directory; safe to run again. Blocks.
///
/// The agent must not run.
///
/// # Errors
///
/// The kernel or the disk refuses; what was removed until then stays removed.
pub fn reset(data_dir: &Path) -> io::Result<()> {
    let Ok(data_dir) = fs::canonicalize(data_dir) else { return Ok(()) };
    let layout = Layout::new(&data_dir);
    for name in files::names(&layout.containers())? {
        let container = layout.containers().join(&name);
        let held = container.join(LOCK);
        // One that is still making its container, for an agent that was killed a moment ago, would leave half of it.
        let made_by = std::time::Instant::now() + MAKE_TIMEOUT;
        while state::read(&container).is_none() && lock::is_held(&held)? && std::time::Instant::now() < made_by {
            std::thread::sleep(SHIM_POLL);
        }
        lock::kill_holder(&held)?;
        let deadline = std::time::Instant::now() + SHIM_END;
        while lock::is_held(&held)? {
            if std::time::Instant::now() >= deadline {
                return Err(io::Error::other(format!("the shim of {name} cannot be killed")));
            }
            std::thread::sleep(SHIM_POLL);
        }
    }
    for owner in owner::all(&layout)? {
        for path in cgroup::containers(&owner)? {
            cgroup::destroy(&path)?;
        }
        cgroup::remove_node(&owner)?;
        egress::tidy(&owner, || Ok(false))?;
    }
    volumes::unmount_below(layout.root())?;
    files::remove_tree(layout.root())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn a_reset_of_nothing_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        reset(directory.path()).unwrap();
        reset(&directory.path().join("none")).unwrap();
    }
}
