//! What the agent has to say: the newest report of each subject, kept until the server has it.
//!
//! Reports outlive sessions. Sequences do not: each session numbers what it sends from 1, and a new session sends again
//! all that is kept.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longshore_model::app::{AppState, InstanceState};
use longshore_model::name::{AppName, JobId};
use longshore_model::report::{AppReport, TaskReport};
use tokio::sync::Notify;

use crate::runtime::InstanceKey;

/// What reports are about; there is one newest report for each.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// An attempt of a task.
    Task(JobId, u32),
    /// An app.
    App(AppName),
}

/// A report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Of a task.
    Task(TaskReport),
    /// Of an app.
    App(AppReport),
}

impl Report {
    fn subject(&self) -> Subject {
        match self {
            Self::Task(report) => Subject::Task(report.job.clone(), report.attempt),
            Self::App(report) => Subject::App(report.app.clone()),
        }
    }

    /// Whether nothing that is said later of the subject may replace it.
    fn is_last_word(&self) -> bool {
        matches!(self, Self::Task(report) if report.state.is_end())
    }
}

/// What an acknowledgement settles that somebody must remember.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The server has the end of this attempt.
    Ended(JobId, u32),
    /// The server knows that this app is gone.
    Removed(AppName),
}

#[derive(Debug)]
struct Kept {
    report: Report,
    /// Counts the reports of all subjects: which is newer, and which subject has waited longest.
    version: u64,
}

/// The reports of one agent: pure bookkeeping, for [`Reporter`] to share.
#[derive(Debug, Default)]
struct Book {
    /// Bounded by the apps that a node may have: a task and an app report for each, and ends not acknowledged yet.
    kept: BTreeMap<Subject, Kept>,
    /// Subjects by the version that is to be sent.
    unsent: BTreeMap<u64, Subject>,
    in_flight: HashMap<u64, (Subject, u64)>,
    last_version: u64,
    last_sequence: u64,
    /// The last word on each app that is here, acknowledged or not.
    apps: BTreeMap<AppName, AppReport>,
}

impl Book {
    fn put(&mut self, report: Report) -> bool {
        if let Report::App(report) = &report {
            if report.status.state == AppState::Removed {
                self.apps.remove(&report.app);
            } else {
                self.apps.insert(report.app.clone(), report.clone());
            }
        }
        let subject = report.subject();
        if let Some(kept) = self.kept.get(&subject) {
            if kept.report == report || (kept.report.is_last_word() && !report.is_last_word()) {
                return false;
            }
            self.unsent.remove(&kept.version);
        }
        self.last_version += 1;
        self.unsent.insert(self.last_version, subject.clone());
        self.kept.insert(subject, Kept { report, version: self.last_version });
        true
    }

    fn drop_unfinished(&mut self, job: &JobId, attempt: u32) {
        let subject = Subject::Task(job.clone(), attempt);
        if self.kept.get(&subject).is_some_and(|kept| !kept.report.is_last_word())
            && let Some(kept) = self.kept.remove(&subject)
        {
            self.unsent.remove(&kept.version);
        }
    }

    fn begin_session(&mut self) {
        self.in_flight.clear();
        self.last_sequence = 0;
        self.unsent = self.kept.iter().map(|(subject, kept)| (kept.version, subject.clone())).collect();
    }

    fn take(&mut self, limit: usize) -> Option<(u64, Report)> {
        if self.in_flight.len() >= limit {
            return None;
        }
        let (version, subject) = self.unsent.pop_first()?;
        let report = self.kept.get(&subject)?.report.clone();
        self.last_sequence += 1;
        self.in_flight.insert(self.last_sequence, (subject, version));
        Some((self.last_sequence, report))
    }

    fn acknowledge(&mut self, sequence: u64) -> Option<Settled> {
        let (subject, version) = self.in_flight.remove(&sequence)?;
        if self.kept.get(&subject).is_none_or(|kept| kept.version != version) {
            return None;
        }
        match self.kept.remove(&subject)?.report {
            Report::Task(report) if report.state.is_end() => Some(Settled::Ended(report.job, report.attempt)),
            Report::App(report) if report.status.state == AppState::Removed => Some(Settled::Removed(report.app)),
            _ => None,
        }
    }
}

