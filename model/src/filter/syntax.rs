//! From text to expression.

use super::{Expression, Field, FilterError, Kind, MAX_DEPTH, MAX_FILTER, Operator, test};
use crate::label;
use crate::validate::quoted;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Operator(Operator),
    Dot,
    Open,
    Close,
    End,
}

const OPERATORS: [(&str, Operator); 7] = [
    ("!=", Operator::NotEqual),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("=", Operator::Equal),
    ("<", Operator::Less),
    (">", Operator::Greater),
    (":", Operator::Has),
];

/// Reads a whole filter; nothing is `None`.
pub(super) fn parse(text: &str, fields: &[Field]) -> Result<Option<Expression>, FilterError> {
    if text.len() > MAX_FILTER {
        return Err(FilterError::TooLong(text.len()));
    }
    let mut parser = Parser { rest: text, position: 1, fields, next: (Token::End, 1) };
    parser.advance(Place::Field)?;
    if parser.next.0 == Token::End {
        return Ok(None);
    }
    let expression = parser.expression(0)?;
    match parser.next.0 {
        Token::End => Ok(Some(expression)),
        _ => Err(parser.unexpected("AND, OR or the end")),
    }
}

/// Where a word stands: values may hold what fields may not, such as the dots and colons of a moment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Field,
    Value,
}

struct Parser<'a> {
    rest: &'a str,
    /// Of `rest`, counted from 1, in characters.
    position: usize,
    fields: &'a [Field],
    /// The token that comes next, and where it stands.
    next: (Token, usize),
}

