//! What a revision takes from config maps and secrets: fetched with its check, kept with it, and found for each container.

use std::sync::Arc;
use std::time::Duration;

use longshore_model::configuration;
use longshore_model::failure::FailureReason;

use super::prepare::Way;
use super::{Worker, blocking, refusal};
use crate::configuration::{CacheError, Configuration};
use crate::runtime::RuntimeError;
use crate::supervisor::plan::Side;

/// How long the server is waited for where what was kept is lost: instances of the app wait meanwhile, whatever happens to
/// them. It is tried again later.
const PATIENCE: Duration = Duration::from_secs(10);

impl Worker {
    /// Fetches what the revision under check takes, and keeps it for this attempt.
    pub(super) async fn fetch_configuration(&mut self, side: Side) -> Way<Result<(), RuntimeError>> {
        let assignment = self.app.assignment_of(side);
        if configuration::needs(&assignment.spec).is_empty() {
            return Way::Done(Ok(()));
        }
        let (app, revision, attempt) = (assignment.app.clone(), assignment.revision, assignment.attempt);
        // An app that was healthy and has lost its image gets what it had, and needs no server for it.
        if !self.app.is_deploying() {
            let (kept, name) = (self.context.kept.clone(), app.clone());
            match blocking(move || kept.load(&name, (revision, attempt)).map_err(|e| unkept(&e))).await {
                Ok(None) => {}
                found => return Way::Done(found.map(drop)),
            }
        }
        let source = Arc::clone(&self.context.configurations);
        let asked = app.clone();
        let fetched = match self.unless_disturbed(async move { source.fetch(&asked, revision).await }).await {
            Way::Done(Ok(fetched)) => fetched,
            Way::Done(Err(error)) => return Way::Done(Err(error)),
            Way::Overtaken => return Way::Overtaken,
            Way::Disturbed => return Way::Disturbed,
        };
        let kept = self.context.kept.clone();
        Way::Done(blocking(move || kept.keep(&app, (revision, attempt), &fetched).map_err(|e| unkept(&e))).await)
    }

    /// What the revision takes that the containers shall have: as it was kept when the revision was checked. `None` when new
    /// orders make that pointless.
    pub(super) async fn configuration(&mut self) -> Option<Result<Arc<Configuration>, RuntimeError>> {
        let assignment = self.app.assignment_of(self.app.target_side());
        if configuration::needs(&assignment.spec).is_empty() {
            return Some(Ok(Arc::default()));
        }
        let app = assignment.app.clone();
        let prepared = self.app.image().map(|prepared| (prepared.revision, prepared.attempt));
        let version = prepared.unwrap_or((assignment.revision, assignment.attempt));
        let (context, asked) = (Arc::clone(&self.context), app.clone());
        let find = async move {
            let (kept, name) = (context.kept.clone(), asked.clone());
            if let Some(found) = blocking(move || kept.load(&name, version).map_err(|e| unkept(&e))).await? {
                return Ok(found);
            }
            let fetch = context.configurations.fetch(&asked, version.0);
            let fetched = tokio::time::timeout(PATIENCE, fetch).await.map_err(|_| {
                let message =
                    "The app's config maps and secrets are not on this node any more, and the server does not answer.";
                refusal(FailureReason::ConfigurationMissing, message.to_owned())
            })??;
            let (kept, found) = (context.kept.clone(), fetched.clone());
            blocking(move || kept.keep(&asked, version, &found).map_err(|e| unkept(&e))).await?;
            Ok(fetched)
        };
        self.unless_overtaken(find).await.map(|found| found.map(Arc::new))
    }

    /// Forgets what no revision has that could be started again.
    pub(super) async fn forget_configurations(&self) {
        let entry = &self.app.entry;
        let prepared = entry.prepared.iter().chain(entry.proven.iter().filter_map(|proven| proven.prepared.as_ref()));
        let versions: Vec<_> = prepared.map(|prepared| (prepared.revision, prepared.attempt)).collect();
        let (kept, app) = (self.context.kept.clone(), entry.assignment.app.clone());
        let forgotten = blocking(move || kept.retain(&app, &versions).map_err(|e| unkept(&e))).await;
        if let Err(error) = forgotten {
            tracing::warn!(app = %self.app.entry.assignment.app, %error, "a configuration stays");
        }
    }
}

fn unkept(error: &CacheError) -> RuntimeError {
    let reason = if error.is_disk_full() { FailureReason::DiskFull } else { FailureReason::RuntimeError };
    refusal(reason, format!("The agent {}.", longshore_tls::with_causes(error)))
}
