//! Which node a data directory is of, and which ones it was of before.
//!
//! A directory that lost its identity gets another uid when it is enrolled again. What bears an earlier one is its own all
//! the same, and nobody else's to remove.

use std::fs;
use std::io::{self, ErrorKind};

use crate::durable;

use super::layout::{FILE_MODE, Layout};

/// Earlier nodes that are remembered, the newest: each is forgotten as soon as nothing of it is left, so that a second
/// one is rare.
const MAX_FORMER: usize = 16;

/// Writes down which node the directory is of; the one that it was of before joins the former ones.
pub(super) fn claim(layout: &Layout, node_uid: &str) -> io::Result<()> {
    let before = current(layout)?;
    if before.as_deref() == Some(node_uid) {
        // Only once: an agent must come up on a full disk.
        return Ok(());
    }
    if let Some(before) = before.filter(|before| is_uid(before)) {
        let mut all = former(layout)?;
        all.retain(|known| *known != before && known != node_uid);
        all.push(before);
        write(layout, &all[all.len().saturating_sub(MAX_FORMER)..])?;
    }
    durable::replace(&layout.node_uid(), node_uid.as_bytes(), FILE_MODE)
}

/// The node that the directory is of, if an agent ever ran on it.
pub(super) fn current(layout: &Layout) -> io::Result<Option<String>> {
    match fs::read_to_string(layout.node_uid()) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        // Damaged: whatever was in it.
        Err(error) if error.kind() == ErrorKind::InvalidData => Ok(None),
        read => read.map(Some),
    }
}

/// The nodes that the directory was of before, as far as something of them may be left; the oldest first.
pub(super) fn former(layout: &Layout) -> io::Result<Vec<String>> {
    let text = match fs::read_to_string(layout.former_node_uids()) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => return Ok(Vec::new()),
        read => read?,
    };
    let current = current(layout)?;
    // One that came back is no former one any more.
    Ok(text.lines().filter(|uid| is_uid(uid) && current.as_deref() != Some(uid)).map(str::to_owned).collect())
}

/// The node that the directory is of and those before, the newest last.
pub(super) fn all(layout: &Layout) -> io::Result<Vec<String>> {
    let mut all = former(layout)?;
    all.extend(current(layout)?.filter(|uid| is_uid(uid)));
    Ok(all)
}

/// Forgets former nodes of which nothing is left.
pub(super) fn forget(layout: &Layout, gone: &[String]) -> io::Result<()> {
    let mut all = former(layout)?;
    let before = all.len();
    all.retain(|uid| !gone.contains(uid));
    match all.len() {
        0 if before > 0 => durable::remove(&layout.former_node_uids()),
        left if left < before => write(layout, &all),
        _ => Ok(()),
    }
}

fn write(layout: &Layout, uids: &[String]) -> io::Result<()> {
    let mut text = uids.join("\n");
    text.push('\n');
    durable::replace(&layout.former_node_uids(), text.as_bytes(), FILE_MODE)
}

/// Whether a text can be a uid, which names cgroups, containers and images: a damaged file must not name those of others.
fn is_uid(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn earlier_nodes_are_remembered_until_nothing_is_left_of_them() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        fs::create_dir(layout.root()).unwrap();
        assert_eq!(all(&layout).unwrap(), [""; 0]);
        claim(&layout, "a").unwrap();
        claim(&layout, "a").unwrap();
        assert_eq!(former(&layout).unwrap(), [""; 0]);
        claim(&layout, "b").unwrap();
        claim(&layout, "c").unwrap();
        assert_eq!(all(&layout).unwrap(), ["a", "b", "c"]);
        claim(&layout, "a").unwrap();
        assert_eq!(all(&layout).unwrap(), ["b", "c", "a"]);
        forget(&layout, &["b".to_owned(), "other".to_owned()]).unwrap();
        assert_eq!(former(&layout).unwrap(), ["c"]);
        forget(&layout, &["c".to_owned()]).unwrap();
        assert!(!layout.former_node_uids().exists());
        for uid in 0..40 {
            claim(&layout, &format!("n{uid}")).unwrap();
        }
        assert_eq!(former(&layout).unwrap().len(), MAX_FORMER);
        assert_eq!(former(&layout).unwrap().last().map(String::as_str), Some("n38"));
    }

    #[test]
    fn what_cannot_be_a_uid_is_nobodys() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        fs::create_dir(layout.root()).unwrap();
        fs::write(layout.node_uid(), "..").unwrap();
        claim(&layout, "a").unwrap();
        fs::write(layout.former_node_uids(), "../system.slice\n\na/b\n.\nb\n \n").unwrap();
        assert_eq!(former(&layout).unwrap(), ["b"]);
        fs::write(layout.former_node_uids(), [0xff, b'\n']).unwrap();
        assert_eq!(former(&layout).unwrap(), [""; 0]);
    }
}
