//! Who watches which job.
//!
//! A watcher subscribes first and reads the store once after that; from then on it lives off what commits tell. Its
//! memory is bounded by the number of the job's tasks: only the newest state of each waits for it, however slow it is.
//!
//! Tasks are told in the order of their last changes: by the version of the job that brought the change, then by node. So
//! one [`Seen`] says exactly what a watcher was told and what it was not, in the middle of a snapshot and behind any
//! backlog, and another watch can go on from there.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longshore_model::job::Job;
use longshore_model::name::{JobId, NodeName};
use longshore_model::task::Task;
use tokio::sync::Notify;

use crate::store::Seen;

/// Watchers of all jobs together.
pub const MAX_WATCHERS: usize = 1_000;
/// Tasks of all watched jobs together, each counted for each of its watchers: a watcher that does not read holds its job's
/// tasks in memory, some 500 bytes each. Room for ten watchers of the largest job, or a thousand of one for 1,000 nodes.
pub const MAX_WATCHED_TASKS: usize = 1_000_000;

/// Why there is nothing (more) to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// Too many watchers.
    #[error("{MAX_WATCHERS} calls are watching jobs already, which is the limit")]
    Full,
    /// Too many tasks.
    #[error("the jobs that are watched already have too many tasks for one more watch of this one")]
    TooManyTasks,
    /// The server is going away.
    #[error("the server is shutting down")]
    Closed,
}

/// The watchers of all jobs.
#[derive(Debug, Default)]
pub struct Hub {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    watchers: HashMap<JobId, Vec<Arc<Watcher>>>,
    count: usize,
    /// Tasks that the watchers may hold.
    tasks: usize,
    closed: bool,
}

/// What a subscription wants to be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// The job alone.
    Job,
    /// The job and its tasks.
    JobAndTasks,
}

/// The newest of a job, and tasks of it that changed.
#[derive(Clone, Debug)]
pub struct News {
    /// The job.
    pub job: Arc<Job>,
    /// Tasks that changed since the news before, each in its newest state, in the order of their changes.
    pub tasks: Vec<Arc<Task>>,
    /// What has been told with these news and those before.
    pub seen: Seen,
    /// Whether further tasks are waiting already.
    pub more: bool,
}

/// What was read of a job to begin a watch with.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The job.
    pub job: Arc<Job>,
    /// Its tasks, or those of them that are news.
    pub tasks: Vec<Task>,
    /// The version of the job that the watcher knows already.
    pub known: Option<u64>,
}

impl Hub {
    /// Subscribes to a job. The caller must read the job from the store after that and hand it to
    /// [`Subscription::begin`].
    ///
    /// # Errors
    ///
    /// There are too many watchers, or the hub is closed.
    pub fn subscribe(self: &Arc<Self>, job: &JobId, interest: Interest) -> Result<Subscription, HubError> {
        let mut inner = self.inner();
        if inner.closed {
            return Err(HubError::Closed);
        }
        if inner.count >= MAX_WATCHERS {
            return Err(HubError::Full);
        }
        inner.count += 1;
        let watcher = Arc::new(Watcher { interest, pending: Mutex::default(), wake: Notify::new() });
        inner.watchers.entry(job.clone()).or_default().push(Arc::clone(&watcher));
        Ok(Subscription { hub: Arc::clone(self), job: job.clone(), watcher, tasks: 0 })
    }

    /// Hands a committed change to the job's watchers.
    pub fn changed(&self, job: &Arc<Job>, tasks: Vec<Task>) {
        let watchers = match self.inner().watchers.get(&job.id) {
            Some(watchers) => watchers.clone(),
            None => return,
        };
        let tasks: Vec<Arc<Task>> = tasks.into_iter().map(Arc::new).collect();
        for watcher in watchers {
            watcher.changed(job, &tasks);
        }
    }

