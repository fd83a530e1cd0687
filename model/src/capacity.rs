//! What of a node its apps hold, and whether there is room for one more: admission against capacity.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::AppName;
use crate::quantity;
use crate::spec::AppSpec;

/// Holders that a refusal names before it only counts the rest.
const NAMED_HOLDERS: usize = 3;

/// Amounts of what a node can run short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// Thousandths of a CPU.
    pub cpu: u64,
    /// Bytes of memory.
    pub memory: u64,
}

impl Amounts {
    /// What all instances of an app ask for together.
    #[must_use]
    pub fn of(spec: &AppSpec) -> Self {
        let (requests, instances) = (spec.resources.requests, u64::from(spec.instances));
        Self {
            cpu: u64::from(requests.cpu.unwrap_or(0)).saturating_mul(instances),
            memory: requests.memory.unwrap_or(0).saturating_mul(instances),
        }
    }

    /// The greater of both, each for itself.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { cpu: self.cpu.max(other.cpu), memory: self.memory.max(other.memory) }
    }

    /// The smaller of both, each for itself.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self { cpu: self.cpu.min(other.cpu), memory: self.memory.min(other.memory) }
    }

    /// The sum.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { cpu: self.cpu.saturating_add(other.cpu), memory: self.memory.saturating_add(other.memory) }
    }

    /// What is left without the other; nothing where that is more.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(other.cpu), memory: self.memory.saturating_sub(other.memory) }
    }

    /// Whether there is none of it.
    #[must_use]
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// What apps hold, each for all of its instances.
pub type Held = BTreeMap<AppName, Amounts>;

/// An app asks for more than is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Insufficient {
    /// What it asks for.
    pub asked: Amounts,
    /// What of the node is for apps.
    pub capacity: Amounts,
    /// What of that no other app holds.
    pub free: Amounts,
    /// Who holds something of what there is too little of, the greatest part first.
    pub holders: Vec<(AppName, Amounts)>,
}

/// Whether an app can have what it asks for, of what is for apps and others do not hold. What it holds already it keeps,
/// even where the node has less for apps than it had.
///
/// # Errors
///
/// There is too little of something.
pub fn admit(capacity: Amounts, held: &Held, app: &AppName, asked: Amounts) -> Result<(), Insufficient> {
    let own = held.get(app).copied().unwrap_or_default();
    let others = held.iter().filter(|(holder, _)| *holder != app);
    let free = capacity.less(others.clone().fold(Amounts::default(), |sum, (_, amounts)| sum.plus(*amounts)));
    let missing = asked.less(free.max(own));
    if missing.is_nothing() {
        return Ok(());
    }
    let part = |amounts: Amounts| Amounts {
        cpu: if missing.cpu > 0 { amounts.cpu } else { 0 },
        memory: if missing.memory > 0 { amounts.memory } else { 0 },
    };
    let mut holders: Vec<_> = others.map(|(holder, amounts)| (holder.clone(), part(*amounts))).collect();
    holders.retain(|(_, amounts)| !amounts.is_nothing());
    holders.sort_by_key(|(_, amounts)| std::cmp::Reverse((amounts.memory, amounts.cpu)));
    Err(Insufficient { asked: part(asked), capacity: part(capacity), free: part(free), holders })
}

impl Insufficient {
    /// Of what there is too little, with the words for an amount of it.
    fn show(&self, amounts: Amounts) -> String {
        let mut parts = Vec::new();
        if self.asked.cpu > 0 {
            parts.push(format!("CPU {}", quantity::cpu::format(u32::try_from(amounts.cpu).unwrap_or(u32::MAX))));
        }
        if self.asked.memory > 0 {
            parts.push(format!("memory {}", mebibytes(amounts.memory)));
        }
        parts.join(" and ")
    }
}

/// Bytes, for people: in whole Mi, but where they are fewer than one.
fn mebibytes(bytes: u64) -> String {
    const MEBIBYTE: u64 = 1 << 20;
    if bytes < MEBIBYTE { bytes.to_string() } else { format!("{}Mi", bytes / MEBIBYTE) }
}

