//! What a container executes: the spec's command and args against the image's ENTRYPOINT and CMD.

/// Neither the spec nor the image says what to execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither the spec nor the image says what to execute; give a command")]
pub struct NothingToRun;

/// The words to execute.
///
/// | spec | executed |
/// |---|---|
/// | neither | ENTRYPOINT + CMD |
/// | args only | ENTRYPOINT + args |
/// | command only | command |
/// | both | command + args |
///
/// A command drops CMD too: those are arguments for the entry point that it replaces.
///
/// # Errors
///
/// There is no first word, or it is empty.
pub fn argv(
    command: &[String],
    args: &[String],
    entrypoint: &[String],
    cmd: &[String],
) -> Result<Vec<String>, NothingToRun> {
    let (program, rest) = match (command.is_empty(), args.is_empty()) {
        (false, _) => (command, args),
        (true, false) => (entrypoint, args),
        (true, true) => (entrypoint, cmd),
    };
    let words: Vec<String> = program.iter().chain(rest).cloned().collect();
    match words.first() {
        Some(first) if !first.is_empty() => Ok(words),
        _ => Err(NothingToRun),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    fn run(command: &str, args: &str, entrypoint: &str, cmd: &str) -> Result<String, NothingToRun> {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        argv(&words(command), &words(args), &words(entrypoint), &words(cmd)).map(|words| words.join(" "))
    }

    #[test]
    fn the_four_rows() {
        assert_eq!(run("", "", "/entry point", "default").unwrap(), "/entry point default");
        assert_eq!(run("", "mine", "/entry point", "default").unwrap(), "/entry point mine");
        assert_eq!(run("/other", "", "/entry point", "default").unwrap(), "/other");
        assert_eq!(run("/other", "mine", "/entry point", "default").unwrap(), "/other mine");
    }

    #[test]
    fn an_image_without_an_entry_point_runs_its_cmd_or_the_args() {
        assert_eq!(run("", "", "", "/default x").unwrap(), "/default x");
        assert_eq!(run("", "/mine", "", "/default x").unwrap(), "/mine");
    }

    #[test]
    fn nothing_to_run_is_an_error() {
        assert_eq!(run("", "", "", ""), Err(NothingToRun));
        assert_eq!(argv(&[String::new()], &[], &[], &[]), Err(NothingToRun));
    }
}
