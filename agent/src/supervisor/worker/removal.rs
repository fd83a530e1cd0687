//! Stops and deletes containers, alone or with their app.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream;
use longshore_model::task::TaskState;

use super::Worker;
use crate::runtime::RuntimeError;
use crate::supervisor::plan::{ContainerState, Ending};

/// Containers of one app that are stopped at once: they mostly wait, and 64 at once would burden a small machine.
const STOPS_AT_ONCE: usize = 8;
/// Attempts at removing what a failed or cancelled deployment left before it is reported all the same.
const MAX_TEAR_DOWNS: u32 = 5;

impl Worker {
    pub(super) async fn clear(&mut self, indices: Vec<u32>) {
        if self.app.is_going_back() {
            // After a crash in between it goes on, and ends in the same failure.
            self.persist().await;
        }
        if let Err(error) = self.delete(indices).await {
            self.stumbled(error);
        }
        self.persist().await;
    }

    pub(super) async fn tear_down(&mut self, ending: Ending) {
        self.pulling = None;
        if matches!(ending, Ending::Failed(_)) {
            // After a crash in between the removal goes on, and ends in the same failure.
            self.persist().await;
        }
        let app = self.app.entry.assignment.app.clone();
        let all = self.app.containers.keys().copied().collect();
        let mut removed = self.delete(all).await;
        if removed.is_ok() {
            removed = self.context.runtime.remove_app(&app).await;
        }
        if let Err(error) = removed {
            tracing::error!(%app, %error, "cannot remove an app; trying again");
            self.app.try_later(self.context.clock.now());
            // A task must not hang on a container that cannot be deleted; a removal is not confirmed before it is true.
            if ending == Ending::Removed || self.app.stumbles < MAX_TEAR_DOWNS {
                return;
            }
        }
        self.context.ports.release(&app);
        self.context.capacity.release(&app);
        self.context.accelerators.release(&app);
        self.app.torn_down();
        self.forget_configurations().await;
        match ending {
            Ending::Removed => drop(self.persist().await),
            Ending::Cancelled => self.conclude(TaskState::Cancelled, None).await,
            Ending::Failed(failure) => self.conclude(TaskState::Failed, Some(failure)).await,
        }
    }

    /// Stops and deletes containers, several at once; returns the first error after it has tried all.
    async fn delete(&mut self, indices: Vec<u32>) -> Result<(), RuntimeError> {
        for index in &indices {
            // Nobody waits for the end of what ends by our own hand.
            if let Some(waiting) = self.watched.remove(index) {
                waiting.abort();
            }
        }
        let deletions = indices.into_iter().map(|index| {
            let (runtime, key) = (Arc::clone(&self.context.runtime), self.key(index));
            let up = self.app.containers.get(&index).filter(|c| matches!(c.state, ContainerState::Running(_)));
            let grace = up.map(|container| self.app.assignment_of_container(container).spec.grace());
            async move {
                if let Some(grace) = grace {
                    runtime.stop(&key, grace).await?;
                }
                runtime.delete(&key).await.map(|()| index)
            }
        });
        let deleted: Vec<Result<u32, RuntimeError>> =
            stream::iter(deletions).buffer_unordered(STOPS_AT_ONCE).collect().await;
        let mut first_error = Ok(());
        for result in deleted {
            match result {
                Ok(index) => self.app.cleared(index),
                Err(error) => first_error = first_error.and(Err(error)),
            }
        }
        first_error
    }

    /// Stops containers that do not live by their probe; their ends are taken like any others.
    pub(super) async fn kill(&mut self, indices: Vec<u32>) {
        let grace = self.app.target().spec.grace();
        let stops = indices.clone().into_iter().map(|index| {
            let (runtime, key) = (Arc::clone(&self.context.runtime), self.key(index));
            async move { runtime.stop(&key, grace).await }
        });
        let stopped: Vec<Result<(), RuntimeError>> =
            stream::iter(stops).buffer_unordered(STOPS_AT_ONCE).collect().await;
        if let Some(error) = stopped.into_iter().find_map(Result::err) {
            return self.stumbled(error);
        }
        let is_up = |worker: &Self, index: &u32| {
            matches!(worker.app.containers.get(index).map(|c| c.state), Some(ContainerState::Running(_)))
        };
        while indices.iter().any(|index| is_up(self, index)) {
            let Some(exit) = self.exits.join_next().await else { return };
            if let Ok(exit) = exit {
                self.ended(exit).await;
            }
        }
    }
}
