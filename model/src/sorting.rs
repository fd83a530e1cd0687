//! Orders of lists: `order_by` of AIP-132.
//!
//! ```text
//! order_by = [ term { "," term } ]            nothing is the list's own order
//! term     = field [ "asc" | "desc" ]
//! ```
//!
//! Lists are sorted only by what stays as it is: an item whose place moved while somebody reads page after page would be
//! skipped, or come twice. Every order ends with fields that tell any two items apart, so that each item has a place of its
//! own, and a page can begin right after the last one of the page before.

use std::fmt;

use jiff::Timestamp;

use crate::validate::quoted;

/// Bytes of an `order_by`: every field that any list has, several times over.
pub const MAX_ORDER_BY: usize = 256;

/// What the items of a list can be sorted by.
pub trait SortKey: Copy + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// All that there is, each with its path in the words of the wire.
    const ALL: &'static [(&'static str, Self)];
    /// What no two items have in common, all of it together.
    const UNIQUE: &'static [Self];
    /// The list's own order.
    const DEFAULT: &'static [Term<Self>];
}

/// What an item has where a list is sorted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SortValue {
    /// Sorted by its bytes.
    Text(String),
    /// Sorted by time.
    Time(Timestamp),
    /// Sorted by size.
    Number(u64),
}

/// Which of two comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The lesser.
    Ascending,
    /// The greater.
    Descending,
}

/// A part of an order: it decides where those before it do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term<K> {
    /// What is compared.
    pub key: K,
    /// Which comes first.
    pub direction: Direction,
}

impl<K> Term<K> {
    /// The lesser first.
    #[must_use]
    pub const fn ascending(key: K) -> Self {
        Self { key, direction: Direction::Ascending }
    }

    /// The greater first.
    #[must_use]
    pub const fn descending(key: K) -> Self {
        Self { key, direction: Direction::Descending }
    }
}

/// The order of a list: terms that leave no two items in the same place. The default is the list's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sorting<K>(Vec<Term<K>>);

/// An item's place in an order: what it has in each term. It stays a place when the item is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position(pub Vec<SortValue>);

/// Why a text is not an order. Positions count characters from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SortingError {
    /// Longer than [`MAX_ORDER_BY`].
    #[error("is {0} bytes long; at most {MAX_ORDER_BY} are allowed")]
    TooLong(usize),
    /// There is nothing between two commas, or after the last one.
    #[error("at position {position}: a field is missing; there are {known}")]
    NoField {
        /// Where.
        position: usize,
        /// Those that there are.
        known: String,
    },
    /// The list cannot be sorted by this.
    #[error("at position {position}: there is no field {name} to sort by; there are {known}")]
    UnknownField {
        /// Where.
        position: usize,
        /// What is there.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// Something else than a direction follows the field.
    #[error("at position {position}: desc, asc, ',' or the end is expected, not {found}")]
    BadDirection {
        /// Where.
        position: usize,
        /// What is there.
        found: String,
    },
    /// The field decides already.
    #[error("at position {position}: {name} is named for the second time")]
    Repeated {
        /// Where.
        position: usize,
        /// The field.
        name: &'static str,
    },
}

impl<K: SortKey> Default for Sorting<K> {
    fn default() -> Self {
        Self::of(K::DEFAULT.to_vec())
    }
}

impl<K: SortKey> Sorting<K> {
    /// The order of these terms. Those after which no two items are left in one place are dropped; where they are not
    /// enough, [`SortKey::UNIQUE`] follows in the direction of the last one.
    #[must_use]
    pub fn of(mut terms: Vec<Term<K>>) -> Self {
        let is_decided = |terms: &[Term<K>]| K::UNIQUE.iter().all(|key| terms.iter().any(|term| term.key == *key));
        if let Some(enough) = (1..=terms.len()).find(|&count| terms.get(..count).is_some_and(is_decided)) {
            terms.truncate(enough);
            return Self(terms);
        }
        let direction = terms.last().map_or(Direction::Ascending, |term| term.direction);
        for &key in K::UNIQUE {
            if !terms.iter().any(|term| term.key == key) {
                terms.push(Term { key, direction });
            }
        }
        Self(terms)
    }

    /// Reads an `order_by`.
    ///
    /// # Errors
    ///
    /// The first place where the text leaves the grammar, or does not fit the list.
    pub fn parse(text: &str) -> Result<Self, SortingError> {
        if text.len() > MAX_ORDER_BY {
            return Err(SortingError::TooLong(text.len()));
        }
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let mut terms: Vec<Term<K>> = Vec::new();
        let mut start = 1;
        for part in text.split(',') {
            let (position, term) = read_term(part, start)?;
            if terms.iter().any(|known| known.key == term.key) {
                return Err(SortingError::Repeated { position, name: name(term.key) });
            }
            terms.push(term);
            start += part.chars().count() + 1;
        }
        Ok(Self::of(terms))
    }

    /// Its terms; at least one.
    #[must_use]
    pub fn terms(&self) -> &[Term<K>] {
        &self.0
    }

    /// The place of an item; `look` says what it has.
    pub fn position(&self, look: impl Fn(K) -> SortValue) -> Position {
        Position(self.0.iter().map(|term| look(term.key)).collect())
    }
}

