//! Pages of lists: sizes and tokens.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use longshore_model::limits::{DEFAULT_PAGE, MAX_PAGE};
use longshore_model::sorting::{Position, SortKey, SortValue, Sorting};
use longshore_model::validate::{Path, Violations};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::scan::{Found, Scan};
use crate::store::sorting::{Query, Sorted};

/// Bytes of encoded items after which a page ends early: clients take messages of 4 MiB by default.
pub(super) const MAX_PAGE_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of the checksum in a token. It finds mistakes, and is no secret: a cursor only says where a list goes on.
const CHECKSUM: usize = 8;

/// What every request for a list says.
pub(super) struct Asked<'a> {
    page_size: i32,
    page_token: &'a str,
    order_by: &'a str,
}

impl<'a> Asked<'a> {
    pub(super) fn new(page_size: i32, page_token: &'a str, order_by: &'a str) -> Self {
        Self { page_size, page_token, order_by }
    }
}

/// The request that a token belongs to: the call and its filters. A token of another one is refused.
pub(super) struct Listing<'a> {
    call: &'a str,
    filters: &'a [&'a str],
}

impl<'a> Listing<'a> {
    pub(super) fn new(call: &'a str, filters: &'a [&'a str]) -> Self {
        Self { call, filters }
    }

    /// Begins to look for the page that is asked for, with this many items of the store at once; `None` stands for as many
    /// as the page has, which is right where all of them are wanted.
    pub(super) fn scan<T: Sorted>(&self, asked: &Asked<'_>, batch: Option<usize>, bad: &mut Violations) -> Scan<T> {
        let size = size(asked.page_size, bad);
        let sorting = Sorting::parse(asked.order_by);
        let after = match &sorting {
            Ok(sorting) => self.position(asked.page_token, sorting, bad),
            Err(error) => {
                bad.add(Path::Root.field("order_by"), error.to_string());
                None
            }
        };
        let sorting = sorting.unwrap_or_default();
        Scan::new(size, Query { sorting, after, limit: batch.unwrap_or(size) })
    }

    /// Cuts the items of a page, as they are sent, to what one message can hold, and makes the token of the next page: empty
    /// after the last one.
    pub(super) fn close<T: Sorted, W: prost::Message>(&self, found: &Found<T>, mut items: Vec<W>) -> (Vec<W>, String) {
        let fits = fitting(&items, MAX_PAGE_BYTES);
        let is_cut = fits < items.len();
        items.truncate(fits);
        let last = match found.items.get(fits.saturating_sub(1)).filter(|_| is_cut) {
            Some(last) => Some(found.query.place(last)),
            None => found.last.clone(),
        };
        let token = last.map(|position| self.token(&write(&position, &found.query.sorting)));
        (items, token.unwrap_or_default())
    }

    /// The position in a token; `None` on the first page.
    fn position<K: SortKey>(&self, token: &str, sorting: &Sorting<K>, bad: &mut Violations) -> Option<Position> {
        if token.is_empty() {
            return None;
        }
        let position = self.open(token).and_then(|cursor| read(&cursor, sorting));
        if position.is_none() {
            let description = "is not a token that an answer to this very request held: the same call with the same \
                               filter and order_by";
            bad.add(Path::Root.field("page_token"), description);
        }
        position
    }

    /// The token that stands for a cursor.
    pub(super) fn token(&self, cursor: &str) -> String {
        let mut bytes = self.checksum(cursor).to_vec();
        bytes.extend_from_slice(cursor.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The cursor in a token.
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

/// A position as a cursor: a JSON list of the order that it is in, and then of texts, of microseconds since 1970, and of
/// numbers, each in a list of its own.
fn write<K: SortKey>(position: &Position, sorting: &Sorting<K>) -> String {
    let values = position.0.iter().map(|value| match value {
        SortValue::Text(text) => Value::from(text.as_str()),
        SortValue::Time(time) => Value::from(time.as_microsecond()),
        SortValue::Number(number) => Value::from([*number].as_slice()),
    });
    Value::Array([Value::from(sorting.to_string())].into_iter().chain(values).collect()).to_string()
}

/// The position in a cursor, if it is one in this order.
fn read<K: SortKey>(cursor: &str, sorting: &Sorting<K>) -> Option<Position> {
    let values: Vec<Value> = serde_json::from_str(cursor).ok()?;
    let (order, values) = values.split_first()?;
    if order.as_str() != Some(&sorting.to_string()) || values.len() != sorting.terms().len() {
        return None;
    }
    let values = values.iter().map(|value| match value {
        Value::String(text) => Some(SortValue::Text(text.clone())),
        Value::Number(number) => Timestamp::from_microsecond(number.as_i64()?).ok().map(SortValue::Time),
        Value::Array(number) => number.first()?.as_u64().map(SortValue::Number),
        _ => None,
    });
    values.collect::<Option<_>>().map(Position)
}

/// The number of items to return for a request's `page_size`.
fn size(page_size: i32, bad: &mut Violations) -> usize {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A test may fail by panicking.
mod tests {
    use super::*;

    use longshore_model::name::NodeName;
    use longshore_model::node::{Labels, Node};

    use crate::store::Page;
    use crate::store::sorting::NodeKey;

    fn node(name: &str) -> Node {
        let name = NodeName::parse(name).unwrap();
        let enroll_time = Timestamp::UNIX_EPOCH;
        Node { name, labels: Labels::new(), enroll_time, last_seen: None, info: None, certificate_end: None }
    }

    fn asked<'a>(page_token: &'a str, order_by: &'a str) -> Asked<'a> {
        Asked { page_size: 2, page_token, order_by }
    }

    /// Where the list goes on with a token.
    fn after(listing: &Listing<'_>, token: &str, order_by: &str) -> Result<Option<Position>, Violations> {
        let mut bad = Violations::default();
        let scan: Scan<Node> = listing.scan(&asked(token, order_by), None, &mut bad);
        bad.or(scan.query().after)
    }

    /// The token after a page with these nodes, of which another one follows.
    fn token(listing: &Listing<'_>, order_by: &str, names: &[&str]) -> String {
        let mut scan = listing.scan(&asked("", order_by), None, &mut Violations::default());
        scan.take(Page { items: names.iter().map(|name| node(name)).collect(), more: true }, |_| true);
        listing.close(&scan.finish(), vec![Vec::<u8>::new(); names.len()]).1
    }

    #[test]
    fn a_token_leads_on_only_in_the_list_that_it_came_from() {
        let listing = Listing::new("ListNodes", &["role=till", ""]);
        for (order_by, same) in [("", "name"), ("enroll_time desc", " enroll_time  desc, name desc")] {
            let token = token(&listing, order_by, &["a", "b"]);
            let position = Sorting::<NodeKey>::parse(order_by).unwrap().position(|key| node("b").sort_value(key));
            assert_eq!(after(&listing, &token, order_by).unwrap(), Some(position.clone()));
            assert_eq!(after(&listing, &token, same).unwrap(), Some(position));
            assert_eq!(after(&listing, "", order_by).unwrap(), None);
            for other in [Listing::new("ListNodes", &["", "role=till"]), Listing::new("List", &["role=till", ""])] {
                assert_eq!(after(&other, &token, order_by).unwrap_err().0[0].field, "page_token");
            }
            for other in ["name desc", "enroll_time", "enroll_time desc, name"] {
                assert_eq!(after(&listing, &token, other).unwrap_err().0[0].field, "page_token", "{other}");
            }
            for mistake in ["x", "????", &token[1..], &format!("{token}A")] {
                assert!(after(&listing, mistake, order_by).is_err(), "{mistake}");
            }
        }
    }

    #[test]
    fn tokens_that_somebody_made_up_lead_nowhere() {
        let listing = Listing::new("ListNodes", &[]);
        let cursors =
            ["", "[]", "{}", "[\"name\"]", "[\"name\",null]", "[\"name\",1.5]", "[\"name\",9223372036854775807]"];
        for cursor in cursors.into_iter().chain(["[1,\"a\"]", "[\"name\",\"a\",\"b\"]", "[\"colour\",\"a\"]"]) {
            assert!(after(&listing, &listing.token(cursor), "").is_err(), "{cursor}");
        }
        assert!(after(&listing, &listing.token("[\"name\",\"a\"]"), "").is_ok());
    }

    #[test]
    fn a_wrong_order_is_named_by_its_field_and_the_token_is_not_to_blame() {
        let listing = Listing::new("ListNodes", &[]);
        let token = token(&listing, "", &["a"]);
        let bad = after(&listing, &token, "name, colour").unwrap_err();
        assert_eq!(bad.0.len(), 1, "{bad}");
        assert_eq!(bad.0[0].field, "order_by");
        assert!(bad.0[0].description.starts_with("at position 7: there is no field \"colour\""), "{bad}");
    }

    /// What is said of a list's orders, in its request's comment and on the page about the API.
    fn check_documents<K: SortKey>(list: &str, item: &str) {
        use prost::Message;
        let set = prost_types::FileDescriptorSet::decode(longshore_proto::DESCRIPTORS).unwrap();
        let messages = || set.file.iter().flat_map(|file| &file.message_type);
        let names: Vec<String> = K::ALL.iter().map(|(name, _)| format!("`{name}`")).collect();
        let own = Sorting::of(K::DEFAULT.to_vec()).to_string();
        for (name, _) in K::ALL {
            let mut fields = &messages().find(|message| message.name() == item).unwrap().field;
            for part in name.split('.') {
                let field = fields.iter().find(|field| field.name() == part).unwrap();
                let inner = messages().find(|message| field.type_name().ends_with(&format!(".{}", message.name())));
                fields = inner.map_or(fields, |message| &message.field);
            }
        }
        let request = format!("{list}Request");
        let comments: Vec<String> = set
            .file
            .iter()
            .flat_map(|file| {
                let message = file.message_type.iter().position(|message| message.name() == request);
                let field = |at: usize| file.message_type[at].field.iter().position(|field| field.name() == "order_by");
                let path = message.map(|at| [4, at, 2, field(at).unwrap()].map(|step| step as i32));
                let locations = file.source_code_info.iter().flat_map(|info| &info.location);
                locations.filter(move |at| path.is_some_and(|path| at.path == path)).map(|at| at.leading_comments())
            })
            .map(|comment| comment.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let said = format!("Fields: {}. Empty stands for `{own}`", names.join(", "));
        assert!(comments.len() == 1 && comments[0].contains(&said), "{list}: {said}: {comments:?}");
        let page = include_str!("../../../docs/api.md");
        let row = format!("| `{list}` | {} | `{own}`", names.join(", "));
        assert!(page.lines().any(|line| line.starts_with(&row)), "docs/api.md: {row}");
    }

    #[test]
    fn what_lists_can_be_sorted_by_is_documented() {
        use crate::store::sorting::{AppKey, AuditKey, EventKey, JobKey, NameKey, TaskKey, TokenKey};
        check_documents::<JobKey>("ListJobs", "Job");
        check_documents::<TaskKey>("ListTasks", "Task");
        check_documents::<NodeKey>("ListNodes", "Node");
        check_documents::<TokenKey>("ListEnrollmentTokens", "EnrollmentToken");
        check_documents::<NameKey>("ListPendingNodes", "PendingNode");
        check_documents::<AppKey>("ListApps", "App");
        check_documents::<EventKey>("ListAppEvents", "AppEvent");
        check_documents::<NameKey>("ListUsers", "User");
        check_documents::<AuditKey>("ListAuditEntries", "AuditEntry");
        check_documents::<NameKey>("ListRegistryCredentials", "RegistryCredential");
        check_documents::<NameKey>("ListConfigMaps", "ConfigMap");
        check_documents::<NameKey>("ListSecrets", "Secret");
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

        let listing = Listing::new("ListNodes", &[]);
        let mut scan = listing.scan(&asked("", ""), None, &mut Violations::default());
        scan.take(Page { items: vec![node("a"), node("b")], more: false }, |_| true);
        let found = scan.finish();
        let (items, token) = listing.close(&found, vec![vec![0u8; MAX_PAGE_BYTES], big.clone()]);
        assert_eq!(items.len(), 1);
        let expected = Position(vec![SortValue::Text("a".to_owned())]);
        assert_eq!(after(&listing, &token, "").unwrap(), Some(expected));
        assert_eq!(listing.close(&found, vec![big.clone(), big]).1, "");
    }
}
