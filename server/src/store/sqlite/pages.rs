//! Pages of lists, in any order that a list can have.
//!
//! A page begins after a place and not at a number: whatever is written between two pages, each item that stays comes once.

use longshore_model::sorting::{Direction, SortKey, SortValue, Term};
use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};

use super::rows;
use crate::store::sorting::{
    AppKey, AuditKey, EventKey, JobKey, NameKey, NodeKey, Query, TaskKey, TemplateSort, TokenKey,
};
use crate::store::{Page, StoreError};

/// Where the tables keep what a list is sorted by; never NULL.
pub(super) trait Column: SortKey {
    fn column(self) -> &'static str;
}

impl Column for JobKey {
    fn column(self) -> &'static str {
        match self {
            Self::CreateTime => "job.create_time",
            Self::App => "job.app",
            Self::SpecName => "job.spec_name",
            Self::Id => "job.id",
        }
    }
}

impl Column for TaskKey {
    fn column(self) -> &'static str {
        match self {
            Self::Node => "task.node",
        }
    }
}

impl Column for NodeKey {
    fn column(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::EnrollTime => "enroll_time",
        }
    }
}

impl Column for AppKey {
    fn column(self) -> &'static str {
        match self {
            Self::Node => "app.node",
            Self::Name => "app.name",
        }
    }
}

impl Column for EventKey {
    fn column(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Node => "node",
            Self::Number => "number",
        }
    }
}

impl Column for TokenKey {
    fn column(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::CreateTime => "create_time",
            Self::ExpireTime => "expire_time",
        }
    }
}

impl Column for NameKey {
    fn column(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::CreateTime => "create_time",
        }
    }
}

impl Column for TemplateSort {
    fn column(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Version => "version",
            Self::Architecture => "architecture",
            Self::CreateTime => "create_time",
        }
    }
}

impl Column for AuditKey {
    fn column(self) -> &'static str {
        match self {
            Self::Number => "number",
        }
    }
}

/// Rows to choose from: SQL from SELECT to before WHERE, conditions, and the values of `?1`, `?2`, … in them.
pub(super) struct Source<'a> {
    pub(super) select: &'a str,
    pub(super) conditions: Vec<&'a str>,
    pub(super) values: Vec<Value>,
}

impl<'a> Source<'a> {
    pub(super) fn all(select: &'a str) -> Self {
        Self { select, conditions: Vec::new(), values: Vec::new() }
    }

    /// Adds a condition on the value that becomes the next one; in the condition it is `?`.
    pub(super) fn and(mut self, condition: &'a str, value: impl Into<Value>) -> Self {
        self.conditions.push(condition);
        self.values.push(value.into());
        self
    }
}

/// A page of these rows.
pub(super) fn page<K: Column, T>(
    sql: &Connection,
    source: Source<'_>,
    query: &Query<K>,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Page<T>, StoreError> {
    let (text, values) = statement(source, query);
    let mut statement = sql.prepare_cached(&text)?;
    let mut items: Vec<T> = statement.query_map(params_from_iter(values), read)?.collect::<rusqlite::Result<_>>()?;
    let more = items.len() > query.limit;
    items.truncate(query.limit);
    Ok(Page { items, more })
}

/// The statement and its values. It asks for one row more than the page has, to see whether there are more.
pub(super) fn statement<K: Column>(source: Source<'_>, query: &Query<K>) -> (String, Vec<Value>) {
    let Source { select, conditions, mut values } = source;
    let mut conditions: Vec<String> = conditions.into_iter().map(str::to_owned).collect();
    let terms = query.sorting.terms();
    if let Some(after) = &query.after {
        let first = values.len() + 1;
        values.extend(after.0.iter().map(|value| match value {
            SortValue::Text(text) => Value::Text(text.clone()),
            SortValue::Time(time) => Value::Integer(rows::micros(*time)),
            SortValue::Number(number) => Value::Integer(rows::signed(*number)),
        }));
        conditions.push(beyond(terms, first));
    }
    let clause = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    let order: Vec<String> = terms
        .iter()
        .map(|term| format!("{}{}", term.key.column(), if is_descending(term) { " DESC" } else { "" }))
        .collect();
    values.push(Value::Integer(i64::try_from(query.limit).unwrap_or(i64::MAX).saturating_add(1)));
    (format!("{select}{clause} ORDER BY {} LIMIT ?{}", order.join(", "), values.len()), values)
}

fn is_descending<K>(term: &Term<K>) -> bool {
    term.direction == Direction::Descending
}

/// What says that a row comes after the place whose values begin at `?first`.
fn beyond<K: Column>(terms: &[Term<K>], first: usize) -> String {
    let sign = |term: &Term<K>| if is_descending(term) { '<' } else { '>' };
    let columns = || terms.iter().map(|term| term.key.column());
    let numbers = || (first..first + terms.len()).map(|number| format!("?{number}"));
    let Some(leading) = terms.first() else { return "1".to_owned() };
    if terms.iter().all(|term| term.direction == leading.direction) {
        // An index that has these columns leads right to the place.
        let list =
            |parts: Vec<String>| if terms.len() == 1 { parts.concat() } else { format!("({})", parts.join(", ")) };
        let (columns, numbers) = (list(columns().map(str::to_owned).collect()), list(numbers().collect()));
        return format!("{columns} {} {numbers}", sign(leading));
    }
    let mut condition = String::new();
    for ((term, column), number) in terms.iter().zip(columns()).zip(numbers()).rev() {
        let sign = sign(term);
        condition = match condition.as_str() {
            "" => format!("{column} {sign} {number}"),
            rest => format!("({column} {sign} {number} OR ({column} = {number} AND {rest}))"),
        };
    }
    // The bound of the leading column lets an index skip what comes before.
    format!("{} {}= ?{first} AND {condition}", leading.key.column(), sign(leading))
}
