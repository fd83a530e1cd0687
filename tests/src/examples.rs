//! Examples in documents, run as they stand.
//!
//! A fenced block of `sh` is run, one of `python NAME` or `js NAME` becomes a file of that name, and one of `text` holds
//! lines that the block before it must print, in this order; `…` in such a line stands for anything.

use std::path::Path;
use std::process::{Command, Stdio};

/// What stands for anything in an expected line.
const ANYTHING: char = '…';
/// Printed between two blocks, to tell their outputs apart.
const MARK: &str = "=== end of the block ===";

/// The examples of one section of a document.
#[derive(Clone, Debug, Default)]
pub struct Examples {
    /// Commands, each with the lines that it must print.
    blocks: Vec<(String, Vec<String>)>,
    /// Names and contents.
    files: Vec<(String, String)>,
}

impl Examples {
    /// Those under the heading `## section`.
    pub fn of(document: &str, section: &str) -> Self {
        let heading = format!("## {section}");
        let lines = document.lines().skip_while(|line| *line != heading).skip(1);
        let mut lines = lines.take_while(|line| !line.starts_with("## "));
        let mut found = Self::default();
        while let Some(line) = lines.next() {
            let Some(kind) = line.strip_prefix("```") else { continue };
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            match kind.split_once(' ').unwrap_or((kind, "")) {
                ("sh", "") => found.blocks.push((text.join("\n"), Vec::new())),
                ("python" | "js", name) if !name.is_empty() => found.files.push((name.to_owned(), text.join("\n"))),
                ("text", "") => {
                    let (_, expected) = found.blocks.last_mut().expect("an output comes after its command");
                    expected.extend(text.into_iter().map(str::to_owned));
                }
                _ => panic!("a block of {kind:?} is no example"),
            }
        }
        assert!(!found.blocks.is_empty(), "there is nothing to run under {heading:?}");
        found
    }

    /// Runs them all in one shell, in this directory, and holds what each prints against what it should.
    ///
    /// # Panics
    ///
    /// One fails, or does not print what it should.
    pub fn run(&self, directory: &Path, prepare: impl FnOnce(&mut Command)) {
        for (name, text) in &self.files {
            std::fs::write(directory.join(name), text).unwrap();
        }
        let script: Vec<String> = self.blocks.iter().map(|(block, _)| format!("{block}\necho '{MARK}'\n")).collect();
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &format!("exec 2>&1\n{}", script.concat())]);
        prepare(command.current_dir(directory).stdin(Stdio::null()));
        let output = command.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        let mut parts = printed.split(MARK);
        for (block, expected) in &self.blocks {
            let part = parts.next().unwrap_or_default();
            if let Some(missing) = missing(part, expected) {
                panic!("{block}\n\nshould print {missing:?} and printed\n\n{part}");
            }
        }
        assert!(output.status.success(), "{printed}");
    }
}

/// The first expected line that does not come after those before it.
fn missing<'a>(printed: &str, expected: &'a [String]) -> Option<&'a str> {
    let mut lines = printed.lines();
    expected.iter().find(|wanted| !lines.any(|line| matches(line, wanted))).map(String::as_str)
}

/// The lines of all blocks of `text` in a document.
pub fn expected_lines(document: &str) -> Vec<&str> {
    let mut lines = document.lines();
    let mut expected = Vec::new();
    while let Some(line) = lines.next() {
        if line == "```text" {
            expected.extend(lines.by_ref().take_while(|line| *line != "```"));
        }
    }
    expected
}

/// Where what was printed is not, line by line, what was expected: all of it and nothing else.
pub fn first_difference(printed: &[String], expected: &[&str]) -> Option<String> {
    let lines = printed.len().max(expected.len());
    (0..lines).find_map(|at| match (printed.get(at), expected.get(at)) {
        (Some(line), Some(wanted)) if matches(line, wanted) => None,
        (line, wanted) => Some(format!("line {}: expected {wanted:?}, found {line:?}", at + 1)),
    })
}

fn matches(line: &str, wanted: &str) -> bool {
    let mut fragments = wanted.split(ANYTHING);
    let first = fragments.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut last = "";
    for fragment in fragments {
        let Some(at) = rest.find(fragment) else { return false };
        rest = &rest[at + fragment.len()..];
        last = fragment;
    }
    rest.is_empty() || (wanted.contains(ANYTHING) && (last.is_empty() || line.ends_with(last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expected_line_stands_for_itself_and_its_gaps_for_anything() {
        for (line, wanted) in
            [("a b", "a b"), ("a b c", "a … c"), ("a b", "a…"), ("b a", "…a"), ("aa", "…a"), ("", "…")]
        {
            assert!(matches(line, wanted), "{line:?} {wanted:?}");
        }
        for (line, wanted) in [("a b", "a"), ("a b", "b"), ("a b c", "a … d"), ("a b c", "a … b"), ("b a", "a…")]
        {
            assert!(!matches(line, wanted), "{line:?} {wanted:?}");
        }
    }

    #[test]
    fn expected_lines_come_in_their_order() {
        let expected = ["a".to_owned(), "b".to_owned()];
        assert_eq!(missing("a\nx\nb\n", &expected), None);
        assert_eq!(missing("b\na\n", &expected), Some("b"));
    }

    #[test]
    fn a_section_ends_with_the_next_one() {
        let document =
            "## One\n```sh\necho 1\n```\n```text\n1\n```\n```python f.py\nx\n```\n## Two\n```sh\nexit 1\n```\n";
        let found = Examples::of(document, "One");
        assert_eq!(found.blocks, [("echo 1".to_owned(), vec!["1".to_owned()])]);
        assert_eq!(found.files, [("f.py".to_owned(), "x".to_owned())]);
    }

    #[test]
    fn what_is_missing_or_too_much_is_a_difference() {
        let document = "a\n```text\na\nb …\n```\n```sh\nc\n```\n```text\nd\n```\n";
        let expected = expected_lines(document);
        assert_eq!(expected, ["a", "b …", "d"]);
        let difference = |lines: &[&str]| {
            first_difference(&lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>(), &expected)
        };
        assert_eq!(difference(&["a", "b c", "d"]), None);
        for wrong in [&["a", "b c"][..], &["a", "b c", "d", "e"], &["b c", "a", "d"], &[]] {
            assert!(difference(wrong).is_some(), "{wrong:?}");
        }
    }
}
