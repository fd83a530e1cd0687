//! Shell completion and manual pages, made from a program's own command line, so that they cannot say anything else.

use std::io;
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

/// Arguments of `completion`.
#[derive(Clone, Debug, Args)]
pub struct Completion {
    /// The shell.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Arguments of `man`.
#[derive(Clone, Debug, Args)]
pub struct Manual {
    /// Directory to write them into; made where it is not there.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

impl Completion {
    /// The script that lets the shell complete the words of `command`.
    #[must_use]
    pub fn script(&self, mut command: Command) -> Vec<u8> {
        let name = command.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        script
    }
}

impl Manual {
    /// Writes a page for `command` and one for each of its commands that is not hidden.
    ///
    /// # Errors
    ///
    /// The directory cannot be made, or a page not written.
    pub fn write(&self, command: Command) -> io::Result<()> {
        std::fs::create_dir_all(&self.out)?;
        // Without the command `help`, whose pages would say everything a second time.
        clap_mangen::generate_to(command.disable_help_subcommand(true), &self.out)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use clap::Arg;

    use super::*;

    fn command() -> Command {
        Command::new("ship")
            .about("Sails.")
            .subcommand(Command::new("anchor").about("Stays.").arg(Arg::new("depth").long("depth")))
            .subcommand(Command::new("secret").hide(true))
    }

    #[test]
    fn every_shell_learns_commands_and_flags() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(Completion { shell }.script(command())).unwrap();
            assert!(script.contains("anchor") && script.contains("depth"), "{shell}: {script}");
        }
    }

    #[test]
    fn every_command_that_is_not_hidden_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("man1");
        Manual { out: out.clone() }.write(command()).unwrap();
        let mut pages: Vec<_> = std::fs::read_dir(&out).unwrap().map(|page| page.unwrap().file_name()).collect();
        pages.sort();
        assert_eq!(pages, ["ship-anchor.1", "ship.1"]);
        assert!(std::fs::read_to_string(out.join("ship-anchor.1")).unwrap().contains("\\-\\-depth"));
    }
}
