//! What of this node its apps hold, so that no more is promised than there is.
//!
//! One table for all apps of this node: deployments that run at once cannot race for the last of it. The decision is
//! [`longshore_model::capacity::admit`].

use std::sync::{Mutex, MutexGuard, PoisonError};

use longshore_model::capacity::{Amounts, Held, Insufficient, admit};
use longshore_model::name::AppName;

use crate::ledger::{Entry, Wish};

/// What of this node is for apps, and who holds it.
#[derive(Debug, Default)]
pub struct CapacityTable {
    capacity: Amounts,
    held: Mutex<Held>,
}

impl CapacityTable {
    /// A table of a node that has so much for apps: what the machine has without what is kept for the system.
    #[must_use]
    pub fn new(capacity: Amounts) -> Self {
        Self { capacity, held: Mutex::default() }
    }

    /// What of this node is for apps, whoever holds it.
    #[must_use]
    pub fn capacity(&self) -> Amounts {
        self.capacity
    }

    /// Notes what an app holds already, as at the agent's start: it was admitted then.
    pub fn adopt(&self, entry: &Entry) {
        let amounts = held_by(entry);
        if !amounts.is_nothing() {
            self.held().insert(entry.assignment.app.clone(), amounts);
        }
    }

    /// Lets an app hold what it asks for, if that is free. What it holds beyond that it keeps, for the revision before an
    /// update may have to come back.
    ///
    /// # Errors
    ///
    /// There is too little; the app holds what it held before.
    pub fn admit(&self, app: &AppName, asked: Amounts) -> Result<(), Insufficient> {
        let mut held = self.held();
        admit(self.capacity, &held, app, asked)?;
        if !asked.is_nothing() {
            let own = held.entry(app.clone()).or_default();
            *own = own.max(asked);
        }
        Ok(())
    }

    /// As [`CapacityTable::admit`], and the app holds no more for it.
    ///
    /// # Errors
    ///
    /// There is too little.
    pub fn foresee(&self, app: &AppName, asked: Amounts) -> Result<(), Insufficient> {
        admit(self.capacity, &self.held(), app, asked)
    }

    /// Gives up what an app holds beyond `needed`.
    pub fn shrink(&self, app: &AppName, needed: Amounts) {
        if let Some(amounts) = self.held().get_mut(app) {
            *amounts = amounts.min(needed);
        }
    }

    /// Gives up all that an app holds.
    pub fn release(&self, app: &AppName) {
        self.held().remove(app);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Each change is whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an app needs by what is remembered of it: for what was prepared, and for the revision before an update.
fn held_by(entry: &Entry) -> Amounts {
    let is_prepared = entry.prepared.as_ref().is_some_and(|known| known.revision == entry.assignment.revision);
    let is_due = is_prepared && !entry.is_failed_update();
    let assigned = if is_due { Amounts::of(&entry.assignment.spec) } else { Amounts::default() };
    let proven = entry.proven_spec().map(Amounts::of).unwrap_or_default();
    if entry.wish == Wish::Gone { Amounts::default() } else { assigned.max(proven) }
}

/// What an app needs at most from now on: both revisions of an update are counted, but never at the same time.
#[must_use]
pub fn needed_by(entry: &Entry) -> Amounts {
    let specs = [Some(&*entry.assignment.spec).filter(|_| !entry.is_failed_update()), entry.proven_spec()];
    specs.into_iter().flatten().map(Amounts::of).fold(Amounts::default(), Amounts::max)
}
