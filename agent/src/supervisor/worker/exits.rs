//! Waits for the ends of containers, beside everything else that a worker does, and takes them.

use std::sync::Arc;

use jiff::Timestamp;
use longshore_model::app::InstanceExit;
use longshore_model::backoff;

use super::Worker;
use crate::runtime::{FoundState, InstanceKey, Runtime, RuntimeError};
use crate::supervisor::plan::{ContainerState, LOST};

/// The end of a container: whose, of which run, and how.
pub(super) type Exit = (u32, u32, Result<InstanceExit, RuntimeError>);

impl Worker {
    pub(super) fn watch(&mut self, index: u32) {
        let run = self.run_of(index);
        let (runtime, key) = (Arc::clone(&self.context.runtime), self.key(index));
        let handle = self.exits.spawn(async move { (index, run, end_of(&*runtime, &key, run).await) });
        self.watched.insert(index, handle);
    }

    /// Takes the ends that came while something else was done: nothing is decided on containers that are up no more.
    pub(super) async fn take_exits(&mut self) {
        while let Some(exit) = self.exits.try_join_next() {
            if let Ok(exit) = exit {
                self.ended(exit).await;
            }
        }
    }

    pub(super) async fn ended(&mut self, (index, run, exit): Exit) {
        let is_current = self.app.entry.instances.get(index as usize).is_none_or(|record| record.run == run);
        if !is_current || !matches!(self.app.containers.get(&index).map(|c| c.state), Some(ContainerState::Running(_)))
        {
            return;
        }
        self.watched.remove(&index);
        let exit = exit.unwrap_or_else(|error| {
            tracing::warn!(app = %self.app.entry.assignment.app, index, %error, "the end of a container was not seen");
            InstanceExit { code: LOST, out_of_memory: false, time: Timestamp::now() }
        });
        let app = &self.app.entry.assignment.app;
        tracing::info!(%app, index, code = exit.code, out_of_memory = exit.out_of_memory, "a container has ended");
        self.app.exited(index, exit, self.context.clock.now());
        self.persist().await;
    }

    pub(super) fn run_of(&self, index: u32) -> u32 {
        self.app.entry.instances.get(index as usize).map_or(0, |record| record.run)
    }
}

/// How a container ended. An error of the runtime is no end: what cannot be asked may well run on.
async fn end_of(runtime: &dyn Runtime, key: &InstanceKey, run: u32) -> Result<InstanceExit, RuntimeError> {
    let mut failures: u32 = 0;
    loop {
        let error = match runtime.wait(key).await {
            Ok(exit) => return Ok(exit),
            Err(error) => error,
        };
        if let Ok(found) = runtime.list().await {
            match found.into_iter().find(|found| found.instance == *key && found.run == run).map(|found| found.state) {
                Some(FoundState::Running(_)) => {}
                Some(FoundState::Exited(exit)) => return Ok(exit),
                Some(FoundState::Created) | None => return Err(error),
            }
        }
        tracing::warn!(app = %key.app, instance = key.index, %error, "cannot wait for the end of a container; trying again");
        failures = failures.saturating_add(1);
        tokio::time::sleep(backoff::RESTART.delay(failures)).await;
    }
}
