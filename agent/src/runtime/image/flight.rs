//! One download at a time of the same thing, and an end to those that nobody waits for.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use longshore_model::task::PullProgress;
use tokio::sync::OwnedMutexGuard;

use super::digest::Digest;
use super::error::ImageError;
use crate::runtime::ProgressSink;

/// Time between two reports of progress: quick to the eye, and little to send.
const PROGRESS_PERIOD: Duration = Duration::from_millis(250);

/// Locks by digest. Whoever comes second waits, and then finds the work done.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    locks: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

impl Flights {
    /// Waits until nobody else works on this digest.
    pub(crate) async fn enter(&self, digest: &Digest) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            if let Some(lock) = locks.get(digest).and_then(Weak::upgrade) {
                lock
            } else {
                let lock = Arc::default();
                locks.insert(digest.clone(), Arc::downgrade(&lock));
                lock
            }
        };
        lock.lock_owned().await
    }
}

/// Tells blocking work, when dropped, that nobody waits for it any more.
#[derive(Debug, Default)]
pub(crate) struct Interest(Arc<AtomicBool>);

impl Interest {
    /// The other end.
    pub(crate) fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.0))
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Knows whether somebody still waits.
#[derive(Clone, Debug)]
pub(crate) struct Watch(Arc<AtomicBool>);

impl Watch {
    /// A reader that fails once nobody waits, and passes the number of bytes of each read to `count`.
    pub(crate) fn reader<R: Read>(self, inner: R, count: impl FnMut(u64)) -> impl Read {
        Watched { inner, watch: self, count }
    }
}

struct Watched<R, F> {
    inner: R,
    watch: Watch,
    count: F,
}

impl<R: Read, F: FnMut(u64)> Read for Watched<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.watch.0.load(Ordering::Relaxed) {
            return Err(ImageError::cancellation());
        }
        let length = self.inner.read(buffer)?;
        (self.count)(length as u64);
        Ok(length)
    }
}

/// Bytes of one pull, reported now and then.
pub(crate) struct Progress {
    sink: ProgressSink,
    total: u64,
    done: AtomicU64,
    last: Mutex<Option<Instant>>,
}

impl Progress {
    /// Starts at 0 of `total`, and reports that.
    pub(crate) fn new(sink: ProgressSink, total: u64) -> Self {
        let progress = Self { sink, total, done: AtomicU64::new(0), last: Mutex::new(None) };
        progress.add(0);
        progress
    }

    /// Counts bytes that came.
    pub(crate) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        let now = Instant::now();
        {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|last| now.duration_since(last) < PROGRESS_PERIOD) {
                return;
            }
            *last = Some(now);
        }
        self.report(self.done.load(Ordering::Relaxed));
    }

    /// Takes back bytes that must come again.
    pub(crate) fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn report(&self, done: u64) {
        (self.sink)(PullProgress { done: done.min(self.total), total: self.total });
    }
}
