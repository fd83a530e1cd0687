//! Amounts as people write them: CPU, bytes, durations.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error, Visitor};

/// A text that is no amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not of the expected form.
    #[error("{given:?} is not {expected}")]
    Form {
        /// What was given.
        given: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Larger than what can be kept.
    #[error("{0:?} is too large")]
    TooLarge(String),
    /// Finer than what can be kept.
    #[error("{given:?} is not a whole number of {unit}")]
    TooFine {
        /// What was given.
        given: String,
        /// The smallest unit.
        unit: &'static str,
    },
}

/// Reads `digits[.digits]` times `factor`, exactly.
fn decimal(text: &str, factor: u64) -> Option<Exact> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let dangling = text.ends_with('.') || whole.is_empty();
    // Twelve decimals are enough for one byte of a Ti, and keep the arithmetic within 128 bits.
    if dangling || !is_digits(whole) || !is_digits(fraction) || whole.len() > 20 || fraction.len() > 12 {
        return None;
    }
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let Some(amount) = digits.checked_mul(u128::from(factor)) else {
        return Some(Exact::TooLarge);
    };
    Some(match u64::try_from(amount / scale) {
        _ if amount % scale != 0 => Exact::TooFine,
        Ok(amount) => Exact::Amount(amount),
        Err(_) => Exact::TooLarge,
    })
}

enum Exact {
    Amount(u64),
    TooLarge,
    TooFine,
}

/// Takes a YAML number or text, and hands both on as text.
struct NumberOrText<T, F> {
    expected: &'static str,
    parse: F,
    amount: PhantomData<T>,
}

impl<T, F: Fn(&str) -> Result<T, QuantityError>> NumberOrText<T, F> {
    fn new(expected: &'static str, parse: F) -> Self {
        Self { expected, parse, amount: PhantomData }
    }
}

impl<'de, T, F: Fn(&str) -> Result<T, QuantityError>> Visitor<'de> for NumberOrText<T, F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<T, E> {
        (self.parse)(value).map_err(E::custom)
    }
}

/// The same for an amount that may be missing.
struct Optional<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for Optional<V> {
    type Value = Option<V::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self.0).map(Some)
    }
}

/// CPU: `2`, `0.5`, `500m`; kept in thousandths.
pub mod cpu {
    use serde::{Deserializer, Serialize, Serializer};

    use super::{Exact, NumberOrText, Optional, QuantityError, decimal};

    const EXPECTED: &str = "an amount of CPU such as 2, 0.5 or 500m";

    /// Reads a number of CPUs or thousandths.
    ///
    /// # Errors
    ///
    /// The text is no amount of CPU, or not in whole thousandths.
    pub fn parse(text: &str) -> Result<u32, QuantityError> {
        let (number, factor) = match text.strip_suffix('m') {
            Some(number) => (number, 1),
            None => (text, 1000),
        };
        let given = || text.to_owned();
        match decimal(number, factor) {
            Some(Exact::Amount(amount)) => u32::try_from(amount).map_err(|_| QuantityError::TooLarge(given())),
            Some(Exact::TooLarge) => Err(QuantityError::TooLarge(given())),
            Some(Exact::TooFine) => Err(QuantityError::TooFine { given: given(), unit: "thousandths of a CPU" }),
            None => Err(QuantityError::Form { given: given(), expected: EXPECTED }),
        }
    }

    /// Writes thousandths as `500m`, and whole CPUs as `2`.
    #[must_use]
    pub fn format(millis: u32) -> String {
        if millis.is_multiple_of(1000) { (millis / 1000).to_string() } else { format!("{millis}m") }
    }

    /// Writes an amount of CPU as a text.
    ///
    /// # Errors
    ///
    /// The serializer's own.
    pub fn serialize<S: Serializer>(value: &Option<u32>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(format).serialize(serializer)
    }

    /// Reads an amount of CPU from a number or a text.
    ///
    /// # Errors
    ///
    /// Those of [`parse`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
        deserializer.deserialize_option(Optional(NumberOrText::new(EXPECTED, parse)))
    }
}

/// Bytes: a number, or one with Ki, Mi, Gi, Ti, k, M, G, T.
pub mod bytes {
    use serde::{Deserializer, Serialize, Serializer};

    use super::{Exact, NumberOrText, Optional, QuantityError, decimal};

    const EXPECTED: &str = "a number of bytes such as 64Mi, 1.5Gi, 500M or 1048576";

    /// Largest first; the decimal ones come after, as `format` stops at the binary ones.
    const BINARY: [(&str, u64); 4] = [("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    const DECIMAL: [(&str, u64); 4] = [("T", 1_000_000_000_000), ("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)];