impl<K: SortKey> fmt::Display for Sorting<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let direction = if term.direction == Direction::Descending { " desc" } else { "" };
            write!(f, "{comma}{}{direction}", name(term.key))?;
        }
        Ok(())
    }
}

fn name<K: SortKey>(key: K) -> &'static str {
    K::ALL.iter().find(|(_, known)| *known == key).map_or("", |(name, _)| name)
}

fn known<K: SortKey>() -> String {
    let names: Vec<&str> = K::ALL.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

/// What stands between two commas, the first character of it being at `start`; and where its field stands.
fn read_term<K: SortKey>(part: &str, start: usize) -> Result<(usize, Term<K>), SortingError> {
    let mut words = words(part, start).into_iter();
    let Some((position, field)) = words.next() else {
        return Err(SortingError::NoField { position: start, known: known::<K>() });
    };
    let Some((_, key)) = K::ALL.iter().find(|(name, _)| *name == field) else {
        return Err(SortingError::UnknownField { position, name: quoted(field), known: known::<K>() });
    };
    let (direction, after) = match words.next() {
        Some((_, "asc")) => (Direction::Ascending, words.next()),
        Some((_, "desc")) => (Direction::Descending, words.next()),
        other => (Direction::Ascending, other),
    };
    match after {
        None => Ok((position, Term { key: *key, direction })),
        Some((position, found)) => Err(SortingError::BadDirection { position, found: quoted(found) }),
    }
}

/// The words of a text whose first character is at `start`, each with its position.
fn words(text: &str, start: usize) -> Vec<(usize, &str)> {
    let (mut rest, mut position, mut words) = (text, start, Vec::new());
    while let Some(begin) = rest.find(|c: char| !c.is_whitespace()) {
        let (before, found) = rest.split_at(begin);
        let (word, after) = found.split_at(found.find(char::is_whitespace).unwrap_or(found.len()));
        position += before.chars().count();
        words.push((position, word));
        position += word.chars().count();
        rest = after;
    }
    words
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Key {
        Site,
        Born,
        Shelf,
        Number,
    }

    impl SortKey for Key {
        const ALL: &'static [(&'static str, Self)] =
            &[("site", Self::Site), ("info.born", Self::Born), ("shelf", Self::Shelf), ("number", Self::Number)];
        const UNIQUE: &'static [Self] = &[Self::Shelf, Self::Number];
        const DEFAULT: &'static [Term<Self>] = &[Term::descending(Self::Shelf)];
    }

    #[test]
    fn orders_are_read_and_completed() {
        let cases = [
            ("", "shelf desc, number desc"),
            ("  ", "shelf desc, number desc"),
            ("site", "site, shelf, number"),
            ("site desc", "site desc, shelf desc, number desc"),
            ("  site   desc  ,info.born", "site desc, info.born, shelf, number"),
            ("site asc", "site, shelf, number"),
            ("number, shelf desc", "number, shelf desc"),
            ("number desc", "number desc, shelf desc"),
            // What comes after both unique ones can decide nothing.
            ("shelf, number, site desc", "shelf, number"),
        ];
        for (text, read) in cases {
            let sorting = Sorting::<Key>::parse(text).unwrap();
            assert_eq!(sorting.to_string(), read, "{text}");
            assert_eq!(Sorting::<Key>::parse(read).unwrap(), sorting, "{text}");
        }
    }

    #[test]
    fn mistakes_are_named_with_their_position() {
        let known = "there are site, info.born, shelf, number";
        let cases = [
            ("colour", format!("at position 1: there is no field \"colour\" to sort by; {known}")),
            ("site, Number", format!("at position 7: there is no field \"Number\" to sort by; {known}")),
            ("é", format!("at position 1: there is no field \"é\" to sort by; {known}")),
            ("site desc,", format!("at position 11: a field is missing; {known}")),
            (",", format!("at position 1: a field is missing; {known}")),
            ("site down", "at position 6: desc, asc, ',' or the end is expected, not \"down\"".to_owned()),
            ("site desc desc", "at position 11: desc, asc, ',' or the end is expected, not \"desc\"".to_owned()),
            ("site DESC", "at position 6: desc, asc, ',' or the end is expected, not \"DESC\"".to_owned()),
            ("site,shelf,site desc", "at position 12: site is named for the second time".to_owned()),
        ];
        for (text, message) in cases {
            assert_eq!(Sorting::<Key>::parse(text).unwrap_err().to_string(), message, "{text}");
        }
        let long = "site,".repeat(100);
        assert_eq!(Sorting::<Key>::parse(&long).unwrap_err().to_string(), "is 500 bytes long; at most 256 are allowed");
    }

    #[test]
    fn a_position_has_what_the_terms_ask_for() {
        let sorting = Sorting::<Key>::parse("info.born desc, number").unwrap();
        let text = |text: &str| SortValue::Text(text.to_owned());
        let position = sorting.position(|key| match key {
            Key::Born => SortValue::Time(Timestamp::UNIX_EPOCH),
            other => text(&format!("{other:?}")),
        });
        let expected = [SortValue::Time(Timestamp::UNIX_EPOCH), text("Number"), text("Shelf")];
        assert_eq!(position, Position(expected.to_vec()));
    }
}
