//! Who watches which job.
//!
//! A watcher subscribes first and reads the store once after that; from then on it lives off what commits tell. Its
//! memory is bounded by the number of the job's tasks: only the newest state of each waits for it, however slow it is.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longshore_model::job::Job;
use longshore_model::name::{JobId, NodeName};
use longshore_model::task::Task;
use tokio::sync::Notify;

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
    /// Tasks that changed since the news before, each in its newest state.
    pub tasks: Vec<Arc<Task>>,
    /// Whether further tasks are waiting already.
    pub more: bool,
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
    /// Changed tasks, with the version of the job that brought each.
    tasks: HashMap<NodeName, (u64, Arc<Task>)>,
    /// Their names in the order in which they first changed, so that none is overtaken for ever.
    order: VecDeque<NodeName>,
    /// Version of the job that the watcher began with: what comes with it or an older one is no news.
    floor: u64,
    closed: bool,
}

impl Pending {
    fn put(&mut self, version: u64, task: Arc<Task>) {
        if !self.tasks.contains_key(&task.node) {
            self.order.push_back(task.node.clone());
        }
        self.tasks.insert(task.node.clone(), (version, task));
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
                pending.put(job.version, Arc::clone(task));
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
    pub fn begin(&mut self, job: Arc<Job>, tasks: Vec<Task>) -> Result<(), HubError> {
        {
            let mut inner = self.hub.inner();
            if inner.tasks + tasks.len() > MAX_WATCHED_TASKS {
                return Err(HubError::TooManyTasks);
            }
            inner.tasks += tasks.len();
            self.tasks += tasks.len();
        }
        let mut pending = self.watcher.pending();
        let mut newer = std::mem::take(&mut pending.tasks);
        pending.order.clear();
        newer.retain(|_, (version, _)| *version > job.version);
        pending.floor = job.version;
        for task in tasks {
            let (version, task) = newer.remove(&task.node).unwrap_or_else(|| (job.version, Arc::new(task)));
            pending.put(version, task);
        }
        if pending.job.as_ref().is_none_or(|known| known.version < job.version) {
            pending.job = Some(job);
        }
        pending.news = true;
        Ok(())
    }

    /// Waits for news: the job as it now is, and at most `limit` tasks that changed.
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
        if !pending.news && pending.order.is_empty() {
            return Ok(None);
        }
        let Some(job) = pending.job.clone() else { return Ok(None) };
        let count = limit.min(pending.order.len());
        let names: Vec<NodeName> = pending.order.drain(..count).collect();
        let tasks = names.iter().filter_map(|name| pending.tasks.remove(name)).map(|(_, task)| task).collect();
        pending.news = false;
        Ok(Some(News { job, tasks, more: !pending.order.is_empty() }))
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
