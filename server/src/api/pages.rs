//! Pages of lists: sizes and tokens.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use longshore_model::limits::{DEFAULT_PAGE, MAX_PAGE};
use longshore_model::validate::{Path, Violations};
use sha2::{Digest, Sha256};

/// Bytes of encoded items after which a page ends early: clients take messages of 4 MiB by default.
pub(super) const MAX_PAGE_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of the checksum in a token. It finds mistakes, and is no secret: a cursor only says where a list goes on.
const CHECKSUM: usize = 8;

/// The request that a token belongs to: the call and its filters. A token of another one is refused.
pub(super) struct Listing<'a> {
    call: &'a str,
    filters: &'a [&'a str],
}

impl<'a> Listing<'a> {
    pub(super) fn new(call: &'a str, filters: &'a [&'a str]) -> Self {
        Self { call, filters }
    }

    /// The token that makes the list go on after `cursor`.
    pub(super) fn token(&self, cursor: &str) -> String {
        let mut bytes = self.checksum(cursor).to_vec();
        bytes.extend_from_slice(cursor.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The cursor in a token, read by `parse`; `None` on the first page.
    pub(super) fn cursor<T>(
        &self,
        token: &str,
        parse: impl FnOnce(&str) -> Option<T>,
        bad: &mut Violations,
    ) -> Option<T> {
        if token.is_empty() {
            return None;
        }
        let cursor = self.open(token).and_then(|cursor| parse(&cursor));
        if cursor.is_none() {
            bad.add(Path::Root.field("page_token"), "is not a token that an answer to this very request held");
        }
        cursor
    }

    pub(super) fn open(&self, token: &str) -> Option<String> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (checksum, cursor) = bytes.split_at_checked(CHECKSUM)?;
        let cursor = std::str::from_utf8(cursor).ok()?;
        (checksum == self.checksum(cursor)).then(|| cursor.to_owned())
    }

    fn checksum(&self, cursor: &str) -> [u8; CHECKSUM] {
        let mut hash = Sha256::new();
        for part in [self.call, cursor].iter().chain(self.filters) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let mut checksum = [0; CHECKSUM];
        checksum.copy_from_slice(&hash.finalize()[..CHECKSUM]);
        checksum
    }
}

/// The number of items to return for a request's `page_size`.
pub(super) fn size(page_size: i32, bad: &mut Violations) -> usize {
    match usize::try_from(page_size) {
        Ok(0) => DEFAULT_PAGE,
        Ok(size) => size.min(MAX_PAGE),
        Err(_) => {
            bad.add(Path::Root.field("page_size"), "must not be negative");
            DEFAULT_PAGE
        }
    }
}

/// How many of the items fit into so many bytes: at least one, so that a list always gets on.
pub(super) fn fitting<T: prost::Message>(items: &[T], room: usize) -> usize {
    let mut bytes = 0;
    for (index, item) in items.iter().enumerate() {
        bytes += item.encoded_len();
        if bytes > room && index > 0 {
            return index;
        }
    }
    items.len()
}

/// Cuts a page to what one message can hold, and returns the token of the next one, if there is `more`.
pub(super) fn close<T: prost::Message>(
    items: &mut Vec<T>,
    more: bool,
    token: impl FnOnce(&T) -> String,
) -> Option<String> {
    let fits = fitting(items, MAX_PAGE_BYTES);
    let more = more || fits < items.len();
    items.truncate(fits);
    items.last().filter(|_| more).map(token)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A test may fail by panicking.
mod tests {
    use super::*;

    fn read(listing: &Listing<'_>, token: &str) -> Result<Option<String>, Violations> {
        let mut bad = Violations::default();
        let cursor = listing.cursor(token, |cursor| Some(cursor.to_owned()), &mut bad);
        bad.or(cursor)
    }

    #[test]
    fn a_token_leads_on_only_in_the_list_that_it_came_from() {
        let listing = Listing::new("ListApps", &["node-1", ""]);
        let token = listing.token("cursor");
        assert_eq!(read(&listing, &token).unwrap().as_deref(), Some("cursor"));
        assert_eq!(read(&listing, "").unwrap(), None);
        for other in [Listing::new("ListApps", &["", "node-1"]), Listing::new("ListNodes", &["node-1", ""])] {
            assert_eq!(read(&other, &token).unwrap_err().0[0].field, "page_token");
        }
        for mistake in ["x", "????", &token[1..], &format!("{token}A")] {
            assert!(read(&listing, mistake).is_err(), "{mistake}");
        }
    }

    #[test]
    fn page_sizes_are_defaulted_and_clamped_but_never_negative() {
        let mut bad = Violations::default();
        assert_eq!(size(0, &mut bad), DEFAULT_PAGE);
        assert_eq!(size(7, &mut bad), 7);
        assert_eq!(size(i32::MAX, &mut bad), MAX_PAGE);
        assert!(bad.0.is_empty());
        size(-1, &mut bad);
        assert_eq!(bad.0[0].field, "page_size");
    }

    #[test]
    fn a_page_ends_where_a_message_would_grow_too_large() {
        let big = vec![0u8; 60];
        assert_eq!(fitting::<Vec<u8>>(&[], 100), 0);
        assert_eq!(fitting(&[big.clone(), big.clone(), big.clone()], 100), 1);
        assert_eq!(fitting(&[vec![0u8; 300], big.clone()], 100), 1);
        assert_eq!(fitting(&[big.clone(), big.clone()], 200), 2);

        let mut items = vec![vec![0u8; MAX_PAGE_BYTES], big];
        assert_eq!(close(&mut items, false, |last| last.len().to_string()), Some(MAX_PAGE_BYTES.to_string()));
        assert_eq!(items.len(), 1);
        assert_eq!(close(&mut items, false, |last| last.len().to_string()), None);
    }
}
