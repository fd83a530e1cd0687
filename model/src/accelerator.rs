//! Accelerators of a node, such as GPUs: each is one app's at a time, and which an app gets is decided here.
//!
//! An accelerator is known by its name in CDI's words, `vendor/class=device`, of which the part before the `=` is its kind.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::failure::FailureReason;
use crate::limits::MAX_ACCELERATOR_KIND;
use crate::name::AppName;
use crate::spec::AppSpec;

/// Holders, or kinds, that a refusal names before it only counts the rest.
const NAMED: usize = 3;

/// An accelerator that a node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its name, such as `nvidia.com/gpu=0`.
    pub id: String,
    /// What it is in its maker's words; empty where that is not known.
    pub model: String,
}

impl Unit {
    /// Its kind, such as `nvidia.com/gpu`.
    #[must_use]
    pub fn kind(&self) -> &str {
        kind_of(&self.id)
    }
}

/// The kind of an accelerator, by its name.
#[must_use]
pub fn kind_of(id: &str) -> &str {
    id.split_once('=').map_or(id, |(kind, _)| kind)
}

/// Accelerators of one kind and model on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stock {
    /// Their kind, such as `nvidia.com/gpu`.
    pub kind: String,
    /// Their model; empty where that is not known.
    pub model: String,
    /// How many there are.
    pub count: u32,
    /// How many of them no app holds.
    pub free: u32,
}

/// What apps hold, each the names of its accelerators in the order of its instances.
pub type Held = BTreeMap<AppName, Vec<String>>;

/// Accelerators of one kind that an app asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask<'a> {
    /// Their kind.
    pub kind: &'a str,
    /// How many each instance gets.
    pub each: usize,
    /// How many all instances get together.
    pub total: usize,
}

impl<'a> Ask<'a> {
    /// What a spec asks for, if anything.
    #[must_use]
    pub fn of(spec: &'a AppSpec) -> Option<Self> {
        let wanted = spec.accelerators.first()?;
        let each = wanted.count as usize;
        Some(Self { kind: &wanted.kind, each, total: each.saturating_mul(spec.instances as usize) })
    }

    /// Those of an app's accelerators that one of its instances has.
    #[must_use]
    pub fn of_instance(self, held: &[String], index: u32) -> Vec<String> {
        let own = held.iter().filter(|id| kind_of(id) == self.kind);
        own.skip((index as usize).saturating_mul(self.each)).take(self.each).cloned().collect()
    }
}

/// Whether a text is a kind as CDI has them: `vendor/class`.
#[must_use]
pub fn is_kind(text: &str) -> bool {
    let fits = |part: &str, more: &[char]| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.ends_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-' || more.contains(&c))
    };
    let parts = text.split_once('/');
    text.len() <= MAX_ACCELERATOR_KIND && parts.is_some_and(|(vendor, class)| fits(vendor, &['.']) && fits(class, &[]))
}

/// Why an app does not get its accelerators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The node has none of the kind.
    NoSuchKind {
        /// Asked for.
        kind: String,
        /// Kinds that it has.
        there: Vec<String>,
    },
    /// Too few are free.
    TooFew {
        /// Asked for.
        kind: String,
        /// How many.
        asked: usize,
        /// How many the node has.
        total: usize,
        /// How many of them no other app holds.
        free: usize,
        /// Who holds the others, most first.
        holders: Vec<(AppName, usize)>,
    },
}

impl Refusal {
    /// For machines.
    #[must_use]
    pub fn reason(&self) -> FailureReason {
        match self {
            Self::NoSuchKind { .. } => FailureReason::AcceleratorNotFound,
            Self::TooFew { .. } => FailureReason::InsufficientAccelerators,
        }
    }
}

/// Which accelerators an app gets: those of the kind that it has already, in their order, and then the first that are free.
///
/// # Errors
///
/// There are not as many as it asks for.
pub fn assign(units: &[Unit], held: &Held, app: &AppName, ask: Ask<'_>) -> Result<Vec<String>, Refusal> {
    let of_kind: Vec<&str> = units.iter().filter(|unit| unit.kind() == ask.kind).map(|unit| unit.id.as_str()).collect();
    if of_kind.is_empty() {
        let mut there: Vec<String> = units.iter().map(|unit| unit.kind().to_owned()).collect();
        there.sort_unstable();
        there.dedup();
        return Err(Refusal::NoSuchKind { kind: ask.kind.to_owned(), there });
    }
    let own = held.get(app).into_iter().flatten().map(String::as_str).filter(|id| of_kind.contains(id));
    let others: BTreeMap<&AppName, Vec<&str>> = held
        .iter()
        .filter(|(holder, _)| *holder != app)
        .map(|(holder, ids)| (holder, ids.iter().map(String::as_str).filter(|id| of_kind.contains(id)).collect()))
        .collect();
    let is_free = |id: &&str| !others.values().flatten().any(|taken| taken == id);
    let free = of_kind.iter().copied().filter(is_free).count();
    let mut chosen: Vec<&str> = own.filter(is_free).take(ask.total).collect();
    for id in of_kind.iter().copied().filter(is_free) {
        if chosen.len() < ask.total && !chosen.contains(&id) {
            chosen.push(id);
        }
    }
    if chosen.len() == ask.total {
        return Ok(chosen.into_iter().map(str::to_owned).collect());
    }
    let count = |(holder, ids): (&AppName, Vec<&str>)| (holder.clone(), ids.len());
    let mut holders: Vec<_> = others.into_iter().map(count).filter(|(_, count)| *count > 0).collect();
    holders.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    Err(Refusal::TooFew { kind: ask.kind.to_owned(), asked: ask.total, total: of_kind.len(), free, holders })
}

