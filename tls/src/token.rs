//! Enrolment tokens: what an operator carries from the server to a new machine.
//!
//! The text form is `lst1.<identifier>.<secret>.<pin>`: by the identifier the server finds the token, with the secret
//! the machine proves that it was given it, and with the pin the machine knows the server before it says a word.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::pin::Pin;

/// First part of every token: kind and version.
const PREFIX: &str = "lst1";
/// Random bytes of an identifier: enough that two never meet.
const ID_BYTES: usize = 9;
/// Random bytes of a secret: beyond guessing.
const SECRET_BYTES: usize = 32;

/// Why a text is not a token. Never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not four parts with the right prefix.
    #[error("this is not an enrolment token: {PREFIX}.<identifier>.<secret>.<pin> is expected")]
    Form,
    /// A part is cut short or mistyped.
    #[error("the {0} in the enrolment token is damaged; copy the whole token")]
    Damaged(&'static str),
}

/// A token, with its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrollmentToken {
    id: String,
    secret: [u8; SECRET_BYTES],
    pin: Pin,
}

impl EnrollmentToken {
    /// Random bytes that [`EnrollmentToken::from_random`] needs.
    pub const RANDOM_BYTES: usize = ID_BYTES + SECRET_BYTES;

    /// Makes a token from bytes of a cryptographic generator and the pin of the server's root.
    #[must_use]
    pub fn from_random(random: &[u8; Self::RANDOM_BYTES], pin: Pin) -> Self {
        let (id, rest) = random.split_at(ID_BYTES);
        let mut secret = [0; SECRET_BYTES];
        secret.copy_from_slice(rest);
        Self { id: URL_SAFE_NO_PAD.encode(id), secret, pin }
    }

    /// Public half, by which the server finds it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// SHA-256 of the secret half: all that the server keeps. The secret is random, so that a plain hash is enough.
    #[must_use]
    pub fn secret_hash(&self) -> [u8; 32] {
        Sha256::digest(self.secret).into()
    }

    /// The pin of the server's root.
    #[must_use]
    pub fn pin(&self) -> Pin {
        self.pin
    }
}

/// The whole token, secret included: for the one place that shows it.
impl fmt::Display for EnrollmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}.{}.{}.{}", self.id, URL_SAFE_NO_PAD.encode(self.secret), self.pin)
    }
}

impl fmt::Debug for EnrollmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrollmentToken").field("id", &self.id).field("pin", &self.pin).finish_non_exhaustive()
    }
}

impl FromStr for EnrollmentToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [PREFIX, id, secret, pin] = parts.as_slice() else { return Err(TokenError::Form) };
        let decoded_id = URL_SAFE_NO_PAD.decode(id).map_err(|_| TokenError::Damaged("identifier"))?;
        if decoded_id.len() != ID_BYTES {
            return Err(TokenError::Damaged("identifier"));
        }
        let secret = URL_SAFE_NO_PAD.decode(secret).map_err(|_| TokenError::Damaged("secret"))?;
        Ok(Self {
            id: (*id).to_owned(),
            secret: secret.try_into().map_err(|_| TokenError::Damaged("secret"))?,
            pin: pin.parse().map_err(|_| TokenError::Damaged("pin"))?,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn token() -> EnrollmentToken {
        let random: [u8; EnrollmentToken::RANDOM_BYTES] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        EnrollmentToken::from_random(&random, Pin::of(&b"a root".as_slice().into()))
    }

    #[test]
    fn text_form_is_read_back() {
        let token = token();
        assert_eq!(token.to_string().parse::<EnrollmentToken>().unwrap(), token);
        assert_eq!(format!(" {token}\n").parse::<EnrollmentToken>().unwrap(), token);
        assert_eq!(token.to_string().split('.').count(), 4);
    }

    #[test]
    fn debug_shows_no_secret() {
        let token = token();
        let text = token.to_string();
        let secret = text.split('.').nth(2).unwrap();
        assert!(!format!("{token:?}").contains(secret));
        assert!(!format!("{token:#?}").contains("09, 0a"));
    }

    #[test]
    fn damage_is_named_and_never_repeated() {
        let text = token().to_string();
        let parts: Vec<&str> = text.split('.').collect();
        let cases = [
            (String::new(), TokenError::Form),
            (parts[..3].join("."), TokenError::Form),
            (format!("{text}.x"), TokenError::Form),
            (text.replacen("lst1", "lst2", 1), TokenError::Form),
            ([parts[0], "AAAA", parts[2], parts[3]].join("."), TokenError::Damaged("identifier")),
            ([parts[0], parts[1], &parts[2][1..], parts[3]].join("."), TokenError::Damaged("secret")),
            (text[..text.len() - 1].to_owned(), TokenError::Damaged("pin")),
        ];
        for (damaged, expected) in cases {
            let error = damaged.parse::<EnrollmentToken>().unwrap_err();
            assert_eq!(error, expected, "{damaged}");
            assert!(!error.to_string().contains(parts[2]));
        }
    }
}
