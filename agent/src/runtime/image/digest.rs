//! Content digests, and readers that check them on the way.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::error::ImageError;

/// A SHA-256 digest; the only algorithm in use, and so all that is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Digest {
    hex: String,
}

impl Digest {
    /// Digest of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { hex: hex::encode(sha2::Sha256::digest(bytes)) }
    }

    /// Digest of what was hashed.
    pub(crate) fn from_hasher(hasher: sha2::Sha256) -> Self {
        Self { hex: hex::encode(hasher.finalize()) }
    }

    /// The 64 hexadecimal digits, which are safe as a file name.
    pub(crate) fn hex(&self) -> &str {
        &self.hex
    }

    /// Checks that these bytes are what the digest stands for.
    pub(crate) fn verify(&self, what: &str, bytes: &[u8]) -> Result<(), ImageError> {
        self.verify_digest(what, &Self::of(bytes))
    }

    /// Checks that the digest found is this one.
    pub(crate) fn verify_digest(&self, what: &str, found: &Self) -> Result<(), ImageError> {
        if self == found {
            return Ok(());
        }
        Err(ImageError::Invalid(format!("{what} is damaged: its digest is {found} instead of {self}")))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex)
    }
}

impl FromStr for Digest {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        match text.strip_prefix("sha256:") {
            Some(hex) if is_sha256_hex(hex) => Ok(Self { hex: hex.to_owned() }),
            _ => Err(ImageError::Invalid(format!("{text:?} is not a SHA-256 digest"))),
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = ImageError;

    fn try_from(text: String) -> Result<Self, ImageError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

fn is_sha256_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A reader that hashes what passes.
pub(crate) struct HashingReader<R> {
    inner: R,
    hasher: sha2::Sha256,
}

impl<R> HashingReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hasher: sha2::Sha256::new() }
    }

    /// The digest of everything that was read.
    pub(crate) fn digest(self) -> Digest {
        Digest::from_hasher(self.hasher)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_sha256_is_a_digest() {
        let good = Digest::of(b"").to_string();
        assert_eq!(good, "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(good.parse::<Digest>().ok(), Some(Digest::of(b"")));
        for bad in ["", "sha256:", "sha256:../../etc", &good.to_uppercase(), &good[7..], &format!("{good}0")] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
        }
        assert!(format!("sha512:{}", "0".repeat(128)).parse::<Digest>().is_err());
    }
}
