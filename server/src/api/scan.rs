//! Lists of what matches, gathered from pages of the store.

use crate::store::Page;

/// Store pages that one call looks through: bounds the work of a call that matches almost nothing. The answer then has
/// fewer items than were asked for, and a token.
const MAX_SCANNED_PAGES: usize = 10;

/// A search through pages, each of which begins where the one before it ended.
pub(super) struct Scan<T, K> {
    size: usize,
    found: Vec<T>,
    after: Option<K>,
    pages: usize,
    /// Whether the last item of all was looked at.
    is_over: bool,
}

impl<T, K> Scan<T, K> {
    /// A search for `size` items after `after`.
    pub(super) fn new(size: usize, after: Option<K>) -> Self {
        Self { size, found: Vec::new(), after, pages: 0, is_over: false }
    }

    /// Whether it takes another page.
    pub(super) fn goes_on(&self) -> bool {
        !self.is_over && self.found.len() < self.size && self.pages < MAX_SCANNED_PAGES
    }

    /// Where the next page begins.
    pub(super) fn after(&self) -> Option<&K> {
        self.after.as_ref()
    }

    /// Takes from a page what matches, until there is enough.
    pub(super) fn take(&mut self, page: Page<T>, key: impl Fn(&T) -> K, matches: impl Fn(&T) -> bool) {
        self.pages += 1;
        for item in page.items {
            if self.found.len() == self.size {
                return;
            }
            self.after = Some(key(&item));
            if matches(&item) {
                self.found.push(item);
            }
        }
        self.is_over = !page.more;
    }

    /// What was found, and where the list goes on if there may be more.
    pub(super) fn finish(self) -> (Vec<T>, Option<K>) {
        (self.found, self.after.filter(|_| !self.is_over))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A test may fail by panicking.
mod tests {
    use super::*;

    /// Looks through the numbers below 100 for those that a divisor divides.
    fn multiples(divisor: u32, size: usize, batch: usize, after: Option<u32>) -> (Vec<u32>, Option<u32>) {
        let mut scan = Scan::new(size, after);
        while scan.goes_on() {
            let start = scan.after().map_or(0, |after| after + 1);
            let items: Vec<u32> = (start..100).take(batch).collect();
            let more = items.last().is_some_and(|last| *last < 99);
            scan.take(Page { items, more }, |item| *item, |item| item % divisor == 0);
        }
        scan.finish()
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
