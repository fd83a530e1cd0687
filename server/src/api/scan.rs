//! Lists of what matches, gathered from pages of the store.

use longshore_model::sorting::Position;

use crate::store::Page;
use crate::store::sorting::{Query, Sorted};

/// Store pages that one call looks through: bounds the work of a call that matches almost nothing. The answer then has
/// fewer items than were asked for, and a token.
const MAX_SCANNED_PAGES: usize = 10;

/// A search through pages, each of which begins where the one before it ended.
pub(super) struct Scan<T: Sorted> {
    size: usize,
    found: Vec<T>,
    query: Query<T::Key>,
    pages: usize,
    /// Whether the last item of all was looked at.
    is_over: bool,
}

/// What a search has found.
pub(super) struct Found<T: Sorted> {
    /// What matches.
    pub(super) items: Vec<T>,
    /// What was searched.
    pub(super) query: Query<T::Key>,
    /// Where the list goes on, if there may be more.
    pub(super) last: Option<Position>,
}

impl<T: Sorted> Scan<T> {
    /// A search for `size` items.
    pub(super) fn new(size: usize, query: Query<T::Key>) -> Self {
        Self { size, found: Vec::new(), query, pages: 0, is_over: false }
    }

    /// Whether it takes another page.
    pub(super) fn goes_on(&self) -> bool {
        !self.is_over && self.found.len() < self.size && self.pages < MAX_SCANNED_PAGES
    }

    /// The next page to look through.
    pub(super) fn query(&self) -> Query<T::Key> {
        self.query.clone()
    }

    /// Takes from a page what matches, until there is enough.
    pub(super) fn take(&mut self, page: Page<T>, matches: impl Fn(&T) -> bool) {
        self.pages += 1;
        let mut last = None;
        for item in page.items {
            if self.found.len() == self.size {
                self.query.after = last;
                return;
            }
            last = Some(self.query.place(&item));
            if matches(&item) {
                self.found.push(item);
            }
        }
        self.query.after = last.or_else(|| self.query.after.take());
        self.is_over = !page.more;
    }

    /// What was found.
    pub(super) fn finish(self) -> Found<T> {
        let last = self.query.after.clone().filter(|_| !self.is_over);
        Found { items: self.found, query: self.query, last }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A test may fail by panicking.
mod tests {
    use longshore_model::sorting::{SortKey, SortValue, Sorting, Term};

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct Number;

    impl SortKey for Number {
        const ALL: &'static [(&'static str, Self)] = &[("number", Self)];
        const UNIQUE: &'static [Self] = &[Self];
        const DEFAULT: &'static [Term<Self>] = &[Term::ascending(Self)];
    }

    impl Sorted for u32 {
        type Key = Number;

        fn sort_value(&self, _: Number) -> SortValue {
            SortValue::Text(self.to_string())
        }
    }

    fn number(position: &Position) -> u32 {
        match &position.0[0] {
            SortValue::Text(text) => text.parse().unwrap(),
            SortValue::Time(_) | SortValue::Number(_) => 0,
        }
    }

    /// Looks through the numbers below 100 for those that a divisor divides.
    fn multiples(divisor: u32, size: usize, batch: usize, after: Option<u32>) -> (Vec<u32>, Option<u32>) {
        let after = after.map(|after| Position(vec![after.sort_value(Number)]));
        let mut scan = Scan::new(size, Query { sorting: Sorting::default(), after, limit: batch });
        while scan.goes_on() {
            let query = scan.query();
            let start = query.after.as_ref().map_or(0, |after| number(after) + 1);
            let items: Vec<u32> = (start..100).take(query.limit).collect();
            let more = items.last().is_some_and(|last| *last < 99);
            scan.take(Page { items, more }, |item| item % divisor == 0);
        }
        let found = scan.finish();
        (found.items, found.last.as_ref().map(number))
    }

    #[test]
    fn pages_follow_on_from_each_other() {
        for (divisor, size, batch) in
            [(1, 7, 7), (1, 10, 10), (7, 3, 10), (7, 50, 10), (7, 15, 3), (97, 1, 4), (1, 100, 100)]
        {
            let (mut all, mut after) = (Vec::new(), None);
            loop {
                let (found, last) = multiples(divisor, size, batch, after);
                assert!(found.len() <= size);
                all.extend(found);
                after = last;
                if after.is_none() {
                    break;
                }
            }
            let expected: Vec<u32> = (0..100).filter(|number| number % divisor == 0).collect();
            assert_eq!(all, expected, "{divisor} {size} {batch}");
        }
    }

    #[test]
    fn a_call_looks_through_so_many_pages_only() {
        assert_eq!(multiples(97, 1, 4, Some(0)), (Vec::new(), Some(40)));
    }
}
