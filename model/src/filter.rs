//! Filters of lists: a small part of the grammar of AIP-160.
//!
//! ```text
//! filter     = [ expression ]                 nothing matches everything
//! expression = term { "AND" term } | term { "OR" term }
//! term       = [ "NOT" ] ( comparison | "(" expression ")" )
//! comparison = field operator value           operators: = != < <= > >= :
//! field      = word { "." ( word | string ) }
//! value      = word | string                  strings stand in ' or "
//! ```
//!
//! AIP-160 lets OR bind closer than AND, most languages do the opposite: here a mixture needs parentheses, so that no
//! reader is wrong. What a comparison with a field that is not set says is false, except with `!=`.

use std::fmt;

use jiff::Timestamp;

use crate::accelerator::Stock;
use crate::label;
use crate::node::Labels;
use crate::validate::quoted;

mod syntax;
#[cfg(test)]
mod tests;

/// Bytes of a filter: it is written by hand, and held against every item of a list.
pub const MAX_FILTER: usize = 4096;
/// Parentheses and NOTs within each other: far more than anybody reads, and no danger to the stack.
const MAX_DEPTH: usize = 32;

/// A field that a list can be filtered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its path in the words of the wire, such as `info.architecture`.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
}

/// What a field holds, and so which comparisons it allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text: `=`, `!=`; a `*` at either end of the value stands for anything.
    Text,
    /// One of a few words: `=`, `!=`. The wire's prefix may stand before the word.
    Word {
        /// Prefix of the wire, such as `JOB_STATE_`.
        prefix: &'static str,
        /// All there are.
        words: &'static [&'static str],
    },
    /// A moment in RFC 3339: all comparisons, and `:*` for whether there is one.
    Time,
    /// `true` or `false`: `=`, `!=`.
    Flag,
    /// Several texts: `=` and `:` where one of them is, `!=` where none is; a `*` as for [`Kind::Text`].
    Texts,
    /// Labels: `labels.KEY = VALUE`, `labels.KEY != VALUE`, `labels:KEY`.
    Labels,
}

/// What an item has in a field.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// Nothing.
    Unset,
    /// Of a [`Kind::Text`] or [`Kind::Word`].
    Text(&'a str),
    /// Of a [`Kind::Time`].
    Time(Timestamp),
    /// Of a [`Kind::Flag`].
    Flag(bool),
    /// Of [`Kind::Texts`]: what is said of each kind of accelerator.
    Stocks(&'a [Stock], fn(&Stock) -> &str),
    /// Of [`Kind::Labels`].
    Labels(&'a Labels),
}

/// A parsed filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter(Option<Expression>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expression {
    All(Vec<Expression>),
    Any(Vec<Expression>),
    Not(Box<Expression>),
    Test { field: &'static str, test: Test },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Text { pattern: Pattern, equal: bool },
    Time { operator: Operator, time: Timestamp },
    Flag { wanted: bool },
    Label { key: String, pattern: Pattern, equal: bool },
    HasLabel { key: String },
    IsSet,
}

/// How a field is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Has,
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Has => ":",
        })
    }
}

/// A text, with anything before or after it where that is said.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    text: String,
    open_start: bool,
    open_end: bool,
}

impl Pattern {
    fn read(text: &str) -> Self {
        let (open_start, rest) = match text.strip_prefix('*') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (open_end, rest) = match rest.strip_suffix('*') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        Self { text: rest.to_owned(), open_start, open_end }
    }

    fn exact(text: &str) -> Self {
        Self { text: text.to_owned(), open_start: false, open_end: false }
    }

    fn matches(&self, text: &str) -> bool {
        match (self.open_start, self.open_end) {
            (false, false) => text == self.text,
            (false, true) => text.starts_with(&self.text),
            (true, false) => text.ends_with(&self.text),
            (true, true) => text.contains(&self.text),
        }
    }
}