/// Shared by the workers, which put reports in, and the session, which sends them.
#[derive(Clone, Debug, Default)]
pub struct Reporter {
    book: Arc<Mutex<Book>>,
    news: Arc<Notify>,
}

/// How the node's apps are, as last reported, and what the server has not heard yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// State of each app that is here.
    pub apps: Vec<AppState>,
    /// State of each instance.
    pub instances: Vec<InstanceState>,
    /// Reports without an acknowledgement.
    pub unacknowledged: usize,
}

impl Reporter {
    /// Keeps a task's report until it is acknowledged or there is a newer one. After the end of an attempt, what is said
    /// of its earlier steps is dropped.
    pub fn task(&self, report: TaskReport) {
        self.put(Report::Task(report));
    }

    /// Keeps an app's report until it is acknowledged or there is a newer one.
    pub fn app(&self, report: AppReport) {
        self.put(Report::App(report));
    }

    /// Drops what is kept of an attempt that has not ended and that nobody asks for any more.
    pub fn drop_unfinished(&self, job: &JobId, attempt: u32) {
        self.book().drop_unfinished(job, attempt);
    }

    /// Begins a new session: sequences start at 1, and all that is kept is to be sent again.
    pub fn begin_session(&self) {
        self.book().begin_session();
    }

    /// The next report to send with its sequence, the one that has waited longest first; waits until there is one and
    /// fewer than `limit` are without an acknowledgement. Cancel-safe.
    pub async fn next(&self, limit: usize) -> (u64, Report) {
        loop {
            let news = self.news.notified();
            if let Some(next) = self.book().take(limit) {
                return next;
            }
            news.await;
        }
    }

    /// The server has the report of that sequence of this session.
    pub fn acknowledge(&self, sequence: u64) -> Option<Settled> {
        let settled = self.book().acknowledge(sequence);
        self.news.notify_one();
        settled
    }

    /// Keeps the last word on each of these apps once more, for a server that has forgotten it.
    pub fn say_again(&self, apps: &[AppName]) {
        let words: Vec<AppReport> = {
            let book = self.book();
            apps.iter().filter_map(|app| book.apps.get(app)).cloned().collect()
        };
        words.into_iter().for_each(|report| self.app(report));
    }

    /// How many apps there are, how they are, and what the server has not acknowledged.
    #[must_use]
    pub fn census(&self) -> Census {
        let book = self.book();
        Census {
            apps: book.apps.values().map(|report| report.status.state).collect(),
            instances: book.apps.values().flat_map(|report| &report.status.instances).map(|one| one.state).collect(),
            unacknowledged: book.kept.len(),
        }
    }

    /// Instances that run, as last reported.
    #[must_use]
    pub fn running(&self) -> Vec<InstanceKey> {
        let book = self.book();
        let instances =
            book.apps.values().flat_map(|report| report.status.instances.iter().map(move |one| (report, one)));
        let running = instances.filter(|(_, instance)| instance.state == InstanceState::Running);
        running.map(|(report, one)| InstanceKey { app: report.app.clone(), index: one.index }).collect()
    }