    /// Reads an amount of bytes.
    ///
    /// # Errors
    ///
    /// The text is no amount of bytes, or not a whole number of them.
    pub fn parse(text: &str) -> Result<u64, QuantityError> {
        let with_unit = |(unit, factor): &(&str, u64)| text.strip_suffix(unit).map(|number| (number, *factor));
        let (number, factor) = BINARY.iter().chain(&DECIMAL).find_map(with_unit).unwrap_or((text, 1));
        match decimal(number, factor) {
            Some(Exact::Amount(amount)) => Ok(amount),
            Some(Exact::TooLarge) => Err(QuantityError::TooLarge(text.to_owned())),
            Some(Exact::TooFine) => Err(QuantityError::TooFine { given: text.to_owned(), unit: "bytes" }),
            None => Err(QuantityError::Form { given: text.to_owned(), expected: EXPECTED }),
        }
    }

    /// Writes bytes with the largest binary unit that fits exactly.
    #[must_use]
    pub fn format(bytes: u64) -> String {
        let fits = |(_, factor): &&(&str, u64)| bytes != 0 && bytes.is_multiple_of(*factor);
        match BINARY.iter().find(fits) {
            Some((unit, factor)) => format!("{}{unit}", bytes / factor),
            None => bytes.to_string(),
        }
    }

    /// Writes an amount of bytes as a text.
    ///
    /// # Errors
    ///
    /// The serializer's own.
    pub fn serialize<S: Serializer>(value: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(format).serialize(serializer)
    }

    /// Reads an amount of bytes from a number or a text.
    ///
    /// # Errors
    ///
    /// Those of [`parse`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        deserializer.deserialize_option(Optional(NumberOrText::new(EXPECTED, parse)))
    }
}

/// Permissions of a file, as octal digits.
pub mod mode {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use super::QuantityError;

    const EXPECTED: &str = "permissions in three or four octal digits, such as 0440";
    /// Every permission; the bits above have no place on what a container reads.
    const ALL: u32 = 0o777;

    /// Reads permissions: `0440` or `440`.
    ///
    /// # Errors
    ///
    /// The text is none.
    pub fn parse(text: &str) -> Result<u32, QuantityError> {
        let digits = text.strip_prefix('0').filter(|rest| rest.len() == 3).unwrap_or(text);
        let mode = if digits.len() == 3 { u32::from_str_radix(digits, 8).ok() } else { None };
        let form = || QuantityError::Form { given: text.to_owned(), expected: EXPECTED };
        mode.filter(|mode| (1..=ALL).contains(mode) && digits.bytes().all(|c| c.is_ascii_digit())).ok_or_else(form)
    }

    /// Writes permissions as `0440`.
    #[must_use]
    pub fn format(mode: u32) -> String {
        format!("{mode:04o}")
    }

    /// Writes permissions as a text.
    ///
    /// # Errors
    ///
    /// The serializer's own.
    pub fn serialize<S: Serializer>(value: &Option<u32>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(format).serialize(serializer)
    }

    /// Reads permissions from a text; a number could be meant in either base.
    ///
    /// # Errors
    ///
    /// Those of [`parse`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| parse(&text)).transpose().map_err(de::Error::custom)
    }
}

/// Durations: `5s`, `1m30s`, `500ms`, `2h`.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    use super::{NumberOrText, QuantityError};

    pub(super) const EXPECTED: &str = "a duration such as 500ms, 5s, 1m30s or 2h";

    /// Units with their nanoseconds, largest first.
    const UNITS: [(&str, u128); 7] = [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
    ];

    /// Reads a duration: numbers each with a unit (d, h, m, s, ms, us, ns), the larger unit first, each unit once.
    ///
    /// # Errors
    ///
    /// The text is no duration; a number without a unit is none, since its unit could only be guessed.
    pub fn parse(text: &str) -> Result<Duration, QuantityError> {
        let form = || QuantityError::Form { given: text.to_owned(), expected: EXPECTED };
        let mut rest = text;
        let mut units = UNITS.iter();
        let mut nanos = 0u128;
        if text.is_empty() {
            return Err(form());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(form)?;
            let (number, tail) = rest.split_at(digits);
            let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            let (_, factor) = units.find(|(name, _)| *name == unit).ok_or_else(form)?;
            let number: u64 = number.parse().map_err(|_| form())?;
            nanos += u128::from(number) * factor;
            rest = tail;
        }
        let seconds = u64::try_from(nanos / 1_000_000_000);
        let subsecond = u32::try_from(nanos % 1_000_000_000);
        match (seconds, subsecond) {
            (Ok(seconds), Ok(subsecond)) => Ok(Duration::new(seconds, subsecond)),
            _ => Err(QuantityError::TooLarge(text.to_owned())),
        }
    }

    /// Writes a duration as `1m30s`, exactly; days as hours.
    #[must_use]
    pub fn format(duration: Duration) -> String {
        let mut nanos = duration.as_nanos();
        if nanos == 0 {
            return "0s".to_owned();
        }
        let mut text = String::new();
        for (unit, factor) in &UNITS[1..] {
            let number = nanos / factor;
            nanos %= factor;
            if number > 0 {
                text.push_str(&format!("{number}{unit}"));
            }
        }
        text
    }

    /// Writes a duration as a text.
    ///
    /// # Errors
    ///
    /// The serializer's own.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format(*value))
    }

    /// Reads a duration from a text.
    ///
    /// # Errors
    ///
    /// Those of [`parse`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        deserializer.deserialize_any(NumberOrText::new(EXPECTED, parse))
    }
}

