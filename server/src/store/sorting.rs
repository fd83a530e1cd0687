//! What each list can be sorted by, and which part of it is asked for.

use std::sync::Arc;

use jiff::Timestamp;
use longshore_model::admission::PendingNode;
use longshore_model::app::App;
use longshore_model::audit::AuditEntry;
use longshore_model::configuration::Configuration;
use longshore_model::event::AppEvent;
use longshore_model::job::Job;
use longshore_model::node::Node;
use longshore_model::sorting::{Position, SortKey, SortValue, Sorting, Term};
use longshore_model::task::Task;
use longshore_model::template::Template;
use longshore_model::user::User;

use super::{Page, StoredCredential, StoredToken};

/// An item of a list.
pub trait Sorted {
    /// What the list can be sorted by.
    type Key: SortKey;

    /// What the item has there.
    fn sort_value(&self, key: Self::Key) -> SortValue;
}

/// A part of a list.
#[derive(Clone, Debug)]
pub struct Query<K> {
    /// The order of the list.
    pub sorting: Sorting<K>,
    /// Where the item before the part is, or was.
    pub after: Option<Position>,
    /// Most items.
    pub limit: usize,
}

impl<K: SortKey> Query<K> {
    /// The beginning of a list in its own order.
    #[must_use]
    pub fn first(limit: usize) -> Self {
        Self { sorting: Sorting::default(), after: None, limit }
    }

    /// What follows a page; `None` after the last one.
    #[must_use]
    pub fn next<T: Sorted<Key = K>>(self, page: &Page<T>) -> Option<Self> {
        let last = page.items.last().filter(|_| page.more)?;
        let after = Some(self.place(last));
        Some(Self { after, ..self })
    }

    /// The place of an item in this list.
    pub fn place<T: Sorted<Key = K>>(&self, item: &T) -> Position {
        self.sorting.position(|key| item.sort_value(key))
    }
}

fn text(text: impl ToString) -> SortValue {
    SortValue::Text(text.to_string())
}

fn time(time: Timestamp) -> SortValue {
    SortValue::Time(time)
}

/// What jobs can be sorted by: all of it is decided when they are created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKey {
    /// When it was created.
    CreateTime,
    /// The app's whole name.
    App,
    /// The name that the spec gives.
    SpecName,
    /// The identifier, which sorts as the moment of creation does.
    Id,
}

impl SortKey for JobKey {
    const ALL: &'static [(&'static str, Self)] = &[
        ("create_time", Self::CreateTime),
        ("app_name", Self::App),
        ("spec.name", Self::SpecName),
        ("job_id", Self::Id),
    ];
    const UNIQUE: &'static [Self] = &[Self::Id];
    const DEFAULT: &'static [Term<Self>] = &[Term::descending(Self::Id)];
}

impl Sorted for Arc<Job> {
    type Key = JobKey;

    fn sort_value(&self, key: JobKey) -> SortValue {
        match key {
            JobKey::CreateTime => time(self.create_time),
            JobKey::App => text(&self.app),
            JobKey::SpecName => text(&self.spec.name),
            JobKey::Id => text(&self.id),
        }
    }
}

/// What tasks of one job can be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKey {
    /// The node.
    Node,
}

impl SortKey for TaskKey {
    const ALL: &'static [(&'static str, Self)] = &[("node_name", Self::Node)];
    const UNIQUE: &'static [Self] = &[Self::Node];
    const DEFAULT: &'static [Term<Self>] = &[Term::ascending(Self::Node)];
}

impl Sorted for Task {
    type Key = TaskKey;

    fn sort_value(&self, TaskKey::Node: TaskKey) -> SortValue {
        text(&self.node)
    }
}

/// What nodes can be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKey {
    /// The name.
    Name,
    /// When it enrolled; a node that enrols anew changes its place.
    EnrollTime,
}

impl SortKey for NodeKey {
    const ALL: &'static [(&'static str, Self)] = &[("name", Self::Name), ("enroll_time", Self::EnrollTime)];
    const UNIQUE: &'static [Self] = &[Self::Name];
    const DEFAULT: &'static [Term<Self>] = &[Term::ascending(Self::Name)];
}

impl Sorted for Node {
    type Key = NodeKey;

    fn sort_value(&self, key: NodeKey) -> SortValue {
        match key {
            NodeKey::Name => text(&self.name),
            NodeKey::EnrollTime => time(self.enroll_time),
        }
    }
}

/// What apps can be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppKey {
    /// The node.
    Node,
    /// The app's name.
    Name,
}

impl SortKey for AppKey {
    const ALL: &'static [(&'static str, Self)] = &[("node_name", Self::Node), ("app_name", Self::Name)];
    const UNIQUE: &'static [Self] = &[Self::Node, Self::Name];
    const DEFAULT: &'static [Term<Self>] = &[Term::ascending(Self::Node), Term::ascending(Self::Name)];
}

impl Sorted for App {
    type Key = AppKey;

    fn sort_value(&self, key: AppKey) -> SortValue {
        match key {
            AppKey::Node => text(&self.node),
            AppKey::Name => text(&self.name),
        }
    }
}