/// Whether a node that has these in stock can give an app what it asks for, as far as that can be told from afar. How many of
/// them the app holds itself, where it `is_there` already, only the node knows: all of them count then.
///
/// # Errors
///
/// There are not as many as it asks for.
pub fn foresee(stock: &[Stock], ask: Ask<'_>, is_there: bool) -> Result<(), Refusal> {
    let of_kind = || stock.iter().filter(|stock| stock.kind == ask.kind);
    let total: usize = of_kind().map(|stock| stock.count as usize).sum();
    let free: usize = of_kind().map(|stock| stock.free as usize).sum();
    let kind = ask.kind.to_owned();
    if total == 0 {
        let mut there: Vec<String> = stock.iter().map(|stock| stock.kind.clone()).collect();
        there.dedup();
        return Err(Refusal::NoSuchKind { kind, there });
    }
    let within_reach = if is_there { total } else { free };
    if ask.total <= within_reach {
        return Ok(());
    }
    Err(Refusal::TooFew { kind, asked: ask.total, total, free, holders: Vec::new() })
}

/// What is left of an app's accelerators when it needs so many of each kind, in the same order.
#[must_use]
pub fn trimmed(held: &[String], needed: &[Ask<'_>]) -> Vec<String> {
    let (mut counts, mut kept) = (BTreeMap::<&str, usize>::new(), Vec::new());
    for id in held {
        let most = needed.iter().filter(|ask| ask.kind == kind_of(id)).map(|ask| ask.total).max().unwrap_or(0);
        let count = counts.entry(kind_of(id)).or_default();
        *count += 1;
        if *count <= most {
            kept.push(id.clone());
        }
    }
    kept
}

/// What a node has and how much of it is free, by kind and model.
#[must_use]
pub fn stock(units: &[Unit], held: &Held) -> Vec<Stock> {
    let mut found: BTreeMap<(&str, &str), (u32, u32)> = BTreeMap::new();
    for unit in units {
        let (count, free) = found.entry((unit.kind(), unit.model.as_str())).or_default();
        *count += 1;
        *free += u32::from(!held.values().flatten().any(|id| *id == unit.id));
    }
    let stock = |((kind, model), (count, free)): ((&str, &str), (u32, u32))| Stock {
        kind: kind.to_owned(),
        model: model.to_owned(),
        count,
        free,
    };
    found.into_iter().map(stock).collect()
}

/// The first of a list in words, with the count of the rest.
fn some_of(words: &[String], rest: &str) -> String {
    let named = words.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match words.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named}, and {more} more {rest}"),
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchKind { kind, there } if there.is_empty() => {
                write!(f, "This node has no accelerator of the kind {kind}, nor of another.")
            }
            Self::NoSuchKind { kind, there } => {
                write!(f, "This node has no accelerator of the kind {kind}; it has {}.", some_of(there, "kinds"))
            }
            Self::TooFew { kind, asked, total, free, holders } => {
                write!(f, "The app asks for {asked} of {kind}, and of the {total} that this node has {free} ")?;
                write!(f, "{} free", if *free == 1 { "is" } else { "are" })?;
                let holders: Vec<String> =
                    holders.iter().map(|(holder, count)| format!("{holder} holds {count}")).collect();
                match holders.as_slice() {
                    [] if free < total => f.write_str("."),
                    [] => f.write_str("; no other app holds any."),
                    holders => write!(f, "; {}.", some_of(holders, "apps hold the rest")),
                }
            }
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const GPU: &str = "nvidia.com/gpu";

    fn unit(id: &str) -> Unit {
        Unit { id: id.to_owned(), model: "T4".to_owned() }
    }

    fn gpus(count: usize) -> Vec<Unit> {
        (0..count).map(|number| unit(&format!("{GPU}={number}"))).collect()
    }

    fn app(name: &str) -> AppName {
        AppName::parse(name).unwrap()
    }

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| format!("{GPU}={id}")).collect()
    }

    fn ask(total: usize) -> Ask<'static> {
        Ask { kind: GPU, each: 1, total }
    }

    #[test]
    fn kinds_are_those_of_cdi() {
        for kind in [GPU, "huawei.com/npu", "a/b", "vendor-1.example_x/class_1-a"] {
            assert!(is_kind(kind), "{kind}");
        }
        let long = format!("a/{}", "b".repeat(MAX_ACCELERATOR_KIND));
        for kind in [
            "",
            "/",
            "gpu",
            "nvidia.com/",
            "/gpu",
            "nvidia.com/gpu=0",
            "nvidia.com/gpu/x",
            "nvidia.com/g.pu",
            "1a/b",
            "a/1b",
            "a/b-",
            "-a/b",
            "a b/c",
            "a/b\n",
            "nvidia.com/gpu\0",
            "nvidi\u{430}.com/gpu",
            &long,
        ] {
            assert!(!is_kind(kind), "{kind:?}");
        }
    }

    #[test]
    fn an_app_keeps_what_it_has_and_gets_the_first_that_are_free() {
        let units = [gpus(4), vec![unit("huawei.com/npu=0")]].concat();
        let held = Held::from([(app("a"), ids(&["2", "0"])), (app("b"), ids(&["1"]))]);
        assert_eq!(assign(&units, &held, &app("c"), ask(1)).unwrap(), ids(&["3"]));
        assert_eq!(assign(&units, &held, &app("a"), ask(1)).unwrap(), ids(&["2"]));
        assert_eq!(assign(&units, &held, &app("a"), ask(3)).unwrap(), ids(&["2", "0", "3"]));
        assert_eq!(assign(&units[1..], &held, &app("a"), ask(1)).unwrap(), ids(&["2"]));
        assert_eq!(assign(&units[..2], &held, &app("a"), ask(1)).unwrap(), ids(&["0"]), "one that is gone is replaced");
        let mine = ids(&["2", "0", "3"]);
        let two = Ask { kind: GPU, each: 2, total: 4 };
        assert_eq!((two.of_instance(&mine, 0), two.of_instance(&mine, 1)), (ids(&["2", "0"]), ids(&["3"])));
        assert_eq!(trimmed(&mine, &[ask(2), ask(1)]), ids(&["2", "0"]));
        assert_eq!(trimmed(&mine, &[Ask { kind: "huawei.com/npu", ..ask(9) }]), ids(&[]));
        let stocks = stock(&units, &held);
        let of = |stock: &Stock| (stock.kind.clone(), stock.count, stock.free);
        assert_eq!(
            stocks.iter().map(of).collect::<Vec<_>>(),
            [("huawei.com/npu".to_owned(), 1, 1), (GPU.to_owned(), 4, 1)]
        );
    }

    #[test]
    fn a_refusal_says_what_there_is_and_who_has_it() {
        let held = Held::from([(app("a"), ids(&["0", "1"])), (app("b"), ids(&["2"]))]);
        let error = assign(&gpus(4), &held, &app("c"), ask(2)).unwrap_err();
        let expected =
            "The app asks for 2 of nvidia.com/gpu, and of the 4 that this node has 1 is free; a holds 2, b holds 1.";
        assert_eq!((error.reason(), error.to_string().as_str()), (FailureReason::InsufficientAccelerators, expected));
        let error = assign(&gpus(1), &Held::new(), &app("c"), ask(2)).unwrap_err();
        assert!(error.to_string().ends_with("1 is free; no other app holds any."), "{error}");
        let error = assign(&[unit("huawei.com/npu=0")], &held, &app("c"), ask(1)).unwrap_err();
        let expected = "This node has no accelerator of the kind nvidia.com/gpu; it has huawei.com/npu.";
        assert_eq!((error.reason(), error.to_string().as_str()), (FailureReason::AcceleratorNotFound, expected));
        let error = assign(&[], &held, &app("c"), ask(1)).unwrap_err();
        assert_eq!(error.to_string(), "This node has no accelerator of the kind nvidia.com/gpu, nor of another.");
    }

    #[test]
    fn a_plan_sees_what_is_free() {
        let of = |kind: &str, count, free| Stock { kind: kind.to_owned(), model: String::new(), count, free };
        let stock = [of("huawei.com/npu", 1, 1), of(GPU, 2, 1), of(GPU, 2, 0)];
        assert_eq!(foresee(&stock, ask(1), false), Ok(()));
        assert_eq!(foresee(&stock, ask(4), true), Ok(()), "some of them may be its own");
        assert!(foresee(&stock, ask(5), true).is_err());
        let error = foresee(&stock, ask(2), false).unwrap_err().to_string();
        assert_eq!(error, "The app asks for 2 of nvidia.com/gpu, and of the 4 that this node has 1 is free.");
        let error = foresee(&stock[..1], ask(2), true).unwrap_err();
        assert_eq!(error.reason(), FailureReason::AcceleratorNotFound);
    }

    proptest! {
        #[test]
        fn no_accelerator_is_ever_two_apps(
            steps in prop::collection::vec((0..4usize, 0..4usize, any::<bool>()), 1..60),
        ) {
            let (units, mut held) = (gpus(5), Held::new());
            for (who, total, is_removal) in steps {
                let name = app(["a", "b", "c", "d"][who]);
                if is_removal {
                    held.remove(&name);
                } else if let Ok(chosen) = assign(&units, &held, &name, ask(total)) {
                    prop_assert_eq!(chosen.len(), total);
                    held.insert(name, chosen);
                }
                let all: Vec<&String> = held.values().flatten().collect();
                prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
                prop_assert_eq!(stock(&units, &held)[0].free as usize, units.len() - all.len());
            }
        }
    }
}
