//! Writes about apps.

use jiff::Timestamp;
use longshore_model::app::Desired;
use longshore_model::kind::JobKind;
use longshore_model::name::{AppName, NodeName};

use super::batch::Batch;
use super::{no_app, read, rows};
use crate::store::{Change, StoreError, Terms};

impl Batch<'_> {
    /// Marks an app as being removed, on one node or on all that have it; returns on how many.
    pub(super) fn remove_app(
        &mut self,
        name: &AppName,
        node: Option<&NodeName>,
        terms: &Terms,
        now: Timestamp,
    ) -> Result<u32, StoreError> {
        let nodes = self.nodes_with(name, node)?;
        if nodes.is_empty() {
            return Err(no_app(name));
        }
        for node in &nodes {
            let Some(row) = self.app(name, node)? else { continue };
            let job = row.app.job.clone();
            if self.task(&job, node)?.is_some_and(|(_, task)| !task.state.is_end()) {
                return Err(StoreError::AppBusy { app: name.clone(), job, node: node.clone() });
            }
        }
        self.write_rows()?;
        // What a job is removing already may as well be removed at once.
        read::check_not_busy(self.sql, name, &nodes, |_, kind| kind == JobKind::Remove)?;
        let writable: &[NodeName] = if terms.validate_only { &[] } else { &nodes };
        for node in writable {
            let Some(row) = self.app(name, node)? else { continue };
            if row.app.desired == Desired::Present {
                row.app.desired = Desired::Removing;
                row.app.update_time = now;
                self.app_changed(name, node);
                self.tell_node(Change::Unset { node: node.clone(), app: name.clone() });
            }
        }
        Ok(u32::try_from(nodes.len()).unwrap_or(u32::MAX))
    }

    fn nodes_with(&mut self, name: &AppName, node: Option<&NodeName>) -> Result<Vec<NodeName>, StoreError> {
        if let Some(node) = node {
            let has_it = self.app(name, node)?.is_some();
            return Ok(has_it.then(|| node.clone()).into_iter().collect());
        }
        self.write_rows()?;
        let nodes = self
            .sql
            .prepare_cached("SELECT node FROM app WHERE name = ?1 ORDER BY node")?
            .query_map([name.as_str()], |row| rows::name(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(nodes)
    }
}
