//! What the agent remembers: one file for each app, written before the agent acts.
//!
//! A file is written by the worker of its app alone. It is versioned JSON, replaced as a whole; one that cannot be read
//! is set aside under another name and does not keep the other apps from coming up.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use longshore_model::app::{BoundPort, InstanceExit};
use longshore_model::assignment::Assignment;
use longshore_model::backoff::Crashes;
use longshore_model::failure::Failure;
use longshore_model::health::Readiness;
use longshore_model::name::AppName;
use longshore_model::report::TaskReport;
use longshore_model::spec::AppSpec;
use longshore_model::task::TaskState;
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::runtime::ResolvedImage;

/// Version of the files that this agent writes, and the only one that it reads.
const VERSION: u32 = 1;
/// Ending of a file's name.
const ENDING: &str = ".json";
/// Ending of the name of a file that was set aside.
const DAMAGED: &str = ".damaged";

/// What is remembered of one app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The last assignment received.
    pub assignment: Assignment,
    /// Where the app stands between being wanted and being gone.
    pub wish: Wish,
    /// How the assignment's attempt ended.
    pub outcome: Option<Outcome>,
    /// Why the attempt fails, while what it made is removed.
    pub failure: Option<Failure>,
    /// What was checked and pulled.
    pub prepared: Option<Prepared>,
    /// The last revision that was healthy, while another one is being brought up or has failed: what the node goes back to.
    #[serde(default)]
    pub proven: Option<Proven>,
    /// Host ports, chosen ones included: they stay the same for the app's life.
    pub ports: Vec<BoundPort>,
    /// Names of the accelerators that it holds, in the order of its instances: they stay the same for the app's life.
    #[serde(default)]
    pub accelerators: Vec<String>,
    /// The node's address when it was last known, for instances that start while no server can be reached.
    pub host_ip: Option<std::net::Ipv4Addr>,
    /// Each instance, by index; more than the revision has where an earlier one had more.
    pub instances: Vec<Record>,
    /// The revision that the instances are counted for; `None` in files of older agents, where it is the assignment's.
    #[serde(default)]
    pub counted: Option<u64>,
}

/// Whether an app is wanted on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// It is.
    Present,
    /// It is not, and something of it may still be here.
    Absent,
    /// Nothing of it is here any more; kept until the server has acknowledged that.
    Gone,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The report, in an end state.
    pub report: TaskReport,
    /// Whether the server has it.
    pub acknowledged: bool,
}

impl Outcome {
    /// Whether the attempt was a success.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.report.state == TaskState::Succeeded
    }
}

/// What was checked and pulled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// For this revision of the app.
    pub revision: u64,
    /// By this attempt.
    pub attempt: u32,
    /// The image: restarts use it without asking a registry, so that a tag that moves changes nothing that runs.
    pub image: ResolvedImage,
}

/// A revision that was healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// What it is, with the order to keep it.
    pub assignment: Assignment,
    /// Its image; `None` once that turned out to be lost.
    pub prepared: Option<Prepared>,
    /// Its host ports.
    pub ports: Vec<BoundPort>,
}

/// What is remembered of one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Number of the last container that was made; never goes back.
    pub run: u32,
    /// Starts since the attempt began.
    pub starts: u32,
    /// Ends in a row, which the next delay follows from.
    pub crashes: Crashes,
    /// Whether a container was told to start and its end has not been seen.
    pub live: bool,
    /// Whether the restart policy leaves it ended.
    pub ended: bool,
    /// When it was last started, by the wall clock.
    pub start_time: Option<Timestamp>,
    /// Not to be started before.
    pub not_before: Option<Timestamp>,
    /// How it last ended.
    pub last_exit: Option<InstanceExit>,
    /// Why it was ended then, where it did not end by itself.
    #[serde(default)]
    pub last_exit_reason: Option<String>,
    /// What its readiness probe said when that last changed: a new agent goes on with it.
    #[serde(default)]
    pub readiness: Option<Readiness>,
}

impl Record {
    /// What is left of it when counting begins anew: what runs, as `live` says, stays counted as the first start. The number of
    /// the last run never goes back.
    #[must_use]
    pub fn counted_anew(&self, live: bool) -> Self {
        Self {
            run: self.run,
            starts: u32::from(live),
            live,
            start_time: self.start_time,
            last_exit: self.last_exit,
            last_exit_reason: self.last_exit_reason.clone(),
            readiness: self.readiness.clone().filter(|_| live),
            ..Self::default()
        }
    }
}

/// Why the ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct LedgerError {
    /// What was tried.
    action: &'static str,
    /// On what.
    path: PathBuf,
    /// What the file system said.
    #[source]
    pub source: io::Error,
}

impl LedgerError {
    /// Whether the disk is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// What was found at start.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Entries that could be read.
    pub entries: Vec<Entry>,
    /// Apps of which there is nothing but a file that was set aside, now or by an earlier agent: what they run must not
    /// be taken for unwanted.
    pub damaged: Vec<AppName>,
}

#[derive(Serialize, Deserialize)]
struct File<E> {
    version: u32,
    entry: E,
}

/// The directory of the files.
#[derive(Clone, Debug)]
pub struct Ledger {
    directory: PathBuf,
}

