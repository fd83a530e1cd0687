//! The conformance suite on SQLite, and what only this store promises.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets the unexpected must fail"
)]

use std::sync::Arc;

use tempfile::TempDir;

use super::SqliteStore;
use crate::store::conformance::{Factory, conformance_suite};
use crate::store::{Observer, Store};

struct Database(TempDir);

impl Database {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

impl Factory for Database {
    fn open(&self, observer: Arc<dyn Observer>) -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(&self.0.path().join("longshore.db"), observer).unwrap())
    }
}

mod suite {
    use super::*;

    conformance_suite!(Database::new());
}
