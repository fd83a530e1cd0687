//! Watches of jobs: messages, bookmarks, and the cursors by which a watch that was cut off goes on.
//!
//! A cursor stands for what its reader has been told: the job's version, and how far in the order of the changes of its
//! tasks ([`Seen`]). Both are in the database, so that a cursor outlives the server. The database's epoch is in it as
//! well: versions of a database that was put back to an older state, or of another one, mean nothing here.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use longshore_model::job::Job;
use longshore_model::name::JobId;
use longshore_model::validate::{Path, Violations};
use longshore_proto::v1;
use prost::Message;
use tokio::time::timeout;
use tonic::Status;

use super::pages::{self, Listing};
use super::status;
use crate::hub::{News, Subscription};
use crate::store::Seen;

/// Tasks in one message of a watch, as the protocol promises.
const WATCHED_TASKS: usize = 1_000;
/// Silence after which a bookmark is sent, as the protocol promises: it tells a reader that it is still connected and
/// up to date, and the server, where HTTP/1.1 has no PINGs, that the reader is still there.
pub const BOOKMARK_INTERVAL: Duration = Duration::from_secs(30);
/// Stands between the parts of a cursor; none of them can hold it.
const SEPARATOR: char = '/';

/// What a reader of a job's watch was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    epoch: i64,
    job: JobId,
    /// Version of the job that was told.
    version: u64,
    /// Tasks that were told.
    seen: Seen,
}

/// Why a watch cannot go on from a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CursorRefused {
    /// It is of another job.
    OtherJob,
    /// It is of a history that is not the database's.
    OtherHistory,
}

impl Cursor {
    /// The cursor in a request; `None` if it holds none.
    pub(super) fn read(text: &str, bad: &mut Violations) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        let cursor = listing().open(text).and_then(|text| Self::parse(&text));
        if cursor.is_none() {
            bad.add(Path::Root.field("cursor"), "is not a cursor that a message of a watch held");
        }
        cursor
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(SEPARATOR);
        let mut next = || parts.next();
        Some(Self {
            epoch: next()?.parse().ok()?,
            job: JobId::parse(next()?).ok()?,
            version: next()?.parse().ok()?,
            seen: Seen { version: next()?.parse().ok()?, node: next()?.to_owned() },
        })
    }

    fn text(&self) -> String {
        let Self { epoch, job, version, seen } = self;
        let s = SEPARATOR;
        listing().token(&format!("{epoch}{s}{job}{s}{version}{s}{}{s}{}", seen.version, seen.node))
    }

    /// Whether a watch of this job can go on from here.
    pub(super) fn check(&self, job: &JobId, epoch: i64) -> Result<(), CursorRefused> {
        if self.job != *job {
            return Err(CursorRefused::OtherJob);
        }
        if self.epoch != epoch { Err(CursorRefused::OtherHistory) } else { Ok(()) }
    }

    /// Whether the job as it now is can have been told by this cursor's watch.
    pub(super) fn check_version(&self, job: &Job) -> Result<(), CursorRefused> {
        if self.version > job.version { Err(CursorRefused::OtherHistory) } else { Ok(()) }
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn seen(&self) -> &Seen {
        &self.seen
    }
}

fn listing() -> Listing<'static> {
    Listing::new("WatchJob", &[])
}

/// A watch that has begun.
pub(super) struct Watch {
    pub(super) subscription: Subscription,
    pub(super) epoch: i64,
}

impl Watch {
    /// The stream: ends after the message that shows the job at rest with nothing left to tell.
    pub(super) fn messages(self) -> BoxStream<'static, Result<v1::WatchJobResponse, Status>> {
        let resumed_up_to_date = self.subscription.idle().is_some();
        let news = stream::unfold(Some((self, resumed_up_to_date)), |place| async move {
            let (mut watch, bookmark_now) = place?;
            let silence = if bookmark_now { Duration::ZERO } else { BOOKMARK_INTERVAL };
            match timeout(silence, watch.subscription.next(WATCHED_TASKS)).await {
                Ok(Ok(news)) => {
                    let is_last = !news.more && news.job.state().is_at_rest();
                    let messages = watch.tell(&news).into_iter().map(Ok).collect();
                    Some((messages, (!is_last).then_some((watch, false))))
                }
                Ok(Err(error)) => Some((vec![Err(status::hub(error))], None)),
                // Not idle any more: what came in this moment is told next.
                Err(_) => match watch.subscription.idle() {
                    None => Some((Vec::new(), Some((watch, false)))),
                    Some(job) => {
                        let is_last = job.state().is_at_rest();
                        let bookmark = watch.bookmark(&job);
                        Some((vec![Ok(bookmark)], (!is_last).then_some((watch, false))))
                    }
                },
            }
        });
        news.flat_map(|messages: Vec<_>| stream::iter(messages)).boxed()
    }

    fn cursor(&self, job: &Job, seen: Seen) -> String {
        Cursor { epoch: self.epoch, job: job.id.clone(), version: job.version, seen }.text()
    }

    fn bookmark(&self, job: &Arc<Job>) -> v1::WatchJobResponse {
        v1::WatchJobResponse { cursor: self.cursor(job, Seen::all_of(job.version)), ..Default::default() }
    }

    /// News as messages, none of them larger than clients take.
    fn tell(&self, news: &News) -> Vec<v1::WatchJobResponse> {
        let job = v1::Job::from(news.job.as_ref());
        let mut rest = news.tasks.as_slice();
        let mut tasks: Vec<v1::Task> = rest.iter().map(|task| v1::Task::from(task.as_ref())).collect();
        let mut messages = Vec::new();
        let room = pages::MAX_PAGE_BYTES.saturating_sub(job.encoded_len());
        loop {
            let later = tasks.split_off(pages::fitting(&tasks, room));
            let (told, waiting) = rest.split_at(tasks.len());
            let seen = match told.last().filter(|_| !waiting.is_empty()) {
                Some(last) => Seen::up_to(last),
                None => news.seen.clone(),
            };
            messages.push(v1::WatchJobResponse { job: Some(job.clone()), tasks, cursor: self.cursor(&news.job, seen) });
            if later.is_empty() {
                return messages;
            }
            (tasks, rest) = (later, waiting);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A test may fail by panicking.
mod tests {
    use super::*;

    fn cursor(node: &str) -> Cursor {
        let job = JobId::parse("01arz3ndektsv4rrffq69g5fav").unwrap();
        Cursor { epoch: -7, job, version: 12, seen: Seen { version: 9, node: node.to_owned() } }
    }

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        for node in ["", "shop-1"] {
            let mut bad = Violations::default();
            assert_eq!(Cursor::read(&cursor(node).text(), &mut bad).as_ref(), Some(&cursor(node)));
            assert!(bad.0.is_empty());
        }
        for text in ["x", "????", &cursor("").text()[1..], &Listing::new("ListJobs", &[]).token("1/2/3/4/5")] {
            let mut bad = Violations::default();
            assert_eq!(Cursor::read(text, &mut bad), None);
            assert_eq!(bad.0[0].field, "cursor", "{text}");
        }
    }

    #[test]
    fn a_cursor_is_good_for_its_job_in_its_history() {
        let other = JobId::parse("01arz3ndektsv4rrffq69g5faw").unwrap();
        let cursor = cursor("");
        assert_eq!(cursor.check(&cursor.job, -7), Ok(()));
        assert_eq!(cursor.check(&other, -7), Err(CursorRefused::OtherJob));
        assert_eq!(cursor.check(&cursor.job, 7), Err(CursorRefused::OtherHistory));
    }
}
