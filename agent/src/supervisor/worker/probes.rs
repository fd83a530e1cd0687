//! Puts the questions of probes, beside everything else that a worker does, and takes their answers.

use std::sync::Arc;

use jiff::Timestamp;
use longshore_model::health::{Answer, Kind};

use super::Worker;
use crate::runtime::RuntimeError;
use crate::supervisor::plan::ContainerState;

/// What came of a question: to whom, in which run, which one, and the answer.
pub(super) type Answered = (u32, u32, Kind, Result<Answer, RuntimeError>);

impl Worker {
    /// Puts a question, once one of the node's places is free.
    pub(super) fn probe(&mut self, index: u32, kind: Kind) {
        let spec = &self.app.target().spec;
        let probe = match kind {
            Kind::Liveness => spec.liveness_probe.clone(),
            Kind::Readiness => spec.readiness_probe.clone(),
        };
        self.app.asking(index, kind, self.context.clock.now());
        let Some(probe) = probe else { return };
        let (context, key, run) = (Arc::clone(&self.context), self.key(index), self.run_of(index));
        self.answers.spawn(async move {
            // Closed never: it lives as long as the agent.
            let _place = context.probes.acquire().await;
            (index, run, kind, context.runtime.probe(&key, &probe).await)
        });
    }

    pub(super) async fn answered(&mut self, (index, run, kind, answer): Answered) {
        let is_up = matches!(self.app.containers.get(&index).map(|c| c.state), Some(ContainerState::Running(_)));
        if !is_up || run != self.run_of(index) {
            return;
        }
        let app = &self.app.entry.assignment.app;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%app, index, ?kind, %error, "an instance could not be asked");
                return self.app.unasked(index, kind);
            }
        };
        tracing::debug!(%app, index, ?kind, passed = answer.passed, answer = answer.message, "an instance has answered");
        let (passed, words) = (answer.passed, answer.message.clone());
        if !self.app.answered(index, kind, answer, self.context.clock.now(), Timestamp::now()) {
            return;
        }
        let app = &self.app.entry.assignment.app;
        match (kind, passed) {
            (Kind::Liveness, _) => tracing::warn!(%app, index, answer = words, "an instance does not live any more"),
            (Kind::Readiness, true) => tracing::info!(%app, index, answer = words, "an instance is ready"),
            (Kind::Readiness, false) => {
                tracing::warn!(%app, index, answer = words, "an instance is not ready any more")
            }
        }
        self.persist().await;
    }

    /// Lets new clients of an instance in, or keeps them out.
    pub(super) async fn admit(&mut self, index: u32, open: bool) {
        let (runtime, key) = (Arc::clone(&self.context.runtime), self.key(index));
        match self.unless_overtaken(async move { runtime.admit(&key, open).await }).await {
            None => {}
            Some(Ok(())) => self.app.admitted(index, open),
            Some(Err(error)) => {
                tracing::warn!(app = %self.app.entry.assignment.app, index, open, %error, "traffic to an instance is not as it should be");
                self.app.not_admitted(index, self.context.clock.now());
            }
        }
    }

    /// Takes the answers to probes that came meanwhile.
    pub(super) async fn take_answers(&mut self) {
        while let Some(answer) = self.answers.try_join_next() {
            if let Ok(answer) = answer {
                self.answered(answer).await;
            }
        }
    }
}
