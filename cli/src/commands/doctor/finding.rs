//! What the doctor found, and how it is shown.

use crate::exit::Exit;
use crate::json::Json;
use crate::text;

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// As it should be.
    Fine,
    /// It works, but not for long, not for all, or not as well as it should.
    Degraded,
    /// It does not work.
    Broken,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// What was looked at.
    pub(super) check: &'static str,
    /// How well it is.
    pub(super) verdict: Verdict,
    /// What was found, in one line.
    pub(super) found: String,
    /// What mends it; empty where nothing needs to be mended.
    pub(super) hint: String,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Fine => "FINE",
            Self::Degraded => "DEGRADED",
            Self::Broken => "BROKEN",
        }
    }

    fn mark(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Degraded => "!",
            Self::Broken => "FAILED",
        }
    }
}

impl From<Verdict> for Exit {
    /// 0, 1 and 2: the worst that was found.
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Fine => Self::Ok,
            Verdict::Degraded => Self::Error,
            Verdict::Broken => Self::Usage,
        }
    }
}

impl Finding {
    /// All is well.
    pub(super) fn fine(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fine, found: found.into(), hint: String::new() }
    }

    /// It could be better, by doing what the hint says.
    pub(super) fn degraded(check: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Degraded, found: found.into(), hint: hint.into() }
    }

    /// It does not work until what the hint says is done.
    pub(super) fn broken(check: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Broken, found: found.into(), hint: hint.into() }
    }
}

/// The worst of all; fine where nothing was looked at.
pub(super) fn worst(findings: &[Finding]) -> Verdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Fine)
}

/// A table, with each hint below what it mends.
pub(super) fn table(findings: &[Finding]) -> String {
    let rows = findings.iter().flat_map(|finding| {
        let row = [finding.verdict.mark().to_owned(), finding.check.to_owned(), finding.found.clone()];
        let hint = [String::new(), String::new(), format!("-> {}", finding.hint)];
        [Some(row), (!finding.hint.is_empty()).then_some(hint)].into_iter().flatten()
    });
    text::table(["", "CHECK", "FOUND"], rows)
}

/// One object.
pub(super) fn json(findings: &[Finding]) -> Json {
    let text = |name: &str, value: &str| (name.to_owned(), Json::Text(value.to_owned()));
    let checks = findings.iter().map(|finding| {
        Json::Object(vec![
            text("check", finding.check),
            text("verdict", finding.verdict.word()),
            text("found", &finding.found),
            text("hint", &finding.hint),
        ])
    });
    Json::Object(vec![text("verdict", worst(findings).word()), ("checks".to_owned(), Json::List(checks.collect()))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts_and_hints_stand_below() {
        let findings = [
            Finding::fine("server", "serving"),
            Finding::degraded("clock", "2 m behind", "Set the clock."),
            Finding::broken("health", "not serving", "Read its log."),
        ];
        assert_eq!(worst(&findings), Verdict::Broken);
        assert_eq!(Exit::from(worst(&findings[..2])) as u8, 1);
        assert_eq!(Exit::from(worst(&findings)) as u8, 2);
        assert_eq!(Exit::from(worst(&[])) as u8, 0);
        let expected = "        CHECK   FOUND
ok      server  serving
!       clock   2 m behind
                -> Set the clock.
FAILED  health  not serving
                -> Read its log.";
        assert_eq!(table(&findings), expected);
        let json = serde_json::to_string(&json(&findings[1..2])).unwrap_or_default();
        let expected = concat!(
            r#"{"verdict":"DEGRADED","checks":[{"check":"clock","verdict":"DEGRADED","#,
            r#""found":"2 m behind","hint":"Set the clock."}]}"#,
        );
        assert_eq!(json, expected);
    }
}