    /// Ends every subscription, and lets none begin.
    pub fn close(&self) {
        let watchers = {
            let mut inner = self.inner();
            inner.closed = true;
            std::mem::take(&mut inner.watchers)
        };
        for watcher in watchers.into_values().flatten() {
            watcher.pending().closed = true;
            watcher.wake.notify_one();
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Watcher {
    interest: Interest,
    pending: Mutex<Pending>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    /// The newest that is known; `news` says whether the watcher has seen it.
    job: Option<Arc<Job>>,
    news: bool,
    /// Changed tasks in the order of their changes. One that changes again goes to the end: it may be told later, but no
    /// later than it stops changing.
    tasks: BTreeMap<(u64, NodeName), Arc<Task>>,
    /// The version of each that waits.
    versions: HashMap<NodeName, u64>,
    /// Version of the job that the watcher began with: what comes with it or an older one is no news.
    floor: u64,
    closed: bool,
}

impl Pending {
    fn put(&mut self, task: Arc<Task>) {
        if let Some(older) = self.versions.insert(task.node.clone(), task.version) {
            self.tasks.remove(&(older, task.node.clone()));
        }
        self.tasks.insert((task.version, task.node.clone()), task);
    }

    fn take(&mut self, limit: usize) -> Vec<Arc<Task>> {
        let taken = limit.min(self.tasks.len());
        let tasks: Vec<_> = std::iter::from_fn(|| self.tasks.pop_first()).take(taken).map(|(_, task)| task).collect();
        for task in &tasks {
            self.versions.remove(&task.node);
        }
        tasks
    }
}

impl Watcher {
    fn changed(&self, job: &Arc<Job>, tasks: &[Arc<Task>]) {
        let mut pending = self.pending();
        if job.version <= pending.floor {
            return;
        }
        if self.interest == Interest::JobAndTasks {
            for task in tasks {
                pending.put(Arc::clone(task));
            }
        }
        pending.job = Some(Arc::clone(job));
        pending.news = true;
        drop(pending);
        self.wake.notify_one();
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One watcher's view of its job; dropping it ends the watch.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    job: JobId,
    watcher: Arc<Watcher>,
    /// Tasks that it may hold.
    tasks: usize,
}

impl Subscription {
    /// Merges what the store said after the subscription began with what commits have told since.
    ///
    /// A job's version grows with every change of it or its tasks, so that what came with a version that the snapshot
    /// has already is dropped, and everything else is newer than the snapshot.
    ///
    /// # Errors
    ///
    /// [`HubError::TooManyTasks`] when there is no room for the job's tasks.
    pub fn begin(&mut self, snapshot: Snapshot) -> Result<(), HubError> {
        let Snapshot { job, tasks, known } = snapshot;
        if self.watcher.interest == Interest::JobAndTasks {
            // However few are news now, all of them may change before the watcher reads.
            let count = usize::try_from(job.counts.total()).unwrap_or(usize::MAX).max(tasks.len());
            let mut inner = self.hub.inner();
            if inner.tasks.saturating_add(count) > MAX_WATCHED_TASKS {
                return Err(HubError::TooManyTasks);
            }
            inner.tasks += count;
            self.tasks += count;
        }
        let mut pending = self.watcher.pending();
        let newer = std::mem::take(&mut pending.tasks);
        pending.versions.clear();
        pending.floor = job.version;
        for task in tasks {
            pending.put(Arc::new(task));
        }
        for task in newer.into_values().filter(|task| task.version > job.version) {
            pending.put(task);
        }
        if pending.job.as_ref().is_none_or(|known| known.version < job.version) {
            pending.job = Some(job);
        }
        pending.news = pending.job.as_ref().map(|job| job.version) != known;
        Ok(())
    }

    /// The job, when nothing is waiting to be told: the watcher has seen all of this version.
    #[must_use]
    pub fn idle(&self) -> Option<Arc<Job>> {
        let pending = self.watcher.pending();
        pending.job.clone().filter(|_| !pending.news && pending.tasks.is_empty())
    }

    /// Waits for news: the job as it now is, and at most `limit` tasks that changed, at least one.
    ///
    /// Loses nothing when it is dropped.
    ///
    /// # Errors
    ///
    /// [`HubError::Closed`] when the server goes away.
    pub async fn next(&mut self, limit: usize) -> Result<News, HubError> {
        loop {
            if let Some(news) = self.take(limit)? {
                return Ok(news);
            }
            self.watcher.wake.notified().await;
        }
    }

    fn take(&self, limit: usize) -> Result<Option<News>, HubError> {
        let mut pending = self.watcher.pending();
        if pending.closed {
            return Err(HubError::Closed);
        }
        if !pending.news && pending.tasks.is_empty() {
            return Ok(None);
        }
        let Some(job) = pending.job.clone() else { return Ok(None) };
        let tasks = pending.take(limit.max(1));
        pending.news = false;
        let more = !pending.tasks.is_empty();
        let seen = match tasks.last().filter(|_| more) {
            Some(last) => Seen::up_to(last),
            None => Seen::all_of(job.version),
        };
        Ok(Some(News { job, tasks, seen, more }))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut inner = self.hub.inner();
        inner.count -= 1;
        inner.tasks -= self.tasks;
        if let Some(watchers) = inner.watchers.get_mut(&self.job) {
            watchers.retain(|watcher| !Arc::ptr_eq(watcher, &self.watcher));
            if watchers.is_empty() {
                inner.watchers.remove(&self.job);
            }
        }
    }
}

#[cfg(test)]
mod tests;