impl Entry {
    /// Digests of the images that the app's containers are made of, and of those that it could go back to.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        let proven = self.proven.iter().filter_map(|proven| proven.prepared.as_ref());
        self.prepared.iter().chain(proven).map(|prepared| prepared.image.digest.as_str())
    }

    /// Whether it is an update that has failed, and so is over: there is a revision to go back to.
    #[must_use]
    pub fn is_failed_update(&self) -> bool {
        self.proven.is_some() && self.outcome.as_ref().is_some_and(|outcome| !outcome.is_success())
    }

    /// The spec of the revision that an update goes back to when it fails.
    #[must_use]
    pub fn proven_spec(&self) -> Option<&AppSpec> {
        self.proven.as_ref().map(|proven| &*proven.assignment.spec)
    }

    /// The entry of an app that was never here before.
    #[must_use]
    pub fn new(assignment: Assignment) -> Self {
        let instances = vec![Record::default(); assignment.spec.instances as usize];
        Self {
            assignment,
            wish: Wish::Present,
            outcome: None,
            failure: None,
            prepared: None,
            proven: None,
            ports: Vec::new(),
            accelerators: Vec::new(),
            host_ip: None,
            instances,
            counted: None,
        }
    }
}

impl Ledger {
    /// Opens the directory, making it where it is missing.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn open(directory: PathBuf) -> Result<Self, LedgerError> {
        std::fs::create_dir_all(&directory).map_err(at("make", &directory))?;
        Ok(Self { directory })
    }

    /// Reads every file. Blocks.
    ///
    /// # Errors
    ///
    /// The directory cannot be read, or a damaged file cannot be set aside.
    pub fn load(&self) -> Result<Loaded, LedgerError> {
        let mut loaded = Loaded::default();
        for item in std::fs::read_dir(&self.directory).map_err(at("read", &self.directory))? {
            let path = item.map_err(at("read", &self.directory))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            // A temporary file is what a crash left of a write that never counted.
            if name.starts_with('.') {
                std::fs::remove_file(&path).map_err(at("remove", &path))?;
                continue;
            }
            if let Some(app) = name.strip_suffix(DAMAGED).and_then(app_of) {
                loaded.damaged.push(app);
                continue;
            }
            let Some(app) = app_of(name) else { continue };
            match read(&path, &app) {
                Ok(entry) => loaded.entries.push(entry),
                Err(error) => {
                    tracing::error!(
                        %app, path = %path.display(), %error,
                        "this app's ledger file is damaged and was set aside; the server will be asked what to run"
                    );
                    self.set_aside(&path)?;
                    loaded.damaged.push(app);
                }
            }
        }
        let is_known = |app: &AppName| loaded.entries.iter().any(|entry| entry.assignment.app == *app);
        let mut damaged: Vec<AppName> = loaded.damaged.into_iter().filter(|app| !is_known(app)).collect();
        damaged.sort();
        damaged.dedup();
        Ok(Loaded { damaged, entries: loaded.entries })
    }

    /// Digests of the images that apps have or could go back to. Apps whose files were set aside are not among those that ask.
    /// Blocks.
    ///
    /// # Errors
    ///
    /// Something cannot be read.
    pub fn images(&self) -> Result<BTreeSet<String>, LedgerError> {
        let mut images = BTreeSet::new();
        for item in std::fs::read_dir(&self.directory).map_err(at("read", &self.directory))? {
            let path = item.map_err(at("read", &self.directory))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(app) = app_of(name) else { continue };
            match read(&path, &app) {
                Ok(entry) => images.extend(entry.images().map(str::to_owned)),
                // Forgotten in this moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at("read", &path)(error)),
            }
        }
        Ok(images)
    }

    /// Writes an app's file durably. Blocks.
    ///
    /// # Errors
    ///
    /// It cannot be written; the file still holds what it held before.
    pub fn write(&self, entry: &Entry) -> Result<(), LedgerError> {
        let path = self.path(&entry.assignment.app);
        let text = serde_json::to_vec_pretty(&File { version: VERSION, entry }).map_err(io::Error::from);
        text.and_then(|text| durable::replace(&path, &text, 0o600)).map_err(at("write", &path))
    }

    /// Forgets an app durably, and what was set aside of it. Blocks.
    ///
    /// # Errors
    ///
    /// The file cannot be removed.
    pub fn forget(&self, app: &AppName) -> Result<(), LedgerError> {
        let path = self.path(app);
        let aside = aside(&path);
        durable::remove(&aside).map_err(at("remove", &aside))?;
        durable::remove(&path).map_err(at("remove", &path))
    }

    fn path(&self, app: &AppName) -> PathBuf {
        self.directory.join(format!("{app}{ENDING}"))
    }

    fn set_aside(&self, path: &Path) -> Result<(), LedgerError> {
        std::fs::rename(path, aside(path)).map_err(at("set aside", path))?;
        durable::sync_directory(&self.directory).map_err(at("sync", &self.directory))
    }
}

/// The app that a file is about, by its name.
fn app_of(name: &str) -> Option<AppName> {
    AppName::parse(name.strip_suffix(ENDING)?).ok()
}

fn aside(path: &Path) -> PathBuf {
    let mut aside = path.as_os_str().to_owned();
    aside.push(DAMAGED);
    aside.into()
}

fn read(path: &Path, app: &AppName) -> io::Result<Entry> {
    let text = std::fs::read(path)?;
    let file: File<serde_json::Value> = serde_json::from_slice(&text)?;
    if file.version != VERSION {
        return Err(io::Error::other(format!("it has version {}, this agent reads {VERSION}", file.version)));
    }
    let mut entry: Entry = serde_json::from_value(file.entry)?;
    if entry.assignment.app != *app {
        return Err(io::Error::other(format!("it is about the app {}", entry.assignment.app)));
    }
    if entry.outcome.as_ref().is_some_and(Outcome::is_success) {
        // The agent ended between the success and the next write: there is nothing to go back to, and its ports are free.
        entry.proven = None;
    }
    Ok(entry)
}

fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> LedgerError + use<'a> {
    move |source| LedgerError { action, path: path.to_owned(), source }
}
