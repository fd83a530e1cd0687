//! What the commands `doctor` of Longshore's programs find, and how it is shown: one form, one set of words and exit codes.
//!
//! Judgements that both make are here too. No I/O: who looks, and at what, is each program's own business.

mod finding;
mod judge;

pub use finding::{Finding, Report, Verdict, table, worst};
pub use judge::{clock, key_mode, span};
