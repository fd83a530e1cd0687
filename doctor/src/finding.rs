//! What a doctor found, and how it is shown.

use serde::Serialize;

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// As it should be.
    Fine,
    /// It works, but not for long, not for all, or not as well as it should.
    Degraded,
    /// It does not work.
    Broken,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How well it is.
    pub verdict: Verdict,
    /// What was found, in one line.
    pub found: String,
    /// What mends it; empty where nothing needs to be mended.
    pub hint: String,
}

/// Everything that was found, for programs.
#[derive(Clone, Debug, Serialize)]
pub struct Report<'a> {
    /// The worst of it.
    pub verdict: Verdict,
    /// What was looked at, in this order.
    pub checks: &'a [Finding],
}

impl Verdict {
    /// The word for programs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Fine => "FINE",
            Self::Degraded => "DEGRADED",
            Self::Broken => "BROKEN",
        }
    }

    /// The exit code of a doctor that found nothing worse.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Degraded => 1,
            Self::Broken => 2,
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

impl Finding {
    /// All is well.
    pub fn fine(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fine, found: found.into(), hint: String::new() }
    }

    /// It could be better, by doing what the hint says.
    pub fn degraded(check: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Degraded, found: found.into(), hint: hint.into() }
    }

    /// It does not work until what the hint says is done.
    pub fn broken(check: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Broken, found: found.into(), hint: hint.into() }
    }
}

/// The worst of all; fine where nothing was looked at.
#[must_use]
pub fn worst(findings: &[Finding]) -> Verdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Fine)
}

impl<'a> Report<'a> {
    /// Of these findings.
    #[must_use]
    pub fn of(checks: &'a [Finding]) -> Self {
        Self { verdict: worst(checks), checks }
    }
}

/// A table for people, with each hint below what it mends; no line feed at the end.
#[must_use]
pub fn table(findings: &[Finding]) -> String {
    let marks = findings.iter().map(|finding| finding.verdict.mark().len()).max().unwrap_or(0);
    let checks = findings.iter().map(|finding| finding.check.len()).chain(["CHECK".len()]).max().unwrap_or(0);
    let line = |mark: &str, check: &str, rest: &str| {
        let rest: String = rest.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        format!("{mark:marks$}  {check:checks$}  {rest}").trim_end().to_owned()
    };
    let mut lines = vec![line("", "CHECK", "FOUND")];
    for finding in findings {
        lines.push(line(finding.verdict.mark(), finding.check, &finding.found));
        if !finding.hint.is_empty() {
            lines.push(line("", "", &format!("-> {}", finding.hint)));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts_and_hints_stand_below() {
        let findings = [
            Finding::fine("server", "serving"),
            Finding::degraded("clock", "2 m behind", "Set the clock."),
            Finding::broken("health", "not\nserving", "Read its log."),
        ];
        assert_eq!(worst(&findings), Verdict::Broken);
        assert_eq!(worst(&findings[..2]).exit_code(), 1);
        assert_eq!(worst(&findings).exit_code(), 2);
        assert_eq!(worst(&[]).exit_code(), 0);
        let expected = "        CHECK   FOUND
ok      server  serving
!       clock   2 m behind
                -> Set the clock.
FAILED  health  not serving
                -> Read its log.";
        assert_eq!(table(&findings), expected);
        let json = serde_json::to_string(&Report::of(&findings[1..2])).unwrap_or_default();
        let expected = concat!(
            r#"{"verdict":"DEGRADED","checks":[{"check":"clock","verdict":"DEGRADED","#,
            r#""found":"2 m behind","hint":"Set the clock."}]}"#,
        );
        assert_eq!(json, expected);
        assert!(findings.iter().all(|finding| format!("\"{}\"", finding.verdict.word())
            == serde_json::to_string(&finding.verdict).unwrap_or_default()));
    }
}
