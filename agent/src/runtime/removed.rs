//! What is left of removed apps.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use jiff::{SignedDuration, Timestamp};
use longshore_model::name::AppName;

use super::layout::Layout;
use super::{files, volumes};

/// How long the output of a removed app can still be read.
const KEEP_LOGS: SignedDuration = SignedDuration::from_hours(1);
/// Removed apps whose output is kept: with [`super::logs::Rotation`] a bound on the disk that they take.
const KEEP_LOGS_OF: usize = 20;

/// Removes what an app holds beside its containers: its volumes now, its output after a while.
pub(super) fn remove(layout: &Layout, app: &AppName, now: Timestamp) -> io::Result<()> {
    if layout.app_logs(app).exists() {
        // First, so that a crash in between is made good at the next start.
        fs::write(layout.removed_mark(app.as_str()), "")?;
    }
    volumes::remove(&layout.app_volumes(app.as_str()))?;
    sweep(layout, now)
}

/// Removes volumes of apps that are none of these, and begins to forget their output. What has no app's name stays.
pub(super) fn retain(layout: &Layout, apps: &BTreeSet<AppName>, now: Timestamp) -> io::Result<()> {
    let is_orphan = |name: &String| AppName::parse(name).is_ok_and(|app| !apps.contains(&app));
    for name in files::names(&layout.all_volumes())?.into_iter().filter(is_orphan) {
        tracing::info!(app = name, "removing volumes of an app that is not this node's any more");
        volumes::remove(&layout.app_volumes(&name))?;
    }
    for name in files::names(&layout.all_logs())?.into_iter().filter(is_orphan) {
        let mark = layout.removed_mark(&name);
        if !mark.exists() {
            fs::write(mark, "")?;
        }
    }
    sweep(layout, now)
}

/// Removes volumes of removed apps at once, and their output when it is too old or there is too much of it.
pub(super) fn sweep(layout: &Layout, now: Timestamp) -> io::Result<()> {
    let mut removed = Vec::new();
    for app in files::names(&layout.all_logs())? {
        let Ok(mark) = fs::metadata(layout.removed_mark(&app)) else { continue };
        let since = Timestamp::try_from(mark.modified()?).unwrap_or(Timestamp::UNIX_EPOCH);
        volumes::remove(&layout.app_volumes(&app))?;
        removed.push((since, app));
    }
    removed.sort();
    let too_many = removed.len().saturating_sub(KEEP_LOGS_OF);
    for (position, (since, app)) in removed.iter().enumerate() {
        if position < too_many || now.duration_since(*since) > KEEP_LOGS {
            files::remove_tree(&layout.all_logs().join(app))?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn only_known_apps_keep_what_they_have() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        for name in ["till-1", "till-2", "Not.An.App"] {
            fs::create_dir_all(layout.all_volumes().join(name).join("0/data")).unwrap();
            fs::create_dir_all(layout.all_logs().join(name)).unwrap();
        }
        let apps = [AppName::parse("till-1").unwrap()].into();
        retain(&layout, &apps, Timestamp::now()).unwrap();
        assert_eq!(files::names(&layout.all_volumes()).unwrap(), ["Not.An.App", "till-1"]);
        assert_eq!(files::names(&layout.all_logs()).unwrap().len(), 3, "output can still be read");
        let later = Timestamp::now() + SignedDuration::from_hours(2);
        retain(&layout, &apps, later).unwrap();
        assert_eq!(files::names(&layout.all_logs()).unwrap(), ["Not.An.App", "till-1"]);
    }

    #[test]
    fn output_of_removed_apps_is_kept_for_a_while() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        for app in 0..25 {
            let name = format!("a-{app}");
            fs::create_dir_all(layout.all_logs().join(&name)).unwrap();
            if app < 23 {
                fs::write(layout.removed_mark(&name), "").unwrap();
            }
        }
        sweep(&layout, Timestamp::now()).unwrap();
        assert_eq!(files::names(&layout.all_logs()).unwrap().len(), 22, "20 removed ones and 2 others");
        sweep(&layout, Timestamp::now() + SignedDuration::from_hours(2)).unwrap();
        assert_eq!(files::names(&layout.all_logs()).unwrap(), ["a-23", "a-24"]);
    }
}
