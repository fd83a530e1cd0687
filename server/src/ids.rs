//! Fresh identifiers.

use std::sync::{Mutex, PoisonError};

use longshore_model::name::{JobId, NameError, SessionId};
use ulid::Ulid;

/// Makes ULIDs that grow, also within a millisecond and when the clock is set back, for as long as the server runs.
#[derive(Debug, Default)]
pub struct Ids {
    previous: Mutex<Ulid>,
}

impl Ids {
    /// An identifier for a job: sorts after all that were made before.
    ///
    /// # Errors
    ///
    /// Never; the type's own check of what was made is passed on instead of being ignored.
    pub fn job(&self) -> Result<JobId, NameError> {
        JobId::parse(&self.text())
    }

    /// An identifier for a session.
    ///
    /// # Errors
    ///
    /// As for [`Ids::job`].
    pub fn session(&self) -> Result<SessionId, NameError> {
        SessionId::parse(&self.text())
    }

    /// An identifier in text form, in lower case.
    #[must_use]
    pub fn text(&self) -> String {
        let mut previous = self.previous.lock().unwrap_or_else(PoisonError::into_inner);
        *previous = after(*previous, Ulid::new());
        previous.to_string().to_ascii_lowercase()
    }
}

/// `candidate` if it is the greater, else the identifier that follows `previous`.
fn after(previous: Ulid, candidate: Ulid) -> Ulid {
    if candidate > previous {
        return candidate;
    }
    // No room left within the millisecond: borrow the next one.
    previous.increment().unwrap_or_else(|| Ulid::from_parts(previous.timestamp_ms() + 1, 0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A test may fail by panicking.
mod tests {
    use super::*;

    #[test]
    fn identifiers_grow_even_when_the_clock_goes_back() {
        let ids = Ids::default();
        let made: Vec<JobId> = (0..1000).map(|_| ids.job().unwrap()).collect();
        assert!(made.is_sorted_by(|a, b| a < b));

        let future = Ulid::from_parts(Ulid::new().timestamp_ms() + 60_000, 7);
        assert_eq!(after(future, Ulid::new()), Ulid::from_parts(future.timestamp_ms(), 8));
    }

    #[test]
    fn a_full_millisecond_borrows_the_next() {
        let full = Ulid::from_parts(5, u128::MAX);
        assert_eq!(after(full, Ulid::from_parts(5, 0)), Ulid::from_parts(6, 0));
    }
}
