//! Places at which callers wait for the call that an agent makes for them.
//!
//! A caller takes a place under a fresh identifier, which goes out through the node's session; the agent's call says it, and gets
//! what the caller has left there. Each is met once, by its own node alone.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longshore_model::name::NodeName;
use tokio_util::sync::CancellationToken;

/// How many places there are, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The number.
    pub most: usize,
    /// What it is of, such as "calls are reading logs".
    pub what: &'static str,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} already, which is the limit", self.most, self.what)
    }
}

/// Why a caller does not get a place, or loses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeskError {
    /// All places are taken.
    #[error("{0}")]
    Full(Bound),
    /// All places of the node are taken.
    #[error("{0}")]
    NodeFull(Bound),
    /// The server is going away.
    #[error("the server is shutting down")]
    Closed,
    /// The agent's call broke off, or the node was deleted.
    #[error("the node broke off")]
    BrokenOff,
}

/// The places, with what agents get there.
#[derive(Debug)]
pub(super) struct Desk<W> {
    all: Bound,
    of_a_node: Bound,
    inner: Mutex<Inner<W>>,
}

#[derive(Debug)]
struct Inner<W> {
    places: HashMap<String, Place<W>>,
    closed: bool,
}

#[derive(Debug)]
struct Place<W> {
    node: NodeName,
    /// Taken by the agent's call.
    left: Option<W>,
    given_up: CancellationToken,
}

impl<W> Desk<W> {
    pub(super) fn new(all: Bound, of_a_node: Bound) -> Arc<Self> {
        let inner = Mutex::new(Inner { places: HashMap::new(), closed: false });
        Arc::new(Self { all, of_a_node, inner })
    }

    /// Takes a place for a caller of the node, and leaves something there for the agent's call.
    ///
    /// # Errors
    ///
    /// No place is free, or the desk is closed.
    pub(super) fn take(self: &Arc<Self>, node: &NodeName, request_id: String, left: W) -> Result<Taken<W>, DeskError> {
        let mut inner = self.inner();
        if inner.closed {
            return Err(DeskError::Closed);
        }
        if inner.places.len() >= self.all.most {
            return Err(DeskError::Full(self.all));
        }
        if inner.places.values().filter(|place| place.node == *node).count() >= self.of_a_node.most {
            return Err(DeskError::NodeFull(self.of_a_node));
        }
        let given_up = CancellationToken::new();
        let place = Place { node: node.clone(), left: Some(left), given_up: given_up.clone() };
        inner.places.insert(request_id.clone(), place);
        Ok(Taken { desk: Arc::clone(self), request_id, given_up })
    }

    /// What was left for this call of the node's agent, and how it learns that it was given up; `None` if nobody waits for it.
    pub(super) fn arrive(&self, node: &NodeName, request_id: &str) -> Option<(W, CancellationToken)> {
        let mut inner = self.inner();
        let place = inner.places.get_mut(request_id).filter(|place| place.node == *node)?;
        Some((place.left.take()?, place.given_up.clone()))
    }

    /// Looks at what was left for a call of the node's agent that has not come yet.
    pub(super) fn look<T>(&self, node: &NodeName, request_id: &str, look: impl FnOnce(&W) -> T) -> Option<T> {
        let inner = self.inner();
        let place = inner.places.get(request_id).filter(|place| place.node == *node)?;
        place.left.as_ref().map(look)
    }

    /// Breaks off everything of a node.
    pub(super) fn node_deleted(&self, node: &NodeName) {
        for place in self.inner().places.values().filter(|place| place.node == *node) {
            place.given_up.cancel();
        }
    }

    /// Breaks off everything, and lets nothing begin.
    pub(super) fn close(&self) {
        let mut inner = self.inner();
        inner.closed = true;
        for place in inner.places.values() {
            place.given_up.cancel();
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner<W>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that is taken, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Taken<W> {
    desk: Arc<Desk<W>>,
    request_id: String,
    given_up: CancellationToken,
}

impl<W> Taken<W> {
    /// The identifier under which the agent shall come.
    pub(super) fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Cancelled when the place is lost.
    pub(super) fn given_up(&self) -> &CancellationToken {
        &self.given_up
    }
}

impl<W> Drop for Taken<W> {
    fn drop(&mut self) {
        self.desk.inner().places.remove(&self.request_id);
    }
}