/// Why a text is not a filter, and where. Positions are counted from 1, in characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Longer than [`MAX_FILTER`].
    #[error("is {0} bytes long; at most {MAX_FILTER} are allowed")]
    TooLong(usize),
    /// Something else should stand here.
    #[error("at position {position}: expected {expected}, found {found}")]
    Unexpected {
        /// Where.
        position: usize,
        /// What would be right.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// There is no such field.
    #[error("at position {position}: there is no field {name} to filter by; there are {known}")]
    UnknownField {
        /// Where.
        position: usize,
        /// What is there.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// The field cannot be compared in this way.
    #[error("at position {position}: {field} cannot be compared by '{operator}'")]
    BadOperator {
        /// Where.
        position: usize,
        /// The field.
        field: String,
        /// The operator.
        operator: String,
    },
    /// The field cannot be compared with this.
    #[error("at position {position}: {value} is not {expected}")]
    BadValue {
        /// Where.
        position: usize,
        /// What is there.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// Quotes without an end.
    #[error("at position {0}: the string has no end")]
    OpenString(usize),
    /// AND and OR side by side.
    #[error("at position {0}: AND and OR are mixed; parentheses must say what belongs together")]
    Mixed(usize),
    /// More than anybody reads.
    #[error("at position {0}: is nested more than {MAX_DEPTH} deep")]
    TooDeep(usize),
}

impl Filter {
    /// Reads a filter on these fields.
    ///
    /// # Errors
    ///
    /// The first place where the text leaves the grammar, or does not fit the fields.
    pub fn parse(text: &str, fields: &[Field]) -> Result<Self, FilterError> {
        syntax::parse(text, fields).map(Self)
    }

    /// Whether it matches everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether an item matches; `look` says what the item has in a field.
    #[must_use]
    pub fn matches<'a>(&self, look: impl Fn(&str) -> Value<'a>) -> bool {
        self.0.as_ref().is_none_or(|expression| expression.holds(&look))
    }
}

impl Expression {
    fn holds<'a>(&self, look: &dyn Fn(&str) -> Value<'a>) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(look)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(look)),
            Self::Not(part) => !part.holds(look),
            Self::Test { field, test } => test.holds(look(field)),
        }
    }
}

impl Test {
    fn holds(&self, value: Value<'_>) -> bool {
        match (self, value) {
            (Self::Text { pattern, equal }, Value::Text(text)) => pattern.matches(text) == *equal,
            (Self::Text { pattern, equal }, Value::Stocks(stocks, part)) => {
                stocks.iter().any(|stock| pattern.matches(part(stock))) == *equal
            }
            (Self::Text { equal, .. }, Value::Unset) => !equal,
            (Self::Time { operator, time }, Value::Time(value)) => match operator {
                Operator::Equal => value == *time,
                Operator::NotEqual => value != *time,
                Operator::Less => value < *time,
                Operator::LessOrEqual => value <= *time,
                Operator::Greater => value > *time,
                Operator::GreaterOrEqual => value >= *time,
                Operator::Has => false,
            },
            (Self::Time { operator, .. }, Value::Unset) => *operator == Operator::NotEqual,
            (Self::Flag { wanted }, Value::Flag(value)) => value == *wanted,
            (Self::Label { key, pattern, equal }, Value::Labels(labels)) => match labels.get(key) {
                Some(value) => pattern.matches(value) == *equal,
                None => !equal,
            },
            (Self::HasLabel { key }, Value::Labels(labels)) => labels.contains_key(key),
            (Self::IsSet, value) => !matches!(value, Value::Unset),
            _ => false,
        }
    }
}

/// The test that a comparison stands for; `rest` is what comes after the field's name, for labels.
fn test(
    field: Field,
    rest: Option<&str>,
    operator: (Operator, usize),
    value: (&str, usize),
) -> Result<Test, FilterError> {
    let (operator, operator_position) = operator;
    let (text, position) = value;
    let equal = operator == Operator::Equal;
    let bad_operator = || FilterError::BadOperator {
        position: operator_position,
        field: field.name.to_owned(),
        operator: operator.to_string(),
    };
    let bad_value = |expected: String| FilterError::BadValue { position, value: quoted(text), expected };
    let is_equality = matches!(operator, Operator::Equal | Operator::NotEqual);
    match (field.kind, rest) {
        (Kind::Labels, Some(key)) if is_equality => {
            Ok(Test::Label { key: key.to_owned(), pattern: Pattern::read(text), equal })
        }
        (Kind::Labels, None) if operator == Operator::Has => {
            label::check_key(text).map_err(|_| bad_value("a label key".to_owned()))?;
            Ok(Test::HasLabel { key: text.to_owned() })
        }
        (Kind::Texts, _) if operator == Operator::Has => Ok(Test::Text { pattern: Pattern::read(text), equal: true }),
        (Kind::Text | Kind::Texts, _) if is_equality => Ok(Test::Text { pattern: Pattern::read(text), equal }),
        (Kind::Word { prefix, words }, _) if is_equality => {
            let word = text.strip_prefix(prefix).unwrap_or(text);
            if !words.contains(&word) {
                return Err(bad_value(format!("one of {}", words.join(", "))));
            }
            Ok(Test::Text { pattern: Pattern::exact(word), equal })
        }
        (Kind::Flag, _) if is_equality => match text {
            "true" => Ok(Test::Flag { wanted: equal }),
            "false" => Ok(Test::Flag { wanted: !equal }),
            _ => Err(bad_value("true or false".to_owned())),
        },
        (Kind::Time, _) if operator == Operator::Has => match text {
            "*" => Ok(Test::IsSet),
            _ => Err(bad_value("*, which asks whether there is a moment".to_owned())),
        },
        (Kind::Time, _) => match text.parse() {
            Ok(time) => Ok(Test::Time { operator, time }),
            Err(_) => Err(bad_value("a moment such as \"2026-01-31T12:00:00Z\"".to_owned())),
        },
        _ => Err(bad_operator()),
    }
}
