//! What of a node people should look at before it hurts.

use jiff::{SignedDuration, Timestamp};

use crate::limits::{MAX_CLOCK_SKEW, MAX_DISK_USE};
use crate::usage::NodeFigures;

/// Kinds of trouble, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Its newest certificate is over, or soon will be.
    CertificateExpiring,
    /// Its disk is nearly full.
    DiskNearlyFull,
    /// Its clock is wrong, or the server's.
    ClockSkew,
}

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What it is.
    pub kind: Kind,
    /// The same for people, without a full stop.
    pub message: String,
}

/// What is known of a node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// When its newest certificate ends.
    pub certificate_end: Option<Timestamp>,
    /// Within which time before that it should have been renewed: see [`renewal_margin`].
    pub margin: SignedDuration,
    /// What it has, as it said last.
    pub figures: Option<NodeFigures>,
    /// How far its clock is ahead.
    pub clock_skew: Option<SignedDuration>,
}

/// How long before its end a certificate of such a life is overdue for renewal, which comes after two thirds of it: three days, or
/// a tenth of the life where that is less.
#[must_use]
pub fn renewal_margin(life: SignedDuration) -> SignedDuration {
    (life / 10).min(SignedDuration::from_hours(3 * 24))
}

/// What there is to look at, the worst first.
#[must_use]
pub fn of(facts: &Facts, now: Timestamp) -> Vec<Trouble> {
    let mut found = Vec::new();
    let left = facts.certificate_end.map(|end| end.duration_since(now));
    if let (Some(end), Some(left)) = (facts.certificate_end, left.filter(|left| *left < facts.margin)) {
        let verb = if left.is_positive() { "ends" } else { "ended" };
        let message = format!("its certificate {verb} {}", end.strftime("%F %T UTC"));
        found.push(Trouble { kind: Kind::CertificateExpiring, message });
    }
    if let Some(per_cent) = facts.figures.and_then(|figures| figures.disk_use()).filter(|used| *used >= MAX_DISK_USE) {
        let message = format!("its disk is {per_cent} % full");
        found.push(Trouble { kind: Kind::DiskNearlyFull, message });
    }
    if let Some(skew) = facts.clock_skew.filter(|skew| skew.abs() > MAX_CLOCK_SKEW) {
        let message = format!("its clock is {}", said(skew));
        found.push(Trouble { kind: Kind::ClockSkew, message });
    }
    found
}

/// A difference of clocks in words, from the one that is `ahead` by so much.
fn said(ahead: SignedDuration) -> String {
    let way = if ahead.is_negative() { "behind" } else { "ahead of" };
    format!("{} s {way} the server's", ahead.abs().as_secs())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn each_trouble_has_its_limit_and_its_words() {
        let disk = |free| Some(NodeFigures { disk_total: 100, disk_free: free, ..NodeFigures::default() });
        let margin = SignedDuration::from_secs(30);
        let quiet = Facts { margin, ..Facts::default() };
        let cases = [
            (quiet, vec![]),
            (
                Facts { clock_skew: Some(MAX_CLOCK_SKEW), certificate_end: Some(at(130)), figures: disk(11), ..quiet },
                vec![],
            ),
            (Facts { figures: Some(NodeFigures::default()), ..quiet }, vec![]),
            (Facts { figures: disk(10), ..quiet }, vec![(Kind::DiskNearlyFull, "its disk is 90 % full")]),
            (
                Facts { clock_skew: Some(SignedDuration::from_millis(5001)), ..quiet },
                vec![(Kind::ClockSkew, "its clock is 5 s ahead of the server's")],
            ),
            (
                Facts { clock_skew: Some(SignedDuration::from_secs(-3600)), ..quiet },
                vec![(Kind::ClockSkew, "its clock is 3600 s behind the server's")],
            ),
            (
                Facts { certificate_end: Some(at(129)), ..quiet },
                vec![(Kind::CertificateExpiring, "its certificate ends 1970-01-01 00:02:09 UTC")],
            ),
            (
                Facts {
                    certificate_end: Some(at(100)),
                    figures: disk(0),
                    clock_skew: Some(SignedDuration::from_secs(6)),
                    ..quiet
                },
                vec![
                    (Kind::CertificateExpiring, "its certificate ended 1970-01-01 00:01:40 UTC"),
                    (Kind::DiskNearlyFull, "its disk is 100 % full"),
                    (Kind::ClockSkew, "its clock is 6 s ahead of the server's"),
                ],
            ),
        ];
        for (facts, expected) in cases {
            let found = of(&facts, at(100));
            let found: Vec<_> = found.iter().map(|trouble| (trouble.kind, trouble.message.as_str())).collect();
            assert_eq!(found, expected, "{facts:?}");
            assert!(found.is_sorted());
        }
    }

    #[test]
    fn a_short_life_has_a_short_margin() {
        let hours = SignedDuration::from_hours;
        assert_eq!(renewal_margin(hours(30 * 24)), hours(3 * 24));
        assert_eq!(renewal_margin(hours(365 * 24)), hours(3 * 24));
        assert_eq!(renewal_margin(hours(10)), hours(1));
    }
}