/// What events of apps can be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKey {
    /// The app's name.
    App,
    /// The node.
    Node,
    /// The number, which grows in the order in which things first happened to an app on a node.
    Number,
}

impl SortKey for EventKey {
    const ALL: &'static [(&'static str, Self)] =
        &[("app_name", Self::App), ("node_name", Self::Node), ("number", Self::Number)];
    const UNIQUE: &'static [Self] = &[Self::App, Self::Node, Self::Number];
    const DEFAULT: &'static [Term<Self>] =
        &[Term::ascending(Self::App), Term::ascending(Self::Node), Term::ascending(Self::Number)];
}

impl Sorted for AppEvent {
    type Key = EventKey;

    fn sort_value(&self, key: EventKey) -> SortValue {
        match key {
            EventKey::App => text(&self.app),
            EventKey::Node => text(&self.node),
            EventKey::Number => SortValue::Number(self.number),
        }
    }
}

/// What enrolment tokens can be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKey {
    /// The identifier.
    Id,
    /// When it was made.
    CreateTime,
    /// When it ends.
    ExpireTime,
}

impl SortKey for TokenKey {
    const ALL: &'static [(&'static str, Self)] =
        &[("token_id", Self::Id), ("create_time", Self::CreateTime), ("expire_time", Self::ExpireTime)];
    const UNIQUE: &'static [Self] = &[Self::Id];
    const DEFAULT: &'static [Term<Self>] = &[Term::ascending(Self::Id)];
}

impl Sorted for StoredToken {
    type Key = TokenKey;

    fn sort_value(&self, key: TokenKey) -> SortValue {
        match key {
            TokenKey::Id => text(&self.id),
            TokenKey::CreateTime => time(self.create_time),
            TokenKey::ExpireTime => time(self.expire_time),
        }
    }
}

/// What lists of things with a name and a beginning can be sorted by: machines that wait, users, registry credentials,
/// config maps, secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKey {
    /// The name.
    Name,
    /// When it was made.
    CreateTime,
}

impl SortKey for NameKey {
    const ALL: &'static [(&'static str, Self)] = &[("name", Self::Name), ("create_time", Self::CreateTime)];
    const UNIQUE: &'static [Self] = &[Self::Name];
    const DEFAULT: &'static [Term<Self>] = &[Term::ascending(Self::Name)];
}

impl Sorted for PendingNode {
    type Key = NameKey;

    fn sort_value(&self, key: NameKey) -> SortValue {
        match key {
            NameKey::Name => text(&self.name),
            NameKey::CreateTime => time(self.create_time),
        }
    }
}

impl Sorted for User {
    type Key = NameKey;

    fn sort_value(&self, key: NameKey) -> SortValue {
        match key {
            NameKey::Name => text(&self.name),
            NameKey::CreateTime => time(self.create_time),
        }
    }
}

impl Sorted for Configuration {
    type Key = NameKey;

    fn sort_value(&self, key: NameKey) -> SortValue {
        match key {
            NameKey::Name => text(&self.name),
            NameKey::CreateTime => time(self.create_time),
        }
    }
}

impl Sorted for StoredCredential {
    type Key = NameKey;

    fn sort_value(&self, key: NameKey) -> SortValue {
        match key {
            NameKey::Name => text(&self.credential.name),
            NameKey::CreateTime => time(self.credential.create_time),
        }
    }
}

/// What versions of templates can be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateSort {
    /// The template's name.
    Name,
    /// The version, as a text.
    Version,
    /// The architecture.
    Architecture,
    /// When it was made.
    CreateTime,
}

impl SortKey for TemplateSort {
    const ALL: &'static [(&'static str, Self)] = &[
        ("name", Self::Name),
        ("version", Self::Version),
        ("architecture", Self::Architecture),
        ("create_time", Self::CreateTime),
    ];
    const UNIQUE: &'static [Self] = &[Self::Name, Self::Version, Self::Architecture];
    const DEFAULT: &'static [Term<Self>] =
        &[Term::ascending(Self::Name), Term::ascending(Self::Version), Term::ascending(Self::Architecture)];
}

impl Sorted for Template {
    type Key = TemplateSort;

    fn sort_value(&self, key: TemplateSort) -> SortValue {
        match key {
            TemplateSort::Name => text(&self.key.name),
            TemplateSort::Version => text(&self.key.version),
            TemplateSort::Architecture => text(&self.key.architecture),
            TemplateSort::CreateTime => time(self.create_time),
        }
    }
}

/// What entries of the audit log can be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditKey {
    /// The number, which grows with time.
    Number,
}

impl SortKey for AuditKey {
    const ALL: &'static [(&'static str, Self)] = &[("number", Self::Number)];
    const UNIQUE: &'static [Self] = &[Self::Number];
    const DEFAULT: &'static [Term<Self>] = &[Term::descending(Self::Number)];
}

impl Sorted for AuditEntry {
    type Key = AuditKey;

    fn sort_value(&self, AuditKey::Number: AuditKey) -> SortValue {
        SortValue::Number(self.number)
    }
}
