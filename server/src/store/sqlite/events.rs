//! The history of what happened to apps.

use jiff::Timestamp;
use longshore_model::app::AppStatus;
use longshore_model::event::{self, AppEvent, EventKind, Happening, History, Taken};
use longshore_model::limits::MAX_ALL_APP_EVENTS;
use longshore_model::name::{AppName, NodeName};
use rusqlite::{Connection, Row, params};

use super::batch::Batch;
use super::pages::{self, Source};
use super::rows;
use crate::store::sorting::{EventKey, Query};
use crate::store::{EventsOf, Page, StoreError};

const COLUMNS: &str = "SELECT app, node, number, kind, instance, revision, exit_code, message, node_time, count, first_time, \
     last_time FROM app_event";
/// Events that one write forgets: some 50 ms in which nothing else is written.
const MAX_FORGOTTEN: u64 = 10_000;

/// A kind that a newer server has written, and that this one does not know.
#[derive(Debug, thiserror::Error)]
#[error("there is no kind of event {0:?}")]
struct UnknownKind(String);

fn read_event(row: &Row<'_>) -> rusqlite::Result<AppEvent> {
    let word = row.get_ref(3)?.as_str()?;
    let kind = EventKind::ALL.into_iter().find(|kind| kind.as_str() == word);
    let what = Happening {
        kind: kind.ok_or_else(|| rows::unreadable(3, UnknownKind(word.to_owned())))?,
        instance: row.get(4)?,
        revision: rows::unsigned(row, 5)?,
        exit_code: row.get(6)?,
        message: row.get(7)?,
        node_time: rows::optional_time(row, 8)?,
        count: row.get(9)?,
    };
    Ok(AppEvent {
        app: rows::name(row, 0)?,
        node: rows::name(row, 1)?,
        number: rows::unsigned(row, 2)?,
        what,
        first_time: rows::time(row, 10)?,
        last_time: rows::time(row, 11)?,
    })
}

/// A part of the history.
pub(super) fn many(sql: &Connection, of: &EventsOf, query: &Query<EventKey>) -> Result<Page<AppEvent>, StoreError> {
    pages::page(sql, source(of), query, read_event)
}

/// The rows of what is asked for.
pub(super) fn source(of: &EventsOf) -> Source<'static> {
    let mut source = Source::all(COLUMNS);
    if let Some(app) = &of.app {
        source = source.and("app = ?", app.to_string());
    }
    if let Some(node) = &of.node {
        source = source.and("node = ?", node.to_string());
    }
    if let Some(instance) = of.instance {
        source = source.and("instance = ?", i64::from(instance));
    }
    if let Some(since) = of.since {
        // Without the sign the index by this column would be used, and every page sorted anew.
        source = source.and("+last_time >= ?", rows::micros(since));
    }
    source
}

impl Batch<'_> {
    /// Keeps what has happened to an app between two words of its node, the later of which is about `revision`.
    pub(super) fn note_changes(
        &mut self,
        place: (&AppName, &NodeName),
        revision: u64,
        before: &AppStatus,
        after: &AppStatus,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut history = self.history(place)?;
        event::between(&history, revision, before, after)
            .into_iter()
            .try_for_each(|what| self.keep(history.take(what, now)))
    }

    /// Keeps what has happened to an app on a node.
    pub(super) fn note_event(
        &mut self,
        place: (&AppName, &NodeName),
        what: Happening,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let taken = self.history(place)?.take(what, now);
        self.keep(taken)
    }

    fn history(&self, (app, node): (&AppName, &NodeName)) -> Result<History, StoreError> {
        let events = self
            .sql
            .prepare_cached(&format!("{COLUMNS} WHERE app = ?1 AND node = ?2"))?
            .query_map([app.as_str(), node.as_str()], read_event)?
            .collect::<rusqlite::Result<_>>()?;
        Ok(History { app: app.clone(), node: node.clone(), events })
    }

    fn keep(&self, Taken { event, instead_of }: Taken) -> Result<(), StoreError> {
        let AppEvent { app, node, number, what, first_time, last_time } = event;
        if let Some(old) = instead_of {
            self.sql
                .prepare_cached("DELETE FROM app_event WHERE app = ?1 AND node = ?2 AND number = ?3")?
                .execute(params![app.as_str(), node.as_str(), rows::signed(old)])?;
        }
        self.sql
            .prepare_cached(
                "INSERT INTO app_event (app, node, number, kind, instance, revision, exit_code, message, node_time, \
                 count, first_time, last_time) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) \
                 ON CONFLICT DO UPDATE SET node_time = excluded.node_time, count = excluded.count, \
                 last_time = excluded.last_time",
            )?
            .execute(params![
                app.as_str(),
                node.as_str(),
                rows::signed(number),
                what.kind.as_str(),
                what.instance,
                rows::signed(what.revision),
                what.exit_code,
                what.message,
                what.node_time.map(rows::micros),
                what.count,
                rows::micros(first_time),
                rows::micros(last_time),
            ])?;
        Ok(())
    }

    /// Forgets the history of a node's apps.
    pub(super) fn forget_events_of(&mut self, node: &NodeName) -> Result<(), StoreError> {
        self.sql.prepare_cached("DELETE FROM app_event WHERE node = ?1")?.execute([node.as_str()])?;
        Ok(())
    }

    /// Forgets some events: those that last happened before a moment, and those of which there are too many.
    pub(super) fn forget_events(&mut self, before: Timestamp) -> Result<usize, StoreError> {
        let all: i64 = self.sql.prepare_cached("SELECT count(*) FROM app_event")?.query_row([], |row| row.get(0))?;
        let spare = u64::try_from(all).unwrap_or_default().saturating_sub(MAX_ALL_APP_EVENTS).min(MAX_FORGOTTEN);
        let old = self
            .sql
            .prepare_cached(
                "DELETE FROM app_event WHERE (app, node, number) IN \
                 (SELECT app, node, number FROM app_event WHERE last_time < ?1 ORDER BY last_time LIMIT ?2)",
            )?
            .execute(params![rows::micros(before), rows::signed(MAX_FORGOTTEN)])?;
        let spare = spare.saturating_sub(old as u64);
        let too_many = self
            .sql
            .prepare_cached(
                "DELETE FROM app_event WHERE (app, node, number) IN \
                 (SELECT app, node, number FROM app_event ORDER BY last_time LIMIT ?1)",
            )?
            .execute([rows::signed(spare)])?;
        Ok(old + too_many)
    }
}
