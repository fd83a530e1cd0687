//! The one thread that writes: takes whatever is queued, decides, commits once, tells the observer, answers.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::StoreMetrics;
use super::batch::{Batch, JobCache};
use crate::store::{Change, Observer, StoreError};

/// Writes that may wait: one report and one session of each agent that a process has descriptors for (about 18,000).
pub(super) const MAX_QUEUED: usize = 40_000;
/// Writes of one transaction: enough that the disk's flush costs each of them next to nothing, few enough that the
/// first of them is not kept waiting for more than a fraction of a second.
const MAX_BATCH: usize = 10_000;

/// A write on its way through the writer's thread.
trait Operation: Send {
    /// Decides and keeps the outcome; an error is the database's and ends the batch.
    fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), BatchFailed>;
    /// Answers the caller, who may have gone away.
    fn answer(self: Box<Self>, failure: Option<&BatchFailed>);
}

/// Why a whole batch was rolled back.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the transaction was rolled back")]
struct BatchFailed(#[source] Arc<dyn std::error::Error + Send + Sync>);

impl From<rusqlite::Error> for BatchFailed {
    fn from(error: rusqlite::Error) -> Self {
        Self(Arc::new(error))
    }
}

impl From<StoreError> for BatchFailed {
    fn from(error: StoreError) -> Self {
        Self(Arc::new(error))
    }
}

struct Write<T, F> {
    decide: Option<F>,
    outcome: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Operation for Write<T, F>
where
    T: Send,
    F: FnOnce(&mut Batch<'_>) -> Result<T, StoreError> + Send,
{
    fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), BatchFailed> {
        let Some(decide) = self.decide.take() else { return Ok(()) };
        match decide(batch) {
            Err(StoreError::Database(error)) => Err(BatchFailed(error.into())),
            outcome => {
                self.outcome = Some(outcome);
                Ok(())
            }
        }
    }

    fn answer(self: Box<Self>, failure: Option<&BatchFailed>) {
        let outcome = match (failure, self.outcome) {
            (Some(failure), _) => Err(StoreError::Database(Box::new(failure.clone()))),
            (None, Some(outcome)) => outcome,
            (None, None) => Err(StoreError::Closed),
        };
        // A caller that went away does not need the answer.
        let _ = self.reply.send(outcome);
    }
}

/// The writer's thread and its queue; dropping it commits what is queued and ends the thread.
pub(super) struct Writer {
    queue: Option<mpsc::Sender<Box<dyn Operation>>>,
    thread: Option<JoinHandle<()>>,
    metrics: StoreMetrics,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(
        connection: Connection,
        observer: Arc<dyn Observer>,
        metrics: StoreMetrics,
    ) -> std::io::Result<Self> {
        let (queue, waiting) = mpsc::channel(MAX_QUEUED);
        let state = State { connection, observer, jobs: JobCache::default(), metrics: metrics.clone() };
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || state.run(waiting))?;
        Ok(Self { queue: Some(queue), thread: Some(thread), metrics })
    }

    /// Queues a write and waits for its answer.
    ///
    /// `decide` must refuse before it changes anything: what it did to the batch stays, also when it returns an error
    /// other than [`StoreError::Database`], which undoes the whole batch.
    ///
    /// # Errors
    ///
    /// [`StoreError::Busy`] when the queue is full, [`StoreError::Closed`], and those of `decide` and the commit.
    pub(super) async fn write<T, F>(&self, decide: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Batch<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
        queue.try_send(Box::new(Write { decide: Some(decide), outcome: None, reply })).map_err(
            |error| match error {
                mpsc::error::TrySendError::Full(_) => {
                    self.metrics.refused.inc();
                    StoreError::Busy
                }
                mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
            },
        )?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        let Some(thread) = self.thread.take() else { return };
        // The observer may hold what holds the store: then the thread ends by itself.
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("the store's writer panicked");
        }
    }
}

struct State {
    connection: Connection,
    observer: Arc<dyn Observer>,
    jobs: JobCache,
    metrics: StoreMetrics,
}

impl State {
    fn run(mut self, mut waiting: mpsc::Receiver<Box<dyn Operation>>) {
        let mut operations = Vec::new();
        while waiting.blocking_recv_many(&mut operations, MAX_BATCH) > 0 {
            self.metrics.waiting.set(i64::try_from(operations.len() + waiting.len()).unwrap_or(i64::MAX));
            let begun = Instant::now();
            let failure = match self.perform(&mut operations) {
                Ok(changes) => {
                    self.metrics.commit.observe(begun.elapsed().as_secs_f64());
                    self.metrics.writes.observe(f64::from(u32::try_from(operations.len()).unwrap_or(u32::MAX)));
                    if !changes.is_empty() {
                        self.observer.committed(changes);
                    }
                    None
                }
                Err(failure) => {
                    self.metrics.failed.inc();
                    // What is in memory may be ahead of what is on disk.
                    self.jobs.clear();
                    let error: &dyn std::error::Error = failure.0.as_ref();
                    tracing::error!(error, operations = operations.len(), "a transaction was rolled back");
                    Some(failure)
                }
            };
            for operation in operations.drain(..) {
                operation.answer(failure.as_ref());
            }
        }
    }

    fn perform(&mut self, operations: &mut [Box<dyn Operation>]) -> Result<Vec<Change>, BatchFailed> {
        let transaction = self.connection.transaction()?;
        let mut batch = Batch::new(&transaction, &mut self.jobs);
        for operation in operations {
            operation.apply(&mut batch)?;
        }
        let changes = batch.finish()?;
        transaction.commit()?;
        Ok(changes)
    }
}
