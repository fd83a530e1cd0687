//! Label selectors, in the grammar of Kubernetes.
//!
//! Requirements are separated by commas, and all must hold: `key=value`, `key==value`, `key!=value`, `key`, `!key`,
//! `key in (a, b)`, `key notin (a, b)`. As in Kubernetes, `!=` and `notin` also hold for nodes without the key.

use std::collections::BTreeSet;

use crate::label::{LabelError, check_key, check_value};
use crate::node::Labels;

/// Bytes of a selector: it is written by hand, and scanned once per job.
pub const MAX_SELECTOR: usize = 4096;

/// A parsed selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
}

/// Why a text is not a selector, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Longer than [`MAX_SELECTOR`].
    #[error("is {0} bytes long; at most {MAX_SELECTOR} are allowed")]
    TooLong(usize),
    /// Something else should stand here.
    #[error("at position {position}: expected {expected}, found {found}")]
    Unexpected {
        /// Counted from 1, in characters.
        position: usize,
        /// What would be right.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A key that breaks the rules of keys.
    #[error("at position {position}: the key {reason}")]
    BadKey {
        /// Counted from 1, in characters.
        position: usize,
        /// The rule.
        reason: LabelError,
    },
    /// A value that breaks the rules of values.
    #[error("at position {position}: the value {reason}")]
    BadValue {
        /// Counted from 1, in characters.
        position: usize,
        /// The rule.
        reason: LabelError,
    },
}

impl Selector {
    /// Reads a selector.
    ///
    /// # Errors
    ///
    /// The first place where the text leaves the grammar.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.len() > MAX_SELECTOR {
            return Err(SelectorError::TooLong(text.len()));
        }
        let mut parser = Parser { tokens: tokenise(text), next: 0 };
        let mut requirements = vec![parser.requirement()?];
        while parser.take(&Kind::Comma) {
            requirements.push(parser.requirement()?);
        }
        match parser.peek().kind {
            Kind::End => Ok(Self(requirements)),
            _ => Err(parser.unexpected("',' or the end")),
        }
    }

    /// Whether all requirements hold for these labels.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match &requirement.test {
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
                Test::In(values) => value.is_some_and(|value| values.contains(value)),
                Test::NotIn(values) => !value.is_some_and(|value| values.contains(value)),
            }
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Word(String),
    Comma,
    Open,
    Close,
    Not,
    Equals,
    NotEquals,
    End,
}

#[derive(Clone, Debug)]
struct Token {
    kind: Kind,
    position: usize,
}

/// Cuts the text into tokens; any run of other characters is a word, which the rules of labels judge later.
fn tokenise(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let next_is_equals = chars.get(at + 1) == Some(&'=');
        let (kind, length) = match c {
            ',' => (Kind::Comma, 1),
            '(' => (Kind::Open, 1),
            ')' => (Kind::Close, 1),
            '!' if next_is_equals => (Kind::NotEquals, 2),
            '!' => (Kind::Not, 1),
            '=' if next_is_equals => (Kind::Equals, 2),
            '=' => (Kind::Equals, 1),
            c if c.is_whitespace() => {
                at += 1;
                continue;
            }
            _ => {
                let is_inner = |c: &&char| !c.is_whitespace() && !matches!(c, ',' | '(' | ')' | '!' | '=');
                let word: String = chars[at..].iter().take_while(is_inner).collect();
                let length = word.chars().count();
                (Kind::Word(word), length)
            }
        };
        tokens.push(Token { kind, position: at + 1 });
        at += length;
    }
    tokens.push(Token { kind: Kind::End, position: chars.len() + 1 });
    tokens
}

/// `tokens` ends with [`Kind::End`], which is never passed.
struct Parser {
    tokens: Vec<Token>,
    next: usize,
}