    fn put(&self, report: Report) {
        if self.book().put(report) {
            self.news.notify_one();
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Every change of the book is whole before anything can panic.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use longshore_model::app::AppStatus;
    use longshore_model::task::TaskState;
    use proptest::prelude::*;

    use super::*;

    fn report(attempt: u32, state: TaskState) -> Report {
        let job = JobId::parse("01jd0000000000000000000000").unwrap();
        Report::Task(TaskReport { job, attempt, state, pull: None, failure: None })
    }

    #[derive(Clone, Debug)]
    enum Step {
        Say(u32, TaskState),
        Send,
        Acknowledge(usize),
        Reconnect,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let states = prop::sample::select(vec![
            TaskState::Checking,
            TaskState::Pulling,
            TaskState::Settling,
            TaskState::Succeeded,
            TaskState::Failed,
        ]);
        let step = prop_oneof![
            (1..4u32, states).prop_map(|(attempt, state)| Step::Say(attempt, state)),
            Just(Step::Send),
            any::<usize>().prop_map(Step::Acknowledge),
            Just(Step::Reconnect),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        /// Whatever is said, sent, acknowledged and cut off: in the end the server has the newest of each subject, an
        /// end is never replaced by an earlier step, and no more than the limit are ever on their way.
        #[test]
        fn the_newest_of_each_subject_arrives(steps in steps()) {
            const LIMIT: usize = 2;
            let mut book = Book::default();
            let mut newest: HashMap<u32, Report> = HashMap::new();
            let mut server: HashMap<u32, Report> = HashMap::new();
            let mut on_their_way: Vec<(u64, Report)> = Vec::new();
            let receive = |server: &mut HashMap<u32, Report>, report: &Report| {
                if let Report::Task(task) = report {
                    server.insert(task.attempt, report.clone());
                }
            };
            for step in steps {
                match step {
                    Step::Say(attempt, state) => {
                        let said = report(attempt, state);
                        // What the server has acknowledged is the agent's ledger's to remember.
                        let is_after_end = newest.get(&attempt).is_some_and(|r| r.is_last_word()) && !said.is_last_word();
                        if !is_after_end {
                            book.put(said.clone());
                            newest.insert(attempt, said);
                        }
                    }
                    Step::Send => on_their_way.extend(book.take(LIMIT)),
                    // A stream keeps its order: the server commits what came so far, and acknowledges all of it.
                    Step::Acknowledge(which) if !on_their_way.is_empty() => {
                        let committed = which % on_their_way.len() + 1;
                        for (sequence, report) in on_their_way.drain(..committed) {
                            receive(&mut server, &report);
                            book.acknowledge(sequence);
                        }
                    }
                    Step::Acknowledge(_) => {}
                    Step::Reconnect => {
                        on_their_way.clear();
                        book.begin_session();
                    }
                }
                prop_assert!(book.in_flight.len() <= LIMIT);
            }
            book.begin_session();
            while let Some((sequence, report)) = book.take(LIMIT) {
                receive(&mut server, &report);
                book.acknowledge(sequence);
            }
            prop_assert!(book.kept.is_empty());
            prop_assert_eq!(server, newest);
        }
    }

    #[test]
    fn the_census_counts_what_is_here_and_what_is_unheard() {
        let reporter = Reporter::default();
        let say = |app: &str, state| {
            let status = AppStatus { state, ..AppStatus::default() };
            reporter.app(AppReport { app: AppName::parse(app).unwrap(), revision: 1, attempt: 1, status });
        };
        say("a-1", AppState::Starting);
        say("a-1", AppState::Running);
        say("b-1", AppState::Running);
        say("b-1", AppState::Removed);
        let census = reporter.census();
        assert_eq!((census.apps, census.unacknowledged), (vec![AppState::Running], 2));
        let (sequence, _) = reporter.book().take(1).unwrap();
        reporter.acknowledge(sequence);
        assert_eq!(reporter.census().unacknowledged, 1);
    }

    #[test]
    fn a_step_never_replaces_an_end() {
        let mut book = Book::default();
        book.put(report(1, TaskState::Failed));
        assert!(!book.put(report(1, TaskState::Pulling)));
        assert_eq!(book.take(1).unwrap().1, report(1, TaskState::Failed));
    }

    #[test]
    fn an_acknowledgement_of_an_older_report_settles_nothing() {
        let mut book = Book::default();
        book.put(report(1, TaskState::Settling));
        let (old, _) = book.take(2).unwrap();
        book.put(report(1, TaskState::Succeeded));
        assert_eq!(book.acknowledge(old), None);
        let (sequence, sent) = book.take(2).unwrap();
        assert_eq!(sent, report(1, TaskState::Succeeded));
        assert!(matches!(book.acknowledge(sequence), Some(Settled::Ended(_, 1))));
        assert_eq!(book.acknowledge(sequence), None);
    }
}
