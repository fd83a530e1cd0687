//! What this node says that it can do, in the words of [`longshore_model::capability`].

use longshore_model::capability::{PLANS_CHECK, RESOURCES_REQUESTS, SPEC_NODE_VALUES};
use longshore_model::kind::JobKind;

use crate::runtime::Runtime;

/// What its runtime can, and what this agent knows of specs and jobs and older ones do not.
#[must_use]
pub fn all(runtime: &dyn Runtime) -> Vec<String> {
    let jobs = JobKind::ALL.into_iter().filter_map(JobKind::capability);
    let mut words = runtime.capabilities();
    for word in jobs.chain([RESOURCES_REQUESTS, SPEC_NODE_VALUES, PLANS_CHECK]) {
        // A runtime may know all words.
        if !words.iter().any(|known| known == word) {
            words.push(word.to_owned());
        }
    }
    words
}