impl fmt::Display for Insufficient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [asked, capacity, free] = [self.asked, self.capacity, self.free].map(|amounts| self.show(amounts));
        write!(f, "The app asks for {asked}, and of the {capacity} that this node has for apps {free} is free; ")?;
        let named = self.holders.iter().take(NAMED_HOLDERS);
        let named: Vec<_> = named.map(|(holder, amounts)| format!("{holder} holds {}", self.show(*amounts))).collect();
        match self.holders.len().saturating_sub(NAMED_HOLDERS) {
            0 if named.is_empty() => f.write_str("no other app holds any."),
            0 => write!(f, "{}.", named.join(", ")),
            more => write!(f, "{}, and {more} more apps hold the rest.", named.join(", ")),
        }
    }
}

impl std::error::Error for Insufficient {}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MI: u64 = 1 << 20;

    fn app(name: &str) -> AppName {
        AppName::parse(name).unwrap()
    }

    fn amounts(cpu: u64, mebibytes: u64) -> Amounts {
        Amounts { cpu, memory: mebibytes * MI }
    }

    fn held(parts: &[(&str, Amounts)]) -> Held {
        parts.iter().map(|(name, amounts)| (app(name), *amounts)).collect()
    }

    #[test]
    fn there_is_room_up_to_the_last_of_it() {
        let others = held(&[("a", amounts(500, 100)), ("b", amounts(0, 50))]);
        let ask = |asked| admit(amounts(1000, 200), &others, &app("c"), asked);
        for asked in [amounts(0, 0), amounts(500, 50), amounts(0, 50), amounts(500, 0)] {
            assert_eq!(ask(asked), Ok(()), "{asked:?}");
        }
        for asked in [amounts(501, 0), Amounts { cpu: 0, memory: 50 * MI + 1 }, amounts(u64::MAX, 0)] {
            assert!(ask(asked).is_err(), "{asked:?}");
        }
    }

    #[test]
    fn an_update_counts_once_and_what_is_held_is_kept() {
        let all = held(&[("a", amounts(800, 0)), ("b", amounts(100, 0))]);
        assert_eq!(admit(amounts(1000, 0), &all, &app("a"), amounts(900, 0)), Ok(()));
        assert!(admit(amounts(1000, 0), &all, &app("a"), amounts(901, 0)).is_err());
        assert_eq!(admit(amounts(10, 0), &all, &app("a"), amounts(800, 0)), Ok(()), "the node has less than it had");
    }

    #[test]
    fn a_refusal_says_what_is_asked_what_is_free_and_who_has_the_rest() {
        let others = held(&[("a", amounts(500, 100)), ("b", amounts(700, 0))]);
        let error = admit(amounts(2000, 1000), &others, &app("c"), amounts(1500, 10)).unwrap_err();
        let expected = "The app asks for CPU 1500m, and of the CPU 2 that this node has for apps CPU 800m is free; b holds \
                        CPU 700m, a holds CPU 500m.";
        assert_eq!(error.to_string(), expected);
        let error = admit(amounts(1, 1), &Held::new(), &app("c"), amounts(2, 2)).unwrap_err();
        let expected = "The app asks for CPU 2m and memory 2Mi, and of the CPU 1m and memory 1Mi that this node has for apps \
                        CPU 1m and memory 1Mi is free; no other app holds any.";
        assert_eq!(error.to_string(), expected);
        let many: Vec<String> = (0..10).map(|number| format!("{}{number}", "a".repeat(60))).collect();
        let many: Vec<_> = many.iter().map(|name| (name.as_str(), amounts(1000, 1000))).collect();
        let text = admit(amounts(1, 1), &held(&many), &app("c"), amounts(2, 2)).unwrap_err().to_string();
        assert!(text.ends_with("and 7 more apps hold the rest.") && text.len() < 500, "{text}");
    }

    proptest! {
        #[test]
        fn what_is_admitted_never_adds_up_to_more_than_there_is(
            asks in prop::collection::vec((0..4usize, 0..600u64, 0..600u64), 1..40),
        ) {
            let (capacity, mut all) = (amounts(1000, 1000), Held::new());
            for (who, cpu, memory) in asks {
                let (name, asked) = (app(["a", "b", "c", "d"][who]), amounts(cpu, memory));
                if admit(capacity, &all, &name, asked).is_ok() {
                    all.insert(name, asked);
                }
                let sum = all.values().fold(Amounts::default(), |sum, amounts| sum.plus(*amounts));
                prop_assert_eq!(sum.less(capacity), Amounts::default());
            }
        }
    }
}
