//! A list of what is wrong, each entry under the path of its field.

use std::fmt;

/// Bytes of all fields and descriptions together: an RPC's error travels in HTTP/2 headers, base64-encoded, and clients
/// take 16 KiB of headers by default.
const MAX_BYTES: usize = 6 * 1024;
/// Bytes of one description, so that one violation leaves room for others.
const MAX_DESCRIPTION: usize = 2 * 1024;
/// The last entry of a list that would have passed the limit.
const CLOSING: &str = "more is wrong than one answer can hold";

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Violation {
    /// Path of the field in the words of the wire, such as `spec.env[2].name`.
    pub field: String,
    /// What is wrong and what would be right.
    pub description: String,
}

impl Violation {
    fn bytes(&self) -> usize {
        self.field.len() + self.description.len()
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.description)
        } else {
            write!(f, "{}: {}", self.field, self.description)
        }
    }
}

/// Everything that is wrong, in the order of the fields; as an error it is never empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Violations(pub Vec<Violation>);

impl Violations {
    /// A list of one.
    #[must_use]
    pub fn one(field: &str, description: impl Into<String>) -> Self {
        let mut found = Self::default();
        found.add(Path::Root.field(field), description);
        found
    }

    /// Adds what is wrong with the field at `path`.
    ///
    /// Past the limit on bytes a last entry says that there is more, and nothing further is kept.
    pub fn add(&mut self, path: Path<'_>, description: impl Into<String>) {
        let mut violation = Violation { field: path.to_string(), description: description.into() };
        cut(&mut violation.description, MAX_DESCRIPTION);
        self.push(violation);
    }

    /// Adds what was found elsewhere, under the same limit.
    pub fn append(&mut self, others: Self) {
        for violation in others.0 {
            self.push(violation);
        }
    }

    fn push(&mut self, mut violation: Violation) {
        if self.0.last().is_some_and(|last| last.description == CLOSING) {
            return;
        }
        // What is read twice is wrong once.
        if self.0.contains(&violation) {
            return;
        }
        let used: usize = self.0.iter().map(Violation::bytes).sum();
        if used + violation.bytes() > MAX_BYTES {
            violation = Violation { field: String::new(), description: CLOSING.to_owned() };
        }
        self.0.push(violation);
    }

    /// `value` if nothing is wrong.
    ///
    /// # Errors
    ///
    /// The violations, if there are any.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("nothing is wrong"),
            [only] => only.fmt(f),
            [first, rest @ ..] => write!(f, "{first} (and {} more)", rest.len()),
        }
    }
}

impl std::error::Error for Violations {}

/// Where a field is, as a chain from the innermost part outwards: text is made only when something is wrong.
#[derive(Clone, Copy, Debug)]
pub enum Path<'a> {
    /// The message itself.
    Root,
    /// A field of the message at the path.
    Field(&'a Path<'a>, &'a str),
    /// An entry of the list at the path.
    Index(&'a Path<'a>, usize),
    /// An entry of the map at the path.
    Key(&'a Path<'a>, &'a str),
}

impl<'a> Path<'a> {
    /// A field of the message at this path.
    #[must_use]
    pub fn field(&'a self, name: &'a str) -> Path<'a> {
        Path::Field(self, name)
    }

    /// An entry of the list at this path.
    #[must_use]
    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }

    /// An entry of the map at this path.
    #[must_use]
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Self::Key(parent, key) => write!(f, "{parent}[{}]", quoted(key)),
        }
    }
}

/// Characters of a given text that a message repeats.
const MAX_QUOTED: usize = 80;

/// A text that somebody gave, in quotes, escaped, and short enough for a message.
#[must_use]
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A text with each row of white space and control characters as one space, and none around it.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}

/// Shortens a text to at most `limit` bytes, at the border of a character.
pub fn cut(text: &mut String, limit: usize) {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_in_the_words_of_the_wire() {
        let spec = Path::Root.field("spec");
        let env = spec.field("env");
        assert_eq!(env.index(2).field("name").to_string(), "spec.env[2].name");
        assert_eq!(spec.key("a\"b").to_string(), "spec[\"a\\\"b\"]");
        assert_eq!(Path::Root.to_string(), "");
    }

    #[test]
    fn a_list_stays_within_the_headers_of_an_answer() {
        let mut bad = Violations::default();
        for index in 0..10_000 {
            bad.add(Path::Root.field("names").index(index), "é".repeat(3000));
        }
        let mut twice = bad.clone();
        twice.append(bad.clone());
        for list in [bad, twice] {
            assert!(list.0.iter().map(Violation::bytes).sum::<usize>() <= MAX_BYTES + CLOSING.len());
            assert_eq!(list.0.iter().filter(|violation| violation.description == CLOSING).count(), 1);
            assert_eq!(list.0.first().map(|violation| violation.description.len()), Some(MAX_DESCRIPTION));
        }
    }

    #[test]
    fn what_is_wrong_twice_is_told_once() {
        let mut bad = Violations::default();
        bad.add(Path::Root.field("a"), "is missing");
        bad.append(bad.clone());
        bad.add(Path::Root.field("b"), "is missing");
        let fields: Vec<&str> = bad.0.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["a", "b"]);
    }

    #[test]
    fn given_texts_are_quoted_and_cut() {
        assert_eq!(quoted("a\nb"), r#""a\nb""#);
        assert_eq!(quoted(&"é".repeat(81)), format!("\"{}\"…", "é".repeat(80)));
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let mut text = "aé".to_owned();
        cut(&mut text, 2);
        assert_eq!(text, "a");
        cut(&mut text, 2);
        assert_eq!(text, "a");
    }
}
