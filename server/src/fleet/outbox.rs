//! What is on its way to one agent.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use longshore_model::name::SessionId;
use longshore_proto::v1;
use v1::open_session_response::Message;

/// Messages that may wait for one agent. They share their specs, so that a full outbox costs some 50 KiB; an agent that
/// is this far behind is better served by a new full set.
pub(super) const OUTBOX_LIMIT: usize = 256;
/// Capacity kept by an empty outbox: idle sessions are many, and most never have more than one message waiting.
const IDLE_CAPACITY: usize = 4;

/// Why a session ends, from the server's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A newer session of the same node began.
    Fenced,
    /// The agent is too slow.
    Overflow,
    /// The node's full set is larger than an agent takes.
    SetTooLarge,
    /// The node was deleted.
    NodeDeleted,
    /// The server goes away; what is in the outbox is still sent.
    Drained,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// It is on its way.
    Taken,
    /// The session has not got its full set yet, or is ending.
    NotOpen,
    /// There is no room.
    Full,
}

/// A bounded queue to one agent, read by the session's stream. No operation waits.
#[derive(Debug)]
pub struct Outbox {
    session: SessionId,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Message>,
    reader: Option<Waker>,
    /// Revision of the last set or update; 0 before the full set.
    revision: u64,
    end: Option<End>,
}

impl Outbox {
    pub(super) fn new(session: SessionId, first: Message) -> Self {
        let state = State { queue: VecDeque::from([first]), reader: None, revision: 0, end: None };
        Self { session, state: Mutex::new(state) }
    }

    /// The session that it belongs to.
    #[must_use]
    pub fn session(&self) -> &SessionId {
        &self.session
    }

    /// Why the session ends, once that is decided; what its agent says then counts no longer.
    #[must_use]
    pub fn ended(&self) -> Option<End> {
        self.state().end
    }

    /// Next message, or why there is none any more. Only the last caller is woken.
    pub fn poll_next(&self, context: &mut Context<'_>) -> Poll<Result<Message, End>> {
        let mut state = self.state();
        if let Some(message) = state.queue.pop_front() {
            if state.queue.is_empty() && state.queue.capacity() > IDLE_CAPACITY {
                state.queue = VecDeque::new();
            }
            return Poll::Ready(Ok(message));
        }
        if let Some(end) = state.end {
            return Poll::Ready(Err(end));
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// Whether the session got its full set and goes on.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let state = self.state();
        state.revision > 0 && state.end.is_none()
    }

    /// Puts the full set in, and lets everything else follow.
    pub(super) fn open(&self, full: v1::FullAssignments) {
        self.change(|state| {
            if state.end.is_none() {
                state.revision = full.revision;
                state.queue.push_back(Message::Full(full));
            }
        });
    }

    /// Offers an update, which gets the next revision.
    pub(super) fn update(&self, change: impl FnOnce() -> (Vec<v1::Assignment>, Vec<String>)) -> Offer {
        self.offer(|state| {
            state.revision += 1;
            let (set, remove) = change();
            Message::Update(v1::AssignmentUpdate { revision: state.revision, set, remove })
        })
    }

    /// Offers a message that has no revision.
    pub(super) fn push(&self, message: Message) -> Offer {
        self.offer(|_| message)
    }

    fn offer(&self, message: impl FnOnce(&mut State) -> Message) -> Offer {
        self.change(|state| {
            if state.revision == 0 || state.end.is_some() {
                return Offer::NotOpen;
            }
            if state.queue.len() >= OUTBOX_LIMIT {
                return Offer::Full;
            }
            let message = message(state);
            state.queue.push_back(message);
            Offer::Taken
        })
    }

    /// Decides the session's end; the first decision stays, except that nothing outlives the node's deletion.
    pub(super) fn end(&self, end: End) {
        self.change(|state| {
            if state.end.is_none() || end == End::NodeDeleted {
                state.end = Some(end);
            }
            if end != End::Drained {
                state.queue = VecDeque::new();
            }
        });
    }

    /// Changes the state, then wakes the reader outside the lock.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        result
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