impl Parser<'_> {
    fn skip(&mut self, bytes: usize) {
        let (skipped, rest) = self.rest.split_at(bytes);
        self.position += skipped.chars().count();
        self.rest = rest;
    }

    /// Passes the next token and reads the one after it.
    fn advance(&mut self, place: Place) -> Result<(Token, usize), FilterError> {
        let spaces = self.rest.len() - self.rest.trim_start().len();
        self.skip(spaces);
        let position = self.position;
        let token = self.read(place)?;
        Ok(std::mem::replace(&mut self.next, (token, position)))
    }

    fn read(&mut self, place: Place) -> Result<Token, FilterError> {
        let Some(first) = self.rest.chars().next() else { return Ok(Token::End) };
        let single = match first {
            '(' => Some(Token::Open),
            ')' => Some(Token::Close),
            '.' if place == Place::Field => Some(Token::Dot),
            _ => None,
        };
        if let Some(token) = single {
            self.skip(1);
            return Ok(token);
        }
        if matches!(first, '"' | '\'') {
            return self.string(first);
        }
        if let Some((text, operator)) = OPERATORS.iter().find(|(text, _)| self.rest.starts_with(text)) {
            self.skip(text.len());
            return Ok(Token::Operator(*operator));
        }
        let is_end = |c: char| {
            c.is_whitespace()
                || matches!(c, '(' | ')' | '"' | '\'' | '=' | '!' | '<' | '>')
                || (place == Place::Field && matches!(c, '.' | ':'))
        };
        // At least one character: a '!' by itself is a word that no rule knows.
        let length = self.rest.char_indices().skip(1).find(|(_, c)| is_end(*c)).map_or(self.rest.len(), |(at, _)| at);
        let word = self.rest.get(..length).unwrap_or_default().to_owned();
        self.skip(length);
        Ok(Token::Word(word))
    }

    fn string(&mut self, quote: char) -> Result<Token, FilterError> {
        let start = self.position;
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => text.extend(chars.next().map(|(_, c)| c)),
                c if c == quote => {
                    self.skip(at + quote.len_utf8());
                    return Ok(Token::Text(text));
                }
                c => text.push(c),
            }
        }
        Err(FilterError::OpenString(start))
    }

    fn unexpected(&self, expected: &'static str) -> FilterError {
        let (token, position) = &self.next;
        let found = match token {
            Token::Word(text) | Token::Text(text) => quoted(text),
            Token::Operator(operator) => format!("'{operator}'"),
            Token::Dot => "'.'".to_owned(),
            Token::Open => "'('".to_owned(),
            Token::Close => "')'".to_owned(),
            Token::End => "the end".to_owned(),
        };
        FilterError::Unexpected { position: *position, expected, found }
    }

    fn is_word(&self, wanted: &str) -> bool {
        matches!(&self.next.0, Token::Word(word) if word == wanted)
    }

    fn expression(&mut self, depth: usize) -> Result<Expression, FilterError> {
        let mut parts = vec![self.term(depth)?];
        let joiner = if self.is_word("OR") { "OR" } else { "AND" };
        while self.is_word("AND") || self.is_word("OR") {
            if !self.is_word(joiner) {
                return Err(FilterError::Mixed(self.next.1));
            }
            self.advance(Place::Field)?;
            parts.push(self.term(depth)?);
        }
        Ok(match (parts.len(), joiner) {
            (1, _) => parts.remove(0),
            (_, "OR") => Expression::Any(parts),
            _ => Expression::All(parts),
        })
    }

    fn term(&mut self, depth: usize) -> Result<Expression, FilterError> {
        if depth > MAX_DEPTH {
            return Err(FilterError::TooDeep(self.next.1));
        }
        if self.is_word("NOT") {
            self.advance(Place::Field)?;
            return Ok(Expression::Not(Box::new(self.term(depth + 1)?)));
        }
        if self.next.0 != Token::Open {
            return self.comparison();
        }
        self.advance(Place::Field)?;
        let inner = self.expression(depth + 1)?;
        if self.next.0 != Token::Close {
            return Err(self.unexpected("AND, OR or ')'"));
        }
        self.advance(Place::Field)?;
        Ok(inner)
    }

    fn comparison(&mut self) -> Result<Expression, FilterError> {
        let (field, label, position) = self.field()?;
        let Token::Operator(operator) = self.next.0 else {
            return Err(self.unexpected("one of = != < <= > >= :"));
        };
        if field.kind == Kind::Labels && label.is_none() && operator != Operator::Has {
            let expected = "'.' and a label key, or ':' and one";
            return Err(FilterError::Unexpected { position: self.next.1, expected, found: format!("'{operator}'") });
        }
        let (_, operator_position) = self.advance(Place::Value)?;
        let (value, value_position) = match &self.next {
            (Token::Word(text) | Token::Text(text), position) => (text.clone(), *position),
            _ => return Err(self.unexpected("a value")),
        };
        if let Some(key) = &label {
            label::check_key(key).map_err(|error| FilterError::BadValue {
                position,
                value: quoted(key),
                expected: format!("a label key: it {error}"),
            })?;
        }
        let test = test(field, label.as_deref(), (operator, operator_position), (&value, value_position))?;
        self.advance(Place::Field)?;
        Ok(Expression::Test { field: field.name, test })
    }

    /// A field, the label's key where it is `labels.KEY`, and where that stands.
    fn field(&mut self) -> Result<(Field, Option<String>, usize), FilterError> {
        let position = self.next.1;
        let mut parts = Vec::new();
        loop {
            match &self.next.0 {
                Token::Word(part) => parts.push(part.clone()),
                Token::Text(part) if !parts.is_empty() => parts.push(part.clone()),
                _ => return Err(self.unexpected("a field")),
            }
            self.advance(Place::Field)?;
            if self.next.0 != Token::Dot {
                break;
            }
            self.advance(Place::Field)?;
        }
        let name = parts.join(".");
        if let Some(field) = self.fields.iter().find(|field| field.name == name) {
            return Ok((*field, None, position));
        }
        let labels = self
            .fields
            .iter()
            .find(|field| field.kind == Kind::Labels && parts.first().is_some_and(|part| part == field.name));
        match labels {
            // An unquoted key may hold dots, too.
            Some(field) => Ok((*field, Some(parts.get(1..).unwrap_or_default().join(".")), position)),
            None => {
                let known: Vec<&str> = self.fields.iter().map(|field| field.name).collect();
                Err(FilterError::UnknownField { position, name: quoted(&name), known: known.join(", ") })
            }
        }
    }
}
