//! Conversions between the wire and the model.
//!
//! From the model to the wire nothing can go wrong: `From`, or a function where the model lacks a part. From the wire
//! to the model anything can: [`FromWire`] collects all that is wrong, each under the path of its field, and never
//! panics. Both sides use it, since neither trusts the other; limits and rules that need more than the one message are
//! [`longshore_model::validate`]'s.

use std::time::Duration;

use jiff::Timestamp;
use longshore_model::limits;
use longshore_model::name::{AppName, ConfigurationName, CredentialName, JobId, NodeName, SessionId, TemplateName};
use longshore_model::validate::{Path, Violations, cut};

mod agent;
mod app;
mod audit;
mod configuration;
mod job;
mod node;
mod plan;
mod probe;
mod registry;
mod spec;
mod task;
mod template;
mod usage;
mod user;

pub use agent::task_report;
pub use app::{LogLine, app};
pub use configuration::{config_map, secret};
pub use node::{node, stocks};
pub use plan::{answer_check, look, node_plan, plan_summary};
pub use registry::registry_credential;
pub use spec::{decode_spec, encode_spec};
pub use usage::{UsageReport, instance_usage, skew, usage_report};

/// Something that can be read from its wire form.
pub trait FromWire<Wire>: Sized {
    /// Reads what stands at `path`, and adds all that is wrong to `bad`. What is returned counts only where nothing was
    /// added: else it is `None`, or, for specs and orders, has stand-ins for what is wrong or missing, so that whoever
    /// checks the rest finds what is wrong there at the same time.
    fn from_wire(wire: Wire, path: Path<'_>, bad: &mut Violations) -> Option<Self>;

    /// Reads a whole message.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    fn read(wire: Wire) -> Result<Self, Violations> {
        read_with(|bad| Self::from_wire(wire, Path::Root, bad))
    }

    /// Reads one field of a message, which errors call `field`.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    fn read_field(wire: Wire, field: &str) -> Result<Self, Violations> {
        read_with(|bad| Self::from_wire(wire, Path::Root.field(field), bad))
    }
}

fn read_with<T>(read: impl FnOnce(&mut Violations) -> Option<T>) -> Result<T, Violations> {
    let mut bad = Violations::default();
    match read(&mut bad) {
        Some(value) => bad.or(value),
        None if bad.0.is_empty() => Err(Violations::one("", "the message cannot be read")),
        None => Err(bad),
    }
}

/// Reads a part that must be there.
fn required<Wire, T: FromWire<Wire>>(wire: Option<Wire>, path: Path<'_>, bad: &mut Violations) -> Option<T> {
    let Some(wire) = wire else {
        bad.add(path, "is missing");
        return None;
    };
    T::from_wire(wire, path, bad)
}

/// Reads a part that may be missing. The outer `None` means that it is there and wrong.
fn optional<Wire, T: FromWire<Wire>>(wire: Option<Wire>, path: Path<'_>, bad: &mut Violations) -> Option<Option<T>> {
    match wire {
        Some(wire) => T::from_wire(wire, path, bad).map(Some),
        None => Some(None),
    }
}

/// Reads every entry of a list, so that all bad ones are found.
fn list<Wire, T: FromWire<Wire>>(wire: Vec<Wire>, path: Path<'_>, bad: &mut Violations) -> Option<Vec<T>> {
    let mut items = Vec::with_capacity(wire.len());
    let mut whole = true;
    for (index, entry) in wire.into_iter().enumerate() {
        match T::from_wire(entry, path.index(index), bad) {
            Some(item) => items.push(item),
            None => whole = false,
        }
    }
    whole.then_some(items)
}

/// Reads a list that an agent sends, of which no more than `limit` entries are allowed.
fn bounded<Wire, T: FromWire<Wire>>(
    wire: Vec<Wire>,
    limit: usize,
    path: Path<'_>,
    bad: &mut Violations,
) -> Option<Vec<T>> {
    if wire.len() > limit {
        bad.add(path, format!("has {} entries; at most {limit} are allowed", wire.len()));
        return None;
    }
    list(wire, path, bad)
}

/// Shortens a text that a peer made to [`limits::MAX_MESSAGE`] bytes: it is for people, and its end is worth less than
/// the report that it came with.
fn message(mut text: String) -> String {
    cut(&mut text, limits::MAX_MESSAGE);
    text
}

/// Reads an address.
fn address<T: std::str::FromStr>(text: &str, path: Path<'_>, bad: &mut Violations) -> Option<T> {
    let address = text.parse().ok();
    if address.is_none() {
        bad.add(path, "is not an IP address of the expected version");
    }
    address
}

macro_rules! names {
    ($($name:ty),*) => {$(
        impl FromWire<String> for $name {
            fn from_wire(wire: String, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
                Self::parse(&wire).map_err(|error| bad.add(path, error.to_string())).ok()
            }
        }
    )*};
}

names!(NodeName, AppName, JobId, SessionId, CredentialName, ConfigurationName, TemplateName);

impl FromWire<prost_types::Timestamp> for Timestamp {
    fn from_wire(wire: prost_types::Timestamp, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let nanos = u32::try_from(wire.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
        let time = nanos.and_then(|_| Self::new(wire.seconds, wire.nanos).ok());
        if time.is_none() {
            bad.add(path, "is not a moment between the years 1 and 9999");
        }
        time
    }
}

impl FromWire<prost_types::Duration> for Duration {
    fn from_wire(wire: prost_types::Duration, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let seconds = u64::try_from(wire.seconds).ok();
        let nanos = u32::try_from(wire.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
        let duration = seconds.zip(nanos).map(|(seconds, nanos)| Self::new(seconds, nanos));
        if duration.is_none() {
            bad.add(path, "is not a duration of 0 or more");
        }
        duration
    }
}

/// The wire form of a moment.
#[must_use]
pub fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    // The wire counts nanoseconds forward from the second, also before 1970; jiff counts them towards zero.
    let (seconds, nanos) = (time.as_second(), time.subsec_nanosecond());
    if nanos < 0 {
        prost_types::Timestamp { seconds: seconds - 1, nanos: nanos + 1_000_000_000 }
    } else {
        prost_types::Timestamp { seconds, nanos }
    }
}

/// The wire form of a duration; the longest that the wire can say where it is longer than that.
#[must_use]
pub fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// Maps two enums onto each other. `none` says what 0, which proto3 sends for a field that is not set, stands for.
macro_rules! mirrored {
    ($model:ident, $wire:ident, none: $none:expr, { $($from:ident => $to:ident),* $(,)? }) => {
        impl From<$model> for v1::$wire {
            fn from(model: $model) -> Self {
                match model {
                    $($model::$from => Self::$to,)*
                }
            }
        }

        impl FromWire<i32> for $model {
            fn from_wire(wire: i32, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
                let known = match v1::$wire::try_from(wire) {
                    $(Ok(v1::$wire::$to) => Some(Self::$from),)*
                    #[allow(unreachable_patterns)]
                    Ok(_) => $none,
                    Err(_) => {
                        let kind = stringify!($wire);
                        bad.add(path, format!("has the value {wire}, which no {kind} that this version knows has"));
                        return None;
                    }
                };
                if known.is_none() {
                    bad.add(path, "is not set");
                }
                known
            }
        }
    };
}

use mirrored;