const END: Token = Token { kind: Kind::End, position: 0 };

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.next).or(self.tokens.last()).unwrap_or(&END)
    }

    fn take(&mut self, kind: &Kind) -> bool {
        let is_next = self.peek().kind == *kind;
        if is_next {
            self.next += 1;
        }
        is_next
    }

    fn word(&mut self) -> Option<(String, usize)> {
        let Token { kind: Kind::Word(word), position } = self.peek().clone() else {
            return None;
        };
        self.next += 1;
        Some((word, position))
    }

    fn unexpected(&self, expected: &'static str) -> SelectorError {
        let Token { kind, position } = self.peek();
        let found = match kind {
            Kind::Word(word) => crate::validate::quoted(word),
            Kind::Comma => "','".to_owned(),
            Kind::Open => "'('".to_owned(),
            Kind::Close => "')'".to_owned(),
            Kind::Not => "'!'".to_owned(),
            Kind::Equals => "'='".to_owned(),
            Kind::NotEquals => "'!='".to_owned(),
            Kind::End => "the end".to_owned(),
        };
        SelectorError::Unexpected { position: *position, expected, found }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        if self.take(&Kind::Not) {
            return Ok(Requirement { key: self.key()?, test: Test::Absent });
        }
        let key = self.key()?;
        let test = match &self.peek().kind {
            Kind::Comma | Kind::End => Test::Exists,
            Kind::Equals => {
                self.next += 1;
                Test::In(BTreeSet::from([self.value()?]))
            }
            Kind::NotEquals => {
                self.next += 1;
                Test::NotIn(BTreeSet::from([self.value()?]))
            }
            Kind::Word(word) if word == "in" => {
                self.next += 1;
                Test::In(self.values()?)
            }
            Kind::Word(word) if word == "notin" => {
                self.next += 1;
                Test::NotIn(self.values()?)
            }
            _ => return Err(self.unexpected("'=', '!=', 'in', 'notin', ',' or the end")),
        };
        Ok(Requirement { key, test })
    }

    fn key(&mut self) -> Result<String, SelectorError> {
        let (key, position) = self.word().ok_or_else(|| self.unexpected("a label key"))?;
        check_key(&key).map_err(|reason| SelectorError::BadKey { position, reason })?;
        Ok(key)
    }

    /// One value; nothing before a comma, a parenthesis or the end is the empty value.
    fn value(&mut self) -> Result<String, SelectorError> {
        let Some((value, position)) = self.word() else {
            return match self.peek().kind {
                Kind::Comma | Kind::Close | Kind::End => Ok(String::new()),
                _ => Err(self.unexpected("a label value")),
            };
        };
        check_value(&value).map_err(|reason| SelectorError::BadValue { position, reason })?;
        Ok(value)
    }

    fn values(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        if !self.take(&Kind::Open) {
            return Err(self.unexpected("'('"));
        }
        if self.peek().kind == Kind::Close {
            return Err(self.unexpected("a label value"));
        }
        let mut values = BTreeSet::from([self.value()?]);
        while self.take(&Kind::Comma) {
            values.insert(self.value()?);
        }
        if self.take(&Kind::Close) { Ok(values) } else { Err(self.unexpected("',' or ')'")) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use proptest::prelude::*;

    use super::*;

    fn holds(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Selector::parse(selector).unwrap().matches(&labels)
    }

    #[test]
    fn every_form_means_what_it_means_in_kubernetes() {
        let node = [("role", "gateway"), ("tier", ""), ("example.com/site", "north")];
        let true_ones = [
            "role=gateway",
            "role==gateway",
            "role = gateway",
            "role",
            "!absent",
            "role!=till",
            "absent!=till",
            "role in (till, gateway)",
            "role notin (till)",
            "absent notin (till)",
            "tier=",
            "tier in (,x)",
            "role=gateway,example.com/site=north",
            " role , !absent , role in(gateway) ",
            "absent notin (,)",
        ];
        for selector in true_ones {
            assert!(holds(selector, &node), "{selector}");
        }
        let false_ones = [
            "role=till",
            "!role",
            "absent",
            "absent=x",
            "absent=",
            "role in (till)",
            "role notin (gateway)",
            "role,absent",
        ];
        for selector in false_ones {
            assert!(!holds(selector, &node), "{selector}");
        }
    }

    #[test]
    fn keys_may_be_called_in_and_notin() {
        assert!(holds("in in (in),notin", &[("in", "in"), ("notin", "")]));
    }

    #[test]
    fn errors_say_where_and_what() {
        let errors = [
            ("", "at position 1: expected a label key, found the end"),
            ("a,", "at position 3: expected a label key, found the end"),
            ("a b", "at position 3: expected '=', '!=', 'in', 'notin', ',' or the end, found \"b\""),
            ("a in b", "at position 6: expected '(', found \"b\""),
            ("a in ()", "at position 7: expected a label value, found ')'"),
            ("a in (b", "at position 8: expected ',' or ')', found the end"),
            ("a in (b c)", "at position 9: expected ',' or ')', found \"c\""),
            ("a=b=c", "at position 4: expected ',' or the end, found '='"),
            ("!a=b", "at position 3: expected ',' or the end, found '='"),
            ("a===b", "at position 4: expected a label value, found '='"),
            ("a=(b)", "at position 3: expected a label value, found '('"),
        ];
        for (selector, message) in errors {
            assert_eq!(Selector::parse(selector).unwrap_err().to_string(), message, "{selector}");
        }
        assert!(matches!(Selector::parse("-a"), Err(SelectorError::BadKey { position: 1, .. })));
        assert!(matches!(Selector::parse("é=a"), Err(SelectorError::BadKey { position: 1, .. })));
        assert!(matches!(Selector::parse("a in (b, -)"), Err(SelectorError::BadValue { position: 10, .. })));
        assert!(matches!(Selector::parse(&"a,".repeat(3000)), Err(SelectorError::TooLong(6000))));
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic(text in "[a-z !=,()é\\-]{0,40}|.*") {
            let _ = Selector::parse(&text);
        }

        #[test]
        fn in_is_the_opposite_of_notin(values in proptest::collection::vec("[a-c]{0,2}", 1..4), label in "[a-c]{0,2}") {
            let list = values.join(",");
            prop_assume!(!list.is_empty());
            let labels = [("k", label.as_str())];
            prop_assert_eq!(holds(&format!("k in ({list})"), &labels), !holds(&format!("k notin ({list})"), &labels));
            prop_assert_eq!(holds(&format!("k in ({list})"), &labels), values.contains(&label));
        }
    }
}