/// A duration that may be missing.
pub mod optional_duration {
    use std::time::Duration;

    use serde::{Deserializer, Serialize, Serializer};

    use super::{NumberOrText, Optional, duration};

    /// Writes a duration as a text.
    ///
    /// # Errors
    ///
    /// The serializer's own.
    pub fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(duration::format).serialize(serializer)
    }

    /// Reads a duration from a text.
    ///
    /// # Errors
    ///
    /// Those of [`duration::parse`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        deserializer.deserialize_option(Optional(NumberOrText::new(duration::EXPECTED, duration::parse)))
    }
}

/// Texts that may look like numbers and may be missing, such as a user's.
pub mod optional_text {
    use serde::{Deserializer, Serialize, Serializer};

    use super::{NumberOrText, Optional};

    /// Writes the text.
    ///
    /// # Errors
    ///
    /// The serializer's own.
    pub fn serialize<S: Serializer>(value: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
        value.serialize(serializer)
    }

    /// Reads a text, or a number as one.
    ///
    /// # Errors
    ///
    /// It is neither.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
        deserializer.deserialize_option(Optional(NumberOrText::new("a text or a number", |text| Ok(text.to_owned()))))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cpu_is_read_in_every_documented_form() {
        for (text, millis) in [("2", 2000), ("0.5", 500), ("500m", 500), ("1.250", 1250), ("0", 0), ("0.001", 1)] {
            assert_eq!(cpu::parse(text).unwrap(), millis, "{text}");
        }
    }

    #[test]
    fn what_is_no_cpu_is_refused() {
        for text in ["", "m", ".5", "5.", "-1", "+1", "1e3", "0.0001", "0.5m", "1 ", "2Gi", "NaN", "9999999999"] {
            assert!(cpu::parse(text).is_err(), "{text}");
        }
        assert_eq!(cpu::parse("-1").unwrap_err().to_string(), "\"-1\" is not an amount of CPU such as 2, 0.5 or 500m");
    }

    #[test]
    fn bytes_are_read_in_every_documented_form() {
        let forms =
            [("64Mi", 64 << 20), ("1.5Gi", 3 << 29), ("500M", 500_000_000), ("7", 7), ("3k", 3000), ("2Ti", 2 << 40)];
        for (text, amount) in forms {
            assert_eq!(bytes::parse(text).unwrap(), amount, "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_of_bytes_is_refused() {
        for text in ["", "Mi", "64mi", "64MB", "0.3Ki", "-1", "1.2.3", "18446744073709551616", "99999999999999999999Ti"]
        {
            assert!(bytes::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_read_in_every_documented_form() {
        let forms =
            [("5s", 5_000), ("1m30s", 90_000), ("500ms", 500), ("2h", 7_200_000), ("1d", 86_400_000), ("0s", 0)];
        for (text, millis) in forms {
            assert_eq!(duration::parse(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "5", "s", "5 s", "30s1m", "1m1m", "-5s", "1.5s", "5sec", "99999999999999999999s"] {
            assert!(duration::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(millis: u32, size: u64, seconds: u64, nanos in 0..1_000_000_000u32) {
            prop_assert_eq!(cpu::parse(&cpu::format(millis)).unwrap(), millis);
            prop_assert_eq!(bytes::parse(&bytes::format(size)).unwrap(), size);
            let span = Duration::new(seconds, nanos);
            prop_assert_eq!(duration::parse(&duration::format(span)).unwrap(), span);
        }

        #[test]
        fn no_text_is_a_panic(text: String) {
            let _ = (cpu::parse(&text), bytes::parse(&text), duration::parse(&text));
        }
    }
}
